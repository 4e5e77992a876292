//! What a real engine of Docker asks of the volume plugin, in every order that its users and its crashes bring about: a
//! table, and fifty members at once. By `make test-swarm`; every call by itself is in the agent's own tests.
//!
//! `STEADFAST_SCENARIO='text|another'` runs only the rows whose name has one of the texts.
#![cfg(feature = "linux")]
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test ends where something is not as it should be"
)]

mod common;
mod docker;
mod load;
mod machine;
#[path = "../../backends/linux/tests/network/mod.rs"]
mod network;
mod volumes;

use std::fs;
use std::process::{Child, Command, Output, Stdio};
use std::time::Instant;

use common::cluster::has_redis;
use common::{err, expect, out};
use docker::has_docker;
use load::{BY_REDIS, Watch};
use machine::{Lab, folder_of};
use network::{eventually, may_make_networks};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use steadfast_lock::Lock;
use volumes::Act::{
    self, Asks, BothAsk, Copies, Docker, DockerIsRefused, Ends, KillAgent, KillContainer, KillDocker,
    Mounted, Removes, RunIsRefused, Runs, RunsApart, Serves, StartAgent, StartDocker, StartIsRefused, Starts,
    Stops, Told, Unable, Wants, Why,
};
use volumes::{ANOTHERS, ROWS};

/// A row on the machine: a service of its own.
struct Row<'a> {
    lab: &'a mut Lab,
    service: String,
    /// Containers that were made.
    made: Vec<&'static str>,
    /// What nobody waits for yet.
    asked: Option<Child>,
    /// How long the logs were then.
    said: [usize; 2],
    /// Whether there is data to be found again.
    written: bool,
    watch: Watch,
}

impl Row<'_> {
    fn act(&mut self, act: Act) {
        match act {
            Docker(arguments) => {
                let output = self.docker(arguments);
                assert!(output.status.success(), "{output:?}");
            }
            DockerIsRefused(arguments, named) => refused(&self.docker(arguments), named),
            Runs(name) => {
                let output = self.run(name);
                assert!(output.status.success(), "{output:?}");
            }
            RunIsRefused(name, named) => refused(&self.run(name), named),
            Unable(name) => {
                self.made.push(name);
                let output = self.lab.machine().output(self.lab.run_program(&self.service, name, "/no/such"));
                refused(&output, "no such file");
            }
            RunsApart(name) => {
                self.made.push(name);
                let program = format!("{}/steadfast", folder_of(&self.service));
                let output =
                    self.lab.machine().output(self.lab.run_in(&self.service, name, &program, "none"));
                assert!(output.status.success(), "{output:?}");
            }
            Why(text) => {
                let member = format!("{}-0", self.service);
                eventually(text, || out(&self.lab.cli(&["why", &member])).contains(text).then_some(()));
            }
            Starts(name) => drop(self.lab.docker(&["start", name])),
            StartIsRefused(name, named) => {
                let named = named.replace('@', &self.service);
                refused(&self.docker(&["start", name]), &named);
            }
            Stops(name) => drop(self.lab.docker(&["stop", "--time", "60", name])),
            Copies(name) => {
                let from = format!("{name}:{}/guard/spec.json", folder_of(&self.service));
                let to = self.lab.folder.path().join("copied");
                self.lab.docker(&["cp", &from, to.to_str().unwrap()]);
                fs::remove_file(to).unwrap();
            }
            Removes(name) => drop(self.lab.docker(&["rm", "--force", name])),
            Asks(name) => {
                self.said = self.logs().map(|log| log.len());
                self.asked = Some(self.ask(name));
            }
            Ends(well) => {
                let ended = self.asked.take().unwrap().wait_with_output().unwrap();
                assert_eq!(ended.status.success(), well, "{ended:?}");
            }
            BothAsk(one, other) => {
                let both = [self.ask(one), self.ask(other)];
                let both = both.map(|asked| asked.wait_with_output().unwrap());
                let (well, not): (Vec<_>, Vec<_>) = both.iter().partition(|output| output.status.success());
                assert_eq!((well.len(), not.len()), (1, 1), "{both:?}");
                refused(not[0], ANOTHERS);
            }
            KillContainer => {
                for pid in self.lab.processes(&self.service) {
                    // The engine dies with its guard.
                    kill(Pid::from_raw(pid), Signal::SIGKILL).ok();
                }
            }
            KillDocker => self.lab.docker.kill(),
            StartDocker => self.lab.start_docker(),
            KillAgent => self.lab.kill_agent(),
            StartAgent => self.lab.start_agent(),
            Told(text) => eventually(text, || {
                let mut said = self.logs().into_iter().zip(self.said);
                said.any(|(log, before)| log[before..].contains(text)).then_some(())
            }),
            Wants(run) => {
                let verb = if run { "start" } else { "stop" };
                let wait: &[&str] = if run { &[] } else { &["--wait"] };
                expect(&self.lab.cli(&[&[verb, &self.service], wait].concat()), 0);
            }
            Serves => self.serves(),
            Mounted(mounted) => {
                let told = out(&self.docker(&["volume", "inspect", "--format", "{{.Mountpoint}}", "@-0"]));
                let folder = if mounted { folder_of(&self.service) } else { String::new() };
                assert_eq!(told.trim(), folder);
            }
        }
    }

    fn docker(&self, arguments: &[&str]) -> Output {
        let arguments: Vec<String> = arguments.iter().map(|text| text.replace('@', &self.service)).collect();
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        self.lab.docker.run(self.lab.machine(), &arguments)
    }

    fn run(&mut self, name: &'static str) -> Output {
        self.ask(name).wait_with_output().unwrap()
    }

    fn ask(&mut self, name: &'static str) -> Child {
        self.made.push(name);
        begin(self.lab, self.lab.run_member(&self.service, name))
    }

    /// What agent, server and Docker have said.
    fn logs(&self) -> [String; 2] {
        let docker = fs::read_to_string(self.lab.folder.path().join("docker/log")).unwrap();
        [self.lab.log(), docker]
    }

    fn serves(&mut self) {
        eventually("it serves", || self.lab.healthy(&self.service));
        if !self.written {
            eventually("a write", || {
                self.lab.redis(&self.service, &["SET", "colour", "green"]).filter(|told| told == "OK")
            });
            self.written = true;
        }
        eventually("its data is read", || {
            self.lab.redis(&self.service, &["GET", "colour"]).filter(|told| told == "green")
        });
    }

    /// What holds after each of them.
    fn settles(self) {
        let (looks, two) = self.watch.found();
        assert!(two.is_empty(), "two engines had the volume's files open: {two:?}");
        // A row that starts no engine has none to be seen.
        assert!(looks > 0 || !self.written, "nobody was seen writing: the watch looks at something else");
        for name in &self.made {
            // One that was refused before it was made is not there.
            self.docker(&["rm", "--force", name]);
        }
        self.docker(&["volume", "rm", "@-0"]);
        expect(&self.lab.cli(&["delete", &self.service, "--wait"]), 0);
        eventually("nothing is left of it", || {
            let left = !self.lab.processes(&self.service).is_empty()
                || !self.lab.docker.mounts_below("/run/steadfast").is_empty();
            (!left).then_some(())
        });
        assert_eq!(self.lab.docker(&["volume", "ls", "--quiet"]), "");
    }
}

/// Starts a program on the machine; what it prints is kept.
fn begin(lab: &Lab, mut command: Command) -> Child {
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    lab.machine().run(async move { command.spawn().unwrap() })
}

fn refused(output: &Output, named: &str) {
    assert!(!output.status.success() && err(output).contains(named), "{named}: {output:?}");
}

fn is_chosen(name: &str) -> bool {
    let only = std::env::var("STEADFAST_SCENARIO").unwrap_or_default();
    only.split('|').any(|text| name.contains(text))
}

fn create(lab: &Lab, service: &str) {
    expect(&lab.cli(&["create", service, "--blueprint", "redis", "--replicas", "1"]), 0);
    // What was asked for comes about a moment later: until then there is no such member to mount.
    eventually("the member is there", || lab.has_member(service));
}

#[test]
fn whatever_users_and_crashes_make_of_docker_one_container_has_a_member() {
    let test = "whatever_users_and_crashes_make_of_docker_one_container_has_a_member";
    if !may_make_networks(test) || !has_redis(test) || !has_docker(test) {
        return;
    }
    let chosen: Vec<_> = ROWS.iter().filter(|(name, _)| is_chosen(name)).collect();
    if chosen.is_empty() {
        return;
    }
    let mut lab = Lab::new();
    lab.up();
    for (at, (name, acts)) in chosen.into_iter().enumerate() {
        let begun = Instant::now();
        println!("{name}");
        let service = format!("row{at}");
        create(&lab, &service);
        let watch = Watch::over(lab.folder.path().join("data/volumes"), BY_REDIS);
        let mut row = Row {
            lab: &mut lab,
            service,
            made: Vec::new(),
            asked: None,
            said: [0; 2],
            written: false,
            watch,
        };
        for act in *acts {
            println!("  {:>5.1} s  {act:?}", begun.elapsed().as_secs_f64());
            row.act(*act);
        }
        row.settles();
        println!("  {:>5.1} s  settled", begun.elapsed().as_secs_f64());
    }
}

/// How many members there are: one that cannot be mounted, and fifty that are.
const MANY: usize = 51;

#[test]
fn fifty_members_of_a_node_are_mounted_at_once_and_one_that_cannot_be_holds_up_no_other() {
    let test = "fifty_members_of_a_node_are_mounted_at_once_and_one_that_cannot_be_holds_up_no_other";
    if !is_chosen("fifty") || !may_make_networks(test) || !has_redis(test) || !has_docker(test) {
        return;
    }
    let mut lab = Lab::new();
    lab.up();
    let service = |at: usize| format!("many{at}");
    // Somebody else has its volume locked: its claim does not come to an end, and nothing is offered.
    create(&lab, &service(0));
    expect(&lab.cli(&["stop", &service(0), "--wait"]), 0);
    let volumes = fs::read_dir(lab.folder.path().join("data/volumes")).unwrap().flatten();
    let volume = volumes.into_iter().find(|entry| entry.path().join("volume.json").exists()).unwrap();
    let held = Lock::try_exclusive(&volume.path().join("lock")).unwrap().expect("nobody has it");
    expect(&lab.cli(&["start", &service(0)]), 0);
    eventually("its claim is held up", || {
        let blocked = lab.view(&service(0))?["members"][0]["blocked"].to_string();
        blocked.contains("VolumeBusy").then(|| println!("{blocked}"))
    });
    (1..MANY).for_each(|at| create(&lab, &service(at)));
    // What is measured is the mounting, not the making of fifty databases.
    (1..MANY).for_each(|at| {
        eventually("its data is made", || {
            (lab.view(&service(at))?["members"][0]["phase"] == "Prepared").then_some(())
        });
    });
    let begun = Instant::now();
    let asked: Vec<Child> =
        (0..MANY).map(|at| begin(&lab, lab.run_member(&service(at), &service(at)))).collect();
    let ended: Vec<Output> = asked.into_iter().map(|asked| asked.wait_with_output().unwrap()).collect();
    let took = begun.elapsed();
    for (at, output) in ended.iter().enumerate() {
        assert_eq!(output.status.success(), at > 0, "{output:?}");
    }
    refused(&ended[0], "VolumeBusy");
    let log = lab.log();
    let mut waited: Vec<u64> = log.lines().filter_map(waited_ms).collect();
    waited.sort_unstable();
    assert_eq!(waited.len(), MANY - 1);
    let (median, last) = (waited[waited.len() / 2], waited[waited.len() - 1]);
    let p99 = waited[(waited.len() * 99).div_ceil(100) - 1];
    println!(
        "{} members mounted at once, ms from Mount to its answer: p50 {median}, p99 {p99}, maximum {last}",
        waited.len()
    );
    println!(
        "all containers of {MANY} `docker run` at once, the last one's refusal included: {:.1} s",
        took.as_secs_f64()
    );
    (1..MANY).for_each(|at| eventually("it serves", || lab.healthy(&service(at))));

    // It was not harmed by the wait.
    drop(held);
    lab.docker(&["rm", "--force", &service(0)]);
    let output = begin(&lab, lab.run_member(&service(0), &service(0))).wait_with_output().unwrap();
    assert!(output.status.success(), "{output:?}");
    eventually("it serves", || lab.healthy(&service(0)));
}

/// For how long a container has waited for its volume, if this line of the log says so.
fn waited_ms(line: &str) -> Option<u64> {
    let line = line.contains("a container has its volume").then_some(line)?;
    line.split("waited_ms=").nth(1)?.split_whitespace().next()?.parse().ok()
}
