//! What is over costs nothing: neither reads nor memory grow with what a cluster has been through.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

use std::sync::Arc;
use std::time::Duration;

use steadfast_core::control::{Control, Guard};
use steadfast_core::controller::OPERATIONS_KEPT;
use steadfast_core::ids::{OperationId, ServiceName};
use steadfast_core::metadata::WriteOutcome;
use steadfast_core::model::{Operation, OperationKind, OperationState};
use steadfast_core::testing::TestEnvironment;
use steadfast_core::world::World;

fn service() -> ServiceName {
    "orders".parse().unwrap()
}

/// A restart of long ago, the `number`th, as far as it came.
async fn restarted(server: &Control, number: i64, state: OperationState, made: &Operation) -> OperationId {
    let id: OperationId = format!("restart-{number}").parse().unwrap();
    let created_at = made.created_at + Duration::from_secs(60 * u64::try_from(number).unwrap());
    let kind = OperationKind::Restart;
    let operation = Operation { id: id.clone(), kind, state, created_at, ..made.clone() };
    let key = server.store().operation_key(&id).unwrap();
    let written = server.store().records().create(&key, &operation).await.unwrap();
    assert!(matches!(written, WriteOutcome::Applied(_)));
    id
}

#[tokio::test(start_paused = true)]
async fn of_a_services_ended_operations_the_newest_and_the_one_that_made_it_are_kept() {
    let mut world = World::new(TestEnvironment::new(7).environment, 3).await.unwrap();
    let server = world.plain_server("server-1").unwrap();
    let made = world.create(&server, "orders", 3).await.unwrap();
    let running = restarted(&server, 0, OperationState::Pending, &made).await;
    let mut ended = Vec::new();
    for number in 1..=3 * i64::try_from(OPERATIONS_KEPT).unwrap() {
        ended.push(restarted(&server, number, OperationState::Succeeded, &made).await);
        server.controller().tidy_operations().await.unwrap();
        let all = server.operations(Some(&service())).await.unwrap();
        // Beside those that have ended, the one that made it and the one that has not.
        assert!(all.len() <= 2 * OPERATIONS_KEPT + 2, "{} after {number}", all.len());
        let kept = |id: &OperationId| all.iter().any(|operation| operation.id == *id);
        assert!(kept(&made.id) && kept(&running), "after {number}: {all:?}");
        assert!(ended.iter().rev().take(OPERATIONS_KEPT).all(kept), "after {number}: {all:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn another_servers_services_keep_their_operations() {
    let mut world = World::new(TestEnvironment::new(7).environment, 3).await.unwrap();
    let server = world.plain_server("server-1").unwrap();
    let made = world.create(&server, "orders", 3).await.unwrap();
    let many = 3 * i64::try_from(OPERATIONS_KEPT).unwrap();
    for number in 1..=many {
        restarted(&server, number, OperationState::Succeeded, &made).await;
    }
    let another = world.plain_server("server-2").unwrap();
    another.controller().tidy_operations().await.unwrap();
    let all = another.operations(Some(&service())).await.unwrap();
    assert_eq!(i64::try_from(all.len()).unwrap(), many + 1);
}

#[tokio::test(start_paused = true)]
async fn a_deleted_service_is_forgotten_by_servers_that_only_looked_at_it() {
    let mut world = World::new(TestEnvironment::new(7).environment, 3).await.unwrap();
    let server = world.plain_server("server-1").unwrap();
    world.create(&server, "orders", 3).await.unwrap();
    let looker = world.plain_server("server-2").unwrap();
    let glance = looker.controller().observer().glance(&service()).await.unwrap().unwrap();
    let revision = Arc::downgrade(&glance.facts.revision);
    drop(glance);
    assert!(revision.upgrade().is_some(), "what never changes is read once");
    let deleted = server.delete(&service(), Guard::default()).await.unwrap();
    world.finish(&server, &deleted.id).await.unwrap();
    looker.controller().start();
    let resync = Duration::from_secs(31);
    world.env.clock().sleep(resync).await;
    world.env.tasks().stop().await;
    assert!(revision.upgrade().is_none(), "nobody can ask for it any more");
}
