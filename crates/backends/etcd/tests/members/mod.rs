//! Real etcd processes: a cluster in a temporary folder, at addresses that no other test has, ended with the test.
#![allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    reason = "test support: each test file uses its part, and a failure is a panic"
)]

use std::fs::{self, File};
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use nix::unistd::Pid;

/// How long anything may take before a test fails. Conditions are polled, so this is not waited for.
const DEADLINE: Duration = Duration::from_secs(90);

/// The files that make it speak TLS and demand a client's certificate.
#[derive(Debug, Clone)]
pub struct Tls {
    pub authority: PathBuf,
    pub certificate: PathBuf,
    pub key: PathBuf,
}

/// An etcd cluster. Its processes are killed when it is dropped.
#[derive(Debug)]
pub struct Members {
    folder: tempfile::TempDir,
    address: Ipv4Addr,
    first_port: u16,
    processes: Vec<Option<Child>>,
    tls: Option<Tls>,
    /// What else each is told.
    pub arguments: Vec<&'static str>,
}

static PORTS: AtomicU16 = AtomicU16::new(2379);

impl Members {
    /// So many members that have elected a leader.
    pub fn start(count: u16) -> Members {
        Members::prepare(count).run(None)
    }

    /// Where so many members will be: for what has to be known before they run.
    pub fn prepare(count: u16) -> Members {
        // Of this process alone, so no port of it is taken by another.
        let pid = std::process::id().to_be_bytes();
        Members {
            folder: tempfile::Builder::new().prefix("etcd.").tempdir().unwrap(),
            address: Ipv4Addr::new(127, 192, pid[2], pid[3].clamp(1, 254)),
            first_port: PORTS.fetch_add(2 * count, Ordering::Relaxed),
            processes: (0..count).map(|_| None).collect(),
            tls: None,
            arguments: Vec::new(),
        }
    }

    /// Starts all of them.
    pub fn run(mut self, tls: Option<Tls>) -> Members {
        self.tls = tls;
        for at in 0..self.processes.len() {
            self.begin(at);
        }
        self.until_well();
        self
    }

    pub fn address(&self) -> Ipv4Addr {
        self.address
    }

    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// `HOST:PORT` of one member.
    pub fn host(&self, at: usize) -> String {
        format!("{}:{}", self.address, self.first_port + 2 * u16::try_from(at).unwrap())
    }

    /// `HOST:PORT` of all of them, parted by commas.
    pub fn hosts(&self) -> String {
        (0..self.processes.len()).map(|at| self.host(at)).collect::<Vec<_>>().join(",")
    }

    fn peer(&self, at: usize) -> String {
        format!("http://{}:{}", self.address, self.first_port + 2 * u16::try_from(at).unwrap() + 1)
    }

    /// Starts one member, or starts it again with what it has on disk.
    pub fn begin(&mut self, at: usize) {
        assert!(self.processes[at].is_none(), "member {at} runs");
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        let client = format!("{scheme}://{}", self.host(at));
        let all = 0..self.processes.len();
        let all: Vec<String> = all.map(|at| format!("m{at}={}", self.peer(at))).collect();
        let log = self.folder.path().join(format!("m{at}.log"));
        let log = File::options().create(true).append(true).open(log).unwrap();
        let mut command = Command::new("etcd");
        command.arg("--name").arg(format!("m{at}")).arg("--data-dir").arg(self.data(at));
        command.args(["--listen-client-urls", &client, "--advertise-client-urls", &client]);
        command.args(["--listen-peer-urls", &self.peer(at)]);
        command.args(["--initial-advertise-peer-urls", &self.peer(at)]);
        command.args(["--initial-cluster", &all.join(","), "--initial-cluster-state", "new"]);
        if let Some(tls) = &self.tls {
            command.arg("--cert-file").arg(&tls.certificate).arg("--key-file").arg(&tls.key);
            command.arg("--client-cert-auth").arg("--trusted-ca-file").arg(&tls.authority);
        }
        command.args(&self.arguments);
        without_settings(&mut command);
        let started = command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log).spawn();
        let started =
            started.unwrap_or_else(|error| panic!("start etcd: {error}: scripts/install-packages etcd"));
        self.processes[at] = Some(started);
    }

    /// Kills (SIGKILL) one member.
    pub fn kill(&mut self, at: usize) {
        let mut process = self.processes[at].take().unwrap_or_else(|| panic!("member {at} does not run"));
        process.kill().unwrap();
        process.wait().unwrap();
    }

    /// The process of one member.
    pub fn process(&self, at: usize) -> Pid {
        let process = self.processes[at].as_ref().unwrap_or_else(|| panic!("member {at} does not run"));
        Pid::from_raw(i32::try_from(process.id()).unwrap())
    }

    /// The folder of one member, which must not run if it is changed.
    pub fn data(&self, at: usize) -> PathBuf {
        self.folder.path().join(format!("m{at}"))
    }

    /// Waits until every member that runs answers with the consent of a majority.
    pub fn until_well(&self) {
        let begun = Instant::now();
        for at in (0..self.processes.len()).filter(|at| self.processes[*at].is_some()) {
            loop {
                let health = self.etcdctl(at, &["endpoint", "health", "--command-timeout=2s"]);
                if health.status.success() {
                    break;
                }
                assert!(begun.elapsed() < DEADLINE, "{health:?}\n{}", self.log(at));
                std::thread::sleep(Duration::from_millis(50));
            }
        }
    }

    /// Runs `etcdctl` against one member.
    pub fn etcdctl(&self, at: usize, arguments: &[&str]) -> Output {
        let mut command = Command::new("etcdctl");
        without_settings(&mut command);
        command.env("ETCDCTL_API", "3");
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        command.arg("--endpoints").arg(format!("{scheme}://{}", self.host(at))).args(arguments);
        if let Some(tls) = &self.tls {
            command.arg("--cacert").arg(&tls.authority).arg("--cert").arg(&tls.certificate);
            command.arg("--key").arg(&tls.key);
        }
        command.stdin(Stdio::null()).output().unwrap_or_else(|error| panic!("run etcdctl: {error}"))
    }

    /// Runs `etcdctl`, which must succeed.
    pub fn control(&self, arguments: &[&str]) -> String {
        let output = self.etcdctl(0, arguments);
        assert!(output.status.success(), "{arguments:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    fn log(&self, at: usize) -> String {
        let text = fs::read(self.folder.path().join(format!("m{at}.log"))).unwrap_or_default();
        let text = String::from_utf8_lossy(&text).into_owned();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(20)..].join("\n")
    }
}

impl Drop for Members {
    fn drop(&mut self) {
        for process in self.processes.iter_mut().flatten() {
            // It may have ended by itself.
            process.kill().ok();
            process.wait().ok();
        }
    }
}

/// What the user who runs the tests has set is not meant for them.
fn without_settings(command: &mut Command) {
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("ETCD")) {
        command.env_remove(name);
    }
}
