//! The agent as a volume plugin of a real engine of Docker: members in containers that somebody else starts, stops and
//! kills.
#![cfg(feature = "linux")]
#![allow(clippy::unwrap_used, reason = "a test ends where something is not as it should be")]

mod common;
mod docker;
#[path = "../../backends/linux/tests/network/mod.rs"]
mod network;

use std::fs::{self, File};
use std::process::{Child, Command, Stdio};

use common::cluster::has_redis;
use common::{err, expect, out};
use docker::{Docker, IMAGE, has_docker};
use network::{Network, eventually, may_make_networks};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

/// What the container of `cache-0` sees.
const MEMBER: &str = "/run/steadfast/local/cache-0";

/// A machine with a server, an agent, and an engine of Docker.
struct Lab {
    agent: Option<Child>,
    server: Option<Child>,
    docker: Docker,
    network: Network,
    folder: tempfile::TempDir,
}

impl Lab {
    fn new() -> Lab {
        let folder = tempfile::Builder::new().prefix("sf").tempdir().unwrap();
        let network = Network::of(1);
        let docker = Docker::prepare(&network.machines[0], "node-1", folder.path().join("docker"));
        Lab { agent: None, server: None, docker, network, folder }
    }

    fn start(&self, arguments: &[&str]) -> Child {
        let log = File::options().create(true).append(true).open(self.folder.path().join("log")).unwrap();
        let mut command = self.steadfast(arguments);
        command.stdout(log.try_clone().unwrap()).stderr(log);
        self.network.machines[0].run(async move { command.spawn().unwrap() })
    }

    fn steadfast(&self, arguments: &[&str]) -> Command {
        let mut command = self.docker.command(env!("CARGO_BIN_EXE_steadfast"));
        command.args(arguments).env("STEADFAST_DATA", self.folder.path().join("data"));
        command.stdin(Stdio::null());
        command
    }

    fn start_agent(&mut self) {
        self.agent = Some(self.start(&["agent", "--node", "node-1", "--zone", "a", "--volume-plugin"]));
    }

    fn serve(&mut self) {
        // Engines run as another user, who has to pass through it.
        use std::os::unix::fs::PermissionsExt as _;
        fs::set_permissions(self.folder.path(), fs::Permissions::from_mode(0o711)).unwrap();
        self.server = Some(self.start(&["serve"]));
        let told = self.folder.path().join("data/servers/server-1/endpoint.json");
        eventually("the server listens", || told.exists().then_some(()));
    }

    fn up(&mut self) {
        self.serve();
        self.start_agent();
        eventually("the plugin listens", || {
            self.docker.within("/run/docker/plugins/steadfast.sock").exists().then_some(())
        });
        self.docker.start(&self.network.machines[0]);
        self.docker.make_image(&self.network.machines[0]);
    }

    fn cli(&self, arguments: &[&str]) -> std::process::Output {
        self.network.machines[0].output(self.steadfast(arguments))
    }

    fn docker(&self, arguments: &[&str]) -> String {
        self.docker.expect(&self.network.machines[0], arguments)
    }

    /// Starts a container that wants to be `cache-0`.
    fn run_member(&self, name: &str) -> Command {
        let mount = format!(
            "type=volume,source=cache-0,target={MEMBER},volume-driver=steadfast,volume-opt=service=cache"
        );
        let program = format!("{MEMBER}/steadfast");
        let spec = format!("{MEMBER}/guard/spec.json");
        self.docker.docker(&[
            "run",
            "--detach",
            "--name",
            name,
            "--network",
            "host",
            "--mount",
            &mount,
            IMAGE,
            &program,
            "guard",
            "--spec",
            &spec,
        ])
    }

    fn redis(&self, arguments: &[&str]) -> Option<String> {
        let output = self.cli(&[&["connect", "cache", "--"], arguments].concat());
        output.status.success().then(|| out(&output).trim().to_owned())
    }

    fn view(&self) -> Option<Value> {
        let output = self.cli(&["get", "cache", "-o", "json"]);
        serde_json::from_slice(&output.stdout).ok()
    }

    fn healthy(&self) -> Option<()> {
        (self.view()?["state"] == "Healthy").then_some(())
    }

    fn has_member(&self) -> Option<()> {
        (!self.view()?["members"].as_array()?.is_empty()).then_some(())
    }

    /// The processes of the member: its guard, and everything of its engine.
    fn processes(&self) -> std::collections::BTreeSet<i32> {
        let lock = self.docker.within(&format!("{MEMBER}/guard/lock"));
        steadfast_lock::holders(&lock).unwrap()
    }
}

impl Drop for Lab {
    #[expect(clippy::print_stdout, reason = "what happened is said where a test says things")]
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = fs::read_to_string(self.folder.path().join("log")).unwrap_or_default();
            let lines: Vec<&str> = log.lines().collect();
            println!(
                "{}\nengine:\n{}",
                lines[lines.len().saturating_sub(40)..].join("\n"),
                self.docker.log()
            );
        }
        for child in [&mut self.agent, &mut self.server].into_iter().flatten() {
            // It may have ended by itself.
            child.kill().ok();
            child.wait().ok();
        }
        let lock = self.folder.path().join("data/nodes/node-1/machine.lock");
        for pid in steadfast_lock::holders(&lock).unwrap_or_default() {
            kill(Pid::from_raw(pid), Signal::SIGKILL).ok();
        }
    }
}

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
    let machine = || &lab.network.machines[0];
    let refused = |arguments: &[&str], named: &str| {
        let output = lab.docker.run(machine(), arguments);
        let told = String::from_utf8(output.stderr).unwrap();
        assert!(!output.status.success() && told.contains(named), "{named}: {told}");
    };
    refused(&["volume", "create", "-d", "steadfast", "NotAMember"], "is no member");
    refused(&["volume", "create", "-d", "steadfast", "-o", "service=cache", "cache-0"], "has no member");

    expect(&lab.cli(&["create", "cache", "--blueprint", "redis", "--replicas", "1"]), 0);
    // What was asked for comes about a moment later: until then there is no such member to mount.
    eventually("the member is there", || lab.has_member());
    let started = machine().output(lab.run_member("first"));
    assert!(started.status.success(), "{started:?}");
    eventually("it serves", || lab.healthy());
    eventually("a write", || lab.redis(&["SET", "colour", "green"]).filter(|told| told == "OK"));
    let processes = lab.processes();
    assert!(processes.len() > 1, "{processes:?}");

    // Another container for the same member is kept waiting, and then refused; nobody else notices.
    let mut second = lab.run_member("second");
    second.stdout(Stdio::piped()).stderr(Stdio::piped());
    let second = machine().run(async move { second.spawn().unwrap() });

    // The agent dies: the container goes on, and the next agent knows whose it is.
    let mut agent = lab.agent.take().unwrap();
    agent.kill().unwrap();
    agent.wait().unwrap();
    lab.start_agent();
    let machine = || &lab.network.machines[0];
    eventually("it serves", || lab.healthy());
    assert_eq!(lab.processes(), processes, "nothing was started anew");
    let second = second.wait_with_output().unwrap();
    assert!(!second.status.success(), "{second:?}");
    assert_eq!(lab.processes(), processes);

    // The container is killed: what it has is free for another one, which finds the data.
    lab.docker(&["kill", "first"]);
    lab.docker(&["rm", "--force", "first", "second"]);
    let started = machine().output(lab.run_member("third"));
    assert!(started.status.success(), "{started:?}");
    eventually("its data is read", || lab.redis(&["GET", "colour"]).filter(|told| told == "green"));

    // The engine of Docker dies without a word, and takes its containers with it when it is back. No Unmount was sent.
    lab.docker.kill();
    lab.docker.start(&lab.network.machines[0]);
    let machine = || &lab.network.machines[0];
    let listed = lab.docker(&["volume", "ls", "--quiet"]);
    assert_eq!(listed, "cache-0");
    let started = lab.docker.run(machine(), &["start", "third"]);
    assert!(started.status.success(), "{started:?}");
    eventually("its data is read", || lab.redis(&["GET", "colour"]).filter(|told| told == "green"));

    // What runs is not deleted; what is stopped leaves nothing behind.
    refused_while_it_runs(&lab);
    expect(&lab.cli(&["delete", "cache", "--wait"]), 0);
    eventually("nothing is mounted", || lab.docker.mounts_below("/run/steadfast").is_empty().then_some(()));
    assert!(lab.processes().is_empty());
    lab.docker(&["rm", "--force", "third"]);
    lab.docker(&["volume", "rm", "cache-0"]);
    assert_eq!(lab.docker(&["volume", "ls", "--quiet"]), "");
}

fn refused_while_it_runs(lab: &Lab) {
    let output = lab.docker.run(&lab.network.machines[0], &["volume", "rm", "cache-0"]);
    assert!(!output.status.success(), "{output:?}");
}
