//! A machine whose wall clock is set, forward and back by days, under everything that runs on it.

use std::fs;
use std::path::{Path, PathBuf};

use nix::sys::signal::Signal;

use super::{SERVICE, Stage};
use crate::support::cluster::{Cluster, Layout};
use crate::support::engine::Engine;
use crate::support::{process, until};

/// The wall clock of every process that is started with it, set by a file (libfaketime). The clocks that do not
/// jump, which the kernel keeps apart, are left as they are.
struct WallClock {
    file: PathBuf,
    _folder: tempfile::TempDir,
}

impl WallClock {
    fn new() -> WallClock {
        let folder = tempfile::tempdir().unwrap();
        let clock = WallClock { file: folder.path().join("clock"), _folder: folder };
        clock.set("+0");
        clock
    }

    /// Sets it so far from the machine's.
    fn set(&self, offset: &str) {
        // A reader sees the old or the new text, never none.
        let new = self.file.with_extension("new");
        fs::write(&new, offset).unwrap();
        fs::rename(&new, &self.file).unwrap();
    }

    fn environment(&self) -> Vec<(&'static str, PathBuf)> {
        vec![
            ("LD_PRELOAD", library()),
            ("FAKETIME_TIMESTAMP_FILE", self.file.clone()),
            ("FAKETIME_NO_CACHE", "1".into()),
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1".into()),
        ]
    }
}

fn library() -> PathBuf {
    let places = fs::read_dir("/usr/lib").unwrap().map(|entry| entry.unwrap().path());
    let mut files = places.map(|place| place.join("faketime/libfaketimeMT.so.1"));
    let found = files.find(|file| file.exists());
    found.unwrap_or_else(|| panic!("libfaketime is not installed: scripts/install-packages faketime"))
}

pub fn a_wall_clock_that_jumps_by_days_moves_nothing_and_stops_nothing(engine: &'static Engine) {
    let clock = WallClock::new();
    let layout = Layout { nodes: 3, servers: 2, environment: clock.environment(), ..Layout::default() };
    let stage = Stage::on(Cluster::of(layout), engine, &[]);
    assert!(
        maps(stage.cluster.server_pid("server-1"), &library()),
        "the server has the clock that is set here"
    );
    let (lives, broken) = (stage.lives(), stage.writer.broken());
    for jump in ["+2d", "-3d", "+0"] {
        clock.set(jump);
        stage.writer.goes_on();
        stage.cluster.is_up();
        stage.cluster.settled(&stage.identity);
        assert_eq!(stage.lives(), lives, "{jump}: every engine is the same process as before");
        assert_eq!(stage.writer.broken(), broken, "{jump}: no write has failed");
    }
    clock.set("-3d");
    let member = stage.follower();
    let node = member.node.clone().unwrap();
    stage.cluster.ok(["node", "kill", node.as_str()]);
    stage.elsewhere(member.name.as_str(), node.as_str());
    clock.set("+2d");
    stage.cluster.ok(["restart", SERVICE, "--wait", "--timeout", "3m"]);
    let server = stage.cluster.server_pid("server-1");
    process::signal(server, Signal::SIGKILL);
    until("another process is the server", || match stage.cluster.server_pid("server-1") {
        now if now != server => Ok(()),
        same => Err(format!("{same}")),
    });
    stage.end();
}

/// Whether a process has the file in its memory.
fn maps(pid: i32, file: &Path) -> bool {
    let maps = fs::read_to_string(format!("/proc/{pid}/maps")).unwrap();
    maps.lines().any(|line| line.ends_with(file.to_str().unwrap()))
}
