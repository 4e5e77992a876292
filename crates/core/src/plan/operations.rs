//! Operations: how far the running one is.

use super::roles::leads;
use super::rolling::{Standing, standing};
use super::{Action, Facts, MemberFacts, Plan, growth, handover, members, membership, names};
use crate::model::{Goal, MemberPhase, Operation, OperationKind, OperationState, Reason, Step, StepState};

/// How far the running operation is, recorded if that has changed.
pub(super) fn advance(facts: &Facts, plan: &mut Plan) {
    let Some(operation) = facts.operation.as_deref() else { return };
    if operation.is_over() {
        plan.actions.push(Action::EndOperation(Box::new(operation.clone())));
        return;
    }
    let outcome = operation.goal.as_ref().map(|goal| reached(facts, goal)).transpose();
    let failure = outcome.as_ref().err().cloned();
    let seen = steps(facts, operation, outcome.ok().flatten());
    // The end is decided by what holds now, all of it at once.
    let done = seen.iter().all(|step| step.state == StepState::Done);
    let steps = seen.into_iter().map(|step| at_least(step, &operation.steps)).collect();
    let waiting = plan.waits.first().map(|wait| (wait.reason.clone(), wait.message.clone()));
    let state = if failure.is_some() {
        OperationState::Failed
    } else if done {
        OperationState::Succeeded
    } else if waiting.is_some() {
        OperationState::Waiting
    } else {
        OperationState::Running
    };
    let waiting = if state.is_final() { None } else { waiting };
    let before = if operation.is_unbegun() { None } else { operation.failure.clone() };
    let failure = failure.or(before);
    let now = Operation { steps, state, waiting, failure, ..operation.clone() };
    if &now != operation {
        plan.actions.push(Action::AdvanceOperation(Box::new(Operation { updated_at: facts.wall, ..now })));
    }
}

/// Whether a goal is reached, and whether it has been begun with; or how it failed.
fn reached(facts: &Facts, goal: &Goal) -> Result<(bool, bool), (Reason, String)> {
    match goal {
        Goal::Leader { .. } => handover::outcome(facts, goal),
        Goal::Revision { .. } => Ok((false, true)),
        Goal::Replicas { group, replicas, .. } => {
            let settled = facts
                .service
                .groups
                .get(group)
                .is_some_and(|group| group.replicas == *replicas && membership::is_settled(group));
            let adopted =
                facts.own_members().all(|(_, member)| member.record.revision == facts.service.revision);
            Ok((settled && adopted && facts.own_members().all(|(_, member)| member.is_ready()), true))
        }
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

fn steps(facts: &Facts, operation: &Operation, outcome: Option<(bool, bool)>) -> Vec<Step> {
    match operation.kind {
        OperationKind::Create | OperationKind::Start | OperationKind::Undelete => start_steps(facts),
        OperationKind::Restart => operation
            .targets
            .iter()
            // One that has left meanwhile has nothing to begin anew.
            .filter(|(name, _)| {
                facts.members.get(*name).is_none_or(|member| member.record.phase != MemberPhase::Removed)
            })
            .map(|(name, target)| {
                let member = facts.members.get(name);
                step(
                    format!("restart {name}"),
                    member.is_some_and(|member| standing(facts, name, member) == Standing::Reached),
                    member.is_some_and(|member| member.record.generation >= *target),
                )
            })
            .collect(),
        OperationKind::Upgrade => facts
            .own_members()
            .map(|(name, member)| {
                let told = facts.is_up_to_date(member.record.revision);
                let runs = standing(facts, name, member) == Standing::Reached;
                let done = runs && growth::is_done(facts, name, member);
                step(format!("upgrade {name}"), done, told)
            })
            .collect(),
        OperationKind::Switchover => {
            let (done, begun) = outcome.unwrap_or_default();
            vec![step("hand leadership over", done, begun)]
        }
        OperationKind::Scale => {
            let (done, begun) = outcome.unwrap_or_default();
            vec![step("change members one at a time", done, begun)]
        }
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
