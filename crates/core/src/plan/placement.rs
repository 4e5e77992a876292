//! Placement: which node a member goes to.

use std::collections::BTreeMap;

use super::Facts;
use crate::ids::{GroupName, MemberName, NodeName, ZoneName};
use crate::model::{NodeHealth, Spread};

/// Why no node can take a member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlacementError {
    /// In words, with what each kind of node lacks.
    pub message: String,
}

/// What has been decided in this plan already: where members are, or will be.
#[derive(Debug, Default)]
pub(super) struct Placed {
    members: BTreeMap<MemberName, (GroupName, NodeName)>,
}

impl Placed {
    pub(super) fn of(facts: &Facts) -> Self {
        let members = facts
            .members
            .iter()
            .filter_map(|(name, member)| {
                let node = member.record.placed_on.clone()?;
                Some((name.clone(), (member.record.group.clone(), node)))
            })
            .collect();
        Placed { members }
    }

    pub(super) fn set(&mut self, member: MemberName, group: GroupName, node: NodeName) {
        self.members.insert(member, (group, node));
    }

    /// How many other members of the group are on the node, and in its zone; and of the service on the node.
    fn crowd(
        &self,
        facts: &Facts,
        member: &MemberName,
        group: &GroupName,
        node: &NodeName,
        zone: &ZoneName,
    ) -> Crowd {
        let mut crowd = Crowd::default();
        for (_, (other_group, other_node)) in self.members.iter().filter(|(name, _)| *name != member) {
            // Members on dead nodes are on their way elsewhere.
            if facts.is_dead(other_node) {
                continue;
            }
            let same_node = other_node == node;
            crowd.service_on_node += usize::from(same_node);
            if other_group == group {
                crowd.group_on_node += usize::from(same_node);
                let in_zone = facts.nodes.get(other_node).is_some_and(|other| &other.zone == zone);
                crowd.group_in_zone += usize::from(in_zone);
            }
        }
        crowd
    }
}

#[derive(Debug, Default)]
struct Crowd {
    group_in_zone: usize,
    group_on_node: usize,
    service_on_node: usize,
}

/// The node for `member`: ready, with the engine, in the volume's zone if volumes are bound to one; then the
/// fewest of its group in the zone and on the node, its last node first, the fewest members of all, the first
/// by name.
///
/// # Errors
/// If no node can take it, with the reasons.
pub fn choose_node(
    facts: &Facts,
    member: &MemberName,
    group: &GroupName,
    last_node: Option<&NodeName>,
    zone: Option<&ZoneName>,
) -> Result<NodeName, PlacementError> {
    choose(facts, &Placed::of(facts), member, group, last_node, zone)
}

pub(super) fn choose(
    facts: &Facts,
    placed: &Placed,
    member: &MemberName,
    group: &GroupName,
    last_node: Option<&NodeName>,
    zone: Option<&ZoneName>,
) -> Result<NodeName, PlacementError> {
    let engine = facts.revision.blueprint.name.as_str();
    let mut not_ready = 0;
    let mut without_engine = 0;
    let mut in_other_zone = 0;
    let best = facts
        .nodes
        .iter()
        .filter(|(_, node)| {
            let ready = node.health == NodeHealth::Ready;
            let has_engine = node.engines.is_empty() || node.engines.contains_key(engine);
            let in_zone = zone.is_none_or(|zone| &node.zone == zone);
            not_ready += usize::from(!ready);
            without_engine += usize::from(ready && !has_engine);
            in_other_zone += usize::from(ready && has_engine && !in_zone);
            ready && has_engine && in_zone
        })
        .min_by_key(|(name, node)| {
            let crowd = placed.crowd(facts, member, group, name, &node.zone);
            let spread = match facts.revision.spec.placement.spread {
                Spread::Zone => (crowd.group_in_zone, crowd.group_on_node),
                Spread::Node => (crowd.group_on_node, crowd.group_in_zone),
            };
            (spread, last_node != Some(*name), crowd.service_on_node, node.members, (*name).clone())
        });
    best.map(|(name, _)| name.clone()).ok_or_else(|| PlacementError {
        message: format!(
            "no node can take {member}: of {} nodes {not_ready} are not ready, {without_engine} lack {engine}, \
             {in_other_zone} are in another zone than its volume",
            facts.nodes.len()
        ),
    })
}
