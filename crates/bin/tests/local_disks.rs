//! Members on nodes with disks of their own, with real engines: nobody else has what is on a disk.
#![cfg(feature = "linux")]
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test ends where something is not as it should be"
)]

mod common;
#[allow(dead_code, unreachable_pub, reason = "test support: each test file uses its part")]
#[path = "../../../tests/support/engine.rs"]
mod engine;
#[allow(dead_code, unreachable_pub, reason = "test support: each test file uses its part")]
#[path = "../../../tests/support/zookeeper.rs"]
mod zookeeper;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use common::cluster::{Cluster, has_redis};
use common::{err, expect, out};
use engine::Session;
use serde_json::Value;
use zookeeper::ZOOKEEPER;

/// How long anything may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(180);

/// Nodes of one machine, each with a disk of its own.
struct Nodes {
    disks: tempfile::TempDir,
    cluster: Cluster,
}

impl Nodes {
    fn start(count: usize) -> Nodes {
        let disks = tempfile::Builder::new().prefix("sfd").tempdir().unwrap();
        let cluster = Cluster::of(count, &["--local-volumes", disks.path().to_str().unwrap()]);
        Nodes { disks, cluster }
    }

    fn json(&self, arguments: &[&str]) -> Option<Value> {
        let arguments: Vec<&str> = arguments.iter().copied().chain(["-o", "json"]).collect();
        serde_json::from_slice(&self.cluster.run(&arguments).stdout).ok()
    }

    /// Where a member is, and at which address.
    fn member(&self, service: &str, name: &str) -> Option<(String, String, bool)> {
        let service = self.json(&["get", service])?;
        let members = service["members"].as_array()?;
        let found = members.iter().find(|member| member["name"] == name)?;
        let text = |field: &str| Some(found[field].as_str()?.to_owned());
        Some((text("node")?, text("address")?, found["ready"] == true))
    }

    /// What the engine of a service answers.
    fn redis(&self, service: &str, arguments: &[&str]) -> Option<String> {
        let output = self.cluster.run(&[&["connect", service, "--"], arguments].concat());
        output.status.success().then(|| out(&output).trim().to_owned())
    }

    /// The volumes on the disk of a node.
    fn volumes_of(&self, node: &str) -> Vec<String> {
        let folder = self.disks.path().join(node).join("volumes");
        let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
        let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
        names.filter(|name| !name.starts_with('.')).collect()
    }

    fn disk(&self, node: &str) -> PathBuf {
        self.disks.path().join(node)
    }
}

fn eventually<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(begun.elapsed() < PATIENCE, "{what}: not after {PATIENCE:?}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

#[test]
fn a_member_waits_for_its_node_and_comes_back_with_what_is_on_its_disk() {
    if !has_redis("a_member_waits_for_its_node_and_comes_back_with_what_is_on_its_disk") {
        return;
    }
    let nodes = Nodes::start(3);
    let file = nodes.cluster.file(
        "cache.toml",
        "apiVersion = \"steadfast/v1\"\nname = \"cache\"\nblueprint = \"redis\"\nreplicas = 1\n",
    );
    let plan = nodes.cluster.run(&["plan", "-f", file.to_str().unwrap()]);
    expect(&plan, 2);
    assert!(out(&plan).contains("on the disk of one node"), "{}", out(&plan));
    nodes.cluster.create_redis("cache", 1);
    let (node, address, _) = nodes.member("cache", "cache-0").unwrap();
    assert_eq!(nodes.volumes_of(&node).len(), 1, "it is made where it was first placed");
    let written = eventually("a write", || nodes.redis("cache", &["SET", "colour", "green"]));
    assert_eq!(written, "OK");

    expect(&nodes.cluster.run(&["node", "kill", &node]), 0);
    let why = eventually("it says what it waits for", || {
        let why = nodes.json(&["why", "cache-0"])?.to_string();
        (why.contains("PlacementNone") && why.contains("NodeProvenDead")).then_some(why)
    });
    assert!(why.contains(&format!("on the disk of {node}")), "{why}");
    let described = out(&nodes.cluster.run(&["describe", "cache"]));
    assert!(described.contains(&format!("on the disk of {node}")), "{described}");
    // Longer than anything takes that would have moved it.
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(10) {
        assert_eq!(nodes.member("cache", "cache-0"), Some((node.clone(), address.clone(), false)));
        std::thread::sleep(Duration::from_millis(500));
    }
    for other in ["node-1", "node-2", "node-3"].into_iter().filter(|other| *other != node) {
        assert!(nodes.disk(other).exists());
        assert_eq!(nodes.volumes_of(other), Vec::<String>::new());
    }

    expect(&nodes.cluster.run(&["node", "start", &node]), 0);
    eventually("it serves again, where it was", || {
        (nodes.member("cache", "cache-0") == Some((node.clone(), address.clone(), true))).then_some(())
    });
    let read = eventually("it has its data", || nodes.redis("cache", &["GET", "colour"]));
    assert_eq!(read, "green");
}

/// A disk that is gone is rebuilt from the primary, on an operator's word and not before: every write that the primary has
/// acknowledged is there.
#[test]
fn a_replica_whose_disk_is_gone_is_filled_from_its_primary_on_an_operators_word() {
    if !has_redis("a_replica_whose_disk_is_gone_is_filled_from_its_primary_on_an_operators_word") {
        return;
    }
    let nodes = Nodes::start(4);
    nodes.cluster.create_redis("cache", 3);
    for number in 0..50 {
        let (key, value) = (format!("key-{number}"), number.to_string());
        let written = eventually("a write", || nodes.redis("cache", &["SET", &key, &value]));
        assert_eq!(written, "OK");
    }
    let primary = nodes.json(&["get", "cache"]).unwrap()["primary"].as_str().unwrap().to_owned();
    let lost = ["cache-0", "cache-1", "cache-2"].into_iter().find(|member| *member != primary).unwrap();
    let (node, address, _) = nodes.member("cache", lost).unwrap();
    let rebuild = |member: &str, node: &str| nodes.cluster.run(&["rebuild", member, "--lost-disk", node]);
    // While its engine may run, it is no matter of words.
    let refused = rebuild(lost, &node);
    expect(&refused, 6);
    assert!(err(&refused).contains("[FenceUnproven]"), "{}", err(&refused));

    expect(&nodes.cluster.run(&["node", "kill", &node]), 0);
    std::fs::remove_dir_all(nodes.disk(&node)).unwrap();
    let action = eventually("it says what a person can do", || {
        let why = nodes.json(&["why", lost])?;
        why["next_action"].as_str().filter(|action| action.contains("--lost-disk")).map(str::to_owned)
    });
    assert!(action.contains(&format!("steadfast rebuild {lost} --lost-disk {node}")), "{action}");
    assert_eq!(nodes.member("cache", lost).unwrap().0, node, "nothing goes anywhere without a word");
    expect(&rebuild(lost, &node), 0);
    let (now, same, _) = eventually("it serves on another node", || {
        nodes.member("cache", lost).filter(|(on, _, ready)| *ready && *on != node)
    });
    assert_eq!(same, address);
    eventually("it has caught up", || {
        nodes.json(&["events", "cache"])?.to_string().contains("Recloned").then_some(())
    });
    assert_eq!(nodes.volumes_of(&now).iter().filter(|name| name.contains("@2")).count(), 1);

    // What it has it has from its primary, and that is everything that was acknowledged.
    let size = eventually("it is asked itself", || {
        nodes.redis("cache", &["-h", &same, "DBSIZE"]).filter(|answer| !answer.is_empty())
    });
    assert_eq!(size, "50");
    expect(&nodes.cluster.run(&["node", "start", &node]), 0);
    nodes.cluster.until_ready();
    for number in 0..50 {
        let key = format!("key-{number}");
        let read = eventually("a read", || nodes.redis("cache", &["-h", &same, "GET", &key]));
        assert_eq!(read, number.to_string());
    }
}

fn has_zookeeper(test: &str) -> bool {
    let found =
        ["/usr/bin/java", "/usr/share/java/zookeeper.jar"].iter().all(|path| Path::new(path).exists());
    if !found {
        assert!(std::env::var_os("CI").is_none(), "{test} needs zookeeper");
        println!("left out: {test}: ZooKeeper is not installed");
    }
    found
}

/// A session with this very member.
fn session(address: &str) -> Option<Box<dyn Session>> {
    (ZOOKEEPER.open)(format!("{address}:{}", ZOOKEEPER.port).parse().unwrap(), &BTreeMap::new()).ok()
}

/// Has so many more numbers acknowledged. One whose write may have happened is not tried again.
fn write(count: usize, address: &str, acknowledged: &mut BTreeSet<u64>) {
    let wanted = acknowledged.len() + count;
    let mut next = acknowledged.last().map_or(0, |last| last + 1);
    eventually("writes are acknowledged", || {
        let mut session = session(address)?;
        while acknowledged.len() < wanted {
            next += 1;
            session.write(next).ok()?;
            acknowledged.insert(next);
        }
        Some(())
    });
}

/// A voter whose disk is gone follows without a vote until it has caught up. Then it is one of two that have everything.
#[test]
fn a_voter_whose_disk_is_gone_learns_from_the_others_and_votes_again() {
    if !has_zookeeper("a_voter_whose_disk_is_gone_learns_from_the_others_and_votes_again") {
        return;
    }
    let nodes = Nodes::start(4);
    let file = nodes.cluster.file(
        "locks.toml",
        "apiVersion = \"steadfast/v1\"\nname = \"locks\"\nblueprint = \"zookeeper\"\nreplicas = 3\n\
         [options]\nheap = \"96MiB\"\ntick_time = \"500ms\"\n",
    );
    expect(&nodes.cluster.run(&["apply", "-f", file.to_str().unwrap(), "--wait", "--timeout", "180s"]), 0);
    let place = |member: &str| eventually("it is somewhere", || nodes.member("locks", member));
    let (first, second, lost) = (place("locks-0"), place("locks-1"), place("locks-2"));
    let mut acknowledged = BTreeSet::new();
    write(50, &first.1, &mut acknowledged);
    let rebuild = |member: &str, node: &str| nodes.cluster.run(&["rebuild", member, "--lost-disk", node]);
    let refused = rebuild("locks-2", &lost.0);
    expect(&refused, 6);
    assert!(err(&refused).contains("[FenceUnproven]"), "{}", err(&refused));

    // With another voter away as well nobody is known to have everything that the lost one had confirmed.
    expect(&nodes.cluster.run(&["node", "kill", &second.0]), 0);
    eventually("it is seen to be away", || nodes.member("locks", "locks-1").filter(|found| !found.2));
    expect(&nodes.cluster.run(&["node", "kill", &lost.0]), 0);
    std::fs::remove_dir_all(nodes.disk(&lost.0)).unwrap();
    eventually("no quorum stands", || {
        let refused = rebuild("locks-2", &lost.0);
        let text = err(&refused);
        (text.contains("[VoterAmnesia]") && text.contains("2 must")).then_some(())
    });
    expect(&nodes.cluster.run(&["node", "start", &second.0]), 0);
    eventually("two are a quorum", || nodes.member("locks", "locks-1").filter(|found| found.2));
    write(10, &second.1, &mut acknowledged);

    // A pause keeps it from being started anew, for as long as it takes to look.
    expect(&nodes.cluster.run(&["pause", "locks"]), 0);
    eventually("its word is taken", || rebuild("locks-2", &lost.0).status.success().then_some(()));
    let serves_as = |role: &str| {
        let service = nodes.json(&["get", "locks"])?;
        let is_it = |member: &&Value| member["name"] == "locks-2" && member["ready"] == true;
        let found = service["members"].as_array()?.iter().find(is_it)?;
        (found["role"] == role).then(|| service["state"].clone())
    };
    let state = eventually("it has caught up", || serves_as("Learner"));
    assert_eq!(state, "Degraded", "it counts for nothing");
    expect(&nodes.cluster.run(&["resume", "locks"]), 0);
    eventually("it votes", || serves_as("Voter"));
    let events = nodes.json(&["events", "locks"]).unwrap().to_string();
    assert!(events.contains("Recloned") && events.contains("and votes from generation"), "{events}");
    let (now, address, _) = place("locks-2");
    assert!(now != lost.0 && address == lost.1, "{now} {address}");

    // Without one of those that it learnt from it is half of the quorum.
    expect(&nodes.cluster.run(&["node", "kill", &first.0]), 0);
    let read = eventually("it is asked itself", || session(&address)?.read_all().ok());
    let missing: Vec<&u64> = acknowledged.iter().filter(|number| !read.contains(number)).collect();
    assert!(missing.is_empty(), "acknowledged and gone: {missing:?}");
    write(1, &address, &mut acknowledged);
}
