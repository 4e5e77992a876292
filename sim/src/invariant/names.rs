//! Names: whose address they hold, and that they never go back to an earlier term's.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use steadfast_core::ids::{MemberName, ServiceName};
use steadfast_core::registry::{DomainName, RecordSet};

use super::Rule;
use crate::model::engine::Doing;
use crate::model::{Cloud, Fact};
use crate::time::Time;
use crate::world::State;

/// Names never go back, and are never taken away from whoever is there.
#[derive(Debug, Default)]
pub(super) struct Names {
    /// For each primary's name: the highest term it was set for, and for which term each address was last set.
    terms: BTreeMap<DomainName, (u64, BTreeMap<IpAddr, u64>)>,
    /// The names that an old change has set back, until they are set right.
    set_back: BTreeSet<DomainName>,
}

impl Rule for Names {
    fn id(&self) -> &'static str {
        "S6"
    }

    fn says(&self) -> &'static str {
        "a member's name holds its own address only, a primary's name never goes back to an earlier term's (or is set \
         right, if it had come to hold again what an old change expects), and neither is taken away from what runs"
    }

    fn fact(&mut self, _at: Time, fact: &Fact, state: &State) -> Result<(), String> {
        let cloud = &state.cloud;
        match fact {
            Fact::NameSet { name, set, returned } => {
                let RecordSet::Addresses(set) = set else { return Ok(()) };
                let Some(service) = service_of_primary(name) else {
                    return is_own(cloud, name, set.iter().copied());
                };
                self.set_back.remove(name);
                let forward = self.primary_set(cloud, name, &service, set.iter().copied());
                if *returned && forward.is_err() {
                    // Registries compare values, and know of no versions: after leadership has gone from one member to
                    // another and back, a change that was on its way all the while is carried out. Nobody can prevent
                    // it, but it is seen at the next look.
                    self.set_back.insert(name.clone());
                    return Ok(());
                }
                forward
            }
            Fact::NameRemoved { name } => still_there(cloud, name),
            _ => Ok(()),
        }
    }

    fn end(&mut self, _at: Time, _state: &State) -> Result<(), String> {
        match self.set_back.first() {
            Some(name) => Err(format!("{name} was set back by an old change, and nobody has set it right")),
            None => Ok(()),
        }
    }
}

impl Names {
    fn primary_set(
        &mut self,
        cloud: &Cloud,
        name: &DomainName,
        service: &ServiceName,
        set: impl Iterator<Item = IpAddr>,
    ) -> Result<(), String> {
        let Some((term, leader)) = recorded_leader(cloud, service) else { return Ok(()) };
        let (highest, of) = self.terms.entry(name.clone()).or_default();
        for address in set {
            let owner = owner_of(cloud, address);
            let Some(owner) = owner else {
                return Err(format!("{name} is given {address}, which nobody owns"));
            };
            // Another's than the present leader's is an earlier term's: the last one that it was set for.
            let for_term =
                if Some(&owner) == leader.as_ref() { Some(term) } else { of.get(&address).copied() };
            if let Some(for_term) = for_term.filter(|for_term| for_term < highest) {
                return Err(format!(
                    "{name} goes back to {owner} of term {for_term}, after it had led to that of term {highest}"
                ));
            }
            if let Some(for_term) = for_term {
                *highest = (*highest).max(for_term);
                of.insert(address, for_term);
            }
        }
        Ok(())
    }
}

/// The service whose primary a name leads to.
fn service_of_primary(name: &DomainName) -> Option<ServiceName> {
    let rest = name.as_str().strip_prefix("primary.")?;
    rest.split('.').next()?.parse().ok()
}

fn owner_of(cloud: &Cloud, address: IpAddr) -> Option<MemberName> {
    let status = cloud.ips.status(address)?;
    let volume = cloud.volumes.all().find(|volume| volume.status.spec.member == status.owner)?;
    Some(volume.status.spec.member_name.clone())
}

/// The term and leader that are recorded of a service: what names are derived from.
fn recorded_leader(cloud: &Cloud, service: &ServiceName) -> Option<(u64, Option<MemberName>)> {
    let record = cloud.store.all().iter().find(|(key, _)| {
        let mut segments = key.segments().skip(2);
        segments.next() == Some("services") && segments.next() == Some(service.as_str())
    });
    let value: serde_json::Value = serde_json::from_slice(&record?.1.value).ok()?;
    let role = value["body"]["roles"].as_object()?.values().next()?.clone();
    Some((role["term"].as_u64()?, role["leader"].as_str().and_then(|leader| leader.parse().ok())))
}

fn is_own(cloud: &Cloud, name: &DomainName, set: impl Iterator<Item = IpAddr>) -> Result<(), String> {
    let label = name.as_str().split('.').next().unwrap_or_default();
    let is_member = label.parse::<MemberName>().is_ok() && name.as_str().matches('.').count() == 3;
    for address in set {
        let owner = owner_of(cloud, address);
        if is_member && owner.as_ref().is_some_and(|owner| owner.as_str() != label) {
            return Err(format!("{name} is given the address of {owner:?}"));
        }
    }
    Ok(())
}

fn still_there(cloud: &Cloud, name: &DomainName) -> Result<(), String> {
    let label = name.as_str().split('.').next().unwrap_or_default();
    let service = service_of_primary(name);
    let mut engines = cloud.hosts.engines();
    let there = engines.find(|(_, member, _, engine)| match &service {
        Some(service) => engine.launch.service == *service && engine.doing == Doing::Leading,
        None => member.as_str() == label,
    });
    match there {
        Some((node, member, ..)) => Err(format!("{name} is taken away while {member} runs on {node}")),
        None => Ok(()),
    }
}
