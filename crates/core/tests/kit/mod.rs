//! What tests of workflows over memory backends share.
#![allow(dead_code, reason = "each test file uses its part")]

use std::time::Duration;

use steadfast_core::control::Control;
use steadfast_core::ids::{MemberName, NodeName, ServiceName};
use steadfast_core::testing::TestEnvironment;
use steadfast_core::world::World;

pub(crate) const MINUTE: Duration = Duration::from_secs(60);

/// A world of so many nodes, and a server in it.
pub(crate) async fn world(nodes: u32) -> (World, Control) {
    let world = World::new(TestEnvironment::new(7).environment, nodes).await.unwrap();
    let server = world.plain_server("server-1").unwrap();
    (world, server)
}

/// A service's name.
pub(crate) fn name(text: &str) -> ServiceName {
    text.parse().unwrap()
}

/// A member's name.
pub(crate) fn member(text: &str) -> MemberName {
    text.parse().unwrap()
}

/// The node that holds a member.
pub(crate) async fn placed(world: &World, text: &str) -> NodeName {
    let (service, _) = text.rsplit_once('-').unwrap();
    world.holder(&name(service), &member(text)).await.unwrap().unwrap()
}

/// On how many nodes a member takes writes.
pub(crate) fn writable(world: &World, text: &str) -> usize {
    world.nodes.values().filter(|node| node.is_writable(&member(text))).count()
}
