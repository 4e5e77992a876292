//! Rebuilding: a member whose disk is gone for good gets an empty volume elsewhere, and its data from its primary.
//!
//! It is a person's word that a disk is gone, never a conclusion. And it is taken only where nothing acknowledged is lost
//! by it: while another member leads by its own fresh word, since that one has everything that was ever acknowledged.
//! Until the member has caught up once it counts for nothing in an election: what it had confirmed before, it has
//! forgotten.

use super::members::evidence_of_death;
use super::roles::leads;
use super::{Action, Bound, Facts, MemberFacts, Plan};
use crate::ids::{MemberName, NodeName};
use crate::model::{Desired, Holder, Leadership, Reason, Role, RolePhase, Topology};
use crate::planted::{self, Planted};
use crate::volume::Reach;

/// Why the data of a member is not given up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NoRebuild {
    /// Why, as a code.
    pub reason: Reason,
    /// Why, in words.
    pub message: String,
    /// What to do about it.
    pub remedy: String,
}

impl NoRebuild {
    fn new(reason: Reason, message: impl Into<String>, remedy: impl Into<String>) -> Self {
        NoRebuild { reason, message: message.into(), remedy: remedy.into() }
    }
}

/// Whether the data of `name` on `disk` may be given up on a person's word, and from whom it is had again; none: it never
/// had any.
///
/// # Errors
/// If it may not, with the reason and the remedy.
pub fn may_rebuild<'a>(
    facts: &'a Facts,
    name: &MemberName,
    member: &MemberFacts,
    disk: &NodeName,
) -> Result<Option<&'a MemberName>, NoRebuild> {
    let record = &member.record;
    if facts.volumes_reach != Reach::Node {
        let message = "the volumes of this cluster are on no node's own disk: members move with them";
        return Err(NoRebuild::new(Reason::CapabilityMissing, message, format!("see steadfast why {name}")));
    }
    if Bound::of(facts, record) != Some(Bound::Node(disk)) {
        let message = match record.disk() {
            Some(other) => format!("the volumes of {name} are on the disk of {other}, not of {disk}"),
            None => format!("the volumes of {name} are on no disk yet"),
        };
        return Err(NoRebuild::new(Reason::EpochStale, message, format!("look again: steadfast why {name}")));
    }
    if facts.service.desired != Desired::Running {
        let message = format!("{} does not run", facts.service.name);
        let remedy = format!("start it first: steadfast start {}", facts.service.name);
        return Err(NoRebuild::new(Reason::StopRequested, message, remedy));
    }
    let may_live = |holder: &&Holder| evidence_of_death(facts, holder).is_none();
    if let Some(holder) = record.unreleased.iter().find(may_live)
        && !planted::is(Planted::RebuiltBeside)
    {
        let message = format!("{holder} may still have {name} running, and another one would be beside it");
        let remedy = format!("switch it off, then: steadfast node confirm-dead {}", holder.node);
        return Err(NoRebuild::new(Reason::FenceUnproven, message, remedy));
    }
    if record.initialised.is_none() {
        return Ok(None);
    }
    let blueprint = &facts.revision.blueprint;
    let bring_back = || format!("bring {disk} back, with its disk; or delete the service and make it anew");
    if blueprint.topology == Topology::Quorum || blueprint.leadership != Leadership::Steadfast {
        let message = format!(
            "{name} has a vote, and one that has forgotten what it voted for must not vote again under its old id"
        );
        return Err(NoRebuild::new(Reason::VoterAmnesia, message, bring_back()));
    }
    let group = facts.groups().find(|group| *group.name == record.group);
    let role = group.as_ref().and_then(|group| group.role);
    let leader = role.filter(|role| role.phase == RolePhase::Led).and_then(|role| role.leader.as_ref());
    match (leader, role) {
        (Some(leader), Some(role)) if leader != name && leads(role, facts.members.get(leader)) => {
            Ok(facts.members.get_key_value(leader).map(|(leader, _)| leader))
        }
        _ => {
            let message = format!(
                "no other member leads, and so nobody is proven to have everything that {name} had: this may be the \
                 only copy"
            );
            Err(NoRebuild::new(Reason::DurabilityUnproven, message, bring_back()))
        }
    }
}

/// What a person can do for a member that waits for its disk. That it can be rebuilt is said where it can, or may be
/// able to once its node is proven dead.
pub(super) fn remedy(facts: &Facts, member: &MemberFacts, disk: &NodeName) -> String {
    let name = &member.record.name;
    match may_rebuild(facts, name, member, disk) {
        Err(refused) if refused.reason != Reason::FenceUnproven => refused.remedy,
        Ok(_) | Err(_) => {
            format!(
                "bring {disk} back; if its disk is gone for good: steadfast rebuild {name} --lost-disk {disk}"
            )
        }
    }
}

/// A member that follows and serves again has what its primary has.
pub(super) fn finish(facts: &Facts, plan: &mut Plan) {
    for (name, member) in facts.own_members().filter(|(_, member)| member.record.recloning) {
        let caught_up = member.status.as_ref().is_some_and(|status| {
            status.ready && status.role == Role::Replica && status.generation >= member.record.generation
        });
        // One that had never had any data leads if it is the first.
        let first = member.status.as_ref().is_some_and(|status| status.leads_under().is_some());
        if caught_up || first {
            plan.actions.push(Action::MarkRecloned { member: name.clone() });
        }
    }
}
