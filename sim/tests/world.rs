//! What can go wrong around a cluster: each befalls, makes a difference, and is got over.

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test fails by panicking, and tells its story"
)]

use std::collections::BTreeMap;

use serde_json::Value;
use steadfast_sim::cast::Cast;
use steadfast_sim::env::ClockSkew;
use steadfast_sim::fault::{Fault, HINT, Planned};
use steadfast_sim::invariant::Rule;
use steadfast_sim::key::{Key, Site};
use steadfast_sim::model::host::{Cut, Way};
use steadfast_sim::model::{Fact, Profile};
use steadfast_sim::run::{Action, Outcome, Scenario, Target, run, run_with};
use steadfast_sim::time::Time;
use steadfast_sim::world::State;

fn told(scenario: &Scenario) -> Outcome {
    let outcome = run(scenario).unwrap();
    println!("{}\n{:?} {:?}", outcome.story(), outcome.timings, outcome.writes);
    outcome
}

fn primary() -> Target {
    Target::PrimaryOf("orders".to_owned())
}

fn holder(member: &str) -> Target {
    Target::HolderOf(member.to_owned())
}

/// The facts of a kind from a time on.
fn since(outcome: &Outcome, from_ms: u64, is: impl Fn(&Fact) -> bool) -> usize {
    outcome.facts.iter().filter(|(at, fact)| at.millis() >= from_ms && is(fact)).count()
}

fn moved(fact: &Fact) -> bool {
    matches!(fact, Fact::EngineStarted { .. } | Fact::EngineDown { .. } | Fact::AddressMoved { .. })
}

/// A run of a calm scenario with something in it: it has to change the run, and to be got over.
fn got_over(scenario: &Scenario) -> Outcome {
    let mut calm = scenario.clone();
    calm.script.retain(|scripted| matches!(scripted.action, Action::StopNode(_)));
    calm.triggers.clear();
    let outcome = told(scenario);
    assert_eq!(outcome.violations, [], "{}", scenario.profile.name);
    assert_ne!(outcome.hash, run(&calm).unwrap().hash, "{} changed nothing", scenario.profile.name);
    outcome
}

#[test]
fn a_volume_that_is_stuck_for_six_minutes_is_waited_for() {
    for (for_ms, expected) in [(10_000, 1), (360_000, 1), (0, 0)] {
        let mut scenario = Scenario::calm("stuck", Profile::block_storage(), 1)
            .at(39_000, Action::StickVolume("orders-1".to_owned(), for_ms))
            .at(40_000, Action::StopNode(holder("orders-1")));
        scenario.storm_ms = 460_000;
        let outcome = got_over(&scenario);
        let again = outcome.facts.iter().filter(|(at, fact)| {
            at.millis() > 40_000
                && at.millis() < 460_000
                && matches!(fact, Fact::EngineStarted { member, .. } if member.as_str() == "orders-1")
        });
        assert_eq!(again.count(), expected, "stuck for {for_ms} ms");
    }
}

/// Hints of whatever kind, the node's own among them, once began the wait for the resync anew: it never came.
#[test]
fn a_missed_assignment_is_found_by_the_resync_however_many_hints_come() {
    let mut scenario = Scenario::calm("missed", Profile::embedded(), 3);
    let assignment = |site: &&Site| site.operation == HINT && site.resource.starts_with("tasks/");
    for site in run(&scenario).unwrap().sites.iter().filter(assignment) {
        scenario.plan.faults.push(Planned { at: site.key(0), fault: Fault::MissedEvent });
    }
    let outcome = told(&scenario);
    assert_eq!(outcome.violations, []);
    assert!(outcome.fired.len() >= 3, "{:?}", outcome.fired);
}

#[test]
fn a_node_that_takes_no_more_volumes_is_passed_over() {
    let mut profile = Profile::block_storage();
    profile.volumes.attach_limit = Some(1);
    let mut scenario = Scenario::calm("limit", profile, 1).at(40_000, Action::StopNode(holder("orders-1")));
    scenario.storm_ms = 120_000;
    let outcome = told(&scenario);
    assert_eq!(outcome.violations, []);
    assert_eq!(since(&outcome, 40_000, |fact| matches!(fact, Fact::EngineStarted { .. })), 1);
}

#[test]
fn a_member_pinned_to_a_zone_comes_back_in_its_zone() {
    let mut scenario = Scenario::calm("zones", Profile::block_storage(), 1)
        .at(60_000, Action::RebootNode(holder("orders-1"), 40_000));
    scenario.zones = 3;
    scenario.nodes = 3;
    scenario.storm_ms = 150_000;
    let outcome = got_over(&scenario);
    let nodes: Vec<_> = outcome
        .facts
        .iter()
        .filter_map(|(_, fact)| match fact {
            Fact::EngineStarted { member, node, .. } if member.as_str() == "orders-1" => Some(node),
            _ => None,
        })
        .collect();
    assert!(nodes.len() >= 2 && nodes.iter().all(|node| *node == nodes[0]), "{nodes:?}");
}

#[test]
fn machines_that_hang_reboot_or_are_replaced_lose_nothing() {
    let actions: [fn() -> Action; 3] = [
        || Action::ShutDownSlowly(primary(), 90_000),
        || Action::RebootNode(primary(), 20_000),
        || Action::ReplaceNode(primary(), 30_000),
    ];
    for profile in [Profile::block_storage(), Profile::leases()] {
        for action in actions {
            let mut scenario = Scenario::calm("machines", profile.clone(), 3).at(40_000, action());
            scenario.storm_ms = 200_000;
            got_over(&scenario);
        }
    }
}

#[test]
fn a_node_nobody_can_reach_serves_on_and_is_not_doubled() {
    for profile in [Profile::embedded(), Profile::shared_storage()] {
        let cut = Cut { control: true, peers: false, clients: false };
        let mut scenario =
            Scenario::calm("zombie", profile, 5).at(40_000, Action::CutNode(primary(), cut, 120_000));
        scenario.storm_ms = 200_000;
        got_over(&scenario);
    }
}

#[test]
fn nodes_and_servers_cut_off_one_way_break_nothing() {
    for profile in [Profile::block_storage(), Profile::leases()] {
        for way in [Way::Requests, Way::Answers] {
            let mut scenario = Scenario::calm("one way", profile.clone(), 7)
                .at(40_000, Action::CutWay(primary(), way, 60_000))
                .at(40_000, Action::CutServer(0, way, 60_000));
            scenario.servers = 2;
            scenario.storm_ms = 150_000;
            got_over(&scenario);
        }
    }
}

#[test]
fn a_member_that_is_scheduled_twice_runs_once() {
    for profile in [Profile::embedded(), Profile::leases()] {
        let mut scenario = Scenario::calm("twice", profile, 9)
            .at(40_000, Action::ScheduleTwice("orders-1".to_owned(), "node-4".to_owned()));
        scenario.storm_ms = 100_000;
        let outcome = got_over(&scenario);
        assert_eq!(since(&outcome, 40_000, moved), 0, "{}", scenario.profile.name);
    }
}

#[test]
fn a_record_that_cannot_be_understood_stops_nobody_else() {
    for role in ["services/orders", "members/orders/orders-1", "nodes/node-1/status", "nodes/node-1/record"] {
        let mut scenario = Scenario::calm("poison", Profile::block_storage(), 11)
            .at(40_000, Action::Poison(role.to_owned(), 60_000));
        scenario.servers = 2;
        scenario.storm_ms = 150_000;
        got_over(&scenario);
    }
}

#[test]
fn a_store_that_is_down_and_then_slow_takes_no_service_down_under_f3() {
    for profile in [Profile::embedded(), Profile::shared_storage()] {
        let mut scenario = Scenario::calm("store", profile, 13)
            .at(40_000, Action::Outage("metadata".to_owned(), 120_000))
            .at(160_000, Action::Throttle("metadata".to_owned(), 5, 60_000));
        scenario.servers = 2;
        scenario.storm_ms = 230_000;
        let outcome = got_over(&scenario);
        assert_eq!(since(&outcome, 40_000, moved), 0, "{}", scenario.profile.name);
    }
}

#[test]
fn leases_that_all_end_at_once_lose_no_write() {
    for action in [Action::PauseAllAgents(60_000), Action::Outage("metadata".to_owned(), 60_000)] {
        let mut scenario = Scenario::calm("leases", Profile::leases(), 15).at(40_000, action);
        scenario.servers = 2;
        scenario.storm_ms = 150_000;
        let outcome = got_over(&scenario);
        let fenced = |fact: &Fact| matches!(fact, Fact::EngineDown { why: "its lease has ended", .. });
        assert_eq!(since(&outcome, 40_000, fenced), 3);
    }
}

#[test]
fn nothing_moves_when_wall_clocks_jump_by_an_hour() {
    for profile in [Profile::embedded(), Profile::leases()] {
        for by in [3_600_000, -3_600_000] {
            let mut scenario = Scenario::calm("jump", profile.clone(), 17)
                .at(40_000, Action::JumpServerClock(0, by))
                .at(50_000, Action::JumpClock(primary(), by))
                .at(60_000, Action::JumpClock(holder("orders-1"), -by));
            scenario.servers = 2;
            scenario.storm_ms = 100_000;
            let outcome = told(&scenario);
            assert_eq!(outcome.violations, []);
            assert_eq!(since(&outcome, 40_000, moved), 0, "{} {by}", scenario.profile.name);
        }
    }
}

#[test]
fn clocks_that_drift_move_nothing() {
    for profile in [Profile::block_storage(), Profile::leases()] {
        let skew =
            |drift_ppm, monotonic_at_zero_ms| ClockSkew { wall_ahead_ms: 0, monotonic_at_zero_ms, drift_ppm };
        let mut scenario = Scenario::calm("drift", profile, 19);
        scenario.servers = 2;
        scenario.storm_ms = 300_000;
        scenario.clocks = BTreeMap::from([
            ("node-1".to_owned(), skew(5_000, 0)),
            ("node-2".to_owned(), skew(-5_000, 86_400_000)),
            ("s1".to_owned(), skew(5_000, 1_000)),
            ("s2".to_owned(), skew(-5_000, 9_000_000)),
        ]);
        let outcome = told(&scenario);
        assert_eq!(outcome.violations, []);
        assert_eq!(since(&outcome, 40_000, moved), 0, "{}", scenario.profile.name);
    }
}

#[test]
fn a_full_disk_is_told_of_and_nothing_is_lost() {
    for profile in [Profile::embedded(), Profile::block_storage()] {
        let mut scenario =
            Scenario::calm("full", profile, 21).at(40_000, Action::FillDisk("orders-0".to_owned(), 60_000));
        scenario.storm_ms = 150_000;
        got_over(&scenario);
    }
}

#[test]
fn clients_that_keep_addresses_for_too_long_lose_no_write() {
    for profile in [Profile::embedded(), Profile::block_storage()] {
        let mut scenario = Scenario::calm("cache", profile, 23).losing_the_primary(40_000);
        scenario.clients.cache_ms = Some(60_000);
        scenario.storm_ms = 200_000;
        let outcome = told(&scenario);
        assert_eq!(outcome.violations, []);
    }
}

#[test]
fn something_can_happen_at_the_moment_of_a_call() {
    let key = Key {
        actor: "agent@node-4".to_owned(),
        workflow: "member".to_owned(),
        operation: "guards.start".to_owned(),
        resource: "orders-1".to_owned(),
        nth: 0,
    };
    let mut scenario = Scenario::calm("trigger", Profile::shared_storage(), 1)
        .at(40_000, Action::StopNode(holder("orders-1")))
        .when(key, Action::StopNode(Target::Node("node-4".to_owned())));
    scenario.storm_ms = 120_000;
    let outcome = got_over(&scenario);
    let off = |fact: &Fact| matches!(fact, Fact::NodeDown { node } if node.as_str() == "node-4");
    assert_eq!(since(&outcome, 40_000, off), 1, "the node goes down as it starts the engine");
}

#[test]
fn a_zone_or_one_direction_that_never_heals_is_lived_with() {
    for profile in [Profile::shared_storage(), Profile::leases()] {
        let mut scenario = Scenario::calm("zone", profile.clone(), 25);
        scenario.nodes = 6;
        scenario.heal.dead_zones = vec!["zone-3".to_owned()];
        assert_eq!(told(&scenario).violations, [], "{}", profile.name);
        for way in [Way::Requests, Way::Answers] {
            let mut scenario = Scenario::calm("direction", profile.clone(), 27);
            scenario.heal.cut.insert("node-2".to_owned(), way);
            assert_eq!(told(&scenario).violations, [], "{} {way:?}", profile.name);
        }
    }
}

/// Whether the node that runs a member's engine says that it serves.
fn is_said_to_serve(state: &State, member: &str) -> bool {
    let statuses = state.cloud.store.all().iter().filter(|(key, _)| key.segments().nth(4) == Some("status"));
    statuses.filter_map(|(_, record)| serde_json::from_slice::<Value>(&record.value).ok()).any(|value| {
        let said = &value["body"]["members"][member];
        said["ready"] == true
    })
}

/// From a while after the disk has begun to hang, nobody says that its member serves.
#[derive(Debug)]
struct NotSaidToServe;

impl Rule for NotSaidToServe {
    fn id(&self) -> &'static str {
        "hung"
    }

    fn says(&self) -> &'static str {
        "a member whose disk hangs is not said to serve"
    }

    fn fact(&mut self, at: Time, _fact: &Fact, state: &State) -> Result<(), String> {
        match (70_000..130_000).contains(&at.millis()) && is_said_to_serve(state, "orders-0") {
            true => Err("orders-0 is said to serve, and its disk hangs".to_owned()),
            false => Ok(()),
        }
    }
}

#[test]
fn a_member_whose_disk_hangs_is_not_said_to_serve() {
    for profile in [Profile::block_storage(), Profile::leases()] {
        let mut scenario =
            Scenario::calm("hung", profile, 29).at(40_000, Action::HangDisk("orders-0".to_owned(), 90_000));
        scenario.storm_ms = 180_000;
        let outcome = run_with(&scenario, &Cast::new().rule(|| NotSaidToServe)).unwrap();
        println!("{}\n{:?} {:?}", outcome.story(), outcome.timings, outcome.writes);
        assert_eq!(outcome.violations, [], "{}", scenario.profile.name);
    }
}
