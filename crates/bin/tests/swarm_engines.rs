//! Engines that lead themselves on a Docker Swarm: a Redis Cluster, whose slots, numbers and addresses stay the same
//! through every move, and a ZooKeeper, whose voters do: `make test-swarm`.
#![cfg(all(feature = "etcd", feature = "linux", feature = "swarm"))]
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test ends where something is not as it should be"
)]

mod clients;
mod common;
mod docker;
mod lab;
mod load;
#[path = "../../backends/linux/tests/network/mod.rs"]
mod network;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Instant;

use clients::engine::Engine;
use clients::redis::{Redis, Reply};
use clients::redis_cluster::REDIS_CLUSTER;
use clients::zookeeper::{ZOOKEEPER, Zookeeper};
use clients::{Client, Target};
use common::cluster::has_redis;
use common::{expect, out};
use docker::{IMAGE, has_docker};
use lab::{COUNT, Lab};
use load::{BY_REDIS, BY_ZOOKEEPER, Watch, Writer, Written, on};
use network::{eventually, may_make_networks};

const ZOOKEEPER_IMAGE: &str = "steadfast-lab-zookeeper";

/// Three shards, each with a replica, two members on a machine: no replica is ever promoted.
const KV: &str = r#"
apiVersion = "steadfast/v1"
name = "kv"
blueprint = "redis-cluster"
replicas = 6
durability = "strict"
[fencing]
minimum = "F1"
accept_lease = true
"#;

/// A key of the first shard, by its tag.
const FIRST_SHARD: &str = "{b}zombie";

const LOCKS: &str = r#"
apiVersion = "steadfast/v1"
name = "locks"
blueprint = "zookeeper"
replicas = 3
durability = "strict"
[fencing]
minimum = "F1"
accept_lease = true
[options]
heap = "96MiB"
"#;

/// A member, as its service's view has it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Seen {
    address: String,
    on: u8,
}

/// Members by name.
type Members = BTreeMap<String, Seen>;

/// A service on the swarm, its clients, and what must stay as it is.
struct Tried {
    // Ended before the machines are.
    client: Client,
    watch: Watch,
    lab: Lab,
    service: &'static str,
    target: Target,
    identity: Identity,
    /// Names and addresses.
    addresses: BTreeMap<String, String>,
    /// What the engine says of itself: who its members are.
    is: BTreeSet<String>,
}

/// What a member says of the whole, and of itself; none while it does not say that all is well.
type Identity = fn(SocketAddr, &BTreeMap<String, String>) -> Result<BTreeSet<String>, String>;

impl Tried {
    fn create(lab: Lab, engine: &'static Engine, service: &str, identity: Identity, by: Written) -> Tried {
        let file = lab.folder.path().join("service.toml");
        fs::write(&file, service).unwrap();
        expect(&lab.cli(0, &["apply", "-f", file.to_str().unwrap(), "--wait"]), 0);
        let service = if engine.blueprint == "zookeeper" { "locks" } else { "kv" };
        let begun = eventually("it is healthy", || members(&lab, 0, service));
        let addresses: BTreeMap<String, String> =
            begun.iter().map(|(name, seen)| (name.clone(), seen.address.clone())).collect();
        let mut env = BTreeMap::new();
        if engine.blueprint == "redis-cluster" {
            env.insert("REDISCLI_AUTH".to_owned(), password(&lab, service));
        }
        let to = |address: &String| SocketAddr::new(address.parse().unwrap(), engine.port);
        let target = Target { engine, addresses: addresses.values().map(to).collect(), env };
        let client = Client::start(lab.network.outside(), &target);
        let watch = Watch::over(lab.shared().join("volumes"), by);
        let is = BTreeSet::new();
        let mut tried = Tried { client, watch, lab, service, target, identity, addresses, is };
        tried.is = tried.identity();
        println!("{begun:?}\n{:#?}", tried.is);
        tried.writes();
        tried
    }

    /// What all of them say together.
    fn identity(&self) -> BTreeSet<String> {
        let mut all = BTreeSet::new();
        for address in &self.target.addresses {
            let said = eventually("it says who it is", || {
                let (identity, address, env) = (self.identity, *address, self.target.env.clone());
                on(self.lab.network.outside(), move || identity(address, &env)).join().unwrap().ok()
            });
            all.extend(said);
        }
        all
    }

    fn members(&self, at: u8) -> Option<Members> {
        members(&self.lab, at, self.service)
    }

    fn writes(&self) {
        let before = self.client.count();
        eventually("writes are acknowledged", || (self.client.count() > before + 10).then_some(()));
    }

    /// Waits until nothing of it is on a machine, and everything of it serves elsewhere.
    fn leaves(&self, machine: u8) -> Members {
        let begun = Instant::now();
        let now = eventually("everything of it serves elsewhere", || {
            let near = (machine + 1) % COUNT;
            self.members(near).filter(|now| now.values().all(|seen| seen.on != machine))
        });
        self.writes();
        println!("off node-{machine} after {:.1} s: {now:?}", begun.elapsed().as_secs_f64());
        now
    }

    /// What holds at last, wherever everything is.
    fn settles(&self) -> Members {
        self.lab.all_ready(0);
        let now = eventually("it is healthy, as every machine sees it", || {
            let first = self.members(0)?;
            (1..COUNT).all(|at| self.members(at).as_ref() == Some(&first)).then_some(first)
        });
        let addresses: BTreeMap<String, String> =
            now.iter().map(|(name, seen)| (name.clone(), seen.address.clone())).collect();
        assert_eq!(addresses, self.addresses, "names and addresses stay");
        for (name, seen) in &now {
            for at in 0..COUNT {
                let here = at == seen.on;
                eventually("its address and its processes are where it is, and nowhere else", || {
                    let has = self.lab.machine(at).has(&seen.address);
                    let runs = !self.lab.processes_of(at, name).is_empty();
                    (has == here && runs == here).then_some(())
                });
                let folder = format!("/run/steadfast/local/{name}");
                eventually("it is mounted where it is, and nowhere else", || {
                    (self.lab.engine(at).mounts_below(&folder).is_empty() != here).then_some(())
                });
            }
        }
        eventually("a service and a task for each member", || {
            let format = ["service", "ls", "--format", "{{.Name}} {{.Replicas}}"];
            let listed = self.lab.told_by_docker(0, &format)?;
            let listed: BTreeSet<String> = listed.lines().map(str::to_owned).collect();
            (listed == now.keys().map(|name| format!("local_{name} 1/1")).collect()).then_some(())
        });
        assert_eq!(self.identity(), self.is, "it is who it was");
        self.writes();
        let (looks, two) = self.watch.found();
        assert!(looks > 0 && two.is_empty(), "two engines had a volume's files open: {two:?}");
        let acknowledged = self.client.acknowledged();
        for address in &self.target.addresses {
            let there =
                eventually("it can be read", || self.target.read(self.lab.network.outside(), *address).ok());
            let missing: Vec<_> = acknowledged.difference(&there).collect();
            assert!(missing.is_empty(), "acknowledged, and not at {address}: {missing:?}");
        }
        println!("settled; acknowledged: {}", acknowledged.len());
        now
    }

    /// Kills the engine of Docker, every container of the service and the agent of a machine.
    fn kill_node(&mut self, at: u8) {
        self.lab.kill_agent(at);
        self.lab.kill_docker(at);
        for name in self.addresses.keys() {
            self.lab.kill_container(at, name);
        }
    }

    /// Kills the node of a member, waits until everything is elsewhere, and starts it again.
    fn survives_the_death_of(&mut self, machine: u8) {
        self.kill_node(machine);
        self.leaves(machine);
        self.lab.start_docker(machine);
        self.lab.start_agent(machine);
        self.settles();
    }

    fn ends(self) {
        drop(self.client);
        expect(&self.lab.cli(0, &["delete", self.service, "--wait"]), 0);
        eventually("the swarm has no service", || {
            self.lab.told_by_docker(0, &["service", "ls", "--quiet"])?.is_empty().then_some(())
        });
        for at in 0..COUNT {
            eventually("nothing of it is mounted", || {
                self.lab.engine(at).mounts_below("/run/steadfast").is_empty().then_some(())
            });
            assert!(self.addresses.values().all(|address| !self.lab.machine(at).has(address)));
        }
    }
}

fn password(lab: &Lab, service: &str) -> String {
    let told = lab.cli(0, &["secret", "get", service, "password"]);
    expect(&told, 0);
    out(&told).trim().to_owned()
}

/// The members of a service, once all of it is well.
fn members(lab: &Lab, at: u8, service: &str) -> Option<Members> {
    let view = lab.json(at, &["get", service])?;
    let members = view["members"].as_array()?.iter().map(|member| {
        let on = (0..COUNT).find(|at| member["node"] == format!("node-{at}"))?;
        let address = member["address"].as_str()?.to_owned();
        Some((member["name"].as_str()?.to_owned(), Seen { address, on }))
    });
    let members: Members = members.collect::<Option<_>>()?;
    (view["state"] == "Healthy").then_some(members)
}

/// Each member's number in the cluster, address, role, primary and slots, as a member has them; and which of them it is.
fn shards(address: SocketAddr, env: &BTreeMap<String, String>) -> Result<BTreeSet<String>, String> {
    let mut redis = Redis::open(address, env.get("REDISCLI_AUTH").map(String::as_str))?;
    let mut ask = |words: &[&str]| match redis.call(words)? {
        Reply::Text(text) => Ok(text),
        other => Err(format!("{words:?}: {other:?}")),
    };
    if !ask(&["CLUSTER", "INFO"])?.contains("cluster_state:ok") {
        return Err("the cluster is not whole".to_owned());
    }
    let own = format!("{address} is {}", ask(&["CLUSTER", "MYID"])?);
    // `NUMBER ADDRESS:PORT@BUS FLAGS PRIMARY PING PONG EPOCH LINK SLOTS...`
    let nodes = ask(&["CLUSTER", "NODES"])?;
    let node = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let role = words[2].trim_start_matches("myself,");
        format!("{} {} {role} {} {}", words[0], words[1], words[3], words[8..].join(" "))
    };
    Ok(nodes.lines().map(node).chain([own]).collect())
}

/// The voters of the ensemble, as a voter has them; and which of them it is.
fn voters(address: SocketAddr, _: &BTreeMap<String, String>) -> Result<BTreeSet<String>, String> {
    let mut session = Zookeeper::open(address)?;
    let own = format!("{address} is {}", session.voter);
    let config = session.read("/zookeeper/config")?;
    Ok(config.lines().map(str::to_owned).chain([own]).collect())
}

fn has_zookeeper(test: &str) -> bool {
    let found = ["/usr/bin/java", "/usr/share/java/zookeeper.jar"];
    let found = found.iter().all(|file| Path::new(file).exists());
    if !found {
        assert!(std::env::var_os("CI").is_none(), "{test} needs zookeeper");
        println!("left out: {test}: ZooKeeper is not installed");
    }
    found
}

/// What a ZooKeeper needs of this machine: Java, what that loads by itself, and all jars.
fn parts_of_zookeeper() -> String {
    let java = fs::canonicalize("/usr/bin/java").unwrap();
    let home = java.parent().unwrap().parent().unwrap().display();
    format!("java {home}/lib {home}/conf {home}/lib/server/libjvm.so {home}/lib/libzip.so /usr/share/java")
}

#[test]
fn a_redis_cluster_on_a_swarm_keeps_its_slots_and_numbers_wherever_its_members_are() {
    let test = "a_redis_cluster_on_a_swarm_keeps_its_slots_and_numbers_wherever_its_members_are";
    if !may_make_networks(test) || !has_redis(test) || !has_docker(test) {
        return;
    }
    let mut lab = Lab::on_a_swarm();
    lab.up(&["--swarm-image", &format!("redis-cluster={IMAGE}")], &["--volume-plugin"]);
    let mut tried = Tried::create(lab, &REDIS_CLUSTER, KV, shards, BY_REDIS);
    let all: String = tried.is.iter().map(|line| format!("{line}\n")).collect();
    for slots in ["0-5460", "5461-10921", "10922-16383"] {
        assert!(all.contains(&format!(" {slots}\n")), "{slots}: {all}");
    }

    // The first shard's primary is cut off with a client that goes on writing to it.
    let first = tried.members(0).unwrap()["kv-0"].clone();
    let password = password(&tried.lab, "kv");
    let zombie = Writer::start(tried.lab.machine(first.on), FIRST_SHARD, &first.address, &password);
    eventually("it writes", || (zombie.count() > 10).then_some(()));
    tried.lab.network.cut(first.on);
    let before = zombie.count();
    eventually("it goes on writing to what is cut off", || (zombie.count() > before + 10).then_some(()));
    let moved = tried.leaves(first.on);
    assert_ne!(moved["kv-0"].on, first.on);
    tried.lab.network.heal(first.on);
    tried.settles();
    let address = first.address.clone();
    let missing = on(tried.lab.network.outside(), move || {
        let mut redis = load::Redis::connect(&address, &password).unwrap();
        let missing = zombie.missing(&mut redis).unwrap();
        (zombie.count(), missing)
    });
    let (written, missing) = missing.join().unwrap();
    assert!(written > before && missing.is_empty(), "of {written} acknowledged by a zombie: {missing:?}");

    let second = tried.members(0).unwrap()["kv-1"].on;
    tried.survives_the_death_of(second);
    tried.ends();
}

#[test]
fn a_zookeeper_on_a_swarm_keeps_its_voters_wherever_they_are() {
    let test = "a_zookeeper_on_a_swarm_keeps_its_voters_wherever_they_are";
    if !may_make_networks(test) || !has_zookeeper(test) || !has_docker(test) {
        return;
    }
    let mut lab = Lab::on_a_swarm();
    for at in 0..COUNT {
        lab.engine(at).make_image_of(lab.machine(at), &parts_of_zookeeper(), ZOOKEEPER_IMAGE);
    }
    lab.up(&["--swarm-image", &format!("zookeeper={ZOOKEEPER_IMAGE}")], &["--volume-plugin"]);
    let mut tried = Tried::create(lab, &ZOOKEEPER, LOCKS, voters, BY_ZOOKEEPER);
    // By ordinal, at their addresses.
    for (ordinal, address) in tried.addresses.values().enumerate() {
        let number = ordinal + 1;
        assert!(tried.is.contains(&format!("{address}:2181 is {number}")), "{:?}", tried.is);
        let voter = format!("server.{number}={address}:2888:3888:participant");
        assert!(tried.is.iter().any(|line| line.starts_with(&voter)), "{voter}: {:?}", tried.is);
    }

    let first = tried.members(0).unwrap()["locks-0"].on;
    tried.lab.network.cut(first);
    // Two of three are a quorum, long before the third is back.
    tried.writes();
    tried.leaves(first);
    tried.lab.network.heal(first);
    tried.settles();

    let second = tried.members(0).unwrap()["locks-1"].on;
    tried.survives_the_death_of(second);
    tried.ends();
}
