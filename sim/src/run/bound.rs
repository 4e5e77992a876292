//! How long it may take until everything is as it is wanted, once nothing goes wrong any more: derived from what the
//! scenario's parts take at most, and never a guess.

use std::time::Duration;

use steadfast_core::controller::ORPHAN_GRACE;

use super::scenario::Scenario;
use crate::fault::{Class, Fault};

/// How long a primary may be gone before another member is promoted, unless a service says otherwise.
const PROMOTE_AFTER: Duration = Duration::from_secs(30);
/// How long an agent waits for an engine to change its role before it tries again.
const ROLE_PATIENCE: Duration = Duration::from_secs(60);
/// The most calls that one member's move waits for, one after another, retries included.
const CALLS_OF_A_MOVE: u64 = 60;

/// The bound, in milliseconds: what the scenario says, or else what follows from it.
pub(super) fn of(scenario: &Scenario) -> u64 {
    match scenario.heal.within_ms {
        0 => timers(scenario) + moves(scenario) + clients(scenario) + residue(scenario),
        within => within,
    }
}

/// Every timer that may run once in full, one after another: the loss is noticed, somebody takes the work over, a
/// restart waits its delay, a role is tried twice, what nobody owns is cleared up.
fn timers(scenario: &Scenario) -> u64 {
    let (agent, controller) = (scenario.pace.agent(), scenario.pace.server());
    let all = agent.lease
        + agent.resync
        + agent.liveness
        + agent.guard_silence
        + agent.longest_delay
        + controller.lease
        + controller.resync
        + PROMOTE_AFTER
        + ROLE_PATIENCE
        + ORPHAN_GRACE;
    millis(all) + scenario.profile.lease_margin_ms.unwrap_or(0) + scenario.restart_ms
}

/// Every member moves, one after another, as slowly as its backends ever are.
fn moves(scenario: &Scenario) -> u64 {
    let profile = &scenario.profile;
    let engines = &profile.engines;
    let proof = match profile.prover {
        crate::model::profile::ProverKind::Cloud(after) => after,
        _ => 0,
    };
    let data = engines.initialise_ms.1.max(engines.copy_ms.1) + engines.reconcile_ms.1;
    let volume = profile.volumes.detach_ms.1 + profile.volumes.attach_ms.1 + profile.address_ms.1;
    let engine = engines.stop_ms.1 + engines.start_ms.1 + engines.elect_ms.1;
    let calls = CALLS_OF_A_MOVE * 2 * (profile.call_ms.1 + 1);
    let members: u64 = scenario.services.iter().map(|file| u64::from(scenario.most_replicas_of(file))).sum();
    proof + members * (data + volume + engine + calls)
}

/// Until clients have heard of it.
fn clients(scenario: &Scenario) -> u64 {
    let cached = scenario.clients.cache_ms.unwrap_or(0).max(scenario.profile.ttl_ms);
    scenario.profile.name_ms.1 + cached + 2 * (scenario.clients.every_ms + scenario.clients.patience_ms)
}

/// What a fault has left behind that shows only later: an effect that is still on its way.
fn residue(scenario: &Scenario) -> u64 {
    let length = |fault: Fault| match fault {
        Fault::LateEffect(by) | Fault::Duplicate(by) | Fault::Slow(by) | Fault::Pause(by) => by,
        _ => 0,
    };
    let random = scenario.plan.random.iter().flat_map(|random| &random.classes);
    let longest = |class: &Class| (0..4).map(|draw| length(class.fault(draw))).max().unwrap_or(0);
    let planned = scenario.plan.faults.iter().map(|planned| length(planned.fault));
    planned.chain(random.map(longest)).max().unwrap_or(0)
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
