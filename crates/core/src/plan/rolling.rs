//! Rolling: members are renewed one after another, for a restart or because the spec has another revision.
//!
//! Which members are due follows from their records alone, so whoever comes next goes on where the last one was,
//! and a revision that is taken back is rolled back by the same rule. Replicas come first and the primary last;
//! before the next one is touched, every other member has to serve by fresh evidence. One bad member stops the
//! line; only what is down already may be renewed while another one is missing, since that takes nothing away.

use super::roles::leads;
use super::{Action, Facts, MemberFacts, Plan, Wait, handover, membership};
use crate::ids::{Generation, MemberName};
use crate::model::{Operation, OperationKind, Reason, Role, RolePhase, RoleState, RollingOrder};
use crate::planted::{self, Planted};

/// How far a member is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Standing {
    /// It is to be told to start anew.
    Due,
    /// It was told what holds now, and is not there.
    Told,
    /// It serves as it was told.
    Reached,
}

/// How far a member is on its way to what is wanted of it.
pub(super) fn standing(facts: &Facts, name: &MemberName, member: &MemberFacts) -> Standing {
    let record = &member.record;
    let due = record.generation < demanded(facts, name) || !facts.is_up_to_date(record.revision);
    let reached = serves(facts, member)
        && member.status.as_ref().is_some_and(|status| {
            status.generation >= record.generation && facts.is_alike(status.revision, record.revision)
        });
    match (due, reached) {
        (true, _) => Standing::Due,
        (false, true) => Standing::Reached,
        (false, false) if planted::is(Planted::ToldIsThere) => Standing::Reached,
        (false, false) => Standing::Told,
    }
}

/// Whether a member is known to serve in the role it has now. What it said under an earlier term is not fresh, and one
/// that still follows another leader is on its way.
fn serves(facts: &Facts, member: &MemberFacts) -> bool {
    // One whose data was given up is missing until it has caught up, and where it votes, until it does so again.
    let status = member.status.as_ref().filter(|status| status.ready && !member.record.recloning);
    let Some(status) = status else { return false };
    let Some(role) = facts.service.roles.get(&member.record.group) else { return true };
    let follows_another = role.leader.as_ref().is_some_and(|leader| {
        *leader != member.record.name && status.follows.as_ref().is_some_and(|of| of != leader)
    });
    status.role_term == role.term && !follows_another
}

/// The generation that a running restart demands of a member.
fn demanded(facts: &Facts, name: &MemberName) -> Generation {
    let restart = running(facts).filter(|operation| operation.kind == OperationKind::Restart);
    if restart.is_some()
        && planted::is(Planted::RestartsAgain)
        && let Some(member) = facts.members.get(name).filter(|member| member.is_ready())
    {
        return member.record.generation.next();
    }
    restart.and_then(|operation| operation.targets.get(name)).copied().unwrap_or_default()
}

fn running(facts: &Facts) -> Option<&Operation> {
    facts.operation.as_deref().filter(|operation| !operation.state.is_final())
}

/// A member in the line.
struct InLine<'a> {
    name: &'a MemberName,
    member: &'a MemberFacts,
    standing: Standing,
    serves: bool,
    is_leader: bool,
    is_down: bool,
    /// Whether the running operation has told it already.
    is_touched: bool,
}

impl<'a> InLine<'a> {
    fn of(facts: &'a Facts, name: &'a MemberName, member: &'a MemberFacts) -> Self {
        let told_at = running(facts).map(|operation| operation.targets.get(name));
        InLine {
            name,
            member,
            standing: standing(facts, name, member),
            serves: serves(facts, member),
            is_leader: is_leader(facts, name, member),
            is_down: is_down(facts, member),
            // Without an operation that says where it began, nobody is taken for a bystander.
            is_touched: told_at.flatten().is_none_or(|target| member.record.generation >= *target),
        }
    }

    /// Whether it keeps `next` from being renewed.
    fn stops(&self, next: &InLine<'_>) -> bool {
        self.name != next.name
            && match self.standing {
                Standing::Reached => false,
                Standing::Told => self.is_touched || !next.is_down,
                Standing::Due => !next.is_down && !self.serves,
            }
    }
}

/// Renews the next member that is due.
pub(super) fn roll(facts: &Facts, plan: &mut Plan) {
    let mut line: Vec<InLine<'_>> =
        facts.own_members().map(|(name, member)| InLine::of(facts, name, member)).collect();
    let leader_first = planted::is(Planted::PrimaryFirst);
    line.sort_by_key(|next| (!next.is_down, next.is_leader != leader_first, next.name));
    let Some(next) = line.iter().find(|next| next.standing == Standing::Due) else {
        wait_for_the_last(facts, &line, plan);
        return;
    };
    if let Some(wait) = facts.pause("no member is restarted") {
        plan.waits.push(wait);
    } else if !planted::is(Planted::AllAtOnce)
        && let Some(other) = line.iter().find(|other| other.stops(next))
    {
        plan.waits.push(waiting_for(other.name, other.member));
    } else if next.is_down && !planted::is(Planted::RollbackTrap) {
        plan.actions.push(restart(facts, next, ""));
    } else if let Some(wait) = unsettled(facts).or_else(|| unknown(next)) {
        plan.waits.push(wait);
    } else {
        plan.actions.push(if next.is_leader { renew_leader(facts, next) } else { restart(facts, next, "") });
    }
}

/// Everybody is told: whoever is not there yet is waited for, if somebody has asked for this.
fn wait_for_the_last(facts: &Facts, line: &[InLine<'_>], plan: &mut Plan) {
    let asked = running(facts)
        .is_some_and(|operation| matches!(operation.kind, OperationKind::Restart | OperationKind::Upgrade));
    if let Some(last) = line.iter().find(|last| asked && last.standing == Standing::Told) {
        plan.waits.push(waiting_for(last.name, last.member));
    }
    if facts.operation.is_none() {
        handover::forget_failures(facts, plan);
    }
}

/// The leader goes last, and hands over first if it can. If not, the event says why.
fn renew_leader(facts: &Facts, leader: &InLine<'_>) -> Action {
    if facts.revision.blueprint.rolling == RollingOrder::InPlace || planted::is(Planted::PrimaryFirst) {
        return restart(facts, leader, "");
    }
    // One that calls itself leader, while another one is by record, has no leadership to hand over.
    let led = facts.groups().find(|group| {
        group.name == &leader.member.record.group
            && group.role.is_some_and(|role| role.leader.as_ref() == Some(leader.name))
    });
    match led.map(|group| handover::begin(facts, &group, None, " before it is restarted")) {
        Some(Ok(action)) => action,
        Some(Err(why)) => restart(facts, leader, &format!("; in place: {why}")),
        None => restart(facts, leader, ""),
    }
}

fn restart(facts: &Facts, next: &InLine<'_>, remark: &str) -> Action {
    let record = &next.member.record;
    let generation = demanded(facts, next.name).max(record.generation.next());
    let stays = facts.is_up_to_date(record.revision);
    let blueprint = &facts.revision.blueprint;
    Action::Restart {
        member: next.name.clone(),
        generation,
        revision: if stays { record.revision } else { facts.service.revision },
        reason: if stays { Reason::RestartRequested } else { Reason::SpecChanged },
        message: if stays {
            format!("generation {generation}{remark}")
        } else {
            let revision = facts.service.revision;
            format!(
                "generation {generation}, revision {revision} ({}@{}){remark}",
                blueprint.name, blueprint.version
            )
        },
    }
}

/// Whether the member leads: by the record, by its own word, or because another follows it.
pub(super) fn is_leader(facts: &Facts, name: &MemberName, member: &MemberFacts) -> bool {
    let by_record = facts.service.roles.values().any(|role| role.leader.as_ref() == Some(name));
    let own_word = member.status.as_ref().is_some_and(|status| status.role == Role::Primary);
    by_record || own_word || facts.own_members().any(|(_, other)| follows(other, name))
}

fn follows(other: &MemberFacts, name: &MemberName) -> bool {
    other.status.as_ref().is_some_and(|status| status.ready && status.follows.as_ref() == Some(name))
}

/// Whether it is known that the member serves nobody, and is not about to: its engine does not run or does not
/// answer, or has been brought into its role and does not serve in it.
fn is_down(facts: &Facts, member: &MemberFacts) -> bool {
    let record = &member.record;
    let Some(status) = &member.status else {
        return record.placed_on.as_ref().is_some_and(|node| facts.is_dead(node));
    };
    if status.ready {
        return false;
    }
    let in_role = |role: &RoleState| role.phase == RolePhase::Led && status.role_term == role.term;
    let has_role = facts.service.roles.get(&record.group).is_none_or(in_role);
    let leads_soon = facts.service.roles.values().any(|role| role.leader.as_ref() == Some(&record.name));
    if status.incarnation.is_none() || status.role == Role::Unknown {
        // A primary that has just been started is about to serve, as long as nothing is said to keep it from that.
        let starts = leads_soon && status.incarnation.is_some() && status.blocked.is_none();
        return !starts;
    }
    has_role && !(leads_soon && status.role == Role::Replica)
}

/// Leadership that is not settled is left to settle before anybody is touched that serves.
fn unsettled(facts: &Facts) -> Option<Wait> {
    let changing = facts.groups().find(|group| !membership::is_settled(group.group));
    let text = |name| format!("the members of group {name} change");
    changing.map(|group| Wait::new(Reason::OperationExclusive, text(group.name))).or_else(|| unled(facts))
}

/// A group that has a leader by record, and none that is confirmed.
pub(super) fn unled(facts: &Facts) -> Option<Wait> {
    facts.groups().find_map(|group| {
        let role = group.role?;
        let leader = role.leader.as_ref();
        let found = super::roles::member(&group, leader);
        (role.phase != RolePhase::Led || !leads(role, found)).then(|| {
            Wait::new(Reason::EngineRecovering, format!("nobody is confirmed to lead group {}", group.name))
        })
    })
}

/// Nothing is known of a member that has said nothing: it may be all that serves.
fn unknown(next: &InLine<'_>) -> Option<Wait> {
    (!next.member.is_ready()).then(|| waiting_for(next.name, next.member))
}

pub(super) fn waiting_for(name: &MemberName, member: &MemberFacts) -> Wait {
    match member.status.as_ref().and_then(|status| status.blocked.clone()) {
        Some((reason, message)) => Wait::new(reason, format!("{name}: {message}")),
        None if member.record.recloning => {
            Wait::new(Reason::ReplicaLagging, format!("{name} has not caught up yet, and does not count"))
        }
        None => Wait::new(Reason::EngineRecovering, format!("{name} does not serve yet")),
    }
    .resolved_by(format!("steadfast why {name}"))
}
