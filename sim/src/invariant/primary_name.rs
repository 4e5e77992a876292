//! The name that leads clients to the primary.

use std::collections::BTreeMap;

use steadfast_core::ids::{MemberName, RoleTerm};
use steadfast_core::registry::RecordSet;

use super::Rule;
use crate::model::{Cloud, Fact};
use crate::time::Time;
use crate::world::State;

/// The primary's name follows the terms, and only who has led gets it.
#[derive(Debug, Default)]
pub(super) struct PrimaryName {
    /// By service and member: the last term in which it was chosen, and when.
    chosen: BTreeMap<(String, MemberName), (RoleTerm, Time)>,
    led_at: BTreeMap<MemberName, Time>,
    /// By service: the highest term its name has shown.
    shown: BTreeMap<String, RoleTerm>,
}

impl Rule for PrimaryName {
    fn id(&self) -> &'static str {
        "S6b"
    }

    fn says(&self) -> &'static str {
        "the primary's name never goes back to an earlier term's, and leads to nobody who has not led yet"
    }

    fn fact(&mut self, at: Time, fact: &Fact, state: &State) -> Result<(), String> {
        match fact {
            Fact::Leads { member, leads: true, .. } => {
                self.led_at.insert(member.clone(), at);
                Ok(())
            }
            Fact::LeadRecorded { service, role } => {
                if let Some(leader) = &role.leader {
                    let entry =
                        self.chosen.entry((service.to_string(), leader.clone())).or_insert((role.term, at));
                    if entry.0 != role.term {
                        *entry = (role.term, at);
                    }
                }
                Ok(())
            }
            Fact::NameSet { name, set, returned } => {
                let RecordSet::Addresses(set) = set else { return Ok(()) };
                let mut labels = name.as_str().split('.');
                let (Some("primary"), Some(service)) = (labels.next(), labels.next()) else { return Ok(()) };
                let service = service.to_owned();
                for member in set.iter().filter_map(|address| owner(&state.cloud, *address)) {
                    let Some((term, since)) = self.chosen.get(&(service.clone(), member.clone())) else {
                        return Err(format!("{name} leads to {member}, which was never chosen"));
                    };
                    if self.led_at.get(&member).is_none_or(|led| led < since) {
                        return Err(format!(
                            "{name} leads to {member}, which has not led in term {term} yet"
                        ));
                    }
                    let shown = self.shown.entry(service.clone()).or_insert(*term);
                    // That it is set right is S6's.
                    if *term < *shown && *returned {
                        continue;
                    }
                    if *term < *shown {
                        return Err(format!("{name} goes back from term {shown} to {member} of term {term}"));
                    }
                    *shown = *term;
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }
}

/// The member that has an address.
fn owner(cloud: &Cloud, address: std::net::IpAddr) -> Option<MemberName> {
    let owner = cloud.ips.status(address)?.owner;
    let volume = cloud.volumes.all().find(|volume| volume.status.spec.member == owner)?;
    Some(volume.status.spec.member_name.clone())
}
