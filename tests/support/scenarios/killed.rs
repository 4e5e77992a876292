//! Processes killed with SIGKILL.

use std::collections::BTreeSet;

use nix::sys::signal::Signal;
use steadfast_core::model::MemberPhase;

use super::{SERVICE, Stage};
use crate::support::cluster::Cluster;
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
    let after = new_life(&stage, before.name.as_str(), &guard.incarnation);
    assert_eq!((after.node, after.epoch), (before.node, before.epoch), "it is where it was");
    stage.end();
}

pub fn a_guard_that_is_killed_takes_its_engine_along(engine: &'static Engine) {
    let stage = Stage::new(engine);
    let before = stage.cluster.leader(SERVICE);
    let guard = stage.cluster.guard(before.name.as_str());
    process::signal(guard.guard_pid, Signal::SIGKILL);
    let after = new_life(&stage, before.name.as_str(), &guard.incarnation);
    assert_eq!(after.node, before.node, "it is where it was");
    assert!(!process::runs(guard.engine()), "its engine is gone");
    stage.end();
}

pub fn an_agent_that_is_killed_is_replaced_under_load_and_no_engine_notices(engine: &'static Engine) {
    let stage = Stage::new(engine);
    let lives = lives(&stage.cluster);
    let broken = stage.writer.broken();
    for node in ["node-1", "node-2", "node-3"] {
        let agent = stage.cluster.agent_pid(node);
        process::signal(agent, Signal::SIGKILL);
        until(&format!("{node} has another agent"), || match stage.cluster.agent_pid(node) {
            other if other != agent => Ok(()),
            same => Err(format!("it is still {same}")),
        });
    }
    stage.cluster.is_up();
    stage.writer.goes_on();
    assert_eq!(stage.writer.broken(), broken, "no write has failed");
    assert_eq!(self::lives(&stage.cluster), lives, "every engine is the same process as before");
    stage.end();
}

pub fn a_server_that_is_killed_is_replaced_and_no_engine_notices(engine: &'static Engine) {
    let stage = Stage::new(engine);
    let lives = lives(&stage.cluster);
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
    assert_eq!(self::lives(&stage.cluster), lives, "every engine is the same process as before");
    stage.end();
}

pub fn a_member_whose_node_is_killed_comes_back_as_itself_elsewhere(engine: &'static Engine) {
    let stage = Stage::new(engine);
    let before = stage.cluster.leader(SERVICE);
    let node = before.node.clone().unwrap();
    stage.cluster.ok(["node", "kill", node.as_str()]);
    let after = elsewhere(&stage.cluster, before.name.as_str(), node.as_str());
    assert!(after.epoch > before.epoch, "{before:?}, {after:?}");
    stage.end();
}

pub fn everything_killed_at_once_comes_back_with_the_next_up(engine: &'static Engine) {
    let mut stage = Stage::new(engine);
    stage.cluster.kill_everything();
    stage.cluster.up();
    stage.end();
}

/// Waits until another life of the member's engine serves.
pub fn new_life(stage: &Stage, member: &str, old: &str) -> steadfast_core::control::MemberView {
    until(&format!("{member} serves in another life"), || {
        let view = stage.cluster.member(SERVICE, member);
        let another = view.incarnation.as_ref().is_some_and(|life| life.as_str() != old);
        if another && view.phase == MemberPhase::Serving && view.ready {
            Ok(view)
        } else {
            Err(format!("{view:?}"))
        }
    })
}

/// Waits until the member serves on another node.
pub fn elsewhere(cluster: &Cluster, member: &str, node: &str) -> steadfast_core::control::MemberView {
    until(&format!("{member} serves elsewhere than on {node}"), || {
        let view = cluster.member(SERVICE, member);
        let moved = view.node.as_ref().is_some_and(|now| now.as_str() != node);
        if moved && view.phase == MemberPhase::Serving && view.ready && !view.stale {
            Ok(view)
        } else {
            Err(format!("{view:?}"))
        }
    })
}

/// The process of every member's engine, with its time of start.
pub fn lives(cluster: &Cluster) -> Vec<(i32, Option<u64>)> {
    let members = cluster.service(SERVICE).members;
    let engines = members.iter().map(|member| cluster.guard(member.name.as_str()).engine());
    engines.map(|pid| (pid, process::started(pid))).collect()
}
