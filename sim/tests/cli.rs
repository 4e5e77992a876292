//! The command line, as a process: what it answers to good and to bad input.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

use std::path::Path;
use std::process::{Command, Output};

use steadfast_sim::plan::PlanFile;

const F1: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/plans/f1-pause-past-the-lease.json");

fn sim(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_steadfast-sim")).args(arguments).output().unwrap()
}

fn out(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn err(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

#[track_caller]
fn fails(arguments: &[&str], code: i32, says: &[&str]) {
    let output = sim(arguments);
    let text = out(&output) + &err(&output);
    assert_eq!(output.status.code(), Some(code), "{arguments:?}: {text}");
    for says in says {
        assert!(text.contains(says), "{arguments:?} does not say {says:?}: {text}");
    }
}

fn changed(folder: &Path, name: &str, change: impl Fn(&mut serde_json::Value)) -> String {
    let mut plan: serde_json::Value = serde_json::from_slice(&std::fs::read(F1).unwrap()).unwrap();
    change(&mut plan);
    let path = folder.join(name);
    std::fs::write(&path, plan.to_string()).unwrap();
    path.to_str().unwrap().to_owned()
}

#[test]
fn every_stored_plan_comes_to_what_it_expects() {
    let plans = concat!(env!("CARGO_MANIFEST_DIR"), "/plans");
    let output = sim(&["replay", plans]);
    assert!(output.status.success(), "{}{}", out(&output), err(&output));
}

#[test]
fn bad_plans_are_refused_with_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let plan = |name: &str, change: &dyn Fn(&mut serde_json::Value)| changed(folder.path(), name, change);
    let other = plan("format.json", &|plan| plan["format"] = 99.into());
    fails(&["replay", &other], 64, &["format 99", "reads format 1", "use the program that wrote it"]);
    let later = plan("model.json", &|plan| plan["model"] = 99.into());
    fails(&["replay", &later], 64, &["model 99", "use a later program"]);
    let key = plan("key.json", &|plan| plan["case"]["sceanrio"] = "x".into());
    fails(&["replay", &key], 64, &["unknown field `sceanrio`", "every key has to be known"]);
    let scenario = plan("scenario.json", &|plan| plan["case"]["scenario"] = "nowhere".into());
    fails(&["replay", &scenario], 5, &["no scenario \"nowhere\"", "lost-primary"]);
    let profile = plan("profile.json", &|plan| plan["case"]["profile"] = "tape".into());
    fails(&["replay", &profile], 5, &["no profile \"tape\"", "block-storage"]);
    let whole = std::fs::read(F1).unwrap();
    let cut = folder.path().join("cut.json");
    std::fs::write(&cut, &whole[..whole.len() / 2]).unwrap();
    fails(&["replay", cut.to_str().unwrap()], 64, &["ends too early"]);
    fails(&["replay", "plan:eyJmb3"], 64, &["plan"]);
    fails(&["replay", "plan:***"], 64, &["paste it whole"]);
    fails(&["replay", "no/such/plan.json"], 5, &["cannot read the plan"]);
    fails(&["replay", folder.path().join("nothing").to_str().unwrap()], 5, &["cannot read the plan"]);
    fails(&["enumerate", "--budget", "0s"], 64, &["give at least 1s"]);
    fails(&["run", "--budget", "0"], 64, &["give at least 1s"]);
    fails(&["run", "--runs", "0"], 64, &["0"]);
    fails(&["enumerate", "--scenario", "nowhere"], 5, &["no scenario \"nowhere\""]);
    fails(&["enumerate", "--pairs", "0"], 64, &["0"]);
    fails(&["enumerate", "--profile", "tape"], 5, &["no profile \"tape\""]);
    let schedule = plan("schedule.json", &|plan| plan["case"]["change"]["schedule"] = "lifo".into());
    fails(&["replay", &schedule], 64, &["lifo", "fifo"]);
    let event = plan("event.json", &|plan| plan["case"]["change"]["script"][0]["for_ms"] = 1.into());
    fails(&["replay", &event], 64, &["unknown field `for_ms`"]);
    let fault = plan("fault.json", &|plan| plan["case"]["faults"] = serde_json::json!([{"at": "x"}]));
    fails(&["replay", &fault], 64, &["plan"]);
    fails(&["frobnicate"], 64, &["frobnicate"]);
}

#[test]
fn a_stale_plan_is_told_and_fails() {
    let folder = tempfile::tempdir().unwrap();
    let stale = changed(folder.path(), "stale.json", |plan| {
        plan["case"]["faults"] = serde_json::json!([{
            "at": {"actor": "agent@node-1", "workflow": "member", "operation": "volume.teleport",
                   "resource": "orders-0-data", "nth": 0},
            "fault": "crash_after"
        }]);
    });
    fails(&["replay", &stale], 6, &["STALE", "volume.teleport", "tests nothing"]);
}

#[test]
fn a_failure_ends_with_a_line_that_replays_it_without_any_file() {
    let folder = tempfile::tempdir().unwrap();
    let holds = changed(folder.path(), "holds.json", |plan| plan["expected"] = "holds".into());
    let output = sim(&["replay", &holds]);
    assert_eq!(output.status.code(), Some(1));
    let text = out(&output);
    let last = text.lines().last().unwrap();
    let line = last.strip_prefix("replay: steadfast-sim replay ").unwrap();
    let again = sim(&["replay", line]);
    assert_eq!(again.status.code(), Some(1), "{}", out(&again));
    assert!(out(&again).contains("S2 is broken"), "{}", out(&again));
    assert_eq!(PlanFile::read(line).unwrap(), PlanFile::read(&holds).unwrap());
}

#[test]
fn a_plan_is_explained_in_lanes_and_on_a_page() {
    let folder = tempfile::tempdir().unwrap();
    let page = folder.path().join("page.html");
    let output = sim(&["explain", F1, "--html", page.to_str().unwrap()]);
    assert!(output.status.success(), "{}", err(&output));
    let text = out(&output);
    for says in ["X      rule S2", "e1   orders-0", "stands still", "what led up to it"] {
        assert!(text.contains(says), "{says}: {text}");
    }
    let html = std::fs::read_to_string(&page).unwrap();
    assert!(html.contains("<svg") && html.contains("data-lane=\"orders-0\""), "lanes");
    assert!(!html.contains("http:") && !html.contains("https:"), "it needs nothing from anywhere else");
    assert_eq!(html.matches("<svg").count(), html.matches("</svg>").count());
}

#[test]
fn results_can_be_read_by_machines() {
    let folder = tempfile::tempdir().unwrap();
    let junit = folder.path().join("junit.xml");
    let arguments =
        ["run", "--scenario", "create", "--runs", "4", "-o", "json", "--junit", junit.to_str().unwrap()];
    let output = sim(&arguments);
    assert!(output.status.success(), "{}{}", out(&output), err(&output));
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["runs"], 4);
    let xml = std::fs::read_to_string(&junit).unwrap();
    assert!(
        xml.starts_with("<?xml") && xml.contains("failures=\"0\"") && xml.contains("</testsuites>"),
        "{xml}"
    );
}

/// What is carried out once for many runs changes none of them: what an enumeration finds is the same with every run from
/// its beginning.
#[test]
fn runs_that_part_come_to_what_they_come_to_from_their_beginning() {
    let found = |apart: &[&str]| {
        let mut arguments = vec!["-o", "json", "enumerate", "--scenario", "create", "--profile", "embedded"];
        arguments.extend(["--class", "late_effect", "--class", "crash_after"]);
        arguments.extend(apart);
        let output = sim(&arguments);
        assert!(output.status.success(), "{}{}", out(&output), err(&output));
        let mut report: serde_json::Value = serde_json::from_str(&out(&output)).unwrap();
        report.as_object_mut().unwrap().remove("elapsed");
        report
    };
    let parted = found(&[]);
    assert!(parted["runs"].as_u64().unwrap() > 50, "{parted}");
    assert_eq!(parted, found(&["--apart"]));
    fails(&["enumerate", "--class", "sneeze"], 64, &["there are: ", "late_effect"]);
}
