//! A PostgreSQL of three members on a Docker Swarm: replication between containers, and a failover: `make test-swarm`.
#![cfg(all(feature = "etcd", feature = "linux", feature = "swarm"))]
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test ends where something is not as it should be"
)]

mod common;
mod docker;
mod lab;
#[path = "../../backends/linux/tests/network/mod.rs"]
mod network;

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::time::Instant;

use common::{expect, out};
use docker::has_docker;
use lab::{COUNT, Lab};
use network::{eventually, may_make_networks};

const IMAGE: &str = "steadfast-lab-postgresql";

/// What the server of PostgreSQL needs of this machine: what it loads by itself is no library of the program's.
const PARTS: &str = "/usr/lib/postgresql/15/bin/postgres \
    /usr/lib/postgresql/15/lib/libpqwalreceiver.so /usr/lib/postgresql/15/lib/plpgsql.so \
    /usr/lib/postgresql/15/lib/dict_snowball.so /usr/share/postgresql/15 /usr/share/zoneinfo /usr/lib/locale";

/// Once the node is dead by its lease and the margin (12 s), the primary has been down for longer than this: both survivors are asked how far
/// they are, and the farther one is promoted, though the swarm may have lost its leader with the node. The old primary's
/// return has to wait for the swarm; where it is back before both have answered, it leads again.
const SERVICE: &str = r#"
apiVersion = "steadfast/v1"
name = "orders"
blueprint = "postgresql"
replicas = 3
[failover]
promote_after = "3s"
[fencing]
minimum = "F1"
accept_lease = true
"#;

fn has_postgresql(test: &str) -> bool {
    let found = Path::new("/usr/lib/postgresql/15/bin/postgres").exists();
    if !found {
        assert!(std::env::var_os("CI").is_none(), "{test} needs postgresql-15");
        println!("left out: {test}: PostgreSQL 15 is not installed");
    }
    found
}

/// What a statement gives, asked from a machine by the service's name.
fn sql(lab: &Lab, at: u8, statement: &str) -> Option<String> {
    let output = lab.cli(at, &["connect", "orders", "--", "-tAqc", statement]);
    output.status.success().then(|| out(&output).trim().to_owned())
}

/// Members' names and addresses.
type Addresses = BTreeSet<(String, String)>;

/// The primary and its machine, and the addresses of all by name, once everything serves.
fn healthy(lab: &Lab, at: u8) -> Option<(String, u8, Addresses)> {
    let view = lab.json(at, &["get", "orders"])?;
    let members = view["members"].as_array()?;
    let addresses = members.iter().map(|member| {
        let text = |field: &str| Some(member[field].as_str()?.to_owned());
        Some((text("name")?, text("address")?))
    });
    let addresses: Addresses = addresses.collect::<Option<_>>()?;
    let primary = view["primary"].as_str()?.to_owned();
    let its = members.iter().find(|member| member["name"] == primary.as_str())?;
    let on = (0..COUNT).find(|at| its["node"] == format!("node-{at}"))?;
    (view["state"] == "Healthy").then_some((primary, on, addresses))
}

#[test]
fn a_postgresql_in_containers_replicates_and_fails_over_with_everything_that_was_acknowledged() {
    let test = "a_postgresql_in_containers_replicates_and_fails_over_with_everything_that_was_acknowledged";
    if !may_make_networks(test) || !has_postgresql(test) || !has_docker(test) {
        return;
    }
    let mut lab = Lab::on_a_swarm();
    for at in 0..COUNT {
        lab.engine(at).make_image_of(lab.machine(at), PARTS, IMAGE);
    }
    lab.up(&["--swarm-image", &format!("postgresql={IMAGE}")], &["--volume-plugin"]);
    let file = lab.folder.path().join("orders.toml");
    fs::write(&file, SERVICE).unwrap();
    expect(&lab.cli(0, &["apply", "-f", file.to_str().unwrap(), "--wait"]), 0);
    let (primary, on, addresses) = eventually("it is healthy", || healthy(&lab, 0));
    println!("{primary} leads on node-{on}: {addresses:?}");
    let near = (on + 1) % COUNT;
    eventually("a table", || sql(&lab, near, "CREATE TABLE IF NOT EXISTS t (n bigint PRIMARY KEY)"));
    let mut acknowledged = BTreeSet::new();
    let mut write = |lab: &Lab, number: u64| {
        let done = sql(lab, near, &format!("INSERT INTO t VALUES ({number})")).is_some();
        if done {
            acknowledged.insert(number);
        }
        done
    };
    for number in 0..20 {
        write(&lab, number);
    }
    let replicas = eventually("two standbys stream", || {
        sql(&lab, near, "SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming'")
            .filter(|count| count == "2")
    });
    assert_eq!(replicas, "2");

    // The primary's machine loses its engine of Docker, its container and its agent.
    lab.kill_node(on, &primary);
    let begun = Instant::now();
    let mut number = 20;
    eventually("writes are acknowledged again", || {
        number += 1;
        write(&lab, number).then_some(())
    });
    println!("writes again after {:.1} s", begun.elapsed().as_secs_f64());
    println!("{}", out(&lab.cli(near, &["events", "orders"])));
    let (new, its, after) = eventually("it is healthy on two machines", || healthy(&lab, near));
    assert_eq!(after, addresses, "names and addresses stay");
    assert_ne!(its, on);
    println!("{new} leads on node-{its}, all serve after {:.1} s", begun.elapsed().as_secs_f64());
    for more in 1..10 {
        write(&lab, number + more);
    }
    let there = eventually("what is there", || sql(&lab, near, "SELECT n FROM t"));
    let there: BTreeSet<u64> = there.lines().map(|line| line.parse().unwrap()).collect();
    let missing: Vec<_> = acknowledged.difference(&there).collect();
    assert!(missing.is_empty() && acknowledged.len() > 20, "{missing:?} of {acknowledged:?}");

    // The machine comes back, and gets nothing that it should not have.
    lab.start_docker(on);
    lab.start_agent(on);
    lab.all_ready(near);
    eventually("it is healthy", || healthy(&lab, near));
    let running: usize = (0..COUNT).map(|at| usize::from(!lab.processes_of(at, &primary).is_empty())).sum();
    assert_eq!(running, 1, "{primary} runs once");
    expect(&lab.cli(near, &["delete", "orders", "--wait"]), 0);
    eventually("the swarm has no service", || {
        lab.told_by_docker(near, &["service", "ls", "--quiet"])?.is_empty().then_some(())
    });
}
