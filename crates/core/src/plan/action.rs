//! Actions: the smallest things a plan asks for. Each is idempotent and says what it was decided on.

use std::fmt;

use crate::ids::{Generation, GroupName, MemberName, NodeName, Ordinal, Revision, RoleTerm, VolumeName};
use crate::model::{Condition, Evidence, Group, Holder, Operation, Reason, RoleState};
use crate::orchestrator::Workload;
use crate::registry::{DomainName, RecordSet};

/// A change of leadership, decided on the term it replaces.
#[derive(Debug, Clone, PartialEq)]
pub struct RoleChange {
    /// The group.
    pub group: GroupName,
    /// The state it is decided on.
    pub expected: RoleState,
    /// The new state.
    pub state: RoleState,
    /// Why, for the event.
    pub reason: Option<(Reason, String)>,
}

/// One thing to do.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    /// Write the record of a member that has none.
    CreateMember {
        /// Its name.
        member: MemberName,
        /// Its group.
        group: GroupName,
        /// Its ordinal.
        ordinal: Ordinal,
        /// The node it is first placed on, if there is one.
        node: Option<NodeName>,
    },
    /// Make the member's volumes and allocate its address, and record them.
    Provision {
        /// The member.
        member: MemberName,
    },
    /// Place a member on a node.
    Place {
        /// The member.
        member: MemberName,
        /// The node it is placed on now, which the decision rests on.
        from: Option<NodeName>,
        /// The node.
        node: NodeName,
        /// Why, for the event.
        reason: Reason,
        /// In words.
        message: String,
    },
    /// Let a member run, or stop it where it is.
    SetRun {
        /// The member.
        member: MemberName,
        /// Whether it shall run.
        run: bool,
    },
    /// Have a member started anew.
    Restart {
        /// The member.
        member: MemberName,
        /// The generation to reach.
        generation: Generation,
        /// The spec revision to run.
        revision: Revision,
        /// Why, for the event.
        reason: Reason,
        /// In words.
        message: String,
    },
    /// Tell the orchestrator what shall run.
    Apply(Workload),
    /// Take back, for a holder that is proven dead, what it held of a member that shall not run.
    ReleaseFor {
        /// The member.
        member: MemberName,
        /// The holder.
        holder: Holder,
        /// The proof.
        evidence: Evidence,
    },
    /// Change who leads.
    ChangeRole(RoleChange),
    /// Change who belongs to a group.
    ChangeGroup {
        /// The group.
        group: GroupName,
        /// The state it is decided on.
        expected: Group,
        /// The new state.
        state: Group,
        /// Why, for the event.
        message: String,
    },
    /// Have a member take on a revision that changes nothing of how its engine runs.
    Adopt {
        /// The member.
        member: MemberName,
        /// The revision.
        revision: Revision,
    },
    /// Have a member's volume made larger, and record how large it is then.
    GrowVolume {
        /// The member.
        member: MemberName,
        /// Which of its volumes.
        volume: VolumeName,
        /// The size to reach.
        size_bytes: u64,
    },
    /// Record that a member whose data was given up has caught up with the others.
    MarkRecloned {
        /// The member.
        member: MemberName,
        /// The generation in which it votes again, if it has followed without a vote.
        votes_from: Option<Generation>,
    },
    /// Record that the service has served in full.
    MarkBootstrapped,
    /// Give a name its value.
    SetName {
        /// The name.
        name: DomainName,
        /// Its value.
        set: RecordSet,
        /// What it holds now.
        expected: Option<RecordSet>,
    },
    /// Take a name away.
    RemoveName {
        /// The name.
        name: DomainName,
        /// What it holds now.
        expected: RecordSet,
    },
    /// Remove a member: name, address, and the volumes that are not kept.
    RemoveMember {
        /// The member.
        member: MemberName,
    },
    /// Tell the orchestrator that the service is gone.
    RemoveWorkload,
    /// Record that the service is deleted.
    MarkDeleted,
    /// Write older events aside, of the service itself or of a member.
    ArchiveEvents {
        /// The member; none: the service.
        member: Option<MemberName>,
    },
    /// Take an operation that has ended off its service.
    EndOperation(Box<Operation>),
    /// Record that conditions have changed.
    RecordConditions(Vec<Condition>),
    /// Record how far the running operation is, as decided on its previous state.
    AdvanceOperation(Box<Operation>),
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Action::CreateMember { member, .. } => write!(f, "create-member {member}"),
            Action::Provision { member } => write!(f, "provision {member}"),
            Action::Place { member, node, .. } => write!(f, "place {member} on {node}"),
            Action::SetRun { member, run } => write!(f, "set-run {member} {run}"),
            Action::Restart { member, generation, .. } => write!(f, "restart {member} to {generation}"),
            Action::Apply(workload) => write!(f, "apply {}", workload.service),
            Action::ReleaseFor { member, holder, .. } => write!(f, "release {member} for {}", holder.node),
            Action::ChangeRole(RoleChange {
                group, state: RoleState { term: RoleTerm(term), .. }, ..
            }) => {
                write!(f, "change-role {group} term {term}")
            }
            Action::ChangeGroup { group, state, .. } => {
                write!(f, "change-group {group} to {} {:?}", state.replicas, state.change)
            }
            Action::Adopt { member, revision } => write!(f, "adopt {member} {revision}"),
            Action::GrowVolume { member, volume, size_bytes } => {
                write!(f, "grow {volume} of {member} to {size_bytes}")
            }
            Action::MarkRecloned { member, .. } => write!(f, "mark-recloned {member}"),
            Action::MarkBootstrapped => f.write_str("mark-bootstrapped"),
            Action::SetName { name, .. } => write!(f, "set-name {name}"),
            Action::RemoveName { name, .. } => write!(f, "remove-name {name}"),
            Action::RemoveMember { member } => write!(f, "remove-member {member}"),
            Action::RemoveWorkload => f.write_str("remove-workload"),
            Action::MarkDeleted => f.write_str("mark-deleted"),
            Action::RecordConditions(_) => f.write_str("record-conditions"),
            Action::ArchiveEvents { member: None } => f.write_str("archive-events"),
            Action::ArchiveEvents { member: Some(member) } => write!(f, "archive-events {member}"),
            Action::EndOperation(operation) => write!(f, "end-operation {}", operation.kind),
            Action::AdvanceOperation(operation) => {
                write!(f, "advance-operation {} {}", operation.kind, operation.state)
            }
        }
    }
}
