//! Operations: how far the running one is, and the turn-by-turn restart.

use super::roles::leads;
use super::{Action, Facts, MemberFacts, Plan, Wait, members, names};
use crate::ids::{Generation, MemberName};
use crate::model::{Operation, OperationKind, OperationState, Reason, Step, StepState};

/// Restarts the next member that has not reached its target: replicas first, the primary last, each only when
/// every other member serves by fresh evidence. One bad member stops the line.
pub(super) fn restart_in_turn(facts: &Facts, plan: &mut Plan) {
    let Some(operation) =
        facts.operation.as_ref().filter(|operation| operation.kind == OperationKind::Restart)
    else {
        return;
    };
    if facts.service.paused {
        plan.waits.push(
            Wait::new(Reason::PausedByOperator, "the service is paused: no member is restarted")
                .resolved_by(format!("steadfast resume {}", facts.service.name)),
        );
        return;
    }
    let mut turn: Vec<(bool, &MemberName, Generation, &MemberFacts)> = operation
        .targets
        .iter()
        .filter_map(|(name, target)| Some((is_leader(facts, name), name, *target, facts.members.get(name)?)))
        .collect();
    turn.sort_by_key(|(leader, name, ..)| (*leader, (*name).clone()));
    for (_, name, target, member) in turn {
        if has_reached(member, target) {
            continue;
        }
        if member.record.generation >= target {
            // Told, and not there yet.
            plan.waits.push(waiting_for(name, member));
            return;
        }
        let not_ready = facts.members.iter().find(|(other, facts)| *other != name && !facts.is_ready());
        if let Some((other, facts)) = not_ready {
            plan.waits.push(waiting_for(other, facts));
            return;
        }
        plan.actions.push(Action::Restart { member: name.clone(), generation: target });
        return;
    }
}

fn is_leader(facts: &Facts, name: &MemberName) -> bool {
    facts.service.roles.values().any(|role| role.leader.as_ref() == Some(name))
        || facts
            .members
            .get(name)
            .and_then(|member| member.status.as_ref())
            .is_some_and(|status| status.role == crate::model::Role::Primary)
}

fn has_reached(member: &MemberFacts, target: Generation) -> bool {
    member.record.generation >= target
        && member.status.as_ref().is_some_and(|status| status.generation >= target && status.ready)
}

fn waiting_for(name: &MemberName, member: &MemberFacts) -> Wait {
    match member.status.as_ref().and_then(|status| status.blocked.clone()) {
        Some((reason, message)) => Wait::new(reason, format!("{name}: {message}")),
        None => Wait::new(Reason::EngineRecovering, format!("{name} does not serve yet")),
    }
    .resolved_by(format!("steadfast why {name}"))
}

/// How far the running operation is, recorded if that has changed.
pub(super) fn advance(facts: &Facts, plan: &mut Plan) {
    let Some(operation) = &facts.operation else { return };
    // One that was ended as never begun is under way after all if the service has it.
    if operation.state.is_final() && !operation.is_unbegun() {
        plan.actions.push(Action::EndOperation(Box::new(operation.clone())));
        return;
    }
    let seen = steps(facts, operation);
    // The end is decided by what holds now, all of it at once.
    let done = seen.iter().all(|step| step.state == StepState::Done);
    let steps = seen.into_iter().map(|step| at_least(step, &operation.steps)).collect();
    let waiting = plan.waits.first().map(|wait| (wait.reason.clone(), wait.message.clone()));
    let state = if done {
        OperationState::Succeeded
    } else if waiting.is_some() {
        OperationState::Waiting
    } else {
        OperationState::Running
    };
    let waiting = if done { None } else { waiting };
    let failure = if operation.is_unbegun() { None } else { operation.failure.clone() };
    let now = Operation { steps, state, waiting, failure, ..operation.clone() };
    if &now != operation {
        plan.actions.push(Action::AdvanceOperation(Box::new(Operation { updated_at: facts.wall, ..now })));
    }
}

/// A step that has come as far as it once was: what it has done, it has done, whatever became of the member since.
fn at_least(step: Step, before: &[Step]) -> Step {
    let rank = |state| match state {
        StepState::Pending => 0,
        StepState::Running => 1,
        StepState::Done => 2,
    };
    match before.iter().find(|before| before.name == step.name) {
        Some(before) if rank(before.state) > rank(step.state) => before.clone(),
        _ => step,
    }
}

fn steps(facts: &Facts, operation: &Operation) -> Vec<Step> {
    match operation.kind {
        OperationKind::Create | OperationKind::Start | OperationKind::Undelete => start_steps(facts),
        OperationKind::Restart => operation
            .targets
            .iter()
            .map(|(name, target)| {
                let member = facts.members.get(name);
                step(
                    format!("restart {name}"),
                    member.is_some_and(|member| has_reached(member, *target)),
                    member.is_some_and(|member| member.record.generation >= *target),
                )
            })
            .collect(),
        OperationKind::Stop => vec![step("stop members", members::all_released(facts), true)],
        OperationKind::Delete => vec![
            step("stop members", members::all_released(facts), true),
            step("withdraw names and addresses", facts.service.deleted, members::all_released(facts)),
        ],
    }
}

fn start_steps(facts: &Facts) -> Vec<Step> {
    let all = |check: &dyn Fn(&MemberFacts) -> bool| {
        facts.groups().all(|group| group.members.iter().all(|(_, _, found)| found.is_some_and(check)))
    };
    let made = all(&|member| member.record.address.is_some() && member.record.placed_on.is_some());
    let ready = all(&|member| member.is_ready());
    let led = facts.groups().all(|group| {
        group.role.is_none_or(|role| {
            let leader = group.members.iter().find(|(_, name, _)| role.leader.as_ref() == Some(name));
            leads(role, leader.and_then(|(_, _, found)| *found))
        })
    });
    vec![
        step("make and place members", made, true),
        step("start members", ready, made),
        step("confirm roles", led, made),
        step("publish names", ready && led && names::are_published(facts), ready && led),
    ]
}

fn step(name: impl Into<String>, done: bool, begun: bool) -> Step {
    let state = match (done, begun) {
        (true, _) => StepState::Done,
        (false, true) => StepState::Running,
        (false, false) => StepState::Pending,
    };
    Step { name: name.into(), state }
}
