//! Members whose volumes lie on the disk of a node wait there for that node, and go nowhere else.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

mod kit;

use std::collections::BTreeSet;
use std::time::Duration;

use kit::{MINUTE, member, name, placed, writable};
use steadfast_core::control::{Control, ControlResult, Guard, ServiceView};
use steadfast_core::ids::NodeName;
use steadfast_core::model::{ConditionKind, Member, MemberPhase, Reason, ServiceState};
use steadfast_core::testing::TestEnvironment;
use steadfast_core::volume::memory::MemoryVolumes;
use steadfast_core::workflow::claim::ClaimProgress;
use steadfast_core::world::{World, service_file};

/// A world of so many nodes, each with a disk of its own, and a server in it.
async fn world(nodes: u32) -> (World, Control) {
    let environment = TestEnvironment::new(7).environment;
    let world = World::with_volumes(environment, nodes, MemoryVolumes::pinned()).await.unwrap();
    let server = world.plain_server("server-1").unwrap();
    (world, server)
}

async fn record(server: &Control, text: &str) -> Member {
    let (service, _) = text.rsplit_once('-').unwrap();
    let found = server.store().member(&name(service), &member(text)).await.unwrap().unwrap();
    Member::clone(&found.body)
}

#[tokio::test(start_paused = true)]
async fn a_member_waits_for_the_node_with_its_disk_and_comes_back_there() {
    let (mut world, server) = world(3).await;
    world.create(&server, "orders", 1).await.unwrap();
    let node = placed(&world, "orders-0").await;
    let before = record(&server, "orders-0").await;
    world.kill(&node);

    let elsewhere = |views: &[ServiceView]| views[0].members[0].node.as_ref() != Some(&node);
    assert!(!world.until(&server, MINUTE, elsewhere).await.unwrap(), "nobody else has its data");
    let view = server.service(&name("orders")).await.unwrap();
    assert_eq!(view.state, ServiceState::Unavailable, "{view:?}");
    let why = server.why(&member("orders-0")).await.unwrap();
    let told = |text: &str| why.lines.iter().any(|line| line.text.contains(text));
    assert!(why.lines.iter().any(|line| line.reason == Some(Reason::PlacementNone)), "{why:?}");
    assert!(told(&format!("are on the disk of {node}")) && told("is dead (NodeProvenDead)"), "{why:?}");
    assert!(why.next_action.as_ref().unwrap().contains(&format!("bring {node} back")), "{why:?}");
    let blocked = view.conditions.iter().find(|found| found.kind == ConditionKind::Blocked).unwrap();
    assert_eq!(blocked.reason, Some(Reason::PlacementNone), "{view:?}");

    world.revive(&node).unwrap();
    let healthy = |views: &[ServiceView]| views[0].state == ServiceState::Healthy;
    assert!(world.until(&server, MINUTE, healthy).await.unwrap());
    let after = record(&server, "orders-0").await;
    assert_eq!(placed(&world, "orders-0").await, node);
    assert_eq!((&after.id, &after.volumes, &after.address), (&before.id, &before.volumes, &before.address));
    assert!(after.epoch > before.epoch, "the earlier life of its node is fenced");
    assert_eq!(writable(&world, "orders-0"), 1);
}

/// A silent node is nothing to be confirmed dead: that would bring the data to nobody.
#[tokio::test(start_paused = true)]
async fn of_a_silent_node_with_the_disk_only_its_return_is_waited_for() {
    let (mut world, server) = world(4).await;
    world.create(&server, "orders", 1).await.unwrap();
    let node = placed(&world, "orders-0").await;
    world.silence(&node, true);
    let told = |views: &[ServiceView]| {
        views[0].conditions.iter().any(|found| found.reason == Some(Reason::PlacementNone))
    };
    assert!(world.until(&server, MINUTE, told).await.unwrap());
    let why = server.why(&member("orders-0")).await.unwrap();
    assert!(why.lines.iter().any(|line| line.text.contains("is silent")), "{why:?}");
    assert!(!why.next_action.unwrap().contains("confirm-dead"));
    assert_eq!(writable(&world, "orders-0"), 1, "what runs there is left alone");
    world.silence(&node, false);
    let healthy = |views: &[ServiceView]| views[0].state == ServiceState::Healthy;
    assert!(world.until(&server, MINUTE, healthy).await.unwrap());
}

/// Members of a group are spread before they have data, and stay so: those that are put together first would be for good.
#[tokio::test(start_paused = true)]
async fn a_deleted_service_that_is_brought_back_is_placed_where_its_disks_are() {
    let (mut world, server) = world(4).await;
    world.create(&server, "orders", 3).await.unwrap();
    let mut before = Vec::new();
    for ordinal in 0..3 {
        before.push(placed(&world, &format!("orders-{ordinal}")).await);
    }
    assert_eq!(before.iter().collect::<BTreeSet<_>>().len(), 3, "{before:?}");
    let deleted = server.delete(&name("orders"), Guard::default()).await.unwrap();
    world.finish(&server, &deleted.id).await.unwrap();
    // The crowd that a placement by numbers would avoid.
    for other in ["one", "two", "three"] {
        world.create(&server, other, 3).await.unwrap();
    }
    let back = server.undelete(&name("orders"), Guard::default()).await.unwrap();
    world.finish(&server, &back.id).await.unwrap();
    for (ordinal, node) in before.iter().enumerate() {
        assert_eq!(&placed(&world, &format!("orders-{ordinal}")).await, node);
    }
}

/// Whatever the records say, the disk decides: a claim on a node that has not got it takes nothing.
#[tokio::test(start_paused = true)]
async fn a_claim_without_the_disk_takes_nothing() {
    let (mut world, server) = world(2).await;
    world.create(&server, "orders", 1).await.unwrap();
    let node = placed(&world, "orders-0").await;
    let other: NodeName = world.nodes.keys().find(|found| **found != node).unwrap().clone();
    world.kill(&node);
    let found = server.store().member(&name("orders"), &member("orders-0")).await.unwrap().unwrap();
    let mut wrong = Member::clone(&found.body);
    wrong.placed_on = Some(other.clone());
    let key = server.store().member_key(&name("orders"), &member("orders-0")).unwrap();
    let written = server.store().write(&key, &found, &wrong).await.unwrap();
    drop(written);
    let claimant = world.nodes[&other].claimant();
    let progress = claimant.advance(&name("orders"), &member("orders-0")).await.unwrap();
    let ClaimProgress::Waiting(reason, message) = progress else { panic!("{progress:?}") };
    assert_eq!(reason, Reason::PlacementNone);
    assert!(message.contains(&format!("is on the disk of {node}")), "{message}");
    let after = record(&server, "orders-0").await;
    assert_eq!((after.epoch, after.holder), (wrong.epoch, wrong.holder), "nothing was touched");
    assert_ne!(after.phase, MemberPhase::Claiming);
}

async fn rebuilt(world: &mut World, server: &Control, text: &str) -> NodeName {
    let node = placed(world, text).await;
    world.kill(&node);
    let name = member(text);
    let waits = |views: &[ServiceView]| {
        views[0].conditions.iter().any(|found| found.reason == Some(Reason::PlacementNone))
    };
    assert!(world.until(server, MINUTE, waits).await.unwrap(), "nothing is rebuilt without a word");
    server.rebuild(&name, &node).await.unwrap();
    server.rebuild(&name, &node).await.expect("said twice is said once");
    node
}

#[tokio::test(start_paused = true)]
async fn a_replica_whose_disk_is_gone_is_rebuilt_elsewhere_on_an_operators_word() {
    let (mut world, server) = world(4).await;
    world.create(&server, "orders", 3).await.unwrap();
    let before = record(&server, "orders-2").await;
    let node = rebuilt(&mut world, &server, "orders-2").await;
    let healthy = |views: &[ServiceView]| views[0].state == ServiceState::Healthy;
    assert!(world.until(&server, MINUTE, healthy).await.unwrap());
    let on = placed(&world, "orders-2").await;
    assert_ne!(on, node);
    for _ in 0..8 {
        world.round(&server).await.unwrap();
    }
    let after = record(&server, "orders-2").await;
    assert_eq!((&after.id, &after.address.unwrap().address), (&before.id, &before.address.unwrap().address));
    assert_ne!(after.volumes[0].id, before.volumes[0].id);
    assert!(after.initialised.is_some() && !after.recloning);
    assert!(after.events.iter().any(|event| event.reason == Reason::OperatorOverride));
    assert!(after.events.iter().any(|event| event.reason == Reason::Recloned));

    // The node comes back, and with it what was on its disk: nothing is done with that.
    world.revive(&node).unwrap();
    for _ in 0..8 {
        world.round(&server).await.unwrap();
    }
    assert_eq!(placed(&world, "orders-2").await, on);
    assert_eq!(world.nodes.values().filter(|node| node.runs(&member("orders-2"))).count(), 1);
}

fn refusal(result: ControlResult<ServiceView>) -> (Reason, String) {
    let error = result.unwrap_err();
    (error.reason(), error.to_string())
}

#[tokio::test(start_paused = true)]
async fn the_last_copy_is_not_given_up() {
    let (mut world, server) = world(3).await;
    world.create(&server, "orders", 1).await.unwrap();
    let node = placed(&world, "orders-0").await;
    let other = world.nodes.keys().find(|found| **found != node).unwrap().clone();
    let name = member("orders-0");
    let (reason, text) = refusal(server.rebuild(&name, &other).await);
    assert_eq!(reason, Reason::EpochStale, "{text}");
    assert!(text.contains(&format!("on the disk of {node}, not of {other}")), "{text}");
    let (reason, text) = refusal(server.rebuild(&name, &node).await);
    assert_eq!(reason, Reason::FenceUnproven, "it runs: {text}");
    assert!(text.contains(&format!("steadfast node confirm-dead {node}")), "{text}");
    world.kill(&node);
    let dead = |views: &[ServiceView]| {
        views[0].conditions.iter().any(|found| found.reason == Some(Reason::PlacementNone))
    };
    assert!(world.until(&server, MINUTE, dead).await.unwrap());
    let before = record(&server, "orders-0").await;
    let (reason, text) = refusal(server.rebuild(&name, &node).await);
    assert_eq!(reason, Reason::DurabilityUnproven, "{text}");
    assert!(text.contains("the only copy"), "{text}");
    assert_eq!(record(&server, "orders-0").await, before, "nothing was touched");
}

/// Volumes are kept when their member goes; but not one that is gone, which nobody could ever take off its node.
#[tokio::test(start_paused = true)]
async fn a_member_that_goes_after_its_disk_was_given_up_leaves_no_volume() {
    let (mut world, server) = world(3).await;
    world.create(&server, "orders", 3).await.unwrap();
    let lost = record(&server, "orders-2").await.volumes[0].id.clone().unwrap();
    rebuilt(&mut world, &server, "orders-2").await;
    let deleted = server.delete(&name("orders"), Guard::default()).await.unwrap();
    world.finish(&server, &deleted.id).await.unwrap();
    assert!(world.volumes.all().iter().all(|volume| volume.id != lost), "{:?}", world.volumes.all());
    assert!(record(&server, "orders-2").await.volumes.is_empty());
    assert_eq!(record(&server, "orders-0").await.volumes.len(), 1, "what is whole is kept");
}

/// What a replica confirmed before its disk was lost it has forgotten: it may not stand for that in an election.
#[tokio::test(start_paused = true)]
async fn a_member_that_was_rebuilt_and_has_not_caught_up_is_not_elected() {
    let (mut world, server) = world(4).await;
    world.create(&server, "orders", 3).await.unwrap();
    for node in world.nodes.values_mut() {
        node.lags(&member("orders-2"));
    }
    rebuilt(&mut world, &server, "orders-2").await;
    for _ in 0..40 {
        world.round(&server).await.unwrap();
        world.env.clock().sleep(Duration::from_millis(250)).await;
    }
    assert!(record(&server, "orders-2").await.recloning, "it lags");
    let first = placed(&world, "orders-0").await;
    world.kill(&first);
    let promoted = |views: &[ServiceView]| {
        views[0].primary.as_ref().is_some_and(|primary| *primary == member("orders-2"))
    };
    assert!(!world.until(&server, MINUTE * 2, promoted).await.unwrap());
    assert_eq!(writable(&world, "orders-2"), 0);
}

/// A world of so many nodes with so many voters that elect their own leader, and a server.
async fn quorum(nodes: u32, voters: u32, learners: bool) -> (World, Control) {
    let (mut world, server) = world(nodes).await;
    let mut file = service_file("orders", voters);
    file["blueprint"] = "quorum@1".into();
    file["options"] = serde_json::json!({ "learners": learners });
    let created = server.apply(file, Guard::default()).await.unwrap();
    world.finish(&server, &created.id).await.unwrap();
    (world, server)
}

/// Rounds for a time.
async fn rounds(world: &mut World, server: &Control, count: u32) {
    for _ in 0..count {
        world.round(server).await.unwrap();
        world.env.clock().sleep(Duration::from_millis(250)).await;
    }
}

fn votes(world: &World, text: &str) -> bool {
    world.nodes.values().any(|node| node.votes(&member(text)))
}

fn is_healthy(views: &[ServiceView]) -> bool {
    views[0].state == ServiceState::Healthy
}

fn lag(world: &mut World, text: &str, lags: bool) {
    for node in world.nodes.values_mut() {
        match lags {
            true => node.lags(&member(text)),
            false => drop(node.lagging.remove(&member(text))),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_voter_whose_disk_is_gone_learns_before_it_votes_again() {
    let (mut world, server) = quorum(4, 3, true).await;
    let before = record(&server, "orders-2").await;
    lag(&mut world, "orders-2", true);
    let node = rebuilt(&mut world, &server, "orders-2").await;
    rounds(&mut world, &server, 40).await;
    let learning = record(&server, "orders-2").await;
    assert!(learning.recloning && learning.generation == before.generation, "{learning:?}");
    assert_ne!(placed(&world, "orders-2").await, node);
    assert!(!votes(&world, "orders-2"));

    // As long as it learns it is none of those that are counted.
    let view = server.service(&name("orders")).await.unwrap();
    assert_eq!((view.state, view.serving), (ServiceState::Degraded, 2), "{view:?}");
    let condition = |view: &ServiceView, kind| {
        let found = view.conditions.iter().find(|found| found.kind == kind).unwrap();
        (found.status, found.reason.clone(), found.message.clone())
    };
    assert_eq!(condition(&view, ConditionKind::Redundant).2, "2 of 3 members serve");
    let (_, reason, text) = condition(&view, ConditionKind::ZoneLossSafe);
    assert_eq!(reason, Some(Reason::QuorumInOneZone), "{text}");
    assert!(text.contains("1 have no vote yet"), "{text}");
    let restart = server.restart(&name("orders"), Guard::default()).await.unwrap();
    rounds(&mut world, &server, 40).await;
    for other in ["orders-0", "orders-1"] {
        assert_eq!(
            record(&server, other).await.generation,
            before.generation,
            "two of three are all there are"
        );
    }

    lag(&mut world, "orders-2", false);
    world.finish(&server, &restart.id).await.unwrap();
    assert!(world.until(&server, MINUTE, is_healthy).await.unwrap());
    let after = record(&server, "orders-2").await;
    assert!(!after.recloning && after.generation > before.generation, "it was started anew to vote");
    assert!(votes(&world, "orders-2"));
    assert_eq!((&after.id, &after.address.unwrap().address), (&before.id, &before.address.unwrap().address));
    let told = |reason| after.events.iter().filter(|event| event.reason == reason).count();
    assert_eq!((told(Reason::OperatorOverride), told(Reason::Recloned)), (1, 1));
    let view = server.service(&name("orders")).await.unwrap();
    assert!(!condition(&view, ConditionKind::ZoneLossSafe).2.contains("no vote yet"));
}

/// A learner that serves is in nobody's quorum: with one of three voters left, nobody is elected.
#[tokio::test(start_paused = true)]
async fn a_learner_makes_no_quorum() {
    let (mut world, server) = quorum(5, 3, true).await;
    lag(&mut world, "orders-2", true);
    rebuilt(&mut world, &server, "orders-2").await;
    rounds(&mut world, &server, 40).await;
    let (first, second) = (placed(&world, "orders-0").await, placed(&world, "orders-1").await);
    world.kill(&second);
    lag(&mut world, "orders-2", false);
    let serves = |views: &[ServiceView]| views[0].serving > 0;
    rounds(&mut world, &server, 8).await;
    assert!(!world.until(&server, MINUTE, serves).await.unwrap());
    let view = server.service(&name("orders")).await.unwrap();
    assert_eq!(view.state, ServiceState::Unavailable, "{view:?}");
    assert!(record(&server, "orders-2").await.recloning, "there was nobody to catch up with");
    // Nor may the next one be given up: what the two of three had confirmed may be on its disk alone.
    world.kill(&first);
    rounds(&mut world, &server, 40).await;
    for (text, node) in [("orders-0", &first), ("orders-1", &second)] {
        let (reason, text) = refusal(server.rebuild(&member(text), node).await);
        assert_eq!(reason, Reason::VoterAmnesia, "{text}");
        assert!(text.contains("0 of 2 others serve with a vote, and 2 must"), "{text}");
    }
    world.revive(&first).unwrap();
    world.revive(&second).unwrap();
    assert!(world.until(&server, MINUTE * 2, is_healthy).await.unwrap());
    assert!(votes(&world, "orders-2"));
}

/// Of five voters two may learn at a time, and a third may not: three have to agree.
#[tokio::test(start_paused = true)]
async fn as_many_may_learn_as_leave_a_quorum() {
    let (mut world, server) = quorum(9, 5, true).await;
    for text in ["orders-4", "orders-3"] {
        lag(&mut world, text, true);
        rebuilt(&mut world, &server, text).await;
        rounds(&mut world, &server, 40).await;
        assert!(record(&server, text).await.recloning);
    }
    let view = server.service(&name("orders")).await.unwrap();
    assert_eq!(view.state, ServiceState::Degraded, "{view:?}");
    let third = placed(&world, "orders-2").await;
    world.kill(&third);
    rounds(&mut world, &server, 40).await;
    let before = record(&server, "orders-2").await;
    let (reason, text) = refusal(server.rebuild(&member("orders-2"), &third).await);
    assert_eq!(reason, Reason::VoterAmnesia, "{text}");
    assert!(text.contains(&format!("bring {third} back")), "{text}");
    assert_eq!(record(&server, "orders-2").await, before, "nothing was touched");
    world.revive(&third).unwrap();
    for text in ["orders-3", "orders-4"] {
        lag(&mut world, text, false);
    }
    assert!(world.until(&server, MINUTE * 2, is_healthy).await.unwrap());
    assert!(votes(&world, "orders-3") && votes(&world, "orders-4"));
}

#[tokio::test(start_paused = true)]
async fn a_learner_that_has_caught_up_waits_while_its_service_is_paused() {
    let (mut world, server) = quorum(4, 3, true).await;
    lag(&mut world, "orders-2", true);
    rebuilt(&mut world, &server, "orders-2").await;
    rounds(&mut world, &server, 40).await;
    server.pause(&name("orders")).await.unwrap();
    lag(&mut world, "orders-2", false);
    rounds(&mut world, &server, 40).await;
    assert!(record(&server, "orders-2").await.recloning && !votes(&world, "orders-2"));
    let why = server.why(&member("orders-2")).await.unwrap();
    assert!(why.lines.iter().any(|line| line.reason == Some(Reason::PausedByOperator)), "{why:?}");
    server.resume(&name("orders")).await.unwrap();
    assert!(world.until(&server, MINUTE, is_healthy).await.unwrap());
    assert!(votes(&world, "orders-2"));
}

#[tokio::test(start_paused = true)]
async fn the_only_voter_is_the_only_copy() {
    let (mut world, server) = quorum(3, 1, true).await;
    let node = placed(&world, "orders-0").await;
    world.kill(&node);
    rounds(&mut world, &server, 40).await;
    let before = record(&server, "orders-0").await;
    let (reason, text) = refusal(server.rebuild(&member("orders-0"), &node).await);
    assert_eq!(reason, Reason::DurabilityUnproven, "{text}");
    assert!(text.contains("the only copy"), "{text}");
    assert_eq!(record(&server, "orders-0").await, before, "nothing was touched");
}

/// A voter that has forgotten what it voted for must not vote again under its old id.
#[tokio::test(start_paused = true)]
async fn a_voter_of_an_engine_without_learners_is_not_rebuilt() {
    let (mut world, server) = quorum(4, 3, false).await;
    let node = placed(&world, "orders-2").await;
    world.kill(&node);
    let waits = |views: &[ServiceView]| {
        views[0].conditions.iter().any(|found| found.reason == Some(Reason::PlacementNone))
    };
    assert!(world.until(&server, MINUTE, waits).await.unwrap());
    let remedy = server.why(&member("orders-2")).await.unwrap().next_action.unwrap();
    assert!(remedy.contains(&format!("bring {node} back")) && !remedy.contains("rebuild"), "{remedy}");
    let before = record(&server, "orders-2").await;
    let (reason, text) = refusal(server.rebuild(&member("orders-2"), &node).await);
    assert_eq!(reason, Reason::VoterAmnesia, "{text}");
    assert_eq!(record(&server, "orders-2").await, before, "nothing was touched");
    world.revive(&node).unwrap();
    assert!(world.until(&server, MINUTE, is_healthy).await.unwrap());
}
