//! Switchover: leadership moves in order, from a primary that stops writing to a replica that has everything.
//!
//! The term is raised and the primary told to stop writing; the others go on following it. Once it has said under
//! that term that it takes no writes, how far it is will not change, and a replica that is as far has everything.
//! It ends in one of two ways, both a change of the same value: the replica leads, or the old primary does again.

use std::cmp::Reverse;
use std::time::Duration;

use super::roles::{change, leads, member};
use super::{Action, Facts, GroupMembers, MemberFacts, Plan, Wait};
use crate::ids::MemberName;
use crate::model::{Goal, MemberStatus, OperationKind, Position, Reason, Role, RolePhase, RoleState};
use crate::planted::{self, Planted};

/// The longest time between two attempts to hand over, unless one attempt may take longer.
const LONGEST_PAUSE: Duration = Duration::from_secs(3600);

/// How far a member's data reaches that has said under this very term that it runs and takes no writes.
fn answer(role: &RoleState, found: Option<&MemberFacts>) -> Option<Position> {
    let status = found?.status.as_ref()?;
    let answered = status.role_term == role.term && status.incarnation.is_some();
    status.position.filter(|_| answered && status.role != Role::Primary)
}

/// The action that begins to move leadership off the present leader: to `to`, or to the replica that is farthest.
///
/// # Errors
/// Why it cannot begin, in words: nothing has changed then.
pub(super) fn begin(
    facts: &Facts,
    group: &GroupMembers<'_>,
    to: Option<&MemberName>,
    why: &str,
) -> Result<Action, String> {
    let (Some(role), Some(leader)) = (group.role, group.role.and_then(|role| role.leader.as_ref())) else {
        return Err("nobody leads".to_owned());
    };
    if role.phase != RolePhase::Led || !leads(role, member(group, Some(leader))) {
        return Err(format!("{leader} is not confirmed to lead"));
    }
    if let Some(failed) = role.successor.as_ref().filter(|_| !may_try_again(facts, group, role)) {
        return Err(format!("{failed} was to take over from {leader}, and could not"));
    }
    let successor = match to {
        Some(to) => candidates(group, role).find(|(name, _)| *name == to),
        None => candidates(group, role).max_by_key(|(name, position)| (*position, Reverse(*name))),
    };
    let Some((successor, _)) = successor else {
        return Err(match to {
            Some(to) => format!("{to} is not ready to take over from {leader}"),
            None => format!("no replica is ready to take over from {leader}"),
        });
    };
    let state = RoleState {
        term: role.term.next(),
        phase: RolePhase::HandingOver,
        leader: None,
        previous: Some(leader.clone()),
        successor: Some(successor.clone()),
        failures: role.failures,
        since: facts.wall,
    };
    let text = format!("{leader} hands over to {successor}{why}");
    Ok(change(facts, group, role, state, Some((Reason::Switchover, text))))
}

/// Whether a leader that could not hand over has led for long enough since.
fn may_try_again(facts: &Facts, group: &GroupMembers<'_>, role: &RoleState) -> bool {
    let led_for = facts.leader_up_for.get(group.name).copied().unwrap_or_default();
    led_for >= pause_after_failures(facts, role.failures)
}

/// How long a leader leads before it is told again to hand over, after so many failures in a row: an attempt may keep
/// writes waiting for `promote_after`, so each one costs a smaller share of the time than the one before.
pub(super) fn pause_after_failures(facts: &Facts, failures: u32) -> Duration {
    let attempt = facts.revision.spec.failover.promote_after.0.max(Duration::from_secs(1));
    attempt.saturating_mul(2_u32.saturating_pow(failures)).min(LONGEST_PAUSE.max(attempt))
}

/// The replicas that could lead: ready under this term, and staying in the group.
fn candidates<'a>(
    group: &'a GroupMembers<'_>,
    role: &'a RoleState,
) -> impl Iterator<Item = (&'a MemberName, Position)> {
    group.staying().filter_map(|(name, found)| {
        let status: &MemberStatus = found?.status.as_ref()?;
        let able = role.leader.as_ref() != Some(name)
            && status.ready
            && status.role == Role::Replica
            && status.role_term == role.term;
        status.position.filter(|_| able).map(|position| (name, position))
    })
}

/// The next step of a handover that has begun.
pub(super) fn go_on(facts: &Facts, group: &GroupMembers<'_>, role: &RoleState, plan: &mut Plan) {
    let Some(previous) = &role.previous else { return };
    let waited = facts.leader_down_for.get(group.name).copied().unwrap_or_default();
    let patience: Duration = facts.revision.spec.failover.promote_after.0;
    let old = member(group, Some(previous));
    let is_dead = old.is_none_or(|old| old.record.placed_on.as_ref().is_some_and(|node| facts.is_dead(node)));
    let Some(final_position) = answer(role, old) else {
        if is_dead || waited >= patience {
            let why = format!("it has not stopped writing in order within {} s", waited.as_secs());
            plan.actions.push(hand_back(facts, group, role, previous, &why));
        } else {
            plan.waits.push(Wait::new(
                Reason::FenceUnproven,
                format!("{previous} has not said yet that it takes no writes: nobody is promoted"),
            ));
        }
        return;
    };
    match heir(group, role, final_position, waited >= patience) {
        Ok(winner) => {
            let state = RoleState {
                phase: RolePhase::Led,
                leader: Some(winner.clone()),
                successor: None,
                failures: 0,
                ..role.clone()
            };
            let text = format!("{winner} takes over from {previous} in order");
            plan.actions.push(change(facts, group, role, state, Some((Reason::Switchover, text))));
        }
        Err(why) if waited >= patience => {
            plan.actions.push(hand_back(facts, group, role, previous, &why));
        }
        Err(why) => plan.waits.push(Wait::new(Reason::ReplicaLagging, why)),
    }
}

/// Who takes over: the member that was chosen, as soon as it has everything. Another one that has, if the chosen
/// one does not run, or time is up.
fn heir(
    group: &GroupMembers<'_>,
    role: &RoleState,
    final_position: Position,
    late: bool,
) -> Result<MemberName, String> {
    let chosen = role.successor.as_ref();
    let runs = member(group, chosen)
        .and_then(|found| found.status.as_ref())
        .is_some_and(|status| status.incarnation.is_some());
    let complete = group
        .staying()
        .filter(|(name, _)| role.previous.as_ref() != Some(*name))
        .filter(|(_, found)| {
            answer(role, *found)
                .is_some_and(|position| position >= final_position || planted::is(Planted::HandoverTooEarly))
        })
        .map(|(name, _)| name);
    let best = complete.max_by_key(|name| (chosen == Some(*name), Reverse(*name)));
    best.filter(|name| chosen == Some(*name) || !runs || late).cloned().ok_or_else(|| {
        let who = chosen.map_or_else(|| "nobody".to_owned(), ToString::to_string);
        format!("{who} is not known to have everything up to {final_position}")
    })
}

/// The old primary leads again: nobody else was made to, and its data has everything.
fn hand_back(
    facts: &Facts,
    group: &GroupMembers<'_>,
    role: &RoleState,
    previous: &MemberName,
    why: &str,
) -> Action {
    let state = RoleState {
        phase: RolePhase::Led,
        leader: Some(previous.clone()),
        failures: role.failures.saturating_add(1),
        ..role.clone()
    };
    let text = format!("{previous} leads again: {why}");
    change(facts, group, role, state, Some((Reason::Returned, text)))
}

/// The handover that a user has asked for.
pub(super) fn on_request(facts: &Facts, plan: &mut Plan) {
    let Some(Goal::Leader { group, from, to, term }) = requested(facts) else { return };
    let Some(group) = facts.groups().find(|found| found.name == group) else { return };
    let Some(role) = group.role.filter(|role| role.term == *term && role.leader.as_ref() == Some(from))
    else {
        return;
    };
    if role.phase != RolePhase::Led {
        return;
    }
    if let Some(wait) = facts.pause("leadership stays where it is") {
        plan.waits.push(wait);
        return;
    }
    match begin(facts, &group, to.as_ref(), "") {
        Ok(action) => plan.actions.push(action),
        Err(why) => plan.waits.push(
            Wait::new(Reason::ReplicaLagging, why)
                .resolved_by(format!("steadfast describe {}", facts.service.name)),
        ),
    }
}

/// What a switchover that is running is to come to.
fn requested(facts: &Facts) -> Option<&Goal> {
    let operation = facts.operation.as_ref()?;
    (operation.kind == OperationKind::Switchover && !operation.state.is_final()).then_some(())?;
    operation.goal.as_ref()
}

/// Whether the switchover that was asked for is done, and whether it has begun; or how it failed.
pub(super) fn outcome(facts: &Facts, goal: &Goal) -> Result<(bool, bool), (Reason, String)> {
    let Goal::Leader { group, from, term, .. } = goal else { return Ok((false, false)) };
    let Some(group) = facts.groups().find(|found| found.name == group) else { return Ok((false, false)) };
    let Some(role) = group.role else { return Ok((false, false)) };
    let begun = role.term > *term;
    match &role.leader {
        Some(leader) if begun && leader == from => Err((
            Reason::ReplicaLagging,
            format!("{from} leads again; see: steadfast events {}", facts.service.name),
        )),
        Some(leader) if begun => Ok((leads(role, member(&group, Some(leader))), true)),
        _ => Ok((false, begun)),
    }
}

/// What could not take over may be tried again, once nothing asks for it.
pub(super) fn forget_failures(facts: &Facts, plan: &mut Plan) {
    for group in facts.groups() {
        if let Some(role) = group.role.filter(|role| role.phase == RolePhase::Led && role.successor.is_some())
        {
            let state = RoleState { successor: None, failures: 0, ..role.clone() };
            plan.actions.push(change(facts, &group, role, state, None));
        }
    }
}
