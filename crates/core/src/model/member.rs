//! Members: one compare-and-swap record binds identity, epoch, node, volumes, address, name and phase.

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::{EventRing, Reason};
use crate::ids::{
    Epoch, Generation, GroupName, Incarnation, MemberId, MemberName, MembershipTerm, NodeName, Ordinal,
    Revision, RoleTerm, ServiceId, ServiceName, VolumeId, VolumeName, ZoneName,
};
use crate::runtime::Timestamp;

/// Why an earlier holder is known to be unable to write.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub enum Evidence {
    /// It gave everything back itself.
    Released,
    /// Its task has ended and its volumes are unmounted, seen on that very node.
    TaskStoppedUnmounted,
    /// Its node is dead: the cloud, the supervisor or the kernel says so.
    NodeProvenDead,
    /// The storage refuses what it writes.
    StorageRefused,
    /// An operator says so.
    OperatorConfirmed,
    /// Its lease has expired. Counts only where the service accepts it.
    LeaseExpired,
}

impl fmt::Display for Evidence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// Who holds, or held, a member: one life of one node, under one epoch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct Holder {
    /// The node.
    pub node: NodeName,
    /// Which life of the node.
    pub incarnation: Incarnation,
    /// The epoch it claimed under.
    pub epoch: Epoch,
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (epoch {})", self.node, self.epoch)
    }
}

/// How far a member has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub enum MemberPhase {
    /// Nobody has claimed it under the present placement.
    Pending,
    /// Its new holder takes over volumes, address and name.
    Claiming,
    /// The engine can be started.
    Prepared,
    /// The engine starts, or recovers.
    Starting,
    /// The engine serves in its confirmed role.
    Serving,
    /// The engine is being stopped in order.
    Stopping,
    /// The engine is stopped and its holdings are released.
    Stopped,
    /// The member is no more; its volumes may be kept.
    Removed,
}

impl fmt::Display for MemberPhase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            MemberPhase::Pending => "Pending",
            MemberPhase::Claiming => "Claiming",
            MemberPhase::Prepared => "Prepared",
            MemberPhase::Starting => "Starting",
            MemberPhase::Serving => "Serving",
            MemberPhase::Stopping => "Stopping",
            MemberPhase::Stopped => "Stopped",
            MemberPhase::Removed => "Removed",
        })
    }
}

/// What a member is within its group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub enum Role {
    /// Takes writes.
    Primary,
    /// Follows a primary.
    Replica,
    /// Has a vote.
    Voter,
    /// Follows without a vote.
    Learner,
    /// Not known.
    #[default]
    Unknown,
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Role::Primary => "Primary",
            Role::Replica => "Replica",
            Role::Voter => "Voter",
            Role::Learner => "Learner",
            Role::Unknown => "Unknown",
        })
    }
}

/// How far a member's data reaches. Comparable among the members of one group that follow one history.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct Position {
    /// The branch of history (a PostgreSQL timeline, a ZooKeeper epoch); 0 where the engine has none.
    pub timeline: u64,
    /// The offset on it (an LSN, a replication offset, a zxid).
    pub offset: u64,
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.timeline, self.offset)
    }
}

/// One of a member's volumes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeBinding {
    /// Its name in the blueprint.
    pub name: VolumeName,
    /// Its identifier at the provider; none until it was made.
    pub id: Option<VolumeId>,
    /// The node that was last let near it: the one to detach it from.
    pub last_holder: Option<NodeName>,
    /// How large it was last seen to be, in bytes, where volumes can be made larger.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size_bytes: Option<u64>,
    /// Why it could not be made larger, the last time that this was tried.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub growth_failed: Option<(Reason, String)>,
    /// Whether its disk is gone by an operator's word, so that another one is to be made.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub lost: bool,
}

impl VolumeBinding {
    /// A volume of which nothing is known but its identifier.
    pub fn of(name: VolumeName, id: VolumeId) -> Self {
        let id = Some(id);
        VolumeBinding { name, id, last_holder: None, size_bytes: None, growth_failed: None, lost: false }
    }
}

/// A member's static address.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AddressBinding {
    /// The address.
    pub address: IpAddr,
    /// The node that it was last assigned to.
    pub last_holder: Option<NodeName>,
}

/// When a member's data was first made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Initialised {
    /// Under which epoch.
    pub epoch: Epoch,
    /// The engine's version at that time.
    pub engine_version: String,
}

/// A member (`members/SERVICE/MEMBER`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// Its immutable identity.
    pub id: MemberId,
    /// Its name, and DNS label.
    pub name: MemberName,
    /// The service it belongs to, by identity.
    pub service_id: ServiceId,
    /// The service it belongs to, by name.
    pub service: ServiceName,
    /// Its group.
    pub group: GroupName,
    /// Its position in the group.
    pub ordinal: Ordinal,
    /// How often it has changed hands.
    pub epoch: Epoch,
    /// How far it has come, as far as its holder has recorded.
    pub phase: MemberPhase,
    /// The node that shall run it; none while it has no place, or shall be stopped.
    pub placed_on: Option<NodeName>,
    /// Whether it shall run.
    pub run: bool,
    /// How often it was told to start anew.
    pub generation: Generation,
    /// The spec revision it shall run.
    pub revision: Revision,
    /// Who claimed it last.
    pub holder: Option<Holder>,
    /// Every holder, the present one included, that is not proven unable to write.
    pub unreleased: Vec<Holder>,
    /// Its volumes.
    pub volumes: Vec<VolumeBinding>,
    /// Its static address.
    pub address: Option<AddressBinding>,
    /// Set once its data has been made: from then on an empty volume is an error.
    pub initialised: Option<Initialised>,
    /// Where it ran last, to come back to if it can.
    pub last_node: Option<NodeName>,
    /// The zone of its first placement, recorded before anything is made there: that of its volumes and its address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zone: Option<ZoneName>,
    /// Whether its data was given up by an operator's word, and it has not caught up with the others since: until then
    /// it counts for nothing in an election. Where the engines elect it is configured as a learner, without a vote.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub recloning: bool,
    /// When the phase was recorded.
    pub phase_since: Timestamp,
    /// What happened to it.
    pub events: EventRing,
    /// Fields of a newer version, kept as they are.
    #[serde(flatten)]
    pub extra: serde_json::Map<String, serde_json::Value>,
}

impl Member {
    /// The node whose disk its volumes are on, where each node has a disk of its own: they are made on the first one that
    /// is let near them.
    pub fn disk(&self) -> Option<&NodeName> {
        self.volumes.iter().find_map(|binding| binding.last_holder.as_ref())
    }

    /// Whether every earlier holder but `node`'s present life is proven unable to write.
    pub fn is_released_but_for(&self, node: &NodeName, incarnation: &Incarnation) -> bool {
        self.unreleased.iter().all(|holder| &holder.node == node && &holder.incarnation == incarnation)
    }
}

/// Who counts in a group, as the engine itself says it is committed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Membership {
    /// The term under which the agent last brought the engine's membership into line.
    pub term: MembershipTerm,
    /// The members that count.
    pub voters: BTreeSet<MemberName>,
}

/// What an agent observes of a member it holds. Travels in the node's status, never in [`Member`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberStatus {
    /// The epoch the agent holds it under.
    pub epoch: Epoch,
    /// The generation of the running engine.
    pub generation: Generation,
    /// The revision of the running engine.
    pub revision: Revision,
    /// Which life of the engine; none while it does not run.
    pub incarnation: Option<Incarnation>,
    /// How far it is.
    pub phase: MemberPhase,
    /// Its role, as the engine itself says.
    pub role: Role,
    /// The role term under which the agent last confirmed or fenced the engine.
    pub role_term: RoleTerm,
    /// The primary it follows, as the engine itself says.
    #[serde(default)]
    pub follows: Option<MemberName>,
    /// Who counts in the group, from members whose engine tells.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub membership: Option<Membership>,
    /// Whether it answers and serves.
    pub ready: bool,
    /// How far its data reaches.
    pub position: Option<Position>,
    /// How far it is behind its primary, in bytes or entries as the engine counts.
    pub lag: Option<u64>,
    /// How often the engine has ended by itself since it last served for long.
    pub restarts: u32,
    /// What it waits for, or refuses, and in words.
    pub blocked: Option<(Reason, String)>,
}

impl MemberStatus {
    /// The term under which it serves as the primary, if it does.
    pub fn leads_under(&self) -> Option<RoleTerm> {
        (self.ready && self.role == Role::Primary).then_some(self.role_term)
    }

    /// Whether another status means the same to a plan. Positions and lags move all the time: they count only in an
    /// election, where the plan asks for a look of its own accord.
    pub fn means_the_same(&self, other: &MemberStatus) -> bool {
        let MemberStatus {
            epoch,
            generation,
            revision,
            incarnation,
            phase,
            role,
            role_term,
            follows,
            membership,
            ready,
            position: _,
            lag: _,
            restarts,
            blocked,
        } = self;
        (*epoch, *generation, *revision, *phase)
            == (other.epoch, other.generation, other.revision, other.phase)
            && (*role, *role_term, *ready, *restarts)
                == (other.role, other.role_term, other.ready, other.restarts)
            && *incarnation == other.incarnation
            && *follows == other.follows
            && *membership == other.membership
            && *blocked == other.blocked
    }
}
