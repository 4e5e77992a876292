//! Machines of a cluster, each with a data folder of its own: network namespaces joined by a bridge, an etcd member, a
//! server and an agent in each, one folder for the volumes, and if it is wanted a Docker Swarm of an engine in each.
#![allow(
    dead_code,
    unreachable_pub,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "test support: each test file uses its part, and a failure is a panic"
)]

mod etcd;

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::common::{expect, for_user, out};
use crate::docker::Docker;
use crate::network::{Machine, Network, eventually};

/// How many machines there are.
pub const COUNT: u8 = 3;
/// A service of one Redis, called `NAME`.
pub const SERVICE: &str = r#"
apiVersion = "steadfast/v1"
name = "NAME"
blueprint = "redis"
replicas = 1
[fencing]
minimum = "F1"
accept_lease = true
"#;

/// The machines, and what runs on them.
pub struct Lab {
    /// The members of etcd, the servers and the agents, by machine.
    etcds: Vec<Child>,
    servers: Vec<Child>,
    agents: Vec<Child>,
    /// What every agent is told.
    to_agents: Vec<String>,
    /// How often each machine was installed anew.
    lives: [u32; COUNT as usize],
    /// The engines of Docker, by machine; none: engines run as processes of the agents.
    engines: Vec<Docker>,
    pub network: Network,
    pub folder: tempfile::TempDir,
}

fn node(at: u8) -> String {
    format!("node-{at}")
}

fn zone(at: u8) -> String {
    format!("z{at}")
}

impl Lab {
    /// The machines, with nothing on them.
    pub fn new() -> Lab {
        let folder = tempfile::Builder::new().prefix("sf").tempdir().unwrap();
        // Engines run as another user, who has to pass through it.
        passable(folder.path());
        fs::create_dir(folder.path().join("shared")).unwrap();
        passable(&folder.path().join("shared"));
        let network = Network::of(COUNT);
        Lab {
            etcds: Vec::new(),
            servers: Vec::new(),
            agents: Vec::new(),
            to_agents: Vec::new(),
            lives: [0; COUNT as usize],
            engines: Vec::new(),
            network,
            folder,
        }
    }

    /// The machines, with engines of Docker that are one swarm.
    pub fn on_a_swarm() -> Lab {
        let mut lab = Lab::new();
        for at in 0..COUNT {
            let folder = lab.folder.path().join(format!("docker{at}"));
            lab.engines.push(Docker::prepare(lab.machine(at), &node(at), folder));
        }
        lab.start_swarm();
        lab
    }

    pub fn engine(&self, at: u8) -> &Docker {
        &self.engines[usize::from(at)]
    }

    /// `docker` on a machine, which must succeed; gives what it printed.
    pub fn docker(&self, at: u8, arguments: &[&str]) -> String {
        self.engine(at).expect(self.machine(at), arguments)
    }

    /// The same, if it succeeds: a swarm that is electing its leader answers nothing.
    pub fn told_by_docker(&self, at: u8, arguments: &[&str]) -> Option<String> {
        let output = self.engine(at).run(self.machine(at), arguments);
        output.status.success().then(|| out(&output).trim().to_owned())
    }

    /// `steadfast` for a machine.
    fn steadfast(&self, at: u8, arguments: &[&str]) -> Command {
        let program = env!("CARGO_BIN_EXE_steadfast");
        let command = match self.engines.get(usize::from(at)) {
            Some(engine) => engine.command(program),
            None => Command::new(program),
        };
        let mut command = for_user(command, &self.data(at));
        command.args(arguments);
        command
    }

    pub fn machine(&self, at: u8) -> &Machine {
        &self.network.machines[usize::from(at)]
    }

    pub fn data(&self, at: u8) -> PathBuf {
        match self.lives[usize::from(at)] {
            0 => self.folder.path().join(format!("m{at}")),
            life => self.folder.path().join(format!("m{at}-{life}")),
        }
    }

    pub fn shared(&self) -> PathBuf {
        self.folder.path().join("shared")
    }

    /// Starts a program on a machine, its output in a file.
    fn start(&self, at: u8, mut command: Command) -> Child {
        let log = self.folder.path().join(format!("m{at}.log"));
        let log = File::options().create(true).append(true).open(log).unwrap();
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        self.machine(at).run(async move { command.spawn().unwrap() })
    }

    /// Installs a machine anew under its old name: nothing is left of what it had or ran, but for its member of etcd. It
    /// joins the cluster as its documentation says, and the swarm as Docker's does.
    pub fn reimage(&mut self, at: u8, member: &str) {
        self.kill_server(at);
        self.kill_node(at, member);
        let near = (at + 1) % COUNT;
        self.lives[usize::from(at)] += 1;
        let folder = self.folder.path().join(format!("docker{at}-{}", self.lives[usize::from(at)]));
        let machine = &self.network.machines[usize::from(at)];
        self.engines[usize::from(at)] = Docker::prepare(machine, &node(at), folder);
        machine.ip("address flush dev eth0");
        machine.ip(&format!("address add {}/16 dev eth0", Network::address(at)));
        self.engines[usize::from(at)].start(machine);
        self.engine(at).make_image(self.machine(at));
        self.join_swarm_anew(at, near);
        fs::create_dir(self.data(at)).unwrap();
        passable(&self.data(at));
        for file in ["cluster.json", "key"] {
            fs::copy(self.data(near).join(file), self.data(at).join(file)).unwrap();
        }
        self.serve(at, &[]);
        self.start_agent(at);
    }

    fn join_swarm_anew(&self, at: u8, near: u8) {
        let said = |arguments: &[&str]| self.told_by_docker(near, arguments);
        // The others may have lost their leader with it.
        let ids = eventually("the swarm lists its nodes", || {
            said(&["node", "ls", "--filter", &format!("name={}", node(at)), "--format", "{{.ID}}"])
        });
        for id in ids.lines() {
            eventually("its old life is no manager", || said(&["node", "demote", id]));
            eventually("its old life is forgotten", || said(&["node", "rm", "--force", id]));
        }
        let token = eventually("a token", || said(&["swarm", "join-token", "--quiet", "manager"]));
        let (own, manager) = (Network::address(at).to_string(), format!("{}:2377", Network::address(near)));
        let join = ["swarm", "join", "--token", &token, "--advertise-addr", &own, &manager];
        eventually("it joins", || {
            let output = self.engine(at).run(self.machine(at), &join);
            output.status.success().then_some(())
        });
        self.tell_its_zone(at, near);
    }

    /// Has `manager` tell the swarm a machine's zone.
    fn tell_its_zone(&self, at: u8, manager: u8) {
        let label = format!("zone={}", zone(at));
        let id = eventually("it is in the swarm", || {
            self.told_by_docker(at, &["info", "--format", "{{.Swarm.NodeID}}"])
        });
        eventually("it has its label", || {
            self.told_by_docker(manager, &["node", "update", "--label-add", &label, &id])
        });
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
        for at in 0..COUNT {
            self.tell_its_zone(at, 0);
        }
    }

    /// `steadfast serve` on a machine, listening there for its own users alone.
    pub fn serve(&mut self, at: u8, more: &[&str]) {
        let id = format!("server-{at}");
        let told = self.data(at).join(format!("servers/server-{at}/endpoint.json"));
        // What was killed has left it.
        fs::remove_file(&told).ok();
        let server = self.start(at, self.steadfast(at, &[&["serve", "--id", &id], more].concat()));
        put(&mut self.servers, at, server);
        eventually("the server listens", || told.exists().then_some(()));
    }

    /// Has a machine's server answer names at the machine's own address, where the others can ask it.
    pub fn answer_on_the_network(&mut self, at: u8) {
        self.kill_server(at);
        let file = self.data(at).join("cluster.json");
        let mut config: Value = serde_json::from_str(&fs::read_to_string(&file).unwrap()).unwrap();
        config["dns"] = format!("{}:5353", Network::address(at)).into();
        fs::write(&file, config.to_string()).unwrap();
        self.serve(at, &[]);
    }

    /// What `from` is told by the server of `at` about a name: all that `dig` prints.
    pub fn dig(&self, from: u8, at: u8, name: &str) -> String {
        let mut command = Command::new("dig");
        command.args([&format!("@{}", Network::address(at)), "-p", "5353", "+tries=1", "+time=2"]);
        command.arg(format!("{name}.local.steadfast.internal"));
        out(&self.machine(from).output(command))
    }

    pub fn start_agent(&mut self, at: u8) {
        let (node, zone) = (node(at), zone(at));
        let more: Vec<&str> = self.to_agents.iter().map(String::as_str).collect();
        let own = ["agent", "--node", &node];
        // On a swarm it is a label that says it.
        let zone: &[&str] = if self.engines.is_empty() { &["--zone", &zone] } else { &[] };
        let agent = self.start(at, self.steadfast(at, &[&own, zone, &more].concat()));
        put(&mut self.agents, at, agent);
    }

    pub fn kill_agent(&mut self, at: u8) {
        end(&mut self.agents[usize::from(at)]);
    }

    pub fn kill_server(&mut self, at: u8) {
        end(&mut self.servers[usize::from(at)]);
    }

    pub fn kill_docker(&mut self, at: u8) {
        self.engines[usize::from(at)].kill();
    }

    pub fn start_docker(&mut self, at: u8) {
        self.engines[usize::from(at)].start(&self.network.machines[usize::from(at)]);
    }

    /// The agent's process. It is entered from another one, which has become it.
    pub fn agent_process(&self, at: u8) -> Pid {
        Pid::from_raw(i32::try_from(self.agents[usize::from(at)].id()).unwrap())
    }

    /// Three machines of a cluster, from nothing, as its documentation says; the first server is told `more`, and every
    /// agent is told `to_agents`.
    pub fn up(&mut self, more: &[&str], to_agents: &[&str]) {
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
        self.to_agents = to_agents.iter().map(|told| (*told).to_owned()).collect();
        for at in 0..COUNT {
            self.start_agent(at);
        }
        self.all_ready(0);
    }

    /// Waits until every node is Ready, as `at` sees it.
    pub fn all_ready(&self, at: u8) {
        eventually("every node is Ready", || {
            let nodes = self.json(at, &["node", "list"])?;
            let items = nodes["items"].as_array()?;
            (items.len() == usize::from(COUNT)
                && items.iter().all(|node| node["health"] == "Ready" && node["stalled"].is_null()))
            .then_some(())
        });
    }

    /// Kills everything of a node but its server and its etcd, without a word.
    pub fn kill_node(&mut self, at: u8, member: &str) {
        self.kill_agent(at);
        self.kill_docker(at);
        self.kill_container(at, member);
    }

    /// Kills everything that runs of a member on a machine.
    pub fn kill_container(&self, at: u8, member: &str) {
        for pid in self.processes_of(at, member) {
            // The engine dies with its guard.
            kill(Pid::from_raw(pid), Signal::SIGKILL).ok();
        }
    }

    /// The command line on a machine, which asks that machine's server.
    pub fn cli(&self, at: u8, arguments: &[&str]) -> Output {
        self.machine(at).output(self.steadfast(at, arguments))
    }

    pub fn json(&self, at: u8, arguments: &[&str]) -> Option<Value> {
        let output = self.cli(at, &[arguments, &["-o", "json"]].concat());
        serde_json::from_slice(&output.stdout).ok()
    }

    /// Makes a service of one Redis, and waits for it; gives the machine that it is on, and its address.
    pub fn create(&self, name: &str) -> (u8, String) {
        self.create_as(name, SERVICE)
    }

    pub fn create_as(&self, name: &str, service: &str) -> (u8, String) {
        let file = self.folder.path().join("service.toml");
        fs::write(&file, service.replace("NAME", name)).unwrap();
        expect(&self.cli(0, &["apply", "-f", file.to_str().unwrap(), "--wait"]), 0);
        eventually("the service is healthy", || self.serving(0, name))
    }

    /// Asks a service's Redis from a machine, by its name.
    pub fn redis(&self, at: u8, service: &str, arguments: &[&str]) -> Option<String> {
        let output = self.cli(at, &[&["connect", service, "--"], arguments].concat());
        output.status.success().then(|| out(&output).trim().to_owned())
    }

    /// The machine that a service's only member is on, and its address, once it serves as `at` sees it.
    pub fn serving(&self, at: u8, service: &str) -> Option<(u8, String)> {
        let view = self.json(at, &["get", service])?;
        let member = view["members"].as_array()?.first()?;
        let on = (0..COUNT).find(|at| member["node"] == node(*at))?;
        (view["state"] == "Healthy").then_some((on, member["address"].as_str()?.to_owned()))
    }

    /// The processes of a service's only member on a machine: its guard, and everything of its engine.
    pub fn processes(&self, at: u8, service: &str) -> BTreeSet<i32> {
        self.processes_of(at, &format!("{service}-0"))
    }

    /// The same of any member.
    pub fn processes_of(&self, at: u8, member: &str) -> BTreeSet<i32> {
        let lock = match self.engines.get(usize::from(at)) {
            Some(engine) => engine.within(&format!("/run/steadfast/local/{member}/guard/lock")),
            None => self.data(at).join(format!("nodes/{}/guards/{member}/lock", node(at))),
        };
        steadfast_lock::holders(&lock).unwrap()
    }

    /// How many volumes the machines have mounted, those that have any.
    pub fn mounted(&self) -> Vec<(u8, usize)> {
        let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let counted = (0..COUNT).map(|at| (at, table.matches(self.data(at).to_str().unwrap()).count()));
        counted.filter(|(_, count)| *count > 0).collect()
    }

    /// How many loop devices have a file of the shared folder.
    pub fn loops(&self) -> usize {
        let listed = Command::new("losetup").args(["--list", "--noheadings"]).output().unwrap();
        out(&listed).matches(self.shared().to_str().unwrap()).count()
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for at in 0..COUNT {
                let log =
                    fs::read_to_string(self.folder.path().join(format!("m{at}.log"))).unwrap_or_default();
                let lines: Vec<&str> = log.lines().filter(|line| !line.contains("etcdserver")).collect();
                println!("machine {at}:\n{}", lines[lines.len().saturating_sub(40)..].join("\n"));
            }
            for engine in &self.engines {
                println!("engine:\n{}", engine.log());
            }
        }
        for child in self.agents.iter_mut().chain(&mut self.servers).chain(&mut self.etcds) {
            end(child);
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

/// Puts what was started on a machine in the place of what was there.
fn put(all: &mut Vec<Child>, at: u8, child: Child) {
    match all.get_mut(usize::from(at)) {
        Some(place) => *place = child,
        None => all.push(child),
    }
}

/// Kills a process, if it has not ended by itself.
fn end(child: &mut Child) {
    child.kill().ok();
    child.wait().ok();
}

fn passable(folder: &Path) {
    use std::os::unix::fs::PermissionsExt as _;
    fs::set_permissions(folder, fs::Permissions::from_mode(0o711)).unwrap();
}
