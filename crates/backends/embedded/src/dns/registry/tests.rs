use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use bytes::Bytes;
use futures::stream::BoxStream;
use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::opt::{EdnsCode, EdnsOption};
use hickory_proto::rr::{Name, RecordType};
use steadfast_core::metadata::memory::MemoryDb;
use steadfast_core::metadata::{CasOutcome, Hint, MetadataCapabilities, Page, Precondition, Record, Version};
use steadfast_core::registry::ServiceTarget;

use super::*;
use crate::dns::{DnsOptions, DnsServer};

/// The memory store, with two switches: one makes it unreachable, the other loses its hints.
#[derive(Debug)]
struct Store {
    memory: MemoryDb,
    down: AtomicBool,
    /// How many calls failed for that.
    failed: AtomicU64,
    mute: bool,
}

impl Store {
    fn new() -> Arc<Store> {
        Arc::new(Store::with_hints(true))
    }

    fn with_hints(hints: bool) -> Store {
        Store {
            memory: MemoryDb::new(),
            down: AtomicBool::new(false),
            failed: AtomicU64::new(0),
            mute: !hints,
        }
    }

    fn check(&self) -> Result<()> {
        if self.down.load(Ordering::SeqCst) {
            self.failed.fetch_add(1, Ordering::SeqCst);
            return Err(Error::new(ErrorKind::Unavailable, self, "call", "store", "it is down"));
        }
        Ok(())
    }
}

impl fmt::Display for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("store")
    }
}

#[async_trait]
impl MetadataDb for Store {
    fn capabilities(&self) -> MetadataCapabilities {
        self.memory.capabilities()
    }
    async fn get(&self, key: &Key) -> Result<Option<Record>> {
        self.check()?;
        self.memory.get(key).await
    }
    async fn put(&self, key: &Key, value: Bytes, precondition: Precondition) -> Result<CasOutcome> {
        self.check()?;
        self.memory.put(key, value, precondition).await
    }
    async fn delete(&self, key: &Key, version: &Version) -> Result<CasOutcome> {
        self.check()?;
        self.memory.delete(key, version).await
    }
    async fn scan(&self, prefix: &Key, after: Option<&Key>, limit: usize) -> Result<Page> {
        self.check()?;
        // Small pages, so that there are several.
        self.memory.scan(prefix, after, limit.min(2)).await
    }
    async fn watch(&self, prefix: &Key) -> Result<BoxStream<'static, Hint>> {
        use futures::StreamExt as _;
        self.check()?;
        if self.mute { Ok(futures::stream::pending().boxed()) } else { self.memory.watch(prefix).await }
    }
}

fn registry_on(db: Arc<dyn MetadataDb>, seed: u8) -> StoreRegistry {
    let environment = Environment::system([seed; 32]);
    StoreRegistry::new(db, &environment, "steadfast/demo".parse().unwrap()).unwrap()
}

fn name(text: &str) -> DomainName {
    text.parse().unwrap()
}

fn addresses(values: &[&str]) -> RecordSet {
    RecordSet::Addresses(values.iter().map(|value| value.parse().unwrap()).collect())
}

fn served(registry: &StoreRegistry, owner: &str) -> Option<RecordSet> {
    registry.zones().holds(&name(owner), RecordKind::Addresses)
}

async fn put(registry: &StoreRegistry, owner: &str, values: &[&str]) {
    let held = registry.resolve(&name(owner), RecordKind::Addresses).await.unwrap();
    let outcome = registry.upsert(&name(owner), &addresses(values), held.as_ref()).await.unwrap();
    assert_eq!(outcome, NameOutcome::Applied);
}

async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let waiting = async {
        while !holds() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), waiting).await.unwrap_or_else(|_| panic!("never: {what}"));
}

#[tokio::test]
async fn changes_are_conditional() {
    let registry = registry_on(Store::new(), 1);
    registry.ensure_zone(&name("demo.internal")).await.unwrap();
    registry.ensure_zone(&name("demo.internal")).await.unwrap();
    let owner = name("orders-0.demo.internal");
    let (one, two, three) = (addresses(&["127.0.0.1"]), addresses(&["127.0.0.2"]), addresses(&["127.0.0.3"]));

    assert_eq!(registry.remove(&owner, &one).await.unwrap(), NameOutcome::Applied);
    assert_eq!(registry.upsert(&owner, &one, Some(&two)).await.unwrap(), NameOutcome::Stale(None));
    assert_eq!(registry.upsert(&owner, &one, None).await.unwrap(), NameOutcome::Applied);
    assert_eq!(registry.upsert(&owner, &one, Some(&three)).await.unwrap(), NameOutcome::Applied);
    assert_eq!(registry.upsert(&owner, &two, None).await.unwrap(), NameOutcome::Stale(Some(one.clone())));
    assert_eq!(registry.upsert(&owner, &two, Some(&one)).await.unwrap(), NameOutcome::Applied);
    assert_eq!(registry.remove(&owner, &one).await.unwrap(), NameOutcome::Stale(Some(two.clone())));
    assert_eq!(registry.resolve(&owner, RecordKind::Addresses).await.unwrap(), Some(two.clone()));
    assert_eq!(registry.resolve(&owner, RecordKind::Services).await.unwrap(), None);
    assert_eq!(registry.remove(&owner, &two).await.unwrap(), NameOutcome::Applied);
    assert_eq!(registry.resolve(&owner, RecordKind::Addresses).await.unwrap(), None);
}

#[tokio::test]
async fn bad_input_is_refused_without_effect() {
    let store = Store::new();
    let registry = registry_on(store.clone(), 1);
    registry.ensure_zone(&name("demo.internal")).await.unwrap();
    let before = store.memory.writes();
    let empty = RecordSet::Addresses(BTreeSet::new());
    let refusals = [
        registry.upsert(&name("a.demo.internal"), &empty, None).await.unwrap_err(),
        registry.upsert(&name("a.other.internal"), &addresses(&["127.0.0.1"]), None).await.unwrap_err(),
        registry.upsert(&name("ademo.internal"), &addresses(&["127.0.0.1"]), None).await.unwrap_err(),
    ];
    for error in refusals {
        assert_eq!((error.kind(), error.effect()), (ErrorKind::Invalid, steadfast_core::Effect::None));
    }
    let full = name(&format!("{0}.{0}.{0}.{1}", "x".repeat(62), "x".repeat(60)));
    assert_eq!(registry.ensure_zone(&full).await.unwrap_err().kind(), ErrorKind::Invalid);
    assert_eq!(store.memory.writes(), before);
}

#[tokio::test]
async fn names_of_a_zone_are_listed_in_order_with_both_kinds() {
    let registry = registry_on(Store::new(), 1);
    registry.ensure_zone(&name("demo.internal")).await.unwrap();
    registry.ensure_zone(&name("other.internal")).await.unwrap();
    for owner in ["a.demo.internal", "a-b.demo.internal", "b.demo.internal", "a.other.internal"] {
        put(&registry, owner, &["127.0.0.1"]).await;
    }
    let target = ServiceTarget { priority: 1, weight: 1, port: 1, target: name("b.demo.internal") };
    let services = RecordSet::Services(BTreeSet::from([target]));
    let outcome = registry.upsert(&name("a.demo.internal"), &services, None).await.unwrap();
    assert_eq!(outcome, NameOutcome::Applied);
    let listed = registry.records(&name("demo.internal")).await.unwrap();
    let listed: Vec<_> = listed.iter().map(|(name, set)| (name.as_str(), set.kind())).collect();
    assert_eq!(
        listed,
        [
            ("a-b.demo.internal", RecordKind::Addresses),
            ("a.demo.internal", RecordKind::Addresses),
            ("a.demo.internal", RecordKind::Services),
            ("b.demo.internal", RecordKind::Addresses),
        ]
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_racing_changes_one_is_applied_and_it_is_what_is_served() {
    let store = Store::new();
    let registry = registry_on(store, 1);
    registry.ensure_zone(&name("demo.internal")).await.unwrap();
    registry.zones().reload().await.unwrap();
    let owner = name("primary.orders.demo.internal");
    let mut held: Option<RecordSet> = None;
    for round in 1..=20 {
        let racers = (1..=8).map(|racer| {
            let (registry, owner, held) = (registry.clone(), owner.clone(), held.clone());
            let set = addresses(&[&format!("127.0.{round}.{racer}")]);
            tokio::spawn(async move {
                let outcome = registry.upsert(&owner, &set, held.as_ref()).await.unwrap();
                (outcome == NameOutcome::Applied).then_some(set)
            })
        });
        let outcomes = futures::future::join_all(racers).await;
        let won: Vec<RecordSet> = outcomes.into_iter().filter_map(|outcome| outcome.unwrap()).collect();
        assert_eq!(won.len(), 1, "{won:?}");
        held = won.into_iter().next();
        assert_eq!(registry.zones().holds(&owner, RecordKind::Addresses), held);
    }
}

#[tokio::test]
async fn what_others_write_through_the_served_store_is_served_before_it_is_acknowledged() {
    // Nobody follows the store here: only the writes themselves bring the names in step.
    let registry = registry_on(Store::new(), 1);
    registry.zones().reload().await.unwrap();
    let agent = registry_on(registry.database(), 2);
    agent.ensure_zone(&name("demo.internal")).await.unwrap();
    let path = super::super::table::path_of(&name("demo.internal"));
    assert!(registry.zones().with(|table| table.unwrap().zone(&path).is_some()));
    put(&agent, "orders-0.demo.internal", &["127.0.0.1"]).await;
    assert_eq!(served(&registry, "orders-0.demo.internal"), Some(addresses(&["127.0.0.1"])));
    put(&agent, "orders-0.demo.internal", &["127.0.0.2"]).await;
    assert_eq!(served(&registry, "orders-0.demo.internal"), Some(addresses(&["127.0.0.2"])));
    let removed = agent.remove(&name("orders-0.demo.internal"), &addresses(&["127.0.0.2"])).await.unwrap();
    assert_eq!(removed, NameOutcome::Applied);
    assert_eq!(served(&registry, "orders-0.demo.internal"), None);
}

#[tokio::test]
async fn what_another_process_wrote_is_served_once_it_is_found_to_hold() {
    let store = Store::new();
    let registry = registry_on(store.clone(), 1);
    registry.ensure_zone(&name("demo.internal")).await.unwrap();
    registry.zones().reload().await.unwrap();
    put(&registry_on(store, 2), "orders-0.demo.internal", &["127.0.0.1"]).await;
    assert_eq!(served(&registry, "orders-0.demo.internal"), None, "nobody told of it yet");
    let again = registry.upsert(&name("orders-0.demo.internal"), &addresses(&["127.0.0.1"]), None).await;
    assert_eq!(again.unwrap(), NameOutcome::Applied);
    assert_eq!(served(&registry, "orders-0.demo.internal"), Some(addresses(&["127.0.0.1"])));
}

#[tokio::test]
async fn the_last_names_are_served_while_the_store_is_down() {
    let store = Store::new();
    let registry = registry_on(store.clone(), 1);
    registry.ensure_zone(&name("demo.internal")).await.unwrap();
    put(&registry, "a.demo.internal", &["127.0.0.1"]).await;
    store.down.store(true, Ordering::SeqCst);
    registry.zones().reload().await.unwrap_err();
    assert!(registry.zones().with(|table| table.is_none()), "nothing was ever loaded");

    store.down.store(false, Ordering::SeqCst);
    registry.zones().reload().await.unwrap();
    store.down.store(true, Ordering::SeqCst);
    registry.zones().reload().await.unwrap_err();
    assert_eq!(served(&registry, "a.demo.internal"), Some(addresses(&["127.0.0.1"])));
}

/// What a server says to a question with EDNS: the code, how many answers, and the extended error.
async fn ask(server: &DnsServer, owner: &str) -> (ResponseCode, usize, Option<u16>) {
    let mut question = Message::new(7, MessageType::Query, OpCode::Query);
    question.queries.push(Query::query(Name::from_ascii(owner).unwrap(), RecordType::A));
    question.edns = Some(Edns::new());
    let socket = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
    socket.send_to(&question.to_vec().unwrap(), server.address()).await.unwrap();
    let mut buffer = [0; 1232];
    let length = socket.recv(&mut buffer).await.unwrap();
    let reply = Message::from_vec(&buffer[..length]).unwrap();
    let extended = reply.edns.as_ref().and_then(|edns| match edns.option(EdnsCode::Unknown(15)) {
        Some(EdnsOption::Unknown(_, bytes)) => Some(u16::from_be_bytes([bytes[0], bytes[1]])),
        _ => None,
    });
    (reply.metadata.response_code, reply.answers.len(), extended)
}

/// Asks until the answer is this one.
async fn until_said(server: &DnsServer, wanted: (ResponseCode, usize, Option<u16>)) {
    let waiting = async { while ask(server, "a.demo.internal.").await != wanted {} };
    let said = tokio::time::timeout(Duration::from_secs(60), waiting).await;
    assert!(said.is_ok(), "never {wanted:?}: {:?}", ask(server, "a.demo.internal.").await);
}

#[tokio::test]
async fn a_server_that_lost_the_store_says_so_and_in_the_end_tells_nothing_any_more() {
    let store = Store::new();
    let environment = Environment::system([1; 32]);
    let prefix = "steadfast/demo".parse().unwrap();
    let registry = StoreRegistry::new(store.clone(), &environment, prefix).unwrap();
    registry.ensure_zone(&name("demo.internal")).await.unwrap();
    put(&registry, "a.demo.internal", &["127.0.0.1"]).await;
    let with = |expire| DnsOptions {
        resync: Duration::from_millis(50),
        expire,
        ..DnsOptions::new("127.0.0.1:0".parse().unwrap())
    };
    let start = |expire| DnsServer::start(&environment, &registry, with(expire));
    let patient = start(Duration::from_secs(3600)).await.unwrap();
    let strict = start(Duration::from_millis(500)).await.unwrap();
    let well = (ResponseCode::NoError, 1, None);
    let (stale, not_ready) = (Some(3), Some(14));
    for server in [&patient, &strict] {
        until_said(server, well).await;
    }

    store.down.store(true, Ordering::SeqCst);
    until_said(&patient, (ResponseCode::NoError, 1, stale)).await;
    until_said(&strict, (ResponseCode::ServFail, 0, not_ready)).await;
    assert_eq!(ask(&patient, "a.demo.internal.").await, (ResponseCode::NoError, 1, stale));

    store.down.store(false, Ordering::SeqCst);
    for server in [&patient, &strict] {
        until_said(server, well).await;
    }
    environment.tasks().stop().await;
}

#[tokio::test]
async fn a_reload_brings_what_changed_and_drops_what_is_gone() {
    let store = Store::new();
    let registry = registry_on(store.clone(), 1);
    registry.ensure_zone(&name("demo.internal")).await.unwrap();
    for n in 0..5 {
        put(&registry, &format!("orders-{n}.demo.internal"), &[&format!("127.0.0.{n}")]).await;
    }
    registry.zones().reload().await.unwrap();
    let serial = || {
        let path = super::super::table::path_of(&name("demo.internal"));
        registry.zones().with(|table| table.unwrap().zone(&path).unwrap().serial)
    };
    let before = serial();
    registry.zones().reload().await.unwrap();
    assert_eq!(serial(), before, "nothing changed");

    let elsewhere = registry_on(store, 2);
    put(&elsewhere, "orders-1.demo.internal", &["127.0.1.1"]).await;
    let gone = elsewhere.remove(&name("orders-2.demo.internal"), &addresses(&["127.0.0.2"])).await.unwrap();
    assert_eq!(gone, NameOutcome::Applied);
    registry.zones().reload().await.unwrap();
    assert_eq!(served(&registry, "orders-1.demo.internal"), Some(addresses(&["127.0.1.1"])));
    assert_eq!(served(&registry, "orders-2.demo.internal"), None);
    assert_eq!(served(&registry, "orders-3.demo.internal"), Some(addresses(&["127.0.0.3"])));
    assert!(serial() > before);
}

#[tokio::test]
async fn a_record_that_does_not_decode_hides_no_other_and_keeps_its_last_value() {
    let store = Store::new();
    let registry = registry_on(store.clone(), 1);
    registry.ensure_zone(&name("demo.internal")).await.unwrap();
    put(&registry, "a.demo.internal", &["127.0.0.1"]).await;
    put(&registry, "b.demo.internal", &["127.0.0.2"]).await;
    registry.zones().reload().await.unwrap();
    let key: Key = "steadfast/demo/dns/names/a.demo.internal/addresses".parse().unwrap();
    let record = store.get(&key).await.unwrap().unwrap();
    let (bytes, expected) = (Bytes::from_static(b"{"), Precondition::Version(record.version));
    let damage = registry.database().put(&key, bytes, expected).await;
    assert!(matches!(damage.unwrap(), CasOutcome::Applied(_)));
    assert_eq!(served(&registry, "a.demo.internal"), Some(addresses(&["127.0.0.1"])));
    let elsewhere = registry_on(store, 2);
    put(&elsewhere, "b.demo.internal", &["127.0.0.3"]).await;
    registry.zones().reload().await.unwrap();
    assert_eq!(served(&registry, "a.demo.internal"), Some(addresses(&["127.0.0.1"])));
    assert_eq!(served(&registry, "b.demo.internal"), Some(addresses(&["127.0.0.3"])));
}

#[tokio::test]
async fn a_lost_hint_is_made_up_for_by_the_resync() {
    let store = Arc::new(Store::with_hints(false));
    let environment = Environment::system([1; 32]);
    let prefix: Key = "steadfast/demo".parse().unwrap();
    let registry = StoreRegistry::new(store.clone(), &environment, prefix).unwrap();
    registry.ensure_zone(&name("demo.internal")).await.unwrap();
    let zones = registry.zones().clone();
    environment.tasks().spawn("follow", async move { zones.follow(Duration::from_millis(20)).await });
    until("loaded", || registry.zones().with(|table| table.is_some())).await;
    let elsewhere = registry_on(store.clone(), 2);
    put(&elsewhere, "a.demo.internal", &["127.0.0.1"]).await;
    until("seen", || served(&registry, "a.demo.internal").is_some()).await;

    // An outage in between ends nothing.
    store.down.store(true, Ordering::SeqCst);
    until("the outage is noticed", || store.failed.load(Ordering::SeqCst) > 1).await;
    store.down.store(false, Ordering::SeqCst);
    put(&elsewhere, "b.demo.internal", &["127.0.0.2"]).await;
    until("seen after the outage", || served(&registry, "b.demo.internal").is_some()).await;
    environment.tasks().stop().await;
}
