//! DNS from outside: `dig`, and real clients that know a member only by its name.

mod support;

use std::collections::BTreeMap;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::process::Command;

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use support::cluster::{Cluster, Layout};
use support::{is_root, until};

const ZONE: &str = "local.steadfast.internal";

/// What `dig` prints.
fn dig(cluster: &Cluster, arguments: &[&str]) -> String {
    let dns = cluster.dns();
    let output = Command::new("dig")
        .args([format!("@{}", dns.ip()), "-p".to_owned(), dns.port().to_string(), "+tries=1".to_owned()])
        .args(arguments)
        .output()
        .expect("dig is installed");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{arguments:?}: {output:?}");
    text
}

/// The answers in few words, sorted.
fn short(cluster: &Cluster, arguments: &[&str]) -> Vec<String> {
    let text = dig(cluster, &[arguments, &["+short"]].concat());
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    lines.sort();
    lines
}

fn has(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "{part:?} is not in:\n{text}");
    }
}

#[test]
fn dig_finds_what_is_there_and_is_told_what_is_not() {
    let cluster = Cluster::start();
    let view = cluster.create("orders", "redis", &[]);
    let members: BTreeMap<String, String> =
        view.members.iter().map(|m| (m.name.to_string(), m.address.unwrap().to_string())).collect();
    let mut all: Vec<String> = members.values().cloned().collect();
    all.sort();

    // The zone.
    let soa = dig(&cluster, &[ZONE, "SOA"]);
    has(&soa, &["status: NOERROR", " aa", &format!("{ZONE}."), "SOA"]);
    // Negative answers are kept no longer than positive ones: the last number.
    let record = soa.lines().find(|line| line.contains("SOA") && !line.starts_with(';')).unwrap();
    assert!(record.ends_with(" 5"), "{record}");
    let servers = short(&cluster, &[ZONE, "NS"]);
    assert_eq!(servers, [format!("ns.{ZONE}.")]);
    assert_eq!(short(&cluster, &[&servers[0], "A"]), [cluster.dns().ip().to_string()]);

    // Members, the service, its roles.
    for (member, address) in &members {
        let answer = dig(&cluster, &[&format!("{member}.{ZONE}"), "A"]);
        has(&answer, &["status: NOERROR", " aa", address]);
        let record = answer.lines().find(|line| line.ends_with(address)).unwrap();
        assert_eq!(record.split_whitespace().nth(1), Some("5"), "a TTL of 5 s: {record}");
        assert_eq!(
            short(&cluster, &["+tcp", &format!("{member}.{ZONE}"), "A"]),
            std::slice::from_ref(address)
        );
        assert_eq!(short(&cluster, &["-x", address]), [format!("{member}.{ZONE}.")]);
    }
    assert_eq!(short(&cluster, &[&format!("orders.{ZONE}"), "A"]), all);
    assert_eq!(short(&cluster, &["+tcp", &format!("orders.{ZONE}"), "A"]), all);
    let primary = view.primary.unwrap().to_string();
    assert_eq!(short(&cluster, &[&format!("primary.orders.{ZONE}"), "A"]), [members[&primary].clone()]);
    let mut replicas = all.clone();
    replicas.retain(|address| *address != members[&primary]);
    until("both replicas are in their name", || {
        match short(&cluster, &[&format!("replicas.orders.{ZONE}")]) {
            found if found == replicas => Ok(()),
            found => Err(format!("{found:?}, not {replicas:?}")),
        }
    });
    let mut targets: Vec<String> = members.keys().map(|member| format!("6379 {member}.{ZONE}.")).collect();
    targets.sort();
    let found = short(&cluster, &[&format!("_redis._tcp.orders.{ZONE}"), "SRV"]);
    let found: Vec<String> =
        found.iter().map(|line| line.split(' ').skip(2).collect::<Vec<_>>().join(" ")).collect();
    assert_eq!(found, targets);

    // What is not there.
    let nowhere = dig(&cluster, &[&format!("nobody.{ZONE}"), "A"]);
    has(&nowhere, &["status: NXDOMAIN", " aa", "AUTHORITY: 1", "SOA"]);
    let no_data = dig(&cluster, &[&format!("orders-0.{ZONE}"), "AAAA"]);
    has(&no_data, &["status: NOERROR", " aa", "ANSWER: 0", "AUTHORITY: 1", "SOA"]);
    has(&dig(&cluster, &["example.org", "A"]), &["status: REFUSED", "ANSWER: 0"]);

    // The name of the primary follows it.
    let node = cluster.member("orders", &primary).node.unwrap();
    cluster.ok(["node", "kill", node.as_str()]);
    until("the primary's name stands for a primary again", || {
        let name = format!("primary.orders.{ZONE}");
        let view = cluster.service("orders");
        let moved = view.members.iter().find(|member| Some(&member.name) == view.primary.as_ref());
        match (moved, short(&cluster, &[&name, "A"]).as_slice()) {
            (Some(member), [one]) if member.node.as_ref() != Some(&node) => {
                assert_eq!(*one, member.address.unwrap().to_string());
                Ok(())
            }
            (member, found) => Err(format!("{member:?}, {found:?}")),
        }
    });
    assert_eq!(short(&cluster, &["-x", &members[&primary]]), [format!("{primary}.{ZONE}.")]);
}

/// One service of each engine, with one member each.
fn three_engines(cluster: &Cluster) {
    for (name, blueprint) in [("cache", "redis"), ("db", "postgresql"), ("zk", "zookeeper")] {
        cluster.create(name, blueprint, &["--replicas", "1"]);
    }
}

/// Lets each engine's own client write and read, knowing names only.
fn clients_work(
    cluster: &Cluster,
    run: impl Fn(&[&str], &BTreeMap<String, String>) -> Result<String, String>,
) {
    let mut words = Vec::new();
    let mut ask = |service: &str, command: &[&str]| {
        let env = cluster.connect(service).env;
        words.push(until(&format!("{command:?} works"), || run(command, &env)));
    };
    let (cache, db, zk) =
        (format!("primary.cache.{ZONE}"), format!("db-0.{ZONE}"), format!("zk.{ZONE}:2181"));
    ask("cache", &["redis-cli", "-h", &cache, "SET", "greeting", "hello"]);
    ask("cache", &["redis-cli", "-h", &format!("cache-0.{ZONE}"), "GET", "greeting"]);
    let psql = ["psql", "-h", &db, "-U", "postgres", "-tA", "-c", "SELECT 6 * 7"];
    ask("db", &psql);
    let client = cluster.connect("zk").client;
    let mut java: Vec<&str> = client.iter().map(String::as_str).collect();
    *java.last_mut().expect("the client names its servers") = &zk;
    java.extend(["ls", "/"]);
    ask("zk", &java);
    has(&words[0], &["OK"]);
    has(&words[1], &["hello"]);
    has(&words[2], &["42"]);
    has(&words[3], &["[zookeeper]"]);
}

fn outcome(mut command: Command, env: &BTreeMap<String, String>) -> Result<String, String> {
    let output = command.envs(env).output().expect("the client is installed");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    if output.status.success() {
        Ok(text)
    } else {
        Err(format!("{}: {text}{}", output.status, String::from_utf8_lossy(&output.stderr)))
    }
}

/// Everything is run by an ordinary user: cluster, engines and clients.
#[test]
fn clients_of_an_ordinary_user_know_members_by_name() {
    let user = is_root().then(|| {
        let nobody = nix::unistd::User::from_name("nobody").unwrap().expect("there is a user nobody");
        (nobody.uid.as_raw(), nobody.gid.as_raw())
    });
    let cluster = Cluster::of(Layout { nodes: 3, servers: 1, user, ..Layout::default() });
    three_engines(&cluster);
    clients_work(&cluster, |words, env| outcome(cluster.command([&["exec", "--"], words].concat()), env));
    // The same by the engine's own client, found and told by us.
    let none = BTreeMap::new();
    let connected = outcome(cluster.command(["connect", "cache", "--", "GET", "greeting"]), &none);
    has(&connected.unwrap(), &["hello"]);
    let connected = outcome(cluster.command(["connect", "db", "--", "-tAc", "SHOW server_version"]), &none);
    has(&connected.unwrap(), &["15."]);
}

/// A network of its own, in which the cluster's DNS server is the one that the machine's resolver asks.
#[test]
fn clients_know_members_by_name_through_the_machines_resolver() {
    if !is_root() {
        eprintln!("left out: the machine's resolver: a network namespace takes root");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let dns = SocketAddr::from((Ipv4Addr::new(127, 0, 0, 153), 53));
    let resolver = folder.path().join("resolv.conf");
    fs::write(&resolver, format!("nameserver {}\noptions timeout:1 attempts:2\n", dns.ip())).unwrap();
    // Of this thread and of all that it starts.
    unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS).unwrap();
    let none: Option<&str> = None;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).unwrap();
    mount(Some(&resolver), "/etc/resolv.conf", none, MsFlags::MS_BIND, none).unwrap();
    let up = Command::new("ip").args(["link", "set", "lo", "up"]).status().expect("ip is installed");
    assert!(up.success());
    let cluster = Cluster::of(Layout { nodes: 3, servers: 1, dns: Some(dns), ..Layout::default() });
    three_engines(&cluster);
    clients_work(&cluster, |words, env| {
        let mut command = Command::new(words[0]);
        command.args(&words[1..]);
        outcome(command, env)
    });
    let address = cluster.service("cache").members[0].address.unwrap();
    let found = Command::new("getent").args(["hosts", &format!("cache-0.{ZONE}")]).output().unwrap();
    has(&String::from_utf8_lossy(&found.stdout), &[&address.to_string()]);
}
