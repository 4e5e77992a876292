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
}

#[cfg(feature = "planted")]
mod with_bugs {
    use std::time::Duration;

    use steadfast_sim::planted::{Budget, How, Hunt, hunt, markdown};

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
        assert!(page.contains("**6 of 6 found**"), "{page}");
        assert!(page.contains("| `epoch-not-raised` |"), "{page}");
    }

    #[test]
    fn a_budget_that_is_spent_ends_a_hunt() {
        let spent = hunt(Planted::KeyIgnored, Budget { time: Duration::from_secs(60), runs: 0 }).unwrap();
        assert_eq!((spent.found, spent.runs), (None, 0));
    }
}
