//! Faults at named calls: they fire where they are planned, once, and the cluster gets over them.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

use steadfast_sim::fault::{Fault, Plan, Planned};
use steadfast_sim::key::Key;
use steadfast_sim::model::{Fact, Profile};
use steadfast_sim::run::{Action, Outcome, Scenario, Target, run};
use steadfast_sim::search::library;

fn scenario() -> Scenario {
    let mut scenario = Scenario::calm("planned", Profile::shared_storage(), 1)
        .at(40_000, Action::StopNode(Target::Node("node-2".to_owned())));
    scenario.servers = 2;
    scenario.storm_ms = 90_000;
    scenario.heal.stable_ms = 10_000;
    scenario
}

/// The first call of this operation about something whose name holds `about`.
fn key(outcome: &Outcome, operation: &str, about: &str) -> Key {
    let mut sites = outcome.sites.iter();
    sites.find(|site| site.operation == operation && site.resource.contains(about)).unwrap().key(0)
}

#[test]
fn a_fault_at_a_named_call_fires_there_and_is_got_over() {
    let calm = run(&scenario()).unwrap();
    assert_eq!(calm.violations, []);
    let faults = [
        (key(&calm, "volume.begin_attach", "orders-1"), Fault::CrashAfter),
        (key(&calm, "volume.ensure", "orders-1"), Fault::CrashAfter),
        (key(&calm, "guards.start", "orders-1"), Fault::CrashBefore),
        (key(&calm, "ip.assign", ""), Fault::ResponseLost),
        (key(&calm, "registry.upsert", "orders-1"), Fault::LateEffect(12_000)),
        (key(&calm, "metadata.put", "members/orders/orders-1"), Fault::Duplicate(3_000)),
        (key(&calm, "engine.assume", "orders-0"), Fault::Pause(40_000)),
    ];
    for (at, fault) in faults {
        let mut scenario = scenario();
        scenario.plan = Plan { faults: vec![Planned { at: at.clone(), fault }], random: None };
        let outcome = run(&scenario).unwrap();
        assert_eq!(outcome.violations, [], "{fault:?} at {at}");
        assert_eq!((outcome.fired.len(), outcome.unfired), (1, 0), "{fault:?} at {at}");
        assert_ne!(outcome.hash, calm.hash, "{fault:?} at {at} changed nothing");
    }
}

/// One class of faults at one call leads there, which a search at random hardly ever comes by.
#[test]
fn a_start_that_comes_after_its_lease_is_refused() {
    let mut scenario = library::find("lost-primary").unwrap().scenario(Profile::leases(), 5);
    scenario.storm_ms = 120_000;
    let calm = run(&scenario).unwrap();
    let mut starts =
        calm.sites.iter().filter(|site| site.operation == "guards.start" && site.resource == "orders-0");
    let moved = starts.next_back().unwrap();
    scenario.plan.faults.push(Planned { at: moved.key(0), fault: Fault::Pause(40_000) });
    let outcome = run(&scenario).unwrap();
    assert_eq!((&outcome.violations, outcome.unfired), (&Vec::new(), 0));
    let mut refused = outcome.facts.iter().filter_map(|(_, fact)| match fact {
        Fact::NotStarted { member, node, why, .. } => Some((member.as_str(), node.as_str(), *why)),
        _ => None,
    });
    let node = moved.actor.strip_prefix("agent@").unwrap();
    assert_eq!(refused.next(), Some(("orders-0", node, "its lease has ended")));
}

#[test]
fn a_plan_that_names_a_call_nobody_makes_says_so() {
    let at = Key {
        actor: "agent@node-9".to_owned(),
        workflow: "member".to_owned(),
        operation: "volume.begin_attach".to_owned(),
        resource: "orders-1-data".to_owned(),
        nth: 0,
    };
    let mut scenario = Scenario::calm("stale plan", Profile::embedded(), 1);
    scenario.plan = Plan { faults: vec![Planned { at, fault: Fault::Throttled }], random: None };
    let outcome = run(&scenario).unwrap();
    assert_eq!((outcome.fired.len(), outcome.unfired), (0, 1));
}
