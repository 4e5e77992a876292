//! How a claim spends its time: what does not wait for something else is done beside it.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

mod kit;

use std::time::Duration;

use steadfast_core::Result;
use steadfast_core::backends::Backends;
use steadfast_core::ids::NodeName;
use steadfast_core::ip::IpProvider;
use steadfast_core::layer::{Call, Contract as _, Layer};
use steadfast_core::metadata::WriteOutcome;
use steadfast_core::model::{Member, Reason};
use steadfast_core::runtime::Environment;
use steadfast_core::volume::Attachment;
use steadfast_core::workflow::claim::{ClaimProgress, Claimant};
use steadfast_core::world::World;

use kit::{member, name, placed, world};

const QUICK: Duration = Duration::from_millis(100);
const SLOW: Duration = Duration::from_millis(300);

/// What a provider takes for each of its changes.
#[derive(Debug, Clone)]
struct Takes(Environment, Duration);

impl Layer for Takes {
    async fn call<'a, T, F, A>(&'a self, call: Call<'a>, attempt: F) -> Result<T>
    where
        T: Send + 'a,
        F: Fn() -> A + Copy + Send + Sync + 'a,
        A: Future<Output = Result<T>> + Send + 'a,
    {
        if matches!(call.operation, "assign" | "begin_attach" | "begin_detach") {
            self.0.clock().sleep(self.1).await;
        }
        attempt().await
    }
}

/// A service whose member 0 is placed on a node that has nothing of it, and the claimant of that node, whose providers
/// take so long. Whether the node that it comes from is dead.
async fn moving(dead: bool) -> (World, NodeName, Claimant) {
    let (mut world, server) = world(3).await;
    world.create(&server, "orders", 1).await.unwrap();
    let old = placed(&world, "orders-0").await;
    let node = world.nodes.keys().find(|node| **node != old).unwrap().clone();
    if dead {
        world.kill(&old);
    }
    let mut claimant = world.nodes[&node].claimant();
    let found = claimant.store.member(&name("orders"), &member("orders-0")).await.unwrap().unwrap();
    let mut record = Member::clone(&found.body);
    record.placed_on = Some(node);
    let key = claimant.store.member_key(&record.service, &record.name).unwrap();
    assert!(matches!(claimant.store.write(&key, &found, &record).await.unwrap(), WriteOutcome::Applied(_)));
    let Backends { volumes, ips, .. } = world.backends().unwrap();
    claimant.volumes = volumes.wrap(Takes(world.env.clone(), QUICK));
    claimant.ips = ips.wrap(Takes(world.env.clone(), SLOW));
    (world, old, claimant)
}

async fn holder_of_the_address(world: &World, record: &Member) -> Option<NodeName> {
    let address = record.address.as_ref().unwrap().address;
    world.ips.status(address).await.unwrap().unwrap().holder
}

#[tokio::test(start_paused = true)]
async fn the_address_of_a_dead_node_is_taken_while_its_volumes_are_moved() {
    let (world, _, claimant) = moving(true).await;
    let begun = world.env.clock().monotonic();
    let claimed = claimant.advance(&name("orders"), &member("orders-0")).await.unwrap();
    let ClaimProgress::Prepared(claimed) = claimed else { panic!("{claimed:?}") };
    let took = world.env.clock().monotonic().since(begun);
    assert_eq!(took, SLOW, "detaching, attaching and recording that ended before the address was had");
    assert_eq!(holder_of_the_address(&world, &claimed.body).await.as_ref(), Some(&claimant.node));
}

/// Its storage refuses it, and so the member may be claimed; until that has happened it serves under its address.
#[tokio::test(start_paused = true)]
async fn one_that_may_still_serve_keeps_its_address_until_it_has_lost_its_volumes() {
    let (world, old, claimant) = moving(false).await;
    let waiting = claimant.advance(&name("orders"), &member("orders-0")).await.unwrap();
    let is_detaching = matches!(waiting, ClaimProgress::Waiting(Reason::VolumeDetaching, _));
    assert!(is_detaching, "{waiting:?}");
    let record = claimant.store.member(&name("orders"), &member("orders-0")).await.unwrap().unwrap().body;
    assert_eq!(holder_of_the_address(&world, &record).await, Some(old));
    let id = record.volumes[0].id.clone().unwrap();
    // Its engine has ended.
    world.volumes.set_in_use(&id, false);
    let claimed = claimant.advance(&name("orders"), &member("orders-0")).await.unwrap();
    assert!(matches!(claimed, ClaimProgress::Prepared(_)), "{claimed:?}");
    assert_eq!(holder_of_the_address(&world, &record).await.as_ref(), Some(&claimant.node));
    let volume = claimant.volumes.describe(&id).await.unwrap().unwrap();
    assert_eq!(volume.attachment, Attachment::Attached(claimant.node.clone()));
}
