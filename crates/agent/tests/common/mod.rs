//! A node's folder, a volume and guards for tests.
#![allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    reason = "test support: each test file uses its part, and a failure is a panic"
)]

pub mod redis;
pub mod world;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use steadfast_agent::guard::{GuardExit, GuardSpec, GuardStatus, GuardedVolume, LogSpec};
use steadfast_agent::guards::{GuardProgram, GuardState, Guards, ProcessGuards};
use steadfast_agent::node_dir::NodeDir;
use steadfast_core::Environment;
use steadfast_core::engine::{Command, StopSignal};
use steadfast_core::ids::{Epoch, Generation, MemberName};

/// How long anything may take before a test fails. Conditions are polled, so this is not waited for.
pub const DEADLINE: Duration = Duration::from_secs(60);

/// The guard program of this crate.
pub fn program() -> GuardProgram {
    GuardProgram::at(env!("CARGO_BIN_EXE_guard-under-test"))
}

/// A node with one member's volume. Whatever still runs at the end is killed.
#[derive(Debug)]
pub struct Bench {
    pub folder: tempfile::TempDir,
    pub env: Environment,
    pub dir: NodeDir,
    pub guards: ProcessGuards,
    pub member: MemberName,
}

impl Drop for Bench {
    fn drop(&mut self) {
        let end = Instant::now() + DEADLINE;
        let lock = self.dir.guard_lock(&self.member);
        while steadfast_lock::is_held(&lock).unwrap_or(false) && Instant::now() < end {
            drop(steadfast_lock::kill_holders(&[&lock]));
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Bench {
    pub fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let env = Environment::system([7; 32]);
        let dir = NodeDir::new(folder.path().join("node"));
        fs::create_dir_all(folder.path().join("volume")).unwrap();
        let guards = ProcessGuards::new(env.clone(), dir.clone(), program());
        Bench { folder, env, dir, guards, member: "orders-0".parse().unwrap() }
    }

    pub fn volume(&self) -> PathBuf {
        self.folder.path().join("volume")
    }

    pub fn volume_lock(&self) -> PathBuf {
        self.volume().join("lock")
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("logs/orders-0/current.log")).unwrap_or_default()
    }

    pub fn spec(&self, epoch: u64, argv: &[&str]) -> GuardSpec {
        GuardSpec {
            member: self.member.clone(),
            service: "orders".parse().unwrap(),
            node: "node-1".parse().unwrap(),
            epoch: Epoch(epoch),
            generation: Generation(1),
            incarnation: self.env.entropy().token().parse().unwrap(),
            command: Command {
                argv: argv.iter().map(|arg| (*arg).to_owned()).collect(),
                ..Command::default()
            },
            run_as: None,
            machine_lock: Some(self.dir.machine_lock()),
            guard_lock: self.dir.guard_lock(&self.member),
            volumes: vec![GuardedVolume { lock: self.volume_lock(), epoch: self.volume().join("epoch") }],
            lock_wait_ms: 200,
            control: self.dir.control(&self.member),
            exit: self.dir.exit(&self.member),
            log: LogSpec { folder: self.folder.path().join("logs/orders-0"), max_bytes: 1 << 20, keep: 2 },
            stop_signal: StopSignal::Term,
            stop_grace_ms: 10_000,
            network: None,
            lease_until_ms: None,
        }
    }

    pub async fn start(&self, spec: &GuardSpec) {
        self.guards.start(spec).await.unwrap();
    }

    /// The guard's status once the engine runs.
    pub async fn running(&self) -> GuardStatus {
        self.eventually("the engine runs", async || match self.guards.find(&self.member).await.unwrap() {
            GuardState::Alive(status) if status.engine_pid.is_some() => Some(status),
            _ => None,
        })
        .await
    }

    /// How the guard ended, once it has.
    pub async fn ended(&self) -> GuardExit {
        self.eventually("the guard ends", async || match self.guards.find(&self.member).await.unwrap() {
            GuardState::Absent(Some(exit)) => Some(exit),
            _ => None,
        })
        .await
    }

    pub async fn eventually<T>(&self, what: &str, mut condition: impl AsyncFnMut() -> Option<T>) -> T {
        let end = Instant::now() + DEADLINE;
        loop {
            if let Some(value) = condition().await {
                return value;
            }
            assert!(Instant::now() < end, "not in time: {what}; the log says: {}", self.log());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    pub async fn until(&self, what: &str, condition: impl Fn() -> bool) {
        self.eventually(what, async || condition().then_some(())).await;
    }
}

/// Whether a process runs (and is not merely waiting to be buried).
pub fn runs(pid: i32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat"))
        .is_ok_and(|stat| stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with('Z')))
}

pub fn signal(pid: i32, signal: nix::sys::signal::Signal) {
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), signal).unwrap();
}

/// The number a script wrote into a file, once it is there.
pub fn number_in(path: &Path) -> Option<i32> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}
