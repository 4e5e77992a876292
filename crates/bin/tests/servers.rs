//! Servers on their own: TLS and tokens, readiness, and names that are answered whoever owns the store.

#![allow(clippy::unwrap_used, reason = "a test ends where something is not as it should be")]

mod common;

use std::collections::BTreeSet;
use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Child;
use std::time::{Duration, Instant};

use common::cluster::{Cluster, Frozen, free_dns};
use common::{err, eventually, expect, out, run, steadfast};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use steadfast_api::auth::Token;
use steadfast_api::client::{Client, ClientConfig, ClientError};
use steadfast_core::Environment;
use steadfast_core::metadata::{CasOutcome, Key, Precondition};

/// An authority's certificate and what it has signed for 127.0.0.1, as files.
struct Certificates {
    authority: PathBuf,
    chain: PathBuf,
    key: PathBuf,
}

fn certificates(folder: &Path, name: &str) -> Certificates {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
    params.distinguished_name.push(DnType::CommonName, format!("{name} authority"));
    let authority_key = KeyPair::generate().unwrap();
    let authority = params.self_signed(&authority_key).unwrap();
    let issuer = Issuer::new(params, authority_key);
    let key = KeyPair::generate().unwrap();
    let leaf = CertificateParams::new(["127.0.0.1".to_owned()]).unwrap().signed_by(&key, &issuer).unwrap();
    let write = |kind: &str, text: String| {
        let path = folder.join(format!("{name}-{kind}.pem"));
        fs::write(&path, text).unwrap();
        path
    };
    Certificates {
        authority: write("authority", authority.pem()),
        chain: write("chain", leaf.pem()),
        key: write("key", key.serialize_pem()),
    }
}

/// A data folder whose DNS server takes a port of its own.
fn prepared() -> tempfile::TempDir {
    let folder = tempfile::Builder::new().prefix("sf").tempdir().unwrap();
    let config = serde_json::json!({
        "format": 1, "cluster": "local", "zone": "local.steadfast.internal", "loopback": "127.98.4.0/22",
        "dns": free_dns(), "fencing": "F3", "node_lease_ms": 3000, "server_lease_ms": 3000,
    });
    fs::write(folder.path().join("cluster.json"), config.to_string()).unwrap();
    folder
}

/// A process that is killed when it is dropped.
struct Daemon(Child);

impl Daemon {
    fn start(data: &Path, arguments: &[&str]) -> Daemon {
        let log = fs::File::options().create(true).append(true).open(data.join("daemons.log")).unwrap();
        let mut command = steadfast(data);
        Daemon(command.args(arguments).stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap())
    }

    fn serve(data: &Path, id: &str, more: &[&str]) -> Daemon {
        let server =
            Daemon::start(data, &[&["serve", "--id", id, "--listen", "127.0.0.1:0"][..], more].concat());
        eventually("the server listens", || {
            data.join("servers").join(id).join("endpoint.json").exists().then_some(())
        });
        server
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

fn url(data: &Path, id: &str) -> String {
    let text = fs::read_to_string(data.join("servers").join(id).join("endpoint.json")).unwrap();
    let endpoint: serde_json::Value = serde_json::from_str(&text).unwrap();
    endpoint["url"].as_str().unwrap().to_owned()
}

#[test]
fn a_server_that_others_can_reach_needs_tls_and_tokens() {
    let folder = tempfile::tempdir().unwrap();
    let made = certificates(folder.path(), "own");
    let data = folder.path().join("data");
    let (chain, key) = (made.chain.to_str().unwrap(), made.key.to_str().unwrap());
    for listen in ["0.0.0.0:0", "[::]:0", "192.0.2.7:7070"] {
        for more in [&[][..], &["--tls-cert", chain, "--tls-key", key], &["--tokens", key]] {
            let output = run(&data, &[&["serve", "--listen", listen][..], more].concat());
            expect(&output, 64);
            let said = err(&output);
            assert!(said.contains("needs TLS and tokens") && said.contains(listen), "{said}");
            assert!(said.contains("--tls-cert") && said.contains("--tokens"), "{said}");
        }
    }
    assert!(!data.exists(), "a refused server leaves nothing behind");
    let output = run(&data, &["serve", "--listen", "127.0.0.1:0", "--tls-cert", key, "--tls-key", key]);
    expect(&output, 1);
    assert!(err(&output).contains("own-key.pem"), "{}", err(&output));
}

#[test]
fn servers_agents_and_users_speak_over_tls_and_strangers_are_told_why_not() {
    let folder = prepared();
    let data = folder.path();
    let (own, other) = (certificates(data, "own"), certificates(data, "other"));
    let (chain, key) = (own.chain.to_str().unwrap(), own.key.to_str().unwrap());
    let (ca, wrong_ca) = (own.authority.to_str().unwrap(), other.authority.to_str().unwrap());
    let tls = ["--tls-cert", chain, "--tls-key", key, "--ca-file", ca];
    let _first = Daemon::serve(data, "server-1", &tls);
    let _second = Daemon::serve(data, "server-2", &tls);
    let at = url(data, "server-1");
    assert!(at.starts_with("https://127.0.0.1:"), "{at}");

    // A user of the folder, and one who has only a token's file; the second server asks the first one over TLS.
    expect(&run(data, &["list", "--ca-file", ca]), 0);
    let elsewhere = tempfile::tempdir().unwrap();
    let token = data.join("token");
    let token = token.to_str().unwrap();
    let away = |arguments: &[&str]| run(elsewhere.path(), arguments);
    for id in ["server-1", "server-2"] {
        let at = url(data, id);
        let output = away(&["list", "-o", "json", "--server", &at, "--ca-file", ca, "--token-file", token]);
        expect(&output, 0);
    }

    // An agent.
    data_token(data, "node-1");
    let servers = format!("{at},{}", url(data, "server-2"));
    let _agent = Daemon::start(
        data,
        &["agent", "--node", "node-1", "--zone", "a", "--servers", &servers, "--ca-file", ca],
    );
    eventually("the node is Ready", || {
        let nodes = out(&run(data, &["node", "list", "--ca-file", ca]));
        nodes.lines().any(|line| line.starts_with("node-1") && line.contains("Ready")).then_some(())
    });

    // A stranger's authority, and none at all.
    for trusted in [&["--ca-file", wrong_ca][..], &[]] {
        let arguments = [&["list", "--server", &at, "--token-file", token][..], trusted].concat();
        let output = away(&arguments);
        expect(&output, 1);
        let said = err(&output);
        assert!(said.contains("certificate") && said.contains("--ca-file"), "{said}");
    }
    // No token, a wrong one, and an authority that is none.
    let output = away(&["list", "--server", &at, "--ca-file", ca]);
    expect(&output, 1);
    assert!(
        err(&output).contains("[TokenMissing]") && err(&output).contains("--token-file"),
        "{}",
        err(&output)
    );
    let guessed = elsewhere.path().join("guessed");
    fs::write(&guessed, "0123456789012345678901234567890123456789\n").unwrap();
    let output = away(&["list", "--server", &at, "--ca-file", ca, "--token-file", guessed.to_str().unwrap()]);
    expect(&output, 1);
    assert!(err(&output).contains("[TokenUnknown]"), "{}", err(&output));
    let output = away(&["list", "--server", &at, "--ca-file", "/nowhere.pem", "--token-file", token]);
    expect(&output, 1);
    assert!(err(&output).contains("/nowhere.pem"), "{}", err(&output));
    let logs = fs::read_to_string(data.join("daemons.log")).unwrap();
    let secret = fs::read_to_string(token).unwrap();
    assert!(!logs.contains(secret.trim()), "a token in a log");
}

/// A token for a node's agent, as `up` makes it.
fn data_token(data: &Path, node: &str) {
    let file = data.join("tokens").join(node);
    fs::write(&file, "00112233445566778899aabbccddeeff00112233\n").unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
}

/// What one server says about its own readiness.
fn readiness(data: &Path, id: &str) -> Result<(), String> {
    let token = Token::new(&fs::read_to_string(data.join("token")).unwrap()).unwrap();
    let mut config = ClientConfig::new([url(data, id)], "local".parse().unwrap(), Some(token));
    config.timeout = Duration::from_secs(10);
    let client = Client::new(Environment::system([7; 32]), config).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    match runtime.block_on(client.ready()) {
        Ok(_) => Ok(()),
        Err(ClientError::Problem(problem)) => {
            assert_eq!((problem.status, problem.code.as_str()), (503, "NotReady"), "{problem:?}");
            Err(problem.detail)
        }
        Err(other) => panic!("{other}"),
    }
}

#[test]
fn a_server_is_ready_for_as_long_as_the_store_answers() {
    let folder = prepared();
    let data = folder.path();
    let first = Daemon::serve(data, "server-1", &[]);
    let _second = Daemon::serve(data, "server-2", &[]);
    for id in ["server-1", "server-2"] {
        eventually("ready", || readiness(data, id).ok());
    }
    let pid = i32::try_from(first.0.id()).unwrap();
    {
        // It keeps the lock, so nobody takes the store over; and it answers nobody.
        let _frozen = Frozen::stop(pid);
        let why = eventually("not ready without the owner", || readiness(data, "server-2").err());
        assert!(why.contains("store"), "{why}");
    }
    eventually("ready again", || readiness(data, "server-2").ok());
    drop(first);
    eventually("ready as the owner", || {
        (common::cluster::holder(&data.join("store/lock"))? != pid).then_some(())?;
        readiness(data, "server-2").ok()
    });
}

/// Calls a server as another one would.
fn as_server<T>(
    data: &Path,
    id: &str,
    call: impl AsyncFnOnce(Client) -> Result<T, ClientError>,
) -> Option<T> {
    let token = Token::new(&fs::read_to_string(data.join("server-token")).unwrap()).unwrap();
    let config = ClientConfig::new([url(data, id)], "local".parse().unwrap(), Some(token));
    let client = Client::new(Environment::system([8; 32]), config).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(call(client)).ok()
}

#[test]
fn a_key_that_was_lost_is_not_made_anew() {
    let folder = prepared();
    let data = folder.path();
    drop(Daemon::serve(data, "server-1", &[]));
    let (key, kept) = (data.join("key"), data.join("key.kept"));
    fs::rename(&key, &kept).unwrap();
    let refused = run(data, &["serve", "--id", "server-1", "--listen", "127.0.0.1:0"]);
    expect(&refused, 5);
    let said = err(&refused);
    assert!(said.contains("key is missing") && said.contains("put it back"), "{said}");
    assert!(!key.exists(), "another key would be taken for the one that is missed");
    fs::rename(&kept, &key).unwrap();
    drop(Daemon::serve(data, "server-1", &[]));
}

#[test]
fn what_dead_requests_left_of_addresses_is_given_back_by_the_next_owner() {
    let folder = prepared();
    let data = folder.path();
    let first = Daemon::serve(data, "server-1", &[]);
    let _second = Daemon::serve(data, "server-2", &[]);
    // An address whose owner is not meant to have it: what two requests of one owner leave if both die.
    let key: Key = "steadfast/local/ip/127.98.4.9".parse().unwrap();
    let left =
        serde_json::json!({"schema": 1, "write_id": "w", "body": {"owner": "nobody-0", "holder": null}});
    let outcome = eventually("the address is left", || {
        let put = async |client: Client| {
            client.store_put(&key, left.to_string().into(), Precondition::Absent).await
        };
        as_server(data, "server-2", put)
    });
    assert!(matches!(outcome, CasOutcome::Applied(_)), "{outcome:?}");
    let look = || as_server(data, "server-2", async |client: Client| client.store_get(&key).await);
    assert!(eventually("a look", look).is_some());
    drop(first);
    eventually("the next owner has given it back", || look()?.is_none().then_some(()));
}

#[test]
fn a_log_is_begun_anew_while_its_process_runs() {
    let folder = prepared();
    let data = folder.path();
    let log = data.join("server.log");
    let file = fs::File::options().create(true).append(true).open(&log).unwrap();
    let mut command = steadfast(data);
    command
        .args([
            "serve",
            "--id",
            "server-1",
            "--listen",
            "127.0.0.1:0",
            "--log",
            "trace",
            "--log-size",
            "16KiB",
        ])
        .arg("--log-file")
        .arg(&log)
        .stdout(file.try_clone().unwrap())
        .stderr(file);
    let server = Daemon(command.spawn().unwrap());
    eventually("the server listens", || data.join("servers/server-1/endpoint.json").exists().then_some(()));
    let older = |number: u32| data.join(format!("server.log.{number}"));
    let begins = |path: &Path| fs::read_to_string(path).unwrap_or_default().lines().next().map(str::to_owned);
    // Until the oldest was dropped, which shows in what the last file begins with.
    let mut oldest = BTreeSet::new();
    eventually("the oldest is dropped", || {
        // Every request is told.
        readiness(data, "server-1").ok();
        oldest.extend(begins(&older(4)));
        (oldest.len() > 1).then_some(())
    });
    drop(server);
    assert!(!older(5).exists());
    let mut last = String::new();
    for path in [older(4), older(3), older(2), older(1), log] {
        let text = fs::read_to_string(&path).unwrap();
        // A line is never cut, and one at this level can be longer than the limit by itself.
        assert!(text.len() <= 64 << 10, "{}: {} bytes", path.display(), text.len());
        assert!(text.ends_with('\n'), "{} ends in the middle of a line", path.display());
        let first = begins(&path).unwrap();
        assert!(last < first, "{} begins with {first}, after {last}", path.display());
        last = first;
    }
}

#[test]
fn a_server_whose_log_cannot_be_written_answers_all_the_same() {
    let folder = prepared();
    let data = folder.path();
    // As on a disk without any space left.
    let full = fs::File::options().write(true).open("/dev/full").unwrap();
    let mut command = steadfast(data);
    command
        .args(["serve", "--id", "server-1", "--listen", "127.0.0.1:0", "--log", "trace"])
        .stdout(full.try_clone().unwrap())
        .stderr(full);
    let _server = Daemon(command.spawn().unwrap());
    eventually("the server listens", || data.join("servers/server-1/endpoint.json").exists().then_some(()));
    eventually("ready", || readiness(data, "server-1").ok());
    expect(&run(data, &["list"]), 0);
}

/// Asks for the SOA record of a zone: the answer's code and how many answers there were.
fn soa(dns: SocketAddr, zone: &str) -> Option<usize> {
    use hickory_proto::op::{Message, Query, ResponseCode};
    use hickory_proto::rr::{Name, RecordType};
    let mut query = Message::query();
    query.add_query(Query::query(Name::from_ascii(zone).unwrap(), RecordType::SOA));
    let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
    socket.connect(dns).unwrap();
    socket.send(&query.to_vec().unwrap()).ok()?;
    let mut buffer = [0; 4096];
    let length = socket.recv(&mut buffer).ok()?;
    let answer = Message::from_vec(&buffer[..length]).unwrap();
    (answer.metadata.response_code == ResponseCode::NoError && answer.metadata.authoritative)
        .then_some(answer.answers.len())
}

#[test]
fn names_are_answered_again_after_each_owner_is_killed() {
    let cluster = Cluster::of(1, &["--servers", "3"]);
    let zone = "local.steadfast.internal";
    let answered = || soa(cluster.dns, zone).filter(|answers| *answers == 1);
    eventually("answers", answered);
    for _ in 0..3 {
        let owner = cluster.owner().unwrap();
        kill(Pid::from_raw(owner), Signal::SIGKILL).unwrap();
        let killed = Instant::now();
        eventually("another owner", || cluster.owner().filter(|pid| *pid != owner));
        eventually("answers of another owner", answered);
        println!("names were answered again after {:?}", killed.elapsed());
    }
}

/// Otherwise one that has been started again takes almost twice as much for each member (docs/benchmarks.md).
#[test]
fn a_server_has_its_memory_in_one_arena_and_is_the_process_that_was_started() {
    let folder = prepared();
    let server = Daemon::serve(folder.path(), "server-1", &[]);
    let process = PathBuf::from(format!("/proc/{}", server.0.id()));
    let words = |file: &str| -> Vec<String> {
        let content = fs::read(process.join(file)).unwrap();
        content.split(|byte| *byte == 0).map(|word| String::from_utf8_lossy(word).into_owned()).collect()
    };
    assert!(words("environ").contains(&"MALLOC_ARENA_MAX=1".to_owned()));
    assert_eq!(fs::read_to_string(process.join("comm")).unwrap().trim(), "steadfast");
    assert_eq!(words("cmdline").iter().filter(|word| *word == "serve").count(), 1);
}

/// glibc takes its own variables away from a program that has more rights than who starts it.
#[test]
fn a_server_that_cannot_choose_its_arenas_starts_all_the_same() {
    let folder = prepared();
    let mut command = steadfast(folder.path());
    command.args(["serve", "--listen", "127.0.0.1:0"]).env("STEADFAST_STARTED_AGAIN", "1");
    let server = Daemon(command.spawn().unwrap());
    eventually("the server listens", || {
        folder.path().join("servers/server-1/endpoint.json").exists().then_some(())
    });
    let environment = fs::read(format!("/proc/{}/environ", server.0.id())).unwrap();
    assert!(!String::from_utf8_lossy(&environment).contains("MALLOC_ARENA_MAX"));
}
