//! Everything that goes wrong on a Docker Swarm, one after the other, under a client that writes all the time:
//! `make test-swarm`. After each, what was acknowledged is there, one engine at a time has written to the volume, name
//! and address are the same, and nothing is left of where the member was.
//!
//! `STEADFAST_SCENARIO='text|another'` runs only those whose name has one of the texts.
#![cfg(all(feature = "etcd", feature = "linux", feature = "swarm"))]
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test ends where something is not as it should be"
)]

mod common;
mod docker;
mod lab;
mod load;
#[path = "../../backends/linux/tests/network/mod.rs"]
mod network;
mod scenarios;

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use common::cluster::has_redis;
use common::{err, expect, out};
use docker::{IMAGE, has_docker};
use lab::{COUNT, Lab};
use load::{BY_REDIS, Redis, Watch, Writer, on};
use network::{eventually, may_make_networks};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use scenarios::Act::{
    self, Accept, Activate, BackUp, ConfirmDead, Continue, Cut, Deafen, Drain, Everything, GoesOn, Heal,
    HealBothWays, KillAgent, KillContainer, KillDocker, KillEngine, KillEtcd, KillNode, Moves, Mute,
    NobodyServes, OwnerChanges, PutBack, Refused, Reimage, Restarts, Serves, StartAgent, StartDocker,
    StartEtcd, Stop, Why, WhyAtLast,
};
use scenarios::Whose::{self, EtcdLeaders, Members, MembersNow, Owners, Same, SwarmLeaders};
use scenarios::{OLDER, OLDER_AND_DEAD, Of, SCENARIOS, is_chosen};

/// The lab, its clients, and what is known of the member.
struct Matrix {
    lab: Lab,
    address: String,
    password: String,
    /// One that is never cut off, and one on each machine: the latter writes to a zombie, too.
    writers: Vec<Writer>,
    watch: Watch,
    begun: Beginning,
}

/// How it was when a scenario began.
#[derive(Debug, Clone)]
struct Beginning {
    on: u8,
    swarm_leader: u8,
    etcd_leader: u8,
    owner: u8,
    /// Where it was last seen to serve.
    was_on: u8,
    /// The machine that was named last.
    named: u8,
    processes: BTreeSet<i32>,
    /// Stopped processes.
    stopped: Vec<Pid>,
}

impl Matrix {
    fn new() -> Matrix {
        let mut lab = Lab::on_a_swarm();
        lab.up(&["--swarm-image", &format!("redis={IMAGE}")], &["--volume-plugin"]);
        let (_, address) = lab.create("cache");
        let told = lab.cli(0, &["secret", "get", "cache", "password"]);
        expect(&told, 0);
        let password = out(&told).trim().to_owned();
        let outside = Writer::start(lab.network.outside(), "outside", &address, &password);
        let near =
            (0..COUNT).map(|at| Writer::start(lab.machine(at), &format!("near-{at}"), &address, &password));
        let writers = std::iter::once(outside).chain(near).collect();
        let watch = Watch::over(lab.shared().join("volumes"), BY_REDIS);
        let begun = Beginning {
            on: 0,
            swarm_leader: 0,
            etcd_leader: 0,
            owner: 0,
            was_on: 0,
            named: 0,
            processes: BTreeSet::new(),
            stopped: Vec::new(),
        };
        Matrix { lab, address, password, writers, watch, begun }
    }

    /// Whichever machine answers.
    fn serving(&self) -> Option<u8> {
        (0..COUNT).find_map(|at| self.lab.serving(at, "cache")).map(|(on, _)| on)
    }

    fn begin(&mut self) {
        let on = eventually("it serves", || self.serving());
        self.begun = Beginning {
            on,
            swarm_leader: self.swarm_leader(),
            etcd_leader: self.lab.etcd_leader(),
            owner: self.owner(),
            was_on: on,
            named: on,
            processes: self.lab.processes(on, "cache"),
            stopped: Vec::new(),
        };
    }

    fn swarm_leader(&self) -> u8 {
        eventually("the swarm has a leader", || {
            let format = ["node", "ls", "--format", "{{.Hostname}} {{.ManagerStatus}}"];
            let listed = self.lab.told_by_docker(0, &format)?;
            let leader = listed.lines().find_map(|line| line.strip_suffix(" Leader"))?;
            (0..COUNT).find(|at| leader == format!("node-{at}"))
        })
    }

    /// The machine whose server looks after the service.
    fn owner(&self) -> u8 {
        let shard = steadfast_core::controller::shards::shard_of(&"cache".parse().unwrap());
        eventually("somebody looks after it", || {
            let key = format!("leases/{shard}");
            let dump = self.lab.etcdctl(0, &["get", "--prefix", "lab", "--write-out", "simple"]);
            let mut lines = dump.lines();
            lines.find(|line| line.ends_with(&key))?;
            let lease = lines.next()?.to_owned();
            (0..COUNT).find(|at| lease.contains(&format!("\"server-{at}\"")))
        })
    }

    fn machine_of(&mut self, whose: Whose) -> u8 {
        self.begun.named = match whose {
            Members => self.begun.on,
            MembersNow => self.begun.was_on,
            Same => self.begun.named,
            SwarmLeaders => self.begun.swarm_leader,
            EtcdLeaders => self.begun.etcd_leader,
            Owners => self.begun.owner,
        };
        self.begun.named
    }

    /// How often the client that is never cut off was acknowledged.
    fn acknowledged(&self) -> usize {
        self.writers[0].count()
    }

    fn process(&self, of: Of) -> Pid {
        match of {
            Of::Agent => self.lab.agent_process(self.begun.on),
            Of::Docker => self.lab.engine(self.begun.on).process(),
            Of::Engine | Of::Guard => {
                let engine = |pid: &i32| {
                    let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
                    (name.trim() == "redis-server") == matches!(of, Of::Engine)
                };
                Pid::from_raw(*self.begun.processes.iter().find(|pid| engine(pid)).unwrap())
            }
        }
    }

    fn perform(&mut self, name: &str, acts: &[Act]) {
        let begun = Instant::now();
        self.begin();
        println!("{name}: {:?}", self.begun);
        for act in acts {
            println!("  {:>5.1} s  {act:?}", begun.elapsed().as_secs_f64());
            self.act(*act);
        }
    }

    fn act(&mut self, act: Act) {
        match act {
            KillContainer => {
                let on = self.begun.on;
                self.lab.kill_container(on, "cache-0");
            }
            KillEngine => kill(self.process(Of::Engine), Signal::SIGKILL).unwrap(),
            KillAgent(whose) => {
                let at = self.machine_of(whose);
                self.lab.kill_agent(at);
            }
            StartAgent(whose) => {
                let at = self.machine_of(whose);
                self.lab.start_agent(at);
            }
            KillDocker(whose) => {
                let at = self.machine_of(whose);
                self.lab.kill_docker(at);
            }
            StartDocker(whose) => {
                let at = self.machine_of(whose);
                self.lab.start_docker(at);
            }
            KillEtcd(whose) => {
                let at = self.machine_of(whose);
                self.lab.kill_etcd(at);
            }
            StartEtcd(whose) => {
                let at = self.machine_of(whose);
                self.lab.start_etcd(at);
            }
            Cut(whose) => {
                let at = self.machine_of(whose);
                self.lab.network.cut(at);
            }
            Heal(whose) => {
                let at = self.machine_of(whose);
                self.lab.network.heal(at);
                self.lab.all_ready((at + 1) % COUNT);
            }
            Mute(whose) => {
                let at = self.machine_of(whose);
                self.lab.network.cut_one_way(at, "OUTPUT");
            }
            Deafen(whose) => {
                let at = self.machine_of(whose);
                self.lab.network.cut_one_way(at, "INPUT");
            }
            HealBothWays(whose) => {
                let at = self.machine_of(whose);
                self.lab.network.heal_both_ways(at);
                self.lab.all_ready((at + 1) % COUNT);
            }
            Reimage(whose) => {
                let at = self.machine_of(whose);
                self.lab.reimage(at, "cache-0");
            }
            KillNode(whose) => {
                let at = self.machine_of(whose);
                self.lab.kill_node(at, "cache-0");
            }
            ConfirmDead(whose) => {
                let at = self.machine_of(whose);
                let node = format!("node-{at}");
                eventually("it is silent, and confirmed dead", || {
                    let told = self.lab.cli((at + 1) % COUNT, &["node", "confirm-dead", &node]);
                    told.status.success().then_some(())
                });
            }
            NobodyServes => {
                assert_eq!(self.serving(), None, "nobody serves what may be another's");
                let running: usize = (0..COUNT).map(|at| self.lab.processes(at, "cache").len()).sum();
                assert_eq!(running, 0, "nothing runs over a volume that is another's");
            }
            BackUp => self.lab.back_etcd_up(0),
            PutBack => self.lab.put_etcd_back(),
            Refused => self.refused(),
            Accept => {
                for at in 0..COUNT {
                    self.lab.accept_etcd(at);
                }
            }
            Stop(of) => {
                let process = self.process(of);
                kill(process, Signal::SIGSTOP).unwrap();
                self.begun.stopped.push(process);
            }
            Continue => self.continue_all(),
            Drain(whose) => self.availability(whose, "drain"),
            Activate(whose) => self.availability(whose, "active"),
            Everything => self.everything(),
            Moves => {
                let was_on = self.begun.was_on;
                let now = eventually("it serves on another machine", || {
                    let elsewhere = (0..COUNT).filter(|at| *at != was_on);
                    let told = elsewhere.filter_map(|at| self.lab.serving(at, "cache"));
                    told.map(|(on, _)| on).find(|on| *on != was_on)
                });
                self.begun.was_on = now;
                self.writes();
            }
            Serves => self.writes(),
            GoesOn(long) => self.goes_on(long),
            Restarts => {
                eventually("its engine is another one", || {
                    let on = self.serving()?;
                    let now = self.lab.processes(on, "cache");
                    (now.len() > 1 && now.is_disjoint(&self.begun.processes)).then_some(())
                });
                self.writes();
            }
            Why(said) => {
                let asked = (self.begun.on + 1) % COUNT;
                let why = self.lab.json(asked, &["why", "cache-0"]).unwrap().to_string();
                assert!(why.contains(said), "{said}: {why}");
            }
            WhyAtLast(said) => eventually(said, || {
                // Whichever machine answers.
                let why = (0..COUNT).find_map(|at| self.lab.json(at, &["why", "cache-0"]))?.to_string();
                why.contains(said).then(|| println!("  {why}"))
            }),
            OwnerChanges => {
                let before = self.begun.owner;
                eventually("another server looks after it", || (self.owner() != before).then_some(()));
            }
        }
    }

    fn continue_all(&mut self) {
        for process in self.begun.stopped.drain(..) {
            // What stood still may have been killed.
            kill(process, Signal::SIGCONT).ok();
        }
    }

    fn availability(&mut self, whose: Whose, availability: &str) {
        let node = format!("node-{}", self.machine_of(whose));
        self.lab.docker(0, &["node", "update", "--availability", availability, &node]);
    }

    fn refused(&self) {
        for at in 0..COUNT {
            eventually("its server refuses to go on, and says why", || {
                let said = self.lab.cli(at, &["get", "cache"]);
                let told = format!("{}{}", out(&said), err(&said));
                (!said.status.success() && told.contains("older backup")).then(|| println!("  {told}"))
            });
        }
    }

    fn everything(&mut self) {
        let on = self.begun.on;
        for at in 0..COUNT {
            self.lab.kill_server(at);
            self.lab.kill_agent(at);
            self.lab.kill_docker(at);
            self.lab.kill_etcd(at);
        }
        self.lab.kill_container(on, "cache-0");
        for at in 0..COUNT {
            self.lab.start_etcd(at);
        }
        for at in 0..COUNT {
            self.lab.serve(at, &[]);
            self.lab.start_agent(at);
        }
        for at in 0..COUNT {
            self.lab.start_docker(at);
        }
    }

    /// Waits until a write that was begun from now on is acknowledged.
    fn writes(&self) {
        let before = self.acknowledged();
        eventually("writes are acknowledged", || (self.acknowledged() > before + 10).then_some(()));
    }

    fn goes_on(&self, long: Duration) {
        let begun = Instant::now();
        while begun.elapsed() < long {
            self.writes();
            let now = self.lab.processes(self.begun.on, "cache");
            assert_eq!(now, self.begun.processes, "the same engine goes on");
            std::thread::sleep(Duration::from_secs(1));
        }
    }

    /// What holds after each of them, at last.
    fn settles(&mut self) {
        self.continue_all();
        self.lab.all_ready(0);
        let on = eventually("it serves, as every machine sees it", || {
            let seen: Vec<_> = (0..COUNT).map(|at| self.lab.serving(at, "cache")).collect();
            let first = seen[0].clone()?;
            assert_eq!(first.1, self.address, "its address stays");
            seen.iter().all(|one| one.as_ref() == Some(&first)).then_some(first.0)
        });
        self.writes();
        for at in (0..COUNT).filter(|at| *at != on) {
            eventually("nothing of it is left elsewhere", || {
                let left = self.lab.machine(at).has(&self.address)
                    || !self.lab.processes(at, "cache").is_empty()
                    || !self.lab.engine(at).mounts_below("/run/steadfast").is_empty();
                (!left).then_some(())
            });
        }
        assert!(self.lab.machine(on).has(&self.address));
        eventually("one service, one task that runs", || {
            let format = ["service", "ls", "--format", "{{.Name}} {{.Replicas}}"];
            let services = self.lab.told_by_docker(on, &format)?;
            (services == "local_cache-0 1/1").then_some(())
        });
        eventually("one assignment, one holder", || {
            let keys = self.lab.etcdctl(on, &["get", "--prefix", "lab", "--keys-only"]);
            let tasks: Vec<&str> = keys.lines().filter(|key| key.contains("/tasks/")).collect();
            (tasks.len() == 1 && tasks[0].contains(&format!("node-{on}"))).then_some(())
        });
        assert_eq!(self.lab.loops(), 0);
        let (looks, two) = self.watch.found();
        assert!(looks > 0 && two.is_empty(), "two engines had the volume's files open: {two:?}");
        let (address, password) = (self.address.clone(), self.password.clone());
        let redis = on_outside(&self.lab, move || Redis::connect(&address, &password).unwrap());
        let mut redis = redis;
        for writer in &self.writers {
            let missing = writer.missing(&mut redis).unwrap();
            assert_eq!(missing, Vec::<u64>::new(), "acknowledged, and not there");
        }
    }
}

fn on_outside<T: Send + 'static>(lab: &Lab, job: impl FnOnce() -> T + Send + 'static) -> T {
    on(lab.network.outside(), job).join().unwrap()
}

impl Drop for Matrix {
    fn drop(&mut self) {
        self.continue_all();
    }
}

#[test]
fn every_failure_of_the_matrix_is_survived() {
    let test = "every_failure_of_the_matrix_is_survived";
    if !may_make_networks(test) || !has_redis(test) || !has_docker(test) {
        return;
    }
    let chosen: Vec<_> = SCENARIOS.iter().filter(|(name, _)| is_chosen(name)).collect();
    let alone = [OLDER, OLDER_AND_DEAD];
    assert!(
        !chosen.is_empty() || alone.iter().any(|(name, _)| is_chosen(name)),
        "no scenario has such a name"
    );
    if chosen.is_empty() {
        return;
    }
    let mut matrix = Matrix::new();
    for (name, acts) in chosen {
        let begun = Instant::now();
        matrix.perform(name, acts);
        matrix.settles();
        let counts: Vec<usize> = matrix.writers.iter().map(Writer::count).collect();
        println!("  {:>5.1} s  settled; acknowledged: {counts:?}", begun.elapsed().as_secs_f64());
    }
}

#[test]
fn an_etcd_that_was_put_back_is_refused_and_its_member_comes_back_beside_no_other_writer() {
    let test = "an_etcd_that_was_put_back_is_refused_and_its_member_comes_back_beside_no_other_writer";
    let (name, acts) = OLDER;
    if !is_chosen(name) || !may_make_networks(test) || !has_redis(test) || !has_docker(test) {
        return;
    }
    let mut matrix = Matrix::new();
    matrix.perform(name, acts);
    matrix.settles();
}

#[test]
fn a_volume_of_a_dead_node_that_put_back_records_do_not_know_waits_for_a_persons_word() {
    let test = "a_volume_of_a_dead_node_that_put_back_records_do_not_know_waits_for_a_persons_word";
    let (name, acts) = OLDER_AND_DEAD;
    if !is_chosen(name) || !may_make_networks(test) || !has_redis(test) || !has_docker(test) {
        return;
    }
    let mut matrix = Matrix::new();
    matrix.perform(name, acts);
    let at = matrix.begun.named;
    matrix.lab.start_docker(at);
    matrix.lab.start_agent(at);
    matrix.lab.network.heal(at);
    matrix.settles();
}
