//! Teeth: the references are clean, planted bugs are found, and no build that ships has any.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

use std::process::Command;

use steadfast_sim::planted::{BUSY, Planted, known, references};
use steadfast_sim::run::run;

#[test]
fn without_a_bug_every_reference_is_as_it_should_be() {
    let mut names: Vec<String> = Vec::new();
    for scenario in references() {
        let outcome = run(&scenario).unwrap();
        assert_eq!(outcome.violations, [], "{}", scenario.name);
        assert!(outcome.timings.healed_ms.is_some(), "{}", scenario.name);
        names.push(scenario.name);
    }
    for name in BUSY {
        assert!(names.iter().any(|other| other == name), "{name}");
    }
}

#[test]
fn everything_is_known_of_every_bug() {
    assert!(Planted::ALL.len() >= 30, "{}", Planted::ALL.len());
    for bug in Planted::ALL {
        assert!(!known(*bug).from.is_empty() && !known(*bug).teaches.is_empty());
    }
}

/// The features that a build of `package` has of core.
fn features_of_core(package: &str, more: &[&str]) -> Vec<String> {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
    let mut tree = Command::new(cargo);
    tree.args([
        "tree",
        "--offline",
        "--locked",
        "--edges",
        "normal",
        "--prefix",
        "none",
        "--format",
        "{p}|{f}",
    ]);
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/..");
    let output = tree.args(["--package", package]).args(more).current_dir(folder).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    let core = text.lines().find(|line| line.starts_with("steadfast-core ")).unwrap().to_owned();
    core.split('|').nth(1).unwrap_or_default().split([',', ' ']).map(str::to_owned).collect()
}

#[test]
fn no_build_that_ships_has_a_planted_bug() {
    let planted = "planted".to_owned();
    assert!(!features_of_core("steadfast", &[]).contains(&planted));
    assert!(features_of_core("steadfast-sim", &["--features", "planted"]).contains(&planted));
}

#[cfg(not(feature = "planted"))]
#[test]
fn a_build_without_them_says_how_to_make_one_that_has_them() {
    let scenario = steadfast_sim::run::Scenario { planted: vec![Planted::NoFence], ..references().remove(0) };
    let error = run(&scenario).unwrap_err();
    assert!(error.contains("--features planted"), "{error}");
    let output = Command::new(env!("CARGO_BIN_EXE_steadfast-sim")).arg("mutants").output().unwrap();
    assert_eq!(output.status.code(), Some(64));
    assert!(String::from_utf8(output.stderr).unwrap().contains("--features planted"));
}

#[cfg(feature = "planted")]
mod with_bugs {
    use std::collections::BTreeSet;
    use std::path::Path;
    use std::process::Output;
    use std::time::Duration;

    use steadfast_sim::plan::{self, Expected, PlanFile};
    use steadfast_sim::planted::{Budget, How, Hunt, hunt, markdown};
    use steadfast_sim::search::Case;

    use super::*;

    fn found(bug: Planted) -> Hunt {
        let hunt = hunt(bug, Budget { time: Duration::from_secs(60), runs: 40 }).unwrap();
        assert!(hunt.found.is_some(), "{bug} is not found");
        hunt
    }

    #[test]
    fn bugs_of_every_kind_are_found_and_told() {
        let kinds = [
            (Planted::DetachBeforeOwnership, "S4"),
            (Planted::EpochNotRaised, "S3"),
            (Planted::OnlyItsOwnWord, "L1"),
            (Planted::NameBeforeRole, "S6b"),
            (Planted::FirstPageIsAll, "L1"),
            (Planted::SilenceIsDeath, "S10"),
        ];
        let hunts: Vec<Hunt> = kinds.iter().map(|(bug, _)| found(*bug)).collect();
        for (hunt, (bug, rule)) in hunts.iter().zip(kinds) {
            let found = hunt.found.as_ref().unwrap();
            assert_eq!((found.violation.rule.as_str(), found.how), (rule, How::Reference), "{bug}");
            // What it was found by breaks the same again, and nothing without the bug.
            assert!(run(&found.scenario).unwrap().broke(rule), "{bug}");
        }
        let page = markdown(&hunts, "a test");
        assert!(page.contains("**6 of 6 found (100 %)"), "{page}");
        assert!(
            page.contains("| [`epoch-not-raised`](../sim/plans/planted/epoch-not-raised.json) |"),
            "{page}"
        );
        assert!(page.contains("- S10: no member is moved"), "{page}");
    }

    /// The plans of docs/known-bugs.md: one for each bug, which still finds it, and finds nothing without it.
    #[test]
    fn every_bug_has_a_plan_that_finds_it() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("plans/planted");
        let names = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().file_name());
        let kept: BTreeSet<String> = names.map(|name| name.into_string().unwrap()).collect();
        let wanted: BTreeSet<String> = Planted::ALL.iter().map(|bug| format!("{bug}.json")).collect();
        assert_eq!(kept, wanted, "write them anew with `steadfast-sim mutants --save`");
        for (bug, name) in Planted::ALL.iter().zip(Planted::ALL.iter().map(|bug| format!("{bug}.json"))) {
            let plan = PlanFile::read(folder.join(name).to_str().unwrap()).unwrap();
            assert_eq!(plan.case.planted, [*bug]);
            assert_eq!(plan.replay(&run).unwrap().found, plan::Found::AsExpected, "{bug}");
            let Expected::Violates(rule) = &plan.expected else { panic!("{bug}") };
            let without = Case { planted: Vec::new(), ..plan.case };
            assert!(!run(&without.build().unwrap()).unwrap().broke(rule), "{bug}");
        }
    }

    fn mutants(arguments: &[&str]) -> (Option<i32>, String) {
        let output =
            Command::new(env!("CARGO_BIN_EXE_steadfast-sim")).arg("mutants").args(arguments).output();
        let Output { status, stdout, stderr } = output.unwrap();
        (status.code(), String::from_utf8(stdout).unwrap() + &String::from_utf8(stderr).unwrap())
    }

    #[test]
    fn the_command_tells_what_is_found_keeps_it_and_fails_if_one_survives() {
        let folder = tempfile::tempdir().unwrap();
        let page = folder.path().join("known-bugs.md");
        let (save, page) = (folder.path().to_str().unwrap(), page.to_str().unwrap());
        let (code, told) = mutants(&["first-page-is-all", "--save", save, "--markdown", page]);
        assert_eq!(code, Some(0), "{told}");
        assert!(told.contains("L1") && told.contains("1 of 1 found (100 %)"), "{told}");
        assert!(std::fs::read_to_string(page).unwrap().contains("| [`first-page-is-all`]"));
        let plan = PlanFile::read(folder.path().join("first-page-is-all.json").to_str().unwrap()).unwrap();
        assert_eq!(plan.replay(&run).unwrap().found, plan::Found::AsExpected);
        let (code, told) = mutants(&["key-ignored", "--budget", "1ms"]);
        assert_eq!(code, Some(1), "{told}");
        assert!(told.contains("SURVIVES") && told.contains("0 of 1 found"), "{told}");
        let (code, told) = mutants(&["no-such-bug"]);
        assert_eq!(code, Some(64), "{told}");
        assert!(told.contains("key-ignored"), "it says what there is: {told}");
    }

    #[test]
    fn a_budget_that_is_spent_ends_a_hunt() {
        let spent = hunt(Planted::KeyIgnored, Budget { time: Duration::from_secs(60), runs: 0 }).unwrap();
        assert_eq!((spent.found, spent.runs), (None, 0));
    }
}
