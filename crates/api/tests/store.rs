//! The store endpoints: rights of nodes, failures that travel whole, secrets for holders, the watch.

mod support;

use std::sync::Arc;

use bytes::Bytes;
use futures::StreamExt as _;
use serde_json::{Value, json};
use steadfast_api::auth::Token;
use steadfast_api::client::{Client, ClientConfig, ClientError};
use steadfast_api::testing::{self, ADMIN, NODE, SERVER, TestServer, id};
use steadfast_api::wire::WatchLine;
use steadfast_core::metadata::memory::MemoryDb;
use steadfast_core::metadata::{CasOutcome, Key, MetadataDb, Precondition, Version};
use steadfast_core::{Effect, Environment, ErrorKind};
use support::{Scripted, bearer, send};

fn client(server: &TestServer, token: &str) -> Client {
    let token = Token::new(token).expect("the token is a word");
    let config = ClientConfig::new([server.url()], testing::cluster(), Some(token));
    Client::new(Environment::system([5; 32]), config).expect("the address is one")
}

async fn server() -> (TestServer, MemoryDb) {
    let db = MemoryDb::new();
    let store = db.clone();
    let server = TestServer::start(|environment| testing::parts(environment, Arc::new(store))).await;
    (server, db)
}

fn key(rest: &str) -> Key {
    id(&format!("steadfast/test/{rest}"))
}

fn bytes(value: &Value) -> Bytes {
    value.to_string().into()
}

async fn put(db: &MemoryDb, key: &Key, value: &Value) -> Version {
    match db.put(key, bytes(value), Precondition::Absent).await {
        Ok(CasOutcome::Applied(version)) => version,
        other => panic!("{other:?}"),
    }
}

/// The error a node's call must be refused with, as a backend sees it.
#[track_caller]
fn denied<T: std::fmt::Debug>(result: Result<T, ClientError>) {
    let error = result.expect_err("it is none of the node's business").into_error("api", "put", "key");
    assert_eq!((error.kind(), error.effect()), (ErrorKind::Denied, Effect::None), "{error:?}");
    assert!(error.message().contains("node-1"), "{error:?}");
}

/// A member's record. `holder` and `unreleased` are nodes.
fn member(placed_on: Option<&str>, holder: Option<&str>, unreleased: &[&str], epoch: u64) -> Value {
    let entry = |node: &str| json!({"node": node, "incarnation": "i-1", "epoch": epoch});
    json!({"schema": 1, "write_id": "w", "body": {
        "id": "m-1", "name": "orders-0", "service_id": "s-1", "service": "orders", "group": "main",
        "ordinal": 0, "epoch": epoch, "phase": "Claiming", "placed_on": placed_on, "run": true, "generation": 1,
        "revision": 1, "holder": holder.map(entry), "unreleased": unreleased.iter().map(|n| entry(n)).collect::<Vec<_>>(),
        "volumes": [], "address": null, "initialised": null, "last_node": null,
        "phase_since": "2026-01-02T03:04:05Z", "events": {"next": 0, "events": []}
    }})
}

#[tokio::test]
async fn a_node_reads_everything_of_its_cluster_but_secrets() {
    let (server, db) = server().await;
    put(&db, &key("services/orders"), &json!({})).await;
    put(&db, &key("secrets/s-1/password"), &json!({})).await;
    let other = id("steadfast/other/services/orders");
    put(&db, &other, &json!({})).await;
    let node = client(&server, NODE);
    assert!(node.store_get(&key("services/orders")).await.unwrap().is_some());
    assert_eq!(node.store_scan(&key("services"), None, 10).await.unwrap().items.len(), 1);
    for prefix in ["secrets/s-1/password", "secrets/s-1", "secrets"] {
        denied(node.store_get(&key(prefix)).await);
        denied(node.store_scan(&key(prefix), None, 10).await);
        denied(node.store_watch(&key(prefix)).await.map(|_| ()));
    }
    for whole in ["steadfast/test", "steadfast", "steadfast/other/services", "elsewhere"] {
        denied(node.store_scan(&id(whole), None, 10).await);
        denied(node.store_watch(&id(whole)).await.map(|_| ()));
    }
    denied(node.store_get(&other).await);
    let server_itself = client(&server, SERVER);
    assert_eq!(server_itself.store_scan(&id("steadfast/test"), None, 10).await.unwrap().items.len(), 2);
}

#[tokio::test]
async fn a_node_writes_its_own_keys_and_no_others() {
    let (server, db) = server().await;
    let node = client(&server, NODE);
    let create = async |rest: &str| node.store_put(&key(rest), Bytes::from("{}"), Precondition::Absent).await;
    for own in ["nodes/node-1/status", "ip/127.1.0.1", "dns/names/orders-0.test.steadfast.internal/addresses"]
    {
        let Ok(CasOutcome::Applied(version)) = create(own).await else { panic!("{own}") };
        let outcome = node.store_delete(&key(own), &version).await.unwrap();
        assert_eq!(outcome, CasOutcome::Applied(version), "{own}");
    }
    for foreign in [
        "nodes/node-2/status",
        "nodes/node-1",
        "nodes/node-10/status",
        "services/orders",
        "operations/op-1",
        "revisions/s-1/1",
        "leases/0",
        "secrets/s-1/password",
        "tasks/node-1/orders-0",
        "members/orders",
        "members/orders/orders-0",
        "format",
        "ip-owners/m-1",
        "dns/zones/test.steadfast.internal",
    ] {
        denied(create(foreign).await);
        let version = put(&db, &key(foreign), &json!({})).await;
        denied(node.store_delete(&key(foreign), &version).await);
        assert!(db.get(&key(foreign)).await.unwrap().is_some(), "{foreign}");
    }
}

/// A node's own record: what its agent writes, and what operators do.
fn registration(incarnation: &str, confirmed_dead: Option<&str>, draining: bool) -> Value {
    json!({"schema": 1, "write_id": "w", "body": {
        "node": "node-1", "zone": "zone-a", "incarnation": incarnation, "registered_at": "2026-01-02T03:04:05Z",
        "confirmed_dead": confirmed_dead, "draining": draining
    }})
}

#[tokio::test]
async fn a_node_registers_its_lives_and_cannot_undo_what_operators_say_of_it() {
    let (server, db) = server().await;
    let node = client(&server, NODE);
    let at = key("nodes/node-1/record");
    let create = async |value: &Value| node.store_put(&at, bytes(value), Precondition::Absent).await;
    // It may neither say of itself what operators say, nor be somebody else.
    denied(create(&registration("i-1", Some("i-1"), false)).await);
    denied(create(&registration("i-1", None, true)).await);
    let mut another = registration("i-1", None, false);
    another["body"]["node"] = json!("node-2");
    denied(create(&another).await);
    let Ok(CasOutcome::Applied(version)) = create(&registration("i-1", None, false)).await else { panic!() };
    assert_eq!(create(&registration("i-2", None, false)).await.unwrap(), CasOutcome::Conflict);

    // An operator has confirmed the life dead, and empties the node.
    let marked = bytes(&registration("i-1", Some("i-1"), true));
    let operator = client(&server, SERVER);
    let outcome = operator.store_put(&at, marked, Precondition::Version(version.clone())).await.unwrap();
    let CasOutcome::Applied(stored) = outcome else { panic!("{outcome:?}") };
    let write = async |value: &Value, over: &Version| {
        node.store_put(&at, bytes(value), Precondition::Version(over.clone())).await
    };
    assert_eq!(write(&registration("i-1", None, false), &version).await.unwrap(), CasOutcome::Conflict);
    for changed in [
        registration("i-1", None, true),
        registration("i-1", Some("i-0"), true),
        registration("i-1", Some("i-1"), false),
        registration("i-2", None, false),
    ] {
        denied(write(&changed, &stored).await);
    }
    denied(node.store_delete(&at, &stored).await);
    assert_eq!(db.get(&at).await.unwrap().unwrap().version, stored, "nothing of it was written");
    // A new life is registered beside what was said of the last.
    let next = write(&registration("i-2", Some("i-1"), true), &stored).await.unwrap();
    assert!(matches!(next, CasOutcome::Applied(_)), "{next:?}");
}

#[tokio::test]
async fn a_node_claims_what_is_placed_on_it_and_changes_only_what_claims_change() {
    let (server, db) = server().await;
    let node = client(&server, NODE);
    let at = key("members/orders/orders-0");
    let stored = member(Some("node-1"), Some("node-2"), &["node-2"], 4);
    let version = put(&db, &at, &stored).await;
    let write =
        async |value: &Value| node.store_put(&at, bytes(value), Precondition::Version(version.clone())).await;

    let mut claim = member(Some("node-1"), Some("node-1"), &["node-1"], 5);
    claim["body"]["unreleased"] = json!([
        {"node": "node-2", "incarnation": "i-1", "epoch": 4}, {"node": "node-1", "incarnation": "i-1", "epoch": 5}
    ]);
    for (field, value) in [
        ("id", json!("m-2")),
        ("service", json!("other")),
        ("ordinal", json!(1)),
        ("placed_on", json!("node-3")),
        ("run", json!(false)),
        ("generation", json!(2)),
        ("revision", json!(2)),
        ("epoch", json!(3)),
        ("holder", json!({"node": "node-3", "incarnation": "i-1", "epoch": 5})),
        ("holder", json!(null)),
        ("unreleased", json!([{"node": "node-3", "incarnation": "i-1", "epoch": 5}])),
    ] {
        let mut wrong = claim.clone();
        wrong["body"][field] = value;
        denied(write(&wrong).await);
    }
    denied(node.store_put(&at, Bytes::from("no record"), Precondition::Version(version.clone())).await);
    denied(node.store_put(&at, bytes(&claim), Precondition::Absent).await);
    denied(node.store_delete(&at, &version).await);
    assert!(matches!(write(&claim).await, Ok(CasOutcome::Applied(_))));
    assert_eq!(write(&claim).await.unwrap(), CasOutcome::Conflict, "the version is gone");
}

#[tokio::test]
async fn whoever_held_a_member_may_release_it_and_nobody_else_may_touch_it() {
    let (server, db) = server().await;
    let node = client(&server, NODE);
    for (name, stored, after, may) in [
        ("gives back", member(None, Some("node-1"), &["node-1"], 4), member(None, None, &[], 4), true),
        (
            "leaves the unreleased",
            member(Some("node-2"), Some("node-2"), &["node-1", "node-2"], 4),
            member(Some("node-2"), Some("node-2"), &["node-2"], 4),
            true,
        ),
        (
            "has no part in it",
            member(Some("node-2"), Some("node-2"), &["node-2"], 4),
            member(Some("node-2"), Some("node-1"), &["node-1"], 5),
            false,
        ),
    ] {
        let at = key(&format!("members/orders/{}-0", name.replace(' ', "-")));
        let version = put(&db, &at, &stored).await;
        let result = node.store_put(&at, bytes(&after), Precondition::Version(version)).await;
        if may {
            assert!(matches!(result, Ok(CasOutcome::Applied(_))), "{name}: {result:?}");
        } else {
            denied(result);
        }
    }
}

#[tokio::test]
async fn secrets_go_to_the_node_that_holds_the_member_only() {
    let control = Scripted::new();
    let server = control.serve().await;
    let node = client(&server, NODE);
    let found = node.member_secrets(&id("node-1"), &id("orders-0")).await.unwrap();
    assert_eq!(found.secrets["password"], "s3cret");
    assert!(!format!("{found:?}").contains("s3cret"));
    let not_held = node.member_secrets(&id("node-1"), &id("orders-1")).await.unwrap_err();
    assert_eq!(not_held.problem().unwrap().status, 403);
    let asked = control.asked.lock().unwrap().len();
    let other_node = node.member_secrets(&id("node-2"), &id("orders-0")).await.unwrap_err();
    assert_eq!(other_node.problem().unwrap().status, 403);
    assert_eq!(control.asked.lock().unwrap().len(), asked, "nobody is asked for another's");
    let admin = client(&server, ADMIN).member_secrets(&id("node-1"), &id("orders-0")).await.unwrap_err();
    assert_eq!(admin.problem().unwrap().status, 403);
}

#[tokio::test]
async fn an_answer_with_secrets_is_not_to_be_kept() {
    let server = Scripted::new().serve().await;
    for (token, path) in [
        (ADMIN, "services/orders/connect"),
        (ADMIN, "services/orders/secrets/password"),
        (NODE, "nodes/node-1/members/orders-0/secrets"),
    ] {
        let answer = send(&server, &format!("GET /v1/clusters/test/{path}"), &[&bearer(token)], "").await;
        assert!(answer.body.contains("s3cret"), "{path}: {answer:?}");
        assert_eq!(answer.header("cache-control"), Some("no-store"), "{path}");
    }
    for path in ["services/orders/secrets", "services/orders", "services", "openapi.json"] {
        let answer = send(&server, &format!("GET /v1/clusters/test/{path}"), &[&bearer(ADMIN)], "").await;
        assert!(!answer.body.contains("s3cret"), "{path}: {answer:?}");
    }
}

#[tokio::test]
async fn the_watch_beats_while_nothing_happens_and_ends_with_the_server() {
    let db = MemoryDb::new();
    let store = db.clone();
    let server = TestServer::start(|environment| {
        let mut parts = testing::parts(environment, Arc::new(store));
        parts.limits.heartbeat = std::time::Duration::from_millis(20);
        parts
    })
    .await;
    let mut lines = client(&server, NODE).store_watch(&key("services")).await.unwrap();
    assert_eq!(lines.next().await, Some(WatchLine::Heartbeat));
    put(&db, &key("services/orders"), &json!({})).await;
    let changed = async {
        loop {
            match lines.next().await {
                Some(WatchLine::Heartbeat) => {}
                other => return other,
            }
        }
    };
    assert_eq!(changed.await, Some(WatchLine::Changed(key("services/orders"))));
    drop(server);
    while let Some(line) = lines.next().await {
        assert_eq!(line, WatchLine::Heartbeat);
    }
}

#[tokio::test]
async fn only_the_owner_answers_those_who_look_for_it() {
    let server = TestServer::start(|environment| {
        let mut parts = testing::parts(environment, Arc::new(MemoryDb::new()));
        parts.owns_store = Arc::new(|| false);
        parts
    })
    .await;
    let mut config = ClientConfig::new([server.url()], testing::cluster(), Some(Token::new(SERVER).unwrap()));
    config.direct = true;
    let direct = Client::new(Environment::system([5; 32]), config).unwrap();
    let error = direct.store_put(&key("format"), Bytes::new(), Precondition::Absent).await.unwrap_err();
    assert_eq!(error.problem().unwrap().code, "StoreElsewhere");
    let error = error.into_error("api", "put", "format");
    assert_eq!((error.kind(), error.effect()), (ErrorKind::Unavailable, Effect::None));
    let sent_on = client(&server, SERVER).store_capabilities().await.unwrap();
    assert!(!sent_on.owner);
}
