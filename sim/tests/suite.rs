//! Suites: what a user's one call finds, tells and replays.

mod doors;
#[path = "../examples/buckets/provisioner.rs"]
mod provisioner;

use std::process::{Command, Output};

use doors::{Doors, OneDoor, careful, careless};
use steadfast_sim::cast::Cast;
use steadfast_sim::suite::{Broken, JUNIT, PLAN, Suite, SuiteError};

// As in docs/simulation.md:
#[test]
fn never_two_doors_open() {
    let cast = Cast::new().program("keeper", careful).model(Doors::default).rule(|| OneDoor);
    Suite::new("doors", cast).run();
}

#[test]
fn the_example_of_the_documentation_is_the_one_that_is_tested() {
    let (source, docs) = (include_str!("suite.rs"), include_str!("../../docs/simulation.md"));
    let (_, rest) = source.split_once("// As in docs/simulation.md:\n").unwrap();
    let (example, _) = rest.split_once("\n\n").unwrap();
    assert!(docs.contains(example), "{example}");
    assert!(example.lines().count() <= 10);
}

fn careless_doors() -> Suite {
    Suite::new("doors", Cast::new().program("keeper", careless).model(Doors::default).rule(|| OneDoor))
}

fn careful_doors() -> Suite {
    Suite::new("doors", Cast::new().program("keeper", careful).model(Doors::default).rule(|| OneDoor))
}

/// What a search finds that has to find one thing.
fn found(suite: &Suite) -> Broken {
    match suite.search() {
        Err(SuiteError::Broken(mut broken)) if broken.len() == 1 => broken.remove(0),
        other => panic!("{other:?}"),
    }
}

fn useless(result: Result<impl std::fmt::Debug, SuiteError>) -> String {
    match result {
        Err(SuiteError::Useless(why)) => why,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_bug_is_found_made_small_and_replayed_until_it_is_mended() {
    let broken = found(&careless_doors());
    assert_eq!(broken.rule, "one-door");
    assert_eq!(broken.plan.case.faults.len(), 1, "{broken:?}");
    assert!(broken.plan.case.change.is_none(), "{broken:?}");
    assert!(broken.story.contains("doors.open"), "{broken:?}");
    let line = broken.plan.line();
    let Err(SuiteError::Broken(again)) = careless_doors().replay(&line) else { panic!("it is not mended") };
    assert_eq!(again, [broken]);
    careful_doors().replay(&line).unwrap();
}

#[test]
fn the_example_finds_its_bug_and_holds_when_that_is_mended() {
    let broken = found(&Suite::new("buckets", provisioner::cast(false)));
    assert_eq!((broken.rule.as_str(), broken.plan.case.faults.len()), ("one-bucket-each", 1), "{broken:?}");
    let summary = Suite::new("buckets", provisioner::cast(true)).search().unwrap();
    assert!(summary.enumerated > 20 && summary.random == 64, "{summary:?}");
}

#[test]
fn a_plan_that_tests_nothing_says_so() {
    let plan = found(&careless_doors()).plan;
    let other = Suite::new("windows", Cast::new());
    assert!(useless(other.replay(&plan.line())).contains("own:doors"));
    assert!(useless(careless_doors().replay("plan:e30")).contains("no format"));
    assert!(useless(careless_doors().replay("nowhere.json")).contains("cannot read"));
    let mut stale = plan;
    for planned in &mut stale.case.faults {
        planned.at.operation = "doors.paint".to_owned();
    }
    let told = useless(careful_doors().replay(&stale.line()));
    assert!(told.contains("doors.paint") && told.contains("stale"), "{told}");
}

#[test]
fn a_suite_in_which_nobody_calls_anything_fails() {
    let idle = Cast::new().program("idle", |seat| async move {
        seat.env().clock().sleep(std::time::Duration::from_secs(1)).await;
    });
    assert!(useless(Suite::new("idle", idle).search()).contains("nobody makes a call"));
}

/// Set in the process that fails on purpose, as a user's test would.
const ON_PURPOSE: &str = "STEADFAST_SIM_TEST_FAILS";

fn this_test(name: &str, settings: &[(&str, &str)]) -> Output {
    let mut command = Command::new(std::env::current_exe().expect("a test is a program"));
    command.args(["--exact", name, "--nocapture"]).env_remove(PLAN).env_remove(JUNIT);
    command.envs(settings.iter().copied());
    command.output().expect("a test can be started")
}

#[test]
fn a_failure_ends_with_the_command_that_replays_it_and_is_written_for_machines() {
    if std::env::var_os(ON_PURPOSE).is_some() {
        careless_doors().run();
    }
    let this = "a_failure_ends_with_the_command_that_replays_it_and_is_written_for_machines";
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("found.xml");
    let failed = this_test(this, &[(ON_PURPOSE, "1"), (JUNIT, file.to_str().unwrap())]);
    assert!(!failed.status.success());
    let told = String::from_utf8_lossy(&failed.stderr).into_owned();
    let command =
        told.lines().find_map(|line| line.strip_prefix("replay: ")).unwrap_or_else(|| panic!("{told}"));
    let plan = command.strip_prefix("STEADFAST_SIM_PLAN=").and_then(|rest| rest.split(' ').next()).unwrap();
    assert!(command.contains("cargo test"), "{command}");
    let xml = std::fs::read_to_string(&file).unwrap();
    assert!(xml.contains("failures=\"1\"") && xml.contains("one-door") && xml.contains(plan), "{xml}");

    let again = this_test(this, &[(ON_PURPOSE, "1"), (PLAN, plan)]);
    assert!(!again.status.success());
    assert!(String::from_utf8_lossy(&again.stderr).contains("one-door is broken: both doors are open"));
    let mended = this_test("never_two_doors_open", &[(PLAN, plan), (JUNIT, folder.path().to_str().unwrap())]);
    assert!(mended.status.success(), "{}", String::from_utf8_lossy(&mended.stderr));
    let xml = std::fs::read_to_string(folder.path().join("doors.xml")).unwrap();
    assert!(xml.contains("failures=\"0\""), "{xml}");
}
