//! Volumes on the machines' own disks: members wait for theirs, and are rebuilt when a person says that it is gone.

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test fails by panicking, and tells its story"
)]

use steadfast_sim::model::host::Cut;
use steadfast_sim::model::{Fact, Profile};
use steadfast_sim::run::{Action, Outcome, Scenario, Target, run};
use steadfast_sim::search::library;
use steadfast_sim::time::Time;

fn told(scenario: &Scenario) -> Outcome {
    let outcome = run(scenario).unwrap();
    println!("{}\n{:?} {:?}", outcome.story(), outcome.timings, outcome.writes);
    assert_eq!(outcome.violations, []);
    outcome
}

fn reference(name: &str, seed: u64) -> Outcome {
    let outcome = told(&library::find(name).unwrap().scenario(Profile::local_disks(), seed));
    assert!(outcome.timings.healed_ms.is_some(), "what is wanted is reached");
    outcome
}

/// Where a member's engine was started, in order: the node and the volume.
fn lives(outcome: &Outcome, member: &str) -> Vec<(String, String)> {
    let starts = outcome.facts.iter().filter_map(|(_, fact)| match fact {
        Fact::EngineStarted { member: name, node, volume, .. } if name.as_str() == member => {
            Some((node.to_string(), volume.to_string()))
        }
        _ => None,
    });
    starts.collect()
}

fn given_up(outcome: &Outcome) -> Vec<&str> {
    let members = outcome.facts.iter().filter_map(|(_, fact)| match fact {
        Fact::GivenUp { member, .. } => Some(member.as_str()),
        _ => None,
    });
    members.collect()
}

/// Why what is wanted could not be reached, as it was declared.
fn blocked(outcome: &Outcome) -> String {
    let texts = outcome.facts.iter().filter_map(|(_, fact)| match fact {
        Fact::Blocked { text } => Some(text.clone()),
        _ => None,
    });
    texts.collect()
}

fn at(outcome: &Outcome, is: impl Fn(&Fact) -> bool) -> Time {
    outcome.facts.iter().find(|(_, fact)| is(fact)).unwrap().0
}

fn calm(name: &str) -> Scenario {
    Scenario { storm_ms: 120_000, ..Scenario::calm(name, Profile::local_disks(), 3) }
}

fn disk(member: &str) -> Target {
    Target::DiskOf(member.to_owned())
}

fn dead(mut scenario: Scenario) -> Scenario {
    scenario.heal.dead = (1..=scenario.nodes).map(|index| format!("node-{index}")).collect();
    scenario
}

#[test]
fn a_member_waits_for_its_node_and_comes_back_there_with_its_data() {
    for name in ["disk-back", "disk-back-quorum"] {
        for seed in 1..4 {
            let outcome = reference(name, seed);
            assert_eq!(given_up(&outcome), Vec::<&str>::new());
            for member in ["orders-0", "orders-1", "orders-2"] {
                let lives = lives(&outcome, member);
                assert!(lives.iter().all(|life| *life == lives[0]), "{member}: {lives:?}");
            }
        }
    }
    // What never comes back is waited for, and says so.
    let lost = dead(calm("never").at(40_000, Action::StopNode(disk("orders-1"))));
    let outcome = told(&lost);
    assert!(blocked(&outcome).contains("PlacementNone"), "{}", blocked(&outcome));
    assert_eq!(lives(&outcome, "orders-1").len(), 1);
}

#[test]
fn a_member_whose_disk_is_gone_is_rebuilt_elsewhere_on_a_persons_word_and_not_before() {
    for seed in 1..4 {
        let outcome = reference("rebuild", seed);
        assert_eq!(given_up(&outcome), ["orders-1"]);
        let lives = lives(&outcome, "orders-1");
        assert_ne!(lives[0].0, lives[1].0, "on another node");
        assert_ne!(lives[0].1, lives[1].1, "with another volume");
        let said =
            at(&outcome, |fact| matches!(fact, Fact::Scripted { text } if text.starts_with("Rebuild")));
        let up = at(
            &outcome,
            |fact| matches!(fact, Fact::EngineStarted { volume, .. } if volume.as_str() == lives[1].1),
        );
        assert!(said < up);
    }
    let unsaid = dead(calm("unsaid").at(40_000, Action::LoseDisk(disk("orders-1"))));
    let outcome = told(&unsaid);
    assert_eq!((given_up(&outcome), lives(&outcome, "orders-1").len()), (Vec::new(), 1));
    assert!(blocked(&outcome).contains("PlacementNone"), "{}", blocked(&outcome));
}

/// Its node comes back as if new, under its old name: what was made there once is not made anew.
#[test]
fn a_disk_that_is_gone_is_said_to_be_by_the_node_that_had_it() {
    let outcome = told(&calm("as if new").at(40_000, Action::LoseDisk(disk("orders-1"))));
    assert!(blocked(&outcome).contains("VolumeCorrupt"), "{}", blocked(&outcome));
    assert_eq!(lives(&outcome, "orders-1").len(), 1);
}

#[test]
fn the_primarys_disk_is_given_up_once_another_member_leads() {
    for seed in 1..4 {
        let outcome = reference("rebuild-primary", seed);
        assert_eq!(given_up(&outcome), ["orders-0"]);
        let promoted = at(
            &outcome,
            |fact| matches!(fact, Fact::Leads { member, leads: true, .. } if member.as_str() != "orders-0"),
        );
        assert!(promoted < at(&outcome, |fact| matches!(fact, Fact::GivenUp { .. })));
    }
}

/// An operator may be wrong: the disk comes back, and what is on it is nobody's.
#[test]
fn a_disk_that_comes_back_after_all_is_left_alone() {
    for seed in 1..4 {
        let outcome = reference("rebuild-disk-back", seed);
        assert_eq!(given_up(&outcome), ["orders-1"]);
        let lives = lives(&outcome, "orders-1");
        assert!(lives[1..].iter().all(|life| *life == lives[1] && life.1 != lives[0].1), "{lives:?}");
    }
}

#[test]
fn the_only_copy_is_not_given_up() {
    let mut alone = calm("alone").at(40_000, Action::LoseDisk(disk("orders-0")));
    alone.services[0].replicas = 1;
    let outcome = told(&dead(Scenario {
        // Nobody has what was acknowledged, and no rule may say that it is there.
        clients: steadfast_sim::run::Clients { per_service: 0, ..alone.clients },
        ..alone.at(45_000, Action::Rebuild("orders-0".to_owned()))
    }));
    assert_eq!((given_up(&outcome), lives(&outcome, "orders-0").len()), (Vec::new(), 1));
    assert!(blocked(&outcome).contains("PlacementNone"), "{}", blocked(&outcome));
}

/// Cut off from everything, its engine runs on until its lease ends, and nothing says that it has: its service accepts
/// no leases as proofs.
#[test]
fn a_member_whose_holder_may_be_alive_is_not_rebuilt() {
    let everything = Cut { control: true, peers: true, clients: true };
    for said_after in [3_000, 30_000] {
        let mut cut = calm("cut")
            .at(40_000, Action::CutNode(disk("orders-2"), everything, 60_000))
            .at(40_000 + said_after, Action::Rebuild("orders-2".to_owned()));
        let none = serde_json::json!({"minimum": "F1", "accept_lease": false});
        cut.services[0].more.insert("fencing".to_owned(), none);
        let outcome = told(&cut);
        assert_eq!(given_up(&outcome), Vec::<&str>::new());
        let lives = lives(&outcome, "orders-2");
        assert!(lives.iter().all(|life| *life == lives[0]), "{lives:?}");
        assert!(outcome.timings.healed_ms.is_some());
    }
}

/// However it is answered, no voter comes back having forgotten what it voted for.
#[test]
fn a_voter_that_lost_its_disk_does_not_vote_again() {
    for seed in 1..4 {
        let mut scenario = Scenario { seed, ..calm("voter") }
            .at(40_000, Action::LoseDisk(disk("orders-1")))
            .at(45_000, Action::Rebuild("orders-1".to_owned()));
        scenario.services[0].blueprint = "quorum".to_owned();
        told(&scenario);
        told(&dead(scenario));
    }
}

/// With learners it comes back without its vote, and votes again when it has what the others have: the next one's loss
/// is made up for by it.
#[test]
fn a_voter_that_lost_its_disk_learns_and_then_votes_again() {
    for seed in 1..4 {
        for (name, lost) in
            [("rebuild-quorum", vec!["orders-1"]), ("rebuild-in-turn-quorum", vec!["orders-0", "orders-1"])]
        {
            let outcome = reference(name, seed);
            assert_eq!(given_up(&outcome), lost, "{name}");
            for member in lost {
                let lives = lives(&outcome, member);
                assert_eq!(
                    lives.len(),
                    3,
                    "{member} was started, again to learn, and again to vote: {lives:?}"
                );
                assert_ne!(lives[0].1, lives[1].1, "with another volume");
                assert_eq!(lives[1], lives[2], "it votes where it has learnt");
            }
        }
    }
}
