//! Why a member is as it is, as the first that is on call reads it.

use std::sync::Arc;
use std::time::Duration;

use steadfast_core::error::ErrorKind;
use steadfast_core::layer::fault::{Fault, Faults};
use steadfast_core::metadata::MetadataDb;
use steadfast_core::model::Reason;
use steadfast_core::testing::TestEnvironment;
use steadfast_core::world::World;

const MINUTE: Duration = Duration::from_secs(60);

#[tokio::test(start_paused = true)]
async fn a_store_that_takes_no_writes_is_the_first_thing_that_why_tells() {
    let mut world = World::new(TestEnvironment::new(7).environment, 3).await.unwrap();
    let faults = Faults::new();
    let db = faults.around::<dyn MetadataDb>(Arc::new(world.db.clone()));
    let server = world.server("server-1", db, world.backends().unwrap()).unwrap();
    world.create(&server, "orders", 3).await.unwrap();
    let member = "orders-0".parse().unwrap();
    faults.always(|call| call.operation == "put", Fault::Refused(ErrorKind::QuotaExceeded));
    server.controller().shards().round().await.unwrap_err();
    world.env.clock().sleep(MINUTE).await;
    server.controller().shards().round().await.unwrap_err();
    let why = server.why(&member).await.unwrap();
    assert_eq!(why.lines[0].reason, Some(Reason::StoreUnavailable), "{why:?}");
    assert!(why.lines[0].text.starts_with("server-1 has written nothing for 60 s: "), "{why:?}");
    assert!(why.next_action.unwrap().contains("store"));
    faults.clear();
    server.controller().shards().round().await.unwrap();
    let why = server.why(&member).await.unwrap();
    assert!(why.lines.iter().all(|line| line.reason != Some(Reason::StoreUnavailable)), "{why:?}");
}
