//! Several machines: members move when a machine is cut off, with everything that is theirs.
#![cfg(all(feature = "etcd", feature = "linux"))]
#![allow(clippy::unwrap_used, reason = "a test ends where something is not as it should be")]

mod common;
mod docker;
mod lab;
#[path = "../../backends/linux/tests/network/mod.rs"]
mod network;

use std::collections::BTreeSet;
use std::fs;
use std::time::{Duration, Instant};

use common::cluster::has_redis;
use common::{err, expect};
use lab::{COUNT, Lab, SERVICE};
use network::{eventually, may_make_networks};
use serde_json::Value;

/// How soon every server answers with a change that was acknowledged: a resync, and the longest that reading may take.
const SEEN_WITHIN: Duration = Duration::from_secs(15);

#[test]
fn a_member_comes_back_on_another_machine_when_its_own_is_cut_off() {
    let test = "a_member_comes_back_on_another_machine_when_its_own_is_cut_off";
    if !may_make_networks(test) || !has_redis(test) {
        return;
    }
    let mut lab = Lab::new();
    lab.up(&[], &[]);
    let (first, address) = lab.create("cache");
    assert!(address.starts_with("10.77.0.1"), "{address}");
    assert!(lab.machine(first).has(&address));
    let (near, far) = ((first + 1) % COUNT, (first + 2) % COUNT);
    eventually("a write from another machine", || lab.redis(near, "cache", &["SET", "colour", "green"]));
    let others: Vec<(&str, u8, BTreeSet<i32>)> = ["other", "another"]
        .into_iter()
        .map(|name| (name, lab.create(name).0))
        .map(|(name, on)| (name, on, lab.processes(on, name)))
        .filter(|(_, on, _)| *on != first)
        .collect();
    assert!(others.iter().all(|(.., processes)| processes.len() > 1), "{others:?}");

    // The worst machine to lose: its etcd member leads.
    lab.lead_etcd(first);
    lab.network.cut(first);
    let second = eventually("it serves on another machine", || {
        lab.serving(near, "cache").filter(|(on, _)| *on != first)
    });
    let left = lab.processes(first, "cache");
    assert!(left.is_empty(), "the old one ended with its lease: {left:?}");
    assert_eq!(second.1, address, "its address stays");
    assert!(lab.machine(second.0).has(&address));
    let read =
        |at: u8| eventually("its data is read by its name", || lab.redis(at, "cache", &["GET", "colour"]));
    assert_eq!(read(far), "green");
    let told = lab.json(near, &["why", "cache-0"]).unwrap().to_string();
    assert!(told.contains("LeaseExpired"), "{told}");
    assert!(!others.is_empty(), "members are spread over the machines");
    for (name, on, processes) in &others {
        assert_eq!(&lab.processes(*on, name), processes, "{name} kept its lease through the election");
    }

    // The old machine could not be told. It comes back, and keeps nothing that is another's.
    lab.network.heal(first);
    lab.all_ready(near);
    eventually("the address is off its interface", || (!lab.machine(first).has(&address)).then_some(()));
    assert_eq!(read(first), "green");
    assert_eq!(lab.serving(first, "cache"), Some((second.0, address)));
}

/// A volume of a size is mounted where its member is, and nowhere else: neither here nor there is anything left of it on
/// the machine that it has left.
#[test]
fn a_volume_of_a_size_moves_with_its_member_and_leaves_no_mount_behind() {
    let test = "a_volume_of_a_size_moves_with_its_member_and_leaves_no_mount_behind";
    if !may_make_networks(test) || !has_redis(test) {
        return;
    }
    let mut lab = Lab::new();
    lab.up(&["--volume-kind", "ext4"], &[]);
    let sized = format!("{SERVICE}[[volumes]]\nname = \"data\"\nsize = \"64MiB\"\non_delete = \"delete\"\n");
    let (first, address) = lab.create_as("cache", &sized);
    let near = (first + 1) % COUNT;
    assert_eq!(lab.mounted(), [(first, 1)]);
    assert_eq!(lab.loops(), 1);
    eventually("a write", || lab.redis(near, "cache", &["SET", "colour", "green"]));

    lab.network.cut(first);
    let second = eventually("it serves on another machine", || {
        lab.serving(near, "cache").filter(|(on, _)| *on != first)
    });
    assert_eq!(second.1, address, "its address stays");
    let read = || eventually("its data is read by its name", || lab.redis(near, "cache", &["GET", "colour"]));
    assert_eq!(read(), "green");
    // The old machine hears of nothing, but reaches the folder.
    eventually("the old mount is gone", || (lab.mounted() == [(second.0, 1)]).then_some(()));
    eventually("the old loop device is free", || (lab.loops() == 1).then_some(()));

    lab.network.heal(first);
    lab.all_ready(near);
    assert_eq!(read(), "green");
    expect(&lab.cli(near, &["delete", "cache", "--wait"]), 0);
    eventually("nothing is mounted", || (lab.mounted().is_empty() && lab.loops() == 0).then_some(()));
}

/// What `from` hears from the server of `at`, if that is the address.
fn says(lab: &Lab, from: u8, at: u8, name: &str, address: &str) -> Option<String> {
    let told = lab.dig(from, at, name);
    (told.contains("status: NOERROR") && told.contains(address)).then_some(told)
}

/// The servers answer for the zone each by itself, so any of them may die; and the one that has lost the records says so.
#[test]
fn any_server_answers_names_and_one_that_has_lost_the_records_says_so() {
    let test = "any_server_answers_names_and_one_that_has_lost_the_records_says_so";
    if !may_make_networks(test) || !has_redis(test) {
        return;
    }
    let mut lab = Lab::new();
    lab.up(&[], &[]);
    for at in 0..COUNT {
        lab.answer_on_the_network(at);
    }
    let (first, address) = lab.create("cache");
    // Whom it was written by is one of them. The watch tells the others; if it does not, the resync does.
    let acknowledged = Instant::now();
    for at in 0..COUNT {
        for name in ["cache-0", "cache", "primary.cache"] {
            eventually("each server has the name", || says(&lab, first, at, name, &address));
        }
    }
    assert!(acknowledged.elapsed() < SEEN_WITHIN, "{:?}", acknowledged.elapsed());

    let (near, far) = ((first + 1) % COUNT, (first + 2) % COUNT);
    lab.kill_server(near);
    assert_eq!(says(&lab, far, near, "cache-0", &address), None, "nobody answers for a dead server");
    for at in [first, far] {
        assert!(says(&lab, near, at, "cache-0", &address).is_some(), "the others do");
    }
    lab.serve(near, &[]);
    eventually("it answers again", || says(&lab, near, near, "cache-0", &address));

    // Which of its names are still right the server of a machine that is cut off cannot know.
    let stale = |at: u8| lab.dig(at, at, "cache-0").contains("EDE: 3 (Stale Answer)");
    assert!(!stale(far), "{}", lab.dig(far, far, "cache-0"));
    lab.network.cut(far);
    eventually("it says that it has lost the records", || {
        (stale(far) && says(&lab, far, far, "cache-0", &address).is_some()).then_some(())
    });
    assert!(!stale(near), "the others have not: {}", lab.dig(near, near, "cache-0"));
    lab.network.heal(far);
    eventually("it has them again", || {
        (!stale(far) && says(&lab, far, far, "cache-0", &address).is_some()).then_some(())
    });
}

#[test]
fn machines_that_cannot_have_the_members_are_refused_with_what_to_do() {
    if !may_make_networks("machines_that_cannot_have_the_members_are_refused_with_what_to_do") {
        return;
    }
    let lab = Lab::new();
    let data = lab.data(0);
    let refused = |arguments: &[&str], code: i32, named: &[&str]| {
        let output = lab.cli(0, arguments);
        expect(&output, code);
        let told = err(&output);
        assert!(named.iter().all(|text| told.contains(text)), "{named:?}: {told}");
    };
    refused(&["serve", "--interface", "eth0"], 64, &["--addresses"]);
    refused(&["serve", "--addresses", "10.77.0.100-10.77.0.119"], 64, &["--interface"]);
    refused(&["serve", "--shared-volumes", "shared"], 64, &["absolute"]);
    refused(&["serve", "--volume-kind", "ext4"], 64, &["--volume-kind", "--shared-volumes"]);
    refused(&["serve", "--volume-kind", "zfs"], 64, &["folder, ext4, xfs"]);
    let range = ["--addresses", "10.77.0.0/24"];
    refused(
        &[&["serve", "--interface", "eth0"][..], &range].concat(),
        1,
        &["network.addresses", "first and the last"],
    );

    let write = |change: &dyn Fn(&mut Value)| {
        let file = data.join("cluster.json");
        let mut config: Value = serde_json::from_str(&fs::read_to_string(&file).unwrap()).unwrap();
        change(&mut config);
        fs::write(&file, config.to_string()).unwrap();
    };
    let agent = ["agent", "--node", "node-0", "--zone", "a", "--servers", "http://127.0.0.1:9"];
    for (interface, addresses, named) in [
        ("eth7", "10.77.0.100-10.77.0.119", ["network.interface", "eth0, lo"]),
        ("eth0", "10.99.0.100-10.99.0.119", ["network.addresses", "10.99.0.100"]),
    ] {
        write(&|config| {
            config["network"] = serde_json::json!({ "interface": interface, "addresses": addresses });
        });
        refused(&agent, 1, &named);
    }
    let elsewhere = lab.folder.path().join("not-mounted");
    write(&|config| config["shared_volumes"] = elsewhere.to_str().unwrap().into());
    refused(&agent, 1, &["fencing", "F1"]);
    write(&|config| config["fencing"] = "F1".into());
    refused(&agent, 1, &["shared_volumes", "not-mounted", "mount"]);
    assert!(!elsewhere.exists(), "nothing is made where it is not mounted");
}
