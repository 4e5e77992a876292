//! Volumes made larger by applying a service file that says so: one member after another, while all of them serve.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use steadfast_core::control::{Control, ControlError, Guard};
use steadfast_core::error::ErrorKind;
use steadfast_core::ids::{MemberName, ServiceName};
use steadfast_core::layer::fault::{Fault, Faults};
use steadfast_core::metadata::WriteOutcome;
use steadfast_core::model::{ConditionKind, Member, Operation, OperationState, Reason, Truth};
use steadfast_core::testing::TestEnvironment;
use steadfast_core::volume::memory::MemoryVolumes;
use steadfast_core::world::{World, service_file};

const GIB: u64 = 1 << 30;

fn service() -> ServiceName {
    "orders".parse().unwrap()
}

fn member(ordinal: u32) -> MemberName {
    format!("orders-{ordinal}").parse().unwrap()
}

fn file(size: &str) -> Value {
    let mut file = service_file("orders", 3);
    file["volumes"] = json!([{"name": "data", "size": size}]);
    file
}

async fn healthy() -> (World, Control) {
    let mut world = World::new(TestEnvironment::new(5).environment, 4).await.unwrap();
    let server = world.plain_server("server-1").unwrap();
    let created = server.apply(file("1GiB"), Guard::default()).await.unwrap();
    world.finish(&server, &created.id).await.unwrap();
    (world, server)
}

async fn apply(server: &Control, file: Value) -> Operation {
    server.apply(file, Guard::default()).await.unwrap()
}

fn sizes(world: &World) -> Vec<u64> {
    world.volumes.all().iter().map(|volume| volume.spec.size_bytes).collect()
}

async fn generations(server: &Control) -> Vec<u64> {
    let members = server.store().members(&service()).await.unwrap();
    members.iter().map(|member| member.body.generation.0).collect()
}

async fn rounds(world: &mut World, server: &Control, count: u32) {
    for _ in 0..count {
        world.round(server).await.unwrap();
        world.env.clock().sleep(Duration::from_millis(250)).await;
    }
}

async fn operation(server: &Control, asked: &Operation) -> Operation {
    server.operation(&asked.id).await.unwrap()
}

async fn refused(server: &Control, file: Value) -> (Reason, String) {
    match server.apply(file, Guard::default()).await.unwrap_err() {
        ControlError::Refused { reason, message, .. } => (reason, message),
        other => panic!("{other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn applying_a_larger_size_makes_every_members_volume_larger_and_restarts_nobody() {
    let (mut world, server) = healthy().await;
    let before = generations(&server).await;
    let asked = apply(&server, file("2GiB")).await;
    let again = apply(&server, file("2GiB")).await;
    assert!(!again.state.is_final() || again.id != asked.id, "it is what the service has by now: {again:?}");
    let done = world.finish(&server, &asked.id).await.unwrap();
    assert_eq!(done.state, OperationState::Succeeded);
    assert_eq!(sizes(&world), [2 * GIB; 3]);
    assert_eq!(generations(&server).await, before);
    for found in server.store().members(&service()).await.unwrap() {
        let record = &found.body;
        assert_eq!((record.volumes[0].size_bytes, record.revision.0), (Some(2 * GIB), 2));
        let events: Vec<_> = record.events.iter().map(|event| event.message.as_str()).collect();
        assert!(events.contains(&"volume data: 2GiB instead of 1GiB"), "{events:?}");
    }
    // What it has is no change, and what was is none that can be had: so says the plan.
    assert!(server.plan(file("2GiB")).await.unwrap().changes.is_empty());
    for (size, refused) in [("3GiB", false), ("1GiB", true)] {
        let plan = server.plan(file(size)).await.unwrap();
        let warned = plan.warnings.iter().any(|warning| warning.starts_with("ChangeUnsupported"));
        assert_eq!((plan.changes.len(), warned), (1, refused), "{plan:?}");
    }
    assert_eq!(apply(&server, file("2GiB")).await.id, apply(&server, file("2GiB")).await.id);
    assert_eq!(refused(&server, file("1GiB")).await.0, Reason::ChangeUnsupported);
    assert_eq!(sizes(&world), [2 * GIB; 3]);
}

#[tokio::test(start_paused = true)]
async fn one_volume_grows_after_another_and_what_is_under_way_is_said() {
    let (mut world, server) = healthy().await;
    world.volumes.hold_transitions(true);
    let asked = apply(&server, file("3GiB")).await;
    for ordinal in 0..3 {
        rounds(&mut world, &server, 12).await;
        let grown = sizes(&world).iter().filter(|size| **size == 3 * GIB).count();
        assert_eq!(grown, ordinal, "one at a time");
        let name = member(u32::try_from(ordinal).unwrap());
        let waiting = operation(&server, &asked).await.waiting.unwrap();
        assert_eq!(waiting.0, Reason::VolumeGrowing);
        assert!(waiting.1.contains(name.as_str()) && waiting.1.contains("3GiB"), "{waiting:?}");
        let view = server.service(&service()).await.unwrap();
        let blocked = view.conditions.iter().find(|one| one.kind == ConditionKind::Blocked).unwrap();
        assert_eq!((blocked.status, &blocked.reason), (Truth::True, &Some(Reason::VolumeGrowing)));
        let why = server.why(&name).await.unwrap();
        assert!(why.lines.iter().any(|line| line.reason == Some(Reason::VolumeGrowing)), "{why:?}");
        let volumes = world.volumes.all();
        assert!(volumes.iter().any(|volume| world.volumes.complete(&volume.id)));
    }
    let done = world.finish(&server, &asked.id).await.unwrap();
    assert_eq!((done.state, sizes(&world)), (OperationState::Succeeded, vec![3 * GIB; 3]));
}

/// One that cannot be made larger is told with its reason, keeps nothing else from going on, and is tried again.
#[tokio::test(start_paused = true)]
async fn a_volume_that_cannot_be_made_larger_is_told_and_tried_again() {
    let (mut world, plain) = healthy().await;
    drop(plain);
    let faults = Faults::new();
    faults.always(|call| call.operation == "begin_grow", Fault::Refused(ErrorKind::QuotaExceeded));
    let mut backends = world.backends().unwrap();
    backends.volumes = faults.around(backends.volumes);
    let server = world.server("server-1", Arc::new(world.db.clone()), backends).unwrap();
    let asked = apply(&server, file("2GiB")).await;
    rounds(&mut world, &server, 20).await;
    let waiting = operation(&server, &asked).await.waiting.unwrap();
    assert_eq!(waiting.0, Reason::QuotaReached, "{waiting:?}");
    assert!(waiting.1.starts_with("volume data of orders-0: "), "{waiting:?}");
    assert_eq!(sizes(&world), [GIB; 3]);

    // The line stands, and the service goes on: a node that dies gives its members up.
    let node = world.holder(&service(), &member(1)).await.unwrap().unwrap();
    world.kill(&node);
    rounds(&mut world, &server, 60).await;
    assert_ne!(world.holder(&service(), &member(1)).await.unwrap().unwrap(), node);

    let server = world.plain_server("server-1").unwrap();
    let done = world.finish(&server, &asked.id).await.unwrap();
    assert_eq!((done.state, sizes(&world)), (OperationState::Succeeded, vec![2 * GIB; 3]));
    let members = server.store().members(&service()).await.unwrap();
    assert!(members.iter().all(|found| found.body.volumes[0].growth_failed.is_none()));
}

#[tokio::test(start_paused = true)]
async fn anything_else_that_differs_is_refused_and_nothing_grows() {
    let (mut world, server) = healthy().await;
    let mut others = vec![file("512MiB")];
    let more: [(&str, Value); 3] = [
        ("replicas", json!(4)),
        ("volumes", json!([{"name": "data", "size": "2GiB", "class": "fast"}])),
        ("volumes", json!([{"name": "data", "size": "2GiB", "on_delete": "delete"}])),
    ];
    for (field, value) in more {
        let mut file = file("2GiB");
        file[field] = value;
        others.push(file);
    }
    for other in others {
        let (reason, message) = refused(&server, other).await;
        assert_eq!(reason, Reason::ChangeUnsupported, "{message}");
    }
    // Saying the usual size, or nothing at all, is the same.
    let created = apply(&server, file("1GiB")).await;
    assert!(created.state.is_final());
    rounds(&mut world, &server, 8).await;
    assert_eq!(sizes(&world), [GIB; 3]);
}

#[tokio::test(start_paused = true)]
async fn where_volumes_do_not_grow_a_larger_size_is_refused() {
    let (mut world, _) = healthy().await;
    let mut backends = world.backends().unwrap();
    backends.volumes = Arc::new(MemoryVolumes::new());
    let server = world.server("server-1", Arc::new(world.db.clone()), backends).unwrap();
    let (reason, message) = refused(&server, file("2GiB")).await;
    assert_eq!(reason, Reason::CapabilityMissing, "{message}");
    rounds(&mut world, &server, 4).await;
    assert_eq!(sizes(&world), [GIB; 3]);
}

/// Records of before there was growth do not say how large a volume is: each is looked at once.
#[tokio::test(start_paused = true)]
async fn a_volume_whose_size_is_not_on_record_is_looked_at() {
    let (mut world, server) = healthy().await;
    for ordinal in 0..3 {
        let found = server.store().member(&service(), &member(ordinal)).await.unwrap().unwrap();
        let mut record = Member::clone(&found.body);
        assert_eq!(record.volumes[0].size_bytes.take(), Some(GIB));
        let key = server.store().member_key(&service(), &member(ordinal)).unwrap();
        let written = server.store().write(&key, &found, &record).await.unwrap();
        assert!(matches!(written, WriteOutcome::Applied(_)));
    }
    rounds(&mut world, &server, 12).await;
    for found in server.store().members(&service()).await.unwrap() {
        assert_eq!(found.body.volumes[0].size_bytes, Some(GIB), "{}", found.body.name);
    }
    assert_eq!(sizes(&world), [GIB; 3]);
}
