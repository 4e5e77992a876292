//! Who counts in a group, while members come and go.

use std::collections::{BTreeMap, BTreeSet};

use steadfast_core::ids::{GroupName, MemberName, ServiceName};
use steadfast_core::model::{Group, MembershipChange};

use super::Rule;
use super::writes::Promised;
use crate::model::engine::{Doing, Engine};
use crate::model::{Cloud, Fact};
use crate::run::Scenario;
use crate::time::Time;
use crate::world::State;

/// Members come and go one at a time, and nobody goes on whose word a write may rest.
#[derive(Debug, Default)]
pub(super) struct Membership(BTreeMap<(ServiceName, GroupName), Group>);

impl Rule for Membership {
    fn id(&self) -> &'static str {
        "S16"
    }

    fn says(&self) -> &'static str {
        "members come and go one at a time, and none is removed that leads, or whose word a primary waits for"
    }

    fn fact(&mut self, _at: Time, fact: &Fact, state: &State) -> Result<(), String> {
        let Fact::GroupRecorded { service, name, group } = fact else { return Ok(()) };
        let before = self.0.insert((service.clone(), name.clone()), group.clone());
        if before.is_some_and(|before| before.replicas.abs_diff(group.replicas) > 1) {
            return Err(format!("group {name} of {service} has {} members at once", group.replicas));
        }
        match MemberName::of(service, name, group.replicas.saturating_sub(1)) {
            Ok(last) if group.change == Some(MembershipChange::Removing) => {
                leaves(&state.cloud, service, &last)
            }
            _ => Ok(()),
        }
    }
}

/// A voter that has forgotten what it voted for votes no more, before it has learnt it again.
#[derive(Debug)]
pub(super) struct Forgotten {
    promised: Promised,
    /// Those that were ever up, and may have voted.
    ran: BTreeSet<MemberName>,
    forgot: BTreeMap<MemberName, Amnesia>,
}

/// Since when a voter has forgotten, and whether it has been up without its vote since.
#[derive(Debug)]
struct Amnesia {
    since: Time,
    learnt: bool,
}

impl Forgotten {
    pub(super) fn new(scenario: &Scenario) -> Self {
        Forgotten { promised: Promised::of(scenario), ran: BTreeSet::new(), forgot: BTreeMap::new() }
    }

    /// A voter that had forgotten comes back with its vote.
    fn votes_again(&self, cloud: &Cloud, member: &MemberName, engine: &Engine) -> Result<(), String> {
        let Some(Amnesia { since, learnt }) = self.forgot.get(member) else { return Ok(()) };
        if !learnt {
            return Err("has forgotten what it voted for".to_owned());
        }
        // What it may have confirmed before.
        let history = cloud.volumes.get(&engine.volume).and_then(|volume| volume.disk.history.as_ref());
        let has: BTreeSet<u64> = history.into_iter().flat_map(|history| &history.writes).copied().collect();
        let before = |write: &&u64| cloud.truth.acknowledged.get(write).is_some_and(|at| at <= since);
        let service = engine.launch.service.as_str();
        let lacks =
            self.promised.safe(cloud, service).filter(before).filter(|write| !has.contains(write)).count();
        if lacks > 0 {
            return Err(format!("has not learnt again {lacks} writes that were acknowledged before"));
        }
        Ok(())
    }
}

impl Rule for Forgotten {
    fn id(&self) -> &'static str {
        "S18"
    }

    fn says(&self) -> &'static str {
        "a voter whose data was given up does not run with its vote before those that vote have agreed to go on without \
         it, or before it has run without and has every write that was acknowledged until then"
    }

    fn fact(&mut self, at: Time, fact: &Fact, state: &State) -> Result<(), String> {
        let cloud = &state.cloud;
        self.forgot.retain(|member, _| votes(cloud, member));
        match fact {
            Fact::GivenUp { member, .. } if self.ran.contains(member) && votes(cloud, member) => {
                self.forgot.insert(member.clone(), Amnesia { since: at, learnt: false });
                Ok(())
            }
            Fact::EngineUp { member, node, .. } => {
                self.ran.insert(member.clone());
                // One that has ended again by now voted for nothing.
                let Some(engine) = cloud.hosts.engine(node, member) else { return Ok(()) };
                if engine.launch.learner {
                    self.forgot.entry(member.clone()).and_modify(|amnesia| amnesia.learnt = true);
                    return Ok(());
                }
                self.votes_again(cloud, member, engine)
                    .map_err(|why| format!("{member} {why}, and is up on {node} with its vote"))?;
                self.forgot.remove(member);
                Ok(())
            }
            _ => Ok(()),
        }
    }
}

/// Whether a member has a vote among engines that elect their leader themselves.
fn votes(cloud: &Cloud, member: &MemberName) -> bool {
    cloud.quorums.values().any(|voters| voters.members.contains(member))
}

fn leaves(cloud: &Cloud, service: &ServiceName, last: &MemberName) -> Result<(), String> {
    for (node, member, _, engine) in cloud.hosts.engines() {
        if engine.launch.service != *service || engine.doing != Doing::Leading {
            continue;
        }
        if member == last {
            return Err(format!("{last} is removed, and leads on {node}"));
        }
        if engine.waits_for(last) {
            return Err(format!("{last} is removed, and {member} on {node} still waits for its word"));
        }
    }
    Ok(())
}
