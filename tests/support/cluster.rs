//! A cluster of its own for each test: `steadfast up` in a temporary folder, driven through the command line.
//!
//! Dropping it ends it and asserts that nothing is left of it. If the test has failed it prints what may explain
//! that, and ends it without asking.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::{self, File, Permissions};
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU8, Ordering};

use nix::sys::signal::Signal;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use steadfast_core::control::{ConnectView, EventView, MemberView, NodeView, ServiceView};
use steadfast_core::model::{NodeHealth, Reason, ServiceState};

use super::{dns, process, until};

/// What a cluster is started with.
#[derive(Debug, Clone, Default)]
pub struct Layout {
    pub nodes: u16,
    pub servers: u16,
    /// Changes of the cluster's configuration.
    pub config: Vec<(&'static str, Value)>,
    /// The user and group to run everything as, if this process is root's.
    pub user: Option<(u32, u32)>,
    /// Where the DNS server listens, if that matters.
    pub dns: Option<SocketAddr>,
    /// What `up` finds in its environment.
    pub environment: Vec<(&'static str, PathBuf)>,
    /// Whether it has a copy of the program for itself, which a test may replace.
    pub own_program: bool,
}

/// A running cluster.
#[derive(Debug)]
pub struct Cluster {
    program: PathBuf,
    folder: Option<tempfile::TempDir>,
    data: PathBuf,
    address: Ipv4Addr,
    layout: Layout,
    up: Option<Child>,
    /// What a test has mounted below the folder.
    mounts: Vec<PathBuf>,
    /// The services that were created.
    created: RefCell<BTreeSet<String>>,
}

/// What a command has answered.
#[derive(Debug, Clone)]
pub struct Answer {
    pub code: i32,
    pub out: String,
    pub err: String,
}

#[derive(Deserialize)]
struct Items<T> {
    items: Vec<T>,
}

static CLUSTERS: AtomicU8 = AtomicU8::new(0);

impl Cluster {
    /// Three nodes and one server.
    pub fn start() -> Cluster {
        Cluster::of(Layout { nodes: 3, servers: 1, ..Layout::default() })
    }

    /// A cluster with so many nodes and one server.
    pub fn of_nodes(nodes: u16) -> Cluster {
        Cluster::of(Layout { nodes, servers: 1, ..Layout::default() })
    }

    /// A cluster that is laid out like this.
    pub fn of(layout: Layout) -> Cluster {
        let mut cluster = Cluster::prepare(layout);
        cluster.up();
        cluster
    }

    /// The folder and the addresses of a cluster that does not run yet.
    pub fn prepare(layout: Layout) -> Cluster {
        let folder = tempfile::Builder::new().prefix("st.").tempdir().unwrap();
        // Engines of another user pass through it.
        fs::set_permissions(folder.path(), Permissions::from_mode(0o711)).unwrap();
        let data = folder.path().join("d");
        let mut program = program();
        if let Some((user, group)) = layout.user {
            std::os::unix::fs::chown(folder.path(), Some(user), Some(group)).unwrap();
        }
        // Where it is built may be closed to other users.
        if layout.user.is_some() || layout.own_program {
            let copy = folder.path().join("steadfast");
            fs::copy(&program, &copy).unwrap();
            program = copy;
        }
        // An address that no other test has: processes have different numbers, clusters of one process, too.
        let pid = std::process::id().to_be_bytes();
        let number = CLUSTERS.fetch_add(1, Ordering::Relaxed) % 48;
        let address = Ipv4Addr::new(127, 200 + number, pid[2], pid[3].clamp(1, 254));
        Cluster {
            program,
            folder: Some(folder),
            data,
            address,
            layout,
            up: None,
            mounts: Vec::new(),
            created: RefCell::default(),
        }
    }

    /// Starts `steadfast up`, and waits until every node that shall live is ready.
    pub fn up(&mut self) {
        self.start_up();
        self.is_up();
    }

    /// Starts `steadfast up` without waiting for anything.
    pub fn start_up(&mut self) {
        assert!(self.up.is_none(), "it is up");
        let log = File::options().create(true).append(true).open(self.data.with_extension("log")).unwrap();
        let mut command = self.command(["up"]);
        command
            .args(["--nodes", &self.layout.nodes.to_string()])
            .args(["--servers", &self.layout.servers.to_string()])
            .args(["--dns", &self.dns().to_string()])
            .envs(self.layout.environment.iter().cloned())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .process_group(0);
        self.up = Some(command.spawn().unwrap());
        if !self.layout.config.is_empty() {
            self.configure();
        }
    }

    /// Waits until every node that shall live is ready.
    pub fn is_up(&self) {
        let wanted = (1..=self.layout.nodes).map(|number| format!("node-{number}"));
        let wanted: BTreeSet<String> =
            wanted.filter(|node| !self.data.join("nodes").join(node).join("down").exists()).collect();
        until("every node is ready", || {
            let nodes = self.try_json::<Items<NodeView>>(&["node", "list"])?.items;
            let ready = nodes.iter().filter(|node| node.health == NodeHealth::Ready);
            let ready: BTreeSet<String> = ready.map(|node| node.name.to_string()).collect();
            let missing: Vec<&String> = wanted.difference(&ready).collect();
            if missing.is_empty() { Ok(()) } else { Err(format!("{missing:?}")) }
        });
    }

    /// Writes changes of the configuration into the folder's own, which the first start has made.
    fn configure(&mut self) {
        let file = self.data.join("cluster.json");
        until(
            "the configuration is written",
            || {
                if file.exists() { Ok(()) } else { Err("not yet".to_owned()) }
            },
        );
        self.down();
        let mut config: Value = serde_json::from_str(&fs::read_to_string(&file).unwrap()).unwrap();
        for (key, value) in std::mem::take(&mut self.layout.config) {
            config[key] = value;
        }
        fs::write(&file, config.to_string()).unwrap();
        self.start_up();
    }

    /// Puts another build of the program into the place of the cluster's own, as a package's upgrade does.
    pub fn upgrade_program(&self) {
        assert!(self.layout.own_program, "others run this program, too");
        let mut build = fs::read(&self.program).unwrap();
        // What follows the end of a program is no part of what it does.
        build.extend_from_slice(b"another build");
        let new = self.program.with_extension("new");
        fs::write(&new, build).unwrap();
        fs::set_permissions(&new, Permissions::from_mode(0o755)).unwrap();
        fs::rename(&new, &self.program).unwrap();
    }

    /// Whether a process runs the program that lies in its place now.
    pub fn runs_this_program(&self, pid: i32) -> bool {
        let its = fs::metadata(format!("/proc/{pid}/exe")).unwrap();
        let ours = fs::metadata(&self.program).unwrap();
        (its.dev(), its.ino()) == (ours.dev(), ours.ino())
    }

    /// Ends `steadfast up` in order.
    pub fn down(&mut self) {
        let answer = self.run(["down"]);
        assert_eq!(answer.code, 0, "{answer:?}");
        if let Some(mut up) = self.up.take() {
            let status = up.wait().unwrap();
            assert!(status.success(), "`up` ended with {status}");
        }
    }

    /// Kills (SIGKILL) everything at once: `up`, servers, agents, guards, engines.
    pub fn kill_everything(&mut self) {
        self.kill_rounds();
    }

    fn kill_rounds(&mut self) {
        if let Some(mut up) = self.up.take() {
            up.kill().unwrap();
            up.wait().unwrap();
        }
        until("everything is dead", || {
            let left = process::using(&self.data);
            for pid in left.keys() {
                // It may have ended meanwhile.
                nix::sys::signal::kill(nix::unistd::Pid::from_raw(*pid), Signal::SIGKILL).ok();
            }
            if left.is_empty() { Ok(()) } else { Err(format!("{left:?}")) }
        });
    }

    /// Takes note of something mounted below the folder, to be unmounted at the end.
    pub fn mounted(&mut self, path: PathBuf) {
        self.mounts.push(path);
    }

    /// The process of `up`.
    pub fn up_pid(&self) -> i32 {
        self.up.as_ref().and_then(|up| i32::try_from(up.id()).ok()).unwrap_or_else(|| panic!("it is not up"))
    }

    /// Takes note that `up` has been killed.
    pub fn bury_up(&mut self) {
        if let Some(mut up) = self.up.take() {
            up.wait().unwrap();
        }
    }

    /// The data folder.
    pub fn data(&self) -> &Path {
        &self.data
    }

    /// Where the DNS server listens.
    pub fn dns(&self) -> SocketAddr {
        self.layout.dns.unwrap_or(SocketAddr::from((self.address, 5353)))
    }

    /// A program that is run as the cluster's user.
    pub fn as_user(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(program);
        if let Some((user, group)) = self.layout.user {
            command.uid(user).gid(group).current_dir("/").env("HOME", self.data.parent().unwrap());
        }
        command
    }

    /// The command line of this cluster.
    pub fn command<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> Command {
        let mut command = self.as_user(&self.program);
        // What the user who runs the tests has set is not meant for them.
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("STEADFAST_") {
                command.env_remove(name);
            }
        }
        command.arg("--data").arg(&self.data).args(arguments).stdin(Stdio::null());
        command
    }

    /// Runs a command to its end.
    pub fn run<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> Answer {
        let output = self.command(arguments).output().unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        Answer {
            code: output.status.code().unwrap_or(-1),
            out: text(output.stdout),
            err: text(output.stderr),
        }
    }

    /// Runs a command that must succeed, and gives what it prints.
    pub fn ok<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> String {
        let answer = self.run(arguments);
        assert_eq!(answer.code, 0, "{answer:?}");
        answer.out
    }

    /// Runs a command with `-o json`, which may fail.
    pub fn try_json<T: DeserializeOwned>(&self, arguments: &[&str]) -> Result<T, String> {
        let answer = self.run(["-o", "json"].iter().chain(arguments));
        if answer.code != 0 {
            return Err(format!("{arguments:?}: {answer:?}"));
        }
        serde_json::from_str(&answer.out).map_err(|error| format!("{arguments:?}: {error}: {}", answer.out))
    }

    fn json<T: DeserializeOwned>(&self, arguments: &[&str]) -> T {
        until(&format!("{arguments:?} is answered"), || self.try_json(arguments))
    }

    /// A service.
    pub fn service(&self, name: &str) -> ServiceView {
        self.json(&["get", name])
    }

    /// A member.
    pub fn member(&self, service: &str, member: &str) -> MemberView {
        let view = self.service(service);
        view.members.into_iter().find(|view| view.name.as_str() == member).unwrap()
    }

    /// The primary; where the engine leads itself, the first member.
    pub fn leader(&self, service: &str) -> MemberView {
        let view = self.service(service);
        let primary = view.primary.clone().unwrap_or_else(|| view.members[0].name.clone());
        view.members.into_iter().find(|view| view.name == primary).unwrap()
    }

    /// A node.
    pub fn node(&self, name: &str) -> NodeView {
        let nodes: Items<NodeView> = self.json(&["node", "list"]);
        nodes.items.into_iter().find(|node| node.name.as_str() == name).unwrap()
    }

    /// How to reach a service.
    pub fn connect(&self, service: &str) -> ConnectView {
        self.json(&["connect", service, "--uri"])
    }

    /// What has happened to a service, oldest first.
    pub fn events(&self, service: &str) -> Vec<EventView> {
        self.json::<Items<EventView>>(&["events", service, "--limit", "500"]).items
    }

    /// How often something has happened to a service.
    pub fn count_events(&self, service: &str, reason: &Reason) -> usize {
        self.events(service).iter().filter(|view| view.event.reason == *reason).count()
    }

    /// Creates a service, and waits until it is healthy.
    pub fn create(&self, name: &str, blueprint: &str, arguments: &[&str]) -> ServiceView {
        let create = ["create", name, "--blueprint", blueprint, "--wait", "--timeout", "3m"];
        self.created.borrow_mut().insert(name.to_owned());
        self.ok(create.iter().chain(arguments));
        until(&format!("{name} is healthy"), || {
            let view = self.service(name);
            if view.state == ServiceState::Healthy { Ok(view) } else { Err(format!("{:?}", view.state)) }
        })
    }

    /// What may explain why a test has failed.
    fn explain(&self) {
        eprintln!("======== {}", self.data.display());
        for arguments in [&["node", "list", "-o", "wide"][..], &["op", "list"]] {
            eprintln!("-------- {arguments:?}\n{}", self.run(arguments).out);
        }
        let listed: Result<Items<ServiceView>, String> = self.try_json(&["list"]);
        for view in listed.map(|list| list.items).unwrap_or_default() {
            let name = view.name.as_str();
            for arguments in [&["describe", name][..], &["describe", name, "-o", "json"], &["events", name]] {
                eprintln!("-------- {arguments:?}\n{}", self.run(arguments).out);
            }
        }
        eprintln!("-------- processes\n{:#?}", process::using(&self.data));
        let mut logs = vec![self.data.with_extension("log")];
        let below = |folder: &str| fs::read_dir(self.data.join(folder)).into_iter().flatten().flatten();
        logs.extend(below("servers").chain(below("nodes")).map(|entry| entry.path().join("log")));
        logs.extend(below("logs").map(|entry| entry.path().join("current.log")));
        for node in below("nodes") {
            let guards = fs::read_dir(node.path().join("guards")).into_iter().flatten().flatten();
            for guard in guards {
                logs.extend(["exit.json", "guard.err"].map(|name| guard.path().join(name)));
            }
        }
        for log in logs {
            let bytes = fs::read(&log).unwrap_or_default();
            let text = String::from_utf8_lossy(&bytes);
            let lines: Vec<&str> = text.lines().collect();
            eprintln!("-------- {}\n{}", log.display(), lines[lines.len().saturating_sub(60)..].join("\n"));
        }
    }

    /// Ends it in order, and says what is left of it.
    fn end(&mut self) -> Vec<String> {
        let mut left = Vec::new();
        // Deleted ones too: their volumes are kept.
        let created = self.created.take();
        let services = created.iter().map(|name| self.try_json::<ServiceView>(&["get", name]));
        let known: BTreeSet<String> = services
            .map(Result::unwrap)
            .flat_map(|view| view.volumes)
            .map(|volume| volume.to_string())
            .collect();
        let found: BTreeSet<String> = fs::read_dir(self.data.join("volumes"))
            .into_iter()
            .flatten()
            .flatten()
            .filter_map(|entry| entry.file_name().into_string().ok())
            .filter(|name| !name.starts_with('.'))
            .collect();
        if known != found {
            left.push(format!("volumes: the records say {known:?}, the disk has {found:?}"));
        }
        self.down();
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
        loop {
            let processes = process::using(&self.data);
            if processes.is_empty() {
                break;
            }
            if std::time::Instant::now() > deadline {
                left.push(format!("processes: {processes:?}"));
                break;
            }
            std::thread::sleep(super::POLL);
        }
        left
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        let failed = std::thread::panicking();
        if failed {
            self.explain();
        }
        let left = if failed || self.up.is_none() { Vec::new() } else { self.end() };
        self.kill_rounds();
        for mounted in self.mounts.drain(..) {
            let gone = nix::mount::umount2(&mounted, nix::mount::MntFlags::MNT_DETACH);
            assert!(failed || gone.is_ok(), "unmount {}: {gone:?}", mounted.display());
        }
        if let Some(folder) = self.folder.take() {
            if failed && std::env::var_os("KEEP").is_some() {
                eprintln!("kept: {}", folder.keep().display());
            } else {
                let closed = folder.close();
                assert!(failed || closed.is_ok(), "{closed:?}");
            }
        }
        assert!(left.is_empty(), "something is left: {left:#?}");
    }
}

/// A range of loopback addresses with a prefix of this length, and no other test's.
pub fn range(prefix: u8) -> String {
    let pid = std::process::id().to_be_bytes();
    format!("127.{}.{}.{}/{prefix}", 194 + pid[1] % 6, pid[2], (pid[3] & 0b1111_1100).clamp(4, 248))
}

/// The program under test: `STEADFAST_BIN`, or the one beside the tests' own folder.
fn program() -> PathBuf {
    let program = match std::env::var_os("STEADFAST_BIN") {
        Some(path) => PathBuf::from(path),
        None => std::env::current_exe().unwrap().ancestors().nth(2).unwrap().join("steadfast"),
    };
    assert!(
        program.is_file(),
        "{} is not there: build it with `cargo build -p steadfast`, or name another in STEADFAST_BIN",
        program.display()
    );
    program
}

/// The address that a name stands for, as the cluster's DNS server says.
pub fn address_of(cluster: &Cluster, name: &str) -> Result<std::net::IpAddr, String> {
    match dns::addresses(cluster.dns(), name)?.as_slice() {
        [one] => Ok(*one),
        others => Err(format!("{name} stands for {others:?}")),
    }
}
