//! A member with its real engine, on a loopback address of its own.

#![allow(dead_code, reason = "each test file uses its own part")]

use std::collections::BTreeMap;
use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use serde_json::Value;
use steadfast_catalog::{Catalog, Definition, EngineHost};
use steadfast_core::Environment;
use steadfast_core::engine::{Engine, EngineContext, EngineView, Peer, WantedRole};
use steadfast_core::ids::{Epoch, GroupName, MemberName, ServiceName};
use steadfast_core::model::Durability;
use tokio::process::{Child, Command};

/// How long anything may take before a test fails.
pub(crate) const DEADLINE: Duration = Duration::from_secs(60);

/// A secret that breaks careless quoting.
pub(crate) const PASSWORD: &str = "it's \"a\" $pa\\ss; word: #1";

/// A group of members, each with a folder, an address and an engine of its own.
pub(crate) struct World {
    pub(crate) definition: Definition,
    pub(crate) folder: tempfile::TempDir,
    pub(crate) peers: Vec<Peer>,
    pub(crate) durability: Durability,
    pub(crate) options: BTreeMap<String, Value>,
    pub(crate) user: Option<(u32, u32)>,
}

impl World {
    pub(crate) fn new(blueprint: &str, replicas: u32, durability: Durability) -> Self {
        let definition = Catalog::embedded().get(blueprint).unwrap().clone();
        Self::of(definition, replicas, durability)
    }

    pub(crate) fn of(definition: Definition, replicas: u32, durability: Durability) -> Self {
        let folder = tempfile::tempdir().unwrap();
        // Engines that refuse root run as nobody, who must be able to get here.
        let user = nix::unistd::geteuid().is_root().then_some((65534, 65534));
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let peers = (0..replicas)
            .map(|ordinal| {
                let name: MemberName = format!("orders-{ordinal}").parse().unwrap();
                let host = format!("{name}.test.steadfast.internal");
                Peer { name, ordinal, host, address: Some(IpAddr::V4(own_address())) }
            })
            .collect();
        World { definition, folder, peers, durability, options: BTreeMap::new(), user }
    }

    /// The member of this ordinal, with empty folders.
    pub(crate) fn member(&self, ordinal: usize) -> Running {
        let peer = self.peers[ordinal].clone();
        let home = self.folder.path().join(peer.name.as_str());
        let (volume, run_dir) = (home.join("data"), home.join("run"));
        for folder in [&home, &volume, &run_dir] {
            fs::create_dir_all(folder).unwrap();
            if let Some((uid, gid)) = self.user {
                chown(folder, Some(uid), Some(gid)).unwrap();
            }
        }
        let format = self.definition.format();
        let service: ServiceName = "orders".parse().unwrap();
        let context = EngineContext {
            cluster: "test".parse().unwrap(),
            service,
            group: GroupName::main(),
            member: peer,
            peers: self.peers.clone(),
            node: "node-1".parse().unwrap(),
            zone: "zone-a".parse().unwrap(),
            epoch: Epoch(1),
            learner: false,
            durability: self.durability,
            options: self.options.clone(),
            ports: format.ports.iter().map(|port| (port.name.clone(), port.port)).collect(),
            volumes: format.volumes.iter().map(|claim| (claim.name.clone(), volume.clone())).collect(),
            run_dir: run_dir.clone(),
            secrets: format.secrets.iter().map(|name| (name.clone(), format!("{name} {PASSWORD}"))).collect(),
        };
        let mut host = EngineHost::new(Environment::system([7; 32]));
        host.user = self.user;
        let engine = self.definition.engine(context.clone(), host.clone());
        Running { definition: self.definition.clone(), context, host, engine, home, child: None }
    }
}

/// An address of 127/8 that no other test uses at the same time.
pub(crate) fn own_address() -> Ipv4Addr {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let number = std::process::id().wrapping_mul(32).wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed));
    let [_, b, c, d] = number.to_be_bytes();
    Ipv4Addr::new(127, 128 | b, c, d)
}

/// A member and, while it runs, its engine.
pub(crate) struct Running {
    pub(crate) definition: Definition,
    pub(crate) context: EngineContext,
    pub(crate) host: EngineHost,
    pub(crate) engine: Arc<dyn Engine>,
    pub(crate) home: PathBuf,
    child: Option<Child>,
}

impl Running {
    /// What Redis' own client says, run against this member with one of its secrets.
    pub(crate) async fn redis_cli(&self, secret: &str, arguments: &[&str]) -> String {
        let output = Command::new("redis-cli")
            .args(["-h", &self.address(), "-p", "6379"])
            .args(arguments)
            .env("REDISCLI_AUTH", &self.context.secrets[secret])
            .output()
            .await
            .unwrap();
        let text = [output.stdout, output.stderr].concat();
        String::from_utf8_lossy(&text).trim().to_owned()
    }

    pub(crate) fn peer(&self) -> Peer {
        self.context.member.clone()
    }

    pub(crate) fn address(&self) -> String {
        self.context.member.address.unwrap().to_string()
    }

    pub(crate) fn data(&self) -> PathBuf {
        self.context.volumes.values().next().unwrap().clone()
    }

    /// Starts the engine as an agent does: data brought into line, configuration written, then the program.
    pub(crate) async fn start(&mut self, wanted: &WantedRole) -> Vec<String> {
        let remarks = self.engine.reconcile_data(wanted).await.unwrap();
        self.launch().await;
        remarks.into_iter().map(|(reason, text)| format!("{reason}: {text}")).collect()
    }

    pub(crate) async fn launch(&mut self) {
        self.spawn();
        self.until("the engine answers", |view| view.alive).await;
    }

    pub(crate) fn spawn(&mut self) {
        for file in self.engine.config().unwrap() {
            fs::write(&file.path, &file.content).unwrap();
            fs::set_permissions(&file.path, fs::Permissions::from_mode(file.mode)).unwrap();
            if let Some((uid, gid)) = self.host.user {
                chown(&file.path, Some(uid), Some(gid)).unwrap();
            }
        }
        let start = self.engine.start_command().unwrap();
        let log = fs::OpenOptions::new().create(true).append(true).open(self.home.join("log")).unwrap();
        let mut command = Command::new(&start.argv[0]);
        command
            .args(&start.argv[1..])
            .env_clear()
            .env("PATH", "/usr/bin:/bin")
            .envs(&start.env)
            .current_dir(start.cwd.as_deref().unwrap_or(Path::new("/")))
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .kill_on_drop(true);
        if let Some((uid, gid)) = self.host.user {
            command.uid(uid).gid(gid);
        }
        self.child = Some(command.spawn().unwrap());
    }

    /// Kills the engine's main process outright, and waits until what that had started is gone as well: as a guard, which
    /// starts no engine beside the rest of an earlier one.
    pub(crate) async fn kill(&mut self) {
        let mut child = self.child.take().unwrap();
        child.kill().await.unwrap();
        let begun = std::time::Instant::now();
        while self.has_processes() {
            assert!(begun.elapsed() < DEADLINE, "something of the engine outlives it");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Whether a process has the engine's log open: all of its processes do.
    fn has_processes(&self) -> bool {
        let log = self.home.join("log");
        let processes = fs::read_dir("/proc").unwrap().flatten();
        // One that ends meanwhile has nothing open.
        let open = processes.filter_map(|process| fs::read_dir(process.path().join("fd")).ok());
        open.flatten().flatten().any(|file| fs::read_link(file.path()).is_ok_and(|path| path == log))
    }

    /// Stops the engine in order.
    pub(crate) async fn stop(&mut self) {
        let mut child = self.child.take().unwrap();
        let pid = nix::unistd::Pid::from_raw(i32::try_from(child.id().unwrap()).unwrap());
        let signal = match self.engine.stop().0 {
            steadfast_core::engine::StopSignal::Term => nix::sys::signal::Signal::SIGTERM,
            steadfast_core::engine::StopSignal::Int => nix::sys::signal::Signal::SIGINT,
            steadfast_core::engine::StopSignal::Quit => nix::sys::signal::Signal::SIGQUIT,
        };
        nix::sys::signal::kill(pid, signal).unwrap();
        let status = tokio::time::timeout(DEADLINE, child.wait()).await.expect("stopped in time").unwrap();
        assert!(status.success() || status.code() == Some(143), "{status}\n{}", self.log());
    }

    pub(crate) async fn until(&self, what: &str, holds: impl Fn(&EngineView) -> bool) -> EngineView {
        let begun = std::time::Instant::now();
        loop {
            let view = self.engine.observe().await;
            if holds(&view) {
                return view;
            }
            assert!(
                begun.elapsed() < DEADLINE,
                "{}: {what} does not come true: {view:?}\n{}",
                self.context.member.name,
                self.log()
            );
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Asks for a role until it is reached: an agent does the same.
    pub(crate) async fn assume(&self, wanted: &WantedRole) {
        let begun = std::time::Instant::now();
        while let Err(error) = self.engine.assume(wanted).await {
            assert!(begun.elapsed() < DEADLINE, "{error}\n{}", self.log());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.home.join("log")).unwrap_or_default()
    }
}

/// Repeats until it gives something.
pub(crate) async fn eventually<T, F: Future<Output = Option<T>>>(what: &str, attempt: impl Fn() -> F) -> T {
    let begun = std::time::Instant::now();
    loop {
        if let Some(value) = attempt().await {
            return value;
        }
        assert!(begun.elapsed() < DEADLINE, "{what} does not come true");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
