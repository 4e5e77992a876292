//! Membership: a group grows and shrinks at its end, one member at a time, each change confirmed before the next.
//!
//! ```text
//! out   Learning - caught up -> Admitting - the engines count it -> a member
//! in    Leaving - the engines count it no more -> Removing - everything is given back -> gone
//! ```
//!
//! What the group is to come to may change at any time: a change under way turns back at its next step. No step is
//! taken while another member does not serve, and the leader is never taken away: it hands over first.

use std::collections::BTreeSet;

use super::roles::{leads, member};
use super::{Action, Facts, GroupMembers, MemberFacts, Plan, Wait, handover, rolling};
use crate::ids::MemberName;
use crate::model::{Group, Leadership, MemberPhase, MembershipChange, Reason};

/// What comes next: another state of the group, something to do first, or to wait for.
enum Next {
    Group(Group, String),
    First(Vec<Action>),
    Wait(Wait),
}

/// Takes the next step of the first group that is not as it is to be.
pub(super) fn scale(facts: &Facts, plan: &mut Plan) {
    adopt(facts, plan);
    let Some(group) = facts.groups().find(|group| !is_settled(group.group)) else { return };
    let Some((_, name, last)) = group.members.last() else { return };
    let step = Step { facts, group: &group, name, last: *last };
    match step.next() {
        Next::Group(state, message) => plan.actions.push(Action::ChangeGroup {
            group: group.name.clone(),
            expected: group.group.clone(),
            state,
            message,
        }),
        Next::First(actions) => plan.actions.extend(actions),
        Next::Wait(wait) => plan.waits.push(wait),
    }
}

/// Whether a group has as many members as it is to have, all of which count.
pub(super) fn is_settled(group: &Group) -> bool {
    group.change.is_none() && group.target() == group.replicas
}

/// A revision that changes nothing of how an engine runs is taken on without a restart: once everybody counts where
/// there are to be more, at once where there are to be fewer, so that never more confirmations are counted on than
/// the primary waits for.
fn adopt(facts: &Facts, plan: &mut Plan) {
    for group in facts.groups() {
        let grows =
            matches!(group.group.change, Some(MembershipChange::Learning | MembershipChange::Admitting));
        if grows || group.group.target() > group.group.replicas {
            continue;
        }
        for (_, name, found) in &group.members {
            let revision = found.map(|member| member.record.revision);
            if revision.is_some_and(|own| own != facts.service.revision && facts.is_up_to_date(own)) {
                plan.actions.push(Action::Adopt { member: name.clone(), revision: facts.service.revision });
            }
        }
    }
}

/// The step of a group, whose last member comes or goes.
struct Step<'a> {
    facts: &'a Facts,
    group: &'a GroupMembers<'a>,
    name: &'a MemberName,
    last: Option<&'a MemberFacts>,
}

impl Step<'_> {
    fn next(&self) -> Next {
        let now = self.group.group;
        let (has, target) = (now.replicas, now.target());
        if now.change == Some(MembershipChange::Removing) {
            return self.remove();
        }
        if let Some(wait) = self.facts.pause("its members stay as they are") {
            return Next::Wait(wait);
        }
        match now.change {
            None if target > has => self.begin(),
            Some(MembershipChange::Learning | MembershipChange::Admitting) if target < has => {
                self.to(MembershipChange::Leaving, "leaves again")
            }
            Some(MembershipChange::Leaving) if target >= has => {
                self.to(MembershipChange::Learning, "stays after all")
            }
            Some(MembershipChange::Learning) => self.admit(),
            Some(MembershipChange::Admitting) => match self.committed() {
                Ok(()) => Next::Group(Group { change: None, ..self.rest() }, format!("{} counts", self.name)),
                Err(wait) => Next::Wait(wait),
            },
            None | Some(MembershipChange::Leaving | MembershipChange::Removing) => self.leave(),
        }
    }

    /// The group as it is, without a target that is reached.
    fn rest(&self) -> Group {
        let now = self.group.group.clone();
        Group { target: now.target.filter(|target| *target != now.replicas), ..now }
    }

    fn to(&self, change: MembershipChange, what: &str) -> Next {
        let now = self.group.group.clone();
        let membership_term = now.membership_term.next();
        let group = Group { change: Some(change), membership_term, ..now };
        Next::Group(group, format!("{} {what}", self.name))
    }

    /// One more member, that learns first.
    fn begin(&self) -> Next {
        if let Some(wait) = self.unhealthy(None) {
            return Next::Wait(wait);
        }
        let now = self.group.group.clone();
        let group = Group {
            replicas: now.replicas.saturating_add(1),
            change: Some(MembershipChange::Learning),
            membership_term: now.membership_term.next(),
            ..now
        };
        let message = format!("group {} gets a member {}", self.group.name, now.replicas);
        Next::Group(group, message)
    }

    fn admit(&self) -> Next {
        if let Some(wait) = self.unhealthy(Some(self.name)) {
            return Next::Wait(wait);
        }
        let caught_up = self.last.is_some_and(|last| {
            last.status
                .as_ref()
                .is_some_and(|status| status.ready && status.generation >= last.record.generation)
        });
        if caught_up {
            return self.to(MembershipChange::Admitting, "has caught up");
        }
        let text = format!("{} has not caught up yet, and does not count", self.name);
        Next::Wait(
            Wait::new(Reason::ReplicaLagging, text).resolved_by(format!("steadfast why {}", self.name)),
        )
    }

    /// The last member ceases to count, unless it leads: then another one leads first.
    fn leave(&self) -> Next {
        if let Some(wait) = self.unhealthy(Some(self.name)) {
            return Next::Wait(wait);
        }
        if self.leads() {
            return self.move_leadership();
        }
        if self.group.group.change.is_none() {
            return self.to(MembershipChange::Leaving, "is to leave");
        }
        match self.committed() {
            Ok(()) => {
                let now = self.group.group.clone();
                let group = Group { change: Some(MembershipChange::Removing), ..now };
                Next::Group(group, format!("{} counts no more, and is removed", self.name))
            }
            Err(wait) => Next::Wait(wait),
        }
    }

    /// Whether the last member leads. Where that is ours to say the record does, and another one is confirmed by now:
    /// who calls itself leader all the same has not let go, and is stopped like any other.
    fn leads(&self) -> bool {
        match self.group.role {
            Some(role) => role.leader.as_ref() == Some(self.name),
            None => self.last.is_some_and(|last| rolling::is_leader(self.facts, self.name, last)),
        }
    }

    fn move_leadership(&self) -> Next {
        let wait = |why: String| Next::Wait(Wait::new(Reason::QuorumAtRisk, why));
        if self.facts.revision.blueprint.leadership == Leadership::Steadfast {
            return match handover::begin(self.facts, self.group, None, " before it leaves") {
                Ok(action) => Next::First(vec![action]),
                Err(why) => {
                    wait(format!("{} leads and is to leave: {why}{}", self.name, self.next_attempt()))
                }
            };
        }
        // An engine that elects does so when its leader is away for a moment. Tried once for each time it is asked.
        let told = self.facts.operation.as_ref().and_then(|operation| operation.targets.get(self.name));
        match (told, self.last) {
            (Some(generation), Some(last)) if last.record.generation < *generation => {
                Next::First(vec![Action::Restart {
                    member: self.name.clone(),
                    generation: *generation,
                    revision: last.record.revision,
                    reason: Reason::Switchover,
                    message: format!("generation {generation}: it leads and is to leave"),
                }])
            }
            _ => wait(format!("{} leads, and its engine has chosen nobody else", self.name)),
        }
    }

    /// When a leader that could not hand over is told to again, in words.
    fn next_attempt(&self) -> String {
        let failed = self.group.role.filter(|role| role.successor.is_some());
        failed.map_or_else(String::new, |role| {
            let pause = handover::pause_after_failures(self.facts, role.failures);
            format!("; it is tried again once it has led for {} s", pause.as_secs())
        })
    }

    /// Stopped and released, then its name and address go, then its place.
    fn remove(&self) -> Next {
        let Some(last) = self.last else { return self.gone() };
        let record = &last.record;
        if record.phase == MemberPhase::Removed || record.service_id != self.facts.service.id {
            return self.gone();
        }
        if record.run || !record.unreleased.is_empty() {
            let text = format!("{} is being stopped", self.name);
            return Next::Wait(Wait::new(Reason::StopRequested, text));
        }
        Next::First(vec![Action::RemoveMember { member: self.name.clone() }])
    }

    fn gone(&self) -> Next {
        let now = self.group.group.clone();
        let replicas = now.replicas.saturating_sub(1);
        let target = now.target.filter(|target| *target != replicas);
        Next::Group(Group { replicas, target, change: None, ..now }, format!("{} is gone", self.name))
    }

    /// Whether the engines count those who are to count, by the word of one who decides, under this very term.
    fn committed(&self) -> Result<(), Wait> {
        let now = self.group.group;
        let voters: BTreeSet<&MemberName> = self
            .group
            .members
            .iter()
            .filter(|(ordinal, ..)| *ordinal < now.voters())
            .map(|(_, name, _)| name)
            .collect();
        let says_so = |found: &MemberFacts| {
            let status = found.status.as_ref().filter(|status| status.ready);
            status.and_then(|status| status.membership.as_ref()).is_some_and(|membership| {
                membership.term == now.membership_term
                    && membership.voters.iter().collect::<BTreeSet<_>>() == voters
            })
        };
        let confirmed = match self.group.role {
            Some(role) => {
                let leader = member(self.group, role.leader.as_ref());
                leads(role, leader) && leader.is_some_and(says_so)
            }
            None => self.group.members.iter().any(|(_, _, found)| found.is_some_and(says_so)),
        };
        if confirmed {
            return Ok(());
        }
        let text = format!(
            "no engine of group {} has said yet that {} of its members count",
            self.group.name,
            now.voters()
        );
        Err(Wait::new(Reason::QuorumAtRisk, text))
    }

    /// Somebody else who does not serve: nothing is changed meanwhile.
    fn unhealthy(&self, but: Option<&MemberName>) -> Option<Wait> {
        let sick = self.facts.own_members().find(|(name, member)| Some(*name) != but && !member.counts());
        let missing = self.group.members.iter().find(|(_, name, found)| Some(name) != but && found.is_none());
        sick.map(|(name, member)| rolling::waiting_for(name, member))
            .or_else(|| {
                missing.map(|(_, name, _)| {
                    Wait::new(Reason::EngineRecovering, format!("{name} is not made yet"))
                })
            })
            .or_else(|| rolling::unled(self.facts))
    }
}
