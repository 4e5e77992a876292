//! The workflows over memory backends: what a user asks for comes about, and stays so through loss.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

mod kit;

use std::sync::Arc;
use std::time::Duration;

use kit::{MINUTE, member, name, placed, world, writable};
use steadfast_core::control::{Control, ControlError, Guard};
use steadfast_core::ids::NodeName;
use steadfast_core::metadata::WriteOutcome;
use steadfast_core::model::{
    MemberPhase, Operation, OperationState, Reason, Service, ServiceState, StepState,
};
use steadfast_core::orchestrator::Orchestrator;
use steadfast_core::registry::Registry;
use steadfast_core::volume::VolumeProvider;
use steadfast_core::world::service_file;

async fn state(server: &Control, service: &str) -> ServiceState {
    server.service(&name(service)).await.unwrap().state
}

#[tokio::test(start_paused = true)]
async fn a_created_service_serves_on_three_zones_with_names() {
    let (mut world, server) = world(3).await;
    world.create(&server, "orders", 3).await.unwrap();
    let view = server.service(&name("orders")).await.unwrap();
    assert_eq!(view.state, ServiceState::Healthy);
    assert_eq!(view.primary, Some(member("orders-0")));
    let zones: std::collections::BTreeSet<_> =
        view.members.iter().map(|member| member.zone.clone()).collect();
    assert_eq!(zones.len(), 3, "one member in each zone");
    for host in ["orders-0", "orders", "primary.orders", "replicas.orders"] {
        let host = format!("{host}.world.steadfast.internal").parse().unwrap();
        let found =
            world.registry.resolve(&host, steadfast_core::registry::RecordKind::Addresses).await.unwrap();
        assert!(found.is_some(), "{host} resolves");
    }
}

#[tokio::test(start_paused = true)]
async fn the_same_create_twice_makes_one_service_and_one_answer() {
    let (mut world, server) = world(3).await;
    let first = world.create(&server, "orders", 3).await.unwrap();
    let second = server.apply(service_file("orders", 3), Guard::default()).await.unwrap();
    assert_eq!(first.id, second.id);
    let key = Guard { idempotency_key: Some("k".to_owned()), ..Guard::default() };
    let once = server.restart(&name("orders"), key.clone()).await.unwrap();
    let again = server.restart(&name("orders"), key).await.unwrap();
    assert_eq!(once.id, again.id);
}

/// W-02: a create over a live service changes nothing of it.
#[tokio::test(start_paused = true)]
async fn another_spec_for_a_live_service_is_refused_and_touches_nothing() {
    let (mut world, server) = world(3).await;
    world.create(&server, "orders", 3).await.unwrap();
    let before = server.service(&name("orders")).await.unwrap();
    let error = server.apply(service_file("orders", 2), Guard::default()).await.unwrap_err();
    let ControlError::Refused { reason, message, .. } = error else { panic!("{error}") };
    assert_eq!(reason, Reason::ChangeUnsupported);
    assert!(message.contains("replicas (3 becomes 2)"), "{message}");
    assert_eq!(server.service(&name("orders")).await.unwrap().index, before.index);
}

#[tokio::test(start_paused = true)]
async fn a_member_of_a_dead_node_returns_elsewhere_as_itself() {
    let (mut world, server) = world(3).await;
    world.create(&server, "orders", 3).await.unwrap();
    let before = server.service(&name("orders")).await.unwrap();
    let old = placed(&world, "orders-0").await;
    world.kill(&old);
    let healthy =
        world.until(&server, MINUTE, |views| views[0].state == ServiceState::Healthy).await.unwrap();
    assert!(healthy, "{:?}", server.service(&name("orders")).await.unwrap());
    let after = server.service(&name("orders")).await.unwrap();
    assert_ne!(placed(&world, "orders-0").await, old);
    assert_eq!(before.members[0].address, after.members[0].address);
    assert_eq!(before.members[0].volumes, after.members[0].volumes);
    assert!(after.members[0].epoch > before.members[0].epoch);
    assert_eq!(after.primary, Some(member("orders-0")), "a return is faster than a promotion");
    assert_eq!(after.role_term, before.role_term);
}

#[tokio::test(start_paused = true)]
async fn a_silent_node_keeps_its_members() {
    let (mut world, server) = world(3).await;
    world.create(&server, "orders", 3).await.unwrap();
    let node = placed(&world, "orders-0").await;
    world.silence(&node, true);
    let moved = world
        .until(&server, MINUTE * 5, |views| views[0].members[0].node.as_ref() != Some(&node))
        .await
        .unwrap();
    assert!(!moved, "silence proves nothing");
    assert_eq!(state(&server, "orders").await, ServiceState::Unknown);
    assert_eq!(writable(&world, "orders-0"), 1);
    let why = server.why(&member("orders-0")).await.unwrap();
    assert!(why.lines.iter().any(|line| line.reason == Some(Reason::FenceUnproven)), "{why:?}");
    assert!(why.next_action.unwrap().contains("confirm-dead"));
    world.silence(&node, false);
    assert!(world.until(&server, MINUTE, |views| views[0].state == ServiceState::Healthy).await.unwrap());
}

#[tokio::test(start_paused = true)]
async fn a_node_that_comes_back_after_its_member_has_moved_runs_nothing_of_it() {
    let (mut world, server) = world(3).await;
    world.create(&server, "orders", 3).await.unwrap();
    let old = placed(&world, "orders-0").await;
    world.kill(&old);
    assert!(world.until(&server, MINUTE, |views| views[0].state == ServiceState::Healthy).await.unwrap());
    world.revive(&old).unwrap();
    assert!(world.until(&server, MINUTE, |views| views[0].state == ServiceState::Healthy).await.unwrap());
    assert_ne!(placed(&world, "orders-0").await, old);
    assert!(!world.nodes[&old].runs(&member("orders-0")));
}

#[tokio::test(start_paused = true)]
async fn a_second_failure_during_the_first_recovery_is_survived() {
    let (mut world, server) = world(4).await;
    world.create(&server, "orders", 3).await.unwrap();
    let first = placed(&world, "orders-0").await;
    world.kill(&first);
    world.round(&server).await.unwrap();
    let view = server.service(&name("orders")).await.unwrap();
    let second = view.members[0].node.clone().unwrap();
    assert_ne!(first, second);
    world.kill(&second);
    assert!(world.until(&server, MINUTE, |views| views[0].state == ServiceState::Healthy).await.unwrap());
    assert_eq!(writable(&world, "orders-0"), 1);
}

#[tokio::test(start_paused = true)]
async fn too_many_silent_nodes_stop_every_unplanned_move() {
    let (mut world, server) = world(5).await;
    world.create(&server, "orders", 3).await.unwrap();
    let victim = placed(&world, "orders-0").await;
    let silent: Vec<NodeName> = world.nodes.keys().filter(|node| **node != victim).take(3).cloned().collect();
    for node in &silent {
        world.silence(node, true);
    }
    world.kill(&victim);
    let moved = world
        .until(&server, MINUTE, |views| views[0].members[0].node.as_ref() != Some(&victim))
        .await
        .unwrap();
    assert!(!moved);
    let view = server.service(&name("orders")).await.unwrap();
    assert!(format!("{:?}", view.conditions).contains("StormBrake"), "{:?}", view.conditions);
    for node in &silent {
        world.silence(node, false);
    }
    assert!(world.until(&server, MINUTE, |views| views[0].state == ServiceState::Healthy).await.unwrap());
}

#[tokio::test(start_paused = true)]
async fn stop_keeps_everything_and_start_brings_it_back() {
    let (mut world, server) = world(3).await;
    world.create(&server, "orders", 3).await.unwrap();
    let before = server.service(&name("orders")).await.unwrap();
    let operation = server.stop(&name("orders"), Guard::default()).await.unwrap();
    assert_eq!(world.finish(&server, &operation.id).await.unwrap().state, OperationState::Succeeded);
    assert_eq!(state(&server, "orders").await, ServiceState::Stopped);
    assert!(world.nodes.values().all(|node| !node.runs(&member("orders-0"))));
    let operation = server.start(&name("orders"), Guard::default()).await.unwrap();
    assert_eq!(world.finish(&server, &operation.id).await.unwrap().state, OperationState::Succeeded);
    let after = server.service(&name("orders")).await.unwrap();
    assert_eq!(after.state, ServiceState::Healthy);
    for (before, after) in before.members.iter().zip(&after.members) {
        assert_eq!(
            (&before.address, &before.volumes, &before.node),
            (&after.address, &after.volumes, &after.node)
        );
    }
}

/// Its end is in the operation's record first, and in the service's with the next step.
#[tokio::test(start_paused = true)]
async fn who_has_seen_an_operation_end_may_ask_for_the_next() {
    let (mut world, server) = world(3).await;
    world.create(&server, "orders", 3).await.unwrap();
    let stopped = server.stop(&name("orders"), Guard::default()).await.unwrap();
    world.finish(&server, &stopped.id).await.unwrap();
    let store = server.store();
    let found = store.service(&name("orders")).await.unwrap().unwrap();
    let mut service = Service::clone(&found.body);
    assert_eq!(service.operation, None);
    service.operation = Some(stopped.id.clone());
    let key = store.service_key(&name("orders")).unwrap();
    assert!(matches!(store.write(&key, &found, &service).await.unwrap(), WriteOutcome::Applied(_)));

    let started = server.start(&name("orders"), Guard::default()).await.unwrap();
    assert_eq!(world.finish(&server, &started.id).await.unwrap().state, OperationState::Succeeded);
    let ended = server.operation(&stopped.id).await.unwrap();
    assert_eq!(ended.state, OperationState::Succeeded, "it is not overtaken by what came after it");
    let events = server.events(Some(&name("orders")), None, usize::MAX).await.unwrap();
    let told = events.iter().filter(|event| event.event.message == "stop Succeeded").count();
    assert_eq!(told, 1, "once, whoever tells of it");
}

#[tokio::test(start_paused = true)]
async fn a_restart_takes_one_member_at_a_time_and_the_primary_last() {
    let (mut world, server) = world(3).await;
    world.create(&server, "orders", 3).await.unwrap();
    let operation = server.restart(&name("orders"), Guard::default()).await.unwrap();
    let done = world.finish(&server, &operation.id).await.unwrap();
    assert_eq!(done.state, OperationState::Succeeded);
    let restarts: Vec<String> = server
        .events(Some(&name("orders")), None, 1000)
        .await
        .unwrap()
        .into_iter()
        .filter(|view| view.event.reason == Reason::RestartRequested)
        .filter_map(|view| view.event.member.map(|member| member.to_string()))
        .collect();
    assert_eq!(restarts, ["orders-1", "orders-2", "orders-0"]);
    assert_eq!(state(&server, "orders").await, ServiceState::Healthy);
}

#[tokio::test(start_paused = true)]
async fn what_a_restart_has_done_stays_done_when_a_member_stumbles_again() {
    let (mut world, server) = world(3).await;
    world.create(&server, "orders", 3).await.unwrap();
    let node = placed(&world, "orders-1").await;
    let operation = server.restart(&name("orders"), Guard::default()).await.unwrap();
    let done = |operation: &Operation| {
        let done = operation.steps.iter().filter(|step| step.state == StepState::Done);
        done.map(|step| step.name.clone()).collect::<Vec<_>>()
    };
    let mut now = operation;
    while done(&now).is_empty() {
        world.round(&server).await.unwrap();
        now = server.operation(&now.id).await.unwrap();
    }
    assert_eq!(done(&now), ["restart orders-1"]);
    world.nodes.get_mut(&node).unwrap().broken.insert(member("orders-1"));
    for _ in 0..8 {
        world.round(&server).await.unwrap();
        now = server.operation(&now.id).await.unwrap();
        assert!(done(&now).contains(&"restart orders-1".to_owned()), "{now:?}");
        assert!(!now.state.is_final(), "not before every member serves");
    }
    assert_eq!(now.state, OperationState::Waiting, "its line still stands: {now:?}");
    world.nodes.get_mut(&node).unwrap().broken.clear();
    let ended = world.finish(&server, &now.id).await.unwrap();
    assert_eq!(ended.state, OperationState::Succeeded);
    assert_eq!(done(&ended).len(), 3);
}

#[tokio::test(start_paused = true)]
async fn only_a_member_that_somebody_holds_can_be_stale() {
    let (mut world, server) = world(3).await;
    world.create(&server, "orders", 3).await.unwrap();
    let node = placed(&world, "orders-0").await;
    world.silence(&node, true);
    let silent = world.until(&server, MINUTE, |views| views[0].members[0].stale).await.unwrap();
    assert!(silent, "what a silent node holds is stale");
    world.silence(&node, false);
    assert!(world.until(&server, MINUTE, |views| !views[0].members[0].stale).await.unwrap());
    let operation = server.stop(&name("orders"), Guard::default()).await.unwrap();
    world.finish(&server, &operation.id).await.unwrap();
    let view = server.service(&name("orders")).await.unwrap();
    assert!(view.members.iter().all(|member| !member.stale), "{view:?}");
    assert!(view.members.iter().all(|member| member.phase == MemberPhase::Stopped), "{view:?}");
}

#[tokio::test(start_paused = true)]
async fn one_bad_member_stops_the_line() {
    let (mut world, server) = world(3).await;
    world.create(&server, "orders", 3).await.unwrap();
    let node = placed(&world, "orders-1").await;
    world.nodes.get_mut(&node).unwrap().broken.insert(member("orders-2"));
    let of_two = placed(&world, "orders-2").await;
    world.nodes.get_mut(&of_two).unwrap().broken.insert(member("orders-2"));
    let operation = server.restart(&name("orders"), Guard::default()).await.unwrap();
    let ended = world.until(&server, MINUTE * 3, |views| views[0].operation.is_none()).await.unwrap();
    assert!(!ended);
    let waiting = server.operation(&operation.id).await.unwrap();
    assert_eq!(waiting.state, OperationState::Waiting, "{waiting:?}");
    let cancelled = server.cancel(&operation.id).await.unwrap();
    assert_eq!(cancelled.state, OperationState::Cancelled);
}

#[tokio::test(start_paused = true)]
async fn delete_keeps_volumes_and_undelete_brings_them_back_after_the_address_was_used_again() {
    let (mut world, server) = world(3).await;
    world.create(&server, "orders", 3).await.unwrap();
    let before = server.service(&name("orders")).await.unwrap();
    let operation = server.delete(&name("orders"), Guard::default()).await.unwrap();
    assert_eq!(world.finish(&server, &operation.id).await.unwrap().state, OperationState::Succeeded);
    let deleted = server.service(&name("orders")).await.unwrap();
    assert_eq!(deleted.state, ServiceState::Deleted);
    assert_eq!(deleted.volumes, before.volumes, "kept, and listed");
    assert!(world.orchestrator.services().await.unwrap().is_empty());
    let zone = "world.steadfast.internal".parse().unwrap();
    assert!(world.registry.records(&zone).await.unwrap().is_empty(), "no name is left");
    world.create(&server, "other", 3).await.unwrap();
    let operation = server.undelete(&name("orders"), Guard::default()).await.unwrap();
    assert_eq!(world.finish(&server, &operation.id).await.unwrap().state, OperationState::Succeeded);
    let after = server.service(&name("orders")).await.unwrap();
    assert_eq!(after.state, ServiceState::Healthy);
    assert_eq!(after.volumes, before.volumes);
    let others = server.service(&name("other")).await.unwrap();
    for member in &after.members {
        assert!(others.members.iter().all(|other| other.address != member.address));
    }
}

#[tokio::test(start_paused = true)]
async fn a_name_can_be_used_again_after_deletion_and_the_old_volumes_stay() {
    let (mut world, server) = world(3).await;
    world.create(&server, "orders", 3).await.unwrap();
    let before = server.service(&name("orders")).await.unwrap();
    let operation = server.delete(&name("orders"), Guard::default()).await.unwrap();
    world.finish(&server, &operation.id).await.unwrap();
    world.create(&server, "orders", 3).await.unwrap();
    let after = server.service(&name("orders")).await.unwrap();
    assert_eq!(after.state, ServiceState::Healthy);
    assert!(
        after.volumes.iter().all(|volume| !before.volumes.contains(volume)),
        "a new service has new volumes"
    );
    for volume in &before.volumes {
        assert!(world.volumes.describe(volume).await.unwrap().is_some(), "{volume} was kept");
    }
}

#[tokio::test(start_paused = true)]
async fn delete_works_while_a_node_is_dead() {
    let (mut world, server) = world(3).await;
    world.create(&server, "orders", 3).await.unwrap();
    world.kill(&placed(&world, "orders-0").await.clone());
    let operation = server.delete(&name("orders"), Guard::default()).await.unwrap();
    assert_eq!(world.finish(&server, &operation.id).await.unwrap().state, OperationState::Succeeded);
}

#[tokio::test(start_paused = true)]
async fn a_primary_that_does_not_return_is_replaced_by_the_farthest_of_enough_survivors() {
    let (mut world, server) = world(3).await;
    world.create(&server, "orders", 3).await.unwrap();
    for node in world.nodes.values_mut() {
        node.positions.insert(member("orders-0"), 9);
        node.positions.insert(member("orders-1"), 7);
        node.positions.insert(member("orders-2"), 9);
        node.broken.insert(member("orders-0"));
    }
    let promoted =
        world.until(&server, MINUTE * 3, |views| views[0].primary == Some(member("orders-2"))).await.unwrap();
    assert!(promoted, "{:?}", server.service(&name("orders")).await.unwrap());
    assert_eq!(writable(&world, "orders-0"), 0);
    assert_eq!(writable(&world, "orders-2"), 1);
    let view = server.service(&name("orders")).await.unwrap();
    assert_eq!(view.role_term.unwrap().0, 2);
    for node in world.nodes.values_mut() {
        node.broken.clear();
    }
    assert!(world.until(&server, MINUTE, |views| views[0].state == ServiceState::Healthy).await.unwrap());
    assert_eq!(server.service(&name("orders")).await.unwrap().primary, Some(member("orders-2")));
}

#[tokio::test(start_paused = true)]
async fn nobody_is_promoted_while_a_confirming_replica_is_missing() {
    let (mut world, server) = world(3).await;
    world.create(&server, "orders", 3).await.unwrap();
    for node in world.nodes.values_mut() {
        node.broken.insert(member("orders-0"));
        node.broken.insert(member("orders-1"));
    }
    let promoted = world.until(&server, MINUTE * 5, |views| views[0].primary.is_some()).await.unwrap();
    assert!(!promoted, "one of two possible confirmers is not enough");
    let view = server.service(&name("orders")).await.unwrap();
    assert!(format!("{:?}", view.conditions).contains("DurabilityUnproven"), "{:?}", view.conditions);
    for node in world.nodes.values_mut() {
        node.broken.clear();
    }
    assert!(world.until(&server, MINUTE, |views| views[0].state == ServiceState::Healthy).await.unwrap());
}

#[tokio::test(start_paused = true)]
async fn a_paused_service_is_left_alone() {
    let (mut world, server) = world(4).await;
    world.create(&server, "orders", 3).await.unwrap();
    server.pause(&name("orders")).await.unwrap();
    let victim = placed(&world, "orders-0").await;
    world.kill(&victim);
    let moved = world
        .until(&server, MINUTE * 2, |views| views[0].members[0].node.as_ref() != Some(&victim))
        .await
        .unwrap();
    assert!(!moved);
    server.resume(&name("orders")).await.unwrap();
    assert!(world.until(&server, MINUTE, |views| views[0].state == ServiceState::Healthy).await.unwrap());
}

#[tokio::test(start_paused = true)]
async fn a_quorum_service_is_not_led_by_us() {
    let (mut world, server) = world(3).await;
    let mut file = service_file("zk", 3);
    file["blueprint"] = "quorum".into();
    let operation = server.apply(file, Guard::default()).await.unwrap();
    assert_eq!(world.finish(&server, &operation.id).await.unwrap().state, OperationState::Succeeded);
    let view = server.service(&name("zk")).await.unwrap();
    assert_eq!((view.state, view.role_term), (ServiceState::Healthy, None));
}

#[tokio::test(start_paused = true)]
async fn another_server_takes_the_work_over_and_says_so() {
    let (mut world, first) = world(3).await;
    let operation = first.apply(service_file("orders", 3), Guard::default()).await.unwrap();
    world.round(&first).await.unwrap();
    drop(first);
    let second = world.server("server-2", Arc::new(world.db.clone()), world.backends().unwrap()).unwrap();
    let done = world.finish(&second, &operation.id).await.unwrap();
    assert_eq!(done.state, OperationState::Succeeded);
    let events = second.events(Some(&name("orders")), None, 1000).await.unwrap();
    assert!(events.iter().any(|view| view.event.reason == Reason::OperationResumed));
}

/// Found end to end: the heir had the dead server's shares after seconds, and looked at their services with the next
/// resync, half a minute later.
#[tokio::test(start_paused = true)]
async fn what_a_dead_server_was_at_is_gone_on_with_as_soon_as_its_lease_is_over() {
    let (mut world, dead) = world(3).await;
    world.create(&dead, "orders", 3).await.unwrap();
    // It dies with the operation on record: from here on nobody calls it again.
    let restart = dead.restart(&name("orders"), Guard::default()).await.unwrap();
    let heir = world.plain_server("server-2").unwrap();
    heir.controller().start();
    let lease = heir.controller().shards().ttl();
    let (begun, limit) = (world.env.clock().monotonic(), lease * 2 + Duration::from_secs(5));
    while !heir.operation(&restart.id).await.unwrap().state.is_final() {
        let took = world.env.clock().monotonic().since(begun);
        assert!(took < limit, "{took:?} for a restart after a lease of {lease:?}");
        world.step_nodes().await.unwrap();
        world.env.clock().sleep(Duration::from_millis(250)).await;
    }
    assert_eq!(heir.operation(&restart.id).await.unwrap().state, OperationState::Succeeded);
    world.env.tasks().stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_server_without_a_lease_does_nothing() {
    let (mut world, first) = world(3).await;
    world.create(&first, "orders", 3).await.unwrap();
    let second = world.server("server-2", Arc::new(world.db.clone()), world.backends().unwrap()).unwrap();
    first.controller().shards().round().await.unwrap();
    let before = world.db.writes();
    second.controller().reconcile(&name("orders")).await.unwrap();
    assert_eq!(world.db.writes(), before);
}

#[tokio::test(start_paused = true)]
async fn events_are_archived_in_order_and_none_is_lost() {
    let (mut world, server) = world(3).await;
    world.create(&server, "orders", 3).await.unwrap();
    for _ in 0..30 {
        server.pause(&name("orders")).await.unwrap();
        server.resume(&name("orders")).await.unwrap();
        world.round(&server).await.unwrap();
    }
    let record = server.store().service(&name("orders")).await.unwrap().unwrap().body;
    assert!(record.events.iter().count() < 64, "older ones have left the record");
    let of_service: Vec<u64> = server
        .events(Some(&name("orders")), None, 1000)
        .await
        .unwrap()
        .into_iter()
        .filter(|view| view.event.member.is_none())
        .map(|view| view.event.seq)
        .collect();
    assert_eq!(of_service, (1..=record.events.newest()).collect::<Vec<_>>());
}

#[tokio::test(start_paused = true)]
async fn the_name_of_the_name_server_is_taken() {
    let (_world, server) = world(3).await;
    let error = server.apply(service_file("ns", 3), Guard::default()).await.unwrap_err();
    assert!(matches!(error, ControlError::Invalid(problems) if problems[0].field == "name"));
}

#[tokio::test(start_paused = true)]
async fn no_two_services_may_have_a_member_of_one_name() {
    let (mut world, server) = world(3).await;
    world.create(&server, "orders-shard", 3).await.unwrap();
    world.create(&server, "orders", 3).await.unwrap();
    // No group of a plain service is called `shard`, so these two live side by side.
    world.create(&server, "orders-shard-x", 1).await.unwrap();
    let names = server.store().services_beginning_with("orders-").await.unwrap();
    let names: Vec<&str> = names.iter().map(|service| service.name.as_str()).collect();
    assert_eq!(names, ["orders-shard", "orders-shard-x"]);
}
