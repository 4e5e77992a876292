//! Processes stopped with SIGSTOP for longer than any lease, and continued: what was thought dead comes back.

use std::thread::sleep;
use std::time::Duration;

use nix::sys::signal::Signal;
use steadfast_core::model::NodeHealth;

use super::{SERVICE, Stage};
use crate::support::engine::Engine;
use crate::support::{holds_for, process, until};

/// Twice the leases of nodes and servers.
const PAST_THE_LEASE: Duration = Duration::from_secs(6);

/// Stops a process, and continues it when dropped.
pub struct Stopped(i32);

impl Stopped {
    pub fn new(pid: i32) -> Stopped {
        process::signal(pid, Signal::SIGSTOP);
        until(&format!("{pid} is stopped"), || {
            if process::is_stopped(pid) { Ok(()) } else { Err("not yet".to_owned()) }
        });
        Stopped(pid)
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        // It may have been killed while it was stopped: that is for the test to judge.
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(self.0), Signal::SIGCONT).ok();
    }
}

pub fn an_engine_that_is_stopped_past_the_lease_goes_on_as_the_same_life(engine: &'static Engine) {
    let stage = Stage::new(engine);
    let leader = stage.cluster.leader(SERVICE);
    let guard = stage.cluster.guard(leader.name.as_str());
    let stopped = Stopped::new(guard.engine());
    holds_for(PAST_THE_LEASE, "nobody else runs the member", || {
        match stage.cluster.guards(leader.name.as_str()).as_slice() {
            [one] if *one == guard => Ok(()),
            others => Err(format!("{others:?}")),
        }
    });
    drop(stopped);
    stage.writer.goes_on();
    assert_eq!(stage.cluster.guard(leader.name.as_str()), guard, "it is the same life");
    stage.end();
}

pub fn a_guard_that_is_stopped_past_the_lease_goes_on_with_its_engine(engine: &'static Engine) {
    let stage = Stage::new(engine);
    let leader = stage.cluster.leader(SERVICE);
    let guard = stage.cluster.guard(leader.name.as_str());
    let broken = stage.writer.broken();
    let stopped = Stopped::new(guard.guard_pid);
    sleep(PAST_THE_LEASE);
    drop(stopped);
    stage.writer.goes_on();
    assert_eq!(stage.cluster.guard(leader.name.as_str()), guard, "it is the same life");
    assert_eq!(stage.writer.broken(), broken, "no write has failed");
    stage.end();
}

pub fn a_guard_that_stays_stopped_is_killed_with_its_engine_before_another_runs(engine: &'static Engine) {
    let stage = Stage::new(engine);
    let leader = stage.cluster.leader(SERVICE);
    let guard = stage.cluster.guard(leader.name.as_str());
    let stopped = Stopped::new(guard.guard_pid);
    stage.new_life(leader.name.as_str(), &guard.incarnation);
    assert!(!process::runs(guard.guard_pid) && !process::runs(guard.engine()), "{guard:?} is gone");
    drop(stopped);
    stage.end();
}

pub fn an_agent_that_is_stopped_past_the_lease_is_suspected_and_nothing_moves(engine: &'static Engine) {
    let stage = Stage::new(engine);
    let leader = stage.cluster.leader(SERVICE);
    let node = leader.node.clone().unwrap();
    let (lives, broken) = (stage.lives(), stage.writer.broken());
    let stopped = Stopped::new(stage.cluster.agent_pid(node.as_str()));
    until(&format!("{node} is suspected"), || match stage.cluster.node(node.as_str()).health {
        NodeHealth::Suspect => Ok(()),
        other => Err(format!("{other:?}")),
    });
    holds_for(PAST_THE_LEASE, "the member stays where it is", || match stage.member(leader.name.as_str()) {
        now if (&now.node, now.epoch) == (&leader.node, leader.epoch) => Ok(()),
        now => Err(format!("{now:?}")),
    });
    stage.writer.goes_on();
    drop(stopped);
    stage.cluster.is_up();
    stage.cluster.settled(&stage.identity);
    assert_eq!(stage.lives(), lives, "every engine is the same process as before");
    assert_eq!(stage.writer.broken(), broken, "no write has failed");
    stage.end();
}

pub fn a_server_that_is_stopped_past_the_lease_goes_on_and_no_engine_notices(engine: &'static Engine) {
    let stage = Stage::new(engine);
    let (lives, broken) = (stage.lives(), stage.writer.broken());
    let stopped = Stopped::new(stage.cluster.server_pid("server-1"));
    sleep(PAST_THE_LEASE);
    stage.writer.goes_on();
    drop(stopped);
    stage.cluster.is_up();
    stage.cluster.settled(&stage.identity);
    assert_eq!(stage.lives(), lives, "every engine is the same process as before");
    assert_eq!(stage.writer.broken(), broken, "no write has failed");
    stage.end();
}
