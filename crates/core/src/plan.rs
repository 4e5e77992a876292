//! The planner: what to do next for one service, as a pure function of what is wanted and what was seen.
//!
//! [`plan`] reads [`Facts`] and answers with a [`Plan`]: actions to take now (each idempotent, each refused by the
//! store or the provider if what it was decided on no longer holds), what is waited for, and what users shall
//! see. It is synchronous, does no input or output, and reads no clock: time is among the facts.

mod action;
mod facts;
mod growth;
mod handover;
mod health;
mod members;
mod membership;
mod names;
mod operations;
mod placement;
mod rebuild;
mod roles;
mod rolling;

pub use action::{Action, RoleChange};
pub use facts::{Facts, GroupMembers, MemberFacts, NodeFacts, Stall, Timers};
pub use health::{Verdict, is_timeless, zone_loss_safe};
pub use placement::{Bound, PlacementError, choose_node};
pub use rebuild::{NoRebuild, Source, may_rebuild};
pub use roles::{Promotion, Survivor, promotion};

use crate::model::{Desired, Reason};
use crate::planted::{self, Planted};

/// Something that keeps the plan from being complete.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wait {
    /// What is waited for, or refused.
    pub reason: Reason,
    /// In words.
    pub message: String,
    /// The command that resolves it, if a person is needed.
    pub next_action: Option<String>,
}

impl Wait {
    pub(crate) fn new(reason: Reason, message: impl Into<String>) -> Self {
        Wait { reason, message: message.into(), next_action: None }
    }

    pub(crate) fn resolved_by(mut self, command: impl Into<String>) -> Self {
        self.next_action = Some(command.into());
        self
    }
}

/// What to do next for a service.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Plan {
    /// To be taken in this order. An action that fails ends the pass; the next one plans anew. Only a member that cannot be
    /// provisioned holds up no other.
    pub actions: Vec<Action>,
    /// What is waited for.
    pub waits: Vec<Wait>,
    /// What users see.
    pub verdict: Verdict,
}

/// The plan for one service.
pub fn plan(facts: &Facts) -> Plan {
    let mut plan = Plan::default();
    // First: what is waited for beside it may be waiting for just that.
    if let Some(trouble) = &facts.service.trouble {
        plan.waits.push(Wait::new(trouble.reason.clone(), trouble.message.clone()));
    }
    match facts.service.desired {
        Desired::Running => {
            members::provision(facts, &mut plan);
            members::place(facts, &mut plan);
            members::apply_workload(facts, &mut plan);
            members::release_from_the_dead(facts, &mut plan);
            roles::lead(facts, &mut plan);
            names::publish(facts, &mut plan);
            handover::on_request(facts, &mut plan);
            rebuild::finish(facts, &mut plan);
            membership::scale(facts, &mut plan);
            rolling::roll(facts, &mut plan);
            growth::grow(facts, &mut plan);
        }
        Desired::Stopped => {
            members::stop(facts, &mut plan);
            members::apply_workload(facts, &mut plan);
            members::release_from_the_dead(facts, &mut plan);
        }
        Desired::Deleted => {
            members::stop(facts, &mut plan);
            members::apply_workload(facts, &mut plan);
            members::release_from_the_dead(facts, &mut plan);
            let released = members::all_released(facts) || planted::is(Planted::DeleteBeforeStop);
            if released && !facts.service.deleted {
                names::withdraw(facts, &mut plan);
                members::remove(facts, &mut plan);
            }
        }
    }
    operations::advance(facts, &mut plan);
    health::judge(facts, &mut plan);
    archive_events(facts, &mut plan);
    plan
}

/// Records with many events give the oldest up.
fn archive_events(facts: &Facts, plan: &mut Plan) {
    if facts.service.events.is_full() {
        plan.actions.push(Action::ArchiveEvents { member: None });
    }
    for (name, member) in &facts.members {
        if member.record.events.is_full() {
            plan.actions.push(Action::ArchiveEvents { member: Some(name.clone()) });
        }
    }
}
