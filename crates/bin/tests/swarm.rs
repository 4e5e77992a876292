//! A Docker Swarm of three engines, each on a machine of its own, with an etcd member, a server and an agent beside it.
#![cfg(all(feature = "etcd", feature = "linux", feature = "swarm"))]
#![allow(clippy::unwrap_used, reason = "a test ends where something is not as it should be")]

mod common;
mod docker;
mod lab;
#[path = "../../backends/linux/tests/network/mod.rs"]
mod network;

use common::cluster::has_redis;
use common::expect;
use docker::{IMAGE, has_docker};
use lab::{COUNT, Lab};
use network::{eventually, may_make_networks};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

#[test]
fn a_member_of_a_swarm_comes_back_on_another_node_when_its_own_is_cut_off() {
    let test = "a_member_of_a_swarm_comes_back_on_another_node_when_its_own_is_cut_off";
    if !may_make_networks(test) || !has_redis(test) || !has_docker(test) {
        return;
    }
    let mut lab = Lab::on_a_swarm();
    lab.up(&["--swarm-image", &format!("redis={IMAGE}")], &["--volume-plugin"]);
    let (first, address) = lab.create("cache");
    assert!(lab.machine(first).has(&address));
    let (near, far) = ((first + 1) % COUNT, (first + 2) % COUNT);
    eventually("a write from another machine", || {
        lab.redis(near, "cache", &["SET", "colour", "green"]).filter(|told| told == "OK")
    });
    assert!(lab.processes(first, "cache").len() > 1);

    // The container ends, and is followed by another one on the same node: Swarm alone restarts none.
    let before = lab.processes(first, "cache");
    kill(Pid::from_raw(*before.iter().next().unwrap()), Signal::SIGKILL).unwrap();
    eventually("its engine is another one", || {
        let now = lab.processes(first, "cache");
        (now.len() > 1 && now.is_disjoint(&before)).then_some(())
    });
    let read = |at: u8| {
        eventually("its data is read by its name", || {
            lab.redis(at, "cache", &["GET", "colour"]).filter(|told| told == "green")
        })
    };
    read(near);
    eventually("it serves", || lab.serving(0, "cache"));

    lab.network.cut(first);
    let second =
        eventually("it serves on another node", || lab.serving(near, "cache").filter(|(on, _)| *on != first));
    assert!(lab.processes(first, "cache").is_empty(), "the old one ended with its lease");
    assert_eq!(second.1, address, "its address stays");
    assert!(lab.machine(second.0).has(&address));
    read(far);
    assert!(lab.json(near, &["why", "cache-0"]).unwrap().to_string().contains("LeaseExpired"));

    // The old node could not be told. It comes back, and keeps nothing that is another's.
    lab.network.heal(first);
    lab.all_ready(near);
    eventually("the address is off its interface", || (!lab.machine(first).has(&address)).then_some(()));
    eventually("nothing of the member is mounted there", || {
        lab.engine(first).mounts_below("/run/steadfast").is_empty().then_some(())
    });
    read(first);
    // Its server was cut off, too, and knew nothing of the nodes for longer than their leases.
    let seen = eventually("its server sees it serve", || lab.serving(first, "cache"));
    assert_eq!(seen, (second.0, address.clone()));

    // The node that has it now dies: its engine of Docker, its container, its agent.
    lab.kill_node(second.0, "cache-0");
    let third = eventually("it serves on a third node", || {
        lab.serving(first, "cache").filter(|(on, _)| *on != second.0)
    });
    assert_eq!(third.1, address, "its address stays");
    let read = lab.redis(first, "cache", &["GET", "colour"]);
    assert_eq!(read.as_deref(), Some("green"));

    // What is deleted leaves no service.
    expect(&lab.cli(first, &["delete", "cache", "--wait"]), 0);
    eventually("the swarm has no service", || {
        lab.told_by_docker(first, &["service", "ls", "--quiet"])?.is_empty().then_some(())
    });
}
