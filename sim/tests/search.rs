//! The search: every call gets its fault, what breaks is made small, and the same seed searches the same.

use std::collections::BTreeSet;
use std::time::Duration;

use proptest::prelude::{Strategy, any, prop};
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use steadfast_sim::exec::Schedule;
use steadfast_sim::fault::{Class, Planned, RandomFaults};
use steadfast_sim::plan::{Expected, PlanFile};
use steadfast_sim::run::{Action, Scripted, Target, run};
use steadfast_sim::search::enumerate::{Options, Report, enumerate};
use steadfast_sim::search::pool::{Budget, carry_out};
use steadfast_sim::search::random::{self, search};
use steadfast_sim::search::sites::{Folded, calls, without_numbers};
use steadfast_sim::search::{Case, library, pairs, shrink::shrink};
use steadfast_sim::time::Time;

/// Under leases alone, a primary's node that stands still for longer than its lease.
fn zombie() -> Case {
    let mut case = Case::new("lost-primary", "leases", 2);
    let pause = Action::PauseNode(Target::PrimaryOf("orders".to_owned()), 90_000);
    case.change.script = Some(vec![Scripted { at_ms: 30_000, action: pause }]);
    case.change.storm_ms = Some(150_000);
    case
}

#[test]
fn every_reference_run_holds_without_faults_on_every_profile() {
    for reference in library::ALL {
        for profile in library::PROFILES.iter().filter(|profile| reference.is_for(profile)) {
            let verdict = carry_out(&Case::new(reference.name, profile, 1)).unwrap();
            assert_eq!(verdict.violations, [], "{} on {profile}", reference.name);
        }
    }
}

#[test]
fn a_part_of_a_workflow_is_enumerated_and_every_fault_counts() {
    let options = Options {
        scenarios: vec!["create".to_owned()],
        profiles: vec!["embedded".to_owned()],
        classes: vec![Class::CrashAfter],
        ..Options::default()
    };
    let report = enumerate(&options, &run).unwrap();
    assert!(report.sites > 30, "{} sites", report.sites);
    assert!(report.runs >= 30, "{} runs", report.runs);
    assert_eq!(report.uncovered, [], "every site that a run came by was enumerated");
    assert_eq!(report.inert, [], "crashes make a difference");
    assert_eq!(
        report.failures.iter().map(|failure| &failure.violation).collect::<Vec<_>>(),
        Vec::<&_>::new()
    );
    assert!(report.is_good());
}

#[test]
fn sites_that_are_the_same_in_meaning_are_enumerated_once_and_what_is_left_out_is_told() {
    let options = |fold| Options {
        scenarios: vec!["create".to_owned(), "restart".to_owned()],
        profiles: vec!["embedded".to_owned()],
        classes: vec![Class::Throttled],
        fold,
        ..Options::default()
    };
    let (whole, folded) =
        (enumerate(&options(false), &run).unwrap(), enumerate(&options(true), &run).unwrap());
    assert_eq!((whole.folded, folded.uncovered.len(), folded.failures.len()), (0, 0, 0));
    assert!(folded.folded > 0);
    // One class: a site that only faults lead to gets one run, and how many there are depends on the runs before.
    let first = |report: &Report| report.runs - report.behind_faults;
    assert_eq!(first(&folded) + folded.folded, first(&whole), "what is left out is counted");
    assert!(folded.sites < whole.sites);
}

#[test]
fn a_second_fault_comes_after_the_first_and_has_to_do_with_it() {
    let first = Options {
        scenarios: vec!["restart".to_owned()],
        profiles: vec!["embedded".to_owned()],
        ..Options::default()
    };
    let options = pairs::Options { first, window_ms: 10_000, per_first: 2, most_firsts: 10 };
    let report = pairs::enumerate(&options, &run).unwrap();
    assert!(report.pairs > 0 && report.both > 0, "{} pairs, in {} both fired", report.pairs, report.both);
    assert!(report.both * 2 > report.pairs, "most second calls are made in spite of the first fault");
    assert_eq!(report.firsts, 10);
    assert!(report.left > 0, "there are more");
    assert_eq!(
        report.failures.iter().map(|failure| &failure.violation).collect::<Vec<_>>(),
        Vec::<&_>::new()
    );
    assert_eq!(report.broken, 0);
}

#[test]
fn tasks_in_another_order_make_another_run_which_is_the_same_again() {
    let case = |schedule| {
        let mut case = Case::new("lost-primary", "embedded", 1);
        case.change.schedule = Some(schedule);
        carry_out(&case).unwrap()
    };
    let fifo = case(Schedule::Fifo);
    for schedule in [Schedule::Random(3), Schedule::Priority(3)] {
        let (one, again) = (case(schedule), case(schedule));
        assert_eq!(one.violations, [], "{schedule:?}");
        assert_eq!(one.hash, again.hash, "{schedule:?}");
        assert_ne!(one.hash, fifo.hash, "{schedule:?}");
    }
}

#[test]
fn a_budget_that_is_spent_is_told_and_is_not_good() {
    let options = Options {
        scenarios: vec!["create".to_owned()],
        profiles: vec!["embedded".to_owned()],
        budget: Some(Duration::from_millis(1)),
        ..Options::default()
    };
    let report = enumerate(&options, &run).unwrap();
    assert!(report.left > 0);
    assert!(!report.is_good());
}

#[test]
fn what_differs_in_numbers_is_one_site() {
    assert_eq!(without_numbers("members/orders/orders-12"), "members/orders/orders-#");
    assert_eq!(without_numbers("10.1.0.1"), "#.#.#.#");
    let scenario = Case::new("create", "embedded", 1).build().unwrap();
    let outcome = run(&scenario).unwrap();
    let found = calls(&outcome, Time::ZERO, Time::from_millis(scenario.storm_ms));
    assert!(found.len() < outcome.sites.len() / 2, "{} of {}", found.len(), outcome.sites.len());
    for (site, calls) in &found {
        let chosen: BTreeSet<_> = calls.chosen(Class::CrashAfter, 3).into_iter().collect();
        assert_eq!(chosen.len(), calls.made.len().min(3), "{site}");
        assert!(chosen.iter().all(|key| Folded::of_key(key) == *site), "{site}");
        assert!(chosen.contains(&calls.made[0].1), "the first of {site}");
    }
}

#[test]
fn faults_at_random_shrink_to_those_that_matter() {
    let mut case = zombie();
    case.random = Some(RandomFaults {
        seed: 5,
        per_100k: 100,
        classes: vec![Class::Slow, Class::Throttled],
        from_ms: 0,
        until_ms: 28_000,
    });
    let shrunk = shrink(&case, &run, &Budget::of(Some(Duration::from_secs(120)))).unwrap().unwrap();
    assert!(shrunk.faults_before > 0, "there was something to take away");
    assert_eq!(shrunk.case.faults, [], "what breaks the rule is the pause, not a fault");
    assert_eq!(shrunk.case.random, None);
    let before = case.build().unwrap();
    let after = shrunk.case.build().unwrap();
    assert!(after.nodes < before.nodes, "{} nodes", after.nodes);
    assert!(after.services[0].replicas < before.services[0].replicas);
    let verdict = carry_out(&shrunk.case).unwrap();
    assert_eq!(verdict.broke(), Some(shrunk.rule.as_str()), "the same rule");
}

#[test]
fn a_case_that_breaks_nothing_is_not_shrunk() {
    let shrunk = shrink(&Case::new("create", "embedded", 1), &run, &Budget::of(None)).unwrap();
    assert!(shrunk.is_none());
}

#[test]
fn the_same_seed_searches_the_same_whatever_the_threads() {
    let options = |jobs, seed| random::Options {
        scenarios: vec!["create".to_owned(), "lost-replica".to_owned()],
        profiles: vec!["embedded".to_owned(), "leases".to_owned()],
        seed,
        jobs,
        budget: None,
        runs: Some(40),
    };
    let one = search(&options(1, 7), &run).unwrap();
    let two = search(&options(3, 7), &run).unwrap();
    assert_eq!(one.runs, 40);
    assert!(one.kept > 0, "what is new is kept");
    assert_eq!((one.tuples, one.kept, &one.classes), (two.tuples, two.kept, &two.classes));
    let other = search(&options(2, 8), &run).unwrap();
    assert_ne!((one.tuples, &one.classes), (other.tuples, &other.classes), "another seed searches elsewhere");
}

/// Topologies, workloads and faults as values. Failures are written as plans, not as proptest's seeds: those say
/// nothing once a strategy has changed.
#[test]
fn whatever_the_topology_a_member_that_lost_its_node_comes_back() {
    let class = (0..Class::ALL.len()).prop_map(|index| Class::ALL[index]);
    let faults = (any::<u64>(), 0_u32..400, prop::collection::btree_set(class, 1..5));
    let values = (3_u32..7, 1_u32..4, 1_u32..4, 0_usize..4, any::<u64>(), faults);
    let config = Config { cases: 12, failure_persistence: None, max_shrink_iters: 60, ..Config::default() };
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &[7; 32]);
    let outcome = TestRunner::new_with_rng(config, rng).run(&values, |value| {
        let (nodes, replicas, servers, profile, seed, (fault_seed, per_100k, classes)) = value;
        let mut case = Case::new("lost-replica", library::PROFILES[profile], seed);
        case.change.nodes = Some(nodes);
        case.change.replicas = Some(replicas);
        case.change.servers = Some(servers);
        case.random = Some(RandomFaults {
            seed: fault_seed,
            per_100k,
            classes: classes.into_iter().collect(),
            from_ms: 0,
            until_ms: 1_000_000,
        });
        let verdict = carry_out(&case).unwrap();
        let told = verdict.violations.first().map(|violation| {
            let expected = Expected::Violates(violation.rule.clone());
            PlanFile::new(&violation.text, case.clone(), expected, verdict.hash).command()
        });
        proptest::prop_assert_eq!(told, None);
        Ok(())
    });
    outcome.unwrap();
}

#[test]
fn a_fault_that_befalls_nobody_is_told() {
    let calm = Case::new("create", "embedded", 1);
    let outcome = run(&calm.build().unwrap()).unwrap();
    let mut key = outcome.sites[0].key(0);
    key.nth = 1_000_000;
    let case = calm.with(vec![Planned { at: key.clone(), fault: Class::CrashAfter.strong() }]);
    let verdict = carry_out(&case).unwrap();
    assert_eq!(verdict.missing.len(), 1);
    assert_eq!(verdict.missing[0].at, key);
}
