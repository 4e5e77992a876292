//! `scripts/lab`, as a person has it: three machines, a failover, and nothing left of it.
#![cfg(all(feature = "etcd", feature = "linux"))]
#![allow(
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a test ends where something is not as it should be, and says what the machines said"
)]

mod common;
mod docker;
#[path = "../../backends/linux/tests/network/mod.rs"]
mod network;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use common::cluster::has_redis;
use common::{err, expect, for_user, out};
use docker::has_docker;
use network::{eventually, may_make_networks};
use serde_json::Value;

/// One Redis with a volume of a size, which is mounted over a loop device.
const SERVICE: &str = r#"
apiVersion = "steadfast/v1"
name = "cache"
blueprint = "redis"
replicas = 1
[fencing]
minimum = "F1"
accept_lease = true
[[volumes]]
name = "data"
size = "64MiB"
"#;

fn script() -> PathBuf {
    fs::canonicalize(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../scripts/lab")).unwrap()
}

/// A lab of this test.
struct Lab {
    above: tempfile::TempDir,
}

impl Lab {
    fn new() -> Lab {
        let above = tempfile::Builder::new().prefix("sf").tempdir().unwrap();
        fs::set_permissions(above.path(), fs::Permissions::from_mode(0o711)).unwrap();
        Lab { above }
    }

    fn folder(&self) -> PathBuf {
        self.above.path().join("lab")
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = for_user(Command::new(script()), &self.folder());
        command.env("STEADFAST_LAB", self.folder()).env("STEADFAST", env!("CARGO_BIN_EXE_steadfast"));
        command.args(arguments).current_dir(self.above.path()).stdin(Stdio::null());
        command
    }

    fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    /// It does this, and does it again where it has been done.
    fn twice(&self, arguments: &[&str]) {
        for _ in 0..2 {
            expect(&self.run(arguments), 0);
        }
    }

    /// What `status` says of a machine itself.
    fn status(&self, machine: &str) -> Vec<String> {
        let output = self.run(&["status"]);
        expect(&output, 0);
        let told = out(&output);
        let line = told.lines().find(|line| line.split(' ').next() == Some(machine)).unwrap();
        line.split_whitespace().skip(1).take(2).map(str::to_owned).collect()
    }

    fn json(&self, on: &str, arguments: &[&str]) -> Option<Value> {
        let output = self.run(&[&["run", on, "steadfast"], arguments, &["-o", "json"]].concat());
        serde_json::from_slice(&output.stdout).ok()
    }

    /// Where the service's member serves, as `on` sees it.
    fn serving(&self, on: &str) -> Option<String> {
        let view = self.json(on, &["get", "cache"])?;
        let node = view["members"].as_array()?.first()?["node"].as_str()?.to_owned();
        (view["state"] == "Healthy").then_some(node)
    }

    /// The namespaces of what names this lab's folder, held open: the kernel gives the number of one that is gone to
    /// the next that anybody makes.
    fn namespaces(&self) -> BTreeMap<PathBuf, fs::File> {
        let own = namespaces_of(std::process::id()).map(|(number, _)| number).collect::<BTreeSet<_>>();
        let all = self.processes().into_iter().flat_map(namespaces_of);
        let others = all.filter(|(number, _)| !own.contains(number));
        others.map(|(number, file)| (number, fs::File::open(file).unwrap())).collect()
    }

    /// Ends it, and checks that nothing is left of what it was made of.
    fn end(&self, links_before: &str) {
        let namespaces = self.namespaces();
        assert!(namespaces.len() >= 6, "a hub and two machines at least, with two each: {namespaces:?}");
        self.twice(&["down"]);
        assert!(!self.folder().exists());
        let kept = |pid: &u32| namespaces_of(*pid).any(|(number, _)| namespaces.contains_key(&number));
        assert_eq!(all_processes().filter(kept).collect::<Vec<_>>(), Vec::<u32>::new());
        assert_eq!(self.processes(), Vec::<u32>::new());
        let folder = self.folder();
        let named = folder.to_str().unwrap();
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        assert!(!mounts.contains(named), "{mounts}");
        let loops = Command::new("losetup").args(["--list", "--noheadings"]).output().unwrap();
        assert!(!out(&loops).contains(named), "{loops:?}");
        assert_eq!(self.groups(), "", "groups of containers");
        assert_eq!(links(), links_before);
    }

    /// The kernel's groups of this lab's containers.
    fn groups(&self) -> String {
        let pattern = format!("*/lab{}*", self.folder().to_str().unwrap().replace('/', "-"));
        let mut command = Command::new("find");
        // Others' groups come and go meanwhile.
        command.args(["/sys/fs/cgroup", "-type", "d", "-path", &pattern]).stderr(Stdio::null());
        out(&command.output().unwrap())
    }

    fn processes(&self) -> Vec<u32> {
        let folder = self.folder();
        let named = folder.to_str().unwrap();
        let names_it = |pid: &u32| {
            fs::read(format!("/proc/{pid}/cmdline"))
                .is_ok_and(|line| String::from_utf8_lossy(&line).contains(named))
        };
        all_processes().filter(names_it).collect()
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for log in fs::read_dir(self.folder().join("log")).into_iter().flatten().flatten() {
                let text = fs::read_to_string(log.path()).unwrap_or_default();
                let lines: Vec<&str> = text.lines().filter(|line| !line.contains("etcdserver")).collect();
                let last = lines[lines.len().saturating_sub(20)..].join("\n");
                println!("{}:\n{last}", log.path().display());
            }
        }
        self.run(&["down"]);
    }
}

fn all_processes() -> impl Iterator<Item = u32> {
    let entries = fs::read_dir("/proc").unwrap().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

/// The numbers and files of a process's namespaces, of those kinds that keep nothing alive when they are held: a network
/// would keep its cable, and mounts their loop devices. Whatever is on a machine is in all of its namespaces.
fn namespaces_of(pid: u32) -> impl Iterator<Item = (PathBuf, PathBuf)> {
    ["uts", "pid"].into_iter().filter_map(move |kind| {
        let file = PathBuf::from(format!("/proc/{pid}/ns/{kind}"));
        Some((fs::read_link(&file).ok()?, file))
    })
}

/// What of the machine itself a lab could leave behind.
fn links() -> String {
    let output = Command::new("ip").args(["-brief", "link", "show"]).output().unwrap();
    expect(&output, 0);
    out(&output)
}

#[test]
fn a_person_tries_a_failover_in_the_lab_and_nothing_is_left_of_it() {
    let test = "a_person_tries_a_failover_in_the_lab_and_nothing_is_left_of_it";
    if !may_make_networks(test) || !has_redis(test) {
        return;
    }
    let lab = Lab::new();
    let before = links();
    // The first attempt dies half-way. The second finds what is there.
    let mut first =
        lab.command(&["up", "--", "--volume-kind", "ext4"]).stdout(Stdio::null()).spawn().unwrap();
    eventually("a machine runs", || lab.folder().join("log/a-etcd").exists().then_some(()));
    first.kill().unwrap();
    first.wait().unwrap();
    lab.twice(&["up"]);

    fs::write(lab.above.path().join("cache.toml"), SERVICE).unwrap();
    expect(&lab.run(&["run", "a", "steadfast", "apply", "-f", "cache.toml", "--wait"]), 0);
    expect(&lab.run(&["run", "c", "steadfast", "connect", "cache", "--", "SET", "colour", "green"]), 0);
    let on = eventually("it serves", || lab.serving("a"));
    let other = if on == "b" { "c" } else { "b" };

    lab.twice(&["kill", &on]);
    assert_eq!(lab.status(&on), ["dead", "-"]);
    let refused = lab.run(&["run", &on, "true"]);
    expect(&refused, 1);
    assert!(err(&refused).contains("does not run"), "{refused:?}");
    eventually("it serves on another machine", || lab.serving(other).filter(|now| *now != on));
    let read = lab.run(&["run", other, "steadfast", "connect", "cache", "--", "GET", "colour"]);
    expect(&read, 0);
    assert_eq!(out(&read).trim(), "green");
    expect(&lab.run(&["up"]), 0);
    assert_eq!(lab.status(&on), ["running", "joined"]);

    lab.twice(&["cut", &on]);
    assert_eq!(lab.status(&on), ["running", "cut"]);
    lab.twice(&["heal", &on]);
    lab.twice(&["pause", &on]);
    assert_eq!(lab.status(&on), ["paused", "joined"]);
    lab.twice(&["resume", &on]);
    assert_eq!(lab.status(&on), ["running", "joined"]);
    // A command's own words and code come back.
    let echoed = lab.run(&["run", &on, "sh", "-c", "hostname; exit 7"]);
    expect(&echoed, 7);
    assert_eq!(out(&echoed).trim(), on);

    // What stands still ends like any other.
    expect(&lab.run(&["pause", &on]), 0);
    expect(&lab.run(&["kill", &on]), 0);
    assert_eq!(lab.status(&on), ["dead", "-"]);
    expect(&lab.run(&["pause", other]), 0);
    lab.end(&before);
}

#[test]
fn the_lab_is_a_swarm_if_it_is_told_to_be() {
    let test = "the_lab_is_a_swarm_if_it_is_told_to_be";
    if !may_make_networks(test) || !has_redis(test) || !has_docker(test) {
        return;
    }
    let lab = Lab::new();
    let before = links();
    lab.twice(&["up", "--swarm"]);
    fs::write(lab.above.path().join("cache.toml"), SERVICE).unwrap();
    expect(&lab.run(&["run", "a", "steadfast", "apply", "-f", "cache.toml", "--wait"]), 0);
    let services = lab.run(&["run", "b", "docker", "service", "ls", "--format", "{{.Name}} {{.Replicas}}"]);
    assert_eq!(out(&services).trim(), "local_cache-0 1/1", "{services:?}");
    assert!(!lab.groups().is_empty());
    lab.end(&before);
}

#[test]
fn the_lab_says_what_is_wrong_and_what_to_do() {
    if !may_make_networks("the_lab_says_what_is_wrong_and_what_to_do") {
        return;
    }
    let lab = Lab::new();
    let refused = |output: &Output, code: i32, named: &[&str]| {
        expect(output, code);
        let told = err(output);
        assert!(named.iter().all(|text| told.contains(text)), "{named:?}: {told}");
    };
    refused(&lab.run(&["burn"]), 64, &["unknown: burn", "help"]);
    refused(&lab.run(&["kill"]), 64, &["a b c"]);
    refused(&lab.run(&["cut", "d"]), 64, &["d", "a b c"]);
    refused(&lab.run(&["cut", "a"]), 1, &["no lab", "up"]);
    refused(&lab.run(&["status"]), 1, &["no lab", "up"]);
    expect(&lab.run(&["down"]), 0);
    assert!(!lab.folder().exists());

    // What is missing is named with the line that installs it.
    let few = lab.above.path().join("few");
    fs::create_dir(&few).unwrap();
    for program in ["env", "bash", "id"] {
        std::os::unix::fs::symlink(Path::new("/usr/bin").join(program), few.join(program)).unwrap();
    }
    let missing = lab.command(&["up"]).env("PATH", &few).output().unwrap();
    refused(&missing, 1, &["scripts/install-packages etcd netns redis"]);
    let unbuilt = lab.command(&["up"]).env("STEADFAST", few.join("steadfast")).output().unwrap();
    refused(&unbuilt, 1, &["there is no program", "cargo build"]);
    let copy = lab.above.path().join("lab-script");
    fs::copy(script(), &copy).unwrap();
    let mut nobody = Command::new("/usr/bin/bash");
    refused(&nobody.arg(&copy).arg("up").uid(65534).output().unwrap(), 1, &["root", "sudo"]);

    // A folder of somebody else's is neither used nor removed.
    assert!(!lab.folder().exists(), "what was refused has left nothing");
    fs::create_dir(lab.folder()).unwrap();
    fs::write(lab.folder().join("thesis"), "mine").unwrap();
    refused(&lab.run(&["up"]), 1, &["not empty"]);
    expect(&lab.run(&["down"]), 0);
    assert_eq!(fs::read_to_string(lab.folder().join("thesis")).unwrap(), "mine");
}
