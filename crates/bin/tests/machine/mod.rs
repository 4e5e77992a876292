//! A machine with a server, an agent that is the volume plugin of its engine of Docker, and that engine: containers are
//! started there by whoever uses it.
#![allow(
    dead_code,
    unreachable_pub,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "test support: each test file uses its part, and a failure is a panic"
)]

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::process::{Child, Command, Output, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::common::out;
use crate::docker::{Docker, IMAGE};
use crate::network::{Machine, Network, eventually};

/// What the container of a service's only member sees, and where.
pub fn folder_of(service: &str) -> String {
    format!("/run/steadfast/local/{service}-0")
}

/// The mount of a service's only member.
pub fn mount_of(service: &str) -> String {
    let target = folder_of(service);
    format!(
        "type=volume,source={service}-0,target={target},volume-driver=steadfast,volume-opt=service={service}"
    )
}

/// A machine with a server, an agent, and an engine of Docker.
pub struct Lab {
    agent: Option<Child>,
    server: Option<Child>,
    pub docker: Docker,
    network: Network,
    pub folder: tempfile::TempDir,
}

impl Lab {
    pub fn new() -> Lab {
        let folder = tempfile::Builder::new().prefix("sf").tempdir().unwrap();
        let network = Network::of(1);
        let docker = Docker::prepare(&network.machines[0], "node-1", folder.path().join("docker"));
        Lab { agent: None, server: None, docker, network, folder }
    }

    fn start(&self, arguments: &[&str]) -> Child {
        let log = File::options().create(true).append(true).open(self.folder.path().join("log")).unwrap();
        let mut command = self.steadfast(arguments);
        command.stdout(log.try_clone().unwrap()).stderr(log);
        self.machine().run(async move { command.spawn().unwrap() })
    }

    fn steadfast(&self, arguments: &[&str]) -> Command {
        let mut command = self.docker.command(env!("CARGO_BIN_EXE_steadfast"));
        command.args(arguments).env("STEADFAST_DATA", self.folder.path().join("data"));
        command.stdin(Stdio::null());
        command
    }

    pub fn start_agent(&mut self) {
        self.agent = Some(self.start(&["agent", "--node", "node-1", "--zone", "a", "--volume-plugin"]));
    }

    /// Kills it where it stands.
    pub fn kill_agent(&mut self) {
        let mut agent = self.agent.take().unwrap();
        agent.kill().unwrap();
        agent.wait().unwrap();
    }

    pub fn start_docker(&mut self) {
        self.docker.start(&self.network.machines[0]);
    }

    pub fn machine(&self) -> &Machine {
        &self.network.machines[0]
    }

    /// What agent and server have said.
    pub fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    pub fn serve(&mut self) {
        // Engines run as another user, who has to pass through it.
        use std::os::unix::fs::PermissionsExt as _;
        fs::set_permissions(self.folder.path(), fs::Permissions::from_mode(0o711)).unwrap();
        self.server = Some(self.start(&["serve"]));
        let told = self.folder.path().join("data/servers/server-1/endpoint.json");
        eventually("the server listens", || told.exists().then_some(()));
    }

    pub fn up(&mut self) {
        self.serve();
        self.start_agent();
        eventually("the plugin listens", || {
            self.docker.within("/run/docker/plugins/steadfast.sock").exists().then_some(())
        });
        self.start_docker();
        self.docker.make_image(self.machine());
    }

    pub fn cli(&self, arguments: &[&str]) -> Output {
        self.machine().output(self.steadfast(arguments))
    }

    pub fn docker(&self, arguments: &[&str]) -> String {
        self.docker.expect(self.machine(), arguments)
    }

    /// To start a container that wants to be the member of a service.
    pub fn run_member(&self, service: &str, name: &str) -> Command {
        let program = format!("{}/steadfast", folder_of(service));
        self.run_program(service, name, &program)
    }

    /// The same with a guard that is this program.
    pub fn run_program(&self, service: &str, name: &str, program: &str) -> Command {
        self.run_in(service, name, program, "host")
    }

    /// The same in this network.
    pub fn run_in(&self, service: &str, name: &str, program: &str, network: &str) -> Command {
        let mount = mount_of(service);
        let spec = format!("{}/guard/spec.json", folder_of(service));
        self.docker.docker(&[
            "run",
            "--detach",
            "--name",
            name,
            "--network",
            network,
            "--mount",
            &mount,
            IMAGE,
            program,
            "guard",
            "--spec",
            &spec,
        ])
    }

    pub fn redis(&self, service: &str, arguments: &[&str]) -> Option<String> {
        let output = self.cli(&[&["connect", service, "--"], arguments].concat());
        output.status.success().then(|| out(&output).trim().to_owned())
    }

    pub fn view(&self, service: &str) -> Option<Value> {
        let output = self.cli(&["get", service, "-o", "json"]);
        serde_json::from_slice(&output.stdout).ok()
    }

    pub fn healthy(&self, service: &str) -> Option<()> {
        (self.view(service)?["state"] == "Healthy").then_some(())
    }

    pub fn has_member(&self, service: &str) -> Option<()> {
        (!self.view(service)?["members"].as_array()?.is_empty()).then_some(())
    }

    /// The processes of a service's member: its guard, and everything of its engine.
    pub fn processes(&self, service: &str) -> BTreeSet<i32> {
        let lock = self.docker.within(&format!("{}/guard/lock", folder_of(service)));
        steadfast_lock::holders(&lock).unwrap()
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = self.log();
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
