//! What a plan is decided on.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::Wait;
use crate::ids::{GroupName, Incarnation, MemberName, NodeName, Ordinal, Revision, ZoneName};
use crate::model::{
    Evidence, Group, Member, MemberPhase, MemberStatus, NodeHealth, Operation, Reason, Role, RoleState,
    Service, SpecRevision,
};
use crate::planted::{self, Planted};
use crate::registry::{DomainName, RecordKind, RecordSet};
use crate::runtime::Timestamp;
use crate::volume::{Exclusivity, Reach};

/// How long things may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timers {
    /// The share of nodes, in per cent, above which unknown ones stop every unplanned move.
    pub storm_brake_percent: usize,
    /// How long a node may start nothing before what has ended there is moved away.
    pub stall_patience: Duration,
    /// How long a server that has just started listens for nodes before it puts two members of a group together.
    pub first_look: Duration,
}

impl Default for Timers {
    fn default() -> Self {
        Timers {
            storm_brake_percent: 40,
            stall_patience: Duration::from_secs(15),
            first_look: Duration::from_secs(5),
        }
    }
}

/// That the orchestrator, or the node's own agent, says that nothing is started on a node, though its agent may be well.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stall {
    /// Why, in words, and whose they are if they are not the orchestrator's.
    pub why: String,
    /// Whether it has been so for longer than [`Timers::stall_patience`].
    pub lasting: bool,
}

/// A node, as seen from here.
#[derive(Debug, Clone, PartialEq)]
pub struct NodeFacts {
    /// Its zone.
    pub zone: ZoneName,
    /// Its present life.
    pub incarnation: Incarnation,
    /// Its health. What is too old to count is `Suspect` or `Unknown` here.
    pub health: NodeHealth,
    /// That nothing can be started on it; none: it can.
    pub stall: Option<Stall>,
    /// How many members of any service are placed on it.
    pub members: usize,
    /// The engines it can run; empty: not told.
    pub engines: BTreeMap<String, String>,
}

/// A member, as recorded and as seen.
#[derive(Debug, Clone, PartialEq)]
pub struct MemberFacts {
    /// The record.
    pub record: Arc<Member>,
    /// What the agent that holds it says, if that is fresh and about the present epoch.
    pub status: Option<MemberStatus>,
}

impl MemberFacts {
    /// Whether it serves, by fresh evidence.
    pub fn is_ready(&self) -> bool {
        self.status.as_ref().is_some_and(|status| status.ready)
    }

    /// Whether it serves by fresh evidence, and not as a learner: that one has no vote, and confirms nothing.
    pub fn counts(&self) -> bool {
        self.status.as_ref().is_some_and(|status| status.ready && status.role != Role::Learner)
    }

    /// Whether nothing of its engine runs, by fresh evidence.
    pub fn has_ended(&self) -> bool {
        self.status.as_ref().is_some_and(|status| status.incarnation.is_none() && !status.ready)
    }
}

/// Everything a plan is decided on.
#[derive(Debug, Clone)]
pub struct Facts {
    /// The service.
    pub service: Arc<Service>,
    /// Its revision in force.
    pub revision: Arc<SpecRevision>,
    /// Every revision that it or a member of it has.
    pub revisions: BTreeMap<Revision, Arc<SpecRevision>>,
    /// The operation that is running.
    pub operation: Option<Arc<Operation>>,
    /// Its members that have a record.
    pub members: BTreeMap<MemberName, MemberFacts>,
    /// Every node.
    pub nodes: Arc<BTreeMap<NodeName, NodeFacts>>,
    /// How long this server has been listening for nodes.
    pub listened_for: Duration,
    /// What the service's names hold now. A name that is not here was not looked up.
    pub names: BTreeMap<(DomainName, RecordKind), Option<RecordSet>>,
    /// How long each group's leader has been seen not to lead, counted by this server.
    pub leader_down_for: BTreeMap<GroupName, Duration>,
    /// How long each group's leader has been seen to lead under its term, counted by this server.
    pub leader_up_for: BTreeMap<GroupName, Duration>,
    /// Who refuses a second writer of a volume.
    pub exclusivity: Exclusivity,
    /// Whether volumes can be made larger.
    pub growing_volumes: bool,
    /// Where a volume can be attached once it was attached for the first time.
    pub volumes_reach: Reach,
    /// Whether the registry keeps SRV records.
    pub srv_records: bool,
    /// The cluster's DNS zone.
    pub zone: DomainName,
    /// How long things may take.
    pub timers: Timers,
    /// The wall clock, for records that people read.
    pub wall: Timestamp,
}

/// A group with its members, in order of ordinals. A member without a record is `None`.
#[derive(Debug, Clone)]
pub struct GroupMembers<'a> {
    /// The group's name.
    pub name: &'a GroupName,
    /// How many members it has, and how they change.
    pub group: &'a Group,
    /// Who leads it, where that is Steadfast's matter.
    pub role: Option<&'a RoleState>,
    /// Its members.
    pub members: Vec<(Ordinal, MemberName, Option<&'a MemberFacts>)>,
}

impl GroupMembers<'_> {
    /// The members that count, and that are not about to leave.
    pub fn staying(&self) -> impl Iterator<Item = (&MemberName, Option<&MemberFacts>)> {
        let staying = self.group.voters().min(self.group.target());
        self.members
            .iter()
            .filter(move |(ordinal, ..)| *ordinal < staying)
            .map(|(_, name, found)| (name, *found))
    }
}

impl Facts {
    /// The groups of the service.
    pub fn groups(&self) -> impl Iterator<Item = GroupMembers<'_>> {
        // Members are found by what their records say: naming each anew would take most of a plan's time.
        let mut found: BTreeMap<&GroupName, Vec<Option<(&MemberName, &MemberFacts)>>> = self
            .service
            .groups
            .iter()
            .map(|(name, group)| (name, vec![None; group.replicas as usize]))
            .collect();
        for (name, member) in &self.members {
            let Member { group, ordinal, .. } = &*member.record;
            if let Some(place) = found.get_mut(group).and_then(|places| places.get_mut(*ordinal as usize)) {
                *place = Some((name, member));
            }
        }
        found.into_iter().zip(self.service.groups.values()).map(|((name, members), group)| GroupMembers {
            name,
            group,
            role: self.service.roles.get(name),
            members: (0..)
                .zip(members)
                .filter_map(|(ordinal, found)| match found {
                    Some((member, facts)) => Some((ordinal, member.clone(), Some(facts))),
                    None => Some((ordinal, MemberName::of(&self.service.name, name, ordinal).ok()?, None)),
                })
                .collect(),
        })
    }

    /// The members of this very service, and not what an earlier one of its name has left.
    pub fn own_members(&self) -> impl Iterator<Item = (&MemberName, &MemberFacts)> {
        self.members.iter().filter(|(_, member)| {
            member.record.service_id == self.service.id && member.record.phase != MemberPhase::Removed
        })
    }

    /// Whether a member of that revision runs as the revision in force wants. What does not change how an engine
    /// runs needs no restart.
    pub fn is_up_to_date(&self, revision: Revision) -> bool {
        self.is_alike(revision, self.service.revision)
    }

    /// Whether an engine runs the same under both revisions. Of a revision that cannot be read nothing is known,
    /// and nothing is done for it.
    pub fn is_alike(&self, one: Revision, other: Revision) -> bool {
        one == other
            || match (self.revisions.get(&one), self.revisions.get(&other)) {
                (Some(one), Some(other)) => one.runs_like(other),
                _ => true,
            }
    }

    /// How many replicas certainly confirm a write besides the primary, whichever of the revisions in use it runs.
    pub fn confirming(&self) -> u32 {
        let least = self.revisions.values().map(|revision| revision.blueprint.confirming_replicas).min();
        least.unwrap_or(self.revision.blueprint.confirming_replicas)
    }

    /// What keeps planned work from going on: an operator's pause.
    pub(super) fn pause(&self, so: &str) -> Option<Wait> {
        self.service.paused.then(|| {
            Wait::new(Reason::PausedByOperator, format!("the service is paused: {so}"))
                .resolved_by(format!("steadfast resume {}", self.service.name))
        })
    }

    /// Whether so many nodes are unknown that nothing unplanned may be moved. Leases that have run out count if there
    /// are several: nobody has seen those nodes dead, and if most are silent it is the listening that fails. So do nodes
    /// that start nothing: if most do not, it is the orchestrator that fails.
    pub fn storm_brake(&self) -> bool {
        let count = |is: &dyn Fn(&NodeFacts) -> bool| self.nodes.values().filter(|node| is(node)).count();
        let unknown = count(&|node| match node.health {
            NodeHealth::Suspect | NodeHealth::Unknown => true,
            NodeHealth::Ready | NodeHealth::Draining => node.stall.is_some(),
            NodeHealth::Dead(_) => false,
        });
        let expired = count(&|node| node.health == NodeHealth::Dead(Evidence::LeaseExpired));
        let silent = if unknown + expired > 1 { unknown + expired } else { unknown };
        !planted::is(Planted::NoStormBrake)
            && silent * 100 > self.nodes.len() * self.timers.storm_brake_percent
    }

    /// Whether it is known how a member fares: its node says so, or it runs nowhere, because every node that may have
    /// it is dead.
    pub fn is_known(&self, member: &MemberFacts) -> bool {
        member.status.is_some()
            || member.record.placed_on.as_ref().is_some_and(|node| self.is_dead(node))
            || member.record.unreleased.iter().all(|holder| self.is_dead(&holder.node))
    }

    /// Whether a node's present life is proven dead, by evidence that this service accepts.
    pub fn is_dead(&self, node: &NodeName) -> bool {
        let accept_lease = self.revision.spec.fencing.accept_lease;
        self.nodes.get(node).is_some_and(|facts| match facts.health {
            NodeHealth::Dead(Evidence::LeaseExpired) => {
                accept_lease || planted::is(Planted::LeaseAcceptedByNobody)
            }
            NodeHealth::Dead(_) => true,
            NodeHealth::Suspect => planted::is(Planted::NoFence),
            NodeHealth::Ready | NodeHealth::Draining | NodeHealth::Unknown => false,
        })
    }
}
