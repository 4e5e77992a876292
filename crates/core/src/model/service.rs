//! Services: the desired state, the pinned blueprint, and who leads.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Condition, EventRing, Operation, Reason, ServiceSpec};
use crate::ids::{
    BlueprintName, GroupName, MemberName, MembershipTerm, OperationId, Ordinal, Revision, RoleTerm,
    ServiceId, ServiceName, VolumeName,
};
use crate::runtime::Timestamp;

/// What is wanted of a service as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub enum Desired {
    /// Every member runs.
    Running,
    /// Every member is stopped; everything is kept.
    Stopped,
    /// It is gone; volumes are kept or not as the spec says.
    Deleted,
}

/// What a service is, computed from observations.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub enum ServiceState {
    /// It has not served yet.
    Creating,
    /// It serves, with the redundancy declared.
    Healthy,
    /// It serves, with less redundancy than declared.
    Degraded,
    /// It does not serve.
    Unavailable,
    /// It is stopped, as wanted.
    Stopped,
    /// It is being deleted.
    Deleting,
    /// It is deleted; what it left can be undeleted.
    Deleted,
    /// Nothing fresh is known.
    #[default]
    Unknown,
}

impl fmt::Display for ServiceState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            ServiceState::Creating => "Creating",
            ServiceState::Healthy => "Healthy",
            ServiceState::Degraded => "Degraded",
            ServiceState::Unavailable => "Unavailable",
            ServiceState::Stopped => "Stopped",
            ServiceState::Deleting => "Deleting",
            ServiceState::Deleted => "Deleted",
            ServiceState::Unknown => "Unknown",
        })
    }
}

/// Who decides which member leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Leadership {
    /// The engine, by its own consensus.
    Engine,
    /// Steadfast, by role terms.
    Steadfast,
}

/// How the members of a group belong together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Topology {
    /// Members know nothing of each other.
    Independent,
    /// One primary takes writes, the others follow it.
    PrimaryReplicas,
    /// A majority of voters decides.
    Quorum,
}

/// In which order members are renewed where that is done one after another, for a restart or another revision.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RollingOrder {
    /// Replicas first; the primary last, after leadership has moved in order to a replica.
    #[default]
    ReplicasFirst,
    /// Replicas first; the primary last and where it is, to lead again.
    InPlace,
}

impl RollingOrder {
    /// How it was before there was a choice.
    fn of_old() -> Self {
        RollingOrder::InPlace
    }
}

/// A port that members listen on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredPort {
    /// Its name, which is also the SRV service label (`redis` gives `_redis._tcp`).
    pub name: String,
    /// The port.
    pub port: u16,
    /// Whether clients use it (and it gets SRV records).
    pub client: bool,
}

/// What a service has of its blueprint: the facts that planning needs, pinned with the spec revision.
/// Templates, commands and probes stay in the blueprint itself, found by its digest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Blueprint {
    /// Its name.
    pub name: BlueprintName,
    /// The engine's version it was chosen for.
    pub version: String,
    /// The digest of the blueprint with all its templates, in hexadecimal.
    pub digest: String,
    /// Who decides which member leads.
    pub leadership: Leadership,
    /// How members belong together.
    pub topology: Topology,
    /// The ports.
    pub ports: Vec<StoredPort>,
    /// The volumes, in order, with the default size in bytes.
    pub volumes: Vec<(VolumeName, u64)>,
    /// In the strict durability class: how many replicas confirm a write besides the primary; 0 if an
    /// acknowledged write may be on the primary alone.
    pub confirming_replicas: u32,
    /// Whether a member that has lost its data can follow without a vote until it has caught up, in a quorum that elects
    /// its own leader.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub learners: bool,
    /// In which order members are renewed.
    #[serde(default = "RollingOrder::of_old")]
    pub rolling: RollingOrder,
    /// How long an engine may take to recover without visible progress before it is called stuck, in
    /// milliseconds.
    pub start_deadline_ms: u64,
}

/// A spec and the blueprint it was made for (`revisions/SERVICE/N`). Never changed once written.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SpecRevision {
    /// The service.
    pub service_id: ServiceId,
    /// Its number.
    pub revision: Revision,
    /// What the user asked for.
    pub spec: ServiceSpec,
    /// What the blueprint makes of it.
    pub blueprint: Blueprint,
    /// The options with the blueprint's defaults filled in.
    pub options: BTreeMap<String, Value>,
    /// When it was written.
    pub created_at: Timestamp,
}

impl SpecRevision {
    /// Whether an engine runs the same under both: what differs needs no restart.
    pub fn runs_like(&self, other: &SpecRevision) -> bool {
        let of = |revision: &SpecRevision| (revision.blueprint.digest.clone(), revision.spec.durability);
        of(self) == of(other)
            && self.blueprint.version == other.blueprint.version
            && self.options == other.options
    }

    /// How large each volume of a member shall be, in bytes.
    pub fn volume_sizes(&self) -> impl Iterator<Item = (&VolumeName, u64)> {
        volume_sizes(&self.blueprint, &self.spec)
    }
}

/// How large each volume of a blueprint shall be by a spec, in bytes.
pub fn volume_sizes<'a>(
    blueprint: &'a Blueprint,
    spec: &'a ServiceSpec,
) -> impl Iterator<Item = (&'a VolumeName, u64)> {
    blueprint.volumes.iter().map(|(name, usual)| {
        let claim = spec.volumes.iter().find(|claim| &claim.name == name);
        (name, claim.and_then(|claim| claim.size).map_or(*usual, |size| size.0))
    })
}

/// How a group's last member comes or goes. Members come and go one at a time, and only at the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum MembershipChange {
    /// It copies and follows; it does not count.
    Learning,
    /// It has caught up, and counts once the engines say so.
    Admitting,
    /// It goes on, and counts until the engines say that it does not.
    Leaving,
    /// It counts no more: it is stopped, and gives its name, its address and its volumes back.
    Removing,
}

/// A group of like members, as it is now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Group {
    /// How many members it has, one that comes or goes included: ordinals `0..replicas`.
    pub replicas: Ordinal,
    /// How many it is to come to; none: as many as it has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<Ordinal>,
    /// Raised with every change of who counts.
    #[serde(default)]
    pub membership_term: MembershipTerm,
    /// What becomes of its last member.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub change: Option<MembershipChange>,
}

impl Group {
    /// A group of so many members, which is to stay as it is.
    pub fn of(replicas: Ordinal) -> Self {
        Group { replicas, target: None, membership_term: MembershipTerm::default(), change: None }
    }

    /// How many members it is to come to.
    pub fn target(&self) -> Ordinal {
        self.target.unwrap_or(self.replicas)
    }

    /// How many of its members are to count, by the change under way: ordinals `0..voters`.
    pub fn voters(&self) -> Ordinal {
        match self.change {
            None | Some(MembershipChange::Admitting) => self.replicas,
            Some(MembershipChange::Learning | MembershipChange::Leaving | MembershipChange::Removing) => {
                self.replicas.saturating_sub(1)
            }
        }
    }

    /// Whether the member is on its way out, and counts no more.
    pub fn is_removing(&self, ordinal: Ordinal) -> bool {
        self.change == Some(MembershipChange::Removing) && ordinal.saturating_add(1) == self.replicas
    }

    /// How many of its members may count, whatever the engines have made of the change so far.
    pub fn may_count(&self) -> Ordinal {
        match self.change {
            None | Some(MembershipChange::Admitting | MembershipChange::Leaving) => self.replicas,
            Some(MembershipChange::Learning | MembershipChange::Removing) => self.replicas.saturating_sub(1),
        }
    }
}

/// How far the leadership of a group has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum RolePhase {
    /// The named leader makes the first data; nobody else may.
    Bootstrapping,
    /// The named leader leads, or is to come back and lead.
    Led,
    /// Nobody leads: survivors stop following and report how far they are.
    Electing,
    /// Nobody leads: the previous leader stops writing, the others go on following it until one has everything.
    HandingOver,
}

/// Who leads a group whose leadership is Steadfast's. Changed by compare-and-swap before anything is promoted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RoleState {
    /// The term. A member may be writable only under the newest.
    pub term: RoleTerm,
    /// How far it is.
    pub phase: RolePhase,
    /// Who leads, or makes the first data.
    pub leader: Option<MemberName>,
    /// Who led before.
    pub previous: Option<MemberName>,
    /// While leadership is handed over: who is to take it. Once the previous leader leads again: who was to, and
    /// could not.
    #[serde(default)]
    pub successor: Option<MemberName>,
    /// How many handovers in a row have ended with this leader leading again.
    #[serde(default)]
    pub failures: u32,
    /// When this was recorded.
    pub since: Timestamp,
}

/// What a backend answers to what a service needs, each time that it is asked.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Trouble {
    /// Why, as a code.
    pub reason: Reason,
    /// Who failed at what, and why, in words.
    pub message: String,
    /// Since when it is for that reason.
    pub since: Timestamp,
    /// When this was recorded.
    pub at: Timestamp,
}

/// A service (`services/NAME`).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Service {
    /// Its immutable identity.
    pub id: ServiceId,
    /// Its name.
    pub name: ServiceName,
    /// The revision in force.
    pub revision: Revision,
    /// What is wanted.
    pub desired: Desired,
    /// Its groups.
    pub groups: BTreeMap<GroupName, Group>,
    /// Who leads, for groups whose leadership is Steadfast's.
    pub roles: BTreeMap<GroupName, RoleState>,
    /// Who led each group when the service was deleted, and under which term.
    #[serde(default)]
    pub last_leaders: BTreeMap<GroupName, (RoleTerm, MemberName)>,
    /// Whether an operator has paused everything unplanned.
    pub paused: bool,
    /// The exclusive operation that is running.
    pub operation: Option<OperationId>,
    /// The operation that created it, so that creating it again answers the same.
    #[serde(default)]
    pub created_by: Option<OperationId>,
    /// Whether it has ever served in full: from then on nothing is initialised as the first.
    pub bootstrapped: bool,
    /// Whether deletion is complete.
    pub deleted: bool,
    /// When it was created.
    pub created_at: Timestamp,
    /// What held of it when that last changed: `since` is true, `observed_at` and the message may be old.
    #[serde(default)]
    pub conditions: Vec<Condition>,
    /// What its servers fail at again and again; none: what is to be done is done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trouble: Option<Trouble>,
    /// What happened to it.
    pub events: EventRing,
    /// Fields of a newer version, kept as they are.
    #[serde(flatten)]
    pub extra: serde_json::Map<String, Value>,
}

impl Service {
    /// The newest role term there ever was, also after deletion.
    pub fn last_term(&self) -> RoleTerm {
        let led = self.last_leaders.values().map(|(term, _)| *term);
        self.roles.values().map(|role| role.term).chain(led).max().unwrap_or_default()
    }

    /// Who led a group last, kept through deletion.
    pub fn last_leader(&self, group: &GroupName) -> Option<MemberName> {
        self.last_leaders.get(group).map(|(_, leader)| leader.clone())
    }

    /// Takes an operation that is over off the service, and tells of it. `false`: the service has it no longer.
    pub(crate) fn let_go(&mut self, operation: &Operation, now: Timestamp) -> bool {
        if self.operation.as_ref() != Some(&operation.id) {
            return false;
        }
        self.operation = None;
        let message = format!("{} {}", operation.kind, operation.state);
        self.events.push(now, operation.kind.reason(), None, message);
        true
    }

    /// The names of the members it shall have, in order of group and ordinal.
    ///
    /// Names that would be too long cannot be here: creation refuses them.
    pub fn member_names(&self) -> impl Iterator<Item = (&GroupName, Ordinal, MemberName)> {
        self.groups.iter().flat_map(move |(group, Group { replicas, .. })| {
            (0..*replicas).filter_map(move |ordinal| {
                MemberName::of(&self.name, group, ordinal).ok().map(|name| (group, ordinal, name))
            })
        })
    }
}
