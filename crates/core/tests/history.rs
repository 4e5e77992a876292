//! What is over costs nothing: neither reads nor memory grow with what a cluster has been through.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

use std::sync::Arc;
use std::time::Duration;

use steadfast_core::control::Guard;
use steadfast_core::ids::ServiceName;
use steadfast_core::testing::TestEnvironment;
use steadfast_core::world::World;

fn service() -> ServiceName {
    "orders".parse().unwrap()
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
