//! Rebuilding: a member whose disk is gone for good gets an empty volume elsewhere, and its data from the others.
//!
//! It is a person's word that a disk is gone, never a conclusion. And it is taken only where nothing acknowledged is lost
//! by it: while another member leads by its own fresh word, since that one has everything that was ever acknowledged.
//! Until the member has caught up once it counts for nothing in an election: what it had confirmed before, it has
//! forgotten.
//!
//! # Voters
//!
//! A voter that has forgotten what it confirmed comes back as a learner, which neither votes nor confirms, and votes again
//! once its engine says that it has caught up. Among `2k + 1` voters every quorum has `k + 1`, and stays so while some
//! learn: they are asked for their votes in vain, as if they were away. So whoever leads was elected by `k + 1` voters of
//! which none learns. Of the `k + 1` that once confirmed a write at least one is among those, since two quorums share a
//! member and the one they share is not a learner. That one has the write: it has forgotten nothing, or has caught up,
//! since, with a leader that had it by the same argument. So the leader has everything, and what has caught up with it has.
//!
//! That needs no bound on how many learn at a time, as long as their number is not taken off the quorum's: of five voters
//! two may learn, and then three of three have to agree. With three learners nobody is elected, and nobody catches up. It
//! would not hold if learners were taken out of the others' configuration: with two of five gone that way, two of three
//! would be a quorum, and could be the two that never had what the third confirmed with the two that forgot it.

use super::members::evidence_of_death;
use super::roles::leads;
use super::{Action, Bound, Facts, GroupMembers, MemberFacts, Plan, Wait, membership};
use crate::ids::{MemberName, NodeName};
use crate::model::{Blueprint, Desired, Holder, Leadership, Reason, Role, RolePhase, Topology};
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

/// From whom the data of a member is had again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source<'a> {
    /// It never had any.
    Nobody,
    /// The one that leads.
    Primary(&'a MemberName),
    /// The other voters, of which a quorum serves; it learns from whichever they elect.
    Voters,
}

/// Whether the data of `name` on `disk` may be given up on a person's word, and from whom it is had again.
///
/// # Errors
/// If it may not, with the reason and the remedy.
pub fn may_rebuild<'a>(
    facts: &'a Facts,
    name: &MemberName,
    member: &MemberFacts,
    disk: &NodeName,
) -> Result<Source<'a>, NoRebuild> {
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
        return Ok(Source::Nobody);
    }
    let group = facts.groups().find(|group| *group.name == record.group);
    let source = match blueprint_of(facts, member).leadership {
        Leadership::Engine => may_learn(facts, group.as_ref(), member).map(|()| Source::Voters),
        Leadership::Steadfast => another_leads(facts, group.as_ref(), name).map(Source::Primary),
    };
    source.map_err(|(reason, message)| {
        let remedy = format!("bring {disk} back, with its disk; or delete the service and make it anew");
        NoRebuild::new(reason, message, remedy)
    })
}

/// What a member's own revision has of its blueprint: its agent goes by that.
fn blueprint_of<'a>(facts: &'a Facts, member: &MemberFacts) -> &'a Blueprint {
    &facts.revisions.get(&member.record.revision).unwrap_or(&facts.revision).blueprint
}

/// The member that leads by its own fresh word, if it is another one.
fn another_leads<'a>(
    facts: &'a Facts,
    group: Option<&GroupMembers<'a>>,
    name: &MemberName,
) -> Result<&'a MemberName, (Reason, String)> {
    let role = group.and_then(|group| group.role).filter(|role| role.phase == RolePhase::Led);
    let leader = role.and_then(|role| Some((role, facts.members.get_key_value(role.leader.as_ref()?)?)));
    match leader {
        Some((role, (leader, found))) if leader != name && leads(role, Some(found)) => Ok(leader),
        _ => {
            let message = format!(
                "no other member leads, and so nobody is proven to have everything that {name} had: this may be the \
                 only copy"
            );
            Err((Reason::DurabilityUnproven, message))
        }
    }
}

/// Whether a voter may come back as a learner.
fn may_learn(
    facts: &Facts,
    group: Option<&GroupMembers<'_>>,
    member: &MemberFacts,
) -> Result<(), (Reason, String)> {
    let name = &member.record.name;
    let blueprint = blueprint_of(facts, member);
    if blueprint.topology != Topology::Quorum || !blueprint.learners {
        let message = format!(
            "{name} has a vote, and one that has forgotten what it voted for must not vote again under its old id; \
             {}@{} has no learners",
            blueprint.name, blueprint.version
        );
        return Err((Reason::VoterAmnesia, message));
    }
    let Some(group) = group.filter(|group| membership::is_settled(group.group)) else {
        let message = format!("the members of group {} change", member.record.group);
        return Err((Reason::OperationExclusive, message));
    };
    let others = Others::of(group, name);
    if others.all == 0 {
        return Err((Reason::DurabilityUnproven, format!("{name} is the only voter: this is the only copy")));
    }
    others.stand().map_err(|so| {
        let message = format!(
            "{name} has forgotten what it voted for, and may come back as a learner only while a quorum stands \
             without it, which has everything that was acknowledged: {so}"
        );
        (Reason::VoterAmnesia, message)
    })
}

/// The voters of a group, one of them left out.
struct Others {
    all: usize,
    /// How many of them serve with a vote, by fresh evidence. A voter serves only while somebody leads a quorum, by its
    /// engine's own word.
    serve: usize,
}

impl Others {
    fn of(group: &GroupMembers<'_>, name: &MemberName) -> Self {
        let others = || group.staying().filter(|(other, _)| *other != name);
        let votes = |found: &MemberFacts| found.counts() && !found.record.recloning;
        let serve = others().filter(|(_, found)| found.is_some_and(votes)).count();
        Others { all: others().count(), serve }
    }

    /// Whether they are a quorum of the whole group; or how many they are, in words.
    fn stand(&self) -> Result<(), String> {
        let Others { all, serve } = *self;
        let quorum = all.saturating_add(1) / 2 + 1;
        if serve >= quorum {
            return Ok(());
        }
        Err(format!("{serve} of {all} others serve with a vote, and {quorum} must"))
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

/// A member that follows and serves again has what the others have. One that has learnt is started anew to vote.
pub(super) fn finish(facts: &Facts, plan: &mut Plan) {
    for (name, member) in facts.own_members().filter(|(_, member)| member.record.recloning) {
        let serves_as = |role| {
            member.status.as_ref().is_some_and(|status| {
                let ready = status.ready || role == Role::Learner && planted::is(Planted::VotesTooEarly);
                ready && status.role == role && status.generation >= member.record.generation
            })
        };
        let votes_from = match blueprint_of(facts, member).leadership {
            Leadership::Engine if serves_as(Role::Learner) => match may_vote(facts, member) {
                Ok(()) => Some(member.record.generation.next()),
                Err(wait) => {
                    plan.waits.push(wait);
                    continue;
                }
            },
            Leadership::Engine => continue,
            // One that had never had any data leads if it is the first.
            Leadership::Steadfast if serves_as(Role::Replica) || leads_anywhere(member) => None,
            Leadership::Steadfast => continue,
        };
        plan.actions.push(Action::MarkRecloned { member: name.clone(), votes_from });
    }
}

fn leads_anywhere(member: &MemberFacts) -> bool {
    member.status.as_ref().is_some_and(|status| status.leads_under().is_some())
}

/// Whether a learner that has caught up may vote from now on: what it has caught up with is a quorum's.
fn may_vote(facts: &Facts, member: &MemberFacts) -> Result<(), Wait> {
    let record = &member.record;
    let says = |so: &str| format!("{} has caught up, and has no vote yet: {so}", record.name);
    if let Some(wait) = facts.pause(&says("nothing is started anew")) {
        return Err(wait);
    }
    let group = facts.groups().find(|group| *group.name == record.group);
    let stand = group.map_or_else(
        || Err("its group is gone".to_owned()),
        |group| Others::of(&group, &record.name).stand(),
    );
    stand.map_err(|so| Wait::new(Reason::QuorumAtRisk, says(&so)))
}
