//! Servers that keep the cluster's records in etcd: real etcd processes, real servers, agents and engines.
#![cfg(feature = "etcd")]
#![allow(clippy::unwrap_used, reason = "a test ends where something is not as it should be")]

mod common;
#[path = "../../backends/etcd/tests/members/mod.rs"]
mod members;

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use common::cluster::{Cluster, has_redis, holder};
use common::{err, eventually, expect, run};
use members::Members;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

fn json(cluster: &Cluster, arguments: &[&str]) -> Option<Value> {
    let output = cluster.run(&[arguments, &["-o", "json"]].concat());
    serde_json::from_slice(&output.stdout).ok()
}

/// The nodes that the members of a service run on, once it is healthy.
fn places(cluster: &Cluster, service: &str) -> Option<Vec<String>> {
    let view = json(cluster, &["get", service])?;
    let nodes = view["members"].as_array()?.iter().map(|member| member["node"].as_str().map(str::to_owned));
    nodes.collect::<Option<Vec<_>>>().filter(|_| view["state"] == "Healthy")
}

#[test]
fn a_service_outlives_a_server_a_node_and_a_member_of_the_etcd_that_has_its_records() {
    if !has_redis("servers on etcd") {
        return;
    }
    let mut etcd = Members::start(3);
    let store = format!("etcd://{}/lab", etcd.hosts());
    let mut cluster = Cluster::of_env(3, &["--servers", "2"], &[("STEADFAST_STORE", &store)]);
    cluster.create_redis("cache", 2);
    assert!(!cluster.data().join("store/store.redb").exists(), "nothing is kept in the folder");
    let records = etcd.control(&["get", "--prefix", "--keys-only", "lab/steadfast/local/members/cache/"]);
    assert_eq!(records.split_whitespace().count(), 2, "{records}");

    // Nobody starts the server again, and the store has lost a member.
    cluster.kill_up();
    let server = holder(&cluster.data().join("servers/server-1/lock")).unwrap();
    kill(Pid::from_raw(server), Signal::SIGKILL).unwrap();
    etcd.kill(0);
    let before = eventually("the other server tells of the service", || places(&cluster, "cache"));
    let victim = before[0].clone();
    expect(&cluster.run(&["node", "kill", &victim]), 0);
    let after = eventually("the service is healthy without the dead node", || {
        places(&cluster, "cache").filter(|nodes| !nodes.contains(&victim))
    });
    assert_eq!(after.len(), 2);
    cluster.create_redis("another", 1);

    // The folder knows where its records are: what is started again finds them without being told.
    cluster.start_up_again();
    eventually("the first server answers again", || {
        holder(&cluster.data().join("servers/server-1/lock")).and_then(|_| places(&cluster, "another"))
    });
    assert!(!cluster.data().join("store/store.redb").exists(), "nothing is kept in the folder");
}

/// Asks for a server on this store, which must be refused.
fn refused(data: &Path, arguments: &[&str], code: i32, named: &[&str]) {
    let serve = ["serve", "--listen", "127.0.0.1:0"];
    let output = run(data, &[&serve[..], arguments].concat());
    expect(&output, code);
    let told = err(&output);
    assert!(named.iter().all(|text| told.contains(text)), "{named:?}: {told}");
    assert!(!told.contains("geheim"), "{told}");
}

#[test]
fn a_store_that_cannot_be_used_is_refused_with_the_flag_and_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let file = |name: &str, text: &str, mode: u32| {
        let path = folder.path().join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let secret = file("secret", "geheim\n", 0o600);
    let open = file("open", "geheim\n", 0o644);
    let with = |store: &'static str| ["--store", store];

    refused(&data, &with("http://127.0.0.1:2379"), 64, &["--store", "etcd://"]);
    refused(&data, &with("etcd://127.0.0.1:2379/a b"), 64, &["--store", "a b", "prefix"]);
    refused(&data, &with("etcd://root:geheim@127.0.0.1"), 64, &["--store", "password"]);
    refused(&data, &with("etcd://root@127.0.0.1"), 64, &["root", "--store-password-file"]);
    refused(&data, &["--store", "etcd://127.0.0.1", "--store-password-file", &secret], 64, &["USER@HOST"]);
    refused(&data, &["--store", "etcd://127.0.0.1", "--store-ca", &secret], 64, &["etcds://", "--store-ca"]);
    let far = ["--store", "etcd://root@192.0.2.7", "--store-password-file", &secret];
    refused(&data, &far, 64, &["in the clear", "192.0.2.7", "etcds://"]);
    let read = ["--store", "etcd://root@127.0.0.1", "--store-password-file", &open];
    refused(&data, &read, 1, &["[PermissionDenied]", "chmod 600"]);
    refused(
        &data,
        &with("etcd://127.0.0.1:1"),
        1,
        &["[StoreUnavailable]", "127.0.0.1:1", "--store", "majority"],
    );
    assert!(
        !fs::read_to_string(data.join("cluster.json")).unwrap().contains("etcd"),
        "a wrong one is not kept"
    );

    let etcd = Members::start(1);
    let store = format!("etcd://{}/lab", etcd.host(0));
    for arguments in
        [&["user", "add", "root:another"][..], &["user", "grant-role", "root", "root"], &["auth", "enable"]]
    {
        etcd.control(arguments);
    }
    let user = format!("etcd://root@{}/lab", etcd.host(0));
    let wrong = ["--store", user.as_str(), "--store-password-file", &secret];
    refused(&data, &wrong, 1, &["[PermissionDenied]", "password is wrong", "--store-password-file"]);
    refused(&data, &["--store", &store], 1, &["[PermissionDenied]", "USER@HOST"]);
}

#[test]
fn records_stay_where_they_are_and_with_the_folder_they_are_of() {
    let etcd = Members::start(1);
    let store = format!("etcd://{}/lab", etcd.host(0));
    let own = Cluster::start(&[]);
    refused(own.data(), &["--id", "server-9", "--store", &store], 64, &["do not move", "--data"]);
    drop(own);

    let first = Cluster::of_env(1, &[], &[("STEADFAST_STORE", &store)]);
    let elsewhere = format!("etcd://{}/other", etcd.host(0));
    refused(first.data(), &["--id", "server-9", "--store", &elsewhere], 64, &["do not move", "/lab"]);
    let second = tempfile::tempdir().unwrap();
    refused(second.path(), &["--store", &store], 6, &["another data folder", "prefix"]);
    let third = tempfile::tempdir().unwrap();
    fs::copy(first.data().join("cluster.json"), third.path().join("cluster.json")).unwrap();
    refused(third.path(), &["--id", "server-9"], 5, &["key is missing", "another machine of this cluster"]);

    // How far etcd has come is written down, so that an older one is not taken for it.
    let revision = first.data().join("store/etcd-revision");
    eventually("it is written down", || fs::read_to_string(&revision).ok()?.trim().parse::<i64>().ok());
    let older = tempfile::tempdir().unwrap();
    fs::create_dir(older.path().join("store")).unwrap();
    fs::write(older.path().join("store/etcd-revision"), "1000000\n").unwrap();
    refused(older.path(), &["--store", &elsewhere], 1, &["older backup", "store/etcd-revision", "--store"]);
}
