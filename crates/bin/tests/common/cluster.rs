//! A cluster of the program: servers and agents as processes, gone when it is dropped.

use std::net::{SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::{eventually, expect, run, steadfast};

/// A cluster that goes when it is dropped.
pub(crate) struct Cluster {
    folder: tempfile::TempDir,
    pub(crate) up: Child,
    pub(crate) dns: SocketAddr,
    nodes: usize,
}

impl Cluster {
    /// Two nodes, and what the options say.
    pub(crate) fn start(options: &[&str]) -> Cluster {
        Cluster::of(2, options)
    }

    /// So many nodes, and what the options say.
    pub(crate) fn of(nodes: usize, options: &[&str]) -> Cluster {
        Cluster::of_env(nodes, options, &[])
    }

    /// Two nodes, started by a user with these variables.
    pub(crate) fn with_env(variables: &[(&str, &str)]) -> Cluster {
        Cluster::of_env(2, &[], variables)
    }

    /// So many nodes and what the options say, started by a user with these variables.
    pub(crate) fn of_env(nodes: usize, options: &[&str], variables: &[(&str, &str)]) -> Cluster {
        Cluster::started(nodes, |data| {
            let mut command = steadfast(data);
            command.arg("up").args(options).envs(variables.iter().copied());
            command
        })
    }

    /// Two nodes of this very file.
    pub(crate) fn of_program(program: &Path) -> Cluster {
        Cluster::started(2, |_| {
            let mut command = Command::new(program);
            command.arg("up").stdin(Stdio::null());
            command
        })
    }

    fn started(nodes: usize, command: impl Fn(&Path) -> Command) -> Cluster {
        let folder = tempfile::Builder::new().prefix("sf").tempdir().unwrap();
        // A port of its own: tests run side by side, and so may a cluster of the developer's.
        let dns = free_dns();
        let up = start_up(folder.path(), nodes, dns, command(folder.path()));
        let cluster = Cluster { folder, up, dns, nodes };
        cluster.until_ready();
        cluster
    }

    pub(crate) fn data(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn run(&self, arguments: &[&str]) -> Output {
        run(self.data(), arguments)
    }

    pub(crate) fn until_ready(&self) {
        eventually("every node is Ready", || {
            let output = self.run(&["node", "list", "-o", "json"]);
            let nodes: serde_json::Value = serde_json::from_slice(&output.stdout).ok()?;
            let items = nodes["items"].as_array()?;
            (items.len() == self.nodes && items.iter().all(|node| node["health"] == "Ready")).then_some(())
        });
    }

    pub(crate) fn kill_up(&mut self) {
        self.up.kill().unwrap();
        self.up.wait().unwrap();
    }

    /// Another `up` on the same folder.
    pub(crate) fn start_up_again(&mut self) {
        let mut command = steadfast(self.data());
        command.arg("up");
        self.up = start_up(self.data(), self.nodes, self.dns, command);
    }

    /// The process that owns the store.
    pub(crate) fn owner(&self) -> Option<i32> {
        holder(&self.data().join("store/lock"))
    }

    pub(crate) fn agent(&self, node: &str) -> Option<i32> {
        holder(&self.data().join("nodes").join(node).join("agent.lock"))
    }

    /// A file of the folder with this text.
    pub(crate) fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.data().join(name);
        std::fs::write(&path, text).unwrap();
        path
    }

    /// Creates a service of Redis, and waits for it.
    pub(crate) fn create_redis(&self, name: &str, replicas: u32) {
        let replicas = replicas.to_string();
        expect(&self.run(&["create", name, "--blueprint", "redis", "--replicas", &replicas, "--wait"]), 0);
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

/// A process that stands still.
pub(crate) struct Frozen(i32);

impl Frozen {
    /// Stops a process where it stands, until this is dropped.
    pub(crate) fn stop(pid: i32) -> Frozen {
        kill(Pid::from_raw(pid), Signal::SIGSTOP).unwrap();
        Frozen(pid)
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        // It may have been killed meanwhile.
        kill(Pid::from_raw(self.0), Signal::SIGCONT).ok();
    }
}

/// The process that holds a lock.
pub(crate) fn holder(lock: &Path) -> Option<i32> {
    steadfast_lock::holders(lock).unwrap().into_iter().next()
}

/// An address for a DNS server that is free right now.
pub(crate) fn free_dns() -> SocketAddr {
    UdpSocket::bind("127.0.0.153:0").unwrap().local_addr().unwrap()
}

fn start_up(data: &Path, nodes: usize, dns: SocketAddr, mut command: Command) -> Child {
    let log = std::fs::File::options().create(true).append(true).open(data.join("up.out")).unwrap();
    command
        .arg("--data")
        .arg(data)
        .args(["--nodes", &nodes.to_string(), "--dns", &dns.to_string()])
        .stdout(log.try_clone().unwrap())
        .stderr(log)
        .spawn()
        .unwrap()
}

/// Whether the machine has Redis; says so if the test is left out for want of it.
#[allow(dead_code, reason = "not every test file has engines")]
#[expect(clippy::print_stdout, reason = "what is left out is said where a test says things")]
pub(crate) fn has_redis(test: &str) -> bool {
    let found = Path::new("/usr/bin/redis-server").exists();
    if !found {
        assert!(std::env::var_os("CI").is_none(), "{test} needs redis-server");
        println!("left out: {test}: redis-server is not installed");
    }
    found
}
