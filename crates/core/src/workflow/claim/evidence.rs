//! Evidence: what proves that an earlier holder of a member cannot write any more.

use crate::ids::{Incarnation, NodeName};
use crate::model::{Evidence, Holder, NodeHealth, NodeRecord};
use crate::orchestrator::NodeReport;
use crate::planted::{self, Planted};

/// What is known of an earlier holder.
#[derive(Debug, Clone, Copy)]
pub struct HolderState<'a> {
    /// The holder.
    pub holder: &'a Holder,
    /// What the orchestrator says of its node; none: it does not know the node.
    pub report: Option<&'a NodeReport>,
    /// What is recorded of its node.
    pub record: Option<&'a NodeRecord>,
    /// Who asks: its node and life.
    pub claimant: (&'a NodeName, &'a Incarnation),
    /// Whether the service lets its data move on an expired lease alone.
    pub accept_lease: bool,
}

/// The evidence against a holder, if there is any. Absence of news is none.
pub fn evidence_for(state: &HolderState<'_>) -> Option<Evidence> {
    let HolderState { holder, report, record, claimant, accept_lease } = *state;
    // An earlier life of the claimant's own node: a new life begins only when nothing of the old one is left.
    if &holder.node == claimant.0 && &holder.incarnation != claimant.1 {
        return Some(Evidence::TaskStoppedUnmounted);
    }
    if let Some(record) = record {
        if record.confirmed_dead.as_ref() == Some(&holder.incarnation) {
            return Some(Evidence::OperatorConfirmed);
        }
        // A node registers a new life only when nothing of the old one is left.
        if record.incarnation != holder.incarnation {
            return Some(Evidence::NodeProvenDead);
        }
    }
    let report = report.filter(|report| report.incarnation == holder.incarnation)?;
    match &report.health {
        NodeHealth::Dead(_) if planted::is(Planted::OnlyItsOwnWord) => None,
        NodeHealth::Dead(Evidence::LeaseExpired)
            if !accept_lease && !planted::is(Planted::LeaseAcceptedByNobody) =>
        {
            None
        }
        NodeHealth::Dead(evidence) => Some(*evidence),
        NodeHealth::Ready | NodeHealth::Suspect | NodeHealth::Draining | NodeHealth::Unknown => None,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::ids::Epoch;
    use crate::runtime::Timestamp;

    fn holder(incarnation: &str) -> Holder {
        Holder { node: "node-1".parse().unwrap(), incarnation: incarnation.parse().unwrap(), epoch: Epoch(1) }
    }

    fn report(incarnation: &str, health: NodeHealth) -> NodeReport {
        NodeReport {
            stalled: None,
            node: "node-1".parse().unwrap(),
            zone: "a".parse().unwrap(),
            incarnation: incarnation.parse().unwrap(),
            health,
            labels: BTreeMap::new(),
            engines: BTreeMap::new(),
        }
    }

    fn record(incarnation: &str, confirmed: Option<&str>) -> NodeRecord {
        NodeRecord {
            node: "node-1".parse().unwrap(),
            zone: "a".parse().unwrap(),
            incarnation: incarnation.parse().unwrap(),
            labels: BTreeMap::new(),
            engines: BTreeMap::new(),
            registered_at: Timestamp::UNIX_EPOCH,
            confirmed_dead: confirmed.map(|text| text.parse().unwrap()),
            draining: false,
        }
    }

    fn ask(
        holder: &Holder,
        report: Option<&NodeReport>,
        record: Option<&NodeRecord>,
        accept_lease: bool,
    ) -> Option<Evidence> {
        let other: (NodeName, Incarnation) = ("node-2".parse().unwrap(), "x".parse().unwrap());
        evidence_for(&HolderState { holder, report, record, claimant: (&other.0, &other.1), accept_lease })
    }

    #[test]
    fn silence_proves_nothing() {
        assert_eq!(ask(&holder("i1"), None, None, true), None);
        for health in [NodeHealth::Ready, NodeHealth::Suspect, NodeHealth::Unknown, NodeHealth::Draining] {
            assert_eq!(
                ask(&holder("i1"), Some(&report("i1", health)), Some(&record("i1", None)), true),
                None
            );
        }
    }

    #[test]
    fn a_proof_counts_for_its_incarnation_only() {
        let dead = report("i1", NodeHealth::Dead(Evidence::NodeProvenDead));
        assert_eq!(ask(&holder("i1"), Some(&dead), None, false), Some(Evidence::NodeProvenDead));
        assert_eq!(ask(&holder("i2"), Some(&dead), None, false), None);
    }

    #[test]
    fn a_lease_counts_only_where_it_is_accepted() {
        let expired = report("i1", NodeHealth::Dead(Evidence::LeaseExpired));
        assert_eq!(ask(&holder("i1"), Some(&expired), None, false), None);
        assert_eq!(ask(&holder("i1"), Some(&expired), None, true), Some(Evidence::LeaseExpired));
    }

    #[test]
    fn a_new_life_of_the_node_proves_the_end_of_the_old_one() {
        assert_eq!(
            ask(&holder("i1"), None, Some(&record("i2", None)), false),
            Some(Evidence::NodeProvenDead)
        );
        assert_eq!(
            ask(&holder("i1"), None, Some(&record("i1", Some("i1"))), false),
            Some(Evidence::OperatorConfirmed)
        );
    }
}
