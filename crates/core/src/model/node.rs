//! Nodes: what is recorded of them, and what they say of themselves.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Evidence, MemberStatus};
use crate::ids::{Incarnation, MemberName, NodeName, ZoneName};
use crate::runtime::Timestamp;

/// How sure it is that an old holder of a volume cannot write any more. Higher is surer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub enum FencingLevel {
    /// By lease: assumes that pauses are bounded.
    F1,
    /// The cloud or supervisor proves the machine dead.
    F2,
    /// The storage refuses the old writer.
    F3,
}

impl std::fmt::Display for FencingLevel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            FencingLevel::F1 => "F1",
            FencingLevel::F2 => "F2",
            FencingLevel::F3 => "F3",
        })
    }
}

/// The health of a node, as observed. Age makes everything but `Dead` `Unknown`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub enum NodeHealth {
    /// Heard from in time.
    Ready,
    /// Not heard from in time; nothing is proven.
    Suspect,
    /// Proven dead: this incarnation does not come back.
    Dead(Evidence),
    /// Being emptied.
    Draining,
    /// Not known.
    Unknown,
}

impl NodeHealth {
    /// Whether it is proven dead.
    pub fn is_dead(&self) -> bool {
        matches!(self, NodeHealth::Dead(_))
    }
}

/// A node's own record (`nodes/NODE/record`): written when its agent starts, and by operators.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeRecord {
    /// The node.
    pub node: NodeName,
    /// Its zone.
    pub zone: ZoneName,
    /// Its newest life.
    pub incarnation: Incarnation,
    /// Labels, for placement.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// Engine programs found on it: blueprint name → version.
    #[serde(default)]
    pub engines: BTreeMap<String, String>,
    /// When this incarnation registered.
    pub registered_at: Timestamp,
    /// The incarnation that an operator has confirmed dead.
    #[serde(default)]
    pub confirmed_dead: Option<Incarnation>,
    /// Whether it takes no further members.
    #[serde(default)]
    pub draining: bool,
}

/// A node's status (`nodes/NODE/status`): its lease, and what its agent observes. Written by that agent only.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeStatus {
    /// The node.
    pub node: NodeName,
    /// Which life of it writes.
    pub incarnation: Incarnation,
    /// Raised with every write: observers count the lease from the last change they saw.
    pub beat: u64,
    /// How long the lease is, in milliseconds.
    pub lease_ms: u64,
    /// What the agent observes of the members it holds.
    pub members: BTreeMap<MemberName, MemberStatus>,
    /// Why nothing is started here, as the node itself sees it, in words that stay the same as long as that does; none: it
    /// is, as far as is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stalled: Option<String>,
    /// The agent's version.
    pub version: String,
}
