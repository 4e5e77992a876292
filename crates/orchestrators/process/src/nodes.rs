//! Nodes and their health, from what they say and how long ago they said it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use steadfast_core::ids::{Incarnation, NodeName};
use steadfast_core::model::{Evidence, NodeHealth, NodeRecord};
use steadfast_core::planted::{self, Planted};
use steadfast_core::runtime::Moment;
use steadfast_core::store::NodeRecords;

use crate::Proof;

/// What this process has seen of the nodes' leases, by its own clock. Clocks of two machines are never compared,
/// so a node's silence is counted from the last change that was seen here.
#[derive(Debug, Default)]
pub(crate) struct Sightings(Mutex<Seen>);

#[derive(Debug, Default)]
struct Seen {
    /// When the last look ended that found anything out: a node that is new since then has just spoken.
    looked: Option<Moment>,
    /// Whether a look has failed since then.
    deaf: bool,
    nodes: BTreeMap<NodeName, Sighting>,
}

#[derive(Debug, Clone)]
struct Sighting {
    incarnation: Incarnation,
    beat: Option<u64>,
    since: Moment,
    /// Whether a change was seen here, and not only a value of unknown age.
    changed: bool,
    /// Whether this life was proven over: it does not come back.
    dead: bool,
}

/// A node as it was just found.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) record: Arc<NodeRecord>,
    /// Its lease; none: it has not reported in this life.
    pub(crate) lease: Option<Lease>,
    /// Whether this life was proven over before.
    pub(crate) dead: bool,
}

impl Node {
    /// Whether it has missed a renewal, or said nothing yet, and its end is not known.
    pub(crate) fn is_missed(&self) -> bool {
        let confirmed = self.record.confirmed_dead.as_ref() == Some(&self.record.incarnation);
        !self.dead && !confirmed && self.lease.is_none_or(Lease::is_half_over)
    }
}

/// How long a node has been silent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Silence {
    /// It was heard this long ago.
    Heard(Duration),
    /// What it said last is at least this old; how old is not known.
    AtLeast(Duration),
}

/// A node's lease as seen from here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Lease {
    pub(crate) silence: Silence,
    pub(crate) length: Duration,
}

impl Lease {
    /// Whether the node has missed a renewal: leases are renewed three times as often as they last.
    pub(crate) fn is_half_over(self) -> bool {
        let (Silence::Heard(age) | Silence::AtLeast(age)) = self.silence;
        age >= self.length / 2
    }
}

impl Sightings {
    /// Takes in that a look has failed.
    pub(crate) fn fail(&self) {
        self.lock().deaf = true;
    }

    /// Takes in what the nodes have said, by a look that began and ended then.
    ///
    /// What is new may have been said up to the end of the look, and what is not was not said before it began: however
    /// slow we are, it is not taken for the silence of a node. Neither is a time in which looks failed, if it was long
    /// enough for nodes to miss a renewal: they may have failed to be heard as we failed to hear them.
    pub(crate) fn look(&self, begun: Moment, ended: Moment, nodes: Vec<NodeRecords>) -> Vec<Node> {
        let mut seen = self.lock();
        let before = seen.looked.replace(ended);
        let deaf = std::mem::take(&mut seen.deaf).then(|| before.map(|before| begun.since(before)));
        let deaf = deaf.flatten().unwrap_or_default();
        let mut next = BTreeMap::new();
        let mut found = Vec::new();
        for (record, status) in nodes {
            // What an earlier life has said is no sign of this one.
            let status = status.filter(|status| status.incarnation == record.incarnation);
            let beat = status.as_ref().map(|status| status.beat);
            let known = seen.nodes.remove(&record.node);
            let same_life = known.as_ref().is_some_and(|known| known.incarnation == record.incarnation);
            let sighting = match known {
                Some(mut known) if same_life && known.beat == beat => {
                    let length = status.as_ref().map(|status| Duration::from_millis(status.lease_ms));
                    if length.is_some_and(|length| deaf >= length / 2) {
                        known.since = known.since.plus(deaf).min(begun);
                    }
                    known
                }
                known => Sighting {
                    incarnation: record.incarnation.clone(),
                    beat,
                    since: ended,
                    changed: before.is_some() || known.is_some(),
                    dead: same_life && known.is_some_and(|known| known.dead),
                },
            };
            let age = begun.since(sighting.since);
            let silence = if sighting.changed { Silence::Heard(age) } else { Silence::AtLeast(age) };
            let lease =
                status.map(|status| Lease { silence, length: Duration::from_millis(status.lease_ms) });
            let dead = sighting.dead;
            next.insert(record.node.clone(), sighting);
            found.push(Node { record, lease, dead });
        }
        seen.nodes = next;
        found
    }

    /// Keeps in mind that this life is over.
    pub(crate) fn note_dead(&self, record: &NodeRecord) {
        if let Some(sighting) = self.lock().nodes.get_mut(&record.node)
            && sighting.incarnation == record.incarnation
        {
            sighting.dead = true;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Seen> {
        // Nothing in here can panic half-way, so a poisoned lock holds a whole value.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The health of a node. Only proof makes it dead.
pub(crate) fn health(
    record: &NodeRecord,
    lease: Option<Lease>,
    proof: Proof,
    lease_death_after: Option<Duration>,
) -> NodeHealth {
    if record.confirmed_dead.as_ref() == Some(&record.incarnation) {
        return NodeHealth::Dead(Evidence::OperatorConfirmed);
    }
    if proof == Proof::Dead {
        return NodeHealth::Dead(Evidence::NodeProvenDead);
    }
    let Some(Lease { silence, length }) = lease else { return NodeHealth::Unknown };
    let (age, known) = match silence {
        Silence::Heard(age) => (age, true),
        Silence::AtLeast(age) => (age, false),
    };
    if age >= length {
        let over = lease_death_after.is_some_and(|margin| age >= length.saturating_add(margin));
        return if over && proof == Proof::Unknown {
            NodeHealth::Dead(Evidence::LeaseExpired)
        } else if planted::is(Planted::SilenceIsDeath) {
            NodeHealth::Dead(Evidence::NodeProvenDead)
        } else {
            NodeHealth::Suspect
        };
    }
    match (known, record.draining) {
        (false, _) => NodeHealth::Unknown,
        (true, true) => NodeHealth::Draining,
        (true, false) => NodeHealth::Ready,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use steadfast_core::model::NodeStatus;
    use steadfast_core::runtime::Timestamp;

    fn record(incarnation: &str) -> NodeRecord {
        NodeRecord {
            node: "node-1".parse().unwrap(),
            zone: "a".parse().unwrap(),
            incarnation: incarnation.parse().unwrap(),
            labels: BTreeMap::new(),
            engines: BTreeMap::new(),
            registered_at: Timestamp::UNIX_EPOCH,
            confirmed_dead: None,
            draining: false,
        }
    }

    fn status(incarnation: &str, beat: u64) -> NodeStatus {
        NodeStatus {
            node: "node-1".parse().unwrap(),
            incarnation: incarnation.parse().unwrap(),
            beat,
            lease_ms: 6_000,
            members: BTreeMap::new(),
            stalled: None,
            version: "0".to_owned(),
        }
    }

    fn at(seconds: u64) -> Moment {
        Moment::from_zero(Duration::from_secs(seconds))
    }

    fn look(sightings: &Sightings, seconds: u64, incarnation: &str, beat: Option<u64>) -> NodeHealth {
        let status = beat.map(|beat| Arc::new(status(incarnation, beat)));
        let node =
            sightings.look(at(seconds), at(seconds), vec![(Arc::new(record(incarnation)), status)]).remove(0);
        health(&node.record, node.lease, Proof::Unknown, None)
    }

    #[test]
    fn what_was_said_before_the_first_look_has_no_age() {
        let sightings = Sightings::default();
        assert_eq!(look(&sightings, 100, "i1", Some(5)), NodeHealth::Unknown);
        assert_eq!(look(&sightings, 102, "i1", Some(6)), NodeHealth::Ready);
        assert_eq!(look(&sightings, 107, "i1", Some(6)), NodeHealth::Ready);
        assert_eq!(look(&sightings, 108, "i1", Some(6)), NodeHealth::Suspect);
        assert_eq!(look(&sightings, 109, "i1", Some(7)), NodeHealth::Ready);
    }

    #[test]
    fn a_dead_value_of_unknown_age_becomes_suspect_after_a_lease() {
        let sightings = Sightings::default();
        assert_eq!(look(&sightings, 100, "i1", Some(5)), NodeHealth::Unknown);
        assert_eq!(look(&sightings, 106, "i1", Some(5)), NodeHealth::Suspect);
    }

    /// A lease that is over by our clock while the node's guard still holds it would be two writers.
    #[test]
    fn a_look_that_takes_long_is_no_silence_of_the_node() {
        let sightings = Sightings::default();
        let see = |begun, ended, beat| {
            let nodes = vec![(Arc::new(record("i1")), Some(Arc::new(status("i1", beat))))];
            sightings.look(at(begun), at(ended), nodes).remove(0).lease.unwrap().silence
        };
        see(100, 100, 5);
        assert_eq!(see(102, 106, 6), Silence::Heard(Duration::ZERO), "it may have spoken as the look ended");
        assert_eq!(see(107, 108, 6), Silence::Heard(Duration::from_secs(1)));
        assert_eq!(
            see(110, 119, 6),
            Silence::Heard(Duration::from_secs(4)),
            "it may have spoken since it began"
        );
    }

    /// Leases that nobody could renew nor see renewed would give up every node at once when the store is back.
    #[test]
    fn a_time_without_the_store_is_no_silence_of_the_nodes() {
        let sightings = Sightings::default();
        let see = |seconds, beat| {
            let nodes = vec![(Arc::new(record("i1")), Some(Arc::new(status("i1", beat))))];
            sightings.look(at(seconds), at(seconds), nodes).remove(0).lease.unwrap().silence
        };
        see(100, 5);
        assert_eq!(see(102, 6), Silence::Heard(Duration::ZERO));
        assert_eq!(see(103, 6), Silence::Heard(Duration::from_secs(1)));
        sightings.fail();
        assert_eq!(see(140, 6), Silence::Heard(Duration::from_secs(1)), "nobody could say a word");
        assert_eq!(see(143, 6), Silence::Heard(Duration::from_secs(4)));
        sightings.fail();
        assert_eq!(see(145, 6), Silence::Heard(Duration::from_secs(6)), "two seconds hide no renewal");
        sightings.fail();
        assert_eq!(see(150, 7), Silence::Heard(Duration::ZERO));
    }

    #[test]
    fn a_node_that_appears_after_the_first_look_has_just_spoken() {
        let sightings = Sightings::default();
        assert!(sightings.look(at(1), at(1), Vec::new()).is_empty());
        assert_eq!(look(&sightings, 2, "i1", Some(1)), NodeHealth::Ready);
        // A new life that has only registered yet.
        assert_eq!(look(&sightings, 3, "i2", None), NodeHealth::Unknown);
        assert_eq!(look(&sightings, 4, "i2", Some(1)), NodeHealth::Ready);
    }

    #[test]
    fn what_an_earlier_life_said_is_no_sign_of_the_new_one() {
        let sightings = Sightings::default();
        assert!(sightings.look(at(1), at(1), Vec::new()).is_empty());
        let nodes = vec![(Arc::new(record("i2")), Some(Arc::new(status("i1", 9))))];
        let node = sightings.look(at(2), at(2), nodes).remove(0);
        assert_eq!(health(&node.record, node.lease, Proof::Alive, None), NodeHealth::Unknown);
    }

    #[test]
    fn a_silent_node_that_is_seen_alive_never_counts_as_dead_by_its_lease() {
        let margin = Some(Duration::from_secs(3));
        let lease = |age| {
            Some(Lease { silence: Silence::Heard(Duration::from_secs(age)), length: Duration::from_secs(6) })
        };
        let ask = |age, proof, margin| health(&record("i1"), lease(age), proof, margin);
        assert_eq!(ask(8, Proof::Unknown, margin), NodeHealth::Suspect);
        assert_eq!(ask(9, Proof::Unknown, margin), NodeHealth::Dead(Evidence::LeaseExpired));
        assert_eq!(ask(900, Proof::Alive, margin), NodeHealth::Suspect);
        assert_eq!(ask(900, Proof::Unknown, None), NodeHealth::Suspect);
        assert_eq!(ask(1, Proof::Dead, None), NodeHealth::Dead(Evidence::NodeProvenDead));
    }

    #[test]
    fn an_operator_confirms_one_life_only() {
        let mut dead = record("i1");
        dead.confirmed_dead = Some("i1".parse().unwrap());
        assert_eq!(health(&dead, None, Proof::Alive, None), NodeHealth::Dead(Evidence::OperatorConfirmed));
        dead.incarnation = "i2".parse().unwrap();
        assert_eq!(health(&dead, None, Proof::Alive, None), NodeHealth::Unknown);
    }

    #[test]
    fn a_life_that_is_proven_over_stays_so_and_the_next_one_is_not() {
        let sightings = Sightings::default();
        let see = |seconds, life: &str| {
            let nodes = vec![(Arc::new(record(life)), Some(Arc::new(status(life, seconds))))];
            sightings.look(at(seconds), at(seconds), nodes).remove(0)
        };
        assert!(!see(1, "i1").dead);
        sightings.note_dead(&record("i1"));
        assert!(see(1, "i1").dead);
        assert!(see(2, "i1").dead, "what was under way from it is no sign of life");
        assert!(!see(20, "i1").is_missed(), "nobody waits for it");
        assert!(!see(21, "i2").dead);
    }
}
