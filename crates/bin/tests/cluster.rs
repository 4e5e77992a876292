//! The program with a cluster of its own: servers and agents as processes, without any engine.

#![allow(clippy::unwrap_used, reason = "a test ends where something is not as it should be")]

mod common;

use common::cluster::Cluster;
use common::{err, eventually, expect, out, run};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

#[test]
fn a_cluster_answers_in_every_shape_and_with_every_exit_code() {
    let cluster = Cluster::start(&[]);
    let data = cluster.data();
    let run = |arguments: &[&str]| run(data, arguments);

    // Shapes.
    let table = out(&run(&["node", "list"]));
    assert!(table.starts_with("NODE"), "{table}");
    assert_eq!(out(&run(&["node", "list", "-o", "name"])), "node-1\nnode-2\n");
    assert!(out(&run(&["node", "list", "-o", "wide"])).contains("INCARNATION"));
    assert!(out(&run(&["node", "list", "-o", "yaml"])).contains("name: node-1"));
    assert_eq!(out(&run(&["list", "-o", "json"])).split_whitespace().collect::<String>(), "{\"items\":[]}");

    // Not found.
    for arguments in
        [&["get", "nothing"][..], &["why", "nothing-0"], &["logs", "nothing-0"], &["op", "get", "nothing"]]
    {
        expect(&run(arguments), 5);
    }
    expect(&run(&["node", "kill", "node-9"]), 5);

    // A plan that has changes; the same file with mistakes.
    let file = data.join("cache.toml");
    let text = "apiVersion = \"steadfast/v1\"\nname = \"cache\"\nblueprint = \"redis\"\nreplicas = 2\n";
    std::fs::write(&file, text).unwrap();
    let plan = run(&["plan", "-f", file.to_str().unwrap(), "-o", "json"]);
    expect(&plan, 2);
    let report: serde_json::Value = serde_json::from_slice(&plan.stdout).unwrap();
    assert!(report["index"].is_string() && report["outage_rule"].is_string(), "{report}");
    std::fs::write(&file, format!("{text}colour = \"red\"\n[fencing]\nminimum = \"F9\"\n")).unwrap();
    let plan = run(&["plan", "-f", file.to_str().unwrap()]);
    expect(&plan, 1);
    assert!(err(&plan).contains("[ConfigInvalid]"), "{}", err(&plan));

    // One `up` for each folder.
    let second = run(&["up"]);
    expect(&second, 6);
    assert!(err(&second).contains("another `steadfast up` runs"), "{}", err(&second));
}

#[test]
fn a_killed_node_stays_dead_until_it_is_started() {
    let cluster = Cluster::start(&[]);
    let data = cluster.data();
    let before = cluster.agent("node-1").unwrap();
    let killed = run(data, &["node", "kill", "node-1"]);
    expect(&killed, 0);
    assert!(out(&killed).contains("1 process killed"), "{}", out(&killed));
    assert_eq!(cluster.agent("node-1"), None);
    eventually("node-1 is proven dead", || {
        let nodes = out(&run(data, &["node", "list"]));
        nodes
            .lines()
            .any(|line| line.starts_with("node-1") && line.contains("Dead (NodeProvenDead)"))
            .then_some(())
    });
    assert_eq!(cluster.agent("node-1"), None, "`up` has started it again");
    expect(&run(data, &["node", "start", "node-1"]), 0);
    cluster.until_ready();
    assert_ne!(cluster.agent("node-1").unwrap(), before);
}

#[test]
fn an_agent_that_dies_is_started_again() {
    let cluster = Cluster::start(&[]);
    let before = cluster.agent("node-1").unwrap();
    kill(Pid::from_raw(before), Signal::SIGKILL).unwrap();
    eventually("another agent of node-1", || cluster.agent("node-1").filter(|pid| *pid != before));
    cluster.until_ready();
}

#[test]
fn a_killed_up_leaves_everything_running_and_the_next_takes_over() {
    let mut cluster = Cluster::start(&["--servers", "2"]);
    cluster.kill_up();
    expect(&run(cluster.data(), &["node", "list"]), 0);
    let before = cluster.agent("node-1").unwrap();
    cluster.start_up_again();
    eventually("an agent of the new `up`", || cluster.agent("node-1").filter(|pid| *pid != before));
    cluster.until_ready();
    // Stopped in order, nothing is left.
    expect(&run(cluster.data(), &["down"]), 0);
    assert_eq!(cluster.agent("node-1"), None);
    assert_eq!(cluster.agent("node-2"), None);
    for server in ["server-1", "server-2"] {
        assert!(!steadfast_lock::is_held(&cluster.data().join("servers").join(server).join("lock")).unwrap());
    }
}

#[test]
fn another_server_takes_the_store_over_when_its_owner_dies() {
    let cluster = Cluster::start(&["--servers", "2"]);
    let data = cluster.data();
    let first = cluster.owner().unwrap();
    kill(Pid::from_raw(first), Signal::SIGKILL).unwrap();
    eventually("another owner", || cluster.owner().filter(|pid| *pid != first));
    eventually("an answer", || (run(data, &["list"]).status.code() == Some(0)).then_some(()));
    cluster.until_ready();
}
