//! The client against the router: every call, failures, the watch across a restart.

mod support;

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use steadfast_api::auth::Token;
use steadfast_api::client::{Client, ClientConfig, ClientError};
use steadfast_api::control::{EventFilter, Guard, LogRequest, OperationFilter, PageRequest, WatchEvent};
use steadfast_api::server::router;
use steadfast_api::testing::{self, ADMIN, TestServer, id};
use steadfast_core::control::ControlError;
use steadfast_core::model::{OperationKind, OperationState, Reason};
use steadfast_core::{Effect, Environment};
use support::{Scripted, spec};

fn client_of(servers: impl IntoIterator<Item = String>) -> Client {
    let config = ClientConfig::new(servers, testing::cluster(), Some(Token::new(ADMIN).expect("a word")));
    Client::new(Environment::system([5; 32]), config).expect("the addresses are some")
}

#[tokio::test]
async fn every_call_comes_back_as_what_it_is() {
    let control = Scripted::new();
    let server = control.serve().await;
    let client = client_of([server.url()]);
    let guard = Guard { idempotency_key: Some("k-1".to_owned()), if_index: Some("v-7".to_owned()) };
    let orders = id("orders");
    assert_eq!(client.plan(&spec("orders")).await.unwrap().changes.len(), 1);
    let begun = client.apply(&spec("orders"), &guard).await.unwrap();
    assert_eq!((begun.kind, begun.state), (OperationKind::Create, OperationState::Running));
    assert_eq!(control.last_guard(), guard);
    for (operation, kind) in [
        (client.delete(&orders, &guard).await, OperationKind::Delete),
        (client.undelete(&orders, &guard).await, OperationKind::Undelete),
        (client.restart(&orders, &guard).await, OperationKind::Restart),
        (client.stop(&orders, &guard).await, OperationKind::Stop),
        (client.start(&orders, &guard).await, OperationKind::Start),
    ] {
        assert_eq!(operation.unwrap().kind, kind);
        assert_eq!(control.last_guard(), guard);
    }
    let page = PageRequest { after: Some("a".to_owned()), limit: 1 };
    let services = client.services(&page).await.unwrap();
    assert_eq!((services.items[0].name.as_str(), services.next.as_deref()), ("b", Some("b")));
    assert_eq!(client.service(&orders).await.unwrap().members.len(), 1);
    assert_eq!(client.pause(&orders).await.unwrap().name, orders);
    assert_eq!(client.resume(&orders).await.unwrap().name, orders);
    assert!(client.connect(&orders).await.unwrap().uri.contains("s3cret"));
    assert_eq!(client.secrets(&orders).await.unwrap(), ["password"]);
    assert_eq!(client.secret(&orders, "password").await.unwrap().value, "s3cret");
    assert!(matches!(client.secret(&orders, "../x").await, Err(ClientError::Config { field: "secret", .. })));
    let filter = OperationFilter { service: Some(orders.clone()), state: Some(OperationState::Running) };
    let page = PageRequest { after: None, limit: 5 };
    assert_eq!(client.operations(&filter, &page).await.unwrap().items.len(), 1);
    assert_eq!(client.operation(&id("op-3")).await.unwrap().id, id("op-3"));
    assert_eq!(client.cancel(&id("op-3")).await.unwrap().state, OperationState::Cancelled);
    let filter = EventFilter { service: Some(orders), member: None, after: None, limit: 5 };
    assert_eq!(client.events(&filter).await.unwrap()[0].event.reason, Reason::Created);
    assert_eq!(client.why(&id("orders-0")).await.unwrap().summary, "it serves");
    let request = LogRequest { tail: Some(2), follow: true };
    let output: Vec<_> = client.logs(&id("orders-0"), &request).await.unwrap().collect().await;
    let output: Vec<u8> = output.into_iter().flat_map(|chunk| chunk.unwrap().to_vec()).collect();
    assert_eq!(output, b"one\ntwo\n");
    assert_eq!(client.nodes().await.unwrap().len(), 1);
    assert_eq!(client.confirm_dead(&id("node-1"), &id("i-1")).await.unwrap().name, id("node-1"));
    assert_eq!(client.catalog().await.unwrap()[0].blueprint, "redis@7");
    assert!(client.health().await.unwrap().ok && client.ready().await.unwrap().ok);
    assert_eq!(client.metrics().await.unwrap(), "steadfast_up 1\n");
    assert_eq!(client.openapi().await.unwrap()["openapi"], "3.1.0");
}

#[tokio::test]
async fn a_problem_arrives_whole() {
    let control = Scripted::new();
    let server = control.serve().await;
    control.fail(ControlError::NotFound {
        kind: "service",
        name: "orders".to_owned(),
        remedy: "list the services".to_owned(),
    });
    let error = client_of([server.url()]).service(&id("orders")).await.unwrap_err();
    assert!(error.is_not_found());
    assert_eq!(error.to_string(), "service orders does not exist; list the services");
    assert_eq!(error.effect(), Effect::None);
}

#[tokio::test]
async fn a_unix_socket_does_as_well() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("api.sock");
    let listener = tokio::net::UnixListener::bind(&path).unwrap();
    let environment = Environment::system([1; 32]);
    let mut parts = testing::parts(environment, Arc::new(steadfast_core::metadata::memory::MemoryDb::new()));
    parts.control = Arc::new(Scripted::new());
    let serving = tokio::spawn(async move { axum::serve(listener, router(parts)).await });
    let client = client_of([format!("unix://{}", path.display())]);
    assert_eq!(client.service(&id("orders")).await.unwrap().name, id("orders"));
    serving.abort();
}

#[tokio::test]
async fn settings_that_cannot_work_are_named() {
    let make = |servers: &[&str]| {
        let config = ClientConfig::new(servers.iter().copied(), testing::cluster(), None);
        Client::new(Environment::system([5; 32]), config)
    };
    for wrong in [&[][..], &["ftp://x"], &["unix://relative"], &["http://"], &["127.0.0.1:80"]] {
        let error = make(wrong).unwrap_err();
        assert!(matches!(error, ClientError::Config { field: "servers", .. }), "{wrong:?}: {error:?}");
    }
    let mut config = ClientConfig::new(["https://localhost"], testing::cluster(), None);
    config.authorities = Some(b"-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----\n".to_vec());
    let error = Client::new(Environment::system([5; 32]), config).unwrap_err();
    assert!(matches!(error, ClientError::Config { .. }), "{error:?}");
}

#[tokio::test]
async fn reads_and_changes_go_on_to_a_server_that_is_there() {
    let control = Scripted::new();
    let server = control.serve().await;
    let gone = gone_address().await;
    let client = client_of([format!("http://{gone}"), server.url()]);
    assert_eq!(client.server(), format!("http://{gone}"));
    client.stop(&id("orders"), &Guard::default()).await.unwrap();
    assert_eq!(client.server(), server.url(), "the one that answered is asked first from now on");
    client.service(&id("orders")).await.unwrap();
    drop(server);
    let fresh = client_of([format!("http://{gone}")]);
    let error = fresh.stop(&id("orders"), &Guard::default()).await.unwrap_err();
    assert!(matches!(error, ClientError::Unreachable { effect: Effect::None, .. }), "{error:?}");
}

/// A loopback address where nobody listens.
async fn gone_address() -> std::net::SocketAddr {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("there is a free port");
    listener.local_addr().expect("a bound listener has an address")
}

#[tokio::test]
async fn a_server_that_never_answers_leaves_changes_in_doubt_and_reads_not() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let accepting = tokio::spawn(async move {
        let mut kept = Vec::new();
        while let Ok((stream, _)) = listener.accept().await {
            kept.push(stream);
        }
    });
    let client = client_of([url]).with_timeout(Duration::from_millis(200));
    let error = client.stop(&id("orders"), &Guard::default()).await.unwrap_err();
    assert_eq!(error.effect(), Effect::Unknown, "{error:?}");
    let error = client.service(&id("orders")).await.unwrap_err();
    assert_eq!(error.effect(), Effect::None, "{error:?}");
    accepting.abort();
}

fn changed(name: &str) -> WatchEvent {
    WatchEvent::Changed { kind: "service".to_owned(), name: name.to_owned() }
}

async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(30), future)
        .await
        .unwrap_or_else(|_| panic!("{what} did not come"))
}

#[tokio::test]
async fn a_watch_tells_every_change_and_resets_after_a_restart() {
    let control = Scripted::new();
    let server = control.serve().await;
    let address = server.address().to_string();
    let client = client_of([server.url()]);
    let mut watch = client.watch().await.unwrap();
    for name in ["a", "b"] {
        control.hints.send(changed(name)).unwrap();
    }
    assert_eq!(soon("a", watch.next()).await, Some(changed("a")));
    assert_eq!(soon("b", watch.next()).await, Some(changed("b")));
    drop(server);
    let again = Scripted::new();
    let replacement = again.clone();
    let _server = restart(&address, move |environment| {
        let store = Arc::new(steadfast_core::metadata::memory::MemoryDb::new());
        let mut parts = testing::parts(environment, store);
        parts.control = Arc::new(replacement);
        parts
    })
    .await;
    assert_eq!(soon("the reset", watch.next()).await, Some(WatchEvent::Reset));
    again.hints.send(changed("c")).unwrap();
    assert_eq!(soon("c", watch.next()).await, Some(changed("c")));
}

/// A server at an address that another has just left.
async fn restart(
    address: &str,
    make: impl FnOnce(Environment) -> steadfast_api::server::Parts,
) -> TestServer {
    soon("the free port", async {
        while tokio::net::TcpListener::bind(address).await.is_err() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
    TestServer::start_at(address, make).await
}

#[tokio::test]
async fn a_watch_is_let_in_while_the_store_is_away_and_begins_when_it_is_back() {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let control = Scripted::new();
    control.fail(ControlError::Backend(steadfast_core::Error::new(
        steadfast_core::ErrorKind::Unavailable,
        "store",
        "watch",
        "services",
        "away",
    )));
    let server = control
        .serve_with(|parts| {
            parts.limits.request = Duration::from_millis(200);
            parts.limits.heartbeat = Duration::from_millis(100);
        })
        .await;
    let mut stream = tokio::net::TcpStream::connect(server.address()).await.unwrap();
    let request =
        format!("GET /v1/clusters/test/watch HTTP/1.1\r\nhost: test\r\n{}\r\n\r\n", support::bearer(ADMIN));
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut text = String::new();
    let mut buffer = [0; 1024];
    // Many times as long as a request may take.
    soon("the heartbeats", async {
        while text.matches(": \n\n").count() < 10 {
            let count = stream.read(&mut buffer).await.unwrap();
            assert!(count > 0, "the watch ended: {text}");
            text.push_str(&String::from_utf8_lossy(&buffer[..count]));
        }
    })
    .await;
    assert!(text.starts_with("HTTP/1.1 200") && !text.contains("event:"), "{text}");
    let client = client_of([server.url()]);
    let opening = tokio::spawn(async move { client.watch().await.map(drop) });
    *control.failure.lock().unwrap() = None;
    soon("the client's watch", opening).await.unwrap().unwrap();
    soon("the beginning", async {
        while !text.contains("event: ready") {
            let count = stream.read(&mut buffer).await.unwrap();
            assert!(count > 0, "the watch ended: {text}");
            text.push_str(&String::from_utf8_lossy(&buffer[..count]));
        }
    })
    .await;
}

#[tokio::test]
async fn a_returning_watcher_gets_what_it_missed_or_a_reset() {
    let control = Scripted::new();
    let server = control.serve_with(|parts| parts.limits.watch_history = 2).await;
    // Opens the subscription, and tells the id to come back with.
    let cursor = first_event(&server, None).await;
    assert_eq!(cursor.1, "ready");
    control.hints.send(changed("a")).unwrap();
    control.hints.send(changed("b")).unwrap();
    let text = read_until(&server, Some(&cursor.0), "\"name\":\"b\"").await;
    assert!(text.contains("event: ready") && text.contains("\"name\":\"a\""), "{text}");
    control.hints.send(changed("c")).unwrap();
    // The ring has two places, and the first change is gone.
    soon("the third change", async {
        while first_event(&server, Some(&cursor.0)).await.1 != "reset" {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
    assert_eq!(first_event(&server, Some("another-server-3")).await.1, "reset");
    let text = read_until(&server, None, "event: ready").await;
    assert!(!text.contains("changed"), "a newcomer begins with now: {text}");
}

async fn first_event(server: &TestServer, seen: Option<&str>) -> (String, String) {
    let text = read_until(server, seen, "\n\n").await;
    let field = |name: &str| {
        text.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_else(|| panic!("{text}")).to_owned()
    };
    (field("id: "), field("event: "))
}

async fn read_until(server: &TestServer, seen: Option<&str>, wanted: &str) -> String {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let seen = seen.map(|seen| format!("last-event-id: {seen}\r\n")).unwrap_or_default();
    let request = format!(
        "GET /v1/clusters/test/watch HTTP/1.1\r\nhost: test\r\n{seen}{}\r\n\r\n",
        support::bearer(ADMIN)
    );
    let mut stream = tokio::net::TcpStream::connect(server.address()).await.expect("the server listens");
    stream.write_all(request.as_bytes()).await.expect("the server reads");
    let mut text = String::new();
    let mut buffer = [0; 1024];
    soon(wanted, async {
        while !text.split_once("\r\n\r\n").is_some_and(|(_, body)| body.contains(wanted)) {
            let count = stream.read(&mut buffer).await.expect("the server sends");
            assert!(count > 0, "the watch ended: {text}");
            text.push_str(&String::from_utf8_lossy(&buffer[..count]));
        }
    })
    .await;
    text
}
