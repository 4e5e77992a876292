//! Whole runs: members come up, lose their nodes, and come back as themselves; and no run differs from its repeat.

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test fails by panicking, and tells its story"
)]

use steadfast_sim::fault::{Class, RandomFaults};
use steadfast_sim::model::host::Cut;
use steadfast_sim::model::{Fact, Profile};
use steadfast_sim::run::{Action, Outcome, Scenario, Target, run};

fn told(scenario: &Scenario) -> Outcome {
    let outcome = run(scenario).unwrap();
    println!("{}\n{:?} {:?}", outcome.story(), outcome.timings, outcome.writes);
    outcome
}

/// The nodes that a member's engine was started on, in order, with its address and volume each time.
fn lives(outcome: &Outcome, member: &str) -> Vec<(String, String)> {
    let starts = outcome.facts.iter().filter_map(|(_, fact)| match fact {
        Fact::EngineStarted { member: name, node, volume, .. } if name.as_str() == member => {
            Some((node.to_string(), volume.to_string()))
        }
        _ => None,
    });
    starts.collect()
}

fn addresses(outcome: &Outcome, member: &str) -> Vec<String> {
    let ups = outcome.facts.iter().filter_map(|(_, fact)| match fact {
        Fact::EngineUp { member: name, address, .. } if name.as_str() == member => {
            Some(format!("{address:?}"))
        }
        _ => None,
    });
    ups.collect()
}

fn profiles() -> [Profile; 4] {
    [Profile::embedded(), Profile::block_storage(), Profile::shared_storage(), Profile::leases()]
}

#[test]
fn three_members_come_up_and_serve_on_every_profile() {
    for profile in profiles() {
        let outcome = told(&Scenario::calm("calm", profile, 1));
        assert_eq!(outcome.violations, []);
        assert!(outcome.writes.0 > 20, "{:?}", outcome.writes);
    }
}

#[test]
fn a_member_that_lost_its_node_comes_back_as_itself() {
    for profile in profiles() {
        let mut scenario = Scenario::calm("lost node", profile, 7)
            .at(40_000, Action::StopNode(Target::HolderOf("orders-1".to_owned())));
        scenario.storm_ms = 120_000;
        scenario.heal.dead = ["node-1", "node-2", "node-3", "node-4"].map(str::to_owned).to_vec();
        let outcome = told(&scenario);
        assert_eq!(outcome.violations, []);
        let lives = lives(&outcome, "orders-1");
        assert_eq!(lives.len(), 2, "{lives:?}");
        assert_ne!(lives[0].0, lives[1].0, "it is on another node");
        assert_eq!(lives[0].1, lives[1].1, "with the same volume");
        let addresses = addresses(&outcome, "orders-1");
        assert_eq!(addresses[0], addresses[1], "under the same address");
    }
}

/// Slow storage makes claims and preparations longer than the lease: the guard has to be given a lease that runs.
#[test]
fn no_guard_is_started_under_a_lease_that_has_ended_meanwhile() {
    for seed in 1..5 {
        let outcome = told(&Scenario::calm("slow start", Profile::leases(), seed));
        let ended = outcome.facts.iter().find(|(_, fact)| matches!(fact, Fact::NotStarted { .. }));
        assert_eq!(ended, None, "seed {seed}");
    }
}

#[test]
fn a_primary_that_lost_its_node_loses_no_acknowledged_write() {
    for profile in profiles() {
        let mut scenario = Scenario::calm("lost primary", profile, 3).losing_the_primary(40_000);
        scenario.storm_ms = 180_000;
        let outcome = told(&scenario);
        assert_eq!(outcome.violations, []);
        assert!(outcome.writes.0 > 60, "{:?}", outcome.writes);
    }
}

#[test]
fn the_same_scenario_gives_the_same_trace_also_on_another_thread() {
    let mut scenario = Scenario::calm("repeat", Profile::block_storage(), 11)
        .losing_the_primary(30_000)
        .at(35_000, Action::CrashServer(0));
    scenario.servers = 2;
    let first = run(&scenario).unwrap();
    let again = run(&scenario).unwrap();
    let elsewhere = scenario.clone();
    let third = std::thread::spawn(move || run(&elsewhere).unwrap()).join().unwrap();
    assert_eq!(first.checkpoints, again.checkpoints);
    assert_eq!((first.hash, first.trace.len()), (again.hash, again.trace.len()));
    assert_eq!((first.hash, first.trace.len()), (third.hash, third.trace.len()));
    scenario.seed = 12;
    assert_ne!(run(&scenario).unwrap().hash, first.hash, "another seed is another run");
}

#[test]
fn a_scenario_travels_as_a_file() {
    let scenario = Scenario::calm("file", Profile::leases(), 5).losing_the_primary(30_000);
    let text = serde_json::to_string(&scenario).unwrap();
    let back: Scenario = serde_json::from_str(&text).unwrap();
    assert_eq!(back, scenario);
}

#[test]
fn servers_and_agents_that_crash_are_nobodys_outage() {
    let mut scenario = Scenario::calm("crashes", Profile::embedded(), 9)
        .at(3_000, Action::CrashServer(0))
        .at(5_000, Action::CrashAgent(Target::Node("node-1".to_owned())))
        .at(20_000, Action::CrashAgent(Target::PrimaryOf("orders".to_owned())))
        .at(25_000, Action::CrashServer(1))
        .at(30_000, Action::PauseServer(0, 20_000))
        .at(30_000, Action::PauseAgent(Target::PrimaryOf("orders".to_owned()), 20_000));
    scenario.servers = 2;
    let outcome = told(&scenario);
    assert_eq!(outcome.violations, []);
    assert_eq!(
        outcome.writes.1,
        outcome
            .facts
            .iter()
            .filter(|(at, fact)| { matches!(fact, Fact::WriteFailed { .. }) && at.millis() < 15_000 })
            .count(),
        "once it serves, no write fails"
    );
}

/// F1 assumes that nothing is paused for longer than its margin. Where that does not hold, neither does what rests
/// on it: the simulator has to see it.
#[test]
fn a_primary_paused_past_its_lease_breaks_the_single_writer_under_leases_alone() {
    let pause = Action::PauseNode(Target::PrimaryOf("orders".to_owned()), 90_000);
    let scenario = |profile| {
        let mut scenario = Scenario::calm("zombie", profile, 2).at(30_000, pause.clone());
        scenario.storm_ms = 150_000;
        scenario
    };
    let leases = told(&scenario(Profile::leases()));
    assert!(leases.broke("S1") || leases.broke("S2"), "{:?}", leases.violations);
    for profile in [Profile::shared_storage(), Profile::block_storage()] {
        assert_eq!(told(&scenario(profile)).violations, []);
    }
}

#[test]
fn a_node_that_is_cut_off_for_long_enough_fences_itself_under_leases() {
    let cut = Cut { control: true, peers: false, clients: false };
    let mut scenario = Scenario::calm("cut", Profile::leases(), 4)
        .at(30_000, Action::CutNode(Target::PrimaryOf("orders".to_owned()), cut, 60_000));
    scenario.storm_ms = 150_000;
    let outcome = told(&scenario);
    assert_eq!(outcome.violations, []);
    let fenced = |fact: &Fact| matches!(fact, Fact::EngineDown { why: "its lease has ended", .. });
    assert!(outcome.facts.iter().any(|(_, fact)| fenced(fact)));
}

#[test]
fn faults_at_random_fire_and_break_nothing() {
    for seed in 0..4 {
        let mut scenario =
            Scenario::calm("random", Profile::block_storage(), seed).losing_the_primary(40_000);
        scenario.servers = 2;
        scenario.storm_ms = 120_000;
        scenario.plan.random = Some(RandomFaults {
            seed,
            per_100k: 500,
            classes: vec![
                Class::Throttled,
                Class::Unavailable,
                Class::RequestLost,
                Class::ResponseLost,
                Class::Slow,
                Class::CrashBefore,
                Class::CrashAfter,
            ],
            from_ms: 0,
            until_ms: 120_000,
        });
        let outcome = told(&scenario);
        assert_eq!(outcome.violations, [], "seed {seed}");
        assert!(!outcome.fired.is_empty(), "seed {seed}");
    }
}
