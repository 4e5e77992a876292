//! What users ask, and services that lead themselves.

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test fails by panicking, and tells its story"
)]

use steadfast_sim::fault::{Fault, Planned};
use steadfast_sim::model::{Fact, Profile};
use steadfast_sim::run::{Action, Outcome, Scenario, Target, run};
use steadfast_sim::search::Case;

fn told(scenario: &Scenario) -> Outcome {
    let outcome = run(scenario).unwrap();
    println!("{}\n{:?} {:?}", outcome.story(), outcome.timings, outcome.writes);
    outcome
}

fn ask(operation: &str) -> Action {
    Action::Ask(operation.to_owned(), "orders".to_owned())
}

#[test]
fn a_stopped_service_starts_again_with_its_data() {
    let mut scenario = Scenario::calm("stop and start", Profile::embedded(), 1)
        .at(30_000, ask("stop"))
        .at(60_000, ask("start"));
    scenario.storm_ms = 100_000;
    let outcome = told(&scenario);
    assert_eq!(outcome.violations, []);
    let made = outcome.facts.iter().filter(|(_, fact)| matches!(fact, Fact::DataMade { .. })).count();
    assert_eq!(made, 3);
}

#[test]
fn a_restart_in_turn_loses_nothing_even_if_the_server_crashes_during_it() {
    let mut scenario = Scenario::calm("restart", Profile::embedded(), 1)
        .at(30_000, ask("restart"))
        .at(31_000, Action::CrashServer(0));
    scenario.storm_ms = 150_000;
    let outcome = told(&scenario);
    assert_eq!(outcome.violations, []);
    let starts = outcome.facts.iter().filter(|(_, fact)| matches!(fact, Fact::EngineStarted { .. })).count();
    assert_eq!(starts, 6, "each member was started twice");
}

#[test]
fn a_deleted_service_runs_nowhere_and_leaves_nothing_that_nobody_knows_of() {
    let mut scenario = Scenario::calm("delete", Profile::block_storage(), 1).at(60_000, ask("delete"));
    scenario.storm_ms = 120_000;
    assert_eq!(told(&scenario).violations, []);
}

#[test]
fn a_quorum_goes_on_without_one_of_its_members() {
    for profile in [Profile::embedded(), Profile::block_storage()] {
        let mut scenario = Scenario::calm("quorum", profile, 1)
            .at(60_000, Action::StopNode(Target::HolderOf("orders-1".to_owned())));
        scenario.services[0].blueprint = "quorum".to_owned();
        scenario.storm_ms = 120_000;
        let outcome = told(&scenario);
        assert_eq!(outcome.violations, []);
        assert!(outcome.writes.0 > 40, "{:?}", outcome.writes);
    }
}

fn profiles() -> [Profile; 4] {
    [Profile::embedded(), Profile::block_storage(), Profile::shared_storage(), Profile::leases()]
}

/// The members whose engines were started, in order, from a time on.
fn started(outcome: &Outcome, from_ms: u64) -> Vec<String> {
    let facts = outcome.facts.iter().filter(|(at, _)| at.millis() >= from_ms);
    let starts = facts.filter_map(|(_, fact)| match fact {
        Fact::EngineStarted { member, .. } => Some(member.to_string()),
        _ => None,
    });
    starts.collect()
}

#[test]
fn an_upgrade_restarts_every_member_once_and_the_primary_last() {
    for profile in profiles() {
        let case = Case::new("upgrade", &profile.name, 1);
        let outcome = told(&case.build().unwrap());
        assert_eq!(outcome.violations, [], "{}", profile.name);
        let started = started(&outcome, 30_000);
        let primary = |(_, fact): &&(_, Fact)| matches!(fact, Fact::Leads { leads: true, .. });
        let Some((_, Fact::Leads { member, .. })) = outcome.facts.iter().find(primary) else {
            panic!("nobody leads")
        };
        assert_eq!(started.len(), 3, "{}: {started:?}", profile.name);
        assert_eq!(started.last(), Some(&member.to_string()), "{}: {started:?}", profile.name);
    }
}

#[test]
fn members_come_and_go_and_a_new_one_may_lead() {
    for profile in profiles() {
        let mut scenario = Scenario::calm("scale", profile.clone(), 1)
            .at(30_000, ask("scale to 5"))
            .at(70_000, ask("switchover to orders-4"))
            .at(90_000, ask("scale to 2"));
        scenario.nodes = 5;
        scenario.servers = 2;
        scenario.storm_ms = 130_000;
        let outcome = told(&scenario);
        assert_eq!(outcome.violations, [], "{}", profile.name);
        assert_eq!(
            started(&outcome, 30_000),
            ["orders-3", "orders-4"],
            "{}: nobody else is restarted",
            profile.name
        );
        let led = outcome.facts.iter().any(|(_, fact)| {
            matches!(fact, Fact::Leads { member, leads: true, .. } if member.as_str() == "orders-4")
        });
        assert!(led, "{}", profile.name);
        assert_eq!(outcome.ending.members.len(), 2, "{}", profile.name);
    }
}

/// A member knows its peers from its start on; what they had not got yet it has to learn later.
#[test]
fn a_member_follows_one_that_had_no_address_when_it_was_started() {
    let mut scenario =
        Scenario::calm("late address", Profile::embedded(), 1).at(40_000, ask("switchover to orders-2"));
    scenario.storm_ms = 80_000;
    let calm = run(&scenario).unwrap();
    let allocate = calm.sites.iter().find(|site| site.operation == "ip.allocate").unwrap();
    // The third is orders-2's.
    scenario.plan.faults =
        (2..8).map(|nth| Planned { at: allocate.key(nth), fault: Fault::Unavailable }).collect();
    let outcome = told(&scenario);
    assert!(!outcome.fired.is_empty());
    assert_eq!(outcome.violations, []);
    assert_eq!(outcome.ending.leaders.get("orders"), Some(&1));
}
