//! Engines that lead themselves: what they agree on among each other, which no agent can see but through its own.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};

use crate::ids::{GroupName, MemberName, ServiceName};
use crate::model::Membership;

/// The groups of engines of a world. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(super) struct Quorums(Arc<Mutex<BTreeMap<(ServiceName, GroupName), Quorum>>>);

#[derive(Debug, Default)]
struct Quorum {
    running: BTreeSet<MemberName>,
    leader: Option<MemberName>,
    committed: Option<Membership>,
}

impl Quorum {
    /// How many of these run, and whether that is a majority of them.
    fn has_majority(&self, voters: &BTreeSet<MemberName>) -> bool {
        voters.intersection(&self.running).count() > voters.len() / 2
    }

    /// Whoever leads goes on; without a leader the last voter that runs, if a majority does.
    fn elect(&mut self) {
        let voters = self.committed.as_ref().map(|committed| committed.voters.clone()).unwrap_or_default();
        let able = |name: &MemberName| voters.contains(name) && self.running.contains(name);
        let stays = self.leader.clone().filter(able);
        let next = stays.or_else(|| voters.iter().rev().find(|name| able(name)).cloned());
        self.leader = next.filter(|_| self.has_majority(&voters));
    }
}

/// What an engine says of its group.
#[derive(Debug, Clone)]
pub(super) struct Word {
    /// Who leads; none: nobody, and nothing is served.
    pub(super) leader: Option<MemberName>,
    /// Who counts.
    pub(super) membership: Membership,
}

impl Quorums {
    /// The engine of `member` runs, and its agent wants these to count. The leader alone makes it so, with a majority
    /// of those who counted before and of those who are to. One that learns is in nobody's majority.
    pub(super) fn meet(
        &self,
        group: (ServiceName, GroupName),
        member: &MemberName,
        wanted: Membership,
        learns: bool,
    ) -> Word {
        let mut groups = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let quorum = groups.entry(group).or_default();
        if !learns {
            quorum.running.insert(member.clone());
        }
        let before = quorum.committed.get_or_insert_with(|| wanted.clone()).clone();
        quorum.elect();
        if quorum.leader.as_ref() == Some(member)
            && wanted.term > before.term
            && quorum.has_majority(&before.voters)
            && quorum.has_majority(&wanted.voters)
        {
            quorum.committed = Some(wanted.clone());
            quorum.elect();
        }
        let membership = quorum.committed.clone().unwrap_or(wanted);
        Word { leader: quorum.leader.clone(), membership }
    }

    /// The engine of `member` has ended.
    pub(super) fn part(&self, member: &MemberName) {
        let mut groups = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for quorum in groups.values_mut() {
            if quorum.running.remove(member) {
                quorum.elect();
            }
        }
    }
}
