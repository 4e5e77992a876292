//! What users see of a service, its members and nodes: computed from records and observations.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::ids::{
    Epoch, GroupName, Incarnation, MemberName, NodeName, OperationId, Ordinal, Revision, RoleTerm,
    ServiceName, VolumeId, ZoneName,
};
use crate::model::{
    Condition, Desired, Event, FencingLevel, Holder, MemberPhase, NodeHealth, Position, Reason, Role,
    ServiceSpec, ServiceState,
};

/// A service and its members.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct ServiceView {
    /// Its name.
    pub name: ServiceName,
    /// Its blueprint, as `NAME@VERSION`.
    pub blueprint: String,
    /// The check index: give it back with a change to have the change refused if something came between.
    pub index: String,
    /// The revision in force.
    pub revision: Revision,
    /// What is wanted.
    pub desired: Desired,
    /// What is.
    pub state: ServiceState,
    /// How many members it shall have.
    pub replicas: u32,
    /// How many of them serve.
    pub serving: u32,
    /// Its primary, if its leadership is Steadfast's and one is confirmed.
    pub primary: Option<MemberName>,
    /// The newest role term.
    pub role_term: Option<RoleTerm>,
    /// Its names, fully qualified: the service's own, then role names.
    pub names: Vec<String>,
    /// What holds of it.
    pub conditions: Vec<Condition>,
    /// Its members.
    pub members: Vec<MemberView>,
    /// The operation that is running.
    pub operation: Option<OperationId>,
    /// What was asked for.
    pub spec: ServiceSpec,
    /// Volumes it has left behind (after deletion), or has.
    pub volumes: Vec<VolumeId>,
}

/// A member.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct MemberView {
    /// Its name.
    pub name: MemberName,
    /// Its group.
    pub group: GroupName,
    /// Its position.
    pub ordinal: Ordinal,
    /// Its fully qualified DNS name.
    pub host: String,
    /// Its static address.
    #[cfg_attr(feature = "schema", schema(value_type = Option<String>))]
    pub address: Option<IpAddr>,
    /// Its phase. Observations that are too old leave what was last recorded, and say so in `stale`.
    pub phase: MemberPhase,
    /// Its role.
    pub role: Role,
    /// The node it is on or shall be on.
    pub node: Option<NodeName>,
    /// That node's zone.
    pub zone: Option<ZoneName>,
    /// How often it has changed hands.
    pub epoch: Epoch,
    /// The life of its engine.
    pub incarnation: Option<Incarnation>,
    /// Whether it serves.
    pub ready: bool,
    /// How far its data reaches.
    pub position: Option<Position>,
    /// How far it is behind.
    pub lag: Option<u64>,
    /// How often its engine has ended by itself lately.
    pub restarts: u32,
    /// Holders not yet proven unable to write, besides the present one.
    pub unreleased: Vec<Holder>,
    /// What it waits for or refuses.
    pub blocked: Option<(Reason, String)>,
    /// The age of the observation, in milliseconds; none if there is none.
    pub observed_ms_ago: Option<u64>,
    /// Whether that is too old to count.
    pub stale: bool,
    /// Its volumes.
    pub volumes: Vec<VolumeId>,
}

/// A node.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct NodeView {
    /// Its name.
    pub name: NodeName,
    /// Its zone.
    pub zone: ZoneName,
    /// Its health.
    pub health: NodeHealth,
    /// Why nothing is started on it, though it may be well otherwise, and who says so; none: it can be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stalled: Option<String>,
    /// Its present life.
    pub incarnation: Incarnation,
    /// The members on it.
    pub members: Vec<MemberName>,
    /// The engines it can run, with their versions.
    pub engines: std::collections::BTreeMap<String, String>,
    /// The age of its last sign of life, in milliseconds.
    pub observed_ms_ago: Option<u64>,
}

/// An event of a service or of one of its members.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct EventView {
    /// The service.
    pub service: ServiceName,
    /// The event.
    #[serde(flatten)]
    pub event: Event,
}

/// One thing that would be done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct Planned {
    /// What: `create`, `change`, `none`.
    pub verb: String,
    /// To what.
    pub subject: String,
    /// Details, in words.
    pub detail: String,
}

/// What applying a spec would do.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct PlanReport {
    /// The check index to apply exactly this.
    pub index: String,
    /// What would be done; empty: nothing.
    pub changes: Vec<Planned>,
    /// The fencing level the cluster reaches, and its outage rule.
    pub fencing: FencingLevel,
    /// What happens when a node falls silent, in words.
    pub outage_rule: String,
    /// What the guarantee of the chosen durability says, and what it does not.
    pub guarantee: String,
    /// Conditions known beforehand (`ZoneLossSafe`).
    pub conditions: Vec<Condition>,
    /// What the user should know.
    pub warnings: Vec<String>,
}

/// Why a member is as it is: what was seen, what is waited for, what to do.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct Why {
    /// The member.
    pub member: MemberName,
    /// One line that answers the question.
    pub summary: String,
    /// The facts behind it, in order of weight.
    pub lines: Vec<WhyLine>,
    /// The command that resolves it, if a person is needed.
    pub next_action: Option<String>,
}

/// One fact.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct WhyLine {
    /// Its code, if it has one.
    pub reason: Option<Reason>,
    /// The fact.
    pub text: String,
}

/// How to reach a service. Holds its secrets: never logged.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct ConnectView {
    /// A URI with every member, for drivers that take one.
    pub uri: String,
    /// Environment variables the engine's own client understands.
    pub env: std::collections::BTreeMap<String, String>,
    /// The engine's own client with its arguments (without secrets).
    pub client: Vec<String>,
    /// Host names and addresses, for a hosts file.
    #[cfg_attr(feature = "schema", schema(value_type = Vec<(String, String)>))]
    pub hosts: Vec<(String, IpAddr)>,
}

impl std::fmt::Debug for ConnectView {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ConnectView").field("client", &self.client).finish_non_exhaustive()
    }
}
