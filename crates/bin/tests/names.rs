//! Names in an existing DNS server: a real BIND, real servers, agents and engines.
#![allow(clippy::unwrap_used, reason = "a test ends where something is not as it should be")]

mod common;
#[path = "../../backends/rfc2136/tests/named/mod.rs"]
mod named;

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;

use common::cluster::{Cluster, has_redis};
use common::{err, eventually, expect, out, run};
use named::{KEY, Named, POOR, ZONES};
use serde_json::{Value, json};

/// Writes into the folder's configuration that a server has the names.
fn configure(data: &Path, named: &Named, key: &str) {
    let file = data.join("cluster.json");
    let mut config: Value = serde_json::from_str(&fs::read_to_string(&file).unwrap()).unwrap();
    config["zone"] = json!(ZONES[0]);
    config["names"] = json!({ "server": named.address(), "key_file": secret(data, key) });
    fs::write(&file, config.to_string()).unwrap();
}

fn secret(data: &Path, key: &str) -> String {
    let file = data.join("names.key");
    fs::write(&file, key).unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    file.to_str().unwrap().to_owned()
}

/// What the server answers.
fn dig(named: &Named, of: &str, name: &str) -> Vec<String> {
    let server = named.address();
    let output = Command::new("dig")
        .args([&format!("@{}", server.ip()), "-p", &server.port().to_string(), "+short", of])
        .arg(format!("{name}.{}", ZONES[0]))
        .output()
        .unwrap_or_else(|error| panic!("dig: {error}: scripts/install-packages dig"));
    let mut answers: Vec<String> =
        String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect();
    answers.sort();
    answers
}

#[test]
fn an_existing_server_has_the_names_of_members_wherever_they_run() {
    if !has_redis("names in an existing DNS server") {
        return;
    }
    let mut named = Named::start();
    let mut cluster = Cluster::of(3, &[]);
    expect(&cluster.run(&["down"]), 0);
    cluster.up.wait().unwrap();
    configure(cluster.data(), &named, KEY);
    cluster.start_up_again();
    cluster.until_ready();
    cluster.create_redis("cache", 2);

    let own = dig(&named, "A", "cache-0");
    assert_eq!(own.len(), 1, "{own:?}");
    assert_eq!(dig(&named, "A", "cache").len(), 2);
    let primary = dig(&named, "A", "primary.cache");
    assert_eq!(primary.len(), 1, "{primary:?}");
    assert_eq!(dig(&named, "SRV", "_redis._tcp.cache").len(), 2);
    let drop_in = out(&cluster.run(&["dns", "install", "--print"]));
    assert!(drop_in.contains(&format!("DNS={}", named.address())), "{drop_in}");

    // The name server is away while the primary's node dies, and back with what it had.
    named.kill();
    let view = || serde_json::from_slice::<Value>(&cluster.run(&["get", "cache", "-o", "json"]).stdout).ok();
    let node_of = |view: &Value| {
        let members = view["members"].as_array()?;
        let found = members.iter().find(|member| member["role"] == "Primary")?;
        Some(found["node"].as_str()?.to_owned())
    };
    let victim = eventually("somebody leads", || node_of(&view()?));
    expect(&cluster.run(&["node", "kill", &victim]), 0);
    named.begin();
    eventually("the service is healthy without the node", || {
        let view = view()?;
        (view["state"] == "Healthy" && node_of(&view)? != victim).then_some(())
    });
    assert_eq!(dig(&named, "A", "cache-0"), own, "a member keeps its address");
    eventually("the primary's name leads to who leads", || {
        let view = view()?;
        let leader = view["members"].as_array()?.iter().find(|member| member["role"] == "Primary")?.clone();
        let name = leader["name"].as_str()?.to_owned();
        (dig(&named, "A", "primary.cache") == dig(&named, "A", &name)).then_some(())
    });

    expect(&cluster.run(&["delete", "cache", "--wait"]), 0);
    for name in ["cache", "cache-0", "cache-1", "primary.cache", "replicas.cache"] {
        assert_eq!(dig(&named, "A", name), Vec::<String>::new(), "{name} is left");
    }
    assert_eq!(dig(&named, "SRV", "_redis._tcp.cache"), Vec::<String>::new());
}

#[test]
fn names_that_cannot_be_kept_are_refused_before_anything_is_served() {
    let named = Named::start();
    let cluster = Cluster::start(&[]);
    expect(&cluster.run(&["down"]), 0);
    let data = cluster.data();
    let refused = |named: &[&str]| {
        let output = run(data, &["serve", "--listen", "127.0.0.1:0"]);
        expect(&output, 1);
        let told = err(&output);
        assert!(named.iter().all(|text| told.contains(text)), "{named:?}: {told}");
        assert!(!told.contains("pRP5"), "{told}");
    };
    configure(data, &named, POOR);
    refused(&["allow-transfer", "docs/names.md"]);
    configure(data, &named, &KEY.replace("steadfast", "stranger"));
    refused(&["does not know the key"]);
    configure(data, &named, "pRP5");
    refused(&["names.key_file", "tsig-keygen"]);
    configure(data, &named, KEY);
    fs::set_permissions(data.join("names.key"), fs::Permissions::from_mode(0o644)).unwrap();
    refused(&["[PermissionDenied]", "names.key_file", "chmod 600"]);
    fs::remove_file(data.join("names.key")).unwrap();
    refused(&["names.key_file", "names.key"]);
    let file = data.join("cluster.json");
    let text = fs::read_to_string(&file).unwrap().replace("key_file", "keyfile");
    fs::write(&file, text).unwrap();
    refused(&["cluster.json", "keyfile"]);
}
