//! The program with a cluster of its own: servers and agents as processes, without any engine.

#![allow(clippy::unwrap_used, reason = "a test ends where something is not as it should be")]

mod common;

use std::fs::{self, File};
use std::path::Path;

use common::cluster::{Cluster, free_dns, holder};
use common::{err, eventually, expect, out, run};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

#[test]
fn a_cluster_answers_in_every_shape_and_with_every_exit_code() {
    let cluster = Cluster::start(&[]);
    let data = cluster.data();
    let run = |arguments: &[&str]| run(data, arguments);

    // Shapes.
    let table = out(&run(&["node", "list"]));
    assert!(table.starts_with("NODE"), "{table}");
    assert_eq!(out(&run(&["node", "list", "-o", "name"])), "node-1\nnode-2\n");
    assert!(out(&run(&["node", "list", "-o", "wide"])).contains("INCARNATION"));
    assert!(out(&run(&["node", "list", "-o", "yaml"])).contains("name: node-1"));
    assert_eq!(out(&run(&["list", "-o", "json"])).split_whitespace().collect::<String>(), "{\"items\":[]}");

    // Not found.
    for arguments in
        [&["get", "nothing"][..], &["why", "nothing-0"], &["logs", "nothing-0"], &["op", "get", "nothing"]]
    {
        expect(&run(arguments), 5);
    }
    expect(&run(&["node", "kill", "node-9"]), 5);

    // A flag that only the server can tell to be wrong.
    expect(&run(&["restart", "nothing", "--idempotency-key", "two words"]), 64);

    // A plan that has changes; the same file with mistakes.
    let file = data.join("cache.toml");
    let text = "apiVersion = \"steadfast/v1\"\nname = \"cache\"\nblueprint = \"redis\"\nreplicas = 2\n";
    fs::write(&file, text).unwrap();
    let plan = run(&["plan", "-f", file.to_str().unwrap(), "-o", "json"]);
    expect(&plan, 2);
    let report: serde_json::Value = serde_json::from_slice(&plan.stdout).unwrap();
    assert!(report["index"].is_string() && report["outage_rule"].is_string(), "{report}");
    let told = out(&run(&["plan", "-f", file.to_str().unwrap()]));
    let fencing = told.lines().find(|line| line.starts_with("fencing")).unwrap();
    assert_eq!(fencing.matches("F3").count(), 1, "{fencing}");
    fs::write(&file, format!("{text}colour = \"red\"\n[fencing]\nminimum = \"F9\"\n")).unwrap();
    let plan = run(&["plan", "-f", file.to_str().unwrap()]);
    expect(&plan, 1);
    assert!(err(&plan).contains("[ConfigInvalid]"), "{}", err(&plan));

    // One `up` for each folder.
    let second = run(&["up"]);
    expect(&second, 6);
    assert!(err(&second).contains("another `steadfast up` runs"), "{}", err(&second));
}

#[test]
fn a_killed_node_stays_dead_until_it_is_started() {
    let cluster = Cluster::start(&[]);
    let data = cluster.data();
    let before = cluster.agent("node-1").unwrap();
    let killed = run(data, &["node", "kill", "node-1"]);
    expect(&killed, 0);
    assert!(out(&killed).contains("1 process killed"), "{}", out(&killed));
    assert_eq!(cluster.agent("node-1"), None);
    eventually("node-1 is proven dead", || {
        let nodes = out(&run(data, &["node", "list"]));
        nodes
            .lines()
            .any(|line| line.starts_with("node-1") && line.contains("Dead (NodeProvenDead)"))
            .then_some(())
    });
    assert_eq!(cluster.agent("node-1"), None, "`up` has started it again");
    expect(&run(data, &["node", "start", "node-1"]), 0);
    cluster.until_ready();
    assert_ne!(cluster.agent("node-1").unwrap(), before);
}

#[test]
fn a_node_can_be_killed_when_its_disk_is_full() {
    let cluster = Cluster::of(1, &[]);
    // A mark that nothing can be written to.
    std::os::unix::fs::symlink("/dev/full", cluster.data().join("nodes/node-1/down")).unwrap();
    expect(&cluster.run(&["node", "kill", "node-1"]), 0);
    assert_eq!(cluster.agent("node-1"), None);
}

#[test]
fn a_node_that_lives_is_not_taken_for_dead_on_anybodys_word() {
    let cluster = Cluster::of(1, &[]);
    let refused = cluster.run(&["node", "confirm-dead", "node-1"]);
    expect(&refused, 6);
    let told = err(&refused);
    assert!(told.contains("node-1 is alive") && told.contains("[FenceUnproven]"), "{told}");
    expect(&cluster.run(&["node", "kill", "node-1"]), 0);
    eventually("its death on an operator's word", || {
        (cluster.run(&["node", "confirm-dead", "node-1"]).status.code() == Some(0)).then_some(())
    });
}

#[test]
fn a_key_that_another_service_file_was_applied_under_is_refused() {
    let cluster = Cluster::of(1, &[]);
    let create = |replicas: &str| {
        let what = ["create", "orders", "--blueprint", "redis", "--replicas", replicas];
        cluster.run(&[&what[..], &["--idempotency-key", "monday", "-o", "name"]].concat())
    };
    let first = create("3");
    expect(&first, 0);
    // Said to those who did not look at the plan, too, and not in the result.
    assert!(err(&first).contains("warning: 1 ready nodes have redis for 3 members"), "{}", err(&first));
    assert_eq!(out(&first).lines().count(), 1);
    let another = create("2");
    expect(&another, 1);
    let told = err(&another);
    for part in ["idempotency key monday was used", "replicas (3 becomes 2)", "[ChangeUnsupported]"] {
        assert!(told.contains(part), "{told}");
    }
    assert_eq!(out(&create("3")), out(&first));
}

/// A folder whose cluster is ended when it is dropped.
struct Folder(tempfile::TempDir);

impl Drop for Folder {
    fn drop(&mut self) {
        run(self.0.path(), &["down"]);
    }
}

#[test]
fn what_is_said_to_be_up_can_be_used() {
    let folder = Folder(tempfile::Builder::new().prefix("sf").tempdir().unwrap());
    let data = folder.0.path();
    let dns = free_dns().to_string();
    expect(&run(data, &["up", "--detach", "--nodes", "4", "--servers", "2", "--dns", &dns]), 0);
    // A service that is made now shall find every node.
    let nodes = out(&run(data, &["node", "list"]));
    assert_eq!(nodes.matches("Ready").count(), 4, "{nodes}");
}

#[test]
fn the_log_of_an_up_in_the_background_is_begun_anew_when_it_is_full() {
    let folder = Folder(tempfile::Builder::new().prefix("sf").tempdir().unwrap());
    let data = folder.0.path();
    let log = data.join("up.log");
    let older = |number: u32| data.join(format!("up.log.{number}"));
    let fill = || File::options().create(true).append(true).open(&log).unwrap().set_len(17 << 20).unwrap();
    fill();
    expect(&run(data, &["up", "--detach", "--nodes", "1", "--dns", &free_dns().to_string()]), 0);
    assert!(older(1).exists(), "a full one is continued");
    fill();
    // What it says of that is too much for the log.
    kill(Pid::from_raw(holder(&data.join("nodes/node-1/agent.lock")).unwrap()), Signal::SIGKILL).unwrap();
    eventually("another log", || older(2).exists().then_some(()));
    eventually("what happened, in it", || {
        fs::read_to_string(&log).ok()?.contains("node-1 ended").then_some(())
    });
}

#[test]
fn an_agent_that_dies_is_started_again() {
    let cluster = Cluster::start(&[]);
    let before = cluster.agent("node-1").unwrap();
    kill(Pid::from_raw(before), Signal::SIGKILL).unwrap();
    eventually("another agent of node-1", || cluster.agent("node-1").filter(|pid| *pid != before));
    cluster.until_ready();
}

#[test]
fn a_killed_up_leaves_everything_running_and_the_next_takes_over() {
    let mut cluster = Cluster::start(&["--servers", "2"]);
    cluster.kill_up();
    expect(&run(cluster.data(), &["node", "list"]), 0);
    let before = cluster.agent("node-1").unwrap();
    cluster.start_up_again();
    eventually("an agent of the new `up`", || cluster.agent("node-1").filter(|pid| *pid != before));
    cluster.until_ready();
    // Stopped in order, nothing is left.
    expect(&run(cluster.data(), &["down"]), 0);
    assert_eq!(cluster.agent("node-1"), None);
    assert_eq!(cluster.agent("node-2"), None);
    for server in ["server-1", "server-2"] {
        assert!(!steadfast_lock::is_held(&cluster.data().join("servers").join(server).join("lock")).unwrap());
    }
}

#[test]
fn what_runs_for_a_folder_that_was_removed_is_told_of_and_ended_by_down() {
    let cluster = Cluster::of(1, &[]);
    cluster.create_redis("cache", 1);
    let data = cluster.data();
    let locks = ["nodes/node-1/agent.lock", "nodes/node-1/guards/cache-0/lock", "store/lock"];
    let running = locks.map(|lock| steadfast_lock::holders(&data.join(lock)).unwrap());
    let running: Vec<i32> = running.into_iter().flatten().collect();
    assert!(running.len() >= 4, "an agent, a guard, its engine and a server: {running:?}");
    eventually("all files are gone", || {
        // Somebody may write one meanwhile.
        fs::remove_dir_all(data).ok();
        (!data.exists()).then_some(())
    });
    // One that has ended is there until somebody asks how.
    let lives =
        |pid: &&i32| fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "));
    assert_eq!(running.iter().filter(lives).count(), running.len(), "the last of the data may be in them");
    let refused = run(data, &["up"]);
    expect(&refused, 6);
    assert!(err(&refused).contains("steadfast down --data"), "{}", err(&refused));
    expect(&run(data, &["down"]), 0);
    assert_eq!(running.iter().filter(lives).count(), 0);
    assert!(!data.exists(), "made anew by one that ended");
    expect(&run(data, &["down"]), 5);
}

#[test]
fn another_server_takes_the_store_over_when_its_owner_dies() {
    let cluster = Cluster::start(&["--servers", "2"]);
    let data = cluster.data();
    let first = cluster.owner().unwrap();
    kill(Pid::from_raw(first), Signal::SIGKILL).unwrap();
    eventually("another owner", || cluster.owner().filter(|pid| *pid != first));
    eventually("an answer", || (run(data, &["list"]).status.code() == Some(0)).then_some(()));
    cluster.until_ready();
}

#[test]
fn what_users_have_in_their_environment_is_not_what_servers_and_agents_go_by() {
    let folder = tempfile::tempdir().unwrap();
    let foreign = folder.path().join("token");
    fs::write(&foreign, "somebody-elses-token\n").unwrap();
    let cluster = Cluster::with_env(&[
        ("STEADFAST_TOKEN_FILE", foreign.to_str().unwrap()),
        ("STEADFAST_SERVER", "http://127.0.0.1:9"),
        ("STEADFAST_CLUSTER", "elsewhere"),
    ]);
    expect(&cluster.run(&["list"]), 0);
}

#[test]
fn a_folders_token_is_not_shown_to_other_servers() {
    let cluster = Cluster::start(&[]);
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let stranger = format!("http://{}", listener.local_addr().unwrap());
    let heard = std::thread::spawn(move || {
        use std::io::{Read as _, Write as _};
        let (mut stream, _) = listener.accept().unwrap();
        let mut request = vec![0; 4096];
        let length = stream.read(&mut request).unwrap();
        stream
            .write_all(b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
            .unwrap();
        String::from_utf8_lossy(&request[..length]).to_lowercase()
    });
    let output = cluster.run(&["list", "--server", &stranger]);
    let heard = heard.join().unwrap();
    assert!(heard.starts_with("get /v1/") && !heard.contains("authorization"), "{heard}");
    expect(&output, 1);
    // Its own server is known by its address, too; and no token goes to another machine in the clear.
    let endpoint = fs::read_to_string(cluster.data().join("servers/server-1/endpoint.json")).unwrap();
    let endpoint: serde_json::Value = serde_json::from_str(&endpoint).unwrap();
    expect(&cluster.run(&["list", "--server", endpoint["url"].as_str().unwrap()]), 0);
    let token = cluster.data().join("token");
    let output =
        cluster.run(&["list", "--server", "http://192.0.2.1:7070", "--token-file", token.to_str().unwrap()]);
    expect(&output, 64);
    assert!(err(&output).contains("in the clear"), "{}", err(&output));
}

#[test]
fn a_program_that_was_replaced_goes_on_with_the_one_in_its_place() {
    let folder = tempfile::tempdir().unwrap();
    let program = folder.path().join("steadfast");
    let built = Path::new(env!("CARGO_BIN_EXE_steadfast"));
    fs::copy(built, &program).unwrap();
    let cluster = Cluster::of_program(&program);
    let restarted = |what: &str| {
        let before = cluster.agent("node-1").unwrap();
        kill(Pid::from_raw(before), Signal::SIGKILL).unwrap();
        eventually(what, || cluster.agent("node-1").filter(|pid| *pid != before))
    };
    // As an installation does it: a new file takes the name.
    let next = folder.path().join("next");
    fs::copy(built, &next).unwrap();
    fs::rename(&next, &program).unwrap();
    let pid = restarted("an agent of the next build");
    assert_eq!(fs::read_link(format!("/proc/{pid}/exe")).unwrap(), program);
    fs::remove_file(&program).unwrap();
    restarted("an agent of the build that runs");
    cluster.until_ready();
}

#[test]
fn guards_are_the_small_program_where_it_lies_beside_the_large_one() {
    let folder = tempfile::tempdir().unwrap();
    let (program, alone) = (folder.path().join("steadfast"), folder.path().join("steadfast-guard"));
    fs::copy(env!("CARGO_BIN_EXE_steadfast"), &program).unwrap();
    let cluster = Cluster::of_program(&program);
    cluster.create_redis("cache", 1);
    let guards_run = |what: &Path| {
        let nodes = cluster.data().join("nodes");
        let locks = ["node-1", "node-2"].map(|node| nodes.join(node).join("guards/cache-0/lock"));
        let guard = eventually("the guard runs", || {
            locks.iter().filter(|lock| lock.exists()).find_map(|lock| holder(lock))
        });
        assert_eq!(fs::read_link(format!("/proc/{guard}/exe")).unwrap(), what);
    };
    guards_run(&program);
    fs::copy(env!("CARGO_BIN_EXE_steadfast-guard"), &alone).unwrap();
    for node in ["node-1", "node-2"] {
        let before = cluster.agent(node).unwrap();
        kill(Pid::from_raw(before), Signal::SIGKILL).unwrap();
        eventually("another agent", || cluster.agent(node).filter(|pid| *pid != before));
    }
    guards_run(&program);
    cluster.until_ready();
    expect(&cluster.run(&["restart", "cache", "--wait"]), 0);
    guards_run(&alone);
}
