//! How a wait ends: done, at its limit, blocked, in conflict, or left by the user. The operation is never touched.

#![allow(clippy::unwrap_used, reason = "a test ends where something is not as it should be")]

mod common;

use std::io::{BufRead as _, BufReader, Lines};
use std::process::{Child, ChildStderr, Stdio};

use common::cluster::{Cluster, Frozen, has_redis};
use common::{err, eventually, expect, out, steadfast};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

/// The newest operation of a service, as the program shows it.
fn operation(cluster: &Cluster, service: &str) -> Value {
    let output = cluster.run(&["op", "list", "--service", service, "-o", "json"]);
    expect(&output, 0);
    let list: Value = serde_json::from_slice(&output.stdout).unwrap();
    list["items"].as_array().unwrap().last().unwrap().clone()
}

fn is_under_way(operation: &Value) -> bool {
    ["Pending", "Running", "Waiting"].iter().any(|state| operation["state"] == *state)
}

/// Reads a child's standard error up to a line with `text`; the rest is still to be read.
fn told(child: &mut Child, text: &str) -> Lines<BufReader<ChildStderr>> {
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    lines.by_ref().find_map(|line| line.ok().filter(|line| line.contains(text))).unwrap();
    lines
}

/// Without an agent that moves nothing can end.
#[test]
fn a_wait_ends_at_its_limit_or_by_the_users_wish_and_the_operation_goes_on() {
    let cluster = Cluster::of(1, &[]);
    let frozen = Frozen::stop(cluster.agent("node-1").unwrap());
    let create = ["create", "cache", "--blueprint", "redis", "--replicas", "1"];

    let output = cluster.run(&[&create[..], &["--wait", "--timeout", "1s"]].concat());
    expect(&output, 3);
    assert!(
        err(&output).contains("goes on") && err(&output).contains("steadfast op get"),
        "{}",
        err(&output)
    );
    let under_way = operation(&cluster, "cache");
    assert!(is_under_way(&under_way), "{under_way}");
    let id = under_way["id"].as_str().unwrap();
    expect(&cluster.run(&["op", "get", id, "--wait", "--timeout", "500ms"]), 3);

    let mut child = steadfast(cluster.data())
        .args(["op", "get", id, "--wait"])
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let pid = Pid::from_raw(i32::try_from(child.id()).unwrap());
    let lines = told(&mut child, "create cache");
    kill(pid, Signal::SIGINT).unwrap();
    let said: Vec<String> = lines.map(Result::unwrap).collect();
    assert_eq!(child.wait().unwrap().code(), Some(130), "{said:?}");
    let last = said.last().unwrap();
    assert!(last.contains("detached; the operation goes on") && last.contains(id), "{said:?}");
    assert_eq!(operation(&cluster, "cache")["id"], id);
    assert!(is_under_way(&operation(&cluster, "cache")));

    // Another operation in its way, and an index that nothing has had.
    let output = cluster.run(&["restart", "cache", "--check-index", "no-such-index"]);
    expect(&output, 6);
    assert!(err(&output).contains("check index"), "{}", err(&output));
    expect(&cluster.run(&["restart", "cache"]), 6);
    expect(&cluster.run(&["restart", "nothing", "--wait"]), 5);

    drop(frozen);
    if has_redis("a wait that outlives its server") {
        let output = cluster.run(&["op", "get", id, "--wait", "-o", "json"]);
        expect(&output, 0);
        let ended: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(ended["state"], "Succeeded");
    }
}

#[test]
fn a_wait_that_needs_a_person_says_so_and_names_the_command() {
    if !has_redis("a_wait_that_needs_a_person_says_so_and_names_the_command") {
        return;
    }
    let cluster = Cluster::of(1, &[]);
    cluster.create_redis("cache", 1);

    // A plan without changes, and one that nobody may apply.
    let text = "apiVersion = \"steadfast/v1\"\nname = \"cache\"\nblueprint = \"redis\"\nreplicas = 1\n";
    let file = cluster.file("cache.toml", text);
    expect(&cluster.run(&["plan", "-f", file.to_str().unwrap()]), 0);
    let file = cluster.file("other.toml", &text.replace("cache", "other"));
    expect(&cluster.run(&["plan", "-f", file.to_str().unwrap()]), 2);

    // Paused: only a person ends that.
    expect(&cluster.run(&["pause", "cache"]), 0);
    let output = cluster.run(&["restart", "cache", "--wait"]);
    expect(&output, 4);
    let said = err(&output);
    assert!(said.contains("[PausedByOperator]") && said.contains("steadfast resume cache"), "{said}");
    let id = operation(&cluster, "cache")["id"].as_str().unwrap().to_owned();
    expect(&cluster.run(&["resume", "cache"]), 0);
    expect(&cluster.run(&["op", "get", &id, "--wait"]), 0);

    // A silent agent: the engine may be writing, and nobody here can prove that it is not.
    let frozen = Frozen::stop(cluster.agent("node-1").unwrap());
    eventually("the node is no longer Ready", || {
        (!out(&cluster.run(&["node", "list"])).contains("Ready")).then_some(())
    });
    let output = cluster.run(&["stop", "cache", "--wait"]);
    expect(&output, 4);
    let said = err(&output);
    assert!(said.contains("[FenceUnproven]") && said.contains("confirm-dead node-1"), "{said}");
    let under_way = operation(&cluster, "cache");
    assert!(is_under_way(&under_way), "{under_way}");
    drop(frozen);
    expect(&cluster.run(&["op", "get", under_way["id"].as_str().unwrap(), "--wait"]), 0);
    let stopped = out(&cluster.run(&["get", "cache"]));
    assert!(stopped.contains("Stopped") && !stopped.contains("stale"), "{stopped}");
}

#[test]
fn a_wait_survives_the_server_it_asks() {
    if !has_redis("a_wait_survives_the_server_it_asks") {
        return;
    }
    let cluster = Cluster::of(1, &["--servers", "2"]);
    let frozen = Frozen::stop(cluster.agent("node-1").unwrap());
    expect(&cluster.run(&["create", "cache", "--blueprint", "redis", "--replicas", "1"]), 0);
    let id = operation(&cluster, "cache")["id"].as_str().unwrap().to_owned();
    let mut child = steadfast(cluster.data())
        .args(["op", "get", &id, "--wait"])
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let rest = told(&mut child, "create cache");
    for _ in 0..2 {
        let owner = eventually("an owner", || cluster.owner());
        kill(Pid::from_raw(owner), Signal::SIGKILL).unwrap();
        eventually("another owner", || cluster.owner().filter(|pid| *pid != owner));
    }
    drop(frozen);
    let rest: Vec<String> = rest.map(Result::unwrap).collect();
    assert_eq!(child.wait().unwrap().code(), Some(0), "it waited on to the end: {rest:?}");
}

/// What the steps of a restart have done never becomes less.
#[test]
fn a_restart_never_goes_backwards() {
    if !has_redis("a_restart_never_goes_backwards") {
        return;
    }
    let cluster = Cluster::of(3, &[]);
    cluster.create_redis("cache", 3);
    let mut child = steadfast(cluster.data())
        .args(["restart", "cache", "--wait"])
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut most = 0;
    let mut lines = Vec::new();
    for line in BufReader::new(child.stderr.take().unwrap()).lines().map(Result::unwrap) {
        if let Some((head, _)) = line.split_once(" of 3 steps done") {
            let done: u32 = head.rsplit(' ').next().unwrap().parse().unwrap();
            assert!(done >= most, "{done} after {most}: {lines:?}");
            most = done;
        }
        lines.push(line);
    }
    assert_eq!(child.wait().unwrap().code(), Some(0), "{lines:?}");
    assert_eq!(most, 2, "the third ends it: {lines:?}");
}
