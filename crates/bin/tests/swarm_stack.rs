//! The servers themselves as a stack of the swarm, by the file that is in `packaging/swarm`: `make test-swarm`.
#![cfg(all(feature = "etcd", feature = "linux", feature = "swarm"))]
#![allow(clippy::unwrap_used, reason = "a test ends where something is not as it should be")]

mod common;
mod docker;
mod lab;
#[path = "../../backends/linux/tests/network/mod.rs"]
mod network;

use std::fs;
use std::path::Path;

use common::cluster::has_redis;
use common::expect;
use docker::{IMAGE, has_docker};
use lab::{COUNT, Lab};
use network::{eventually, may_make_networks};

const STACK: &str = "steadfast";
const SERVER: &str = "steadfast_server";
/// Where the machines of this test have the folder that a real one has in `/var/lib/steadfast`.
const DATA: &str = "/run/data";

/// The stack's file, with what is elsewhere on these machines: the program, the data folder, and the shared one.
fn stack_file(lab: &Lab) -> String {
    let kept = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../packaging/swarm/control-plane.yml");
    let mut text = fs::read_to_string(kept).unwrap();
    for (theirs, ours) in [
        ("/usr/local/bin/steadfast", env!("CARGO_BIN_EXE_steadfast")),
        ("source: /var/lib/steadfast", &format!("source: {DATA}")),
        ("/srv/steadfast", lab.shared().to_str().unwrap()),
    ] {
        assert!(text.contains(theirs), "{theirs} is not in the stack's file any more");
        text = text.replace(theirs, ours);
    }
    let file = lab.folder.path().join("stack.yml");
    fs::write(&file, text).unwrap();
    file.to_str().unwrap().to_owned()
}

/// The containers of the servers on a machine.
fn servers(lab: &Lab, at: u8) -> Option<Vec<String>> {
    let label = format!("label=com.docker.swarm.service.name={SERVER}");
    let ids = lab.told_by_docker(at, &["ps", "--quiet", "--filter", &label])?;
    Some(ids.lines().map(str::to_owned).collect())
}

/// Waits until each machine has one server, which is none of these, and answers there.
fn one_on_each(lab: &Lab, none_of: &[String]) {
    for at in 0..COUNT {
        eventually("a server of the stack is on the machine", || {
            let found = servers(lab, at)?;
            (found.len() == 1 && !none_of.contains(&found[0])).then_some(())
        });
        eventually("it answers there", || lab.json(at, &["list"]));
    }
}

#[test]
fn servers_that_the_swarm_runs_itself_come_back_and_are_replaced_without_touching_a_member() {
    let test = "servers_that_the_swarm_runs_itself_come_back_and_are_replaced_without_touching_a_member";
    if !may_make_networks(test) || !has_redis(test) || !has_docker(test) {
        return;
    }
    let mut lab = Lab::on_a_swarm();
    // The first servers write what a cluster is, and end.
    lab.up(&["--swarm-image", &format!("redis={IMAGE}")], &["--volume-plugin"]);
    for at in 0..COUNT {
        lab.kill_server(at);
        let mut mount = lab.engine(at).command("sh");
        let script = format!("mkdir -p {DATA} && mount --bind {} {DATA}", lab.data(at).display());
        mount.args(["-euc", &script]);
        expect(&lab.machine(at).output(mount), 0);
        let what = format!("{} sh", env!("CARGO_BIN_EXE_steadfast"));
        lab.engine(at).make_image_of(lab.machine(at), &what, "steadfast-here");
    }
    let file = stack_file(&lab);
    lab.docker(0, &["stack", "deploy", "--compose-file", &file, STACK]);
    one_on_each(&lab, &[]);
    lab.all_ready(0);

    // Members are services of the same swarm.
    let (on, address) = lab.create("cache");
    let near = (on + 1) % COUNT;
    eventually("a write", || {
        lab.redis(near, "cache", &["SET", "colour", "green"]).filter(|told| told == "OK")
    });
    let engine = lab.processes(on, "cache");

    // A server dies with its container: the swarm starts another one.
    let killed = servers(&lab, on).unwrap();
    lab.docker(on, &["kill", &killed[0]]);
    one_on_each(&lab, &killed);

    // An upgrade: the next image takes the place of the old one, on one machine after the other.
    let old: Vec<String> = (0..COUNT).flat_map(|at| servers(&lab, at).unwrap()).collect();
    for at in 0..COUNT {
        lab.docker(at, &["tag", "steadfast-here", "steadfast-next"]);
    }
    let next = fs::read_to_string(&file).unwrap().replace("image: steadfast-here", "image: steadfast-next");
    fs::write(&file, next).unwrap();
    lab.docker(0, &["stack", "deploy", "--compose-file", &file, STACK]);
    one_on_each(&lab, &old);
    lab.all_ready(0);
    assert_eq!(lab.processes(on, "cache"), engine, "no engine was started anew");
    let seen = eventually("a server that has just begun has heard of it", || lab.serving(near, "cache"));
    assert_eq!(seen, (on, address.clone()));

    // And they do what servers are for: the member's node dies.
    lab.kill_node(on, "cache-0");
    let moved =
        eventually("it serves elsewhere", || lab.serving(near, "cache").filter(|(other, _)| *other != on));
    assert_eq!(moved.1, address, "its address stays");
    let read = eventually("its data is read", || lab.redis(near, "cache", &["GET", "colour"]));
    assert_eq!(read, "green");
    lab.start_docker(on);
    eventually("the stack is removed", || lab.told_by_docker(near, &["stack", "rm", STACK]));
}
