//! The calls of the engine, in time that passes only when everybody waits: in every order and repetition that an engine of
//! Docker can produce, over the plugin's socket, as an engine writes them.

#[path = "calls_tests.rs"]
mod calls;

use futures::future::join_all;
use steadfast_core::metadata::WriteOutcome;
use steadfast_core::metadata::memory::MemoryDb;
use steadfast_core::model::{EventRing, Member};
use steadfast_core::testing::TestEnvironment;
use steadfast_lock::Lock;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{UnixListener, UnixStream};
use tokio::task::JoinHandle;

use super::super::gate::tests::make_ready;
use super::*;

struct Bench {
    env: Environment,
    store: Store,
    plugin: Arc<VolumePlugin>,
    gate: Arc<Gate>,
    dir: NodeDir,
    serving: JoinHandle<()>,
    guard: Option<Lock>,
    folder: tempfile::TempDir,
}

impl Bench {
    fn new() -> Bench {
        let folder = tempfile::tempdir().unwrap();
        let env = TestEnvironment::new(1).environment;
        let entropy = env.entropy().fork("store");
        let store = Store::new(Arc::new(MemoryDb::new()), entropy, "test".parse().unwrap()).unwrap();
        let dir = NodeDir::new(folder.path()).with_containers(folder.path().join("members"));
        let (gate, plugin, serving) = agent(&env, &store, &dir);
        Bench { env, store, plugin, gate, dir, serving, guard: None, folder }
    }

    /// The agent dies where it stands, and another one begins.
    fn another_agent(&mut self) {
        self.serving.abort();
        (self.gate, self.plugin, self.serving) = agent(&self.env, &self.store, &self.dir);
    }

    /// Records a member of the service `orders`.
    async fn record(&self, name: &str) {
        let member: Member = serde_json::from_value(json!({
            "id": "m1", "name": name, "service_id": "s1", "service": "orders", "group": "main", "ordinal": 0,
            "epoch": 1, "phase": "Prepared", "run": true, "generation": 1, "revision": 1, "unreleased": [],
            "volumes": [], "phase_since": "2026-01-01T00:00:00Z", "events": EventRing::default(),
        }))
        .unwrap();
        let key = self.store.member_key(&member.service, &member.name).unwrap();
        let made = self.store.records().create(&key, &member).await.unwrap();
        assert!(matches!(made, WriteOutcome::Applied(_)));
    }

    async fn ask(&self, call: &str, name: &str, id: &str) -> Result<Value, Refusal> {
        let asked = Asked { name: name.to_owned(), id: id.to_owned(), opts: None };
        self.plugin.call(&format!("VolumeDriver.{call}"), &asked).await
    }

    /// Begins a call as the engine writes it: with no word of what the body is.
    async fn begin(&self, call: &str, body: &[u8]) -> UnixStream {
        let mut stream = UnixStream::connect(self.dir.path().join("socket")).await.unwrap();
        let head = format!(
            "POST /{call} HTTP/1.1\r\nHost: steadfast\r\nUser-Agent: Go-http-client/1.1\r\nContent-Length: {}\r\n\
             Accept: application/vnd.docker.plugins.v1.2+json\r\nConnection: close\r\n\r\n",
            body.len()
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        stream.write_all(body).await.unwrap();
        stream
    }

    /// What a call is answered, as an engine reads it.
    async fn send(&self, call: &str, body: &[u8]) -> Result<Value, Refusal> {
        let mut told = String::new();
        self.begin(call, body).await.read_to_string(&mut told).await.unwrap();
        let (head, body) = told.split_once("\r\n\r\n").unwrap();
        assert!(head.contains("content-type: application/vnd.docker.plugins.v1"), "{head}");
        let mut body: Value = serde_json::from_str(body).unwrap();
        if head.starts_with("HTTP/1.1 200 ") {
            assert_eq!(body.get("Err"), None, "{body}");
            return Ok(body);
        }
        assert!(head.starts_with("HTTP/1.1 500 "), "{head}");
        match body["Err"].take() {
            Value::String(refusal) => Err(refusal),
            other => panic!("an engine shows nothing of {other}"),
        }
    }

    fn offer(&self, member: &str) {
        self.gate.offer(&make_ready(&self.dir, member, None)).unwrap();
    }

    fn mountpoint(&self, member: &str) -> PathBuf {
        self.folder.path().join("members").join(member)
    }
}

fn agent(env: &Environment, store: &Store, dir: &NodeDir) -> (Arc<Gate>, Arc<VolumePlugin>, JoinHandle<()>) {
    let gate = Arc::new(Gate::new(dir.clone()));
    let node: NodeName = "node-1".parse().unwrap();
    let new = || VolumePlugin::new(env.clone(), store.clone(), node.clone(), dir.clone(), Arc::clone(&gate));
    let socket = dir.path().join("socket");
    remove_if_there(&socket).unwrap();
    let serving = axum::serve(UnixListener::bind(socket).unwrap(), new().router());
    let served = tokio::spawn(async move { serving.await.unwrap() });
    let plugin = Arc::new(new());
    (gate, plugin, served)
}

#[tokio::test(start_paused = true)]
async fn no_member_waits_for_another() {
    let bench = Bench::new();
    let members: Vec<String> = (0..50).map(|ordinal| format!("orders-{ordinal}")).collect();
    // Nothing is prepared for this one.
    let mut waiting = Box::pin(bench.ask("Mount", "cache-0", "x"));
    assert!(futures::poll!(waiting.as_mut()).is_pending());
    for member in &members {
        bench.offer(member);
    }
    let begun = bench.env.clock().monotonic();
    let mounted = join_all(members.iter().map(|member| bench.ask("Mount", member, "a"))).await;
    assert!(mounted.iter().all(Result::is_ok), "{mounted:?}");
    assert_eq!(bench.env.clock().monotonic(), begun, "no time has passed");
    assert!(futures::poll!(waiting.as_mut()).is_pending());
    bench.offer("cache-0");
    assert_eq!(waiting.await, Ok(json!({ "Mountpoint": bench.mountpoint("cache-0") })));
}
