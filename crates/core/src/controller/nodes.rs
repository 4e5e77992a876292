//! The nodes as one process sees them, with the age of what it saw on its own clock.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use crate::ids::{Epoch, MemberName, NodeName};
use crate::model::{Evidence, Member, MemberStatus, NodeHealth, NodeStatus};
use crate::orchestrator::NodeReport;
use crate::plan::{NodeFacts, Stall};
use crate::runtime::Moment;

/// A node, as last seen.
#[derive(Debug, Clone)]
pub struct SeenNode {
    /// What the orchestrator says.
    pub report: NodeReport,
    /// What its agent said last.
    pub status: Option<Arc<NodeStatus>>,
    /// When this process first saw that.
    pub changed_at: Moment,
    /// The health that follows: silence for longer than the lease makes `Suspect`.
    pub health: NodeHealth,
    /// Since when nothing could be started on it.
    pub stalled_since: Option<Moment>,
    /// What follows of that.
    pub stall: Option<Stall>,
}

impl SeenNode {
    /// How long ago something new was heard of it, in milliseconds; none if nothing ever was.
    pub fn age(&self, now: Moment) -> Option<u64> {
        self.status.as_ref()?;
        Some(u64::try_from(now.since(self.changed_at).as_millis()).unwrap_or(u64::MAX))
    }

    /// Whether its agent's word counts.
    fn is_heard(&self) -> bool {
        matches!(self.health, NodeHealth::Ready | NodeHealth::Draining)
    }

    /// Why nothing is started on it. Its own agent knows sooner than anybody, and nobody else that it is well again.
    fn stalled(&self) -> Option<String> {
        let said =
            self.status.as_ref().filter(|_| self.is_heard()).and_then(|status| status.stalled.as_ref());
        said.map(|why| format!("its agent says: {why}")).or_else(|| self.report.stalled.clone())
    }

    /// How long its agent's word counts.
    fn lease(&self) -> Duration {
        Duration::from_millis(self.status.as_ref().map_or(0, |status| status.lease_ms))
    }

    /// The node if nothing more is heard of it until `now`.
    fn aged(mut self, now: Moment) -> SeenNode {
        if self.is_heard() && self.status.is_none() {
            self.health = NodeHealth::Unknown;
        } else if self.is_heard() && now.since(self.changed_at) > self.lease() {
            self.health = NodeHealth::Suspect;
        }
        self
    }
}

/// Whose word counts for a member: its node's, about the present epoch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Whereabouts {
    /// The member.
    pub member: MemberName,
    /// The node that it is placed on, or was.
    pub node: Option<NodeName>,
    /// The epoch of its record.
    pub epoch: Epoch,
}

impl Whereabouts {
    /// Where a record has the member.
    pub fn of(record: &Member) -> Self {
        let holder = record.holder.as_ref().map(|holder| &holder.node);
        let node = record.placed_on.as_ref().or(holder).cloned();
        Whereabouts { member: record.name.clone(), node, epoch: record.epoch }
    }
}

/// Every node, as last seen. A new table is made with every look.
#[derive(Debug, Clone, Default)]
pub struct NodeTable {
    /// The nodes by name.
    pub nodes: BTreeMap<NodeName, SeenNode>,
}

impl NodeTable {
    /// The table after another look. What has lasted for `stall_patience` is a lasting [`Stall`].
    pub fn updated(
        &self,
        reports: Vec<NodeReport>,
        mut statuses: BTreeMap<NodeName, Arc<NodeStatus>>,
        now: Moment,
        stall_patience: Duration,
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
                let health = report.health.clone();
                let node = SeenNode { report, status, changed_at, health, stalled_since: None, stall: None }
                    .aged(now);
                let why = node.stalled();
                let since = before.and_then(|before| before.stalled_since).unwrap_or(now);
                let stalled_since = why.as_ref().map(|_| since);
                let stall = why.map(|why| Stall { why, lasting: now.since(since) >= stall_patience });
                (node.report.node.clone(), SeenNode { stalled_since, stall, ..node })
            })
            .collect();
        NodeTable { nodes }
    }

    /// The table if nothing more is heard until `now`.
    pub fn aged(&self, now: Moment) -> NodeTable {
        let nodes = self.nodes.iter().map(|(name, node)| (name.clone(), node.clone().aged(now)));
        NodeTable { nodes: nodes.collect() }
    }

    /// Until when the health that is seen holds if nothing more is heard: the end of the first lease of a node that
    /// counts as heard.
    pub fn holds_until(&self) -> Option<Moment> {
        let heard = self.nodes.values().filter(|node| node.is_heard());
        heard.map(|node| node.changed_at.plus(node.lease())).min()
    }

    /// How long nothing changes here but by what the nodes write, if their health is that of their leases: until the
    /// first of them is half over. What is silent is looked at again after a thirty-second of its silence, so that what
    /// comes of it is known quickly at first, and a node that is away for long costs little.
    pub fn settled_for(&self, now: Moment) -> Duration {
        let proven = |health: &NodeHealth| matches!(health, NodeHealth::Dead(evidence) if *evidence != Evidence::LeaseExpired);
        let due = self.nodes.values().filter(|node| !proven(&node.health)).map(|node| {
            let silence = now.since(node.changed_at);
            (node.lease() / 2).checked_sub(silence).filter(|left| !left.is_zero()).unwrap_or(silence / 32)
        });
        due.min().unwrap_or(Duration::MAX)
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

    /// Whether any node's health or life differs, or whether it starts anything: members that no status names may be
    /// concerned.
    pub fn health_differs(&self, other: &NodeTable) -> bool {
        self.nodes.len() != other.nodes.len()
            || self.nodes.iter().zip(&other.nodes).any(|((name, node), (other_name, other))| {
                name != other_name
                    || node.health != other.health
                    || node.stall != other.stall
                    || node.report.incarnation != other.report.incarnation
            })
    }

    /// Whether another look shows the same to a plan, apart from what agents say of members.
    pub(super) fn has_the_facts_of(&self, other: &NodeTable) -> bool {
        let same = |(mine, its): (&SeenNode, &SeenNode)| {
            mine.report == its.report && (&mine.health, &mine.stall) == (&its.health, &its.stall)
        };
        self.nodes.len() == other.nodes.len() && self.nodes.values().zip(other.nodes.values()).all(same)
    }

    /// What is fresh about a member: what a ready node's agent says of it.
    pub fn fresh(&self, node: &NodeName, member: &MemberName) -> Option<&MemberStatus> {
        let node = self.nodes.get(node).filter(|node| node.is_heard())?;
        node.status.as_ref()?.members.get(member)
    }

    /// What is fresh about a member and about its present epoch.
    pub fn said(&self, of: &Whereabouts) -> Option<&MemberStatus> {
        self.fresh(of.node.as_ref()?, &of.member).filter(|status| status.epoch == of.epoch)
    }

    /// The age of what is known of a node, in milliseconds ([`SeenNode::age`]).
    pub fn age(&self, node: &NodeName, now: Moment) -> Option<u64> {
        self.nodes.get(node)?.age(now)
    }

    /// The nodes as facts, with the number of members placed on each.
    pub fn facts(&self, placed: &BTreeMap<NodeName, usize>) -> Arc<BTreeMap<NodeName, NodeFacts>> {
        let facts = self.nodes.iter().map(|(name, node)| {
            let facts = NodeFacts {
                zone: node.report.zone.clone(),
                incarnation: node.report.incarnation.clone(),
                health: node.health.clone(),
                stall: node.stall.clone(),
                members: placed.get(name).copied().unwrap_or_default(),
                engines: node.report.engines.clone(),
            };
            (name.clone(), facts)
        });
        Arc::new(facts.collect())
    }
}

/// Whether two statuses mean the same to a plan.
fn alike(old: Option<&MemberStatus>, new: Option<&MemberStatus>) -> bool {
    match (old, new) {
        (Some(old), Some(new)) => old.means_the_same(new),
        (None, None) => true,
        (Some(_), None) | (None, Some(_)) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(health: NodeHealth, lease_s: u64, changed_at: Moment) -> SeenNode {
        let node: NodeName = "n1".parse().unwrap();
        let incarnation: crate::ids::Incarnation = "i1".parse().unwrap();
        let status = NodeStatus {
            node: node.clone(),
            incarnation: incarnation.clone(),
            beat: 1,
            lease_ms: lease_s * 1_000,
            members: BTreeMap::new(),
            stalled: None,
            version: String::new(),
        };
        let report = NodeReport {
            node,
            zone: "a".parse().unwrap(),
            incarnation,
            health: health.clone(),
            stalled: None,
            labels: BTreeMap::new(),
            engines: BTreeMap::new(),
        };
        SeenNode {
            report,
            status: Some(Arc::new(status)),
            changed_at,
            health,
            stalled_since: None,
            stall: None,
        }
    }

    fn at(seconds: u64) -> Moment {
        Moment::from_zero(Duration::from_secs(seconds))
    }

    #[test]
    fn a_word_counts_for_a_lease_whether_or_not_there_is_another_look() {
        let mut table = NodeTable::default();
        table.nodes.insert("n1".parse().unwrap(), seen(NodeHealth::Ready, 6, at(10)));
        table.nodes.insert("n2".parse().unwrap(), seen(NodeHealth::Draining, 60, at(10)));
        table.nodes.insert("n3".parse().unwrap(), seen(NodeHealth::Dead(Evidence::NodeProvenDead), 6, at(1)));
        assert_eq!(table.holds_until(), Some(at(16)));
        assert!(!table.health_differs(&table.aged(at(16))));
        let aged = table.aged(at(17));
        let health = |name: &str| aged.nodes[&name.parse::<NodeName>().unwrap()].health.clone();
        assert_eq!(health("n1"), NodeHealth::Suspect);
        assert_eq!(health("n2"), NodeHealth::Draining);
        assert_eq!(health("n3"), NodeHealth::Dead(Evidence::NodeProvenDead));
        assert_eq!(aged.holds_until(), Some(at(70)));
    }

    #[test]
    fn a_look_is_due_when_the_first_lease_is_half_over() {
        let mut table = NodeTable::default();
        assert_eq!(table.settled_for(at(0)), Duration::MAX);
        table.nodes.insert("n1".parse().unwrap(), seen(NodeHealth::Ready, 6, at(10)));
        table.nodes.insert("n2".parse().unwrap(), seen(NodeHealth::Ready, 60, at(10)));
        assert_eq!(table.settled_for(at(11)), Duration::from_secs(2));
    }

    #[test]
    fn what_is_silent_is_looked_at_again_and_again_and_what_is_dead_is_not() {
        let mut table = NodeTable::default();
        table.nodes.insert("n1".parse().unwrap(), seen(NodeHealth::Suspect, 6, at(0)));
        assert_eq!(table.settled_for(at(8)), Duration::from_millis(250));
        assert_eq!(table.settled_for(at(320)), Duration::from_secs(10));
        let by_lease = NodeHealth::Dead(Evidence::LeaseExpired);
        table.nodes.insert("n1".parse().unwrap(), seen(by_lease, 6, at(0)));
        assert_eq!(table.settled_for(at(320)), Duration::from_secs(10), "it may be back");
        let proven = NodeHealth::Dead(Evidence::NodeProvenDead);
        table.nodes.insert("n1".parse().unwrap(), seen(proven, 6, at(0)));
        assert_eq!(table.settled_for(at(320)), Duration::MAX);
    }

    #[test]
    fn a_stall_lasts_from_when_it_was_first_seen_and_is_news_when_it_has_lasted() {
        let report = |stalled: Option<&str>| NodeReport {
            stalled: stalled.map(str::to_owned),
            ..seen(NodeHealth::Ready, 6, at(0)).report
        };
        let patience = Duration::from_secs(15);
        let look = |table: &NodeTable, stalled: Option<&str>, second: u64| {
            table.updated(vec![report(stalled)], BTreeMap::new(), at(second), patience)
        };
        let lasting =
            |table: &NodeTable| table.nodes.values().next().unwrap().stall.as_ref().map(|s| s.lasting);
        let well = look(&NodeTable::default(), None, 0);
        assert_eq!(lasting(&well), None);
        let begun = look(&well, Some("down"), 10);
        assert_eq!(lasting(&begun), Some(false));
        assert!(well.health_differs(&begun));
        let later = look(&begun, Some("down"), 24);
        assert_eq!(lasting(&later), Some(false));
        assert!(!begun.health_differs(&later));
        let lasted = look(&later, Some("down"), 25);
        assert_eq!(lasting(&lasted), Some(true));
        assert!(later.health_differs(&lasted));
        let over = look(&lasted, None, 26);
        assert_eq!((lasting(&over), lasting(&look(&over, Some("down"), 60))), (None, Some(false)));
    }

    #[test]
    fn an_agent_says_itself_that_nothing_is_started_there_for_as_long_as_it_is_heard() {
        let node = seen(NodeHealth::Ready, 6, at(0));
        let said = |beat: u64, stalled: Option<&str>| NodeStatus {
            beat,
            stalled: stalled.map(str::to_owned),
            ..NodeStatus::clone(node.status.as_ref().unwrap())
        };
        let look = |table: &NodeTable, by_swarm: Option<&str>, status: NodeStatus, second: u64| {
            let report = NodeReport { stalled: by_swarm.map(str::to_owned), ..node.report.clone() };
            let statuses = BTreeMap::from([(report.node.clone(), Arc::new(status))]);
            table.updated(vec![report], statuses, at(second), Duration::from_secs(15))
        };
        let stall = |table: &NodeTable| {
            let stall = table.nodes.values().next().unwrap().stall.clone();
            stall.map(|stall| (stall.why, stall.lasting))
        };
        let told = |why: &str, lasting| Some((why.to_owned(), lasting));
        let begun = look(&NodeTable::default(), None, said(1, Some("its engine is dead")), 10);
        assert_eq!(stall(&begun), told("its agent says: its engine is dead", false));
        // The swarm comes to know it, too: that is no other stall.
        let both = look(&begun, Some("down"), said(2, Some("its engine is dead")), 20);
        assert_eq!(stall(&both), told("its agent says: its engine is dead", false));
        let only_swarm = look(&both, Some("down"), said(3, None), 25);
        assert_eq!(stall(&only_swarm), told("down", true), "it has lasted since it was first said");
        // An agent that has fallen silent says nothing any more.
        let again = look(&NodeTable::default(), None, said(4, Some("its engine is dead")), 40);
        assert!(stall(&again).is_some());
        assert_eq!(stall(&look(&again, None, said(4, Some("its engine is dead")), 47)), None);
    }
}
