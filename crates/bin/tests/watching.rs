//! `--watch` goes on whatever becomes of the servers, and loses and repeats nothing.

#![allow(clippy::unwrap_used, reason = "a test ends where something is not as it should be")]

mod common;

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};

use common::cluster::{Cluster, has_redis, holder};
use common::{eventually, expect, out, steadfast};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// A `--watch` of this test, with what it prints in files.
struct Watcher {
    child: Child,
    out: PathBuf,
    err: PathBuf,
}

impl Watcher {
    fn start(data: &Path, name: &str, arguments: &[&str]) -> Watcher {
        let file = |kind: &str| data.join(format!("{name}.{kind}"));
        let (out, err) = (file("out"), file("err"));
        let child = steadfast(data)
            .args(arguments)
            .stdout(fs::File::create(&out).unwrap())
            .stderr(fs::File::create(&err).unwrap())
            .spawn()
            .unwrap();
        Watcher { child, out, err }
    }

    fn printed(&self) -> String {
        fs::read_to_string(&self.out).unwrap()
    }

    fn said(&self) -> String {
        fs::read_to_string(&self.err).unwrap()
    }

    /// Waits for a text on standard output, or for the end that should not have come.
    fn until(&mut self, what: &str, done: impl Fn(&Watcher) -> bool) {
        eventually(what, || {
            let ended = self.child.try_wait().unwrap();
            assert!(ended.is_none(), "{what}: it ended with {ended:?}: {}", self.said());
            done(self).then_some(())
        });
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

fn kill_server(data: &Path, id: &str) {
    let pid = holder(&data.join("servers").join(id).join("lock")).expect("it runs");
    kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
}

/// Pauses and resumes, which is two events; servers may be on their way back meanwhile.
fn pause_and_resume(cluster: &Cluster) {
    for verb in ["pause", "resume"] {
        eventually(verb, || (cluster.run(&[verb, "orders"]).status.code() == Some(0)).then_some(()));
    }
}

#[test]
fn a_watch_goes_on_with_another_server_and_loses_and_repeats_nothing() {
    if !has_redis("a_watch_goes_on_with_another_server_and_loses_and_repeats_nothing") {
        return;
    }
    let mut cluster = Cluster::of(1, &["--servers", "2"]);
    let data = &cluster.data().to_owned();
    cluster.create_redis("orders", 1);
    let mut events = Watcher::start(data, "events", &["events", "orders", "--watch"]);
    let mut nodes = Watcher::start(data, "nodes", &["node", "list", "--watch"]);
    events.until("the first events", |watcher| watcher.printed().contains("Created"));
    nodes.until("the first table", |watcher| watcher.printed().contains("node-1"));
    let resumed = |watcher: &Watcher| watcher.printed().matches("resumed").count();

    // The server that is asked first; nobody starts it again.
    cluster.kill_up();
    kill_server(data, "server-1");
    for watcher in [&mut events, &mut nodes] {
        watcher.until("connected to the other one", |watcher| watcher.said().contains("connected again"));
    }
    pause_and_resume(&cluster);
    events.until("what happened since", |watcher| resumed(watcher) == 1);

    // The other one: now there is none, until all are started again.
    kill_server(data, "server-2");
    for watcher in [&mut events, &mut nodes] {
        watcher.until("nobody answers", |watcher| watcher.said().contains("still trying"));
    }
    cluster.start_up_again();
    for watcher in [&mut events, &mut nodes] {
        watcher.until("connected to one that has come back", |watcher| {
            watcher.said().matches("connected again").count() == 2
        });
    }
    pause_and_resume(&cluster);
    events.until("what happened since then", |watcher| resumed(watcher) == 2);

    let all = cluster.run(&["events", "orders"]);
    expect(&all, 0);
    let wanted: Vec<String> = out(&all).lines().map(str::to_owned).collect();
    events.until("the last event", |watcher| watcher.printed().lines().count() >= wanted.len());
    let shown: Vec<String> = events.printed().lines().map(str::to_owned).collect();
    let once: BTreeSet<&String> = shown.iter().collect();
    assert_eq!(once.len(), shown.len(), "nothing is shown twice: {shown:#?}");
    assert!(wanted.iter().all(|line| once.contains(line)), "nothing is lost: {shown:#?} of {wanted:#?}");
    kill(Pid::from_raw(i32::try_from(events.child.id()).unwrap()), Signal::SIGINT).unwrap();
    let ended = eventually("Ctrl-C ends it", || events.child.try_wait().unwrap());
    assert_eq!(ended.code(), Some(0));
}

#[test]
fn a_watch_ends_when_nobody_reads_it_any_more() {
    let cluster = Cluster::of(1, &[]);
    let mut watch =
        steadfast(cluster.data()).args(["list", "--watch"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut first = String::new();
    BufReader::new(watch.stdout.take().unwrap()).read_line(&mut first).unwrap();
    assert!(first.starts_with("NAME"), "{first}");
    // Nothing changes that would have to be written.
    let ended = eventually("it ends", || watch.try_wait().unwrap());
    assert_eq!(ended.code(), Some(0));
}
