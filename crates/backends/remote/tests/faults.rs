//! What the remote store says when something breaks: whether it may have happened, and who is asked next.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt as _;
use futures::stream::BoxStream;
use steadfast_api::auth::Token;
use steadfast_api::client::{Client, ClientConfig};
use steadfast_api::testing::{self, NODE, SERVER, TestServer, id};
use steadfast_backend_remote::{RemoteDb, SwitchDb};
use steadfast_core::metadata::memory::MemoryDb;
use steadfast_core::metadata::{
    CasOutcome, Hint, Key, MetadataCapabilities, MetadataDb, Page, Precondition, Record, Records, Version,
    WriteOutcome,
};
use steadfast_core::{Effect, Environment, Error, ErrorKind, Result, Retry};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

fn environment() -> Environment {
    Environment::system([3; 32])
}

fn remote(servers: impl IntoIterator<Item = String>) -> RemoteDb {
    remote_with(servers, SERVER, |_| {})
}

fn remote_with(
    servers: impl IntoIterator<Item = String>,
    token: &str,
    change: impl FnOnce(&mut ClientConfig),
) -> RemoteDb {
    let token = Token::new(token).expect("the token is a word");
    let mut config = ClientConfig::new(servers, testing::cluster(), Some(token));
    change(&mut config);
    let client = Client::new(environment(), config).expect("the addresses are some");
    RemoteDb::new(environment(), client, MemoryDb::new().capabilities())
}

async fn serve(db: impl MetadataDb) -> TestServer {
    TestServer::start(|environment| testing::parts(environment, Arc::new(db))).await
}

async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(30), future)
        .await
        .unwrap_or_else(|_| panic!("{what} did not come"))
}

/// An address where nobody listens any more.
async fn gone() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("there is a free port");
    format!("http://{}", listener.local_addr().expect("a bound listener has an address"))
}

/// Something in between that passes requests on and, as often as told, cuts the connection when the answer begins.
struct Cutter {
    url: String,
    cuts: Arc<AtomicUsize>,
    task: tokio::task::JoinHandle<()>,
}

impl Cutter {
    async fn before(server: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("there is a free port");
        let url = format!("http://{}", listener.local_addr().expect("a bound listener has an address"));
        let cuts = Arc::new(AtomicUsize::new(0));
        let left = Arc::clone(&cuts);
        let task = tokio::spawn(async move {
            while let Ok((caller, _)) = listener.accept().await {
                tokio::spawn(pass(caller, server, Arc::clone(&left)));
            }
        });
        Cutter { url, cuts, task }
    }

    fn cut_next(&self, times: usize) {
        self.cuts.store(times, Ordering::SeqCst);
    }
}

impl Drop for Cutter {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn pass(caller: TcpStream, server: SocketAddr, cuts: Arc<AtomicUsize>) {
    let Ok(server) = TcpStream::connect(server).await else { return };
    let (mut from_caller, mut to_caller) = caller.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    let up = tokio::spawn(async move { tokio::io::copy(&mut from_caller, &mut to_server).await });
    let mut buffer = [0; 4096];
    while let Ok(count @ 1..) = from_server.read(&mut buffer).await {
        let cut = cuts.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok();
        // The answer has begun, so the server has done its work; the caller never learns.
        if cut || to_caller.write_all(&buffer[..count]).await.is_err() {
            break;
        }
    }
    up.abort();
}

#[tokio::test]
async fn a_connection_cut_after_the_request_leaves_a_write_in_doubt() {
    let db = MemoryDb::new();
    let server = serve(db.clone()).await;
    let cutter = Cutter::before(server.address()).await;
    let remote = remote([cutter.url.clone()]);
    cutter.cut_next(1);
    let key = id::<Key>("a/b");
    let error = remote.put(&key, Bytes::from("x"), Precondition::Absent).await.unwrap_err();
    assert_eq!((error.kind(), error.effect()), (ErrorKind::Unavailable, Effect::Unknown), "{error:?}");
    assert_eq!(error.retry(), Retry::Backoff);
    let Some(record) = db.get(&key).await.unwrap() else { panic!("it did happen") };
    cutter.cut_next(1);
    let error = remote.delete(&key, &record.version).await.unwrap_err();
    assert_eq!(error.effect(), Effect::Unknown, "{error:?}");
    assert_eq!(db.get(&key).await.unwrap(), None, "it did happen");
}

#[tokio::test]
async fn the_doubt_is_settled_by_reading_again() {
    let server = serve(MemoryDb::new()).await;
    let cutter = Cutter::before(server.address()).await;
    let entropy = environment().entropy().clone();
    let records = Records::new(Arc::new(remote([cutter.url.clone()])), entropy, id("a"));
    let key = records.key(["b"]).unwrap();
    cutter.cut_next(1);
    let WriteOutcome::Applied(version) = records.create(&key, &"body").await.unwrap() else { panic!("ours") };
    cutter.cut_next(1);
    assert!(matches!(records.update(&key, &"other", &version).await.unwrap(), WriteOutcome::Applied(_)));
    assert_eq!(records.get::<String>(&key).await.unwrap().unwrap().body, "other");
}

#[tokio::test]
async fn a_read_is_repeated_over_a_cut() {
    let db = MemoryDb::new();
    let server = serve(db.clone()).await;
    let cutter = Cutter::before(server.address()).await;
    let remote = remote([cutter.url.clone()]);
    let key = id::<Key>("a/b");
    let outcome = db.put(&key, Bytes::from("x"), Precondition::Absent).await.unwrap();
    assert!(matches!(outcome, CasOutcome::Applied(_)));
    cutter.cut_next(1);
    assert!(remote.get(&key).await.unwrap().is_some());
    cutter.cut_next(1);
    assert_eq!(remote.scan(&id("a"), None, 10).await.unwrap().items.len(), 1);
}

#[tokio::test]
async fn a_server_that_is_gone_did_nothing() {
    let remote = remote([gone().await]);
    let key = id::<Key>("a/b");
    let error = remote.put(&key, Bytes::from("x"), Precondition::Absent).await.unwrap_err();
    assert_eq!((error.kind(), error.effect()), (ErrorKind::Unavailable, Effect::None), "{error:?}");
    let error = remote.get(&key).await.unwrap_err();
    assert_eq!((error.kind(), error.effect()), (ErrorKind::Unavailable, Effect::None), "{error:?}");
    assert!(error.to_string().contains("http://127.0.0.1:"), "the server is named: {error}");
    let error = remote.watch(&key).await.map(|_| ()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error:?}");
}

#[tokio::test]
async fn the_next_server_is_asked_when_one_is_gone() {
    let db = MemoryDb::new();
    let server = serve(db.clone()).await;
    let remote = remote([gone().await, server.url()]);
    let key = id::<Key>("a/b");
    let outcome = remote.put(&key, Bytes::from("x"), Precondition::Absent).await.unwrap();
    assert!(matches!(outcome, CasOutcome::Applied(_)));
    assert_eq!(remote.to_string(), format!("store at {}", server.url()), "it is remembered");
    assert!(remote.get(&key).await.unwrap().is_some());
}

#[tokio::test]
async fn a_write_in_doubt_is_not_taken_to_the_next_server() {
    let first = MemoryDb::new();
    let first_server = serve(first.clone()).await;
    let cutter = Cutter::before(first_server.address()).await;
    let second = MemoryDb::new();
    let second_server = serve(second.clone()).await;
    let remote = remote([cutter.url.clone(), second_server.url()]);
    cutter.cut_next(1);
    let error = remote.put(&id("a/b"), Bytes::from("x"), Precondition::Absent).await.unwrap_err();
    assert_eq!(error.effect(), Effect::Unknown);
    assert_eq!((first.writes(), second.writes()), (1, 0));
}

#[tokio::test]
async fn a_broken_watch_is_taken_up_with_a_reset() {
    let db = MemoryDb::new();
    let first = serve(db.clone()).await;
    let second = serve(db.clone()).await;
    let remote = remote([first.url(), second.url()]);
    let mut hints = remote.watch(&id("a")).await.unwrap();
    drop(first);
    assert_eq!(soon("the reset", hints.next()).await, Some(Hint::Reset));
    let outcome = db.put(&id("a/b"), Bytes::from("x"), Precondition::Absent).await.unwrap();
    assert!(matches!(outcome, CasOutcome::Applied(_)));
    assert_eq!(soon("the hint", hints.next()).await, Some(Hint::Changed(id("a/b"))));
    // Nobody has the store any more, so nobody waits for it to come back.
    drop(remote);
    drop(second);
    assert_eq!(soon("the end", hints.next()).await, None);
}

#[tokio::test]
async fn a_silent_connection_is_a_broken_one() {
    let server = TestServer::start(|environment| {
        let mut parts = testing::parts(environment, Arc::new(MemoryDb::new()));
        parts.limits.heartbeat = Duration::from_secs(3600);
        parts
    })
    .await;
    let remote = remote_with([server.url()], SERVER, |config| config.silence = Duration::from_millis(100));
    let mut hints = remote.watch(&id("a")).await.unwrap();
    assert_eq!(soon("the reset", hints.next()).await, Some(Hint::Reset));
}

#[tokio::test]
async fn servers_find_the_owner_and_are_not_sent_in_circles() {
    let db = MemoryDb::new();
    let bystander = TestServer::start(|environment| {
        let mut parts = testing::parts(environment, Arc::new(MemoryDb::new()));
        parts.owns_store = Arc::new(|| false);
        parts
    })
    .await;
    let owner = serve(db.clone()).await;
    let direct = |servers: Vec<String>| remote_with(servers, SERVER, |config| config.direct = true);
    let found = direct(vec![bystander.url(), owner.url()]);
    let outcome = found.put(&id("a/b"), Bytes::from("x"), Precondition::Absent).await.unwrap();
    assert!(matches!(outcome, CasOutcome::Applied(_)));
    assert_eq!(db.writes(), 1);
    let lost = direct(vec![bystander.url()]);
    let error = lost.put(&id("a/c"), Bytes::from("x"), Precondition::Absent).await.unwrap_err();
    assert_eq!((error.kind(), error.effect()), (ErrorKind::Unavailable, Effect::None), "{error:?}");
}

/// A store that fails as it is told.
#[derive(Debug, Clone)]
struct Failing(Error);

impl std::fmt::Display for Failing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("failing store")
    }
}

#[async_trait]
impl MetadataDb for Failing {
    fn capabilities(&self) -> MetadataCapabilities {
        MemoryDb::new().capabilities()
    }
    async fn get(&self, _: &Key) -> Result<Option<Record>> {
        Err(self.0.clone())
    }
    async fn put(&self, _: &Key, _: Bytes, _: Precondition) -> Result<CasOutcome> {
        Err(self.0.clone())
    }
    async fn delete(&self, _: &Key, _: &Version) -> Result<CasOutcome> {
        Err(self.0.clone())
    }
    async fn scan(&self, _: &Key, _: Option<&Key>, _: usize) -> Result<Page> {
        Err(self.0.clone())
    }
    async fn watch(&self, _: &Key) -> Result<BoxStream<'static, Hint>> {
        Err(self.0.clone())
    }
}

#[tokio::test]
async fn a_failure_of_the_store_arrives_as_it_is() {
    let kinds = [
        ErrorKind::Unavailable,
        ErrorKind::Throttled,
        ErrorKind::Denied,
        ErrorKind::NotFound,
        ErrorKind::AlreadyExists,
        ErrorKind::Stale,
        ErrorKind::Busy,
        ErrorKind::Invalid,
        ErrorKind::Unsupported,
        ErrorKind::QuotaExceeded,
        ErrorKind::Corrupt,
        ErrorKind::Internal,
    ];
    for (kind, effect_none) in kinds.into_iter().flat_map(|kind| [(kind, true), (kind, false)]) {
        let retry = Retry::After(Duration::from_nanos(1_500_000_001));
        let told = Error::new(kind, "disk", "write", "sector 7", "it is \"full\"").with_retry(retry);
        let told = if effect_none { told.without_effect() } else { told };
        let server = serve(Failing(told.clone())).await;
        let remote = remote([server.url()]);
        let key = id::<Key>("a/b");
        for (operation, error) in [
            ("get", remote.get(&key).await.map(|_| ()).unwrap_err()),
            ("put", remote.put(&key, Bytes::new(), Precondition::Absent).await.map(|_| ()).unwrap_err()),
            ("delete", remote.delete(&key, &Version::new("v")).await.map(|_| ()).unwrap_err()),
            ("scan", remote.scan(&key, None, 1).await.map(|_| ()).unwrap_err()),
            ("watch", remote.watch(&key).await.map(|_| ()).unwrap_err()),
        ] {
            let came = (error.kind(), error.effect(), error.retry(), error.message(), error.subject());
            assert_eq!(came, (kind, told.effect(), retry, told.message(), "sector 7"), "{operation}");
            assert_eq!((error.operation(), error.backend()), (operation, "disk"));
        }
    }
}

#[tokio::test]
async fn a_node_that_oversteps_is_denied_without_effect() {
    let db = MemoryDb::new();
    let server = serve(db.clone()).await;
    let remote = remote_with([server.url()], NODE, |_| {});
    let key = id::<Key>("steadfast/test/services/orders");
    let error = remote.put(&key, Bytes::from("{}"), Precondition::Absent).await.unwrap_err();
    assert_eq!((error.kind(), error.effect()), (ErrorKind::Denied, Effect::None), "{error:?}");
    let stranger = remote_with([server.url()], "stranger", |_| {});
    let error = stranger.put(&key, Bytes::from("{}"), Precondition::Absent).await.unwrap_err();
    assert_eq!((error.kind(), error.effect()), (ErrorKind::Denied, Effect::None), "{error:?}");
    assert_eq!(db.writes(), 0);
}

#[tokio::test]
async fn a_switch_sends_new_calls_to_the_new_store_and_ends_watches_with_a_reset() {
    let (first, second) = (MemoryDb::new(), MemoryDb::new());
    let switch = SwitchDb::remote(Arc::new(first.clone()));
    assert!(!switch.is_owner());
    let mut idle = switch.watch(&id("a")).await.unwrap();
    let mut busy = switch.watch(&id("a")).await.unwrap();
    let outcome = switch.put(&id("a/b"), Bytes::from("x"), Precondition::Absent).await.unwrap();
    assert!(matches!(outcome, CasOutcome::Applied(_)));
    assert_eq!(soon("the hint", busy.next()).await, Some(Hint::Changed(id("a/b"))));
    switch.clone().become_owner(Arc::new(second.clone()));
    assert!(switch.is_owner());
    for watch in [&mut idle, &mut busy] {
        assert_eq!(soon("the reset", watch.next()).await, Some(Hint::Reset));
        assert_eq!(soon("the end", watch.next()).await, None);
    }
    assert_eq!(switch.get(&id("a/b")).await.unwrap(), None, "that is in the first store");
    let mut hints = switch.watch(&id("a")).await.unwrap();
    let outcome = switch.put(&id("a/c"), Bytes::from("x"), Precondition::Absent).await.unwrap();
    assert!(matches!(outcome, CasOutcome::Applied(_)));
    assert_eq!(soon("the hint", hints.next()).await, Some(Hint::Changed(id("a/c"))));
    assert_eq!((first.writes(), second.writes()), (1, 1));
    switch.follow(Arc::new(first));
    assert!(!switch.is_owner());
}
