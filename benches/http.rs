//! The control plane over HTTP, with 1,000 services of 3 members: over a store in memory, in this process, and over the
//! durable store, in the real `steadfast serve`.
//!
//! `cargo build --release -p steadfast && cargo bench --bench http`. `STEADFAST_BIN` names another program,
//! `STEADFAST_BENCH_SERVICES` another number of services. Results, with the machine named, are in docs/benchmarks.md.
//!
//! Reads are measured twice: with the typed client that the command line uses, and with the least client that HTTP
//! allows ([`wire`]), which leaves the server's part, the sockets and the waking of two threads. What the latter two take
//! on this machine is measured beside it, with a server that does nothing.
//!
//! There are no agents: members are made, provided and named, and then wait for somebody to run them. That is the
//! most work a server has with them, as everything that waits is looked at once a second.
#![expect(clippy::print_stdout, reason = "this is a program that prints a table")]

#[path = "support/wire.rs"]
mod wire;

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::time::{ClockId, clock_gettime};
use serde_json::{Value, json};
use steadfast_api::auth::Token;
use steadfast_api::client::{Client, ClientConfig};
use steadfast_api::control::{Guard, LogRequest, Logs, OfControl, PageRequest};
use steadfast_api::testing::{self, TestServer};
use steadfast_core::Environment;
use steadfast_core::control::{ControlError, ControlResult};
use steadfast_core::ids::{ClusterName, MemberName, ServiceName};
use steadfast_core::world::{PlainBlueprints, World};
use tokio::runtime::Runtime;

use wire::Wire;

/// How long a server may take for what should take moments.
const PATIENCE: Duration = Duration::from_secs(300);

fn main() {
    // Cargo tells a benchmark that it is one; there is nothing else to choose.
    let services = std::env::var("STEADFAST_BENCH_SERVICES").ok();
    let services = services.map_or(1000, |text| text.parse().expect("a number of services"));
    let runtime = Runtime::new().expect("a runtime starts");
    println!("{:<10} {:<22} {:>10} {:>10} {:>10}", "store", "request", "p50", "p99", "samples");
    in_a_task(&runtime, async move {
        let memory = Memory::start().await;
        measure("memory", "plain", &memory.client(), memory.wire(), services).await;
    });
    in_a_task(&runtime, async move {
        let durable = Durable::start().await;
        measure("durable", "redis", &durable.client(), durable.wire(), services).await;
    });
}

/// As users' clients run: from a thread outside the runtime, every request would wait for that thread to wake up, too.
fn in_a_task(runtime: &Runtime, work: impl Future<Output = ()> + Send + 'static) {
    runtime.block_on(runtime.spawn(work)).expect("it ends");
}

async fn measure(
    store: &'static str,
    blueprint: &str,
    client: &Client,
    (wire, root): (Wire, String),
    services: usize,
) {
    let mut creates = Vec::new();
    for number in 0..services {
        let file = json!({
            "apiVersion": "steadfast/v1", "name": name(number), "blueprint": blueprint, "replicas": 3
        });
        let begun = Instant::now();
        client.apply(&file, &Guard::default()).await.expect("it is created");
        creates.push(begun.elapsed());
    }
    report(store, "create", creates);
    let made = settled(client, services).await;
    println!("{store:<10} all members made {:.1} s after the last create", made.as_secs_f64());

    let mut gets = Vec::new();
    for number in 0..2000 {
        let name = name(number * 7 % services);
        let begun = Instant::now();
        client.service(&name).await.expect("it is there");
        gets.push(begun.elapsed());
    }
    report(store, "get", gets);

    let mut lists = Vec::new();
    for _ in 0..40 {
        let begun = Instant::now();
        assert_eq!(all(client).await.len(), services);
        lists.push(begun.elapsed());
    }
    report(store, "list all (by 500)", lists);
    tokio::task::spawn_blocking(move || measure_bare(store, wire, &root, services)).await.expect("it ends");

    let mut deletes = Vec::new();
    for number in 0..services.min(300) {
        let begun = Instant::now();
        client.delete(&name(number), &Guard::default()).await.expect("it is deleted");
        deletes.push(begun.elapsed());
    }
    report(store, "delete", deletes);
}

/// The same reads with the least client. Of a server in this process also the processor time of all its threads: whatever
/// else the machine does counts for nothing there, and what the controller does meanwhile counts.
fn measure_bare(store: &str, mut wire: Wire, root: &str, services: usize) {
    let cpu = || Duration::from(clock_gettime(ClockId::CLOCK_PROCESS_CPUTIME_ID).expect("Linux has it"));
    let mut samples = Vec::new();
    let begun = cpu();
    for number in 0..20_000 {
        let path = format!("{root}/services/{}", name(number * 7 % services));
        let begun = Instant::now();
        wire.get(&path);
        samples.push(begun.elapsed());
    }
    let each = (cpu() - begun).div_f64(20_000.0);
    report(store, "get, bare", samples);
    let size = wire.get(&format!("{root}/services/{}", name(0))).len();
    report(store, "get, nothing served", floor(size));
    let mut samples = Vec::new();
    let begun = cpu();
    for _ in 0..40 {
        let begun = Instant::now();
        let (mut found, mut path) = (0, format!("{root}/services?limit=500"));
        // The cursor of a page is its last name, so no answer has to be decoded to ask on.
        while found < services {
            assert!(wire.get(&path).len() > 1000, "a page of services");
            found += 500;
            path = format!("{root}/services?limit=500&cursor={}", name(found - 1));
        }
        samples.push(begun.elapsed());
    }
    let list = (cpu() - begun).div_f64(40.0);
    report(store, "list all, bare", samples);
    if store == "memory" {
        println!("{store:<10} processor time, client included: get {each:.1?}, list {list:.1?}");
    }
}

/// What the same client waits for a server that does nothing but write an answer of `size` bytes: the sockets and the
/// waking of two threads, without which there is no answer on this machine at this hour.
fn floor(size: usize) -> Vec<Duration> {
    let mut wire = Wire::connect(&wire::nothing_served(size), "none");
    let mut samples = Vec::new();
    for _ in 0..20_000 {
        let begun = Instant::now();
        wire.get("/");
        samples.push(begun.elapsed());
    }
    samples
}

fn name(number: usize) -> ServiceName {
    format!("service{number:05}x").parse().expect("a name")
}

fn report(store: &str, request: &str, mut samples: Vec<Duration>) {
    samples.sort();
    let at = |percent: usize| format!("{:.3} ms", samples[samples.len() * percent / 100].as_secs_f64() * 1e3);
    println!("{store:<10} {request:<22} {:>10} {:>10} {:>10}", at(50), at(99), samples.len());
}

/// Every service, page by page.
async fn all(client: &Client) -> Vec<steadfast_core::control::ServiceView> {
    let mut page = PageRequest { after: None, limit: 500 };
    let mut services = Vec::new();
    loop {
        let found = client.services(&page).await.expect("a page");
        services.extend(found.items);
        match found.next {
            Some(next) => page.after = Some(next),
            None => return services,
        }
    }
}

/// Waits until every member of every service has an address, which is the last that is done without agents.
async fn settled(client: &Client, services: usize) -> Duration {
    let begun = Instant::now();
    loop {
        let found = all(client).await;
        let made = found.iter().filter(|service| service.members.len() == 3);
        let made =
            made.filter(|service| service.members.iter().all(|member| member.address.is_some())).count();
        if made == services {
            return begun.elapsed();
        }
        assert!(begun.elapsed() < PATIENCE, "only {made} of {services} services were made");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Where a cluster's part of the API begins.
fn root(cluster: &ClusterName) -> String {
    format!("/v1/clusters/{cluster}")
}

fn client(url: String, cluster: ClusterName, token: &str) -> Client {
    let token = Token::new(token).expect("a token");
    Client::new(Environment::system([3; 32]), ClientConfig::new([url], cluster, Some(token)))
        .expect("a client")
}

/// The router in this process, over the shipped controller and memory backends.
struct Memory {
    server: TestServer,
    _world: World,
}

#[derive(Debug)]
struct NoLogs;

impl Logs for NoLogs {
    fn stream(
        &self,
        member: &MemberName,
        _: LogRequest,
    ) -> ControlResult<futures::stream::BoxStream<'static, std::io::Result<bytes::Bytes>>> {
        let remedy = "there are no engines here".to_owned();
        Err(ControlError::NotFound { kind: "output of member", name: member.to_string(), remedy })
    }
}

impl Memory {
    async fn start() -> Self {
        let world = World::new(Environment::system([1; 32]), 6).await.expect("a world");
        let control = world.plain_server("server-1").expect("a server");
        control.controller().start();
        let db = Arc::new(world.db.clone());
        let server = TestServer::start(move |environment| {
            let mut parts = testing::parts(environment, db);
            let control = Arc::new(OfControl::new(control, Arc::new(PlainBlueprints), Arc::new(NoLogs)));
            parts.node_secrets = control.clone();
            parts.control = control;
            parts
        })
        .await;
        Memory { server, _world: world }
    }

    fn client(&self) -> Client {
        client(self.server.url(), testing::cluster(), testing::ADMIN)
    }

    fn wire(&self) -> (Wire, String) {
        (Wire::connect(&self.server.url(), testing::ADMIN), root(&testing::cluster()))
    }
}

/// The real program with the store that it has by default, in a folder that goes when this does.
struct Durable {
    process: Child,
    data: tempfile::TempDir,
    endpoint: Value,
}

impl Durable {
    async fn start() -> Self {
        // Short, since sockets lie below it.
        let data = tempfile::Builder::new().prefix("sf-bench-").tempdir().expect("a folder");
        let (mut process, _) = serve(data.path()).await;
        stop(&mut process);
        // A folder takes 1,022 addresses unless told otherwise; this many members need the wide range.
        let file = data.path().join("cluster.json");
        let mut config: Value =
            serde_json::from_slice(&std::fs::read(&file).expect("it is there")).expect("JSON");
        config["loopback"] = json!("127.77.0.0/16");
        std::fs::write(&file, config.to_string()).expect("it can be written");
        let (process, endpoint) = serve(data.path()).await;
        Durable { process, data, endpoint }
    }

    fn client(&self) -> Client {
        let (url, cluster, token) = self.access();
        client(url, cluster, &token)
    }

    fn wire(&self) -> (Wire, String) {
        let (url, cluster, token) = self.access();
        (Wire::connect(&url, token.trim()), root(&cluster))
    }

    fn access(&self) -> (String, ClusterName, String) {
        let read =
            |file: &str| std::fs::read_to_string(self.data.path().join(file)).expect("the server wrote it");
        let config: Value = serde_json::from_str(&read("cluster.json")).expect("it is JSON");
        let cluster =
            config["cluster"].as_str().and_then(|name| name.parse().ok()).expect("a cluster's name");
        (self.endpoint["url"].as_str().expect("a URL").to_owned(), cluster, read("token"))
    }
}

impl Drop for Durable {
    fn drop(&mut self) {
        // The folder goes after its process.
        stop(&mut self.process);
    }
}

/// A server on this folder, and what it says of itself once it listens.
#[expect(
    clippy::zombie_processes,
    reason = "the caller stops it; a bench that panics before ends with its process"
)]
async fn serve(data: &Path) -> (Child, Value) {
    let told = data.join("servers/server-1/endpoint.json");
    if told.exists() {
        std::fs::remove_file(&told).expect("what an earlier one said is over");
    }
    let process = Command::new(program())
        .args(["serve", "--listen", "127.0.0.1:0", "--data"])
        .arg(data)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("build the program first: cargo build --release -p steadfast");
    let begun = Instant::now();
    loop {
        if let Some(endpoint) = std::fs::read(&told).ok().and_then(|text| serde_json::from_slice(&text).ok())
        {
            return (process, endpoint);
        }
        assert!(begun.elapsed() < PATIENCE, "the server does not tell where it listens");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

fn stop(process: &mut Child) {
    process.kill().and_then(|()| process.wait()).expect("the server was ours to kill");
}

fn program() -> PathBuf {
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| "target".into(), PathBuf::from);
    std::env::var_os("STEADFAST_BIN").map_or_else(|| target.join("release/steadfast"), PathBuf::from)
}
