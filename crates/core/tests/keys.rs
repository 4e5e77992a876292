//! Idempotency keys: what is asked twice is done once, and what is asked differently under the same key is refused.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

use std::sync::Arc;

use steadfast_core::ErrorKind;
use steadfast_core::control::{Control, ControlError, ControlResult, Guard};
use steadfast_core::ids::ServiceName;
use steadfast_core::layer::Access;
use steadfast_core::layer::fault::{Fault, Faults};
use steadfast_core::metadata::MetadataDb;
use steadfast_core::model::{Operation, Reason};
use steadfast_core::testing::TestEnvironment;
use steadfast_core::world::{World, service_file};

fn service() -> ServiceName {
    "orders".parse().unwrap()
}

async fn create(server: &Control, replicas: u32) -> ControlResult<Operation> {
    let guard = Guard { idempotency_key: Some("monday".to_owned()), ..Guard::default() };
    server.apply(service_file("orders", replicas), guard).await
}

fn assert_refused(answer: ControlResult<Operation>) {
    let Err(ControlError::Refused { reason, message, .. }) = answer else { panic!("{answer:?}") };
    assert_eq!(reason, Reason::ChangeUnsupported);
    assert!(message.contains("the idempotency key monday was used to create orders"), "{message}");
    assert!(message.contains("replicas (3 becomes 2)"), "{message}");
}

#[tokio::test(start_paused = true)]
async fn another_spec_under_the_key_of_a_create_is_refused_as_long_as_its_service_is_known() {
    let mut world = World::new(TestEnvironment::new(7).environment, 3).await.unwrap();
    let server = world.plain_server("server-1").unwrap();
    let first = create(&server, 3).await.unwrap();
    assert_refused(create(&server, 2).await);
    world.finish(&server, &first.id).await.unwrap();
    assert_refused(create(&server, 2).await);
    let deleted = server.delete(&service(), Guard::default()).await.unwrap();
    world.finish(&server, &deleted.id).await.unwrap();
    assert_refused(create(&server, 2).await);
    assert_eq!(create(&server, 3).await.unwrap().id, first.id);
}

/// The server dies before the service exists, when a part of what it rests on is there.
#[tokio::test(start_paused = true)]
async fn another_spec_under_the_key_of_a_create_that_was_cut_short_is_refused() {
    let mut refused = 0;
    for writes in 0.. {
        let mut world = World::new(TestEnvironment::new(7).environment, 3).await.unwrap();
        let faults = Faults::new();
        let dead = Fault::Refused(ErrorKind::Unavailable);
        faults.after(writes, u32::MAX, |call| call.access == Access::Write, dead);
        let db = faults.around(Arc::new(world.db.clone()) as Arc<dyn MetadataDb>);
        let doomed = world.server("server-1", db, world.backends().unwrap()).unwrap();
        if create(&doomed, 3).await.is_ok() {
            break;
        }
        let server = world.plain_server("server-2").unwrap();
        match create(&server, 2).await {
            // Nothing of the first spec had been written.
            Ok(operation) => {
                world.finish(&server, &operation.id).await.unwrap();
                assert_eq!(
                    server.service(&service()).await.unwrap().members.len(),
                    2,
                    "after {writes} writes"
                );
            }
            answer => {
                assert_refused(answer);
                refused += 1;
                let operation = create(&server, 3).await.unwrap();
                world.finish(&server, &operation.id).await.unwrap();
                assert_eq!(
                    server.service(&service()).await.unwrap().members.len(),
                    3,
                    "after {writes} writes"
                );
            }
        }
    }
    assert!(refused > 0, "nothing was ever cut short behind its spec: the test tests nothing");
}
