//! Identity and addresses.

use std::collections::BTreeSet;

use steadfast_core::ids::{MemberName, VolumeId};

use super::Rule;
use crate::model::Fact;
use crate::time::Time;
use crate::world::State;

/// A member always runs on its own volume, with data on it that was made once.
#[derive(Debug, Default)]
pub(super) struct IdentityAndVolume {
    made: BTreeSet<(MemberName, VolumeId)>,
    given_up: BTreeSet<VolumeId>,
}

impl Rule for IdentityAndVolume {
    fn id(&self) -> &'static str {
        "S5"
    }

    fn says(&self) -> &'static str {
        "an engine starts on its own member's volume only, never on an empty one or one that was given up, and data is \
         made once, unless that was given up"
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
                if found.given_up {
                    return Err(format!("{member} starts on {volume}, which was given up"));
                }
                Ok(())
            }
            Fact::GivenUp { volume, .. } => {
                self.given_up.insert(volume.clone());
                Ok(())
            }
            Fact::DataMade { member, volume } => {
                let mut before =
                    self.made.iter().filter(|(of, on)| of == member && !self.given_up.contains(on));
                let again = before.next().is_some();
                self.made.insert((member.clone(), volume.clone()));
                if !again {
                    return Ok(());
                }
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
