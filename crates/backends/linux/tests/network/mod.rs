//! Machines on one network: a network namespace each, joined by a bridge in one more. Namespaces live with the threads
//! and processes in them, so nothing is left however a test ends.
#![allow(
    dead_code,
    unreachable_pub,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "test support: each test file uses its part, and a failure is a panic"
)]

use std::future::Future;
use std::net::Ipv4Addr;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use futures::future::BoxFuture;
use nix::sched::{CloneFlags, unshare};
use nix::unistd::gettid;
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};

/// How long anything may take before a test fails. Conditions are polled, so this is not waited for.
const DEADLINE: Duration = Duration::from_secs(180);

/// Whether this user may make namespaces; says so if the test is left out for want of that.
pub fn may_make_networks(test: &str) -> bool {
    let root = nix::unistd::geteuid().is_root();
    if !root {
        assert!(std::env::var_os("CI").is_none(), "{test} needs root");
        println!("left out: {test}: only root makes network namespaces");
    }
    root
}

/// Machines `eth0` of which are on one network, 10.77.0.0/16.
pub struct Network {
    hub: Machine,
    pub machines: Vec<Machine>,
}

impl Network {
    /// So many machines; the first has 10.77.0.1.
    pub fn of(count: u8) -> Network {
        let hub = Machine::start();
        hub.ip("link add bridge type bridge");
        hub.ip("link set bridge up");
        let machines = (0..count).map(|at| {
            let machine = Machine::start();
            hub.ip(&format!("link add port{at} type veth peer name eth0 netns {}", machine.thread));
            hub.ip(&format!("link set port{at} master bridge up"));
            machine.ip(&format!("address add {}/16 dev eth0", Network::address(at)));
            machine.ip("link set eth0 up");
            machine.ip("link set lo up");
            machine
        });
        let machines = machines.collect();
        Network { hub, machines }
    }

    /// A machine's own address.
    pub fn address(at: u8) -> Ipv4Addr {
        Ipv4Addr::new(10, 77, 0, at + 1)
    }

    /// One more machine on the network, which is never cut off: 10.77.1.1.
    pub fn outside(&self) -> &Machine {
        if !self.hub.ip("-o -4 address show dev bridge").contains(" 10.77.1.1/") {
            self.hub.ip("address add 10.77.1.1/16 dev bridge");
            self.hub.ip("link set lo up");
        }
        &self.hub
    }

    /// Cuts a machine off from the others.
    pub fn cut(&self, at: u8) {
        self.hub.ip(&format!("link set port{at} down"));
    }

    /// Joins it again.
    pub fn heal(&self, at: u8) {
        self.hub.ip(&format!("link set port{at} up"));
    }

    /// Cuts a machine off in one direction: nothing that the others send it arrives (`INPUT`), or nothing that it sends
    /// leaves it (`OUTPUT`). Questions for its addresses (ARP) are answered all the same.
    pub fn cut_one_way(&self, at: u8, chain: &str) {
        let interface = if chain == "INPUT" { "-i" } else { "-o" };
        self.machines[usize::from(at)].iptables(&["-A", chain, interface, "eth0", "-j", "DROP"]);
    }

    /// Joins a machine again that was cut off in one direction.
    pub fn heal_both_ways(&self, at: u8) {
        for chain in ["INPUT", "OUTPUT"] {
            self.machines[usize::from(at)].iptables(&["-F", chain]);
        }
    }
}

/// A namespace, and the thread that runs in it.
pub struct Machine {
    jobs: UnboundedSender<BoxFuture<'static, ()>>,
    /// By which the kernel finds the namespace.
    pub thread: i32,
}

impl Machine {
    fn start() -> Machine {
        let (jobs, mut next) = unbounded_channel::<BoxFuture<'static, ()>>();
        let (tell, told) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
            tell.send(gettid().as_raw()).unwrap();
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            // What a job has spawned runs on between jobs.
            runtime.block_on(async {
                while let Some(job) = next.recv().await {
                    job.await;
                }
            });
        });
        Machine { jobs, thread: told.recv().unwrap() }
    }

    /// Runs something on the machine.
    pub fn run<T: Send + 'static>(&self, job: impl Future<Output = T> + Send + 'static) -> T {
        let (tell, told) = std::sync::mpsc::channel();
        self.jobs.send(Box::pin(async move { tell.send(job.await).unwrap() })).unwrap();
        told.recv().expect("the job ended")
    }

    /// Runs a program on the machine, to its end.
    pub fn output(&self, mut command: Command) -> Output {
        self.run(async move { command.output().unwrap() })
    }

    /// Runs `ip`, which must succeed; gives what it printed.
    pub fn ip(&self, arguments: &str) -> String {
        let mut command = Command::new("ip");
        command.args(arguments.split_whitespace());
        let output = self.output(command);
        assert!(output.status.success(), "ip {arguments}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// Runs `iptables`, which must succeed.
    fn iptables(&self, arguments: &[&str]) {
        let mut command = Command::new("iptables");
        command.arg("--wait").args(arguments);
        let output = self.output(command);
        assert!(output.status.success(), "iptables {arguments:?}: {output:?}");
    }

    /// The link of `eth0`.
    pub fn link(&self) -> String {
        let shown = self.ip("-o link show dev eth0");
        let (_, rest) = shown.split_once("link/ether ").unwrap();
        rest.split_whitespace().next().unwrap().to_owned()
    }

    /// Whether the address is on `eth0`.
    pub fn has(&self, address: impl ToString) -> bool {
        let address = format!(" {}/", address.to_string());
        self.ip("-o -4 address show dev eth0").contains(&address)
    }

    /// The link that this machine takes a neighbour's address to be at.
    pub fn neighbour(&self, address: impl ToString) -> Option<String> {
        let shown = self.ip(&format!("neighbour show {} dev eth0", address.to_string()));
        let (_, rest) = shown.split_once("lladdr ")?;
        rest.split_whitespace().next().map(str::to_owned)
    }
}

/// Waits for something with a generous deadline.
pub fn eventually<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(begun.elapsed() < DEADLINE, "{what}: not after {DEADLINE:?}");
        std::thread::sleep(Duration::from_millis(50));
    }
}
