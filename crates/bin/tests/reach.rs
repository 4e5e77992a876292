//! How users reach members: `exec`, `connect`, `dns install`, and a demonstration that stays.

#![allow(clippy::unwrap_used, reason = "a test ends where something is not as it should be")]

mod common;

use std::fs;
use std::path::Path;
use std::process::Command;

use common::cluster::{Cluster, free_dns, has_redis};
use common::{err, eventually, expect, out, run, steadfast};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

#[test]
fn a_drop_in_is_printed_written_below_a_root_or_refused_with_a_remedy() {
    let folder = tempfile::Builder::new().prefix("sf").tempdir().unwrap();
    let dns = free_dns();
    let config = serde_json::json!({
        "format": 1, "cluster": "local", "zone": "local.steadfast.internal", "loopback": "127.98.8.0/22",
        "dns": dns, "fencing": "F3", "node_lease_ms": 3000, "server_lease_ms": 3000,
    });
    fs::write(folder.path().join("cluster.json"), config.to_string()).unwrap();
    let wanted = format!("[Resolve]\nDNS={dns}\nDomains=~local.steadfast.internal");
    let printed = run(folder.path(), &["dns", "install", "--print"]);
    expect(&printed, 0);
    assert!(out(&printed).starts_with("# /etc/systemd/resolved.conf.d/steadfast-local.conf\n"));
    assert!(out(&printed).contains(&wanted), "{}", out(&printed));

    let root = folder.path().join("root");
    let root = root.to_str().unwrap();
    for _ in 0..2 {
        let output = run(folder.path(), &["dns", "install", "--root", root]);
        expect(&output, 0);
        assert!(out(&output).contains("installed"), "{}", out(&output));
    }
    let written =
        fs::read_to_string(Path::new(root).join("etc/systemd/resolved.conf.d/steadfast-local.conf")).unwrap();
    assert!(written.contains(&wanted), "{written}");
    let blocked = folder.path().join("cluster.json");
    let output = run(folder.path(), &["dns", "install", "--root", blocked.to_str().unwrap()]);
    expect(&output, 1);
    assert!(err(&output).contains("--print"), "{}", err(&output));

    if Path::new("/run/systemd/resolve").exists() {
        println!("left out: refusal without systemd-resolved: this machine runs it");
        return;
    }
    let output = run(folder.path(), &["dns", "install"]);
    expect(&output, 1);
    let said = err(&output);
    assert!(said.contains("[CapabilityMissing]") && said.contains(&dns.to_string()), "{said}");
    assert!(said.contains("steadfast exec"), "{said}");
}

#[test]
fn programs_and_the_engines_client_know_members_by_name() {
    if !has_redis("programs_and_the_engines_client_know_members_by_name") {
        return;
    }
    let cluster = Cluster::of(1, &[]);
    cluster.create_redis("cache", 1);
    let name = "cache-0.local.steadfast.internal";
    let output = cluster.run(&["exec", "--", "getent", "hosts", name]);
    if err(&output).contains("does not allow a user and mount namespace") {
        assert!(std::env::var_os("CI").is_none(), "{}", err(&output));
        println!("left out: names by exec: this machine does not allow namespaces");
        return;
    }
    expect(&output, 0);
    assert!(out(&output).starts_with("127.") && out(&output).contains(name), "{}", out(&output));
    let hosts = fs::read_to_string("/etc/hosts").unwrap();
    assert!(!hosts.contains(name), "the machine's own file is as it was");
    let output = cluster.run(&["exec", "--", "/nowhere/program"]);
    expect(&output, 5);
    assert!(err(&output).contains("/nowhere/program"), "{}", err(&output));
    let output = cluster.run(&["exec", "--", "sh", "-c", "exit 7"]);
    expect(&output, 7);

    let uri = out(&cluster.run(&["connect", "cache", "--uri"]));
    assert!(uri.starts_with("redis://") && uri.contains(name), "{uri}");
    expect(&cluster.run(&["connect", "nothing"]), 5);
    let output = cluster.run(&["connect", "cache", "--", "PING"]);
    expect(&output, 0);
    assert_eq!(out(&output).trim(), "PONG");
    // The password goes to the client in its environment, never in its arguments.
    let password = out(&cluster.run(&["secret", "get", "cache", "password"]));
    assert!(!password.trim().is_empty());

    if !nix::unistd::geteuid().is_root() {
        println!("left out: a machine without namespaces: only root can play one");
        return;
    }
    // In a changed root the kernel makes no user namespace; nobody else may make a mount namespace.
    let elsewhere = tempfile::tempdir().unwrap();
    let token = fs::read_to_string(cluster.data().join("token")).unwrap();
    let endpoint = fs::read_to_string(cluster.data().join("servers/server-1/endpoint.json")).unwrap();
    let endpoint: serde_json::Value = serde_json::from_str(&endpoint).unwrap();
    let script = "mount --bind / \"$ROOT\" && exec chroot --userspec=65534:65534 \"$ROOT\" \"$@\"";
    let output = Command::new("unshare")
        .args(["--mount", "sh", "-c", script, "sh", "sh", "-c"])
        .arg(
            "f=$(mktemp) && printf %s \"$TOKEN\" > $f && \"$PROGRAM\" exec --server \"$SERVER\" --token-file $f -- true",
        )
        .env("ROOT", elsewhere.path())
        .env("TOKEN", token.trim())
        .env("PROGRAM", env!("CARGO_BIN_EXE_steadfast"))
        .env("SERVER", endpoint["url"].as_str().unwrap())
        .env("STEADFAST_DATA", "/nowhere")
        .output()
        .unwrap();
    let said = err(&output);
    expect(&output, 1);
    assert!(said.contains("does not allow a user and mount namespace"), "{said}");
    assert!(said.contains("[PermissionDenied]") && said.contains("max_user_namespaces"), "{said}");
    assert!(said.contains("steadfast dns install") && said.contains("--uri"), "{said}");
}

#[test]
fn a_demonstration_that_is_kept_says_how_to_end_it() {
    if !has_redis("a_demonstration_that_is_kept_says_how_to_end_it") {
        return;
    }
    let folder = tempfile::Builder::new().prefix("sf").tempdir().unwrap();
    let data = folder.path().join("d");
    let demo =
        steadfast(&data).args(["demo", "--engine", "redis", "--json"]).env("KEEP", "1").output().unwrap();
    let said = err(&demo);
    let listed = run(&data, &["list", "-o", "name"]);
    let down = run(&data, &["down"]);
    expect(&demo, 0);
    let report: serde_json::Value = serde_json::from_slice(&demo.stdout).unwrap();
    assert_eq!(report["lost_writes"], 0, "{report}");
    assert_eq!(report["address_before"], report["address_after"], "{report}");
    let end = format!("steadfast --data {} down", data.display());
    assert!(said.contains(&end), "{said}");
    assert_eq!(out(&listed), "demo-redis\n", "it was left running");
    expect(&down, 0);
    for lock in ["up.lock", "servers/server-1/lock", "nodes/node-1/agent.lock", "nodes/node-2/agent.lock"] {
        assert!(!steadfast_lock::is_held(&data.join(lock)).unwrap(), "{lock} is still held");
    }
}

#[test]
fn a_demonstration_that_is_interrupted_early_leaves_nothing_running() {
    let folder = tempfile::Builder::new().prefix("sf").tempdir().unwrap();
    let data = folder.path().join("d");
    let mut demo = steadfast(&data).args(["demo", "--engine", "redis"]).spawn().unwrap();
    let lock = data.join("up.lock");
    eventually("`up` has begun", || (lock.exists() && steadfast_lock::is_held(&lock).unwrap()).then_some(()));
    kill(Pid::from_raw(i32::try_from(demo.id()).unwrap()), Signal::SIGINT).unwrap();
    assert_eq!(demo.wait().unwrap().code(), Some(130));
    for lock in ["up.lock", "servers/server-1/lock", "nodes/node-1/agent.lock", "nodes/node-3/agent.lock"] {
        let path = data.join(lock);
        assert!(!path.exists() || !steadfast_lock::is_held(&path).unwrap(), "{lock} is still held");
    }
}
