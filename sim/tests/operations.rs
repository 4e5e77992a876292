//! What users ask, and services that lead themselves.

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test fails by panicking, and tells its story"
)]

use steadfast_sim::model::{Fact, Profile};
use steadfast_sim::run::{Action, Outcome, Scenario, Target, run};

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
