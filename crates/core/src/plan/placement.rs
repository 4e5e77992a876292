//! Placement: which node a member goes to.

use std::collections::BTreeMap;

use super::{Facts, NodeFacts};
use crate::ids::{GroupName, MemberName, NodeName, ZoneName};
use crate::model::{Member, NodeHealth, Spread};
use crate::volume::Reach;

/// Where a member cannot leave, since its volumes are there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bound<'a> {
    /// Its volumes reach the nodes of one zone.
    Zone(&'a ZoneName),
    /// They lie on the disk of one node.
    Node(&'a NodeName),
}

impl<'a> Bound<'a> {
    /// What binds a member, as far as its record tells.
    pub fn of(facts: &Facts, record: &'a Member) -> Option<Self> {
        match facts.volumes_reach {
            Reach::Node => record.disk().map(Bound::Node),
            Reach::Zone => record.zone.as_ref().map(Bound::Zone),
            Reach::Cluster => None,
        }
    }

    fn allows(self, node: &NodeName, facts: &NodeFacts) -> bool {
        match self {
            Bound::Zone(zone) => &facts.zone == zone,
            Bound::Node(own) => node == own,
        }
    }

    fn text(bound: Option<Self>) -> String {
        match bound {
            Some(Bound::Node(own)) => format!("do not have its volume, which is on the disk of {own}"),
            Some(Bound::Zone(_)) | None => "are in another zone than its volume".to_owned(),
        }
    }
}

/// Why no node can take a member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlacementError {
    /// In words, with what each kind of node lacks.
    pub message: String,
}

/// Where members are, or will be as this plan has decided already: counted, so that placing hundreds of members is
/// no work of hundreds squared.
#[derive(Debug, Default)]
pub(super) struct Placed {
    of_member: BTreeMap<MemberName, (GroupName, NodeName)>,
    group_on_node: BTreeMap<(GroupName, NodeName), usize>,
    group_in_zone: BTreeMap<(GroupName, ZoneName), usize>,
    service_on_node: BTreeMap<NodeName, usize>,
}

impl Placed {
    pub(super) fn of(facts: &Facts) -> Self {
        let mut placed = Placed::default();
        for (name, member) in &facts.members {
            // Members on dead nodes are on their way elsewhere, but for those whose volume is there.
            let stays = |node: &NodeName| Bound::of(facts, &member.record) == Some(Bound::Node(node));
            let there = |node: &NodeName| !facts.is_dead(node) || stays(node);
            if let Some(node) = member.record.placed_on.clone().filter(there) {
                placed.set(facts, name.clone(), member.record.group.clone(), node);
            }
        }
        placed
    }

    pub(super) fn set(&mut self, facts: &Facts, member: MemberName, group: GroupName, node: NodeName) {
        if let Some((old_group, old_node)) = self.of_member.insert(member, (group.clone(), node.clone())) {
            self.count(facts, &old_group, &old_node, |count| *count = count.saturating_sub(1));
        }
        self.count(facts, &group, &node, |count| *count += 1);
    }

    fn count(&mut self, facts: &Facts, group: &GroupName, node: &NodeName, change: impl Fn(&mut usize)) {
        change(self.group_on_node.entry((group.clone(), node.clone())).or_default());
        change(self.service_on_node.entry(node.clone()).or_default());
        if let Some(facts) = facts.nodes.get(node) {
            change(self.group_in_zone.entry((group.clone(), facts.zone.clone())).or_default());
        }
    }

    /// Whether another member of the group is on the node, or in its zone if that counts, too.
    pub(super) fn is_beside(
        &self,
        facts: &Facts,
        member: &MemberName,
        group: &GroupName,
        node: &NodeName,
        by_zone: bool,
    ) -> bool {
        let Some(found) = facts.nodes.get(node) else { return false };
        let crowd = self.crowd(facts, member, group, node, &found.zone);
        crowd.group_on_node > 0 || by_zone && crowd.group_in_zone > 0
    }

    /// How many of the group are in the zone and on the node, and of the service on the node, but for `member`.
    fn crowd(
        &self,
        facts: &Facts,
        member: &MemberName,
        group: &GroupName,
        node: &NodeName,
        zone: &ZoneName,
    ) -> Crowd {
        let count = |found: Option<&usize>| found.copied().unwrap_or_default();
        let mut crowd = Crowd {
            group_in_zone: count(self.group_in_zone.get(&(group.clone(), zone.clone()))),
            group_on_node: count(self.group_on_node.get(&(group.clone(), node.clone()))),
            service_on_node: count(self.service_on_node.get(node)),
        };
        if let Some((own_group, own_node)) = self.of_member.get(member) {
            let own_zone = facts.nodes.get(own_node).map(|facts| &facts.zone);
            crowd.group_in_zone -= usize::from(own_group == group && own_zone == Some(zone));
            crowd.group_on_node -= usize::from(own_group == group && own_node == node);
            crowd.service_on_node -= usize::from(own_node == node);
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

/// The node for `member`: ready, one that starts engines, with this one, in reach of its volumes; then the
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
    bound: Option<Bound<'_>>,
) -> Result<NodeName, PlacementError> {
    choose(facts, &Placed::of(facts), member, group, last_node, bound)
}

pub(super) fn choose(
    facts: &Facts,
    placed: &Placed,
    member: &MemberName,
    group: &GroupName,
    last_node: Option<&NodeName>,
    bound: Option<Bound<'_>>,
) -> Result<NodeName, PlacementError> {
    let engine = facts.revision.blueprint.name.as_str();
    let mut not_ready = 0;
    let mut stalled = 0;
    let mut without_engine = 0;
    let mut out_of_reach = 0;
    let best = facts
        .nodes
        .iter()
        .filter(|(name, node)| {
            let alive = node.health == NodeHealth::Ready;
            let ready = alive && node.stall.is_none();
            let has_engine = node.engines.is_empty() || node.engines.contains_key(engine);
            let in_reach = bound.is_none_or(|bound| bound.allows(name, node));
            not_ready += usize::from(!alive);
            stalled += usize::from(alive && !ready);
            without_engine += usize::from(ready && !has_engine);
            out_of_reach += usize::from(ready && has_engine && !in_reach);
            ready && has_engine && in_reach
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
            "no node can take {member}: of {} nodes {not_ready} are not ready, {stalled} start nothing, \
             {without_engine} lack {engine}, {out_of_reach} {}",
            facts.nodes.len(),
            Bound::text(bound)
        ),
    })
}
