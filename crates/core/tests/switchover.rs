//! Leadership that moves in order: nobody leads before the old primary has stopped writing, and nobody who lacks
//! anything it wrote.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

use std::time::Duration;

use steadfast_core::control::{Control, ControlError, Guard};
use steadfast_core::ids::{MemberName, NodeName, ServiceName};
use steadfast_core::model::{OperationState, Reason, ServiceState};
use steadfast_core::testing::TestEnvironment;
use steadfast_core::world::{World, service_file};

const MINUTE: Duration = Duration::from_secs(60);

fn orders() -> ServiceName {
    "orders".parse().unwrap()
}

fn member(ordinal: u32) -> MemberName {
    format!("orders-{ordinal}").parse().unwrap()
}

/// A service of three, whose primary is `orders-0`.
async fn served(nodes: u32, options: serde_json::Value) -> (World, Control) {
    let mut file = service_file("orders", 3);
    file["options"] = options;
    created(nodes, file).await
}

async fn created(nodes: u32, file: serde_json::Value) -> (World, Control) {
    let mut world = World::new(TestEnvironment::new(11).environment, nodes).await.unwrap();
    let server = world.plain_server("server-1").unwrap();
    let created = server.apply(file, Guard::default()).await.unwrap();
    world.finish(&server, &created.id).await.unwrap();
    (world, server)
}

async fn three(nodes: u32) -> (World, Control) {
    served(nodes, serde_json::json!({})).await
}

fn writers(world: &World) -> Vec<u32> {
    (0..3).filter(|ordinal| world.nodes.values().any(|node| node.is_writable(&member(*ordinal)))).collect()
}

fn positions(world: &mut World, of: [u64; 3]) {
    for node in world.nodes.values_mut() {
        for (ordinal, position) in (0..).zip(of) {
            node.positions.insert(member(ordinal), position);
        }
    }
}

async fn primary(server: &Control) -> Option<MemberName> {
    server.service(&orders()).await.unwrap().primary
}

async fn node_of(world: &World, ordinal: u32) -> NodeName {
    world.holder(&orders(), &member(ordinal)).await.unwrap().unwrap()
}

async fn healthy(world: &mut World, server: &Control) {
    let healthy = world.until(server, MINUTE * 3, |views| views[0].state == ServiceState::Healthy).await;
    assert!(healthy.unwrap(), "{:?}", server.service(&orders()).await.unwrap());
}

async fn tick(world: &mut World, server: &Control) {
    world.round(server).await.unwrap();
    world.env.clock().sleep(Duration::from_millis(250)).await;
}

/// Until the term is raised, and no agent has heard of it.
async fn begun(server: &Control) {
    loop {
        let service = server.store().service(&orders()).await.unwrap().unwrap().body;
        if service.roles.values().any(|role| role.leader.is_none()) {
            return;
        }
        server.controller().shards().round().await.unwrap();
        server.controller().reconcile(&orders()).await.unwrap();
    }
}

/// The events that say this, in their words.
async fn said(server: &Control, reason: Reason) -> Vec<String> {
    let events = server.events(Some(&orders()), None, 1000).await.unwrap();
    events.into_iter().filter(|view| view.event.reason == reason).map(|view| view.event.message).collect()
}

#[tokio::test(start_paused = true)]
async fn leadership_moves_to_the_farthest_replica_and_the_name_with_it() {
    let (mut world, server) = three(3).await;
    positions(&mut world, [9, 7, 9]);
    let operation = server.switchover(&orders(), None, None, Guard::default()).await.unwrap();
    let mut seen = vec![writers(&world)];
    let mut now = operation;
    while !now.state.is_final() {
        tick(&mut world, &server).await;
        seen.push(writers(&world));
        now = server.operation(&now.id).await.unwrap();
    }
    assert_eq!(now.state, OperationState::Succeeded, "{now:?}");
    assert!(seen.iter().all(|writers| writers.len() <= 1), "{seen:?}");
    assert!(seen.contains(&vec![]), "the old one stops before the new one begins: {seen:?}");
    healthy(&mut world, &server).await;
    let view = server.service(&orders()).await.unwrap();
    assert_eq!((view.primary, view.role_term.unwrap().0), (Some(member(2)), 2));
    let zone = "world.steadfast.internal".parse().unwrap();
    let host = "primary.orders.world.steadfast.internal".parse().unwrap();
    let names = steadfast_core::registry::Registry::records(&world.registry, &zone).await.unwrap();
    let holds = names.into_iter().find(|(name, _)| *name == host).unwrap().1;
    let address = view.members[2].address.unwrap();
    assert_eq!(holds, steadfast_core::registry::RecordSet::Addresses([address].into()));
}

#[tokio::test(start_paused = true)]
async fn the_member_that_was_named_takes_over_and_asking_twice_is_asking_once() {
    let (mut world, server) = three(3).await;
    let key = Guard { idempotency_key: Some("k".to_owned()), ..Guard::default() };
    let once = server.switchover(&orders(), None, Some(member(2)), key.clone()).await.unwrap();
    assert_eq!(world.finish(&server, &once.id).await.unwrap().state, OperationState::Succeeded);
    let again = server.switchover(&orders(), None, Some(member(2)), key).await.unwrap();
    assert_eq!(again.id, once.id);
    assert_eq!(primary(&server).await, Some(member(2)));
}

#[tokio::test(start_paused = true)]
async fn nobody_is_promoted_while_the_old_primary_does_not_stop_writing() {
    let (mut world, server) = three(3).await;
    for node in world.nodes.values_mut() {
        node.stubborn.insert(member(0));
    }
    let operation = server.switchover(&orders(), None, None, Guard::default()).await.unwrap();
    let mut waited_for = Vec::new();
    let mut now = operation;
    while !now.state.is_final() {
        tick(&mut world, &server).await;
        assert_eq!(writers(&world), [0], "{now:?}");
        waited_for.extend(now.waiting.map(|(reason, _)| reason));
        now = server.operation(&now.id).await.unwrap();
    }
    assert_eq!(now.state, OperationState::Failed, "{now:?}");
    assert!(waited_for.contains(&Reason::FenceUnproven), "{waited_for:?}");
    healthy(&mut world, &server).await;
    assert_eq!(primary(&server).await, Some(member(0)));
    assert!(said(&server, Reason::Returned).await.iter().any(|text| text.contains("leads again")));
}

#[tokio::test(start_paused = true)]
async fn a_replica_that_lacks_anything_does_not_take_over_and_the_old_primary_leads_again() {
    let (mut world, server) = three(3).await;
    positions(&mut world, [9, 8, 7]);
    let operation = server.switchover(&orders(), None, None, Guard::default()).await.unwrap();
    let ended = world.finish(&server, &operation.id).await.unwrap();
    assert_eq!(ended.state, OperationState::Failed);
    assert!(ended.failure.unwrap().1.contains("orders-0 leads again"));
    healthy(&mut world, &server).await;
    assert_eq!(primary(&server).await, Some(member(0)));
    // What was missing arrives: the next attempt is a new one.
    positions(&mut world, [9, 9, 7]);
    let operation = server.switchover(&orders(), None, None, Guard::default()).await.unwrap();
    assert_eq!(world.finish(&server, &operation.id).await.unwrap().state, OperationState::Succeeded);
    assert_eq!(primary(&server).await, Some(member(1)));
}

#[tokio::test(start_paused = true)]
async fn another_replica_takes_over_if_the_chosen_one_fails_in_the_middle() {
    let (mut world, server) = three(3).await;
    let chosen = node_of(&world, 1).await;
    let operation = server.switchover(&orders(), None, Some(member(1)), Guard::default()).await.unwrap();
    begun(&server).await;
    for node in world.nodes.values_mut() {
        node.broken.insert(member(1));
    }
    let ended = world.finish(&server, &operation.id).await.unwrap();
    assert_eq!(ended.state, OperationState::Succeeded, "{ended:?}");
    assert_eq!(primary(&server).await, Some(member(2)));
    assert!(!world.nodes[&chosen].is_writable(&member(1)));
}

#[tokio::test(start_paused = true)]
async fn the_old_primary_leads_again_if_its_node_dies_before_it_has_stopped() {
    let (mut world, server) = three(4).await;
    for node in world.nodes.values_mut() {
        node.stubborn.insert(member(0));
    }
    let operation = server.switchover(&orders(), None, None, Guard::default()).await.unwrap();
    begun(&server).await;
    let node = node_of(&world, 0).await;
    world.kill(&node);
    let ended = world.finish(&server, &operation.id).await.unwrap();
    assert_eq!(ended.state, OperationState::Failed, "what it wrote last is on its volume alone");
    healthy(&mut world, &server).await;
    assert_eq!(primary(&server).await, Some(member(0)), "it returned elsewhere, with its data");
}

#[tokio::test(start_paused = true)]
async fn a_restart_hands_over_before_the_primary_is_touched() {
    let (mut world, server) = three(3).await;
    let operation = server.restart(&orders(), Guard::default()).await.unwrap();
    let mut now = operation;
    while !now.state.is_final() {
        tick(&mut world, &server).await;
        let generation = server.store().member(&orders(), &member(0)).await.unwrap().unwrap().body.generation;
        assert!(generation.0 == 1 || primary(&server).await != Some(member(0)), "it leads and is restarted");
        now = server.operation(&now.id).await.unwrap();
    }
    assert_eq!(now.state, OperationState::Succeeded);
    healthy(&mut world, &server).await;
    assert_ne!(primary(&server).await, Some(member(0)));
    assert_eq!(said(&server, Reason::Switchover).await.len(), 2, "handed over, and taken over");
}

#[tokio::test(start_paused = true)]
async fn a_restart_in_place_leaves_leadership_where_it_is() {
    let (mut world, server) = served(3, serde_json::json!({"rolling": "in_place"})).await;
    let operation = server.restart(&orders(), Guard::default()).await.unwrap();
    assert_eq!(world.finish(&server, &operation.id).await.unwrap().state, OperationState::Succeeded);
    let view = server.service(&orders()).await.unwrap();
    assert_eq!((view.primary, view.role_term.unwrap().0), (Some(member(0)), 1));
}

#[tokio::test(start_paused = true)]
async fn a_restart_falls_back_to_in_place_once_and_says_so() {
    let (mut world, server) = three(3).await;
    positions(&mut world, [9, 8, 8]);
    let operation = server.restart(&orders(), Guard::default()).await.unwrap();
    let ended = world.finish(&server, &operation.id).await.unwrap();
    assert_eq!(ended.state, OperationState::Succeeded, "{ended:?}");
    healthy(&mut world, &server).await;
    assert_eq!(primary(&server).await, Some(member(0)));
    let restarts = said(&server, Reason::RestartRequested).await;
    assert!(restarts.iter().any(|text| text.contains("in place: orders-1 was to take over")), "{restarts:?}");
    assert_eq!(said(&server, Reason::Switchover).await.len(), 1, "tried once");
    // The failure is forgotten, so that the next restart tries again.
    let service = server.store().service(&orders()).await.unwrap().unwrap().body;
    let role = service.roles.values().next().unwrap();
    assert_eq!(role.successor, None);
}

#[tokio::test(start_paused = true)]
async fn an_only_member_is_restarted_in_place() {
    let mut world = World::new(TestEnvironment::new(11).environment, 1).await.unwrap();
    let server = world.plain_server("server-1").unwrap();
    world.create(&server, "orders", 1).await.unwrap();
    let operation = server.restart(&orders(), Guard::default()).await.unwrap();
    assert_eq!(world.finish(&server, &operation.id).await.unwrap().state, OperationState::Succeeded);
    let restarts = said(&server, Reason::RestartRequested).await;
    assert!(restarts.iter().any(|text| text.contains("in place: no replica is ready")), "{restarts:?}");
}

#[tokio::test(start_paused = true)]
async fn a_pause_keeps_leadership_where_it_is_and_ends_no_handover_half_way() {
    let (mut world, server) = three(3).await;
    server.pause(&orders()).await.unwrap();
    let operation = server.switchover(&orders(), None, None, Guard::default()).await.unwrap();
    assert!(!world.until(&server, MINUTE, |views| views[0].operation.is_none()).await.unwrap());
    assert_eq!(primary(&server).await, Some(member(0)));
    let waiting = server.operation(&operation.id).await.unwrap().waiting.unwrap();
    assert_eq!(waiting.0, Reason::PausedByOperator);
    server.resume(&orders()).await.unwrap();
    tick(&mut world, &server).await;
    server.pause(&orders()).await.unwrap();
    let ended = world.finish(&server, &operation.id).await.unwrap();
    assert_eq!(ended.state, OperationState::Succeeded, "what has begun is finished: writes wait for it");
    let again = server.switchover(&orders(), None, None, Guard::default()).await.unwrap();
    assert_eq!(server.cancel(&again.id).await.unwrap().state, OperationState::Cancelled);
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_handed_over_is_refused() {
    let (mut world, server) = three(3).await;
    for wrong in ["orders-0", "orders-7", "other-1"] {
        let asked = server.switchover(&orders(), None, Some(wrong.parse().unwrap()), Guard::default()).await;
        let ControlError::Refused { reason, .. } = asked.unwrap_err() else { panic!("{wrong}") };
        assert_eq!(reason, Reason::ConfigInvalid, "{wrong}");
    }
    let group = Some("shard".parse().unwrap());
    let asked = server.switchover(&orders(), group, None, Guard::default()).await;
    assert!(matches!(asked.unwrap_err(), ControlError::Refused { .. }));
    let mut file = service_file("zk", 3);
    file["blueprint"] = "quorum".into();
    let created = server.apply(file, Guard::default()).await.unwrap();
    world.finish(&server, &created.id).await.unwrap();
    let asked = server.switchover(&"zk".parse().unwrap(), None, None, Guard::default()).await;
    let ControlError::Refused { reason, .. } = asked.unwrap_err() else { panic!("zk") };
    assert_eq!(reason, Reason::CapabilityMissing);
    let stop = server.stop(&orders(), Guard::default()).await.unwrap();
    world.finish(&server, &stop.id).await.unwrap();
    let asked = server.switchover(&orders(), None, None, Guard::default()).await;
    assert!(matches!(asked.unwrap_err(), ControlError::Conflict { .. }));
}

/// It would wait for a replica for ever, and keep every other operation waiting.
#[tokio::test(start_paused = true)]
async fn the_only_member_has_nobody_to_hand_over_to() {
    let (mut world, server) = created(2, service_file("orders", 1)).await;
    let asked = server.switchover(&orders(), None, None, Guard::default()).await;
    let ControlError::Refused { reason, message, .. } = asked.unwrap_err() else { panic!("it was begun") };
    assert_eq!(reason, Reason::ConfigInvalid);
    assert!(message.contains("orders-0 is the only member"), "{message}");
    let scaled = server.scale(&orders(), None, 2, Guard::default()).await.unwrap();
    world.finish(&server, &scaled.id).await.unwrap();
    let operation = server.switchover(&orders(), None, None, Guard::default()).await.unwrap();
    world.finish(&server, &operation.id).await.unwrap();
    assert_eq!(primary(&server).await, Some(member(1)));
}
