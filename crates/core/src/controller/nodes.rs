//! The nodes as one process sees them, with the age of what it saw on its own clock.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use crate::ids::{MemberName, NodeName};
use crate::model::{MemberStatus, NodeHealth, NodeStatus};
use crate::orchestrator::NodeReport;
use crate::plan::NodeFacts;
use crate::runtime::Moment;

/// A node, as last seen.
#[derive(Debug, Clone)]
pub struct SeenNode {
    /// What the orchestrator says.
    pub report: NodeReport,
    /// What its agent said last.
    pub status: Option<NodeStatus>,
    /// When this process first saw that.
    pub changed_at: Moment,
    /// The health that follows: silence for longer than the lease makes `Suspect`.
    pub health: NodeHealth,
}

/// Every node, as last seen. A new table is made with every look.
#[derive(Debug, Clone, Default)]
pub struct NodeTable {
    /// The nodes by name.
    pub nodes: BTreeMap<NodeName, SeenNode>,
}

impl NodeTable {
    /// The table after another look.
    pub fn updated(
        &self,
        reports: Vec<NodeReport>,
        mut statuses: BTreeMap<NodeName, NodeStatus>,
        now: Moment,
    ) -> NodeTable {
        let nodes = reports
            .into_iter()
            .map(|report| {
                let status = statuses.remove(&report.node).filter(|s| s.incarnation == report.incarnation);
                let before = self.nodes.get(&report.node);
                let same = before.is_some_and(|before| {
                    before.status.as_ref().map(|s| (&s.incarnation, s.beat))
                        == status.as_ref().map(|s| (&s.incarnation, s.beat))
                });
                let changed_at = before.filter(|_| same).map_or(now, |before| before.changed_at);
                let lease = Duration::from_millis(status.as_ref().map_or(0, |status| status.lease_ms));
                let health = match &report.health {
                    NodeHealth::Ready | NodeHealth::Draining if status.is_none() => NodeHealth::Unknown,
                    NodeHealth::Ready | NodeHealth::Draining if now.since(changed_at) > lease => {
                        NodeHealth::Suspect
                    }
                    health => health.clone(),
                };
                (report.node.clone(), SeenNode { report, status, changed_at, health })
            })
            .collect();
        NodeTable { nodes }
    }

    /// The members that another look shows differently: their node's health, or what it says of them.
    pub fn differs(&self, other: &NodeTable) -> BTreeSet<MemberName> {
        let mut changed = BTreeSet::new();
        for (name, node) in &other.nodes {
            let before = self.nodes.get(name);
            let health_differs = before.is_none_or(|before| {
                before.health != node.health || before.report.incarnation != node.report.incarnation
            });
            let old = before.and_then(|before| before.status.as_ref()).map(|status| &status.members);
            let new = node.status.as_ref().map(|status| &status.members);
            for member in old.into_iter().chain(new).flat_map(|members| members.keys()) {
                let differs = health_differs
                    || !alike(old.and_then(|old| old.get(member)), new.and_then(|new| new.get(member)));
                if differs {
                    changed.insert(member.clone());
                }
            }
        }
        changed
    }

    /// Whether any node's health or life differs, which may concern members that no status names.
    pub fn health_differs(&self, other: &NodeTable) -> bool {
        self.nodes.len() != other.nodes.len()
            || self.nodes.iter().zip(&other.nodes).any(|((name, node), (other_name, other))| {
                name != other_name
                    || node.health != other.health
                    || node.report.incarnation != other.report.incarnation
            })
    }

    /// What is fresh about a member: what a ready node's agent says of it.
    pub fn fresh(&self, node: &NodeName, member: &MemberName) -> Option<&MemberStatus> {
        let node = self.nodes.get(node)?;
        matches!(node.health, NodeHealth::Ready | NodeHealth::Draining)
            .then(|| node.status.as_ref()?.members.get(member))
            .flatten()
    }

    /// The nodes as facts, with the number of members placed on each.
    pub fn facts(&self, placed: &BTreeMap<NodeName, usize>) -> Arc<BTreeMap<NodeName, NodeFacts>> {
        let facts = self.nodes.iter().map(|(name, node)| {
            let facts = NodeFacts {
                zone: node.report.zone.clone(),
                incarnation: node.report.incarnation.clone(),
                health: node.health.clone(),
                members: placed.get(name).copied().unwrap_or_default(),
                engines: node.report.engines.clone(),
            };
            (name.clone(), facts)
        });
        Arc::new(facts.collect())
    }
}

/// Whether two statuses mean the same to a plan. Positions and lags move all the time: they count only in an
/// election, where the plan asks for a look of its own accord.
fn alike(old: Option<&MemberStatus>, new: Option<&MemberStatus>) -> bool {
    if old == new {
        return true;
    }
    let essence = |status: &MemberStatus| MemberStatus { position: None, lag: None, ..status.clone() };
    old.map(essence) == new.map(essence)
}
