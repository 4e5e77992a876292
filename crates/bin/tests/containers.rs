//! The agent as a volume plugin of a real engine of Docker: members in containers that somebody else starts, stops and
//! kills.
#![cfg(feature = "linux")]
#![allow(clippy::unwrap_used, reason = "a test ends where something is not as it should be")]

mod common;
mod docker;
mod machine;
#[path = "../../backends/linux/tests/network/mod.rs"]
mod network;

use std::fs;
use std::process::Stdio;

use common::cluster::has_redis;
use common::{err, expect};
use docker::has_docker;
use machine::Lab;
use network::{eventually, may_make_networks};

#[test]
fn the_plugin_removes_nothing_that_is_no_socket() {
    let test = "the_plugin_removes_nothing_that_is_no_socket";
    if !may_make_networks(test) || !has_docker(test) {
        return;
    }
    let mut lab = Lab::new();
    lab.serve();
    let notes = lab.folder.path().join("notes");
    fs::write(&notes, "mine").unwrap();
    let plugin = format!("--volume-plugin={}", notes.display());
    let refused = lab.cli(&["agent", "--node", "node-1", "--zone", "a", &plugin]);
    assert!(!refused.status.success());
    assert!(err(&refused).contains("is no socket"), "{}", err(&refused));
    assert_eq!(fs::read_to_string(&notes).unwrap(), "mine");
}

#[test]
fn a_member_is_one_container_whatever_becomes_of_containers_engine_and_agent() {
    let test = "a_member_is_one_container_whatever_becomes_of_containers_engine_and_agent";
    if !may_make_networks(test) || !has_redis(test) || !has_docker(test) {
        return;
    }
    let mut lab = Lab::new();
    lab.up();
    let machine = || lab.machine();
    let refused = |arguments: &[&str], named: &str| {
        let output = lab.docker.run(machine(), arguments);
        let told = String::from_utf8(output.stderr).unwrap();
        assert!(!output.status.success() && told.contains(named), "{named}: {told}");
    };
    refused(&["volume", "create", "-d", "steadfast", "NotAMember"], "is no member");
    refused(&["volume", "create", "-d", "steadfast", "-o", "service=cache", "cache-0"], "has no member");

    expect(&lab.cli(&["create", "cache", "--blueprint", "redis", "--replicas", "1"]), 0);
    // What was asked for comes about a moment later: until then there is no such member to mount.
    eventually("the member is there", || lab.has_member("cache"));
    let started = machine().output(lab.run_member("cache", "first"));
    assert!(started.status.success(), "{started:?}");
    eventually("it serves", || lab.healthy("cache"));
    eventually("a write", || lab.redis("cache", &["SET", "colour", "green"]).filter(|told| told == "OK"));
    let processes = lab.processes("cache");
    assert!(processes.len() > 1, "{processes:?}");

    // Another container for the same member is kept waiting, and then refused; nobody else notices.
    let mut second = lab.run_member("cache", "second");
    second.stdout(Stdio::piped()).stderr(Stdio::piped());
    let second = machine().run(async move { second.spawn().unwrap() });

    // The agent dies: the container goes on, and the next agent knows whose it is.
    lab.kill_agent();
    lab.start_agent();
    let machine = || lab.machine();
    eventually("it serves", || lab.healthy("cache"));
    assert_eq!(lab.processes("cache"), processes, "nothing was started anew");
    let second = second.wait_with_output().unwrap();
    assert!(!second.status.success(), "{second:?}");
    assert_eq!(lab.processes("cache"), processes);

    // The container is killed: what it has is free for another one, which finds the data.
    lab.docker(&["kill", "first"]);
    lab.docker(&["rm", "--force", "first", "second"]);
    let started = machine().output(lab.run_member("cache", "third"));
    assert!(started.status.success(), "{started:?}");
    eventually("its data is read", || lab.redis("cache", &["GET", "colour"]).filter(|told| told == "green"));

    // The engine of Docker dies without a word, and takes its containers with it when it is back. No Unmount was sent.
    lab.docker.kill();
    lab.start_docker();
    let machine = || lab.machine();
    let listed = lab.docker(&["volume", "ls", "--quiet"]);
    assert_eq!(listed, "cache-0");
    let started = lab.docker.run(machine(), &["start", "third"]);
    assert!(started.status.success(), "{started:?}");
    eventually("its data is read", || lab.redis("cache", &["GET", "colour"]).filter(|told| told == "green"));

    // What runs is not deleted; what is stopped leaves nothing behind.
    refused_while_it_runs(&lab);
    expect(&lab.cli(&["delete", "cache", "--wait"]), 0);
    eventually("nothing is mounted", || lab.docker.mounts_below("/run/steadfast").is_empty().then_some(()));
    assert!(lab.processes("cache").is_empty());
    lab.docker(&["rm", "--force", "third"]);
    lab.docker(&["volume", "rm", "cache-0"]);
    assert_eq!(lab.docker(&["volume", "ls", "--quiet"]), "");
}

fn refused_while_it_runs(lab: &Lab) {
    let output = lab.docker.run(lab.machine(), &["volume", "rm", "cache-0"]);
    assert!(!output.status.success(), "{output:?}");
}
