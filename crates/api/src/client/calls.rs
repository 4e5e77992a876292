//! The calls of people and programs.

use axum::http::Method;
use bytes::Bytes;
use futures::StreamExt as _;
use futures::stream::BoxStream;
use serde_json::Value;
use steadfast_core::Effect;
use steadfast_core::control::{ConnectView, EventView, NodeView, PlanReport, ServiceView, Why};
use steadfast_core::ids::{Incarnation, MemberName, NodeName, OperationId, ServiceName};
use steadfast_core::model::Operation;

use super::transport::{Call, unreachable};
use super::{Client, ClientError, ClientResult, sse};
use crate::control::{
    CatalogEntry, EventFilter, Guard, LogRequest, MemberSecrets, OperationFilter, PageRequest, SecretValue,
    WatchEvent,
};
use crate::server::Page;
use crate::wire::{ConfirmDead, Health, IDEMPOTENCY_KEY, LostDisk};

/// Every call fails with a [`ClientError`], which says whether it may have happened.
impl Client {
    /// What applying `spec` would do.
    ///
    /// # Errors
    /// A problem with every error of the spec, among others.
    pub async fn plan(&self, spec: &Value) -> ClientResult<PlanReport> {
        self.answer(self.post("plan").json(spec)?).await
    }

    /// Makes the service of `spec`, or changes it into that.
    ///
    /// # Errors
    /// A problem with every error of the spec, or that the check index is stale (412), among others.
    pub async fn apply(&self, spec: &Value, guard: &Guard) -> ClientResult<Operation> {
        self.answer(guarded(self.post("services"), guard)?.json(spec)?).await
    }

    /// A page of the services, by name.
    ///
    /// # Errors
    /// As every call.
    pub async fn services(&self, page: &PageRequest) -> ClientResult<Page<ServiceView>> {
        let call = self.get("services").query("limit", Some(page.limit)).query("cursor", page.after.as_ref());
        self.answer(call).await
    }

    /// A service.
    ///
    /// # Errors
    /// A problem that it does not exist, among others.
    pub async fn service(&self, name: &ServiceName) -> ClientResult<ServiceView> {
        self.answer(self.get(&format!("services/{name}"))).await
    }

    /// Deletes a service.
    ///
    /// # Errors
    /// As every call.
    pub async fn delete(&self, name: &ServiceName, guard: &Guard) -> ClientResult<Operation> {
        let call = Call::new(Method::DELETE, self.transport.path(&format!("services/{name}")));
        self.answer(guarded(call, guard)?).await
    }

    /// Brings a deleted service back.
    ///
    /// # Errors
    /// As every call.
    pub async fn undelete(&self, name: &ServiceName, guard: &Guard) -> ClientResult<Operation> {
        self.change(name, "undelete", guard).await
    }

    /// Restarts every member, one after another.
    ///
    /// # Errors
    /// As every call.
    pub async fn restart(&self, name: &ServiceName, guard: &Guard) -> ClientResult<Operation> {
        self.change(name, "restart", guard).await
    }

    /// Stops every member.
    ///
    /// # Errors
    /// As every call.
    pub async fn stop(&self, name: &ServiceName, guard: &Guard) -> ClientResult<Operation> {
        self.change(name, "stop", guard).await
    }

    /// Starts a stopped service.
    ///
    /// # Errors
    /// As every call.
    pub async fn start(&self, name: &ServiceName, guard: &Guard) -> ClientResult<Operation> {
        self.change(name, "start", guard).await
    }

    /// Stops everything unplanned from being done to a service.
    ///
    /// # Errors
    /// As every call.
    pub async fn pause(&self, name: &ServiceName) -> ClientResult<ServiceView> {
        self.answer(self.post(&format!("services/{name}/pause"))).await
    }

    /// Ends a pause.
    ///
    /// # Errors
    /// As every call.
    pub async fn resume(&self, name: &ServiceName) -> ClientResult<ServiceView> {
        self.answer(self.post(&format!("services/{name}/resume"))).await
    }

    /// How to reach a service, with its secrets.
    ///
    /// # Errors
    /// As every call.
    pub async fn connect(&self, service: &ServiceName) -> ClientResult<ConnectView> {
        self.answer(self.get(&format!("services/{service}/connect"))).await
    }

    /// The names of a service's secrets.
    ///
    /// # Errors
    /// As every call.
    pub async fn secrets(&self, service: &ServiceName) -> ClientResult<Vec<String>> {
        let page: Page<String> = self.answer(self.get(&format!("services/{service}/secrets"))).await?;
        Ok(page.items)
    }

    /// A secret of a service, in the clear.
    ///
    /// # Errors
    /// As every call; [`ClientError::Config`] if the name has characters that no secret's name has.
    pub async fn secret(&self, service: &ServiceName, name: &str) -> ClientResult<SecretValue> {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
        if name.is_empty() || !name.bytes().all(plain) {
            let message = format!("{name:?} is not the name of a secret");
            return Err(ClientError::Config { field: "secret", message });
        }
        self.answer(self.get(&format!("services/{service}/secrets/{name}"))).await
    }

    /// A page of the operations, by id.
    ///
    /// # Errors
    /// As every call.
    pub async fn operations(
        &self,
        filter: &OperationFilter,
        page: &PageRequest,
    ) -> ClientResult<Page<Operation>> {
        let call = self
            .get("operations")
            .query("service", filter.service.as_ref())
            .query("state", filter.state)
            .query("limit", Some(page.limit))
            .query("cursor", page.after.as_ref());
        self.answer(call).await
    }

    /// An operation.
    ///
    /// # Errors
    /// As every call.
    pub async fn operation(&self, id: &OperationId) -> ClientResult<Operation> {
        self.answer(self.get(&format!("operations/{id}"))).await
    }

    /// Asks an operation to end early.
    ///
    /// # Errors
    /// As every call.
    pub async fn cancel(&self, id: &OperationId) -> ClientResult<Operation> {
        self.answer(self.post(&format!("operations/{id}/cancel"))).await
    }

    /// Events, oldest first.
    ///
    /// # Errors
    /// As every call.
    pub async fn events(&self, filter: &EventFilter) -> ClientResult<Vec<EventView>> {
        let call = self
            .get("events")
            .query("service", filter.service.as_ref())
            .query("member", filter.member.as_ref())
            .query("after", filter.after)
            .query("limit", Some(filter.limit));
        let page: Page<EventView> = self.answer(call).await?;
        Ok(page.items)
    }

    /// Why a member is as it is.
    ///
    /// # Errors
    /// As every call.
    pub async fn why(&self, member: &MemberName) -> ClientResult<Why> {
        self.answer(self.get(&format!("members/{member}/why"))).await
    }

    /// A member's output. An error in the stream ends it.
    ///
    /// # Errors
    /// As every call.
    pub async fn logs(
        &self,
        member: &MemberName,
        request: &LogRequest,
    ) -> ClientResult<BoxStream<'static, ClientResult<Bytes>>> {
        let call = self
            .get(&format!("members/{member}/logs"))
            .query("tail", request.tail)
            .query("follow", request.follow.then_some(true));
        let response = self.transport.stream(call, self.timeout).await?;
        let server = self.server().to_owned();
        Ok(response
            .into_body()
            .map(move |chunk| chunk.map_err(|error| unreachable(server.clone(), Effect::None, error)))
            .boxed())
    }

    /// Every node, by name.
    ///
    /// # Errors
    /// As every call.
    pub async fn nodes(&self) -> ClientResult<Vec<NodeView>> {
        let page: Page<NodeView> = self.answer(self.get("nodes")).await?;
        Ok(page.items)
    }

    /// Records an operator's word that the disk with a member's volumes is gone: its data is had again from the others.
    ///
    /// # Errors
    /// As every call.
    pub async fn rebuild(&self, member: &MemberName, lost_disk: &NodeName) -> ClientResult<ServiceView> {
        let body = LostDisk { lost_disk: lost_disk.clone() };
        self.answer(self.post(&format!("members/{member}/rebuild")).json(&body)?).await
    }

    /// Records an operator's word that this life of a node is over.
    ///
    /// # Errors
    /// As every call.
    pub async fn confirm_dead(&self, node: &NodeName, incarnation: &Incarnation) -> ClientResult<NodeView> {
        let body = ConfirmDead { incarnation: incarnation.clone() };
        self.answer(self.post(&format!("nodes/{node}/confirm-dead")).json(&body)?).await
    }

    /// The blueprints on offer.
    ///
    /// # Errors
    /// As every call.
    pub async fn catalog(&self) -> ClientResult<Vec<CatalogEntry>> {
        let page: Page<CatalogEntry> = self.answer(self.get("catalog")).await?;
        Ok(page.items)
    }

    /// Hints about changes from the return of the call on. A connection that breaks is taken up again, with
    /// whichever server answers; what may have been missed is covered by [`WatchEvent::Reset`]. Never ends.
    ///
    /// # Errors
    /// As every call, if the first connection does not come about.
    pub async fn watch(&self) -> ClientResult<BoxStream<'static, WatchEvent>> {
        sse::watch(self.clone()).await
    }

    /// The secrets of the service of a member that the caller's node holds.
    ///
    /// # Errors
    /// As every call. Refused with 403 unless the node holds the member.
    pub async fn member_secrets(&self, node: &NodeName, member: &MemberName) -> ClientResult<MemberSecrets> {
        self.answer(self.get(&format!("nodes/{node}/members/{member}/secrets"))).await
    }

    /// Whether a server answers.
    ///
    /// # Errors
    /// As every call.
    pub async fn health(&self) -> ClientResult<Health> {
        self.answer(Call::new(Method::GET, "/healthz")).await
    }

    /// Whether a server can do its work.
    ///
    /// # Errors
    /// A problem with the reason if it cannot, among others.
    pub async fn ready(&self) -> ClientResult<Health> {
        self.answer(Call::new(Method::GET, "/readyz")).await
    }

    /// The server's metrics, in Prometheus' text format.
    ///
    /// # Errors
    /// As every call.
    pub async fn metrics(&self) -> ClientResult<String> {
        self.transport.text(Call::new(Method::GET, "/metrics"), self.timeout).await
    }

    /// The description of the server's API.
    ///
    /// # Errors
    /// As every call.
    pub async fn openapi(&self) -> ClientResult<Value> {
        self.answer(Call::new(Method::GET, "/openapi.json")).await
    }

    async fn change(&self, name: &ServiceName, verb: &str, guard: &Guard) -> ClientResult<Operation> {
        self.answer(guarded(self.post(&format!("services/{name}/{verb}")), guard)?).await
    }

    pub(super) fn get(&self, rest: &str) -> Call {
        Call::new(Method::GET, self.transport.path(rest))
    }

    fn post(&self, rest: &str) -> Call {
        Call::new(Method::POST, self.transport.path(rest))
    }

    async fn answer<T: serde::de::DeserializeOwned>(&self, call: Call) -> ClientResult<T> {
        self.transport.json(call, self.timeout).await
    }
}

fn guarded(mut call: Call, guard: &Guard) -> ClientResult<Call> {
    let Guard { idempotency_key, if_index } = guard;
    if let Some(key) = idempotency_key {
        call = call.header(IDEMPOTENCY_KEY, key)?;
    }
    if let Some(index) = if_index {
        call = call.header("if-match", &format!("\"{index}\""))?;
    }
    Ok(call)
}
