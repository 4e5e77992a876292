//! Orchestrators: what starts and stops the engines, and says which nodes are there.

pub mod memory;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{Debug, Display};

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::ids::{Generation, Incarnation, MemberName, NodeName, Revision, ServiceName, ZoneName};
use crate::model::NodeHealth;

/// What an orchestrator says of a node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeReport {
    /// The node.
    pub node: NodeName,
    /// Its zone.
    pub zone: ZoneName,
    /// Which life of the node this is about.
    pub incarnation: Incarnation,
    /// Its health, with the evidence if it is dead.
    pub health: NodeHealth,
    /// Why the orchestrator starts nothing on it, in words that stay the same as long as that does; none: it does, as
    /// far as is known. What runs there may well go on, and its agent with it: this is no word on its health.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stalled: Option<String>,
    /// Labels, for placement.
    pub labels: BTreeMap<String, String>,
    /// The blueprints' engines it can run, with the version found; none: not told.
    pub engines: BTreeMap<String, String>,
}

/// Whether a member's engine shall run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Run {
    /// It shall run.
    Started,
    /// It shall be stopped in order, its holdings released.
    Stopped,
}

/// Where and how one member shall run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Placement {
    /// The member.
    pub member: MemberName,
    /// The service's spec revision it runs.
    pub revision: Revision,
    /// On which node.
    pub node: NodeName,
    /// Whether it shall run.
    pub run: Run,
    /// Tasks of an earlier generation are stopped and started anew.
    pub generation: Generation,
}

/// What an orchestrator shall run for a service: all of it, every time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Workload {
    /// The service.
    pub service: ServiceName,
    /// Its members. A member that is not here shall not run anywhere.
    pub placements: Vec<Placement>,
}

/// A placement as its node's agent finds it (`tasks/NODE/MEMBER`), where the orchestrator leaves the starting of
/// engines to our own agents.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Assignment {
    /// The service.
    pub service: ServiceName,
    /// The placement.
    pub placement: Placement,
}

/// A running or ended engine, as the orchestrator sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskReport {
    /// The member.
    pub member: MemberName,
    /// Where.
    pub node: NodeName,
    /// Which life of the engine.
    pub incarnation: Incarnation,
    /// Whether it runs.
    pub running: bool,
}

/// Who decides where a member runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum PlacementBy {
    /// We do: a placement names the node.
    Ours,
    /// The orchestrator does, within constraints; the claim binds the node.
    Theirs,
}

/// What an orchestrator can do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OrchestratorCapabilities {
    /// Who places.
    pub placement: PlacementBy,
    /// Whether it proves the death of a node by itself.
    pub proves_node_death: bool,
    /// Whether one member can be restarted alone.
    pub restart_member: bool,
    /// Whether a node's health is that of its lease: it changes only when the node's record or status is written, or
    /// as time passes since. Where hints tell of the writes, such nodes need not be looked at all the time.
    pub health_by_lease: bool,
}

/// Starts and stops engines.
#[async_trait]
pub trait Orchestrator: Debug + Display + Send + Sync + 'static {
    /// What this backend can do.
    fn capabilities(&self) -> OrchestratorCapabilities;

    /// Every node it knows, with its state and the evidence for it.
    ///
    /// # Behavior
    /// - `Dead` only with proof, and only for the incarnation named. Silence is not proof.
    async fn nodes(&self) -> Result<Vec<NodeReport>>;

    /// Makes the workload of a service what is given.
    ///
    /// # Behavior
    /// - Idempotent. Members placed elsewhere before are stopped where they were, as far as that node answers.
    /// - Begins the change and returns.
    async fn apply(&self, workload: &Workload) -> Result<()>;

    /// The tasks of a service, running or just ended.
    async fn tasks(&self, service: &ServiceName) -> Result<Vec<TaskReport>>;

    /// Removes everything of a service. Absent is success; begins and returns.
    async fn remove(&self, service: &ServiceName) -> Result<()>;

    /// The services it has a workload of, so that what nobody owns can be found.
    async fn services(&self) -> Result<BTreeSet<ServiceName>>;
}
