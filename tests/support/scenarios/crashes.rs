//! Engines that end again and again.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;

use nix::sys::signal::Signal;
use steadfast_core::model::Reason;

use super::Stage;
use crate::support::engine::Engine;
use crate::support::process;

/// A file or folder without which an engine cannot run, made unreadable until this is dropped.
pub struct Broken {
    path: PathBuf,
    mode: u32,
}

impl Broken {
    pub fn of(stage: &Stage, member: &str) -> Broken {
        let path = stage.volume(member).join(stage.engine.precious);
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        fs::set_permissions(&path, Permissions::from_mode(0o000)).unwrap();
        Broken { path, mode }
    }
}

impl Drop for Broken {
    fn drop(&mut self) {
        let healed = fs::set_permissions(&self.path, Permissions::from_mode(self.mode));
        assert!(healed.is_ok() || std::thread::panicking(), "{healed:?}");
    }
}

pub fn a_crash_loop_backs_off_and_does_not_move(engine: &'static Engine) {
    let stage = Stage::new(engine);
    let member = stage.follower();
    let guard = stage.cluster.guard(member.name.as_str());
    let broken = Broken::of(&stage, member.name.as_str());
    process::signal(guard.engine(), Signal::SIGKILL);
    // As an ordinary user the agent itself cannot look at the data.
    let looped = stage.blocked(member.name.as_str(), &[Reason::CrashLoop, Reason::PermissionDenied]);
    assert_eq!((&looped.node, looped.epoch), (&member.node, member.epoch), "it does not move");
    assert!(looped.restarts >= 5, "it has been tried: {looped:?}");
    // Five tries with delays that double, not hundreds.
    assert!(looped.restarts <= 8, "it backs off: {looped:?}");
    stage.writer.goes_on();
    drop(broken);
    stage.cluster.settled(&stage.identity);
    let after = stage.member(member.name.as_str());
    assert_eq!((after.node, after.epoch), (member.node, member.epoch), "it is where it was");
    stage.end();
}
