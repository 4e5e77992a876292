//! Who may write.

use std::collections::BTreeMap;

use steadfast_core::ids::{Epoch, Incarnation, MemberName, NodeName, VolumeId};

use super::Rule;
use crate::model::Fact;
use crate::time::Time;
use crate::world::State;

/// No write arrives on a volume under a lower epoch than one that has written to it before.
#[derive(Debug, Default)]
pub(super) struct SingleWriter {
    highest: BTreeMap<VolumeId, (Epoch, NodeName)>,
}

impl Rule for SingleWriter {
    fn id(&self) -> &'static str {
        "S1"
    }

    fn says(&self) -> &'static str {
        "no write arrives on a volume from an earlier holder once a later one has opened it"
    }

    fn fact(&mut self, _at: Time, fact: &Fact, _state: &State) -> Result<(), String> {
        let (epoch, node, volume) = match fact {
            Fact::EngineStarted { epoch, node, volume, .. } | Fact::Wrote { epoch, node, volume, .. } => {
                (*epoch, node, volume)
            }
            _ => return Ok(()),
        };
        match self.highest.get(volume) {
            Some((highest, by)) if *highest > epoch => {
                Err(format!("{node} wrote to {volume} under epoch {epoch}, and {by} has under {highest}"))
            }
            Some((highest, by)) if *highest == epoch && by != node => {
                Err(format!("{node} and {by} both wrote to {volume} under epoch {epoch}"))
            }
            Some((highest, _)) if *highest == epoch => Ok(()),
            _ => {
                self.highest.insert(volume.clone(), (epoch, node.clone()));
                Ok(())
            }
        }
    }
}

/// At most one engine of a member is able to write.
#[derive(Debug, Default)]
pub(super) struct OneIncarnation {
    running: BTreeMap<MemberName, Vec<(NodeName, Incarnation)>>,
}

impl Rule for OneIncarnation {
    fn id(&self) -> &'static str {
        "S2"
    }

    fn says(&self) -> &'static str {
        "a member's engine runs at most once; where the storage fences, at most once with its volume"
    }

    fn fact(&mut self, _at: Time, fact: &Fact, state: &State) -> Result<(), String> {
        match fact {
            Fact::EngineStarted { member, node, life, volume, .. } => {
                let running = self.running.entry(member.clone()).or_default();
                running.push((node.clone(), life.clone()));
                let able: Vec<&NodeName> = running
                    .iter()
                    .map(|(node, _)| node)
                    .filter(|node| state.cloud.storage_accepts(volume, node))
                    .collect();
                if able.len() > 1 {
                    return Err(format!("{member} runs on {able:?} at once"));
                }
            }
            Fact::EngineDown { member, node, life, .. } => {
                if let Some(running) = self.running.get_mut(member) {
                    running.retain(|(at, of)| !(at == node && of == life));
                }
            }
            _ => {}
        }
        Ok(())
    }
}
