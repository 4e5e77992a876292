//! Operations: what a user asked for, as a durable record that any server can finish.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use super::Reason;
use crate::ids::{
    Generation, GroupName, MemberName, OperationId, Ordinal, Revision, RoleTerm, ServerId, ServiceId,
    ServiceName,
};
use crate::runtime::Timestamp;

/// What was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum OperationKind {
    /// Make a service.
    Create,
    /// Remove a service.
    Delete,
    /// Bring a deleted service back.
    Undelete,
    /// Restart every member, one after another.
    Restart,
    /// Stop every member.
    Stop,
    /// Start a stopped service.
    Start,
    /// Move leadership to another member, in order.
    Switchover,
    /// Bring every member to another revision of the spec, one after another.
    Upgrade,
    /// Give a group another number of members, one after another.
    Scale,
}

/// What an operation is to come to, where its kind alone does not say.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum Goal {
    /// Another member leads.
    Leader {
        /// The group.
        group: GroupName,
        /// Who led when this was asked for.
        from: MemberName,
        /// Who shall lead; none: whoever has everything.
        to: Option<MemberName>,
        /// The term it led under.
        term: RoleTerm,
    },
    /// Every member runs this revision.
    Revision {
        /// The revision.
        revision: Revision,
    },
    /// A group has so many members.
    Replicas {
        /// The group.
        group: GroupName,
        /// How many.
        replicas: Ordinal,
        /// The revision that says so.
        revision: Revision,
    },
}

impl OperationKind {
    /// The code under which a service's events tell of it.
    pub(crate) fn reason(self) -> Reason {
        match self {
            OperationKind::Create => Reason::Created,
            OperationKind::Delete => Reason::DeleteRequested,
            OperationKind::Undelete => Reason::Undeleted,
            OperationKind::Restart => Reason::RestartRequested,
            OperationKind::Stop => Reason::StopRequested,
            OperationKind::Start => Reason::StartRequested,
            OperationKind::Switchover => Reason::Switchover,
            OperationKind::Upgrade | OperationKind::Scale => Reason::SpecChanged,
        }
    }
}

impl fmt::Display for OperationKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            OperationKind::Create => "create",
            OperationKind::Delete => "delete",
            OperationKind::Undelete => "undelete",
            OperationKind::Restart => "restart",
            OperationKind::Stop => "stop",
            OperationKind::Start => "start",
            OperationKind::Switchover => "switchover",
            OperationKind::Upgrade => "upgrade",
            OperationKind::Scale => "scale",
        })
    }
}

/// How far an operation has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub enum OperationState {
    /// Recorded, not begun.
    Pending,
    /// Under way.
    Running,
    /// Waiting for a gate that is named.
    Waiting,
    /// Done.
    Succeeded,
    /// Given up.
    Failed,
    /// Cancelled by a user.
    Cancelled,
    /// Overtaken by another operation.
    Superseded,
}

impl OperationState {
    /// Whether nothing more will happen.
    pub fn is_final(self) -> bool {
        match self {
            OperationState::Pending | OperationState::Running | OperationState::Waiting => false,
            OperationState::Succeeded
            | OperationState::Failed
            | OperationState::Cancelled
            | OperationState::Superseded => true,
        }
    }
}

impl fmt::Display for OperationState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            OperationState::Pending => "Pending",
            OperationState::Running => "Running",
            OperationState::Waiting => "Waiting",
            OperationState::Succeeded => "Succeeded",
            OperationState::Failed => "Failed",
            OperationState::Cancelled => "Cancelled",
            OperationState::Superseded => "Superseded",
        })
    }
}

/// How far one step has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub enum StepState {
    /// Not begun.
    Pending,
    /// Under way.
    Running,
    /// Done.
    Done,
}

/// One step of an operation, for people to follow.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct Step {
    /// What it does.
    pub name: String,
    /// How far it is.
    pub state: StepState,
}

/// An operation (`operations/ID`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct Operation {
    /// Its identity.
    pub id: OperationId,
    /// What was asked for.
    pub kind: OperationKind,
    /// Of which service, by identity.
    pub service_id: ServiceId,
    /// Of which service, by name.
    pub service: ServiceName,
    /// How far it is.
    pub state: OperationState,
    /// Its steps.
    pub steps: Vec<Step>,
    /// What it waits for, and in words.
    pub waiting: Option<(Reason, String)>,
    /// For a restart: the generation each member has to reach. For an upgrade: the one that each has once it is told.
    #[serde(default)]
    pub targets: BTreeMap<MemberName, Generation>,
    /// What it is to come to, where its kind alone does not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub goal: Option<Goal>,
    /// What the caller named it by, so that asking twice makes one.
    #[serde(default)]
    pub idempotency_key: Option<String>,
    /// The server that moved it last.
    #[serde(default)]
    pub server: Option<ServerId>,
    /// When it was asked for.
    pub created_at: Timestamp,
    /// When it last moved.
    pub updated_at: Timestamp,
    /// Why it failed.
    #[serde(default)]
    pub failure: Option<(Reason, String)>,
    /// Fields of a newer version, kept as they are.
    #[serde(flatten)]
    #[cfg_attr(feature = "schema", schema(ignore))]
    pub extra: serde_json::Map<String, serde_json::Value>,
}

impl Operation {
    /// Whether it was ended because no server had begun it. Nothing of it was done; asking again under the same key
    /// begins it, and a service that refers to it all the same has it begun.
    pub fn is_unbegun(&self) -> bool {
        self.state == OperationState::Cancelled && matches!(self.failure, Some((Reason::DriftRepaired, _)))
    }

    /// Whether a service has taken it on, as far as its own record tells: one that is `Pending` may have been, too.
    pub fn was_begun(&self) -> bool {
        self.state != OperationState::Pending && !self.is_unbegun()
    }

    /// Whether nothing more will happen of it. One that was ended as never begun is under way after all if a service
    /// has it.
    pub fn is_over(&self) -> bool {
        self.state.is_final() && !self.is_unbegun()
    }

    /// What the service's event says that was written when the service took it on.
    pub(crate) fn begun_message(&self) -> String {
        format!("operation {}", self.id)
    }
}
