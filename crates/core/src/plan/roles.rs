//! Leadership where it is Steadfast's: role terms, and the rule of promotion.
//!
//! The role state of a group is one value under compare-and-swap, so the return of the old primary and the
//! promotion of another exclude each other. A term is raised before anyone is asked how far they are; what is
//! asked answers under that term, having stopped following the old primary.

use std::time::Duration;

use super::{Action, Facts, GroupMembers, MemberFacts, Plan, RoleChange, Wait, handover};
use crate::ids::MemberName;
use crate::model::{
    Durability, FailoverMode, Leadership, MemberStatus, Position, Reason, Role, RolePhase, RoleState,
};
use crate::planted::{self, Planted};

/// How long the winner of an election may take to lead while its engine runs, at least. A promotion waits for disks
/// and may take longer than `promote_after`: another election would only undo it, and the next one that one.
const TAKE_OVER: Duration = Duration::from_secs(60);

/// A member that has answered under the newest term.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Survivor {
    /// Its name.
    pub member: MemberName,
    /// How far its data reaches.
    pub position: Position,
}

/// What the rule of promotion says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Promotion {
    /// This member is to lead: it has every write that may have been acknowledged, or what is lost is what the
    /// durability class says.
    Promote(MemberName),
    /// It is not proven that nothing acknowledged would be lost.
    Unproven(String),
}

/// Who is to lead.
///
/// A write is acknowledged once the primary and `confirming` of the `replicas` others have it. Those who answered
/// intersect every possible set of confirmers if more than `replicas - confirming` of the others answered; the
/// one that is farthest then has every acknowledged write. The old primary's own data always has: if it has
/// answered, it leads again in the strict class.
///
/// With no confirmers a write may be on the old primary alone: in the strict class that one is waited for, in
/// the available class the farthest survivor is taken, and what only the old primary had is lost.
pub fn promotion(
    previous: Option<&MemberName>,
    replicas: u32,
    confirming: u32,
    durability: Durability,
    survivors: &[Survivor],
) -> Promotion {
    let farthest = survivors.iter().max_by_key(|survivor| {
        // Of several that are equally far, the old primary, then the first by name.
        (survivor.position, previous == Some(&survivor.member), std::cmp::Reverse(survivor.member.clone()))
    });
    let farthest = if planted::is(Planted::FirstSurvivor) { survivors.first() } else { farthest };
    let Some(farthest) = farthest else {
        return Promotion::Unproven("no member has answered under the new term".to_owned());
    };
    let old = survivors.iter().find(|survivor| previous == Some(&survivor.member));
    if let Some(old) = old {
        // Its own data has every write, however far its count of them reaches: an engine that counts anew after a
        // restart (Redis) would look as if it were behind.
        let best = if durability == Durability::Strict { old } else { farthest };
        return Promotion::Promote(best.member.clone());
    }
    let answered = u32::try_from(survivors.len()).unwrap_or(u32::MAX);
    let needed = if planted::is(Planted::TooFewSurvivors) { 0 } else { replicas.saturating_sub(confirming) };
    let enough = confirming > 0 && answered > needed;
    if enough || durability == Durability::Available {
        return Promotion::Promote(farthest.member.clone());
    }
    let why = if confirming == 0 {
        "an acknowledged write may be on the old primary alone".to_owned()
    } else {
        format!(
            "{answered} of {replicas} replicas have answered, and {} must: any {confirming} of them may be the \
             only ones that confirmed a write",
            replicas.saturating_sub(confirming) + 1
        )
    };
    Promotion::Unproven(why)
}

/// The next change of leadership of each group.
pub(super) fn lead(facts: &Facts, plan: &mut Plan) {
    if facts.revision.blueprint.leadership != Leadership::Steadfast {
        mark_bootstrapped(facts, plan);
        return;
    }
    for group in facts.groups() {
        let Some(role) = group.role else { continue };
        match role.phase {
            RolePhase::Bootstrapping => confirm_first(facts, &group, role, plan),
            RolePhase::Led => watch_leader(facts, &group, role, plan),
            RolePhase::Electing => elect(facts, &group, role, plan),
            RolePhase::HandingOver => handover::go_on(facts, &group, role, plan),
        }
    }
    mark_bootstrapped(facts, plan);
}

/// Once every member has served, nothing is ever initialised as the first again.
fn mark_bootstrapped(facts: &Facts, plan: &mut Plan) {
    let all_made = facts.groups().all(|group| {
        group.members.iter().all(|(_, _, found)| {
            found.is_some_and(|member| member.record.initialised.is_some() && member.is_ready())
        })
    });
    if !facts.service.bootstrapped && all_made && !facts.members.is_empty() {
        plan.actions.push(Action::MarkBootstrapped);
    }
}

pub(super) fn member<'a>(group: &GroupMembers<'a>, name: Option<&MemberName>) -> Option<&'a MemberFacts> {
    let name = name?;
    group.members.iter().find(|(_, member, _)| member == name).and_then(|(_, _, found)| *found)
}

/// Whether the member leads, by its own fresh word under this term.
pub(super) fn leads(role: &RoleState, found: Option<&MemberFacts>) -> bool {
    found.and_then(|member| member.status.as_ref()).and_then(MemberStatus::leads_under) == Some(role.term)
}

pub(super) fn change(
    facts: &Facts,
    group: &GroupMembers<'_>,
    role: &RoleState,
    state: RoleState,
    reason: Option<(Reason, String)>,
) -> Action {
    Action::ChangeRole(RoleChange {
        group: group.name.clone(),
        expected: role.clone(),
        state: RoleState { since: facts.wall, ..state },
        reason,
    })
}

/// Whether the winner of an election runs and answers, and does not lead yet. (It has answered under this very term
/// in the election, so the term tells nothing.)
fn takes_over(role: &RoleState, status: Option<&MemberStatus>) -> bool {
    role.previous.is_some()
        && status.is_some_and(|status| status.incarnation.is_some() && status.role == Role::Replica)
}

fn confirm_first(facts: &Facts, group: &GroupMembers<'_>, role: &RoleState, plan: &mut Plan) {
    if leads(role, member(group, role.leader.as_ref())) {
        let state = RoleState { phase: RolePhase::Led, ..role.clone() };
        plan.actions.push(change(facts, group, role, state, None));
    }
}

fn watch_leader(facts: &Facts, group: &GroupMembers<'_>, role: &RoleState, plan: &mut Plan) {
    let Some(leader) = &role.leader else { return };
    let found = member(group, Some(leader));
    if leads(role, found) {
        return;
    }
    let failover = &facts.revision.spec.failover;
    let down_for = facts.leader_down_for.get(group.name).copied().unwrap_or_default();
    let patience = if takes_over(role, found.and_then(|member| member.status.as_ref())) {
        failover.promote_after.0.max(TAKE_OVER)
    } else {
        failover.promote_after.0
    };
    if down_for < patience {
        return;
    }
    // A leader of which nothing is known may be serving: taking its replicas away would be the outage.
    let known_down = found.is_none_or(|member| facts.is_known(member));
    if !known_down && !planted::is(Planted::UnknownPrimaryIsDown) {
        plan.waits.push(
            Wait::new(
                Reason::FenceUnproven,
                format!("nothing is known of the primary {leader}: it may be serving"),
            )
            .resolved_by(format!("steadfast why {leader}")),
        );
        return;
    }
    let progress = found
        .and_then(|member| member.status.as_ref())
        .and_then(|status| status.blocked.as_ref())
        .is_some_and(|(reason, _)| *reason == Reason::EngineRecovering);
    if progress {
        return;
    }
    if facts.service.paused || failover.mode != FailoverMode::Auto {
        plan.waits.push(
            Wait::new(
                Reason::AwaitingConfirmation,
                format!("the primary {leader} is down; nobody is promoted"),
            )
            .resolved_by(format!("steadfast why {leader}")),
        );
        return;
    }
    let others = group
        .members
        .iter()
        .filter(|(_, name, found)| {
            name != leader
                && found.is_some_and(|member| member.status.as_ref().is_some_and(|s| s.incarnation.is_some()))
        })
        .count();
    if others == 0 {
        plan.waits.push(Wait::new(Reason::DurabilityUnproven, "no other member runs that could be promoted"));
        return;
    }
    let state = RoleState {
        term: role.term.next(),
        phase: RolePhase::Electing,
        leader: None,
        previous: Some(leader.clone()),
        successor: None,
        failures: 0,
        since: facts.wall,
    };
    let text = format!("{leader} has not led for {} s: an election begins", down_for.as_secs());
    plan.actions.push(change(facts, group, role, state, Some((Reason::EngineUnhealthy, text))));
}

fn elect(facts: &Facts, group: &GroupMembers<'_>, role: &RoleState, plan: &mut Plan) {
    let survivors: Vec<Survivor> = group
        .members
        .iter()
        .filter(|(ordinal, ..)| *ordinal < group.group.may_count())
        .filter_map(|(_, name, found)| {
            // One that has forgotten what it once confirmed speaks for nothing.
            let forgot =
                |member: &MemberFacts| member.record.recloning && !planted::is(Planted::CountsAtOnce);
            let found = found.filter(|member| !forgot(member))?;
            let status = found.status.as_ref()?;
            // The old primary need not say how far it is: with it, nothing is missing.
            let is_old = role.previous.as_ref() == Some(name);
            let position = status.position.or(is_old.then_some(Position { timeline: 0, offset: 0 }))?;
            (status.role_term == role.term && status.incarnation.is_some() && status.role != Role::Primary)
                .then(|| Survivor { member: name.clone(), position })
        })
        .collect();
    let replicas = group.group.may_count().saturating_sub(1);
    let spec = &facts.revision.spec;
    let confirming = facts.confirming();
    match promotion(role.previous.as_ref(), replicas, confirming, spec.durability, &survivors) {
        Promotion::Promote(winner) => {
            let state = RoleState {
                phase: RolePhase::Led,
                leader: Some(winner.clone()),
                successor: None,
                ..role.clone()
            };
            let why = match &role.previous {
                Some(previous) if previous == &winner => (Reason::Returned, format!("{winner} leads again")),
                Some(previous) => (Reason::Promoted, format!("{winner} takes over from {previous}")),
                None => (Reason::Promoted, format!("{winner} leads")),
            };
            plan.actions.push(change(facts, group, role, state, Some(why)));
        }
        Promotion::Unproven(why) => plan.waits.push(
            Wait::new(Reason::DurabilityUnproven, format!("nobody is promoted: {why}"))
                .resolved_by(format!("steadfast describe {}", facts.service.name)),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::RoleTerm;

    fn survivor(name: &str, offset: u64) -> Survivor {
        Survivor { member: name.parse().unwrap(), position: Position { timeline: 1, offset } }
    }

    fn name(text: &str) -> MemberName {
        text.parse().unwrap()
    }

    #[test]
    fn enough_survivors_intersect_every_set_of_confirmers() {
        let old = name("db-0");
        // One of two confirms: both must answer.
        let one = [survivor("db-1", 7)];
        assert!(matches!(promotion(Some(&old), 2, 1, Durability::Strict, &one), Promotion::Unproven(_)));
        let both = [survivor("db-1", 7), survivor("db-2", 9)];
        assert_eq!(promotion(Some(&old), 2, 1, Durability::Strict, &both), Promotion::Promote(name("db-2")));
        // Two of two confirm: one is enough.
        assert_eq!(promotion(Some(&old), 2, 2, Durability::Strict, &one), Promotion::Promote(name("db-1")));
    }

    #[test]
    fn the_old_primary_itself_is_always_enough() {
        let old = name("db-0");
        let back = [survivor("db-0", 9)];
        assert_eq!(promotion(Some(&old), 2, 0, Durability::Strict, &back), Promotion::Promote(old.clone()));
        let level = [survivor("db-0", 9), survivor("db-1", 9)];
        assert_eq!(promotion(Some(&old), 2, 1, Durability::Strict, &level), Promotion::Promote(old.clone()));
        // Others may count further than one that counts anew since its restart: its data is what matters.
        let anew = [survivor("db-0", 0), survivor("db-1", 9)];
        assert_eq!(promotion(Some(&old), 2, 0, Durability::Strict, &anew), Promotion::Promote(old.clone()));
        let taken = promotion(Some(&old), 2, 0, Durability::Available, &anew);
        assert_eq!(taken, Promotion::Promote(name("db-1")));
    }

    #[test]
    fn without_confirmers_strict_waits_and_available_takes_the_farthest() {
        let old = name("db-0");
        let both = [survivor("db-1", 7), survivor("db-2", 9)];
        assert!(matches!(promotion(Some(&old), 2, 0, Durability::Strict, &both), Promotion::Unproven(_)));
        assert_eq!(
            promotion(Some(&old), 2, 0, Durability::Available, &both),
            Promotion::Promote(name("db-2"))
        );
        assert!(matches!(promotion(Some(&old), 2, 0, Durability::Available, &[]), Promotion::Unproven(_)));
    }

    #[test]
    fn a_winner_that_runs_is_given_time_to_take_over() {
        let status = |running: bool, own: Role| MemberStatus {
            epoch: Default::default(),
            generation: Default::default(),
            revision: Default::default(),
            incarnation: running.then(|| "e1".parse().unwrap()),
            phase: crate::model::MemberPhase::Serving,
            role: own,
            role_term: RoleTerm(3),
            follows: None,
            membership: None,
            ready: false,
            position: None,
            lag: None,
            restarts: 0,
            blocked: None,
        };
        let role = |previous: Option<&str>| RoleState {
            term: RoleTerm(3),
            phase: RolePhase::Led,
            leader: Some(name("db-1")),
            previous: previous.map(name),
            successor: None,
            failures: 0,
            since: Default::default(),
        };
        let elected = role(Some("db-0"));
        assert!(takes_over(&elected, Some(&status(true, Role::Replica))));
        assert!(!takes_over(&elected, Some(&status(false, Role::Replica))), "its engine is down");
        assert!(
            !takes_over(&elected, Some(&status(true, Role::Primary))),
            "it led, and is not ready any more"
        );
        assert!(!takes_over(&elected, Some(&status(true, Role::Unknown))), "it does not answer");
        assert!(!takes_over(&elected, None));
        assert!(!takes_over(&role(None), Some(&status(true, Role::Replica))), "it is the first");
    }
}
