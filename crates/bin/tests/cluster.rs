//! The program with a cluster of its own: servers and agents as processes, without any engine.

#![allow(clippy::unwrap_used, reason = "a test ends where something is not as it should be")]

mod common;

use std::net::UdpSocket;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use common::{err, eventually, expect, out, run, steadfast};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// A cluster that goes when it is dropped.
struct Cluster {
    folder: tempfile::TempDir,
    up: Child,
}

impl Cluster {
    fn start(options: &[&str]) -> Cluster {
        let folder = tempfile::Builder::new().prefix("sf").tempdir().unwrap();
        let up = start_up(folder.path(), options);
        let cluster = Cluster { folder, up };
        cluster.until_ready();
        cluster
    }

    fn data(&self) -> &Path {
        self.folder.path()
    }

    fn until_ready(&self) {
        eventually("every node is Ready", || {
            let output = run(self.data(), &["node", "list", "-o", "json"]);
            let nodes: serde_json::Value = serde_json::from_slice(&output.stdout).ok()?;
            let items = nodes["items"].as_array()?;
            (items.len() == 2 && items.iter().all(|node| node["health"] == "Ready")).then_some(())
        });
    }

    fn kill_up(&mut self) {
        self.up.kill().unwrap();
        self.up.wait().unwrap();
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        let ended = Command::new(env!("CARGO_BIN_EXE_steadfast"))
            .args(["down", "--data"])
            .arg(self.folder.path())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
        if ended.is_ok() {
            self.up.wait().ok();
        }
    }
}

fn start_up(data: &Path, options: &[&str]) -> Child {
    // A port of its own: tests run side by side, and so may a cluster of the developer's.
    let dns = UdpSocket::bind("127.0.0.153:0").unwrap().local_addr().unwrap();
    let log = std::fs::File::create(data.join("up.out")).unwrap();
    steadfast(data)
        .args(["up", "--nodes", "2", "--dns", &dns.to_string()])
        .args(options)
        .stdout(log.try_clone().unwrap())
        .stderr(log)
        .spawn()
        .unwrap()
}

fn agent_pid(data: &Path, node: &str) -> Option<i32> {
    let lock = data.join("nodes").join(node).join("agent.lock");
    steadfast_lock::holders(&lock).unwrap().into_iter().next()
}

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
    let before = agent_pid(data, "node-1").unwrap();
    let killed = run(data, &["node", "kill", "node-1"]);
    expect(&killed, 0);
    assert!(out(&killed).contains("1 process killed"), "{}", out(&killed));
    assert_eq!(agent_pid(data, "node-1"), None);
    eventually("node-1 is proven dead", || {
        let nodes = out(&run(data, &["node", "list"]));
        nodes
            .lines()
            .any(|line| line.starts_with("node-1") && line.contains("Dead (NodeProvenDead)"))
            .then_some(())
    });
    assert_eq!(agent_pid(data, "node-1"), None, "`up` has started it again");
    expect(&run(data, &["node", "start", "node-1"]), 0);
    cluster.until_ready();
    assert_ne!(agent_pid(data, "node-1").unwrap(), before);
}

#[test]
fn an_agent_that_dies_is_started_again() {
    let cluster = Cluster::start(&[]);
    let before = agent_pid(cluster.data(), "node-1").unwrap();
    kill(Pid::from_raw(before), Signal::SIGKILL).unwrap();
    eventually("another agent of node-1", || {
        agent_pid(cluster.data(), "node-1").filter(|pid| *pid != before)
    });
    cluster.until_ready();
}

#[test]
fn a_killed_up_leaves_everything_running_and_the_next_takes_over() {
    let mut cluster = Cluster::start(&["--servers", "2"]);
    cluster.kill_up();
    expect(&run(cluster.data(), &["node", "list"]), 0);
    let before = agent_pid(cluster.data(), "node-1").unwrap();
    cluster.up = start_up(cluster.data(), &[]);
    eventually("an agent of the new `up`", || {
        agent_pid(cluster.data(), "node-1").filter(|pid| *pid != before)
    });
    cluster.until_ready();
    // Stopped in order, nothing is left.
    expect(&run(cluster.data(), &["down"]), 0);
    assert_eq!(agent_pid(cluster.data(), "node-1"), None);
    assert_eq!(agent_pid(cluster.data(), "node-2"), None);
    for server in ["server-1", "server-2"] {
        assert!(!steadfast_lock::is_held(&cluster.data().join("servers").join(server).join("lock")).unwrap());
    }
}

#[test]
fn another_server_takes_the_store_over_when_its_owner_dies() {
    let cluster = Cluster::start(&["--servers", "2"]);
    let data = cluster.data();
    let owner = || {
        let lock = data.join("store/lock");
        steadfast_lock::holders(&lock).unwrap().into_iter().next()
    };
    let first = owner().unwrap();
    kill(Pid::from_raw(first), Signal::SIGKILL).unwrap();
    eventually("another owner", || owner().filter(|pid| *pid != first));
    eventually("an answer", || (run(data, &["list"]).status.code() == Some(0)).then_some(()));
    cluster.until_ready();
}
