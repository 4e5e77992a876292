//! What really happened: for invariants and reports, out of reach of everything that is simulated.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use steadfast_core::ids::{
    Epoch, Generation, GroupName, Incarnation, MemberName, NodeName, Revision, ServiceName, VolumeId,
};
use steadfast_core::model::{Group, MemberPhase, OperationKind, OperationState, RoleState};
use steadfast_core::registry::{DomainName, RecordSet};

use crate::hash::{self, Hasher};
use crate::time::Time;

/// Something that happened.
#[derive(Debug, Clone, PartialEq)]
#[expect(missing_docs, reason = "the fields are what they are called")]
pub enum Fact {
    /// A machine runs, in a new life.
    NodeUp { node: NodeName },
    /// A machine is off, and everything on it.
    NodeDown { node: NodeName },
    /// A machine stands still.
    NodePaused { node: NodeName },
    /// It goes on.
    NodeResumed { node: NodeName },
    /// A process of ours has begun.
    ProcessUp { actor: String },
    /// A process of ours has ended.
    ProcessDown { actor: String },
    /// An engine was started: from now on it may write.
    EngineStarted { member: MemberName, node: NodeName, life: Incarnation, epoch: Epoch, volume: VolumeId },
    /// A guard has ended without having started an engine.
    NotStarted { member: MemberName, node: NodeName, why: &'static str },
    /// An engine answers.
    EngineUp { member: MemberName, node: NodeName, life: Incarnation, address: Option<IpAddr> },
    /// Nothing of an engine is left.
    EngineDown { member: MemberName, node: NodeName, life: Incarnation, why: &'static str },
    /// An engine takes writes from now on, or no longer.
    Leads { member: MemberName, node: NodeName, life: Incarnation, leads: bool },
    /// Somebody wrote to a volume.
    Wrote { member: MemberName, node: NodeName, epoch: Epoch, volume: VolumeId },
    /// The storage refused a write.
    WriteRefused { member: MemberName, node: NodeName, volume: VolumeId },
    /// First data was made, or copied.
    DataMade { member: MemberName, volume: VolumeId },
    /// Data was thrown away to follow another's history: so many client writes.
    Rewound { member: MemberName, writes: usize },
    /// A client has heard that its write is safe.
    Acknowledged { write: u64 },
    /// A client has heard that its write failed, or heard nothing for too long.
    WriteFailed { write: u64 },
    /// A volume exists.
    VolumeMade { volume: VolumeId },
    /// A volume is gone.
    VolumeDeleted { volume: VolumeId },
    /// A volume was given up: it is nobody's from now on.
    GivenUp { member: MemberName, volume: VolumeId },
    /// The own disk of a machine is gone, with everything on it.
    DiskLost { node: NodeName },
    /// A volume is attached.
    Attached { volume: VolumeId, node: NodeName },
    /// A volume is free.
    Detached { volume: VolumeId },
    /// An address has another holder.
    AddressMoved { address: IpAddr, to: Option<NodeName> },
    /// A name has a value. `returned`: while the change was on its way, the name has held something else, and come to
    /// hold again what the change expects.
    NameSet { name: DomainName, set: RecordSet, returned: bool },
    /// A name has none any more.
    NameRemoved { name: DomainName },
    /// A process asks for something that only a member's holder may.
    Asked { by: String, what: &'static str, member: MemberName, from: Option<NodeName> },
    /// A member's record says something else than before.
    MemberRecorded(Box<MemberRecorded>),
    /// A record says something else than before of who leads a service.
    LeadRecorded { service: ServiceName, role: RoleState },
    /// A record says something else than before of how many members a service's group has.
    GroupRecorded { service: ServiceName, name: GroupName, group: Group },
    /// The record of an operation says something else than before.
    OperationRecorded {
        service: ServiceName,
        id: String,
        kind: OperationKind,
        state: OperationState,
        key: Option<String>,
    },
    /// A fault of the plan befell a call.
    Fault { text: String },
    /// Something happened in a backend of one's own.
    Own { text: String },
    /// The environment's script did something.
    Scripted { text: String },
    /// From now on everything is repaired.
    Healing,
    /// What is wanted cannot be reached, which was declared and is so.
    Blocked { text: String },
}

impl Fact {
    /// Whether it is about a client's write: most facts are, and they change nothing else.
    pub fn is_of_clients(&self) -> bool {
        matches!(self, Fact::Wrote { .. } | Fact::Acknowledged { .. } | Fact::WriteFailed { .. })
    }

    /// What tells it from others, for traces.
    pub fn digest(&self) -> u64 {
        let mut hasher = Hasher::default();
        match self {
            Fact::Wrote { member, node, epoch, volume } => {
                hasher.word(1);
                hasher.bytes(member.as_str().as_bytes());
                hasher.bytes(node.as_str().as_bytes());
                hasher.word(epoch.0);
                hasher.bytes(volume.as_str().as_bytes());
            }
            Fact::Acknowledged { write } => {
                hasher.word(2);
                hasher.word(*write);
            }
            Fact::WriteFailed { write } => {
                hasher.word(3);
                hasher.word(*write);
            }
            // Rare enough to be printed.
            other => return hash::of_debug(other),
        }
        hasher.finish()
    }
}

/// What a member's record says.
#[derive(Debug, Clone, PartialEq)]
#[expect(missing_docs, reason = "as in Member")]
pub struct MemberRecorded {
    pub id: String,
    pub member: MemberName,
    pub service: ServiceName,
    pub epoch: Epoch,
    pub holder: Option<NodeName>,
    pub placed_on: Option<NodeName>,
    pub unreleased: BTreeSet<NodeName>,
    pub generation: Generation,
    pub revision: Revision,
    pub run: bool,
    pub phase: MemberPhase,
}

/// What really happened, in order.
#[derive(Debug, Default)]
pub struct Truth {
    facts: Vec<(Time, Fact)>,
    last_acknowledged: Option<Time>,
    /// The writes that clients believe safe, with when they heard so.
    pub acknowledged: BTreeMap<u64, Time>,
    /// The writes that were sent.
    pub sent: BTreeSet<u64>,
}

impl Truth {
    /// Notes a fact.
    pub fn note(&mut self, at: Time, fact: Fact) {
        if let Fact::Acknowledged { write } = &fact {
            self.acknowledged.insert(*write, at);
            self.last_acknowledged = Some(at);
        }
        self.facts.push((at, fact));
    }

    /// When a client has heard last that its write is safe: facts come in the order of their times.
    pub fn last_acknowledged(&self) -> Option<Time> {
        self.last_acknowledged
    }

    /// Everything, for who keeps it.
    pub fn take_facts(&mut self) -> Vec<(Time, Fact)> {
        std::mem::take(&mut self.facts)
    }

    /// Everything so far.
    pub fn facts(&self) -> &[(Time, Fact)] {
        &self.facts
    }
}
