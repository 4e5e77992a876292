//! What users see of a service: its state and its conditions, computed from fresh observations.

use std::collections::BTreeMap;

use super::roles::leads;
use super::{Action, Facts, MemberFacts, Plan, Wait};
use crate::ids::ZoneName;
use crate::model::{
    Condition, ConditionKind, Desired, NodeHealth, Reason, RoleState, ServiceState, Topology, Truth,
};

/// A service's state and conditions.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Verdict {
    /// The state.
    pub state: ServiceState,
    /// The conditions, one of each kind.
    pub conditions: Vec<Condition>,
}

impl Verdict {
    /// The verdict on a service, given what its plan waits for.
    fn of(facts: &Facts, waits: &[Wait]) -> Self {
        let belongs = |member: &MemberFacts| {
            let group = facts.service.groups.get(&member.record.group);
            group.is_some_and(|group| member.record.ordinal < group.voters())
        };
        let ready = facts.members.values().filter(|member| belongs(member) && member.counts()).count();
        let wanted: usize = facts.service.groups.values().map(|group| group.voters() as usize).sum();
        let available = availability(facts);
        let redundant = if ready >= wanted { Truth::True } else { Truth::False };
        let state = state(facts, available, redundant, ready);
        let durable = durability(facts, available, ready);
        let zones = zone_loss_safe(facts);
        let at = |kind, status, reason, message: String| Condition {
            kind,
            status,
            reason,
            message,
            since: facts.wall,
            observed_at: facts.wall,
            deadline: None,
            next_action: None,
        };
        let mut conditions = vec![
            at(ConditionKind::Available, available, None, format!("{ready} of {wanted} members serve")),
            at(
                ConditionKind::Redundant,
                redundant,
                (redundant == Truth::False).then_some(Reason::RedundancyLost),
                format!("{ready} of {wanted} members serve"),
            ),
            durable.map_or_else(
                |(reason, message)| at(ConditionKind::Durable, Truth::False, Some(reason), message),
                |message| at(ConditionKind::Durable, available, None, message),
            ),
            match zones {
                Ok(message) => at(ConditionKind::ZoneLossSafe, Truth::True, None, message),
                Err((reason, message)) => {
                    at(ConditionKind::ZoneLossSafe, Truth::False, Some(reason), message)
                }
            },
            at(ConditionKind::Drifted, Truth::False, None, String::new()),
            at(
                ConditionKind::Paused,
                if facts.service.paused { Truth::True } else { Truth::False },
                facts.service.paused.then_some(Reason::PausedByOperator),
                String::new(),
            ),
        ];
        conditions.push(blocked(facts, waits, at(ConditionKind::Blocked, Truth::False, None, String::new())));
        for condition in &mut conditions {
            if let Some(old) = recorded(facts, condition) {
                condition.since = old.since;
            }
        }
        Verdict { state, conditions }
    }
}

/// The condition of the service's record that says the same of its kind.
fn recorded<'a>(facts: &'a Facts, condition: &Condition) -> Option<&'a Condition> {
    let old = facts.service.conditions.iter().find(|old| old.kind == condition.kind);
    old.filter(|old| old.status == condition.status)
}

/// Whether a plan on the same facts comes to these same conditions at any time, but for when they were looked at: it
/// waits for no time to pass, and since when they hold is on record.
pub fn is_timeless(facts: &Facts, conditions: &[Condition]) -> bool {
    let paces_handovers = |role: &RoleState| role.successor.is_some();
    facts.leader_down_for.is_empty()
        && !facts.service.roles.values().any(paces_handovers)
        && conditions.iter().all(|condition| recorded(facts, condition).is_some())
}

fn state(facts: &Facts, available: Truth, redundant: Truth, ready: usize) -> ServiceState {
    match facts.service.desired {
        Desired::Deleted if facts.service.deleted => ServiceState::Deleted,
        Desired::Deleted => ServiceState::Deleting,
        Desired::Stopped if ready == 0 => ServiceState::Stopped,
        Desired::Stopped | Desired::Running => match (available, redundant) {
            (Truth::True, Truth::True) => ServiceState::Healthy,
            (Truth::True, _) => ServiceState::Degraded,
            _ if !facts.service.bootstrapped => ServiceState::Creating,
            (Truth::Unknown, _) => ServiceState::Unknown,
            (Truth::False, _) => ServiceState::Unavailable,
        },
    }
}

/// The verdict; conditions whose status or reason has changed are recorded, with the time of the change.
pub(super) fn judge(facts: &Facts, plan: &mut Plan) {
    plan.verdict = Verdict::of(facts, &plan.waits);
    let recorded =
        |condition: &Condition| recorded(facts, condition).filter(|old| old.reason == condition.reason);
    let now = &plan.verdict.conditions;
    if !now.iter().all(|condition| recorded(condition).is_some()) {
        let conditions = now.iter().map(|now| recorded(now).unwrap_or(now).clone()).collect();
        plan.actions.push(Action::RecordConditions(conditions));
    }
}

/// Whether the service serves: every group by its topology's rule.
fn availability(facts: &Facts) -> Truth {
    let mut all = Truth::True;
    for group in facts.groups() {
        let counting = group.members.iter().filter(|(ordinal, ..)| *ordinal < group.group.may_count());
        let members: Vec<_> = counting.map(|(_, _, found)| *found).collect();
        let ready = members.iter().filter(|found| found.is_some_and(|member| member.counts())).count();
        let unknown = members
            .iter()
            .filter(|found| found.is_some_and(|member| member.status.is_none() && is_silent(facts, member)))
            .count();
        let (serves, could) = match facts.revision.blueprint.topology {
            Topology::Quorum => {
                let majority = members.len() / 2 + 1;
                (ready >= majority, ready + unknown >= majority)
            }
            Topology::Independent => (ready > 0, ready + unknown > 0),
            Topology::PrimaryReplicas => {
                let leader = group.role.and_then(|role| {
                    let found = group.members.iter().find(|(_, name, _)| role.leader.as_ref() == Some(name));
                    found.and_then(|(_, _, found)| *found).map(|found| (role, found))
                });
                let serves = leader.is_some_and(|(role, found)| leads(role, Some(found)));
                let could =
                    leader.is_some_and(|(_, found)| found.status.is_none() && is_silent(facts, found));
                (serves, serves || could)
            }
        };
        match (serves, could) {
            (true, _) => {}
            (false, true) => all = Truth::Unknown,
            (false, false) => return Truth::False,
        }
    }
    all
}

/// Whether the member's node has fallen silent, so that the member may well be serving.
fn is_silent(facts: &Facts, member: &MemberFacts) -> bool {
    member.record.placed_on.as_ref().is_some_and(|node| {
        facts
            .nodes
            .get(node)
            .is_none_or(|node| matches!(node.health, NodeHealth::Suspect | NodeHealth::Unknown))
    })
}

fn durability(facts: &Facts, available: Truth, ready: usize) -> Result<String, (Reason, String)> {
    let confirming = usize::try_from(facts.revision.blueprint.confirming_replicas).unwrap_or(usize::MAX);
    if confirming > 0 && available == Truth::True && ready < confirming.saturating_add(1) {
        return Err((
            Reason::SyncStandbyMissing,
            format!(
                "writes block: {confirming} replicas must confirm, and {} serve",
                ready.saturating_sub(1)
            ),
        ));
    }
    if available == Truth::False {
        return Err((Reason::RedundancyLost, "the service does not serve".to_owned()));
    }
    Ok(match confirming {
        0 => "an acknowledged write is on the primary's disk; replicas follow".to_owned(),
        confirming => format!("an acknowledged write is on the primary and {confirming} replicas"),
    })
}

/// Whether the service, placed as it is (or would be, over all nodes), survives the loss of any one zone.
///
/// # Errors
/// Why it does not.
pub fn zone_loss_safe(facts: &Facts) -> Result<String, (Reason, String)> {
    for group in facts.groups() {
        let mut zones: BTreeMap<&ZoneName, usize> = BTreeMap::new();
        // One that learns has no vote until it has caught up, and is asked for one as little as if it were away.
        let learns = |found: &MemberFacts| facts.revision.blueprint.learners && found.record.recloning;
        let learners = group.members.iter().filter(|(.., found)| found.is_some_and(learns)).count();
        for (_, _, found) in &group.members {
            let node =
                found.filter(|member| !learns(member)).and_then(|member| member.record.placed_on.as_ref());
            if let Some(node) = node.and_then(|node| facts.nodes.get(node)) {
                *zones.entry(&node.zone).or_default() += 1;
            }
        }
        let members = group.members.len();
        let Some((zone, most)) = zones.iter().max_by_key(|(_, count)| **count) else { continue };
        match facts.revision.blueprint.topology {
            Topology::Quorum if members - learners - most < members / 2 + 1 => {
                let learn =
                    if learners == 0 { String::new() } else { format!(", and {learners} have no vote yet") };
                return Err((
                    Reason::QuorumInOneZone,
                    format!(
                        "{most} of {members} voters are in zone {zone}{learn}: without it there is no quorum"
                    ),
                ));
            }
            Topology::PrimaryReplicas | Topology::Independent if *most == members => {
                return Err((Reason::RedundancyLost, format!("every member is in zone {zone}")));
            }
            Topology::Quorum | Topology::PrimaryReplicas | Topology::Independent => {}
        }
    }
    Ok("members are spread over zones".to_owned())
}

fn blocked(facts: &Facts, waits: &[Wait], none: Condition) -> Condition {
    if let Some(wait) = waits.first() {
        return Condition {
            status: Truth::True,
            reason: Some(wait.reason.clone()),
            message: wait.message.clone(),
            next_action: wait.next_action.clone(),
            ..none
        };
    }
    let member = facts.members.iter().find_map(|(name, member)| {
        let (reason, message) = member.status.as_ref()?.blocked.clone()?;
        Some((name, reason, message))
    });
    match member {
        Some((name, reason, message)) => Condition {
            status: Truth::True,
            reason: Some(reason),
            message: format!("{name}: {message}"),
            next_action: Some(format!("steadfast why {name}")),
            ..none
        },
        None => none,
    }
}
