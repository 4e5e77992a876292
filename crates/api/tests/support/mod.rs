//! What the tests of the router share: a client that sends exactly what it is told, and a control plane whose
//! answers the test chooses.

#![allow(dead_code, reason = "each test file uses its own part")]

use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt as _;
use futures::stream::{self, BoxStream};
use serde_json::{Value, json};
use steadfast_api::control::{
    CatalogEntry, ControlApi, ControlResult, EventFilter, Guard, LogRequest, MemberSecrets, NodeSecrets,
    OperationFilter, PageRequest, SecretValue, WatchEvent,
};
use steadfast_api::problem::Problem;
use steadfast_api::testing::{self, TestServer, id};
use steadfast_core::control::{
    ConnectView, ControlError, EventView, NodeView, PlanReport, RenderedService, ServiceView, Why,
};
use steadfast_core::ids::{Incarnation, MemberName, NodeName, OperationId, ServiceName};
use steadfast_core::metadata::memory::MemoryDb;
use steadfast_core::model::{Operation, Reason};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::broadcast;

/// An answer, as it came.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: String,
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(found, _)| found == name).map(|(_, value)| value.as_str())
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// The problem it tells, which must be well-formed and of this status and code.
    #[track_caller]
    pub(crate) fn problem(&self, status: u16, code: &str) -> Problem {
        assert_eq!(self.status, status, "{self:?}");
        assert_eq!(self.header("content-type"), Some("application/problem+json"), "{self:?}");
        let problem: Problem =
            serde_json::from_value(self.json()).unwrap_or_else(|e| panic!("{e}: {self:?}"));
        assert_eq!((problem.status, problem.code.as_str()), (status, code), "{problem:?}");
        assert_eq!(problem.kind, format!("urn:steadfast:problem:{code}"));
        assert_eq!(problem.request_id.as_deref(), self.header("x-request-id"), "{self:?}");
        assert!(!problem.title.is_empty() && !problem.detail.is_empty(), "{problem:?}");
        problem
    }
}

/// Sends one request over a connection of its own. `headers` are whole lines.
pub(crate) async fn send(server: &TestServer, request: &str, headers: &[&str], body: &str) -> Answer {
    let mut text = format!("{request} HTTP/1.1\r\nhost: test\r\nconnection: close\r\n");
    for header in headers {
        text.push_str(header);
        text.push_str("\r\n");
    }
    if !body.is_empty() && !headers.iter().any(|header| header.starts_with("content-length")) {
        text.push_str(&format!("content-length: {}\r\n", body.len()));
    }
    text.push_str("\r\n");
    text.push_str(body);
    let mut stream = TcpStream::connect(server.address()).await.expect("the server listens");
    stream.write_all(text.as_bytes()).await.expect("the server reads");
    let mut answer = Vec::new();
    let read = stream.read_to_end(&mut answer);
    tokio::time::timeout(Duration::from_secs(30), read)
        .await
        .expect("the server answers in time")
        .expect("the answer comes whole");
    parse(&String::from_utf8(answer).expect("answers are text"), request.starts_with("HEAD "))
}

fn parse(text: &str, head_only: bool) -> Answer {
    let (head, rest) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no answer: {text:?}"));
    let mut lines = head.lines();
    let status_line = lines.next().expect("there is a status line");
    let status =
        status_line.split(' ').nth(1).and_then(|code| code.parse().ok()).expect("and a status in it");
    let headers: Vec<(String, String)> = lines
        .filter_map(|line| line.split_once(": "))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()))
        .collect();
    let chunked = headers.iter().any(|(name, value)| name == "transfer-encoding" && value == "chunked");
    let body = if chunked && !head_only { dechunk(rest) } else { rest.to_owned() };
    Answer { status, headers, body }
}

fn dechunk(mut text: &str) -> String {
    let mut body = String::new();
    while let Some((size, rest)) = text.split_once("\r\n") {
        let size = usize::from_str_radix(size, 16).expect("a chunk begins with its size");
        if size == 0 {
            break;
        }
        body.push_str(&rest[..size]);
        text = &rest[size + 2..];
    }
    body
}

/// The `Authorization` header of a token.
pub(crate) fn bearer(token: &str) -> String {
    format!("authorization: Bearer {token}")
}

/// A control plane that records what it is asked and answers as it was told: with samples, or with `failure`.
#[derive(Debug, Clone)]
pub(crate) struct Scripted {
    pub(crate) failure: Arc<Mutex<Option<ControlError>>>,
    pub(crate) asked: Arc<Mutex<Vec<String>>>,
    pub(crate) guards: Arc<Mutex<Vec<Guard>>>,
    pub(crate) operation_state: Arc<Mutex<&'static str>>,
    pub(crate) hang: Arc<Mutex<bool>>,
    pub(crate) hints: broadcast::Sender<WatchEvent>,
}

impl Scripted {
    pub(crate) fn new() -> Self {
        Scripted {
            failure: Arc::default(),
            asked: Arc::default(),
            guards: Arc::default(),
            operation_state: Arc::new(Mutex::new("Running")),
            hang: Arc::default(),
            hints: broadcast::channel(64).0,
        }
    }

    pub(crate) fn fail(&self, error: ControlError) {
        *self.failure.lock().expect("no test panics with it") = Some(error);
    }

    pub(crate) fn last(&self) -> String {
        self.asked.lock().expect("no test panics with it").last().cloned().unwrap_or_default()
    }

    pub(crate) fn last_guard(&self) -> Guard {
        self.guards.lock().expect("no test panics with it").last().cloned().unwrap_or_default()
    }

    /// A server of the cluster `test` with this control plane.
    pub(crate) async fn serve(&self) -> TestServer {
        self.serve_with(|_| {}).await
    }

    pub(crate) async fn serve_with(
        &self,
        change: impl FnOnce(&mut steadfast_api::server::Parts),
    ) -> TestServer {
        let control = self.clone();
        TestServer::start(move |environment| {
            let mut parts = testing::parts(environment, Arc::new(MemoryDb::new()));
            parts.control = Arc::new(control.clone());
            parts.node_secrets = Arc::new(control);
            change(&mut parts);
            parts
        })
        .await
    }

    async fn answer<T: serde::de::DeserializeOwned>(&self, asked: String, sample: Value) -> ControlResult<T> {
        self.asked.lock().expect("no test panics with it").push(asked);
        if *self.hang.lock().expect("no test panics with it") {
            std::future::pending::<()>().await;
        }
        let failure = self.failure.lock().expect("no test panics with it").clone();
        match failure {
            Some(error) => Err(error),
            None => Ok(serde_json::from_value(sample).expect("the sample is of its type")),
        }
    }

    async fn begin(&self, what: &str, service: &str, guard: Guard) -> ControlResult<Operation> {
        self.guards.lock().expect("no test panics with it").push(guard);
        let state = *self.operation_state.lock().expect("no test panics with it");
        self.answer(format!("{what} {service}"), operation("op-1", what, service, state)).await
    }
}

pub(crate) fn operation(id: &str, kind: &str, service: &str, state: &str) -> Value {
    let kind = if kind == "apply" { "create" } else { kind };
    json!({
        "id": id, "kind": kind, "service_id": "svc-1", "service": service, "state": state,
        "steps": [{"name": "place", "state": "Done"}], "waiting": ["FenceUnproven", "node-1 may still write"],
        "created_at": "2026-01-02T03:04:05Z", "updated_at": "2026-01-02T03:04:06Z"
    })
}

pub(crate) fn spec(name: &str) -> Value {
    json!({"apiVersion": "steadfast/v1", "name": name, "blueprint": "redis@7", "replicas": 3})
}

pub(crate) fn service(name: &str) -> Value {
    json!({
        "name": name, "blueprint": "redis@7", "index": "v-7", "revision": 1, "desired": "Running",
        "state": "Healthy", "replicas": 1, "serving": 1, "primary": format!("{name}-0"), "role_term": 3,
        "names": [format!("{name}.test.steadfast.internal")],
        "conditions": [{
            "kind": "Available", "status": "True", "reason": null, "message": "it serves",
            "since": "2026-01-02T03:04:05Z", "observed_at": "2026-01-02T03:04:05Z"
        }],
        "members": [{
            "name": format!("{name}-0"), "group": "main", "ordinal": 0, "host": "h", "address": "127.1.0.1",
            "phase": "Serving", "role": "Primary", "node": "node-1", "zone": "z1", "epoch": 2,
            "incarnation": "i-1", "ready": true, "position": {"timeline": 1, "offset": 7}, "lag": 0,
            "restarts": 0, "unreleased": [{"node": "node-2", "incarnation": "i-0", "epoch": 1}],
            "blocked": ["FenceUnproven", "node-2 may still write"], "observed_ms_ago": 10, "stale": false,
            "volumes": ["vol-1"]
        }],
        "operation": null, "spec": spec(name), "volumes": ["vol-1"]
    })
}

pub(crate) fn node(name: &str) -> Value {
    json!({
        "name": name, "zone": "z1", "health": {"Dead": "OperatorConfirmed"}, "incarnation": "i-1",
        "members": ["orders-0"], "engines": {"redis": "7.0"}, "observed_ms_ago": null
    })
}

#[async_trait]
impl ControlApi for Scripted {
    async fn plan(&self, spec: Value) -> ControlResult<PlanReport> {
        let sample = json!({
            "index": "v-7", "changes": [{"verb": "create", "subject": "orders", "detail": "3 members"}],
            "fencing": "F3", "outage_rule": "r", "guarantee": "g", "conditions": [], "warnings": []
        });
        self.answer(format!("plan {}", spec["name"]), sample).await
    }
    async fn apply(&self, spec: Value, guard: Guard) -> ControlResult<Operation> {
        self.begin("apply", spec["name"].as_str().unwrap_or("nameless"), guard).await
    }
    async fn services(&self, page: PageRequest) -> ControlResult<Vec<RenderedService>> {
        let all: Vec<Value> = ["a", "b", "c"]
            .into_iter()
            .filter(|name| page.after.as_deref().is_none_or(|after| *name > after))
            .take(page.limit)
            .map(service)
            .collect();
        let views: Vec<ServiceView> = self.answer(format!("services {page:?}"), json!(all)).await?;
        views.iter().map(RenderedService::of).collect()
    }
    async fn service(&self, name: &ServiceName) -> ControlResult<RenderedService> {
        let view: ServiceView = self.answer(format!("service {name}"), service(name.as_str())).await?;
        RenderedService::of(&view)
    }
    async fn delete(&self, name: &ServiceName, guard: Guard) -> ControlResult<Operation> {
        self.begin("delete", name.as_str(), guard).await
    }
    async fn undelete(&self, name: &ServiceName, guard: Guard) -> ControlResult<Operation> {
        self.begin("undelete", name.as_str(), guard).await
    }
    async fn restart(&self, name: &ServiceName, guard: Guard) -> ControlResult<Operation> {
        self.begin("restart", name.as_str(), guard).await
    }
    async fn stop(&self, name: &ServiceName, guard: Guard) -> ControlResult<Operation> {
        self.begin("stop", name.as_str(), guard).await
    }
    async fn start(&self, name: &ServiceName, guard: Guard) -> ControlResult<Operation> {
        self.begin("start", name.as_str(), guard).await
    }
    async fn pause(&self, name: &ServiceName) -> ControlResult<ServiceView> {
        self.answer(format!("pause {name}"), service(name.as_str())).await
    }
    async fn resume(&self, name: &ServiceName) -> ControlResult<ServiceView> {
        self.answer(format!("resume {name}"), service(name.as_str())).await
    }
    async fn operations(&self, filter: OperationFilter, page: PageRequest) -> ControlResult<Vec<Operation>> {
        let all = json!([operation("op-1", "create", "a", "Running")]);
        self.answer(format!("operations {filter:?} {page:?}"), all).await
    }
    async fn operation(&self, id: &OperationId) -> ControlResult<Operation> {
        self.answer(format!("operation {id}"), operation(id.as_str(), "create", "a", "Succeeded")).await
    }
    async fn cancel(&self, id: &OperationId) -> ControlResult<Operation> {
        self.answer(format!("cancel {id}"), operation(id.as_str(), "create", "a", "Cancelled")).await
    }
    async fn events(&self, filter: EventFilter) -> ControlResult<Vec<EventView>> {
        let sample = json!([{
            "service": "a", "seq": 1, "at": "2026-01-02T03:04:05Z", "reason": "Created", "member": "a-0",
            "epoch": 1, "message": "made"
        }]);
        self.answer(format!("events {filter:?}"), sample).await
    }
    async fn why(&self, member: &MemberName) -> ControlResult<Why> {
        let sample = json!({
            "member": member, "summary": "it serves", "lines": [{"reason": "MemberMoved", "text": "it moved"}],
            "next_action": null
        });
        self.answer(format!("why {member}"), sample).await
    }
    async fn rebuild(&self, member: &MemberName, lost_disk: &NodeName) -> ControlResult<ServiceView> {
        let (name, _) = member.as_str().rsplit_once('-').expect("a member's name ends with a number");
        self.answer(format!("rebuild {member} {lost_disk}"), service(name)).await
    }
    async fn connect(&self, service: &ServiceName) -> ControlResult<ConnectView> {
        let sample = json!({
            "uri": "redis://:s3cret@h", "env": {"A": "b"}, "client": ["redis-cli"],
            "hosts": [["h", "127.1.0.1"]]
        });
        self.answer(format!("connect {service}"), sample).await
    }
    async fn nodes(&self) -> ControlResult<Vec<NodeView>> {
        self.answer("nodes".to_owned(), json!([node("node-1")])).await
    }
    async fn confirm_dead(&self, name: &NodeName, incarnation: &Incarnation) -> ControlResult<NodeView> {
        self.answer(format!("confirm-dead {name} {incarnation}"), node(name.as_str())).await
    }
    async fn catalog(&self) -> ControlResult<Vec<CatalogEntry>> {
        self.answer("catalog".to_owned(), json!([{"blueprint": "redis@7", "description": "Redis"}])).await
    }
    async fn secrets(&self, service: &ServiceName) -> ControlResult<Vec<String>> {
        self.answer(format!("secrets {service}"), json!(["password"])).await
    }
    async fn secret(&self, service: &ServiceName, name: &str) -> ControlResult<SecretValue> {
        self.answer(format!("secret {service} {name}"), json!({"name": name, "value": "s3cret"})).await
    }
    async fn logs(
        &self,
        member: &MemberName,
        request: LogRequest,
    ) -> ControlResult<BoxStream<'static, std::io::Result<Bytes>>> {
        let () = self.answer(format!("logs {member} {request:?}"), json!(null)).await?;
        let lines = ["one\n", "two\n"].map(|line| Ok(Bytes::from_static(line.as_bytes())));
        Ok(stream::iter(lines).boxed())
    }
    async fn watch(&self) -> ControlResult<BoxStream<'static, WatchEvent>> {
        if let Some(failure) = self.failure.lock().expect("no test panics with it").clone() {
            return Err(failure);
        }
        let hints = self.hints.subscribe();
        Ok(stream::unfold(
            hints,
            |mut hints| async move { hints.recv().await.ok().map(|hint| (hint, hints)) },
        )
        .boxed())
    }
}

#[async_trait]
impl NodeSecrets for Scripted {
    async fn secrets(&self, node: &NodeName, member: &MemberName) -> ControlResult<MemberSecrets> {
        if node == &id::<NodeName>("node-1") && member == &id::<MemberName>("orders-0") {
            let sample = json!({"secrets": {"password": "s3cret"}});
            return self.answer(format!("node secrets {node} {member}"), sample).await;
        }
        Err(ControlError::Refused {
            reason: Reason::PermissionDenied,
            message: format!("node {node} does not hold member {member}"),
            remedy: "claim it first".to_owned(),
        })
    }
}
