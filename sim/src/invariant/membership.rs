//! Who counts in a group, while members come and go.

use std::collections::{BTreeMap, BTreeSet};

use steadfast_core::ids::{GroupName, MemberName, ServiceName};
use steadfast_core::model::{Group, MembershipChange};

use super::Rule;
use crate::model::engine::Doing;
use crate::model::{Cloud, Fact};
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

/// A voter that has forgotten what it voted for votes no more.
#[derive(Debug, Default)]
pub(super) struct Forgotten {
    /// Those that were ever up, and may have voted.
    ran: BTreeSet<MemberName>,
    forgot: BTreeSet<MemberName>,
}

impl Rule for Forgotten {
    fn id(&self) -> &'static str {
        "S18"
    }

    fn says(&self) -> &'static str {
        "a voter whose data was given up does not run again before those that vote have agreed to go on without it"
    }

    fn fact(&mut self, _at: Time, fact: &Fact, state: &State) -> Result<(), String> {
        self.forgot.retain(|member| votes(&state.cloud, member));
        match fact {
            Fact::GivenUp { member, .. } if self.ran.contains(member) && votes(&state.cloud, member) => {
                self.forgot.insert(member.clone());
                Ok(())
            }
            Fact::EngineUp { member, node, .. } if self.forgot.contains(member) => {
                Err(format!("{member} has forgotten what it voted for, and is up on {node} with its vote"))
            }
            Fact::EngineUp { member, .. } => {
                self.ran.insert(member.clone());
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
