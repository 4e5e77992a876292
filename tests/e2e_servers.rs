//! Three servers on the embedded store: any of them may die, or stand still, at any moment of any operation, and
//! another goes on where it was. One disk: this is about controllers, and does not prove a replicated store.

mod plane;
mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde::Deserialize;
use serde_json::{Value, json};
use steadfast_core::ids::OperationId;
use steadfast_core::model::{Member, MemberPhase, Operation, OperationKind, OperationState};
use steadfast_core::runtime::Timestamp;

use plane::facts::{Facts, MEMBERS, SERVICE, member_names, operations};
use plane::{Api, Reply, Servers};
use support::cluster::{Cluster, Layout, address_of};
use support::redis::REDIS;
use support::writer::{Target, Writer, check};
use support::{process, until, until_within};

/// Longer than any lease of the default configuration.
const PAST_EVERY_LEASE: Duration = Duration::from_secs(5);
/// How long the store may be without an owner after the death of one.
const TAKEOVER: Duration = Duration::from_secs(10);

/// Three nodes and three servers.
fn three() -> Cluster {
    Cluster::of(Layout { nodes: 3, servers: 3, ..Layout::default() })
}

/// From now on nobody starts again what is killed.
fn kill_supervisor(cluster: &mut Cluster) {
    let servers = Servers::of(cluster);
    // Not before every server has begun.
    for server in servers.all() {
        servers.address(&server);
    }
    drop(servers);
    process::signal(cluster.up_pid(), Signal::SIGKILL);
    cluster.bury_up();
}

/// Starts the supervisor again, and waits until its own servers and agents have replaced those that ran without it.
fn up_again(cluster: &mut Cluster) {
    cluster.start_up();
    let up = cluster.up_pid();
    let cluster = &*cluster;
    until("everything is the supervisor's own", || {
        let servers = Servers::of(cluster).all().into_iter().map(|server| cluster.server_pid(&server));
        let agents = (1..=3).map(|node| cluster.agent_pid(&format!("node-{node}")));
        let strangers: Vec<i32> =
            servers.chain(agents).filter(|pid| process::parent(*pid) != Some(up)).collect();
        if strangers.is_empty() { Ok(()) } else { Err(format!("{strangers:?}")) }
    });
    cluster.is_up();
}

/// Whom to kill.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Victim {
    /// The owner of the store.
    Owner,
    /// The one whose lease works on the service.
    Worker,
    /// Neither.
    Bystander,
}

/// Asks a server for an operation of the service under an idempotency key.
fn ask(servers: &Api, server: &str, kind: OperationKind, key: &str) -> Result<Operation, String> {
    let spec = json!({
        "apiVersion": "steadfast/v1", "name": SERVICE, "blueprint": "redis", "replicas": MEMBERS,
    })
    .to_string();
    let headers = [("idempotency-key", key)];
    let Reply { status, body } = match kind {
        OperationKind::Create => servers.ask(server, "POST", "services", &headers, Some(&spec)),
        OperationKind::Delete => {
            servers.ask(server, "DELETE", &format!("services/{SERVICE}"), &headers, None)
        }
        other => servers.ask(server, "POST", &format!("services/{SERVICE}/{other}"), &headers, None),
    }?;
    match status {
        // 202: it begins; 200: it is over, and was asked for before.
        200 | 202 => serde_json::from_value(body).map_err(|error| error.to_string()),
        _ => Err(format!("{status}: {body}")),
    }
}

/// Sees to it that the service is worked on by another server than the one that owns the store.
fn part_roles(servers: &Servers<'_>) -> (String, String, String) {
    servers.all_work_is_taken();
    until("one server owns the store, and another works on the service", || {
        let (owner, worker) = (servers.owner(), servers.worker(SERVICE));
        if owner == worker {
            // In order: the ownership and the shares go to others at once.
            servers.stop(&owner);
            servers.start(&owner);
            servers.all_work_is_taken();
            return Err(format!("{owner} does both"));
        }
        let bystander = servers.all().into_iter().find(|server| *server != owner && *server != worker);
        Ok((owner, worker, bystander.ok_or("there is no third server")?))
    })
}

/// Kills a server in the middle of an operation, and checks that another has finished it, once.
fn interrupted(cluster: &Cluster, servers: &Servers<'_>, victim: Victim, kind: OperationKind) {
    let (owner, worker, bystander) = part_roles(servers);
    let (victim_name, other) = match victim {
        Victim::Owner => (&owner, &bystander),
        Victim::Worker => (&worker, &bystander),
        Victim::Bystander => (&bystander, &owner),
    };
    let what = format!("{kind} while the {victim:?} ({victim_name}) dies");
    let before = Facts::of(cluster, servers);
    let key = format!("{kind}-1");

    // Engines take their time to start. What would be over sooner has an agent that stands still until the server is
    // dead.
    let agent = match kind {
        OperationKind::Create | OperationKind::Start | OperationKind::Undelete => None,
        _ => {
            let node = before.members.values().find_map(|member| member.placed_on.clone());
            Some(cluster.agent_pid(node.unwrap_or_else(|| panic!("{what}: nobody runs")).as_str()))
        }
    };
    let signal_agent = |signal| agent.into_iter().for_each(|agent| process::signal(agent, signal));
    signal_agent(Signal::SIGSTOP);
    let asked = ask(servers, victim_name, kind, &key).unwrap_or_else(|error| panic!("{what}: {error}"));
    until(&format!("{what}: it is under way"), || {
        let Reply { body, .. } = servers.ask(other, "GET", &format!("operations/{}", asked.id), &[], None)?;
        let now: Operation = serde_json::from_value(body).map_err(|error| error.to_string())?;
        assert!(!now.state.is_final(), "{what}: over too early: {now:?}");
        match now.server.as_ref() {
            Some(server) if server.as_str() == worker && now.state != OperationState::Pending => Ok(()),
            _ => Err(format!("{now:?}")),
        }
    });
    servers.kill(victim_name);
    let dead_since = Timestamp::now();
    signal_agent(Signal::SIGCONT);

    // Asked again at another server, under the same key: the operation of the first time.
    let again = until(&format!("{what}: it is answered elsewhere"), || ask(servers, other, kind, &key));
    assert_eq!(again.id, asked.id, "{what}");
    let path = format!("operations/{}", asked.id);
    let ended: Operation = until(&format!("{what}: it is finished"), || {
        let now: Operation = servers.read(&path);
        if now.state.is_final() { Ok(now) } else { Err(format!("{now:?}")) }
    });
    assert_eq!(ended.state, OperationState::Succeeded, "{what}: {ended:?}");
    assert!(ended.updated_at > dead_since, "{what}: it was finished before: {ended:?}");
    let finisher = ended.server.unwrap_or_else(|| panic!("{what}: nobody has finished it")).to_string();
    assert_ne!(&finisher, victim_name, "{what}");
    if victim == Victim::Owner {
        assert_ne!(&servers.owner(), victim_name, "{what}: another owns the store");
    }
    happened_once(&what, kind, &before, &Facts::of(cluster, servers), &asked.id);
    servers.start(victim_name);
}

fn happened_once(what: &str, kind: OperationKind, before: &Facts, after: &Facts, id: &OperationId) {
    let new: Vec<&OperationId> = after.operations.difference(&before.operations).collect();
    assert_eq!(new, [id], "{what}: one record");
    let begins = matches!(kind, OperationKind::Create | OperationKind::Start | OperationKind::Undelete);
    let restarts = kind == OperationKind::Restart;
    for name in member_names() {
        let now = &after.members[&name];
        let was = before.members.get(&name);
        let generation = was.map_or(0, |was| was.generation.0) + u64::from(restarts || was.is_none());
        assert_eq!(now.generation.0, generation, "{what}: generation of {name}");
        let epoch = was.map_or(0, |was| was.epoch.0) + u64::from(begins);
        assert_eq!(now.epoch.0, epoch, "{what}: {name} was claimed once if at all: {now:?}");
        let starts = before.starts[&name] + usize::from(begins || restarts);
        assert_eq!(after.starts[&name], starts, "{what}: lives of the engine of {name}");
        let phase = match kind {
            OperationKind::Stop => MemberPhase::Stopped,
            OperationKind::Delete => MemberPhase::Removed,
            _ => MemberPhase::Serving,
        };
        assert_eq!(now.phase, phase, "{what}: {name}");
        if let Some(was) = was {
            let ids = |member: &Member| member.volumes.iter().map(|v| v.id.clone()).collect::<Vec<_>>();
            assert_eq!((&now.id, ids(now)), (&was.id, ids(was)), "{what}: {name} is itself");
        }
    }
    assert_eq!(after.members.len(), MEMBERS, "{what}: {:?}", after.members);
    assert_eq!(after.volumes.len(), MEMBERS, "{what}: {:?}", after.volumes);
    assert!(
        before.volumes.is_subset(&after.volumes),
        "{what}: {:?} became {:?}",
        before.volumes,
        after.volumes
    );
    let addresses = if kind == OperationKind::Delete { 0 } else { MEMBERS };
    assert_eq!(after.addresses, addresses, "{what}: addresses");
    assert_eq!(after.names == 0, kind == OperationKind::Delete, "{what}: {} names", after.names);
}

/// Every kind of operation in turn, each with a death in its middle, and what was written in between.
fn chain(victim: Victim) {
    let mut cluster = three();
    kill_supervisor(&mut cluster);
    let servers = Servers::of(&cluster);
    interrupted(&cluster, &servers, victim, OperationKind::Create);
    // The same asked for once more is the same service.
    cluster.create(SERVICE, "redis", &["--replicas", "3"]);
    let written = Writer::start(&cluster, &REDIS, SERVICE).finish();
    for kind in [
        OperationKind::Restart,
        OperationKind::Stop,
        OperationKind::Start,
        OperationKind::Delete,
        OperationKind::Undelete,
    ] {
        interrupted(&cluster, &servers, victim, kind);
        if !matches!(kind, OperationKind::Stop | OperationKind::Delete) {
            check(&Target::of(&cluster, &REDIS, SERVICE), &written);
        }
    }
    let identity = cluster.identity(SERVICE);
    drop(servers);
    up_again(&mut cluster);
    cluster.settled(&identity);
}

#[test]
fn the_stores_owner_dies_in_the_middle_of_every_kind_of_operation() {
    chain(Victim::Owner);
}

#[test]
fn the_server_that_works_on_a_service_dies_in_the_middle_of_every_kind_of_operation() {
    chain(Victim::Worker);
}

#[test]
fn a_bystander_dies_in_the_middle_of_every_kind_of_operation() {
    chain(Victim::Bystander);
}

/// A user's client that keeps changing the cluster: every server in turn is asked to write a record of its own, and
/// what was acknowledged is remembered.
fn write_through_the_api(
    servers: &Api,
    until: &AtomicBool,
    count: &AtomicUsize,
) -> (BTreeSet<u64>, Duration) {
    let (mut acknowledged, mut last, mut longest) = (BTreeSet::new(), Instant::now(), Duration::ZERO);
    let all = servers.all();
    for (number, server) in (0..).zip(all.iter().cycle()) {
        if until.load(Ordering::Relaxed) {
            break;
        }
        let record = json!({ "schema": 1, "write_id": format!("w{number}"), "body": number }).to_string();
        let value = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, record);
        let body = json!({ "value": value, "precondition": "Absent" }).to_string();
        let path = format!("record?key=steadfast/local/scratch/{number}");
        match servers.ask_store(server, "PUT", &path, Some(&body)) {
            Ok(Reply { status: 200, body }) => {
                assert!(body.to_string().to_lowercase().contains("applied"), "{number}: {body}");
                acknowledged.insert(number);
                count.fetch_add(1, Ordering::Relaxed);
                longest = longest.max(last.elapsed());
                last = Instant::now();
            }
            // Dead, or without a store for now: whether it was written is not known.
            Ok(Reply { status: 500..600, .. }) | Err(_) => std::thread::sleep(Duration::from_millis(20)),
            Ok(other) => panic!("{number} at {server}: {other:?}"),
        }
    }
    (acknowledged, longest)
}

#[test]
fn the_owner_dies_again_and_again_and_no_acknowledged_change_is_lost() {
    let mut cluster = three();
    cluster.create(SERVICE, "redis", &["--replicas", "2"]);
    let identity = cluster.identity(SERVICE);
    kill_supervisor(&mut cluster);
    let servers = Servers::of(&cluster);
    let writer = Writer::start(&cluster, &REDIS, SERVICE);
    let (done, count) = (AtomicBool::new(false), AtomicUsize::new(0));
    let changes_go_on = || {
        let before = count.load(Ordering::Relaxed);
        until("further changes are acknowledged", || match count.load(Ordering::Relaxed) {
            now if now >= before + 20 => Ok(()),
            now => Err(format!("{now} after {before}")),
        });
    };
    let (view, api) = (&cluster, Api::clone(&servers));
    let (acknowledged, longest) = std::thread::scope(|scope| {
        let client = scope.spawn(|| write_through_the_api(&api, &done, &count));
        for _ in 0..3 {
            changes_go_on();
            let owner = servers.owner();
            servers.kill(&owner);
            until_within(TAKEOVER, "another owns the store, and answers", || {
                let heir = servers.living().into_iter().find(|server| {
                    servers.ask(server, "GET", "services/orders", &[], None).is_ok_and(|it| it.status == 200)
                });
                heir.map(drop).ok_or_else(|| "not yet".to_owned())
            });
            assert_ne!(servers.owner(), owner);
            until_within(TAKEOVER, "names are answered by the heir", || {
                for (name, member) in
                    &view.service(SERVICE).members.iter().map(|m| (m.host.clone(), m)).collect::<Vec<_>>()
                {
                    if Some(address_of(view, name)?) != member.address {
                        return Err(format!("{name} is another"));
                    }
                }
                Ok(())
            });
            servers.start(&owner);
        }
        changes_go_on();
        done.store(true, Ordering::Relaxed);
        client.join().unwrap()
    });
    assert!(longest < TAKEOVER, "{longest:?} without a store");
    let found: BTreeMap<String, u64> = servers.records("scratch");
    let found: BTreeSet<u64> = found.into_values().collect();
    let lost: Vec<&u64> = acknowledged.difference(&found).collect();
    assert!(lost.is_empty(), "acknowledged and lost: {lost:?} of {}", acknowledged.len());
    assert_eq!(writer.broken(), 0, "members do not notice");
    writer.finish();
    drop(servers);
    up_again(&mut cluster);
    cluster.settled(&identity);
}

#[test]
fn an_owner_that_stands_still_past_its_leases_goes_on_as_if_nothing_was() {
    let cluster = three();
    cluster.create(SERVICE, "redis", &["--replicas", "3"]);
    let identity = cluster.identity(SERVICE);
    let servers = Servers::of(&cluster);
    let lives: Vec<_> =
        cluster.service(SERVICE).members.into_iter().map(|m| (m.incarnation, m.epoch)).collect();
    let writer = Writer::start(&cluster, &REDIS, SERVICE);
    let owner = servers.owner();
    let pid = cluster.server_pid(&owner);
    process::signal(pid, Signal::SIGSTOP);
    let stopped = Instant::now();
    let other = servers.all().into_iter().find(|server| *server != owner).unwrap();
    // The kernel's lock does not lapse: nobody takes the store from a process that may go on at any moment.
    let answer = ask(&servers, &other, OperationKind::Restart, "while-it-stands");
    match &answer {
        Err(refusal) => assert!(refusal.starts_with("50"), "the store's absence is told: {refusal}"),
        Ok(operation) => panic!("there is no store: {operation:?}"),
    }
    until("every lease has lapsed", || {
        if stopped.elapsed() > PAST_EVERY_LEASE { Ok(()) } else { Err("not yet".to_owned()) }
    });
    writer.goes_on();
    process::signal(pid, Signal::SIGCONT);
    // What was asked for meanwhile may have happened or not; under its key it happens once.
    let restart =
        until("the restart is taken", || ask(&servers, &other, OperationKind::Restart, "while-it-stands"));
    until("the restart is done", || {
        let now: Operation = servers.read(&format!("operations/{}", restart.id));
        if now.state == OperationState::Succeeded { Ok(()) } else { Err(format!("{now:?}")) }
    });
    assert_eq!(servers.owner(), owner, "it never lost the store");
    assert_eq!(cluster.server_pid(&owner), pid);
    cluster.settled(&identity);
    let restarts = operations(&servers).into_values().filter(|o| o.kind == OperationKind::Restart).count();
    assert_eq!(restarts, 1);
    for (member, (life, epoch)) in cluster.service(SERVICE).members.iter().zip(lives) {
        assert_ne!(member.incarnation, life, "{} was restarted", member.name);
        assert_eq!(member.epoch, epoch, "{} was not claimed anew", member.name);
    }
    let members: BTreeMap<String, Member> = servers.records(&format!("members/{SERVICE}"));
    assert!(members.values().all(|member| member.generation.0 == 2), "restarted once: {members:?}");
    writer.finish();
}

#[test]
fn one_key_at_every_server_at_once_is_one_operation() {
    let cluster = three();
    cluster.create(SERVICE, "redis", &["--replicas", "3"]);
    let servers = Servers::of(&cluster);
    let api = Api::clone(&servers);
    let ask_all = |kind: OperationKind, key: &'static str| -> BTreeSet<OperationId> {
        std::thread::scope(|scope| {
            let clients: Vec<_> = servers
                .all()
                .into_iter()
                .map(|server| {
                    let api = &api;
                    scope.spawn(move || until("it is taken", || ask(api, &server, kind, key)).id)
                })
                .collect();
            clients.into_iter().map(|client| client.join().unwrap()).collect()
        })
    };
    let finish = |id: &OperationId| {
        until("it is done", || {
            let now: Operation = servers.read(&format!("operations/{id}"));
            if now.state == OperationState::Succeeded { Ok(()) } else { Err(format!("{now:?}")) }
        });
    };
    let ids = ask_all(OperationKind::Restart, "k");
    let [id] = ids.iter().collect::<Vec<_>>()[..] else { panic!("{ids:?}") };
    finish(id);
    let members: BTreeMap<String, Member> = servers.records(&format!("members/{SERVICE}"));
    assert!(members.values().all(|member| member.generation.0 == 2), "restarted once: {members:?}");
    // Once it is long over, too; another key is another operation.
    assert_eq!(ask_all(OperationKind::Restart, "k"), ids);
    assert_ne!(ask_all(OperationKind::Restart, "l"), ids);
}

#[test]
fn a_creation_that_is_asked_for_again_after_the_deletion_does_not_bring_it_back() {
    let cluster = three();
    let servers = Servers::of(&cluster);
    let spec = json!({
        "apiVersion": "steadfast/v1", "name": SERVICE, "blueprint": "redis", "replicas": 1,
        "volumes": [{ "name": "data", "on_delete": "delete" }],
    })
    .to_string();
    let create = |server: &str| -> OperationId {
        let headers = [("idempotency-key", "made-once")];
        let Reply { status, body } = servers.ask(server, "POST", "services", &headers, Some(&spec)).unwrap();
        assert!(matches!(status, 200 | 202), "{body}");
        body["id"].as_str().unwrap().parse().unwrap()
    };
    let first = create("server-1");
    cluster.ok(["op", "get", first.as_str(), "--wait"]);
    cluster.ok(["delete", SERVICE, "--wait"]);
    let before = operations(&servers);
    assert_eq!(create("server-2"), first);
    assert_eq!(operations(&servers), before);
    let service: BTreeMap<String, Value> = servers.records("services");
    assert!(service.values().all(|service| service["deleted"] == true), "it stays deleted: {service:?}");
}

#[derive(Debug, Deserialize)]
struct Listed {
    items: Vec<Value>,
}

#[test]
fn members_serve_with_every_server_dead_and_agents_find_the_next_ones() {
    let mut cluster = three();
    cluster.create(SERVICE, "redis", &["--replicas", "3"]);
    let identity = cluster.identity(SERVICE);
    let lives: Vec<_> = member_names().map(|member| cluster.guard(member.as_str())).collect();
    let agents: Vec<i32> = (1..=3).map(|node| cluster.agent_pid(&format!("node-{node}"))).collect();
    let writer = Writer::start(&cluster, &REDIS, SERVICE);
    kill_supervisor(&mut cluster);
    let servers = Servers::of(&cluster);
    for server in servers.all() {
        servers.kill(&server);
    }
    let begun = Instant::now();
    while begun.elapsed() < PAST_EVERY_LEASE {
        writer.goes_on();
    }
    assert_eq!(writer.broken(), 0, "no write failed and no connection broke");
    let answer = cluster.run(["get", SERVICE]);
    assert_eq!(answer.code, 1, "{answer:?}");
    assert!(answer.err.contains("does not answer") && answer.err.contains("steadfast up"), "{answer:?}");

    for server in servers.all() {
        servers.start(&server);
    }
    cluster.is_up();
    cluster.settled(&identity);
    assert_eq!(
        member_names().map(|m| cluster.guard(m.as_str())).collect::<Vec<_>>(),
        lives,
        "nobody restarted"
    );
    let now: Vec<i32> = (1..=3).map(|node| cluster.agent_pid(&format!("node-{node}"))).collect();
    assert_eq!(now, agents, "the same agents");
    // They do not only report, they also obey.
    cluster.ok(["restart", SERVICE, "--wait"]);
    let nodes: Listed = cluster.try_json(&["node", "list"]).unwrap();
    assert_eq!(nodes.items.len(), 3);
    writer.finish();
    drop(servers);
    up_again(&mut cluster);
    cluster.settled(&identity);
}
