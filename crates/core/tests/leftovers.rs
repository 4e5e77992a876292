//! What somebody who died, or was slow, leaves behind is found and put in order by whoever comes next.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

use steadfast_core::control::Guard;
use steadfast_core::ids::{NodeName, ServiceName};
use steadfast_core::ip::{AddressOutcome, IpProvider};
use steadfast_core::testing::TestEnvironment;
use steadfast_core::world::World;

fn service() -> ServiceName {
    "orders".parse().unwrap()
}

/// A claim that was refused everything else may still have been given the address, after its successor gave it back.
#[tokio::test(start_paused = true)]
async fn an_address_that_a_slow_claim_took_does_not_keep_a_service_from_being_deleted() {
    let mut world = World::new(TestEnvironment::new(7).environment, 3).await.unwrap();
    let server = world.plain_server("server-1").unwrap();
    world.create(&server, "orders", 3).await.unwrap();
    let stop = server.stop(&service(), Guard::default()).await.unwrap();
    world.finish(&server, &stop.id).await.unwrap();
    let members = server.store().members(&service()).await.unwrap();
    let address = members[0].body.address.as_ref().unwrap().address;
    let slow: NodeName = "node-2".parse().unwrap();
    assert_eq!(world.ips.assign(address, &slow, None).await.unwrap(), AddressOutcome::Applied);
    let delete = server.delete(&service(), Guard::default()).await.unwrap();
    world.finish(&server, &delete.id).await.unwrap();
    assert_eq!(world.ips.list().await.unwrap(), []);
}
