//! Processes killed with SIGKILL.

use std::collections::BTreeSet;

use nix::sys::signal::Signal;
use steadfast_core::model::NodeHealth;

use super::{SERVICE, Stage};
use crate::support::cluster::{Cluster, Layout};
use crate::support::engine::Engine;
use crate::support::{process, until};

pub fn a_service_is_created_with_its_members_apart(engine: &'static Engine) {
    let stage = Stage::new(engine);
    let view = stage.cluster.service(SERVICE);
    let nodes: BTreeSet<_> = view.members.iter().filter_map(|member| member.node.clone()).collect();
    assert_eq!((view.members.len(), nodes.len()), (3, 3), "{view:?}");
    for member in &view.members {
        let engine = process::command_line(stage.cluster.guard(member.name.as_str()).engine());
        assert!(engine.contains(stage.engine.program), "{engine}");
    }
    stage.end();
}

pub fn an_engine_that_is_killed_is_started_again_in_place(engine: &'static Engine) {
    let stage = Stage::new(engine);
    let before = stage.cluster.leader(SERVICE);
    let guard = stage.cluster.guard(before.name.as_str());
    process::signal(guard.engine(), Signal::SIGKILL);
    let after = stage.new_life(before.name.as_str(), &guard.incarnation);
    assert_eq!((after.node, after.epoch), (before.node, before.epoch), "it is where it was");
    stage.end();
}

pub fn a_guard_that_is_killed_takes_its_engine_along(engine: &'static Engine) {
    let stage = Stage::new(engine);
    let before = stage.cluster.leader(SERVICE);
    let guard = stage.cluster.guard(before.name.as_str());
    process::signal(guard.guard_pid, Signal::SIGKILL);
    let after = stage.new_life(before.name.as_str(), &guard.incarnation);
    assert_eq!(after.node, before.node, "it is where it was");
    assert!(!process::runs(guard.engine()), "its engine is gone");
    stage.end();
}

pub fn an_agent_that_is_killed_is_replaced_by_a_newer_build_under_load_and_no_engine_notices(
    engine: &'static Engine,
) {
    let layout = Layout { nodes: 3, servers: 1, own_program: true, ..Layout::default() };
    let stage = Stage::on(Cluster::of(layout), engine, &[]);
    let lives = stage.lives();
    let broken = stage.writer.broken();
    stage.cluster.upgrade_program();
    for node in ["node-1", "node-2", "node-3"] {
        let agent = stage.cluster.agent_pid(node);
        assert!(!stage.cluster.runs_this_program(agent), "{node} is of the build before");
        process::signal(agent, Signal::SIGKILL);
        let next = until(&format!("{node} has another agent"), || match stage.cluster.agent_pid(node) {
            other if other != agent => Ok(other),
            same => Err(format!("it is still {same}")),
        });
        assert!(stage.cluster.runs_this_program(next), "{node} is of the newer build");
    }
    stage.cluster.is_up();
    stage.writer.goes_on();
    assert_eq!(stage.writer.broken(), broken, "no write has failed");
    assert_eq!(stage.lives(), lives, "every engine is the same process as before");
    stage.end();
}

pub fn a_server_that_is_killed_is_replaced_and_no_engine_notices(engine: &'static Engine) {
    let stage = Stage::new(engine);
    let lives = stage.lives();
    let broken = stage.writer.broken();
    let server = stage.cluster.server_pid("server-1");
    process::signal(server, Signal::SIGKILL);
    until("there is another server", || match stage.cluster.server_pid("server-1") {
        other if other != server => Ok(()),
        same => Err(format!("it is still {same}")),
    });
    stage.cluster.is_up();
    stage.writer.goes_on();
    assert_eq!(stage.writer.broken(), broken, "no write has failed");
    assert_eq!(stage.lives(), lives, "every engine is the same process as before");
    stage.end();
}

pub fn a_member_whose_node_is_killed_comes_back_as_itself_elsewhere(engine: &'static Engine) {
    let stage = Stage::new(engine);
    let before = stage.cluster.leader(SERVICE);
    let node = before.node.clone().unwrap();
    stage.cluster.ok(["node", "kill", node.as_str()]);
    let after = stage.elsewhere(before.name.as_str(), node.as_str());
    assert!(after.epoch > before.epoch, "{before:?}, {after:?}");
    stage.end();
}

pub fn a_node_that_comes_back_after_its_member_has_moved_leaves_it_alone(engine: &'static Engine) {
    let stage = Stage::new(engine);
    let before = stage.cluster.leader(SERVICE);
    let node = before.node.clone().unwrap();
    stage.cluster.ok(["node", "kill", node.as_str()]);
    let moved = stage.elsewhere(before.name.as_str(), node.as_str());
    let life = stage.cluster.guard(before.name.as_str());
    stage.cluster.ok(["node", "start", node.as_str()]);
    until(&format!("{node} is back"), || match stage.cluster.node(node.as_str()).health {
        NodeHealth::Ready => Ok(()),
        other => Err(format!("{other:?}")),
    });
    stage.writer.goes_on();
    stage.cluster.settled(&stage.identity);
    let after = stage.member(before.name.as_str());
    assert_eq!((after.node, after.epoch), (moved.node, moved.epoch), "it stays where it has moved to");
    assert_eq!(stage.cluster.guard(before.name.as_str()), life, "it is the same life");
    stage.end();
}

pub fn a_node_that_is_killed_while_a_member_moves_to_it_is_survived_too(engine: &'static Engine) {
    let stage = Stage::on(Cluster::of_nodes(5), engine, &[]);
    let before = stage.cluster.leader(SERVICE);
    let first = before.node.clone().unwrap();
    stage.cluster.ok(["node", "kill", first.as_str()]);
    let second = until("the member has another node", || match stage.member(before.name.as_str()).node {
        Some(node) if node != first => Ok(node),
        other => Err(format!("{other:?}")),
    });
    stage.cluster.ok(["node", "kill", second.as_str()]);
    let after = stage.elsewhere(before.name.as_str(), second.as_str());
    assert_ne!(after.node.as_ref(), Some(&first), "that one is dead");
    stage.end();
}

pub fn everything_killed_at_once_comes_back_with_the_next_up(engine: &'static Engine) {
    let mut stage = Stage::new(engine);
    stage.cluster.kill_everything();
    stage.cluster.up();
    stage.end();
}
