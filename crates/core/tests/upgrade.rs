//! Another revision of a spec, rolled out one member at a time, and back.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

use std::time::Duration;

use serde_json::{Value, json};
use steadfast_core::control::{Control, ControlError, Guard};
use steadfast_core::ids::{MemberName, NodeName, Revision, ServiceName};
use steadfast_core::model::{Operation, OperationState, Reason, ServiceState};
use steadfast_core::testing::TestEnvironment;
use steadfast_core::world::{World, service_file};

const MINUTE: Duration = Duration::from_secs(60);
const OLD: Revision = Revision(1);
const NEW: Revision = Revision(2);

fn orders() -> ServiceName {
    "orders".parse().unwrap()
}

fn member(ordinal: u32) -> MemberName {
    format!("orders-{ordinal}").parse().unwrap()
}

fn version(version: u32) -> Value {
    let mut file = service_file("orders", 3);
    file["blueprint"] = format!("plain@{version}").into();
    file
}

async fn served(nodes: u32) -> (World, Control) {
    let mut world = World::new(TestEnvironment::new(13).environment, nodes).await.unwrap();
    let server = world.plain_server("server-1").unwrap();
    let created = server.apply(version(1), Guard::default()).await.unwrap();
    world.finish(&server, &created.id).await.unwrap();
    (world, server)
}

async fn to(server: &Control, wanted: u32) -> Operation {
    server.upgrade(&orders(), version(wanted), Guard::default()).await.unwrap()
}

/// The revisions that the engines run, by ordinal.
fn running(world: &World) -> [Option<Revision>; 3] {
    [0, 1, 2].map(|ordinal| world.nodes.values().find_map(|node| node.revision_of(&member(ordinal))))
}

async fn tick(world: &mut World, server: &Control) {
    world.round(server).await.unwrap();
    world.env.clock().sleep(Duration::from_millis(250)).await;
}

async fn until_running(world: &mut World, server: &Control, wanted: [Option<Revision>; 3]) {
    for _ in 0..400 {
        if running(world) == wanted {
            return;
        }
        tick(world, server).await;
    }
    panic!("{:?}: {:?}", running(world), server.operations(None).await.unwrap().last());
}

async fn still(world: &mut World, server: &Control, wanted: [Option<Revision>; 3]) {
    for _ in 0..100 {
        tick(world, server).await;
        assert_eq!(running(world), wanted);
    }
}

async fn healthy(world: &mut World, server: &Control) {
    let healthy = world.until(server, MINUTE * 3, |views| views[0].state == ServiceState::Healthy).await;
    assert!(healthy.unwrap(), "{:?}", server.service(&orders()).await.unwrap());
}

async fn node_of(world: &World, ordinal: u32) -> NodeName {
    world.holder(&orders(), &member(ordinal)).await.unwrap().unwrap()
}

fn refuse(world: &mut World, ordinal: u32, revision: Revision) {
    for node in world.nodes.values_mut() {
        node.refuses.insert((member(ordinal), revision));
    }
}

#[tokio::test(start_paused = true)]
async fn every_member_is_upgraded_one_at_a_time_and_the_leader_last() {
    let (mut world, server) = served(3).await;
    let operation = to(&server, 2).await;
    let mut now = operation;
    let mut seen = Vec::new();
    while !now.state.is_final() {
        tick(&mut world, &server).await;
        seen.push(running(&world));
        now = server.operation(&now.id).await.unwrap();
    }
    seen.dedup();
    assert_eq!(now.state, OperationState::Succeeded, "{now:?}");
    let (old, new) = (Some(OLD), Some(NEW));
    assert_eq!(seen, [[old, old, old], [old, new, old], [old, new, new], [new, new, new]]);
    healthy(&mut world, &server).await;
    let view = server.service(&orders()).await.unwrap();
    assert_eq!((view.blueprint.as_str(), view.revision), ("plain@2", NEW));
    assert_ne!(view.primary, Some(member(0)), "it handed over before it was upgraded");
}

#[tokio::test(start_paused = true)]
async fn a_bad_revision_stops_at_the_first_member_and_is_rolled_back() {
    let (mut world, server) = served(3).await;
    (0..3).for_each(|ordinal| refuse(&mut world, ordinal, NEW));
    let bad = to(&server, 2).await;
    until_running(&mut world, &server, [Some(OLD), None, Some(OLD)]).await;
    still(&mut world, &server, [Some(OLD), None, Some(OLD)]).await;
    assert_eq!(server.operation(&bad.id).await.unwrap().state, OperationState::Waiting);
    let back = server.roll_back(&orders(), OLD, Guard::default()).await.unwrap();
    assert_eq!(world.finish(&server, &back.id).await.unwrap().state, OperationState::Succeeded);
    assert_eq!(server.operation(&bad.id).await.unwrap().state, OperationState::Superseded);
    healthy(&mut world, &server).await;
    assert_eq!(running(&world), [Some(OLD); 3]);
    assert_eq!(server.service(&orders()).await.unwrap().primary, Some(member(0)), "nobody else was touched");
    let generations =
        async |ordinal| server.store().member(&orders(), &member(ordinal)).await.unwrap().unwrap().body;
    assert_eq!(generations(2).await.generation.0, 1);
}

#[tokio::test(start_paused = true)]
async fn a_rollback_half_way_touches_only_those_that_went() {
    let (mut world, server) = served(3).await;
    refuse(&mut world, 2, NEW);
    to(&server, 2).await;
    until_running(&mut world, &server, [Some(OLD), Some(NEW), None]).await;
    let back = to(&server, 1).await;
    assert_eq!(world.finish(&server, &back.id).await.unwrap().state, OperationState::Succeeded);
    healthy(&mut world, &server).await;
    assert_eq!(running(&world), [Some(OLD); 3]);
    assert_eq!(server.service(&orders()).await.unwrap().revision, OLD, "the same spec is the same revision");
    let leader = server.store().member(&orders(), &member(0)).await.unwrap().unwrap().body;
    assert_eq!(leader.generation.0, 1);
}

#[tokio::test(start_paused = true)]
async fn a_second_failure_in_the_middle_stops_the_line_and_spreads_nothing() {
    let (mut world, server) = served(3).await;
    refuse(&mut world, 1, NEW);
    to(&server, 2).await;
    until_running(&mut world, &server, [Some(OLD), None, Some(OLD)]).await;
    // Another one fails by itself: it is not told the revision that has just failed.
    for node in world.nodes.values_mut() {
        node.broken.insert(member(2));
    }
    for _ in 0..60 {
        tick(&mut world, &server).await;
    }
    let two = server.store().member(&orders(), &member(2)).await.unwrap().unwrap().body;
    assert_eq!((two.revision, two.generation.0), (OLD, 1));
    // Going back is possible although two are down, and heals the one that it can.
    let back = server.roll_back(&orders(), OLD, Guard::default()).await.unwrap();
    for _ in 0..60 {
        tick(&mut world, &server).await;
    }
    assert_eq!(world.nodes.values().find_map(|node| node.revision_of(&member(1))), Some(OLD));
    world.nodes.values_mut().for_each(|node| node.broken.clear());
    assert_eq!(world.finish(&server, &back.id).await.unwrap().state, OperationState::Succeeded);
    healthy(&mut world, &server).await;
}

#[tokio::test(start_paused = true)]
async fn a_member_that_moves_half_way_comes_back_in_the_revision_it_was_told_last() {
    let (mut world, server) = served(4).await;
    refuse(&mut world, 2, NEW);
    to(&server, 2).await;
    until_running(&mut world, &server, [Some(OLD), Some(NEW), None]).await;
    for ordinal in [1, 0] {
        let node = node_of(&world, ordinal).await;
        world.kill(&node);
        for _ in 0..40 {
            tick(&mut world, &server).await;
        }
        assert_ne!(node_of(&world, ordinal).await, node);
        world.revive(&node).unwrap();
    }
    until_running(&mut world, &server, [Some(OLD), Some(NEW), None]).await;
}

#[tokio::test(start_paused = true)]
async fn a_third_revision_half_way_and_a_leap_are_refused() {
    let (mut world, server) = served(3).await;
    let leap = server.upgrade(&orders(), version(3), Guard::default()).await.unwrap_err();
    assert!(leap.to_string().contains("more than one step"), "{leap}");
    refuse(&mut world, 1, NEW);
    to(&server, 2).await;
    until_running(&mut world, &server, [Some(OLD), None, Some(OLD)]).await;
    let mut third = version(1);
    third["options"] = json!({"x": 1});
    let refused = server.upgrade(&orders(), third, Guard::default()).await.unwrap_err();
    let ControlError::Refused { reason, message, .. } = refused else { panic!("{refused}") };
    assert_eq!(reason, Reason::ChangeUnsupported);
    assert!(message.contains("a third"), "{message}");
    let scaled = server.upgrade(&orders(), service_file("orders", 5), Guard::default()).await.unwrap_err();
    assert!(scaled.to_string().contains("replicas"), "{scaled}");
}

#[tokio::test(start_paused = true)]
async fn a_pause_stops_the_line_and_an_upgrade_waits_for_who_is_silent() {
    let (mut world, server) = served(3).await;
    server.pause(&orders()).await.unwrap();
    let operation = to(&server, 2).await;
    still(&mut world, &server, [Some(OLD); 3]).await;
    let silent = node_of(&world, 2).await;
    world.silence(&silent, true);
    server.resume(&orders()).await.unwrap();
    still(&mut world, &server, [Some(OLD); 3]).await;
    world.silence(&silent, false);
    assert_eq!(world.finish(&server, &operation.id).await.unwrap().state, OperationState::Succeeded);
}

#[tokio::test(start_paused = true)]
async fn an_upgrade_to_what_there_is_and_one_asked_for_twice_do_nothing_more() {
    let (mut world, server) = served(3).await;
    let same = to(&server, 1).await;
    assert_eq!(world.finish(&server, &same.id).await.unwrap().state, OperationState::Succeeded);
    assert_eq!(server.service(&orders()).await.unwrap().revision, OLD);
    let key = Guard { idempotency_key: Some("k".to_owned()), ..Guard::default() };
    let once = server.upgrade(&orders(), version(2), key.clone()).await.unwrap();
    world.finish(&server, &once.id).await.unwrap();
    assert_eq!(server.upgrade(&orders(), version(2), key).await.unwrap().id, once.id);
    let unknown = server.roll_back(&orders(), Revision(9), Guard::default()).await.unwrap_err();
    assert!(matches!(unknown, ControlError::NotFound { .. }), "{unknown}");
}

#[tokio::test(start_paused = true)]
async fn a_stop_overtakes_an_upgrade_and_a_start_goes_on_with_it() {
    let (mut world, server) = served(3).await;
    to(&server, 2).await;
    until_running(&mut world, &server, [Some(OLD), Some(NEW), Some(OLD)]).await;
    let stop = server.stop(&orders(), Guard::default()).await.unwrap();
    assert_eq!(world.finish(&server, &stop.id).await.unwrap().state, OperationState::Succeeded);
    let start = server.start(&orders(), Guard::default()).await.unwrap();
    world.finish(&server, &start.id).await.unwrap();
    until_running(&mut world, &server, [Some(NEW); 3]).await;
    healthy(&mut world, &server).await;
}
