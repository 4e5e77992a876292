//! Nodes that start nothing, while their agents live: what runs there goes on, and what has ended there moves.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

mod kit;

use std::collections::BTreeSet;
use std::time::Duration;

use kit::{MINUTE, member, name, placed, world, writable};
use steadfast_core::control::{Guard, ServiceView};
use steadfast_core::ids::NodeName;
use steadfast_core::model::{Reason, ServiceState};
use steadfast_core::world::service_file;

/// An engine of Docker that is dead, for example, while the node's agent lives.
#[tokio::test(start_paused = true)]
async fn what_runs_on_a_node_that_starts_nothing_goes_on_and_what_has_ended_there_moves() {
    let (mut world, server) = world(4).await;
    world.create(&server, "orders", 3).await.unwrap();
    let node = placed(&world, "orders-0").await;
    let before = server.service(&name("orders")).await.unwrap();
    world.orchestrator.set_stalled(&node, Some("its engine is down"));
    let changed =
        world.until(&server, MINUTE * 5, |views| views[0].state != ServiceState::Healthy).await.unwrap();
    assert!(!changed, "what runs goes on: {:?}", server.service(&name("orders")).await.unwrap());
    let after = server.service(&name("orders")).await.unwrap();
    assert_eq!((after.role_term, after.primary), (before.role_term, before.primary));
    assert_eq!(placed(&world, "orders-0").await, node);

    // A short stall moves nothing: it begins anew, and the engine ends with it.
    world.orchestrator.set_stalled(&node, None);
    world.round(&server).await.unwrap();
    world.orchestrator.set_stalled(&node, Some("its engine is down"));
    world.nodes.get_mut(&node).unwrap().breaks(&member("orders-0"));
    let on = |view: &ServiceView| view.members[0].node.clone();
    let moved = |views: &[_]| on(&views[0]).as_ref() != Some(&node);
    assert!(!world.until(&server, Duration::from_secs(14), moved).await.unwrap());
    let why = server.why(&member("orders-0")).await.unwrap();
    let told = |reason: &Reason| why.lines.iter().any(|line| line.reason.as_ref() == Some(reason));
    assert!(told(&Reason::OrchestratorUnavailable), "{why:?}");

    // One that lasts does, on no more than the old agent's word: it lives, and gives back what it held.
    assert!(world.until(&server, Duration::from_secs(5), moved).await.unwrap());
    assert!(world.until(&server, MINUTE, |views| views[0].state == ServiceState::Healthy).await.unwrap());
    assert_eq!(writable(&world, "orders-0"), 1);
    let record = server.store().member(&name("orders"), &member("orders-0")).await.unwrap().unwrap().body;
    assert!(record.unreleased.iter().all(|holder| holder.node != node), "{record:?}");
    let why = server.why(&member("orders-0")).await.unwrap();
    assert!(why.lines.iter().any(|line| line.text.contains("its engine is down")), "{why:?}");
}

/// A cluster that has just been started: its first node would get every member, and keep those with zonal volumes.
#[tokio::test(start_paused = true)]
async fn members_are_put_together_only_once_nodes_had_time_to_be_heard_of() {
    let (mut world, server) = world(3).await;
    let nodes: Vec<NodeName> = world.nodes.keys().cloned().collect();
    for late in &nodes[1..] {
        world.silence(late, true);
    }
    let create = server.apply(service_file("orders", 3), Guard::default()).await.unwrap();
    let all_placed = |views: &[ServiceView]| views[0].members.iter().all(|member| member.node.is_some());
    assert!(!world.until(&server, Duration::from_secs(3), all_placed).await.unwrap());
    let why = server.why(&member("orders-2")).await.unwrap();
    assert!(why.lines.iter().any(|line| line.text.contains("to be heard of first")), "{why:?}");
    for late in &nodes[1..] {
        world.silence(late, false);
    }
    world.finish(&server, &create.id).await.unwrap();
    let view = server.service(&name("orders")).await.unwrap();
    let on: BTreeSet<_> = view.members.iter().map(|member| member.node.clone()).collect();
    assert_eq!(on.len(), 3, "{view:?}");

    // Nobody else comes: then that is how it is.
    for late in &nodes[1..] {
        world.silence(late, true);
    }
    world.create(&server, "small", 3).await.unwrap();
}

/// Swarm takes 20 s to miss an engine, and longer if its leader is lost with it: the node's own agent knows at once.
#[tokio::test(start_paused = true)]
async fn what_has_ended_moves_on_the_word_of_the_nodes_own_agent_before_the_orchestrator_knows() {
    let (mut world, server) = world(4).await;
    world.create(&server, "orders", 1).await.unwrap();
    let node = placed(&world, "orders-0").await;
    world.nodes.get_mut(&node).unwrap().stalled = Some("its engine is dead".to_owned());
    world.nodes.get_mut(&node).unwrap().breaks(&member("orders-0"));
    let moved = |views: &[ServiceView]| views[0].members[0].node.as_ref() != Some(&node);
    assert!(!world.until(&server, Duration::from_secs(14), moved).await.unwrap());
    let shown = server.nodes().into_iter().find(|view| view.name == node).unwrap();
    assert_eq!(shown.stalled.as_deref(), Some("its agent says: its engine is dead"));
    assert!(world.until(&server, Duration::from_secs(3), moved).await.unwrap());
    assert!(world.until(&server, MINUTE, |views| views[0].state == ServiceState::Healthy).await.unwrap());
    let why = server.why(&member("orders-0")).await.unwrap();
    assert!(why.lines.iter().any(|line| line.text.contains("its agent says: its engine is dead")), "{why:?}");
    let record = server.store().member(&name("orders"), &member("orders-0")).await.unwrap().unwrap().body;
    assert!(record.unreleased.iter().all(|holder| holder.node != node), "{record:?}");
}

/// If most nodes start nothing, it is the orchestrator that fails.
#[tokio::test(start_paused = true)]
async fn nothing_moves_while_most_nodes_start_nothing() {
    let (mut world, server) = world(3).await;
    world.create(&server, "orders", 1).await.unwrap();
    let node = placed(&world, "orders-0").await;
    let nodes: Vec<NodeName> = world.nodes.keys().cloned().collect();
    let other = nodes.iter().find(|other| **other != node).unwrap();
    for stalled in [&node, other] {
        world.orchestrator.set_stalled(stalled, Some("its engine is down"));
    }
    world.nodes.get_mut(&node).unwrap().breaks(&member("orders-0"));
    let moved =
        world.until(&server, MINUTE, |views| views[0].members[0].node.as_ref() != Some(&node)).await.unwrap();
    assert!(!moved);
    let why = server.why(&member("orders-0")).await.unwrap();
    assert!(why.lines.iter().any(|line| line.reason == Some(Reason::StormBrake)), "{why:?}");
}
