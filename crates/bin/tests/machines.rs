//! Several machines, each with a data folder of its own: network namespaces joined by a bridge, an etcd member, a
//! server and an agent in each, and one folder for the volumes.
#![cfg(all(feature = "etcd", feature = "linux"))]
#![allow(clippy::unwrap_used, reason = "a test ends where something is not as it should be")]

mod common;
#[path = "../../backends/linux/tests/network/mod.rs"]
mod network;

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use common::cluster::has_redis;
use common::{err, expect, out, steadfast};
use network::{Machine, Network, eventually, may_make_networks};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

const COUNT: u8 = 3;
const SERVICE: &str = r#"
apiVersion = "steadfast/v1"
name = "NAME"
blueprint = "redis"
replicas = 1
[fencing]
minimum = "F1"
accept_lease = true
"#;

/// The machines, and what runs on them.
struct Lab {
    // Dropped first: what runs holds files of the folder.
    running: Vec<Child>,
    network: Network,
    folder: tempfile::TempDir,
}

fn node(at: u8) -> String {
    format!("node-{at}")
}

impl Lab {
    fn new() -> Lab {
        let folder = tempfile::Builder::new().prefix("sf").tempdir().unwrap();
        // Engines run as another user, who has to pass through it.
        passable(folder.path());
        fs::create_dir(folder.path().join("shared")).unwrap();
        passable(&folder.path().join("shared"));
        Lab { running: Vec::new(), network: Network::of(COUNT), folder }
    }

    fn machine(&self, at: u8) -> &Machine {
        &self.network.machines[usize::from(at)]
    }

    fn data(&self, at: u8) -> PathBuf {
        self.folder.path().join(format!("m{at}"))
    }

    fn shared(&self) -> PathBuf {
        self.folder.path().join("shared")
    }

    /// Starts a program on a machine, its output in a file.
    fn start(&mut self, at: u8, mut command: Command) -> usize {
        let log = self.folder.path().join(format!("m{at}.log"));
        let log = File::options().create(true).append(true).open(log).unwrap();
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        let child = self.machine(at).run(async move { command.spawn().unwrap() });
        self.running.push(child);
        self.running.len() - 1
    }

    fn start_etcd(&mut self, at: u8) {
        let own = Network::address(at);
        let all: Vec<String> =
            (0..COUNT).map(|at| format!("m{at}=http://{}:2380", Network::address(at))).collect();
        let (client, peer) = (format!("http://{own}:2379"), format!("http://{own}:2380"));
        let mut command = Command::new("etcd");
        command.args(["--name", &format!("m{at}"), "--listen-client-urls", &client]);
        command.args(["--advertise-client-urls", &client, "--listen-peer-urls", &peer]);
        command.args(["--initial-advertise-peer-urls", &peer, "--initial-cluster", &all.join(",")]);
        command.arg("--data-dir").arg(self.folder.path().join(format!("etcd{at}")));
        self.start(at, command);
    }

    /// `steadfast serve` on a machine, listening there for its own users alone.
    fn serve(&mut self, at: u8, more: &[&str]) {
        let mut command = steadfast(&self.data(at));
        command.args(["serve", "--id", &format!("server-{at}")]).args(more);
        self.start(at, command);
        let told = self.data(at).join(format!("servers/server-{at}/endpoint.json"));
        eventually("the server listens", || told.exists().then_some(()));
    }

    fn agent(&mut self, at: u8) {
        let mut command = steadfast(&self.data(at));
        command.args(["agent", "--node", &node(at), "--zone", &format!("z{at}")]);
        self.start(at, command);
    }

    /// Three machines of a cluster, from nothing, as its documentation says; the first server is told `more`.
    fn up(&mut self, more: &[&str]) {
        for at in 0..COUNT {
            self.start_etcd(at);
        }
        let hosts: Vec<String> = (0..COUNT).map(|at| format!("{}:2379", Network::address(at))).collect();
        let store = format!("etcd://{}/lab", hosts.join(","));
        let shared = self.shared();
        let network = ["--interface", "eth0", "--addresses", "10.77.0.100-10.77.0.119"];
        let stored = ["--store", &store, "--shared-volumes", shared.to_str().unwrap()];
        self.serve(0, &[&stored, &network, more].concat());
        for at in 1..COUNT {
            fs::create_dir(self.data(at)).unwrap();
            for file in ["cluster.json", "key"] {
                fs::copy(self.data(0).join(file), self.data(at).join(file)).unwrap();
            }
            self.serve(at, &[]);
        }
        for at in 0..COUNT {
            self.agent(at);
        }
        eventually("every node is Ready", || {
            let nodes = self.json(0, &["node", "list"])?;
            let items = nodes["items"].as_array()?;
            (items.len() == usize::from(COUNT) && items.iter().all(|node| node["health"] == "Ready"))
                .then_some(())
        });
    }

    /// The command line on a machine, which asks that machine's server.
    fn cli(&self, at: u8, arguments: &[&str]) -> Output {
        let mut command = steadfast(&self.data(at));
        command.args(arguments);
        self.machine(at).output(command)
    }

    fn json(&self, at: u8, arguments: &[&str]) -> Option<Value> {
        let output = self.cli(at, &[arguments, &["-o", "json"]].concat());
        serde_json::from_slice(&output.stdout).ok()
    }

    /// Makes a service of one Redis, and waits for it; gives the machine that it is on, and its address.
    fn create(&self, name: &str) -> (u8, String) {
        self.create_as(name, SERVICE)
    }

    fn create_as(&self, name: &str, service: &str) -> (u8, String) {
        let file = self.folder.path().join("service.toml");
        fs::write(&file, service.replace("NAME", name)).unwrap();
        expect(&self.cli(0, &["apply", "-f", file.to_str().unwrap(), "--wait"]), 0);
        eventually("the service is healthy", || self.serving(0, name))
    }

    /// Asks a service's Redis from a machine, by its name.
    fn redis(&self, at: u8, service: &str, arguments: &[&str]) -> Option<String> {
        let output = self.cli(at, &[&["connect", service, "--"], arguments].concat());
        output.status.success().then(|| out(&output).trim().to_owned())
    }

    /// The machine that a service's only member is on, and its address, once it serves as `at` sees it.
    fn serving(&self, at: u8, service: &str) -> Option<(u8, String)> {
        let view = self.json(at, &["get", service])?;
        let member = view["members"].as_array()?.first()?;
        let on = (0..COUNT).find(|at| member["node"] == node(*at))?;
        (view["state"] == "Healthy").then_some((on, member["address"].as_str()?.to_owned()))
    }

    /// The processes of a service's only member on a machine: its guard, and everything of its engine.
    fn processes(&self, at: u8, service: &str) -> BTreeSet<i32> {
        let guard = format!("nodes/{}/guards/{service}-0/lock", node(at));
        steadfast_lock::holders(&self.data(at).join(guard)).unwrap()
    }

    /// How many volumes the machines have mounted, those that have any.
    fn mounted(&self) -> Vec<(u8, usize)> {
        let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let counted = (0..COUNT).map(|at| (at, table.matches(self.data(at).to_str().unwrap()).count()));
        counted.filter(|(_, count)| *count > 0).collect()
    }

    /// How many loop devices have a file of the shared folder.
    fn loops(&self) -> usize {
        let listed = Command::new("losetup").args(["--list", "--noheadings"]).output().unwrap();
        out(&listed).matches(self.shared().to_str().unwrap()).count()
    }

    /// Has the etcd member of a machine lead the others.
    fn lead_etcd(&self, at: u8) {
        let control = |at: u8, arguments: &[&str]| {
            let mut command = Command::new("etcdctl");
            command.env("ETCDCTL_API", "3").args(arguments);
            command.args(["-w", "json", "--endpoints", &format!("http://{}:2379", Network::address(at))]);
            let output = self.machine(at).output(command);
            expect(&output, 0);
            output.stdout
        };
        let members: Vec<(u64, u64)> = (0..COUNT)
            .map(|at| {
                let told: Value = serde_json::from_slice(&control(at, &["endpoint", "status"])).unwrap();
                let status = &told[0]["Status"];
                (status["header"]["member_id"].as_u64().unwrap(), status["leader"].as_u64().unwrap())
            })
            .collect();
        let (wanted, leader) = members[usize::from(at)];
        let leads = (0..COUNT).find(|at| members[usize::from(*at)].0 == leader).unwrap();
        if leads != at {
            control(leads, &["move-leader", &format!("{wanted:x}")]);
        }
    }
}

impl Drop for Lab {
    #[expect(clippy::print_stdout, reason = "what happened is said where a test says things")]
    fn drop(&mut self) {
        if std::thread::panicking() {
            for at in 0..COUNT {
                let log =
                    fs::read_to_string(self.folder.path().join(format!("m{at}.log"))).unwrap_or_default();
                let lines: Vec<&str> = log.lines().filter(|line| !line.contains("etcdserver")).collect();
                println!("machine {at}:\n{}", lines[lines.len().saturating_sub(40)..].join("\n"));
            }
        }
        for child in &mut self.running {
            // It may have ended by itself.
            child.kill().ok();
            child.wait().ok();
        }
        // Engines outlive their agents.
        for at in 0..COUNT {
            let lock = self.data(at).join("nodes").join(node(at)).join("machine.lock");
            for pid in steadfast_lock::holders(&lock).unwrap_or_default() {
                kill(Pid::from_raw(pid), Signal::SIGKILL).ok();
            }
        }
        for at in 0..COUNT {
            let mounts = self.data(at).join("nodes").join(node(at)).join("volumes");
            for mount in fs::read_dir(mounts).into_iter().flatten().flatten() {
                Command::new("umount").arg("-l").arg(mount.path()).stderr(Stdio::null()).status().ok();
            }
        }
    }
}

fn passable(folder: &Path) {
    use std::os::unix::fs::PermissionsExt as _;
    fs::set_permissions(folder, fs::Permissions::from_mode(0o711)).unwrap();
}

#[test]
fn a_member_comes_back_on_another_machine_when_its_own_is_cut_off() {
    let test = "a_member_comes_back_on_another_machine_when_its_own_is_cut_off";
    if !may_make_networks(test) || !has_redis(test) {
        return;
    }
    let mut lab = Lab::new();
    lab.up(&[]);
    let (first, address) = lab.create("cache");
    assert!(address.starts_with("10.77.0.1"), "{address}");
    assert!(lab.machine(first).has(&address));
    let (near, far) = ((first + 1) % COUNT, (first + 2) % COUNT);
    eventually("a write from another machine", || lab.redis(near, "cache", &["SET", "colour", "green"]));
    let others: Vec<(&str, u8, BTreeSet<i32>)> = ["other", "another"]
        .into_iter()
        .map(|name| (name, lab.create(name).0))
        .map(|(name, on)| (name, on, lab.processes(on, name)))
        .filter(|(_, on, _)| *on != first)
        .collect();
    assert!(others.iter().all(|(.., processes)| processes.len() > 1), "{others:?}");

    // The worst machine to lose: its etcd member leads.
    lab.lead_etcd(first);
    lab.network.cut(first);
    let second = eventually("it serves on another machine", || {
        lab.serving(near, "cache").filter(|(on, _)| *on != first)
    });
    let left = lab.processes(first, "cache");
    assert!(left.is_empty(), "the old one ended with its lease: {left:?}");
    assert_eq!(second.1, address, "its address stays");
    assert!(lab.machine(second.0).has(&address));
    let read =
        |at: u8| eventually("its data is read by its name", || lab.redis(at, "cache", &["GET", "colour"]));
    assert_eq!(read(far), "green");
    let told = lab.json(near, &["why", "cache-0"]).unwrap().to_string();
    assert!(told.contains("LeaseExpired"), "{told}");
    assert!(!others.is_empty(), "members are spread over the machines");
    for (name, on, processes) in &others {
        assert_eq!(&lab.processes(*on, name), processes, "{name} kept its lease through the election");
    }

    // The old machine could not be told. It comes back, and keeps nothing that is another's.
    lab.network.heal(first);
    eventually("its node is Ready again", || {
        let nodes = lab.json(near, &["node", "list"])?;
        nodes["items"].as_array()?.iter().all(|node| node["health"] == "Ready").then_some(())
    });
    eventually("the address is off its interface", || (!lab.machine(first).has(&address)).then_some(()));
    assert_eq!(read(first), "green");
    assert_eq!(lab.serving(first, "cache"), Some((second.0, address)));
}

/// A volume of a size is mounted where its member is, and nowhere else: neither here nor there is anything left of it on
/// the machine that it has left.
#[test]
fn a_volume_of_a_size_moves_with_its_member_and_leaves_no_mount_behind() {
    let test = "a_volume_of_a_size_moves_with_its_member_and_leaves_no_mount_behind";
    if !may_make_networks(test) || !has_redis(test) {
        return;
    }
    let mut lab = Lab::new();
    lab.up(&["--volume-kind", "ext4"]);
    let sized = format!("{SERVICE}[[volumes]]\nname = \"data\"\nsize = \"64MiB\"\non_delete = \"delete\"\n");
    let (first, address) = lab.create_as("cache", &sized);
    let near = (first + 1) % COUNT;
    assert_eq!(lab.mounted(), [(first, 1)]);
    assert_eq!(lab.loops(), 1);
    eventually("a write", || lab.redis(near, "cache", &["SET", "colour", "green"]));

    lab.network.cut(first);
    let second = eventually("it serves on another machine", || {
        lab.serving(near, "cache").filter(|(on, _)| *on != first)
    });
    assert_eq!(second.1, address, "its address stays");
    let read = || eventually("its data is read by its name", || lab.redis(near, "cache", &["GET", "colour"]));
    assert_eq!(read(), "green");
    // The old machine hears of nothing, but reaches the folder.
    eventually("the old mount is gone", || (lab.mounted() == [(second.0, 1)]).then_some(()));
    eventually("the old loop device is free", || (lab.loops() == 1).then_some(()));

    lab.network.heal(first);
    eventually("its node is Ready again", || {
        let nodes = lab.json(near, &["node", "list"])?;
        nodes["items"].as_array()?.iter().all(|node| node["health"] == "Ready").then_some(())
    });
    assert_eq!(read(), "green");
    expect(&lab.cli(near, &["delete", "cache", "--wait"]), 0);
    eventually("nothing is mounted", || (lab.mounted().is_empty() && lab.loops() == 0).then_some(()));
}

#[test]
fn machines_that_cannot_have_the_members_are_refused_with_what_to_do() {
    if !may_make_networks("machines_that_cannot_have_the_members_are_refused_with_what_to_do") {
        return;
    }
    let lab = Lab::new();
    let data = lab.data(0);
    let refused = |arguments: &[&str], code: i32, named: &[&str]| {
        let output = lab.cli(0, arguments);
        expect(&output, code);
        let told = err(&output);
        assert!(named.iter().all(|text| told.contains(text)), "{named:?}: {told}");
    };
    refused(&["serve", "--interface", "eth0"], 64, &["--addresses"]);
    refused(&["serve", "--addresses", "10.77.0.100-10.77.0.119"], 64, &["--interface"]);
    refused(&["serve", "--shared-volumes", "shared"], 64, &["absolute"]);
    refused(&["serve", "--volume-kind", "ext4"], 64, &["--volume-kind", "--shared-volumes"]);
    refused(&["serve", "--volume-kind", "zfs"], 64, &["folder, ext4, xfs"]);
    let range = ["--addresses", "10.77.0.0/24"];
    refused(
        &[&["serve", "--interface", "eth0"][..], &range].concat(),
        1,
        &["network.addresses", "first and the last"],
    );

    let write = |change: &dyn Fn(&mut Value)| {
        let file = data.join("cluster.json");
        let mut config: Value = serde_json::from_str(&fs::read_to_string(&file).unwrap()).unwrap();
        change(&mut config);
        fs::write(&file, config.to_string()).unwrap();
    };
    let agent = ["agent", "--node", "node-0", "--zone", "a", "--servers", "http://127.0.0.1:9"];
    for (interface, addresses, named) in [
        ("eth7", "10.77.0.100-10.77.0.119", ["network.interface", "eth0, lo"]),
        ("eth0", "10.99.0.100-10.99.0.119", ["network.addresses", "10.99.0.100"]),
    ] {
        write(&|config| {
            config["network"] = serde_json::json!({ "interface": interface, "addresses": addresses });
        });
        refused(&agent, 1, &named);
    }
    let elsewhere = lab.folder.path().join("not-mounted");
    write(&|config| config["shared_volumes"] = elsewhere.to_str().unwrap().into());
    refused(&agent, 1, &["fencing", "F1"]);
    write(&|config| config["fencing"] = "F1".into());
    refused(&agent, 1, &["shared_volumes", "not-mounted", "mount"]);
    assert!(!elsewhere.exists(), "nothing is made where it is not mounted");
}
