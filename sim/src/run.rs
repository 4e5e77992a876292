//! A run: a scenario, carried out and judged.

mod bound;
mod clients;
mod declared;
mod ending;
mod fleet;
mod heal;
mod outcome;
mod pace;
mod scenario;
mod script;
mod trouble;

use std::sync::Arc;

use steadfast_core::ids::NodeName;

use crate::cast::Cast;
use crate::env::MachineClock;
use crate::fault::Parting;
use crate::invariant::Judge;
use crate::model::Fact;
use crate::time::Time;
use crate::world::World;

pub use clients::{client_of, first_write};
pub use ending::Ending;
pub use fleet::Fleet;
pub use outcome::{Outcome, Timings, Violation};
pub use pace::Pace;
pub use scenario::{Clients, HealPhase, Scenario, ServiceFile};
pub use script::{Action, Scripted, Target, Triggered};

/// Carries out a scenario under the built-in rules.
///
/// # Errors
/// If a name in it is not valid.
pub fn run(scenario: &Scenario) -> Result<Outcome, String> {
    run_with(scenario, &Cast::new())
}

/// Carries out a scenario with whoever takes part beside what ships, under the built-in rules and theirs.
///
/// # Errors
/// If a name in it is not valid, or bugs are planted that this build does not have.
pub fn run_with(scenario: &Scenario, cast: &Cast) -> Result<Outcome, String> {
    run_parting(scenario, cast, None)
}

/// Carries out a scenario that may part into several on its way.
pub(crate) fn run_parting(
    scenario: &Scenario,
    cast: &Cast,
    parting: Option<Parting>,
) -> Result<Outcome, String> {
    let _planting = crate::planted::plant(&scenario.planted)?;
    let world = World::new(scenario.profile.clone(), scenario.seed, &scenario.plan);
    world.exec().set_schedule(scenario.schedule);
    if let Some(parting) = parting {
        world.direct(|state, _| state.faults.part(parting));
    }
    world.act(|cloud, _| cloud.own = cast.make_models());
    let fleet = Fleet::new(world.clone(), scenario, cast)?;
    let mut judge = Judge::new(scenario, cast.make_rules());
    set_up(&world, &fleet, scenario)?;
    script::schedule(&fleet, scenario);
    let storm_ends = Time::from_millis(scenario.storm_ms);
    let mut timings = Timings::default();
    advance(&world, &mut judge, scenario, storm_ends);
    world.direct(|state, now| {
        let told = format!("the storm is over after {}", now);
        state.cloud.truth.note(now, Fact::Scripted { text: told });
    });
    if judge.goes_on(scenario) {
        // What its faults leave behind takes time.
        let parted = world.look(|state| state.faults.parted().cloned());
        let scenario = &*scenario.with_fault(parted);
        heal::heal(&fleet, scenario);
        heal::settle(&fleet, &mut judge, scenario, &mut timings);
    }
    world.look(|state| judge.at_end(world.now(), state));
    let outcome = Outcome::of(&world, judge, timings);
    // A process that has parted ends with its run.
    if world.look(|state| state.faults.parted().is_none()) {
        fleet.end();
        world.end();
    }
    Ok(outcome)
}

fn set_up(world: &World, fleet: &Arc<Fleet>, scenario: &Scenario) -> Result<(), String> {
    for index in 0..scenario.nodes {
        let node: NodeName = scenario.node(index)?;
        let zone = scenario.zone_of(index)?;
        let skew = scenario.clocks.get(node.as_str()).copied().unwrap_or_default();
        let clock = MachineClock::new(world.exec().clone(), skew);
        world.act(|cloud, now| cloud.add_host(now, &node, zone, clock));
    }
    let zone = fleet.zone().clone();
    world.act(|cloud, _| cloud.dns.ensure_zone(&zone));
    for index in 0..scenario.servers {
        fleet.start_server(index);
    }
    for index in 0..scenario.nodes {
        fleet.start_agent(&scenario.node(index)?);
    }
    fleet.start_programs();
    for service in &scenario.services {
        fleet.apply(service);
        clients::start(fleet, scenario, service)?;
    }
    Ok(())
}

/// Lets time pass, every fact being judged as it comes.
fn advance(world: &World, judge: &mut Judge, scenario: &Scenario, until: Time) {
    if !judge.goes_on(scenario) {
        return;
    }
    world.exec().run(until, || {
        world.look(|state| judge.look(state));
        judge.goes_on(scenario)
    });
}
