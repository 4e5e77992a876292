//! Members that come and go one at a time, each change confirmed by the engines before the next.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

use std::sync::Arc;
use std::time::Duration;

use steadfast_core::control::{Control, ControlError, Guard};
use steadfast_core::ids::{MemberName, ServiceName};
use steadfast_core::model::{
    Group, MemberPhase, MembershipChange, Operation, OperationState, Reason, RoleState, Service, ServiceState,
};
use steadfast_core::registry::{RecordKind, Registry};
use steadfast_core::testing::TestEnvironment;
use steadfast_core::volume::VolumeProvider;
use steadfast_core::world::{World, service_file};

const MINUTE: Duration = Duration::from_secs(60);

fn orders() -> ServiceName {
    "orders".parse().unwrap()
}

fn member(ordinal: u32) -> MemberName {
    format!("orders-{ordinal}").parse().unwrap()
}

async fn served(blueprint: &str, replicas: u32) -> (World, Control) {
    let mut world = World::new(TestEnvironment::new(17).environment, 6).await.unwrap();
    let server = world.plain_server("server-1").unwrap();
    let mut file = service_file("orders", replicas);
    file["blueprint"] = blueprint.into();
    let created = server.apply(file, Guard::default()).await.unwrap();
    world.finish(&server, &created.id).await.unwrap();
    (world, server)
}

async fn to(server: &Control, replicas: u32) -> Operation {
    server.scale(&orders(), None, replicas, Guard::default()).await.unwrap()
}

async fn service(server: &Control) -> Arc<Service> {
    server.store().service(&orders()).await.unwrap().unwrap().body
}

async fn group(server: &Control) -> Group {
    service(server).await.groups.values().next().unwrap().clone()
}

async fn role(server: &Control) -> RoleState {
    service(server).await.roles.values().next().unwrap().clone()
}

async fn tick(world: &mut World, server: &Control) {
    world.round(server).await.unwrap();
    world.env.clock().sleep(Duration::from_millis(250)).await;
}

async fn until_change(world: &mut World, server: &Control, wanted: Option<MembershipChange>) {
    for _ in 0..400 {
        if group(server).await.change == wanted {
            return;
        }
        tick(world, server).await;
    }
    panic!("{:?}: {:?}", group(server).await, server.operations(None).await.unwrap().last());
}

async fn healthy(world: &mut World, server: &Control) {
    let healthy = world.until(server, MINUTE * 3, |views| views[0].state == ServiceState::Healthy).await;
    assert!(healthy.unwrap(), "{:?}", server.service(&orders()).await.unwrap());
}

fn running(world: &World) -> Vec<u32> {
    (0..7).filter(|ordinal| world.nodes.values().any(|node| node.runs(&member(*ordinal)))).collect()
}

async fn resolves(world: &World, host: &str) -> usize {
    let name = format!("{host}.world.steadfast.internal").parse().unwrap();
    match world.registry.resolve(&name, RecordKind::Addresses).await.unwrap() {
        Some(steadfast_core::registry::RecordSet::Addresses(set)) => set.len(),
        _ => 0,
    }
}

#[tokio::test(start_paused = true)]
async fn members_come_one_at_a_time_with_names_and_addresses() {
    for blueprint in ["plain", "quorum"] {
        let (mut world, server) = served(blueprint, 3).await;
        let mut now = to(&server, 5).await;
        let mut seen = Vec::new();
        while !now.state.is_final() {
            tick(&mut world, &server).await;
            let group = group(&server).await;
            seen.push((group.replicas, group.change));
            now = server.operation(&now.id).await.unwrap();
        }
        assert_eq!(now.state, OperationState::Succeeded, "{now:?}");
        healthy(&mut world, &server).await;
        assert_eq!(running(&world), [0, 1, 2, 3, 4]);
        let first = seen.iter().position(|(replicas, _)| *replicas == 5).unwrap();
        assert!(
            seen[..first]
                .iter()
                .any(|step| *step == (4, None) || step.1 == Some(MembershipChange::Admitting))
        );
        assert_eq!(resolves(&world, "orders").await, 5);
        assert_eq!(resolves(&world, "orders-4").await, 1);
        let view = server.service(&orders()).await.unwrap();
        assert_eq!((view.replicas, view.spec.replicas), (5, Some(5)));
        for ordinal in 0..5 {
            let record = server.store().member(&orders(), &member(ordinal)).await.unwrap().unwrap().body;
            assert_eq!((record.generation.0, record.revision.0), (1, 2), "nobody was restarted");
        }
    }
}

/// Its record is kept, because its volumes are: a restart that waited for it would never end.
#[tokio::test(start_paused = true)]
async fn a_restart_does_not_wait_for_a_member_that_has_left() {
    let (mut world, server) = served("plain", 3).await;
    let scaled = to(&server, 2).await;
    world.finish(&server, &scaled.id).await.unwrap();
    assert!(server.store().member(&orders(), &member(2)).await.unwrap().is_some());
    let restart = server.restart(&orders(), Guard::default()).await.unwrap();
    assert_eq!(restart.targets.into_keys().collect::<Vec<_>>(), [member(0), member(1)]);
    let ended = world.finish(&server, &restart.id).await.unwrap();
    assert_eq!(ended.state, OperationState::Succeeded);
}

/// A change of the members goes on, whatever became of the operation that asked for it.
#[tokio::test(start_paused = true)]
async fn a_restart_that_is_asked_for_while_a_member_leaves_ends_without_it() {
    let (mut world, server) = served("plain", 3).await;
    to(&server, 2).await;
    let stop = server.stop(&orders(), Guard::default()).await.unwrap();
    assert_eq!(world.finish(&server, &stop.id).await.unwrap().state, OperationState::Succeeded);
    let start = server.start(&orders(), Guard::default()).await.unwrap();
    assert_eq!(world.finish(&server, &start.id).await.unwrap().state, OperationState::Succeeded);
    assert!(group(&server).await.change.is_some(), "nobody is leaving");
    let restart = server.restart(&orders(), Guard::default()).await.unwrap();
    assert!(restart.targets.contains_key(&member(2)));
    assert_eq!(world.finish(&server, &restart.id).await.unwrap().state, OperationState::Succeeded);
    assert_eq!(running(&world), [0, 1]);
}

#[tokio::test(start_paused = true)]
async fn a_member_that_has_not_caught_up_does_not_count() {
    let (mut world, server) = served("quorum", 3).await;
    world.nodes.values_mut().for_each(|node| node.lags(&member(3)));
    let operation = to(&server, 5).await;
    until_change(&mut world, &server, Some(MembershipChange::Learning)).await;
    for _ in 0..60 {
        tick(&mut world, &server).await;
        assert_eq!(group(&server).await.change, Some(MembershipChange::Learning));
    }
    let waiting = server.operation(&operation.id).await.unwrap();
    assert_eq!(waiting.waiting.unwrap().0, Reason::ReplicaLagging);
    assert_eq!(resolves(&world, "orders").await, 3, "clients are not sent to it");
    assert_eq!(server.service(&orders()).await.unwrap().state, ServiceState::Healthy, "it is not missed");
    world.nodes.values_mut().for_each(|node| node.lagging.clear());
    assert_eq!(world.finish(&server, &operation.id).await.unwrap().state, OperationState::Succeeded);
}

#[tokio::test(start_paused = true)]
async fn the_highest_goes_first_and_leaves_only_its_volumes() {
    for blueprint in ["plain", "quorum"] {
        let (mut world, server) = served(blueprint, 5).await;
        let before = server.service(&orders()).await.unwrap();
        let mut now = to(&server, 3).await;
        let mut seen = vec![running(&world)];
        while !now.state.is_final() {
            tick(&mut world, &server).await;
            seen.push(running(&world));
            now = server.operation(&now.id).await.unwrap();
        }
        seen.dedup();
        assert_eq!(now.state, OperationState::Succeeded, "{now:?}");
        assert_eq!(seen, [vec![0, 1, 2, 3, 4], vec![0, 1, 2, 3], vec![0, 1, 2]]);
        healthy(&mut world, &server).await;
        assert_eq!((resolves(&world, "orders").await, resolves(&world, "orders-3").await), (3, 0));
        let after = server.service(&orders()).await.unwrap();
        assert_eq!(after.members.len(), 3);
        assert_eq!(after.volumes, before.volumes, "kept, and listed");
        for volume in &after.volumes {
            assert!(world.volumes.describe(volume).await.unwrap().is_some());
        }
        let addresses = steadfast_core::ip::IpProvider::list(&world.ips).await.unwrap();
        assert_eq!(addresses.len(), 3);
    }
}

#[tokio::test(start_paused = true)]
async fn nothing_is_given_back_before_the_engines_have_let_the_member_go() {
    let (mut world, server) = served("quorum", 5).await;
    world.nodes.values_mut().for_each(|node| node.frozen = true);
    let operation = to(&server, 3).await;
    until_change(&mut world, &server, Some(MembershipChange::Leaving)).await;
    for _ in 0..60 {
        tick(&mut world, &server).await;
        assert_eq!(running(&world), [0, 1, 2, 3, 4]);
    }
    assert_eq!(server.operation(&operation.id).await.unwrap().waiting.unwrap().0, Reason::QuorumAtRisk);
    world.nodes.values_mut().for_each(|node| node.frozen = false);
    assert_eq!(world.finish(&server, &operation.id).await.unwrap().state, OperationState::Succeeded);
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_has_to_go_hands_over_first() {
    let (mut world, server) = served("plain", 3).await;
    let operation = server.switchover(&orders(), None, Some(member(2)), Guard::default()).await.unwrap();
    world.finish(&server, &operation.id).await.unwrap();
    let operation = to(&server, 2).await;
    assert_eq!(world.finish(&server, &operation.id).await.unwrap().state, OperationState::Succeeded);
    healthy(&mut world, &server).await;
    let view = server.service(&orders()).await.unwrap();
    assert_eq!((view.members.len(), view.role_term.unwrap().0), (2, 3));
    assert!(view.primary.is_some_and(|primary| primary != member(2)));
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_could_not_hand_over_is_told_again_ever_more_rarely_and_goes_once_it_can() {
    let (mut world, server) = served("plain", 3).await;
    let operation = server.switchover(&orders(), None, Some(member(2)), Guard::default()).await.unwrap();
    world.finish(&server, &operation.id).await.unwrap();
    // Nobody is as far as the leader, so nobody may take over from it.
    for node in world.nodes.values_mut() {
        node.positions.insert(member(2), 9);
    }
    let operation = to(&server, 2).await;
    let mut failed = Vec::new();
    while failed.len() < 3 {
        let before = role(&server).await;
        tick(&mut world, &server).await;
        let after = role(&server).await;
        if after.failures > before.failures {
            failed.push(world.env.clock().monotonic());
            tick(&mut world, &server).await;
            let (reason, why) = server.operation(&operation.id).await.unwrap().waiting.unwrap();
            assert_eq!(reason, Reason::QuorumAtRisk, "{why}");
            assert!(why.contains("it is tried again"), "{why}");
        }
    }
    let pauses = [failed[1].since(failed[0]), failed[2].since(failed[1])];
    assert!(pauses[0] >= MINUTE && pauses[1] >= MINUTE * 2, "{pauses:?}");
    // The cause is gone: nobody has to do anything.
    for node in world.nodes.values_mut() {
        node.positions.clear();
    }
    assert_eq!(world.finish(&server, &operation.id).await.unwrap().state, OperationState::Succeeded);
    healthy(&mut world, &server).await;
    let now = role(&server).await;
    assert_eq!((now.leader != Some(member(2)), now.successor, now.failures), (true, None, 0));
}

/// It does not stop leading, so the others elect; after that there is nothing left for it to hand over.
#[tokio::test(start_paused = true)]
async fn a_leader_that_does_not_let_go_is_removed_once_another_one_leads() {
    let (mut world, server) = served("plain", 3).await;
    let operation = server.switchover(&orders(), None, Some(member(2)), Guard::default()).await.unwrap();
    world.finish(&server, &operation.id).await.unwrap();
    let term = role(&server).await.term.0;
    for node in world.nodes.values_mut() {
        node.stubborn.insert(member(2));
    }
    let operation = to(&server, 2).await;
    assert_eq!(world.finish(&server, &operation.id).await.unwrap().state, OperationState::Succeeded);
    healthy(&mut world, &server).await;
    let now = role(&server).await;
    assert_ne!(now.leader, Some(member(2)));
    assert_eq!(now.term.0, term + 2, "one handover, which it did not obey, and one election");
}

#[tokio::test(start_paused = true)]
async fn an_engines_own_leader_that_has_to_go_is_restarted_so_that_another_is_chosen() {
    let (mut world, server) = served("quorum", 5).await;
    let leader = async |world: &World| {
        for ordinal in 0..5 {
            let Some(node) = world.holder(&orders(), &member(ordinal)).await.unwrap() else { continue };
            let status = server.store().node_status(&node).await.unwrap().unwrap().body;
            let Some(status) = status.members.get(&member(ordinal)) else { continue };
            if status.ready && status.follows.is_some() {
                return status.follows.clone();
            }
        }
        None
    };
    while leader(&world).await != Some(member(4)) {
        let present = leader(&world).await.unwrap();
        world.nodes.values_mut().for_each(|node| node.breaks(&present));
        tick(&mut world, &server).await;
        world.nodes.values_mut().for_each(|node| node.broken.clear());
        healthy(&mut world, &server).await;
    }
    let operation = to(&server, 3).await;
    assert_eq!(world.finish(&server, &operation.id).await.unwrap().state, OperationState::Succeeded);
    healthy(&mut world, &server).await;
    assert!(leader(&world).await.is_some_and(|leader| leader < member(3)));
    let told = server.events(Some(&orders()), Some(&member(4)), 1000).await.unwrap();
    assert!(told.iter().any(|view| view.event.reason == Reason::Switchover), "{told:?}");
}

#[tokio::test(start_paused = true)]
async fn nothing_begins_while_another_member_does_not_serve_but_the_sick_one_itself_may_go() {
    let (mut world, server) = served("plain", 3).await;
    world.nodes.values_mut().for_each(|node| node.breaks(&member(1)));
    for _ in 0..8 {
        tick(&mut world, &server).await;
    }
    let operation = to(&server, 2).await;
    for _ in 0..60 {
        tick(&mut world, &server).await;
        assert_eq!((group(&server).await.replicas, group(&server).await.change), (3, None));
    }
    world.nodes.values_mut().for_each(|node| node.broken.clear());
    world.nodes.values_mut().for_each(|node| node.breaks(&member(2)));
    assert_eq!(world.finish(&server, &operation.id).await.unwrap().state, OperationState::Succeeded);
    healthy(&mut world, &server).await;
}

#[tokio::test(start_paused = true)]
async fn a_scale_that_is_taken_back_half_way_turns_round() {
    let (mut world, server) = served("quorum", 3).await;
    world.nodes.values_mut().for_each(|node| node.lags(&member(3)));
    let out = to(&server, 5).await;
    until_change(&mut world, &server, Some(MembershipChange::Learning)).await;
    tick(&mut world, &server).await;
    let back = to(&server, 3).await;
    assert_eq!(world.finish(&server, &back.id).await.unwrap().state, OperationState::Succeeded);
    assert_eq!(server.operation(&out.id).await.unwrap().state, OperationState::Superseded);
    healthy(&mut world, &server).await;
    assert_eq!(running(&world), [0, 1, 2]);
    // And again: the ordinal and its volume are the same, its epoch and its address are its own.
    world.nodes.values_mut().for_each(|node| node.lagging.clear());
    let again = to(&server, 5).await;
    assert_eq!(world.finish(&server, &again.id).await.unwrap().state, OperationState::Succeeded);
    assert_eq!(world.volumes.all().len(), 5);
    let record = server.store().member(&orders(), &member(3)).await.unwrap().unwrap().body;
    assert_eq!(record.phase, MemberPhase::Serving);
    assert!(record.epoch.0 > 1, "an earlier life of it is fenced");
}

#[tokio::test(start_paused = true)]
async fn a_member_that_leaves_and_whose_node_dies_is_removed_all_the_same() {
    let (mut world, server) = served("plain", 3).await;
    let operation = to(&server, 2).await;
    until_change(&mut world, &server, Some(MembershipChange::Leaving)).await;
    let node = world.holder(&orders(), &member(2)).await.unwrap().unwrap();
    world.kill(&node);
    assert_eq!(world.finish(&server, &operation.id).await.unwrap().state, OperationState::Succeeded);
    healthy(&mut world, &server).await;
    assert_eq!(running(&world), [0, 1]);
}

#[tokio::test(start_paused = true)]
async fn a_pause_stops_a_scale_and_a_stop_overtakes_it() {
    let (mut world, server) = served("plain", 3).await;
    server.pause(&orders()).await.unwrap();
    let operation = to(&server, 4).await;
    for _ in 0..20 {
        tick(&mut world, &server).await;
    }
    assert_eq!(group(&server).await.replicas, 3);
    assert_eq!(server.operation(&operation.id).await.unwrap().waiting.unwrap().0, Reason::PausedByOperator);
    server.resume(&orders()).await.unwrap();
    until_change(&mut world, &server, Some(MembershipChange::Learning)).await;
    let stop = server.stop(&orders(), Guard::default()).await.unwrap();
    assert_eq!(world.finish(&server, &stop.id).await.unwrap().state, OperationState::Succeeded);
    let start = server.start(&orders(), Guard::default()).await.unwrap();
    world.finish(&server, &start.id).await.unwrap();
    until_change(&mut world, &server, None).await;
    healthy(&mut world, &server).await;
    assert_eq!(running(&world), [0, 1, 2, 3], "the start goes on with it");
}

#[tokio::test(start_paused = true)]
async fn a_number_that_the_blueprint_forbids_is_refused_and_asking_twice_is_asking_once() {
    let (mut world, server) = served("quorum", 3).await;
    for wrong in [0, 2, 4] {
        let asked = server.scale(&orders(), None, wrong, Guard::default()).await.unwrap_err();
        assert!(matches!(asked, ControlError::Invalid(_)), "{asked}");
    }
    let key = Guard { idempotency_key: Some("k".to_owned()), ..Guard::default() };
    let once = server.scale(&orders(), None, 3, key.clone()).await.unwrap();
    assert_eq!(world.finish(&server, &once.id).await.unwrap().state, OperationState::Succeeded);
    assert_eq!(server.scale(&orders(), None, 3, key).await.unwrap().id, once.id);
}

#[tokio::test(start_paused = true)]
async fn the_name_of_the_replicas_goes_with_the_last_replica() {
    let (mut world, server) = served("plain", 2).await;
    assert_eq!(resolves(&world, "replicas.orders").await, 1);
    let operation = to(&server, 1).await;
    assert_eq!(world.finish(&server, &operation.id).await.unwrap().state, OperationState::Succeeded);
    healthy(&mut world, &server).await;
    assert_eq!(resolves(&world, "replicas.orders").await, 0, "its address may be somebody else's soon");
    assert_eq!((resolves(&world, "primary.orders").await, resolves(&world, "orders").await), (1, 1));
}
