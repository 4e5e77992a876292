//! Bad input: an error that names the field or the file and says what to do, the exit code that scripts rely on, and
//! nothing half-done.

#![expect(clippy::unwrap_used, reason = "a test fails by a panic, and says what it leaves out")]

mod plane;
mod support;

use std::collections::BTreeSet;
use std::fs;
use std::net::{TcpListener, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};
use steadfast_core::model::{Operation, OperationState, Reason, ServiceState};

use plane::{Api, Reply, Servers};
use support::cluster::{Answer, Cluster, Layout};
use support::{is_root, process, until};

/// A service file that holds, with some fields changed; null takes one away.
fn spec(changes: Value) -> Value {
    let mut spec = json!({ "apiVersion": "steadfast/v1", "name": "orders", "blueprint": "redis" });
    for (key, value) in changes.as_object().unwrap() {
        spec[key] = value.clone();
    }
    spec.as_object_mut().unwrap().retain(|_, value| !value.is_null());
    spec
}

/// Writes a file beside the cluster's data.
fn file(cluster: &Cluster, name: &str, text: &str) -> PathBuf {
    let path = cluster.data().with_file_name(name);
    fs::write(&path, text).unwrap();
    path
}

/// That a command has failed like this: the code, and every one of these texts on standard error.
fn refused(answer: &Answer, code: i32, texts: &[&str]) {
    assert_eq!(answer.code, code, "{texts:?}: {answer:?}");
    for text in texts {
        assert!(answer.err.contains(text), "{text:?} is not told: {answer:?}");
    }
    assert!(answer.out.is_empty(), "an error is no result: {answer:?}");
    let lines: Vec<&str> = answer.err.trim_end().lines().collect();
    assert!(code == 64 || lines.len() > 1, "what went wrong, and what to do: {answer:?}");
}

/// The services there are.
fn services(cluster: &Cluster) -> Vec<Value> {
    let list: Value = cluster.try_json(&["list"]).unwrap();
    list["items"].as_array().unwrap().clone()
}

/// Whatever a service leaves behind: records, volumes, output.
fn traces(cluster: &Cluster, servers: &Api) -> BTreeSet<String> {
    let kinds =
        ["services", "members", "operations", "revisions", "secrets", "blueprints", "ip", "dns/names"];
    let records = kinds.iter().flat_map(|kind| servers.records::<Value>(kind).into_keys());
    let folders = ["volumes", "logs"].into_iter().flat_map(|folder| {
        let entries = fs::read_dir(cluster.data().join(folder)).unwrap().flatten();
        entries.filter_map(|entry| entry.file_name().into_string().ok()).filter(|name| !name.starts_with('.'))
    });
    records.chain(folders).collect()
}

/// Changes that do not hold, and the field that has to be named.
fn service_files() -> Vec<(Value, &'static str)> {
    let long = "a".repeat(64);
    vec![
        (json!({ "replicas": 0 }), "replicas"),
        (json!({ "replicas": 100 }), "replicas"),
        (json!({ "replicas": -1 }), "replicas"),
        (json!({ "replicas": "three" }), "replicas"),
        (json!({ "blueprint": "zookeeper", "replicas": 4 }), "replicas"),
        (json!({ "blueprint": "zookeeper", "replicas": 2 }), "replicas"),
        (json!({ "colour": "red" }), "colour"),
        (json!({ "placement": { "spred": "zone" } }), "placement.spred"),
        (json!({ "placement": { "spread": "moon" } }), "placement.spread"),
        (json!({ "durability": "eternal" }), "durability"),
        (json!({ "options": { "maxclients": 1 } }), "options.maxclients"),
        (json!({ "options": { "maxclients": "many" } }), "options.maxclients"),
        (json!({ "options": { "nope": 1 } }), "options.nope"),
        (json!({ "volumes": [{ "name": "journal" }] }), "volumes.journal"),
        (json!({ "volumes": [{ "name": "data", "size": "20 parsecs" }] }), "volumes[0].size"),
        (json!({ "failover": { "promote_after": "soon" } }), "failover.promote_after"),
        (json!({ "fencing": { "minimum": "F9" } }), "fencing.minimum"),
        (json!({ "apiVersion": "steadfast/v2" }), "apiVersion"),
        (json!({ "blueprint": "oracle" }), "blueprint"),
        (json!({ "blueprint": "redis@3" }), "blueprint"),
        (json!({ "name": "Bad_Name" }), "name"),
        (json!({ "name": long }), "name"),
        (json!({ "name": "" }), "name"),
        (json!({ "name": "orders-0" }), "name"),
        (json!({ "name": "ns" }), "name"),
        (json!({ "name": null }), "name"),
    ]
}

#[test]
fn a_service_file_that_does_not_hold_is_refused_by_its_field_and_leaves_nothing() {
    let cluster = Cluster::start();
    let servers = Servers::of(&cluster);
    let before = traces(&cluster, &servers);
    for (changes, field) in service_files() {
        let spec = spec(changes).to_string();
        let path = file(&cluster, "service.json", &spec);
        let told = format!("{field}: ");
        // A field that is missing is named by what misses it.
        let told = if spec.contains("\"name\"") { told.as_str() } else { "`name`" };
        for verb in ["plan", "apply"] {
            let answer = cluster.run([verb, "-f", path.to_str().unwrap()]);
            refused(&answer, 1, &[told, "[ConfigInvalid]"]);
        }
        let Reply { status, body } = servers.ask("server-1", "POST", "services", &[], Some(&spec)).unwrap();
        assert_eq!((status, &body["code"]), (422, &json!("ConfigInvalid")), "{field}: {body}");
        let error = &body["errors"][0];
        assert!(
            error["field"] == field || error.to_string().contains(&format!("`{field}`")),
            "{field}: {body}"
        );
        assert!(error["remedy"].as_str().is_some_and(|remedy| remedy.len() > 5), "{field}: {body}");
        assert_eq!(body["effect"], "None", "{body}");
    }
    // Several mistakes are told at once.
    let many = spec(json!({ "replicas": 0, "colour": "red" })).to_string();
    let path = file(&cluster, "service.json", &many);
    refused(&cluster.run(["apply", "-f", path.to_str().unwrap()]), 1, &["replicas: ", "colour: "]);
    assert_eq!(traces(&cluster, &servers), before, "nothing is half-done");
}

#[test]
fn what_the_api_does_not_know_is_refused_by_its_name() {
    let cluster = Cluster::start();
    let servers = Servers::of(&cluster);
    let ask = |method: &str, path: &str, body: Option<&str>| {
        let Reply { status, body } = servers.ask("server-1", method, path, &[], body).unwrap();
        (status, body["code"].as_str().unwrap_or_default().to_owned(), body)
    };
    let rows = [
        ("GET", "services?colour=red", None, 400, "ParameterUnknown", "colour"),
        ("GET", "services?limit=0", None, 400, "ParameterInvalid", "limit"),
        ("GET", "services?limit=many", None, 400, "ParameterInvalid", "limit"),
        ("GET", "services/Bad_Name", None, 400, "ParameterInvalid", "service"),
        ("GET", "nothing", None, 404, "RouteUnknown", "nothing"),
        ("PUT", "services", None, 405, "MethodUnsupported", "PUT"),
        ("POST", "services", Some("{"), 400, "BodyMalformed", "line 1"),
        ("POST", "services/nowhere/restart", None, 404, "NotFound", "nowhere"),
    ];
    for (method, path, body, status, code, named) in rows {
        let (got, got_code, problem) = ask(method, path, body);
        assert_eq!((got, got_code.as_str()), (status, code), "{method} {path}: {problem}");
        assert!(problem.to_string().contains(named), "{method} {path}: {named:?} is not told: {problem}");
    }
    assert!(services(&cluster).is_empty());
}

#[test]
fn every_refusal_has_its_exit_code_and_a_remedy_that_can_be_run() {
    let cluster = Cluster::start();
    let missing = cluster.data().with_file_name("missing.toml");
    let rows: [(&[&str], i32, &[&str]); 13] = [
        (&["get", "nowhere"], 5, &["service nowhere does not exist"]),
        (&["restart", "nowhere"], 5, &["service nowhere does not exist"]),
        (&["why", "nowhere-0"], 5, &["member nowhere-0 does not exist"]),
        (&["logs", "nowhere-0"], 5, &["nowhere-0 does not exist"]),
        (&["op", "get", "nothing"], 5, &["operation nothing does not exist"]),
        (&["node", "kill", "node-9"], 5, &["no node node-9"]),
        (&["node", "confirm-dead", "node-9"], 5, &["node node-9 does not exist"]),
        (&["apply", "-f", missing.to_str().unwrap()], 5, &["missing.toml"]),
        (&["create", "orders", "--blueprint", "redis", "--replicas", "0"], 1, &["replicas: "]),
        (&["create", "orders", "--blueprint", "redis", "--replicas", "many"], 64, &["--replicas", "many"]),
        (&["create", "orders", "--blueprint", "redis", "--fencing", "F9"], 64, &["--fencing", "F1, F2, F3"]),
        (
            &["create", "orders", "--blueprint", "redis", "--wait", "--timeout", "soon"],
            64,
            &["--timeout", "30s"],
        ),
        (&["frobnicate"], 64, &["frobnicate"]),
    ];
    for (arguments, code, texts) in rows {
        let answer = cluster.run(arguments);
        refused(&answer, code, texts);
        if code == 5 {
            remedy_runs(&cluster, &answer);
        }
    }

    cluster.create("orders", "redis", &["--replicas", "2"]);
    refused(
        &cluster.run(["restart", "orders", "--check-index", "0000"]),
        6,
        &["check index", "[IndexStale]"],
    );
    refused(&cluster.run(["undelete", "orders"]), 6, &["orders is not deleted"]);
    let answer = cluster.run(["restart", "orders", "--wait", "--timeout", "1ms"]);
    assert_eq!(answer.code, 3, "{answer:?}");
    assert!(answer.err.contains("it goes on: steadfast op get"), "{answer:?}");
    let answer = cluster.run(["start", "orders"]);
    refused(&answer, 6, &["[OperationExclusive]"]);
    remedy_runs(&cluster, &answer);
    until("the restart has gone on", || {
        let all: Value = cluster.try_json(&["op", "list", "--service", "orders"])?;
        let all: Vec<Operation> = serde_json::from_value(all["items"].clone()).unwrap();
        assert_eq!(all.len(), 2, "what is refused leaves no record: {all:?}");
        let done = all.iter().all(|operation| operation.state == OperationState::Succeeded);
        if done { Ok(()) } else { Err(format!("{all:?}")) }
    });
}

/// The command that a remedy proposes is one, and does something.
fn remedy_runs(cluster: &Cluster, answer: &Answer) {
    let Some((_, command)) = answer.err.split_once(": steadfast ") else { return };
    let command: Vec<&str> = command.lines().next().unwrap().split(' ').collect();
    // A placeholder is for the user to fill in.
    if !command.iter().any(|word| word.chars().all(char::is_uppercase)) {
        let ran = cluster.run(&command);
        assert_eq!(ran.code, 0, "the remedy {command:?} of {answer:?}: {ran:?}");
    }
}

#[test]
fn a_plan_says_by_its_code_whether_it_has_changes_and_a_changed_file_is_refused_by_what_differs() {
    let cluster = Cluster::start();
    let path = |name: &str, changes: Value| {
        file(&cluster, name, &spec(changes).to_string()).to_str().unwrap().to_owned()
    };
    let same = path("same.json", json!({ "replicas": 2 }));
    let changed = path("changed.json", json!({ "replicas": 3, "options": { "maxclients": 64 } }));
    let answer = cluster.run(["plan", "-f", &same]);
    assert_eq!(answer.code, 2, "{answer:?}");
    assert!(answer.out.contains("create   member orders-1"), "{answer:?}");
    assert!(services(&cluster).is_empty(), "a plan changes nothing");
    cluster.ok(["apply", "-f", &same, "--wait"]);
    // The same in flags is the same service.
    cluster.create("orders", "redis", &["--replicas", "2"]);
    let answer = cluster.run(["plan", "-f", &same]);
    assert_eq!((answer.code, answer.out.lines().next()), (0, Some("no changes")), "{answer:?}");
    let index = cluster.service("orders").index;
    let answer = cluster.run(["plan", "-f", &changed]);
    assert_eq!(answer.code, 2, "{answer:?}");
    let differs = ["options.maxclients", "replicas", "2 becomes 3"];
    assert!(differs.iter().all(|text| answer.out.contains(text)), "{answer:?}");
    let answer = cluster.run(["apply", "-f", &changed]);
    refused(&answer, 1, &["[ChangeUnsupported]", "options.maxclients", "replicas (2 becomes 3)"]);
    let view = cluster.service("orders");
    assert_eq!((view.index, view.replicas), (index, 2), "nothing of it is touched");
}

/// Larger volumes are the one change that is carried out: nobody is restarted for it.
#[test]
fn a_larger_volume_is_a_change_that_is_carried_out() {
    let cluster = Cluster::start();
    let of_size = |size: &str| {
        let volumes = json!([{ "name": "data", "size": size }]);
        let text = spec(json!({ "replicas": 2, "volumes": volumes })).to_string();
        file(&cluster, &format!("{size}.json"), &text).to_str().unwrap().to_owned()
    };
    cluster.create("orders", "redis", &["--replicas", "2"]);
    let engines = |cluster: &Cluster| {
        let view = cluster.service("orders");
        view.members.iter().map(|member| member.incarnation.clone().unwrap()).collect::<Vec<_>>()
    };
    let before = engines(&cluster);
    let larger = of_size("2GiB");
    let answer = cluster.run(["plan", "-f", &larger]);
    assert_eq!(answer.code, 2, "{answer:?}");
    assert!(answer.out.contains("change   volumes"), "{answer:?}");
    cluster.ok(["apply", "-f", &larger, "--wait"]);
    assert_eq!(engines(&cluster), before, "the same engines run");
    let answer = cluster.run(["plan", "-f", &larger]);
    assert_eq!((answer.code, answer.out.lines().next()), (0, Some("no changes")), "{answer:?}");
    let events = cluster.events("orders");
    let grown =
        events.iter().filter(|view| view.event.message == "volume data: 2GiB instead of 1GiB").count();
    assert_eq!(grown, 2, "{events:?}");
    let answer = cluster.run(["apply", "-f", &of_size("1GiB")]);
    refused(&answer, 1, &["[ChangeUnsupported]", "volumes"]);
}

#[test]
fn two_zones_for_a_quorum_are_told_when_it_is_planned() {
    let cluster = Cluster::of_nodes(2);
    let spec = spec(json!({ "blueprint": "zookeeper", "replicas": 3 })).to_string();
    let path = file(&cluster, "quorum.json", &spec);
    let answer = cluster.run(["plan", "-f", path.to_str().unwrap()]);
    assert_eq!(answer.code, 2, "{answer:?}");
    for text in ["ZoneLossSafe=False", "3 voters over 2 ready zones", "three zones are needed"] {
        assert!(answer.out.contains(text), "{text:?}: {answer:?}");
    }
    let report: Value = {
        let answer = cluster.run(["-o", "json", "plan", "-f", path.to_str().unwrap()]);
        serde_json::from_str(&answer.out).unwrap()
    };
    let condition = &report["conditions"][0];
    assert_eq!((&condition["kind"], &condition["status"]), (&json!("ZoneLossSafe"), &json!("False")));
    assert_eq!(condition["reason"], json!("QuorumInOneZone"), "{report}");
}

#[test]
fn a_port_in_use_is_named_by_whoever_needs_it() {
    // DNS: the cluster would run without its names, so it does not run.
    let mut cluster = Cluster::prepare(Layout { nodes: 3, servers: 1, ..Layout::default() });
    let dns = cluster.dns();
    let udp = UdpSocket::bind(dns).unwrap();
    let options = ["up", "--nodes", "3", "--servers", "1", "--dns", &dns.to_string()];
    refused(&cluster.run(options), 6, &["[PortInUse]", &dns.to_string(), "--dns"]);
    drop(udp);
    let tcp = TcpListener::bind(dns).unwrap();
    refused(&cluster.run(options), 6, &["[PortInUse]", &dns.to_string(), "--dns"]);
    drop(tcp);
    assert_eq!(process::using(cluster.data()).len(), 0, "nothing was started");
    cluster.up();

    // An `up` that is refused changes nothing of the one that runs.
    let config = cluster.data().join("cluster.json");
    let before = fs::read_to_string(&config).unwrap();
    refused(&cluster.run(["up", "--dns", "127.0.0.153:1"]), 6, &["another `steadfast up` runs"]);
    assert_eq!(fs::read_to_string(&config).unwrap(), before);

    // The API of a server that was told where to listen.
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let answer = cluster.run(["serve", "--id", "server-9", "--listen", &address]);
    assert_eq!(answer.code, 6, "{answer:?}");
    let told = ["[PortInUse]", address.as_str(), "--listen"].iter().all(|text| answer.err.contains(text));
    assert!(told, "{answer:?}");

    // A member's own address.
    let view = cluster.create("orders", "redis", &["--replicas", "1"]);
    let member = view.members.into_iter().next().unwrap();
    cluster.ok(["stop", "orders", "--wait"]);
    let squatter = TcpListener::bind((member.address.unwrap(), 6379)).unwrap();
    cluster.ok(["start", "orders"]);
    let why = until("why tells of the port", || {
        let why = cluster.ok(["why", "orders-0"]);
        if why.contains("PortInUse") { Ok(why) } else { Err(why) }
    });
    let told = format!("{}:6379", member.address.unwrap());
    assert!(why.contains(&told) || why.contains(&member.address.unwrap().to_string()), "{told}: {why}");
    assert!(why.contains("do:"), "{why}");
    drop(squatter);
    until("it serves once the port is free", || {
        let view = cluster.service("orders");
        if view.state == ServiceState::Healthy { Ok(()) } else { Err(format!("{:?}", view.members)) }
    });
    assert_eq!(cluster.member("orders", "orders-0").address, member.address);
    assert_eq!(cluster.count_events("orders", &Reason::Internal), 0);
}

#[test]
fn a_store_or_configuration_that_cannot_be_read_is_named_and_left_as_it_is() {
    let mut cluster = Cluster::start();
    cluster.create("orders", "redis", &["--replicas", "1"]);
    cluster.down();
    let serve = ["serve", "--id", "server-1", "--listen", "127.0.0.1:0"];
    let refused_with = |path: &Path, bytes: &[u8], texts: &[&str]| {
        let before = fs::read(path).unwrap();
        fs::write(path, bytes).unwrap();
        let answer = cluster.run(serve);
        assert_eq!(answer.code, 1, "{answer:?}");
        let name = path.file_name().unwrap().to_str().unwrap();
        for text in texts.iter().chain([&name]) {
            assert!(answer.err.contains(text), "{text:?}: {answer:?}");
        }
        assert_eq!(fs::read(path).unwrap(), bytes, "it is evidence, and left as it is");
        fs::write(path, before).unwrap();
    };
    let store = fs::read_dir(cluster.data().join("store")).unwrap().flatten().map(|entry| entry.path());
    let store = store.max_by_key(|path| fs::metadata(path).unwrap().len()).unwrap();
    let half = fs::read(&store).unwrap();
    refused_with(&store, &vec![0x5a; half.len()], &[]);
    refused_with(&store, b"short", &[]);

    let config = cluster.data().join("cluster.json");
    let with = |key: &str, value: Value| {
        let mut text: Value = serde_json::from_str(&fs::read_to_string(&config).unwrap()).unwrap();
        text[key] = value;
        text.to_string().into_bytes()
    };
    refused_with(&config, &with("format", json!(9)), &["[VersionTooNew]", "newer version"]);
    refused_with(&config, &with("colour", json!("red")), &["colour"]);
    refused_with(&config, &with("node_lease_ms", json!(1)), &["node_lease_ms", "between 500 and 600000"]);
    refused_with(&config, &with("loopback", json!("10.0.0.0/8")), &["10.0.0.0/8"]);
    refused_with(&config, b"{", &["line 1"]);

    cluster.up();
    until("everything is as it was", || {
        let view = cluster.service("orders");
        if view.state == ServiceState::Healthy { Ok(()) } else { Err(format!("{:?}", view.members)) }
    });
}

#[test]
fn a_data_folder_that_is_read_only_or_full_is_refused_before_anything_is_made() {
    if !is_root() {
        eprintln!("left out: read-only and full data folders: a disk can be mounted only by root");
        return;
    }
    let cluster = Cluster::prepare(Layout { nodes: 1, servers: 1, ..Layout::default() });
    fs::create_dir(cluster.data()).unwrap();
    let disk = cluster.data().to_str().unwrap();
    let run = |program: &str, arguments: &[&str]| {
        let status = Command::new(program).args(arguments).status().unwrap();
        assert!(status.success(), "{program} {arguments:?}");
    };
    let up = ["up", "--nodes", "1", "--dns", &cluster.dns().to_string()];
    for (options, code) in [("size=8m", "[DiskFull]"), ("size=200m,ro", "[DiskReadOnly]")] {
        run("mount", &["-t", "tmpfs", "-o", options, "tmpfs", disk]);
        let answer = cluster.run(up);
        let left: Vec<_> = fs::read_dir(cluster.data()).unwrap().flatten().collect();
        run("umount", &[disk]);
        refused(&answer, 1, &[code, disk, "--data"]);
        assert!(left.is_empty(), "{code}: {left:?}");
    }
    assert_eq!(process::using(cluster.data()).len(), 0, "nothing was started");
}

#[test]
fn a_blueprint_that_does_not_hold_is_refused_by_its_line() {
    let cluster = Cluster::prepare(Layout { nodes: 1, servers: 1, ..Layout::default() });
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("crates/catalog/blueprints/redis");
    let folder = cluster.data().with_file_name("redis");
    fs::create_dir(&folder).unwrap();
    let copy = |change: &dyn Fn(&str, String) -> String| {
        for entry in fs::read_dir(&source).unwrap().flatten() {
            let name = entry.file_name().into_string().unwrap();
            let text = change(&name, fs::read_to_string(entry.path()).unwrap());
            fs::write(folder.join(name), text).unwrap();
        }
    };
    let lint = || cluster.run(["catalog", "lint", folder.to_str().unwrap()]);
    copy(&|_, text| text);
    let answer = lint();
    assert_eq!(answer.code, 0, "{answer:?}");

    let line_of = |file: &str, text: &str| {
        let found = fs::read_to_string(folder.join(file)).unwrap();
        1 + found.lines().position(|line| line.contains(text)).unwrap()
    };
    let rows: [(&str, &str, &str); 5] = [
        // The file, what is replaced in it, and by what.
        ("blueprint.toml", "default = 10000\n", "default = \"many\"\n"),
        ("blueprint.toml", "leadership = \"steadfast\"\n", "leadership = \"anarchy\"\n"),
        ("blueprint.toml", "port = 6379\n", "port = 6379\ncolour = \"red\"\n"),
        ("blueprint.toml", "cwd = \"{{ data_dir }}\"\n", "cwd = \"{{ nowhere }}\"\n"),
        ("blueprint.toml", "dir = \"{{ volumes.data }}/redis\"\n", "dir = \"{{ volumes.data }/redis\"\n"),
    ];
    for (name, from, to) in rows {
        copy(&|file, text| {
            assert!(file != name || text.contains(from), "{from:?} is not in {file}");
            if file == name { text.replacen(from, to, 1) } else { text }
        });
        let answer = lint();
        assert_eq!(answer.code, 1, "{to:?}: {answer:?}");
        let last = to.trim_end().lines().last().unwrap();
        let place = format!("{}:{}:", folder.join(name).display(), line_of(name, last));
        assert!(answer.out.contains(&place), "{place} of {to:?}: {answer:?}");
        assert!(answer.out.lines().count() > 1, "a remedy: {answer:?}");
    }
    // A template of its own, and a file that is not there.
    copy(&|file, text| if file == "redis.conf.j2" { format!("{text}\n{{{{ nowhere }}}}\n") } else { text });
    let answer = lint();
    let place = format!("redis.conf.j2:{}:", line_of("redis.conf.j2", "{{ nowhere }}"));
    assert!(answer.code == 1 && answer.out.contains(&place), "{place}: {answer:?}");
    let answer = cluster.run(["catalog", "lint", folder.join("missing.toml").to_str().unwrap()]);
    assert_eq!(answer.code, 5, "{answer:?}");
}
