//! Test support: a server in the test's own process, over real sockets.

use std::net::SocketAddr;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use serde_json::Value;
use steadfast_core::Environment;
use steadfast_core::control::{
    ConnectView, ControlError, EventView, NodeView, PlanReport, RenderedService, ServiceView, Why,
};
use steadfast_core::ids::{ClusterName, Incarnation, MemberName, NodeName, OperationId, ServiceName};
use steadfast_core::metadata::MetadataDb;
use steadfast_core::model::{Operation, Reason};
use tokio::net::TcpListener;
use tokio::sync::oneshot;

use crate::auth::{Principal, TokenDigest, TokenTable};
use crate::control::{
    CatalogEntry, ControlApi, ControlResult, EventFilter, Guard, LogRequest, Logs, MemberSecrets,
    NodeSecrets, OperationFilter, PageRequest, SecretValue, WatchEvent,
};
use crate::server::{Limits, Parts, router};

/// Tokens that [`parts`] lets in: one of each principal; [`NODE`] is that of the node `node-1`.
pub const ADMIN: &str = "admin-token";
/// A reader's token.
pub const READER: &str = "reader-token";
/// The token of the node `node-1`.
pub const NODE: &str = "node-1-token";
/// Another server's token.
pub const SERVER: &str = "server-token";

/// The parts of a server of the cluster `test` that has this store, refuses every request to its control plane and
/// knows the tokens of this module.
pub fn parts(environment: Environment, store: Arc<dyn MetadataDb>) -> Parts {
    let tokens = [
        (ADMIN, Principal::Admin),
        (READER, Principal::Reader),
        (NODE, Principal::Node(id("node-1"))),
        (SERVER, Principal::Server),
    ];
    let table = TokenTable::new(tokens.map(|(token, principal)| (TokenDigest::of(token), principal)));
    Parts {
        cluster: cluster(),
        control: Arc::new(NoControl),
        store,
        owns_store: Arc::new(|| true),
        node_secrets: Arc::new(NoControl),
        principals: Arc::new(table),
        environment,
        metrics: Arc::new(|| "steadfast_up 1\n".to_owned()),
        ready: Arc::new(|| Ok(())),
        limits: Limits::default(),
    }
}

/// The cluster `test`.
pub fn cluster() -> ClusterName {
    id("test")
}

/// An identifier that a test itself wrote.
///
/// # Panics
/// If it is none.
pub fn id<T: std::str::FromStr<Err: std::fmt::Display>>(text: &str) -> T {
    match text.parse() {
        Ok(id) => id,
        Err(error) => panic!("{error}"),
    }
}

/// A server on a free loopback port. Dropping it ends its connections, as the death of a process would.
#[derive(Debug)]
pub struct TestServer {
    address: SocketAddr,
    environment: Environment,
    runtime: Option<tokio::runtime::Runtime>,
}

impl TestServer {
    /// Starts a server. It has a runtime of its own, so that ending it ends whatever it was doing.
    ///
    /// # Panics
    /// If the machine has no free port or no threads left.
    pub async fn start(make: impl FnOnce(Environment) -> Parts) -> Self {
        Self::start_at("127.0.0.1:0", make).await
    }

    /// Starts a server at this address.
    ///
    /// # Panics
    /// If the address is taken, or the machine has no threads left.
    pub async fn start_at(address: &str, make: impl FnOnce(Environment) -> Parts) -> Self {
        let environment = Environment::system([9; 32]);
        let parts = make(environment.clone());
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .expect("a test needs two threads");
        let (tell, told) = oneshot::channel();
        let address = address.to_owned();
        runtime.spawn(async move {
            let listener = TcpListener::bind(address).await.expect("a test needs a free loopback port");
            let local = listener.local_addr().expect("a bound listener has an address");
            tell.send(local).expect("the test waits for the address");
            axum::serve(listener, router(parts)).await.expect("serving ends with the runtime only");
        });
        let address = told.await.expect("the server tells its address before anything else");
        TestServer { address, environment, runtime: Some(runtime) }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where it listens, for a client.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }
}

impl Drop for TestServer {
    fn drop(&mut self) {
        self.environment.tasks().request_stop();
        if let Some(runtime) = self.runtime.take() {
            // Dropping a runtime waits for its threads, which no asynchronous context may do.
            runtime.shutdown_background();
        }
    }
}

/// A control plane that refuses every request, for tests of what does not concern it.
#[derive(Debug)]
pub struct NoControl;

fn refuse<T>() -> ControlResult<T> {
    Err(ControlError::Refused {
        reason: Reason::CapabilityMissing,
        message: "this test has no control plane".to_owned(),
        remedy: "give it one".to_owned(),
    })
}

#[async_trait]
impl ControlApi for NoControl {
    async fn plan(&self, _: Value) -> ControlResult<PlanReport> {
        refuse()
    }
    async fn apply(&self, _: Value, _: Guard) -> ControlResult<Operation> {
        refuse()
    }
    async fn services(&self, _: PageRequest) -> ControlResult<Vec<RenderedService>> {
        refuse()
    }
    async fn service(&self, _: &ServiceName) -> ControlResult<RenderedService> {
        refuse()
    }
    async fn delete(&self, _: &ServiceName, _: Guard) -> ControlResult<Operation> {
        refuse()
    }
    async fn undelete(&self, _: &ServiceName, _: Guard) -> ControlResult<Operation> {
        refuse()
    }
    async fn restart(&self, _: &ServiceName, _: Guard) -> ControlResult<Operation> {
        refuse()
    }
    async fn stop(&self, _: &ServiceName, _: Guard) -> ControlResult<Operation> {
        refuse()
    }
    async fn start(&self, _: &ServiceName, _: Guard) -> ControlResult<Operation> {
        refuse()
    }
    async fn pause(&self, _: &ServiceName) -> ControlResult<ServiceView> {
        refuse()
    }
    async fn resume(&self, _: &ServiceName) -> ControlResult<ServiceView> {
        refuse()
    }
    async fn operations(&self, _: OperationFilter, _: PageRequest) -> ControlResult<Vec<Operation>> {
        refuse()
    }
    async fn operation(&self, _: &OperationId) -> ControlResult<Operation> {
        refuse()
    }
    async fn cancel(&self, _: &OperationId) -> ControlResult<Operation> {
        refuse()
    }
    async fn events(&self, _: EventFilter) -> ControlResult<Vec<EventView>> {
        refuse()
    }
    async fn why(&self, _: &MemberName) -> ControlResult<Why> {
        refuse()
    }
    async fn rebuild(&self, _: &MemberName, _: &NodeName) -> ControlResult<ServiceView> {
        refuse()
    }
    async fn connect(&self, _: &ServiceName) -> ControlResult<ConnectView> {
        refuse()
    }
    async fn nodes(&self) -> ControlResult<Vec<NodeView>> {
        refuse()
    }
    async fn confirm_dead(&self, _: &NodeName, _: &Incarnation) -> ControlResult<NodeView> {
        refuse()
    }
    async fn catalog(&self) -> ControlResult<Vec<CatalogEntry>> {
        refuse()
    }
    async fn secrets(&self, _: &ServiceName) -> ControlResult<Vec<String>> {
        refuse()
    }
    async fn secret(&self, _: &ServiceName, _: &str) -> ControlResult<SecretValue> {
        refuse()
    }
    async fn logs(
        &self,
        _: &MemberName,
        _: LogRequest,
    ) -> ControlResult<BoxStream<'static, std::io::Result<Bytes>>> {
        refuse()
    }
    async fn watch(&self) -> ControlResult<BoxStream<'static, WatchEvent>> {
        refuse()
    }
}

/// The output of members, of which there is none.
#[derive(Debug)]
pub struct NoLogs;

impl Logs for NoLogs {
    fn stream(
        &self,
        member: &MemberName,
        _: LogRequest,
    ) -> ControlResult<BoxStream<'static, std::io::Result<Bytes>>> {
        let remedy = "none is kept here".to_owned();
        Err(ControlError::NotFound { kind: "output of member", name: member.to_string(), remedy })
    }
}

#[async_trait]
impl NodeSecrets for NoControl {
    async fn secrets(&self, _: &NodeName, _: &MemberName) -> ControlResult<MemberSecrets> {
        refuse()
    }
}
