//! What the router asks of the control plane, and the lists it pages through.

mod of_control;

use std::fmt::Debug;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use steadfast_core::control::{
    ConnectView, EventView, NodeView, PlanReport, RenderedService, ServiceView, Why,
};
pub use steadfast_core::control::{ControlResult, Guard};
use steadfast_core::ids::{Incarnation, MemberName, NodeName, OperationId, ServiceName};
use steadfast_core::model::{Operation, OperationState};
use utoipa::ToSchema;

pub use of_control::{Logs, OfControl};

/// Which part of a list. Lists are ordered by name or id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PageRequest {
    /// Only what comes after this name or id.
    pub after: Option<String>,
    /// At most this many.
    pub limit: usize,
}

/// Which operations.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct OperationFilter {
    /// Those of this service.
    pub service: Option<ServiceName>,
    /// Those in this state.
    pub state: Option<OperationState>,
}

/// Which events.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct EventFilter {
    /// Those of this service and its members.
    pub service: Option<ServiceName>,
    /// Those about this member.
    pub member: Option<MemberName>,
    /// Only those whose number in their record is greater.
    pub after: Option<u64>,
    /// At most this many, the newest.
    pub limit: usize,
}

/// A blueprint on offer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CatalogEntry {
    /// Its name and version, as `NAME@VERSION`.
    pub blueprint: String,
    /// What it is, on a line.
    pub description: String,
}

/// A secret in the clear: the only answer besides [`ConnectView`] that holds one. Never logged.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SecretValue {
    /// Its name.
    pub name: String,
    /// The secret.
    pub value: String,
}

impl Debug for SecretValue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SecretValue").field("name", &self.name).finish_non_exhaustive()
    }
}

/// Which of a member's output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogRequest {
    /// The last lines to begin with; none: everything kept.
    pub tail: Option<u64>,
    /// Whether to stay and send what comes.
    pub follow: bool,
}

/// A hint to those who watch: read again what it names.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case", tag = "event")]
pub enum WatchEvent {
    /// This changed, came or went.
    Changed {
        /// What kind of thing: `service`, `member`, `operation`, `node`.
        kind: String,
        /// Its name.
        name: String,
    },
    /// Changes may have been missed: read everything again.
    Reset,
}

/// The control plane, as the router sees it.
///
/// # Behavior
/// - Every change is recorded before the call returns.
/// - A stale `if_index` is a conflict with the reason [`INDEX_STALE`](steadfast_core::control::INDEX_STALE).
#[async_trait]
pub trait ControlApi: Debug + Send + Sync + 'static {
    /// What applying `spec` would do.
    async fn plan(&self, spec: Value) -> ControlResult<PlanReport>;

    /// Makes the service of `spec`, or changes it into that.
    async fn apply(&self, spec: Value, guard: Guard) -> ControlResult<Operation>;

    /// A page of the services, by name.
    async fn services(&self, page: PageRequest) -> ControlResult<Vec<RenderedService>>;

    /// A service.
    async fn service(&self, name: &ServiceName) -> ControlResult<RenderedService>;

    /// Deletes a service.
    async fn delete(&self, name: &ServiceName, guard: Guard) -> ControlResult<Operation>;

    /// Brings a deleted service back.
    async fn undelete(&self, name: &ServiceName, guard: Guard) -> ControlResult<Operation>;

    /// Restarts every member, one after another.
    async fn restart(&self, name: &ServiceName, guard: Guard) -> ControlResult<Operation>;

    /// Stops every member.
    async fn stop(&self, name: &ServiceName, guard: Guard) -> ControlResult<Operation>;

    /// Starts a stopped service.
    async fn start(&self, name: &ServiceName, guard: Guard) -> ControlResult<Operation>;

    /// Stops everything unplanned from being done to a service.
    async fn pause(&self, name: &ServiceName) -> ControlResult<ServiceView>;

    /// Ends a pause.
    async fn resume(&self, name: &ServiceName) -> ControlResult<ServiceView>;

    /// A page of the operations, by id.
    async fn operations(&self, filter: OperationFilter, page: PageRequest) -> ControlResult<Vec<Operation>>;

    /// An operation.
    async fn operation(&self, id: &OperationId) -> ControlResult<Operation>;

    /// Asks an operation to end early.
    async fn cancel(&self, id: &OperationId) -> ControlResult<Operation>;

    /// Events, oldest first.
    async fn events(&self, filter: EventFilter) -> ControlResult<Vec<EventView>>;

    /// Why a member is as it is.
    async fn why(&self, member: &MemberName) -> ControlResult<Why>;

    /// Records an operator's word that the disk with a member's volumes is gone: its data is had again from the others.
    async fn rebuild(&self, member: &MemberName, lost_disk: &NodeName) -> ControlResult<ServiceView>;

    /// How to reach a service, with its secrets.
    async fn connect(&self, service: &ServiceName) -> ControlResult<ConnectView>;

    /// Every node, by name.
    async fn nodes(&self) -> ControlResult<Vec<NodeView>>;

    /// Records an operator's word that this life of a node is over.
    async fn confirm_dead(&self, node: &NodeName, incarnation: &Incarnation) -> ControlResult<NodeView>;

    /// The blueprints on offer.
    async fn catalog(&self) -> ControlResult<Vec<CatalogEntry>>;

    /// The names of a service's secrets.
    async fn secrets(&self, service: &ServiceName) -> ControlResult<Vec<String>>;

    /// A secret of a service, in the clear.
    async fn secret(&self, service: &ServiceName, name: &str) -> ControlResult<SecretValue>;

    /// A member's output, kept across moves.
    async fn logs(
        &self,
        member: &MemberName,
        request: LogRequest,
    ) -> ControlResult<BoxStream<'static, std::io::Result<Bytes>>>;

    /// Hints about changes from the call on; the stream ends when its source does, and is asked for anew.
    async fn watch(&self) -> ControlResult<BoxStream<'static, WatchEvent>>;
}

/// What an agent gets to start the members it holds.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct MemberSecrets {
    /// The secrets of the member's service, by name.
    pub secrets: std::collections::BTreeMap<String, String>,
}

impl Debug for MemberSecrets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MemberSecrets")
            .field("names", &self.secrets.keys().collect::<Vec<_>>())
            .finish_non_exhaustive()
    }
}

/// Opens secrets for agents.
#[async_trait]
pub trait NodeSecrets: Debug + Send + Sync + 'static {
    /// The secrets of `member`'s service, in the clear, for the node that holds the member.
    ///
    /// # Behavior
    /// - Refused with `PermissionDenied` unless the member's record names `node` as its holder.
    async fn secrets(&self, node: &NodeName, member: &MemberName) -> ControlResult<MemberSecrets>;
}
