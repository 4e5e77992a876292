//! A Docker Swarm of three engines, each on a machine of its own, with an etcd member, a server and an agent beside it.
#![cfg(all(feature = "etcd", feature = "linux", feature = "swarm"))]
#![allow(clippy::unwrap_used, reason = "a test ends where something is not as it should be")]

mod common;
mod docker;
#[path = "../../backends/linux/tests/network/mod.rs"]
mod network;

use std::collections::BTreeSet;
use std::fs::{self, File, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};

use common::cluster::has_redis;
use common::{expect, out};
use docker::{Docker, IMAGE, has_docker};
use network::{Machine, Network, eventually, may_make_networks};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

const COUNT: u8 = 3;
const SERVICE: &str = r#"
apiVersion = "steadfast/v1"
name = "cache"
blueprint = "redis"
replicas = 1
[fencing]
minimum = "F1"
accept_lease = true
"#;

struct Lab {
    // Dropped first: what runs holds files of the folder.
    running: Vec<Child>,
    engines: Vec<Docker>,
    network: Network,
    folder: tempfile::TempDir,
}

fn node(at: u8) -> String {
    format!("node-{at}")
}

impl Lab {
    fn new() -> Lab {
        let folder = tempfile::Builder::new().prefix("sf").tempdir().unwrap();
        let network = Network::of(COUNT);
        // Engines run as another user, who has to pass through it.
        let shared = folder.path().join("shared");
        fs::create_dir(&shared).unwrap();
        for passed in [folder.path(), &shared] {
            fs::set_permissions(passed, Permissions::from_mode(0o711)).unwrap();
        }
        let engine = |at: u8| {
            let machine = &network.machines[usize::from(at)];
            Docker::prepare(machine, &node(at), folder.path().join(format!("docker{at}")))
        };
        let engines = (0..COUNT).map(engine).collect();
        Lab { running: Vec::new(), engines, network, folder }
    }

    fn machine(&self, at: u8) -> &Machine {
        &self.network.machines[usize::from(at)]
    }

    fn engine(&self, at: u8) -> &Docker {
        &self.engines[usize::from(at)]
    }

    fn docker(&self, at: u8, arguments: &[&str]) -> String {
        self.engine(at).expect(self.machine(at), arguments)
    }

    fn data(&self, at: u8) -> PathBuf {
        self.folder.path().join(format!("m{at}"))
    }

    fn steadfast(&self, at: u8, arguments: &[&str]) -> Command {
        let mut command = self.engine(at).command(env!("CARGO_BIN_EXE_steadfast"));
        command.args(arguments).env("STEADFAST_DATA", self.data(at));
        command
    }

    /// Starts a program on a machine, its output in a file.
    fn start(&mut self, at: u8, mut command: Command) {
        let log = self.folder.path().join(format!("m{at}.log"));
        let log = File::options().create(true).append(true).open(log).unwrap();
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        let child = self.machine(at).run(async move { command.spawn().unwrap() });
        self.running.push(child);
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

    /// Three engines that are one swarm, each of them a manager.
    fn start_swarm(&mut self) {
        for at in 0..COUNT {
            self.engines[usize::from(at)].start(&self.network.machines[usize::from(at)]);
            self.engine(at).make_image(self.machine(at));
        }
        let own = |at| Network::address(at).to_string();
        self.docker(0, &["swarm", "init", "--advertise-addr", &own(0), "--listen-addr", &own(0)]);
        let token = self.docker(0, &["swarm", "join-token", "--quiet", "manager"]);
        for at in 1..COUNT {
            let manager = format!("{}:2377", own(0));
            self.docker(at, &["swarm", "join", "--token", &token, "--advertise-addr", &own(at), &manager]);
        }
    }

    fn serve(&mut self, at: u8, more: &[&str]) {
        let id = format!("server-{at}");
        let command = self.steadfast(at, &[&["serve", "--id", &id], more].concat());
        self.start(at, command);
        let told = self.data(at).join(format!("servers/server-{at}/endpoint.json"));
        eventually("the server listens", || told.exists().then_some(()));
    }

    /// The swarm and the cluster on it, from nothing, as the documentation says.
    fn up(&mut self) {
        for at in 0..COUNT {
            self.start_etcd(at);
        }
        self.start_swarm();
        let hosts: Vec<String> = (0..COUNT).map(|at| format!("{}:2379", Network::address(at))).collect();
        let store = format!("etcd://{}/lab", hosts.join(","));
        let shared = self.folder.path().join("shared").to_str().unwrap().to_owned();
        let image = format!("redis={IMAGE}");
        let network = ["--interface", "eth0", "--addresses", "10.77.0.100-10.77.0.119"];
        let rest = ["--store", &store, "--shared-volumes", &shared, "--swarm-image", &image];
        self.serve(0, &[&network[..], &rest[..]].concat());
        for at in 1..COUNT {
            fs::create_dir(self.data(at)).unwrap();
            for file in ["cluster.json", "key"] {
                fs::copy(self.data(0).join(file), self.data(at).join(file)).unwrap();
            }
            self.serve(at, &[]);
        }
        for at in 0..COUNT {
            let zone = format!("z{at}");
            let arguments = ["agent", "--node", &node(at), "--zone", &zone, "--volume-plugin"];
            let command = self.steadfast(at, &arguments);
            self.start(at, command);
        }
        eventually("every node is Ready", || self.all_ready(0));
    }

    /// Kills everything of a node but its server and its etcd, without a word.
    fn kill_node(&mut self, at: u8) {
        let agent = self.running.len() - usize::from(COUNT) + usize::from(at);
        self.running[agent].kill().unwrap();
        self.running[agent].wait().unwrap();
        self.engines[usize::from(at)].kill();
        for pid in self.processes(at) {
            // The engine dies with its guard.
            kill(Pid::from_raw(pid), Signal::SIGKILL).ok();
        }
    }

    fn all_ready(&self, at: u8) -> Option<()> {
        let nodes = self.json(at, &["node", "list"])?;
        let items = nodes["items"].as_array()?;
        (items.len() == usize::from(COUNT) && items.iter().all(|node| node["health"] == "Ready"))
            .then_some(())
    }

    /// The command line on a machine, which asks that machine's server.
    fn cli(&self, at: u8, arguments: &[&str]) -> Output {
        self.machine(at).output(self.steadfast(at, arguments))
    }

    fn json(&self, at: u8, arguments: &[&str]) -> Option<Value> {
        let output = self.cli(at, &[arguments, &["-o", "json"]].concat());
        serde_json::from_slice(&output.stdout).ok()
    }

    fn redis(&self, at: u8, arguments: &[&str]) -> Option<String> {
        let output = self.cli(at, &[&["connect", "cache", "--"], arguments].concat());
        output.status.success().then(|| out(&output).trim().to_owned())
    }

    /// The machine that the member is on, and its address, once it serves as `at` sees it.
    fn serving(&self, at: u8) -> Option<(u8, String)> {
        let view = self.json(at, &["get", "cache"])?;
        let member = view["members"].as_array()?.first()?;
        let on = (0..COUNT).find(|at| member["node"] == node(*at))?;
        (view["state"] == "Healthy").then_some((on, member["address"].as_str()?.to_owned()))
    }

    /// The processes of the member on a machine: its guard, and everything of its engine.
    fn processes(&self, at: u8) -> BTreeSet<i32> {
        let lock = self.engine(at).within("/run/steadfast/local/cache-0/guard/lock");
        steadfast_lock::holders(&lock).unwrap()
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
                println!("engine {at}:\n{}", self.engine(at).log());
            }
        }
        for child in &mut self.running {
            // It may have ended by itself.
            child.kill().ok();
            child.wait().ok();
        }
        for at in 0..COUNT {
            let lock = self.data(at).join("nodes").join(node(at)).join("machine.lock");
            for pid in steadfast_lock::holders(&lock).unwrap_or_default() {
                kill(Pid::from_raw(pid), Signal::SIGKILL).ok();
            }
        }
    }
}

#[test]
fn a_member_of_a_swarm_comes_back_on_another_node_when_its_own_is_cut_off() {
    let test = "a_member_of_a_swarm_comes_back_on_another_node_when_its_own_is_cut_off";
    if !may_make_networks(test) || !has_redis(test) || !has_docker(test) {
        return;
    }
    let mut lab = Lab::new();
    lab.up();
    let file = lab.folder.path().join("service.toml");
    fs::write(&file, SERVICE).unwrap();
    expect(&lab.cli(0, &["apply", "-f", file.to_str().unwrap()]), 0);
    let (first, address) = eventually("it serves", || lab.serving(0));
    assert!(lab.machine(first).has(&address));
    let (near, far) = ((first + 1) % COUNT, (first + 2) % COUNT);
    eventually("a write from another machine", || {
        lab.redis(near, &["SET", "colour", "green"]).filter(|told| told == "OK")
    });
    assert!(lab.processes(first).len() > 1);

    // The container ends, and is followed by another one on the same node: Swarm alone restarts none.
    let before = lab.processes(first);
    kill(Pid::from_raw(*before.iter().next().unwrap()), Signal::SIGKILL).unwrap();
    eventually("its engine is another one", || {
        let now = lab.processes(first);
        (now.len() > 1 && now.is_disjoint(&before)).then_some(())
    });
    let read = |at: u8| {
        eventually("its data is read by its name", || {
            lab.redis(at, &["GET", "colour"]).filter(|told| told == "green")
        })
    };
    read(near);
    eventually("it serves", || lab.serving(0));

    lab.network.cut(first);
    let second = eventually("it serves on another node", || lab.serving(near).filter(|(on, _)| *on != first));
    assert!(lab.processes(first).is_empty(), "the old one ended with its lease");
    assert_eq!(second.1, address, "its address stays");
    assert!(lab.machine(second.0).has(&address));
    read(far);
    assert!(lab.json(near, &["why", "cache-0"]).unwrap().to_string().contains("LeaseExpired"));

    // The old node could not be told. It comes back, and keeps nothing that is another's.
    lab.network.heal(first);
    eventually("every node is Ready", || lab.all_ready(near));
    eventually("the address is off its interface", || (!lab.machine(first).has(&address)).then_some(()));
    eventually("nothing of the member is mounted there", || {
        lab.engine(first).mounts_below("/run/steadfast").is_empty().then_some(())
    });
    read(first);
    assert_eq!(lab.serving(first), Some((second.0, address.clone())));

    // The node that has it now dies: its engine of Docker, its container, its agent.
    lab.kill_node(second.0);
    let third =
        eventually("it serves on a third node", || lab.serving(first).filter(|(on, _)| *on != second.0));
    assert_eq!(third.1, address, "its address stays");
    let read = lab.redis(first, &["GET", "colour"]);
    assert_eq!(read.as_deref(), Some("green"));

    // What is deleted leaves no service.
    expect(&lab.cli(first, &["delete", "cache", "--wait"]), 0);
    eventually("the swarm has no service", || {
        lab.docker(first, &["service", "ls", "--quiet"]).is_empty().then_some(())
    });
}
