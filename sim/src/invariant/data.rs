//! Identity, names, addresses, and the data itself.

use std::collections::{BTreeMap, BTreeSet};

use steadfast_core::ids::MemberName;
use steadfast_core::registry::DomainName;

use super::Rule;
use crate::model::Fact;
use crate::model::engine::Doing;
use crate::run::Scenario;
use crate::time::Time;
use crate::world::State;

/// A member always runs on its own volume, with data on it that was made once.
#[derive(Debug, Default)]
pub(super) struct IdentityAndVolume {
    made: BTreeSet<MemberName>,
}

impl Rule for IdentityAndVolume {
    fn id(&self) -> &'static str {
        "S5"
    }

    fn says(&self) -> &'static str {
        "an engine starts on its own member's volume only, never on an empty one, and data is made once"
    }

    fn fact(&mut self, _at: Time, fact: &Fact, state: &State) -> Result<(), String> {
        match fact {
            Fact::EngineStarted { member, volume, .. } => {
                let Some(found) = state.cloud.volumes.get(volume) else {
                    return Err(format!("{member} starts on {volume}, which is not there"));
                };
                let owner = found.disk.identity.as_ref().map(|identity| &identity.member);
                if owner != Some(&found.status.spec.member) || &found.status.spec.member_name != member {
                    return Err(format!("{member} starts on {volume}, which belongs to {owner:?}"));
                }
                if found.disk.history.is_none() {
                    return Err(format!("{member} starts on {volume}, which is empty"));
                }
                Ok(())
            }
            Fact::DataMade { member, .. } if !self.made.insert(member.clone()) => {
                // A preparation that is repeated after a crash makes it anew, before the engine has ever run.
                let ran =
                    state.cloud.truth.facts().iter().any(
                        |(_, fact)| matches!(fact, Fact::EngineUp { member: other, .. } if other == member),
                    );
                if ran { Err(format!("the first data of {member} was made again")) } else { Ok(()) }
            }
            _ => Ok(()),
        }
    }
}

/// Names never go back, and are never taken away from a member that is there.
#[derive(Debug, Default)]
pub(super) struct Names {
    removed: BTreeMap<DomainName, Time>,
}

impl Rule for Names {
    fn id(&self) -> &'static str {
        "S6"
    }

    fn says(&self) -> &'static str {
        "a member's name holds its own address only, and is never empty while the member's engine runs"
    }

    fn fact(&mut self, at: Time, fact: &Fact, state: &State) -> Result<(), String> {
        match fact {
            Fact::NameSet { name, set } => {
                use steadfast_core::registry::RecordSet;
                self.removed.remove(name);
                let label = name.as_str().split('.').next().unwrap_or_default();
                let RecordSet::Addresses(set) = set else { return Ok(()) };
                for status in state.cloud.ips.list().iter().filter(|status| set.contains(&status.address)) {
                    let volume = state.cloud.volumes.all().find(|v| v.status.spec.member == status.owner);
                    let owner = volume.map(|volume| &volume.status.spec.member_name);
                    let is_member =
                        label.parse::<MemberName>().is_ok() && name.as_str().matches('.').count() == 3;
                    if is_member && owner.is_some_and(|owner| owner.as_str() != label) {
                        return Err(format!("{name} is given the address of {owner:?}"));
                    }
                }
                Ok(())
            }
            Fact::NameRemoved { name } => {
                self.removed.insert(name.clone(), at);
                let label = name.as_str().split('.').next().unwrap_or_default();
                let mut engines = state.cloud.hosts.engines();
                match engines.find(|(_, member, ..)| member.as_str() == label) {
                    Some((node, member, ..)) => {
                        Err(format!("{name} is taken away while {member} runs on {node}"))
                    }
                    None => Ok(()),
                }
            }
            _ => Ok(()),
        }
    }
}

/// An address belongs to one member that lives.
#[derive(Debug)]
pub(super) struct Addresses;

impl Rule for Addresses {
    fn id(&self) -> &'static str {
        "S7"
    }

    fn says(&self) -> &'static str {
        "no two members that run have one address"
    }

    fn fact(&mut self, _at: Time, fact: &Fact, state: &State) -> Result<(), String> {
        let Fact::EngineUp { member, address: Some(address), .. } = fact else { return Ok(()) };
        let mut engines = state.cloud.hosts.engines();
        let other =
            engines.find(|(_, other, _, engine)| *other != member && engine.launch.address == Some(*address));
        match other {
            Some((node, other, ..)) => Err(format!("{member} and {other} on {node} both have {address}")),
            None => Ok(()),
        }
    }
}

/// No write that was acknowledged is lost.
#[derive(Debug)]
pub(super) struct Acknowledged {
    strict: bool,
}

impl Acknowledged {
    pub(super) fn new(scenario: &Scenario) -> Self {
        let available = |value: &serde_json::Value| value.as_str() == Some("available");
        Acknowledged {
            strict: !scenario.services.iter().any(|file| file.more.get("durability").is_some_and(available)),
        }
    }
}

impl Rule for Acknowledged {
    fn id(&self) -> &'static str {
        "S13"
    }

    fn says(&self) -> &'static str {
        "whatever a client was told is safe is there at the end"
    }

    fn fact(&mut self, _at: Time, _fact: &Fact, _state: &State) -> Result<(), String> {
        Ok(())
    }

    fn end(&mut self, _at: Time, state: &State) -> Result<(), String> {
        let cloud = &state.cloud;
        let leaders = cloud.hosts.engines().filter(|(.., engine)| engine.doing == Doing::Leading);
        let kept: BTreeSet<u64> = leaders
            .filter_map(|(.., engine)| cloud.volumes.get(&engine.volume)?.disk.history.as_ref())
            .flat_map(|history| history.writes.iter().copied())
            .collect();
        if !self.strict || kept.is_empty() {
            return Ok(());
        }
        let lost: Vec<&u64> = cloud.truth.acknowledged.keys().filter(|write| !kept.contains(write)).collect();
        if lost.is_empty() {
            Ok(())
        } else {
            Err(format!("{} acknowledged writes are lost: {:?}", lost.len(), &lost[..lost.len().min(5)]))
        }
    }
}
