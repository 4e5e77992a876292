//! What users ask for: restart, stop and start, delete and undelete.

use std::net::IpAddr;
use std::path::Path;

use steadfast_core::model::{MemberPhase, ServiceState};

use super::{SERVICE, Stage};
use crate::support::cluster::{Cluster, Layout};
use crate::support::engine::Engine;
use crate::support::redis::REDIS;
use crate::support::writer::{self, Writer};
use crate::support::{dns, until};

pub fn a_restart_gives_every_member_a_new_life_one_after_another(engine: &'static Engine) {
    let stage = Stage::new(engine);
    let before = stage.lives();
    stage.cluster.ok(["restart", SERVICE, "--wait", "--timeout", "3m"]);
    stage.cluster.settled(&stage.identity);
    let after = stage.lives();
    assert!(before.iter().all(|life| !after.contains(life)), "{before:?}, {after:?}");
    stage.end();
}

pub fn a_service_that_is_stopped_and_started_cold_is_the_same(engine: &'static Engine) {
    let stage = Stage::new(engine);
    stage.cluster.ok(["stop", SERVICE, "--wait", "--timeout", "3m"]);
    let view = stage.cluster.service(SERVICE);
    assert_eq!(view.state, ServiceState::Stopped, "{view:?}");
    for member in &view.members {
        assert_eq!(member.phase, MemberPhase::Stopped, "{member:?}");
        assert_eq!(stage.cluster.guards(member.name.as_str()), [], "nothing of it runs");
    }
    stage.cluster.ok(["start", SERVICE, "--wait", "--timeout", "3m"]);
    stage.end();
}

pub fn a_deleted_service_leaves_only_its_volumes(engine: &'static Engine) {
    let Stage { writer, cluster, identity, .. } = Stage::new(engine);
    let names = cluster.service(SERVICE).names;
    writer.finish();
    cluster.ok(["delete", SERVICE, "--wait", "--timeout", "3m"]);
    let view = cluster.service(SERVICE);
    assert_eq!((view.state, view.volumes.len()), (ServiceState::Deleted, 3), "{view:?}");
    for (member, known) in identity.members() {
        assert_eq!(cluster.guards(member), [], "nothing of {member} runs");
        until(&format!("the nodes have no folder of {member}"), || no_folder_of(&cluster, member));
        let asked = dns::addresses(cluster.dns(), &known.host);
        assert!(asked.as_ref().is_err_and(|error| error.contains("Non-Existent")), "{asked:?}");
    }
    for name in names {
        let asked = dns::addresses(cluster.dns(), &name);
        assert!(asked.as_ref().is_err_and(|error| error.contains("Non-Existent")), "{name}: {asked:?}");
    }
}

pub fn a_service_is_undeleted_with_its_data_after_its_address_was_used_again(engine: &'static Engine) {
    let mut layout = Layout { nodes: 3, servers: 1, ..Layout::default() };
    // Four addresses, so that the deleted member's soon has another owner.
    let range = crate::support::cluster::range(30);
    layout.config.push(("loopback", range.into()));
    let cluster = Cluster::of(layout);
    let stage = Stage::on(cluster, engine, &["--replicas", "1"]);
    let Stage { writer, cluster, identity, .. } = stage;
    let acknowledged = writer.finish();
    let (member, before) =
        identity.members().next().map(|(name, known)| (name.to_owned(), known.clone())).unwrap();
    cluster.ok(["delete", SERVICE, "--wait", "--timeout", "3m"]);
    let others = take_address(&cluster, before.address);
    if let [first, _, _, _] = others.as_slice() {
        cluster.ok(["delete", first.as_str(), "--wait"]);
    }
    cluster.ok(["undelete", SERVICE, "--wait", "--timeout", "3m"]);
    let again = cluster.identity(SERVICE);
    let after = again.members().next().map(|(_, known)| known.clone()).unwrap();
    assert_ne!(after.address, before.address, "{member} has an address of its own");
    assert_eq!((&after.host, &after.volumes), (&before.host, &before.volumes), "it is itself but for that");
    writer::check(&writer::Target::of(&cluster, engine, SERVICE), &acknowledged);
    let writer = Writer::after(&cluster, engine, SERVICE, acknowledged);
    writer.goes_on();
    cluster.settled(&again);
    writer.finish();
}

/// Creates services until one of them has the address.
fn take_address(cluster: &Cluster, address: IpAddr) -> Vec<String> {
    let mut names = Vec::new();
    for number in 1..=4 {
        let name = format!("t{number}");
        cluster.create(&name, REDIS.blueprint, &["--replicas", "1"]);
        names.push(name.clone());
        if cluster.service(&name).members.iter().any(|member| member.address == Some(address)) {
            return names;
        }
    }
    panic!("none of {names:?} has got {address}: it was not given back");
}

fn no_folder_of(cluster: &Cluster, member: &str) -> Result<(), String> {
    let nodes = std::fs::read_dir(cluster.data().join("nodes")).unwrap().flatten();
    let left: Vec<_> = nodes
        .flat_map(|node| ["guards", "run"].map(|folder| node.path().join(folder).join(member)))
        .filter(|path: &std::path::PathBuf| Path::exists(path))
        .collect();
    if left.is_empty() { Ok(()) } else { Err(format!("{left:?}")) }
}
