//! Servers that keep the cluster's records in DynamoDB: an emulator of it, real servers, agents and engines.
#![cfg(feature = "dynamodb")]
#![allow(clippy::unwrap_used, reason = "a test ends where something is not as it should be")]

mod common;
#[path = "../../backends/aws/tests/emulator/mod.rs"]
mod emulator;

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Output;
use std::time::{Duration, Instant};

use common::cluster::{Cluster, has_redis};
use common::{err, eventually, expect, out, steadfast};
use emulator::Emulator;
use serde_json::Value;

const STORE: &str = "dynamodb://eu-central-1/steadfast/lab";

fn ask(emulator: &Emulator, data: &Path, arguments: &[&str]) -> Output {
    steadfast(data).args(arguments).envs(emulator.variables()).output().unwrap()
}

/// The node of a service's only member, once it is healthy.
fn place(cluster: &Cluster, service: &str) -> Option<String> {
    let output = cluster.run(&["get", service, "-o", "json"]);
    let view: Value = serde_json::from_slice(&output.stdout).ok()?;
    let node = view["members"][0]["node"].as_str()?.to_owned();
    (view["state"] == "Healthy").then_some(node)
}

/// What was asked of DynamoDB since, parted into reads and writes.
fn since(emulator: &Emulator, before: &BTreeMap<String, u64>) -> (u64, u64, BTreeMap<String, u64>) {
    let mut counts = emulator.door().counts();
    for (operation, count) in &mut counts {
        *count -= before.get(operation).copied().unwrap_or_default();
    }
    let of = |operations: &[&str]| -> u64 {
        operations.iter().map(|operation| counts.get(*operation).copied().unwrap_or_default()).sum()
    };
    (of(&["GetItem", "Query"]), of(&["PutItem", "DeleteItem"]), counts)
}

#[test]
fn a_service_outlives_its_node_with_its_records_in_dynamodb() {
    if !has_redis("servers on DynamoDB") {
        return;
    }
    let emulator = Emulator::start();
    let folder = tempfile::tempdir().unwrap();
    let made = ask(&emulator, folder.path(), &["store", "create", STORE]);
    expect(&made, 0);
    assert!(out(&made).contains("table steadfast in eu-central-1 is made"), "{}", out(&made));

    let variables = emulator.variables();
    let mut variables: Vec<(&str, &str)> =
        variables.iter().map(|(name, value)| (*name, value.as_str())).collect();
    variables.push(("STEADFAST_STORE", STORE));
    let cluster = Cluster::of_env(2, &["--servers", "2"], &variables);
    cluster.create_redis("cache", 1);
    assert!(!cluster.data().join("store/store.redb").exists(), "nothing is kept in the folder");
    let query = r##"{"TableName":"steadfast","ConsistentRead":true,"KeyConditionExpression":"#s = :s AND begins_with(#k, :k)",
        "ExpressionAttributeNames":{"#s":"store","#k":"key"},"ProjectionExpression":"#k",
        "ExpressionAttributeValues":{":s":{"S":"/lab"},":k":{"S":"steadfast/local/members/cache/"}}}"##;
    let answer = emulator.ask("Query", query);
    let found: Value = serde_json::from_str(answer.split("\r\n\r\n").nth(1).unwrap()).unwrap();
    assert_eq!(found["Count"], 1, "{answer}");

    // What a cluster of two servers and two nodes asks in which nothing happens.
    let idle = Duration::from_secs(30);
    let before = emulator.door().counts();
    std::thread::sleep(idle);
    let (reads, writes, each) = since(&emulator, &before);
    let hourly = |count: u64| count * 3600 / idle.as_secs();
    println!(
        "idle: {reads} reads, {writes} writes in {idle:?}, hourly {} and {}: {each:?}",
        hourly(reads),
        hourly(writes)
    );
    assert!(reads < 20 * idle.as_secs() && writes < 10 * idle.as_secs(), "{each:?}");

    let victim = eventually("it is healthy", || place(&cluster, "cache"));
    let (before, begun) = (emulator.door().counts(), Instant::now());
    expect(&cluster.run(&["node", "kill", &victim]), 0);
    eventually("it is healthy on the other node", || place(&cluster, "cache").filter(|node| *node != victim));
    let took = begun.elapsed();
    let (reads, writes, each) = since(&emulator, &before);
    println!("failover: {reads} reads, {writes} writes in {took:?}: {each:?}");
    assert!(writes < 200, "{each:?}");
}

/// Asks for a server on this store, which must be refused.
fn refused(emulator: &Emulator, arguments: &[&str], code: i32, named: &[&str]) {
    let data = tempfile::tempdir().unwrap();
    let serve = ["serve", "--listen", "127.0.0.1:0"];
    let output = ask(emulator, data.path(), &[&serve[..], arguments].concat());
    expect(&output, code);
    let told = err(&output);
    assert!(named.iter().all(|text| told.contains(text)), "{named:?}: {told}");
}

#[test]
fn a_table_that_cannot_be_used_is_refused_with_what_to_do() {
    let emulator = Emulator::start();
    refused(&emulator, &["--store", "dynamodb://steadfast"], 64, &["--store", "region", "REGION/TABLE"]);
    refused(&emulator, &["--store", "dynamodb://eu-central-1/a b"], 64, &["--store", "a b", "table"]);
    refused(&emulator, &["--store", STORE, "--store-ca", "/x"], 64, &["--store-ca", "role"]);
    refused(
        &emulator,
        &["--store", STORE],
        1,
        &["no table steadfast in eu-central-1", "steadfast store create"],
    );

    let data = tempfile::tempdir().unwrap();
    let mut nobody = steadfast(data.path());
    nobody.args(["store", "create", STORE]).env_clear().envs(emulator.variables());
    let output = nobody.env_remove("AWS_ACCESS_KEY_ID").env("STEADFAST_DATA", data.path()).output().unwrap();
    expect(&output, 1);
    assert!(
        err(&output).contains("[PermissionDenied]") && err(&output).contains("AWS_PROFILE"),
        "{}",
        err(&output)
    );

    expect(&ask(&emulator, data.path(), &["store", "create", STORE, "--provisioned", "25"]), 64);
    expect(&ask(&emulator, data.path(), &["store", "create", STORE, "--provisioned", "25:5"]), 0);
    let again = ask(&emulator, data.path(), &["store", "create", STORE]);
    expect(&again, 0);
    assert!(out(&again).contains("is there already"), "{}", out(&again));
}
