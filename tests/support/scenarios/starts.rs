//! Starts that are not like others: slow recoveries, what an earlier life has left behind.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use steadfast_core::model::Reason;

use super::stopped::Stopped;
use super::{SERVICE, Stage};
use crate::support::cluster::Cluster;
use crate::support::engine::Engine;
use crate::support::postgresql::Postgresql;
use crate::support::redis::encode;
use crate::support::{holds_for, process, until};

/// Longer than any deadline but that of a start without progress, which is minutes.
const LONG: Duration = Duration::from_secs(20);

/// The new engine is stopped before it has answered, and continued past every deadline.
pub fn an_engine_whose_start_takes_longer_than_any_deadline_is_left_to_it(engine: &'static Engine) {
    let stage = Stage::new(engine);
    let member = stage.follower();
    let guard = stage.cluster.guard(member.name.as_str());
    process::signal(guard.engine(), Signal::SIGKILL);
    let next =
        until("the next engine begins", || match stage.cluster.guards(member.name.as_str()).as_slice() {
            [one] if one.engine_pid.is_some() && one.incarnation != guard.incarnation => Ok(one.clone()),
            others => Err(format!("{others:?}")),
        });
    let stopped = Stopped::new(next.engine());
    holds_for(LONG, "it is left to it", || match stage.cluster.guards(member.name.as_str()).as_slice() {
        [one] if *one == next => Ok(()),
        others => Err(format!("{others:?}")),
    });
    stage.writer.goes_on();
    drop(stopped);
    stage.cluster.settled(&stage.identity);
    assert_eq!(stage.cluster.guard(member.name.as_str()), next, "it is the same life");
    stage.end();
}

/// Redis replays a command that takes long, during which it does not answer at all.
pub fn a_redis_that_replays_its_log_for_longer_than_any_deadline_is_left_to_it(engine: &'static Engine) {
    let stage = Stage::on(Cluster::start(), engine, &["--promote-after", "5s"]);
    let leader = stage.cluster.leader(SERVICE);
    let exits = stage.cluster.count_events(SERVICE, &Reason::EngineExited);
    stage.cluster.ok(["stop", SERVICE, "--wait", "--timeout", "3m"]);
    let folder = stage.volume(leader.name.as_str()).join("redis/appendonlydir");
    let files = fs::read_dir(&folder).unwrap().flatten().map(|entry| entry.path());
    let log = files.max_by_key(|path| (path.to_string_lossy().ends_with(".incr.aof"), path.clone())).unwrap();
    let mut log = fs::File::options().append(true).open(log).unwrap();
    // Replayed like any other command, and as long on every machine.
    let mut text = encode(&["SELECT", "0"]);
    text.extend(encode(&["DEBUG", "SLEEP", &LONG.as_secs().to_string()]));
    log.write_all(&text).unwrap();
    drop(log);
    stage.cluster.ok(["start", SERVICE]);
    let begun = Instant::now();
    let guard = stage.cluster.guard(leader.name.as_str());
    stage.cluster.settled(&stage.identity);
    assert!(begun.elapsed() > LONG, "too short to prove anything: {:?}", begun.elapsed());
    assert_eq!(stage.cluster.guard(leader.name.as_str()), guard, "it is the same life");
    assert_eq!(stage.cluster.count_events(SERVICE, &Reason::EngineExited), exits, "no engine was killed");
    assert_eq!(stage.cluster.leader(SERVICE).name, leader.name, "it leads again");
    stage.end();
}

/// The process that replays the log is stopped, so that the recovery of the primary gets on no further.
pub fn a_postgresql_that_replays_its_log_for_longer_than_any_deadline_is_left_to_it(engine: &'static Engine) {
    let stage = Stage::on(Cluster::start(), engine, &["--promote-after", "5s"]);
    let leader = stage.cluster.leader(SERVICE);
    let guard = stage.cluster.guard(leader.name.as_str());
    process::signal(guard.engine(), Signal::SIGKILL);
    let begun = Instant::now();
    let (next, startup) = loop {
        assert!(begun.elapsed() < crate::support::DEADLINE, "the next engine does not begin to recover");
        let found = stage.cluster.guards(leader.name.as_str());
        let [next] = found.as_slice() else { continue };
        let Some(engine) = next.engine_pid.filter(|_| next.incarnation != guard.incarnation) else {
            continue;
        };
        let startup = process::children(engine).into_iter().find(|(_, line)| line.contains("startup"));
        if let Some((startup, _)) = startup {
            break (next.clone(), startup);
        }
    };
    let stopped = Stopped::new(startup);
    holds_for(LONG, "it is left to it", || match stage.cluster.guards(leader.name.as_str()).as_slice() {
        [one] if *one == next => Ok(()),
        others => Err(format!("{others:?}")),
    });
    drop(stopped);
    stage.cluster.settled(&stage.identity);
    assert_eq!(stage.cluster.guard(leader.name.as_str()), next, "it is the same life");
    stage.end();
}

/// Killed with its guard, the server leaves a backend behind that is too busy to notice.
pub fn a_busy_backend_that_outlives_its_parents_is_killed_before_another_server_runs(
    engine: &'static Engine,
) {
    let stage = Stage::new(engine);
    let leader = stage.cluster.leader(SERVICE);
    let guard = stage.cluster.guard(leader.name.as_str());
    let address = std::net::SocketAddr::new(leader.address.unwrap(), stage.engine.port);
    let mut session = Postgresql::open(address, &stage.cluster.connect(SERVICE).env).unwrap();
    let before = process::children(guard.engine());
    session.begin("DO $$ BEGIN LOOP END LOOP; END $$");
    let busy = until("the backend is busy", || {
        let now = process::children(guard.engine());
        let found = now.iter().find(|(_, line)| line.ends_with(" DO"));
        found.map(|(pid, _)| *pid).ok_or_else(|| format!("{before:?}, {now:?}"))
    });
    process::signal(guard.guard_pid, Signal::SIGKILL);
    process::signal(guard.engine(), Signal::SIGKILL);
    stage.new_life(leader.name.as_str(), &guard.incarnation);
    assert!(!process::runs(busy), "the backend {busy} is gone");
    stage.end();
}

/// The pid file of a server that was killed names a process that is somebody else's by now.
pub fn a_stale_pid_file_with_a_pid_that_is_used_again_is_no_hindrance(engine: &'static Engine) {
    let mut stage = Stage::new(engine);
    let leader = stage.cluster.leader(SERVICE).name.to_string();
    let file = stage.volume(&leader).join("pgdata/postmaster.pid");
    let old = stage.cluster.guard(&leader).engine();
    stage.cluster.kill_everything();
    let owner = fs::metadata(&file).unwrap();
    // Of the engine's own user: only such a one can be taken for the old server.
    let mut stranger = Command::new("sleep")
        .arg("600")
        .uid(owner.uid())
        .gid(owner.gid())
        .current_dir("/")
        .stdin(Stdio::null())
        .spawn()
        .unwrap();
    let text = fs::read_to_string(&file).unwrap();
    let stale = text.replacen(&old.to_string(), &stranger.id().to_string(), 1);
    assert_ne!(text, stale, "the file named the old server");
    fs::write(&file, stale).unwrap();
    stage.cluster.up();
    stage.writer.goes_on();
    stage.cluster.settled(&stage.identity);
    let spared = stranger.try_wait().unwrap();
    stranger.kill().unwrap();
    stranger.wait().unwrap();
    assert_eq!(spared, None, "the stranger was left alone");
    stage.end();
}
