//! Members: made, placed, replaced when their node is dead, stopped and removed.

use std::collections::BTreeMap;

use super::placement::{Bound, Placed, choose};
use super::{Action, Facts, MemberFacts, Plan, Stall, Wait, rebuild};
use crate::ids::{GroupName, MemberName, NodeName};
use crate::model::{Desired, Evidence, Holder, Member, MemberPhase, NodeHealth, Reason};
use crate::orchestrator::{Placement, Run, Workload};
use crate::volume::Reach;

/// Records for members that have none, then volumes and addresses for those that lack them.
pub(super) fn provision(facts: &Facts, plan: &mut Plan) {
    let mut placed = None;
    for group in facts.groups() {
        for (ordinal, member, found) in group.members {
            if group.group.is_removing(ordinal) {
                continue;
            }
            match found {
                Some(found) if is_of(facts, &found.record) => {
                    let known = found.record.zone.is_some() || facts.volumes_reach != Reach::Zone;
                    if known && !is_provisioned(facts, &found.record) {
                        plan.actions.push(Action::Provision { member });
                    }
                }
                _ => {
                    let placed = placed.get_or_insert_with(|| Placed::of(facts));
                    // One that comes back comes back to its volumes.
                    let kept = found.map(|found| &*found.record);
                    let kept = kept.filter(|record| record.service_id == facts.service.id);
                    let last_node = kept.and_then(|record| record.last_node.as_ref());
                    let bound = kept.and_then(|record| Bound::of(facts, record));
                    let node = choose(facts, placed, &member, group.name, last_node, bound).ok();
                    let early = |node: &NodeName| {
                        bound.is_none() && is_early(facts, placed, &member, group.name, node)
                    };
                    let node = node.filter(|node| !early(node));
                    if let Some(node) = &node {
                        placed.set(facts, member.clone(), group.name.clone(), node.clone());
                    }
                    let known = node.is_some() || facts.volumes_reach != Reach::Zone;
                    plan.actions.push(Action::CreateMember {
                        member: member.clone(),
                        group: group.name.clone(),
                        ordinal,
                        node,
                    });
                    if known {
                        plan.actions.push(Action::Provision { member });
                    }
                }
            }
        }
    }
}

/// Whether a record is of this very service, and not left by an earlier one of the same name.
fn is_of(facts: &Facts, record: &Member) -> bool {
    record.service_id == facts.service.id && record.phase != MemberPhase::Removed
}

/// Whether it is on its way out of a group that gets smaller.
fn is_removing(facts: &Facts, record: &Member) -> bool {
    facts.service.groups.get(&record.group).is_some_and(|group| group.is_removing(record.ordinal))
}

fn is_provisioned(facts: &Facts, record: &Member) -> bool {
    record.address.is_some()
        && record.volumes.len() == facts.revision.blueprint.volumes.len()
        && record.volumes.iter().all(|volume| volume.id.is_some() && !volume.lost)
}

/// A node for members that have none, and another for those whose node is dead, or starts them no more.
pub(super) fn place(facts: &Facts, plan: &mut Plan) {
    let mut placed = None;
    for (name, member) in &facts.members {
        let record = &member.record;
        if !is_of(facts, record) {
            continue;
        }
        if is_removing(facts, record) {
            if record.run {
                plan.actions.push(Action::SetRun { member: name.clone(), run: false });
            }
            continue;
        }
        if !record.run {
            plan.actions.push(Action::SetRun { member: name.clone(), run: true });
        }
        let bound = Bound::of(facts, record);
        if let Some(wait) = wait_for_disk(facts, member, bound) {
            plan.waits.push(wait);
            continue;
        }
        let (reason, message) = match &record.placed_on {
            None => (Reason::Created, "first placement".to_owned()),
            Some(node) if facts.is_dead(node) => {
                (Reason::NodeDead, format!("{node} is dead ({})", death_of(facts, node)))
            }
            Some(node) => match stranded(facts, member, node) {
                Some((stall, message)) if stall.lasting => (Reason::OrchestratorUnavailable, message),
                Some((_, message)) => {
                    plan.waits.push(Wait::new(Reason::OrchestratorUnavailable, message));
                    continue;
                }
                None => {
                    wait_for_silent(facts, member, node, plan);
                    continue;
                }
            },
        };
        if reason != Reason::Created
            && let Some(wait) = brake(facts)
        {
            plan.waits.push(wait);
            continue;
        }
        let placed = placed.get_or_insert_with(|| Placed::of(facts));
        match choose(facts, placed, name, &record.group, record.last_node.as_ref(), bound) {
            Ok(node)
                if reason == Reason::Created
                    && bound.is_none()
                    && is_early(facts, placed, name, &record.group, &node) =>
            {
                plan.waits.push(Wait::new(Reason::PlacementNone, early(facts, name, &node)));
            }
            Ok(node) => {
                placed.set(facts, name.clone(), record.group.clone(), node.clone());
                plan.actions.push(Action::Place {
                    member: name.clone(),
                    from: record.placed_on.clone(),
                    node,
                    reason,
                    message,
                });
            }
            Err(error) => plan
                .waits
                .push(Wait::new(Reason::PlacementNone, error.message).resolved_by("steadfast node list")),
        }
    }
}

/// Why a member stays where its volumes are: nobody else has them, whatever is proven of that node. What has ended on a
/// node that starts nothing waits as well. Where it is not placed yet it is placed there, once that node is ready.
fn wait_for_disk(facts: &Facts, member: &MemberFacts, bound: Option<Bound<'_>>) -> Option<Wait> {
    let Some(Bound::Node(disk)) = bound else { return None };
    let record = &member.record;
    if record.placed_on.as_ref() != Some(disk) || member.is_ready() {
        return None;
    }
    let silent = match facts.nodes.get(disk).map(|node| &node.health) {
        Some(NodeHealth::Ready | NodeHealth::Draining) => None,
        Some(NodeHealth::Dead(evidence)) => Some(format!("{disk} is dead ({evidence})")),
        Some(NodeHealth::Suspect | NodeHealth::Unknown) | None if member.status.is_none() => {
            Some(format!("{disk} is silent"))
        }
        Some(NodeHealth::Suspect | NodeHealth::Unknown) | None => None,
    };
    let why = silent.or_else(|| stranded(facts, member, disk).map(|(_, message)| message))?;
    let message =
        format!("the volumes of {} are on the disk of {disk}, and it waits for that: {why}", record.name);
    Some(Wait::new(Reason::PlacementNone, message).resolved_by(rebuild::remedy(facts, member, disk)))
}

fn death_of(facts: &Facts, node: &NodeName) -> String {
    match facts.nodes.get(node).map(|node| &node.health) {
        Some(NodeHealth::Dead(evidence)) => evidence.to_string(),
        _ => "unknown".to_owned(),
    }
}

/// A member whose engine has ended on a node that starts nothing. What runs there is left alone. Its agent lives, and
/// gives back itself what it holds as soon as the member is placed elsewhere: no lease is needed.
fn stranded<'a>(facts: &'a Facts, member: &MemberFacts, node: &NodeName) -> Option<(&'a Stall, String)> {
    let stall = facts.nodes.get(node)?.stall.as_ref().filter(|_| member.has_ended())?;
    let name = &member.record.name;
    Some((stall, format!("{node} starts nothing ({}), and nothing of {name} runs there any more", stall.why)))
}

/// What keeps everything unplanned where it is.
fn brake(facts: &Facts) -> Option<Wait> {
    facts.pause("nothing is moved").or_else(|| {
        facts.storm_brake().then(|| {
            Wait::new(
                Reason::StormBrake,
                format!(
                    "more than {} % of the nodes are unknown: nothing is moved",
                    facts.timers.storm_brake_percent
                ),
            )
            .resolved_by("steadfast node list")
        })
    })
}

/// A member on a node that has fallen silent, with nothing proven, stays where it is.
fn wait_for_silent(facts: &Facts, member: &MemberFacts, node: &NodeName, plan: &mut Plan) {
    let silent = facts.nodes.get(node).is_none_or(|node| {
        matches!(node.health, NodeHealth::Suspect | NodeHealth::Unknown | NodeHealth::Dead(_))
    });
    if silent && member.status.is_none() {
        plan.waits.push(
            Wait::new(
                Reason::FenceUnproven,
                format!(
                    "{node} is silent and not proven dead: {} may still be writing there",
                    member.record.name
                ),
            )
            .resolved_by(format!("steadfast node confirm-dead {node}")),
        );
    }
}

/// The workload as it follows from the records. Given in full every time; the orchestrator writes differences.
pub(super) fn apply_workload(facts: &Facts, plan: &mut Plan) {
    if facts.service.desired != Desired::Running && all_released(facts) {
        return;
    }
    let planned: BTreeMap<&MemberName, &NodeName> = plan
        .actions
        .iter()
        .filter_map(|action| match action {
            Action::Place { member, node, .. } => Some((member, node)),
            _ => None,
        })
        .collect();
    let placements = facts
        .members
        .values()
        .filter(|member| is_of(facts, &member.record))
        .filter_map(|member| placement(facts, member, planned.get(&member.record.name).copied()))
        .collect();
    plan.actions.push(Action::Apply(Workload { service: facts.service.name.clone(), placements }));
}

/// Whether a member would be put beside another of its group for no other reason than that this server has only begun
/// to listen: the first node to be heard of a cluster that has just been started would get all of them. A volume that
/// is bound to its zone, or to its node, would keep it there for good.
fn is_early(facts: &Facts, placed: &Placed, member: &MemberName, group: &GroupName, node: &NodeName) -> bool {
    facts.listened_for < facts.timers.first_look
        && placed.is_beside(facts, member, group, node, facts.volumes_reach == Reach::Zone)
}

fn early(facts: &Facts, member: &MemberName, node: &NodeName) -> String {
    let patience = facts.timers.first_look.as_secs();
    format!(
        "{member} would be put together with another member, at {node}: nodes get {patience} s to be heard of first"
    )
}

/// Where a member shall run, given where the plan places it now.
fn placement(facts: &Facts, member: &MemberFacts, planned: Option<&NodeName>) -> Option<Placement> {
    let record = &member.record;
    let node = planned.or(record.placed_on.as_ref())?.clone();
    let wanted = facts.service.desired == Desired::Running && !is_removing(facts, record);
    let run = wanted && is_provisioned(facts, record);
    if run || record.unreleased.iter().any(|holder| holder.node == node) {
        Some(Placement {
            member: record.name.clone(),
            revision: record.revision,
            node,
            run: if run { Run::Started } else { Run::Stopped },
            generation: record.generation,
        })
    } else {
        None
    }
}

/// Every member is told to stop.
pub(super) fn stop(facts: &Facts, plan: &mut Plan) {
    for (name, member) in &facts.members {
        if is_of(facts, &member.record) && member.record.run {
            plan.actions.push(Action::SetRun { member: name.clone(), run: false });
        }
    }
}

/// A dead holder gives nothing back itself.
pub(super) fn release_from_the_dead(facts: &Facts, plan: &mut Plan) {
    let goes = |record: &Member| facts.service.desired != Desired::Running || is_removing(facts, record);
    for (name, member) in facts.own_members().filter(|(_, member)| goes(&member.record)) {
        for holder in &member.record.unreleased {
            match evidence_of_death(facts, holder) {
                Some(evidence) => plan.actions.push(Action::ReleaseFor {
                    member: name.clone(),
                    holder: holder.clone(),
                    evidence,
                }),
                None if !facts
                    .nodes
                    .get(&holder.node)
                    .is_some_and(|node| node.health == NodeHealth::Ready) =>
                {
                    plan.waits.push(
                        Wait::new(
                            Reason::FenceUnproven,
                            format!(
                                "{holder} is silent and not proven dead: {name} may still be writing there"
                            ),
                        )
                        .resolved_by(format!("steadfast node confirm-dead {}", holder.node)),
                    );
                }
                None => {}
            }
        }
    }
}

pub(super) fn evidence_of_death(facts: &Facts, holder: &Holder) -> Option<Evidence> {
    let node = facts.nodes.get(&holder.node)?;
    if node.incarnation != holder.incarnation {
        return Some(Evidence::NodeProvenDead);
    }
    match &node.health {
        NodeHealth::Dead(evidence) if facts.is_dead(&holder.node) => Some(*evidence),
        _ => None,
    }
}

/// Whether no node holds anything of the service any more.
pub(super) fn all_released(facts: &Facts) -> bool {
    facts
        .members
        .values()
        .filter(|member| member.record.service_id == facts.service.id)
        .all(|member| !member.record.run && member.record.unreleased.is_empty())
}

/// Names, addresses and the volumes that are not kept, then the service itself.
pub(super) fn remove(facts: &Facts, plan: &mut Plan) {
    let mut left = false;
    for (name, member) in &facts.members {
        if member.record.service_id == facts.service.id && member.record.phase != MemberPhase::Removed {
            left = true;
            plan.actions.push(Action::RemoveMember { member: name.clone() });
        }
    }
    if !left && !facts.service.deleted {
        super::names::make_sure_of_withdrawal(facts, plan);
        plan.actions.push(Action::RemoveWorkload);
        plan.actions.push(Action::MarkDeleted);
    }
}
