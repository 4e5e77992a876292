//! What records must say, and what must be recorded before anything is done.

use std::collections::{BTreeMap, BTreeSet};

use steadfast_core::ids::{Generation, MemberName, NodeName, Revision, RoleTerm, ServiceName, VolumeId};
use steadfast_core::model::{MemberPhase, OperationKind, OperationState};
use steadfast_core::volume::Attachment;

use super::Rule;
use crate::model::Fact;
use crate::model::truth::MemberRecorded;
use crate::model::volumes::Volume;
use crate::run::Scenario;
use crate::time::Time;
use crate::world::State;

/// Numbers that order things only rise.
#[derive(Debug, Default)]
pub(super) struct Monotone {
    members: BTreeMap<String, MemberRecorded>,
    terms: BTreeMap<ServiceName, (RoleTerm, Option<MemberName>)>,
}

impl Rule for Monotone {
    fn id(&self) -> &'static str {
        "S3"
    }

    fn says(&self) -> &'static str {
        "epochs, generations and terms never fall, and a new holder or leader has a new one"
    }

    fn fact(&mut self, _at: Time, fact: &Fact, _state: &State) -> Result<(), String> {
        match fact {
            Fact::MemberRecorded(now) => {
                let Some(before) = self.members.insert(now.id.clone(), (**now).clone()) else {
                    return Ok(());
                };
                let member = &now.member;
                if now.epoch < before.epoch || now.generation < before.generation {
                    return Err(format!(
                        "{member} falls from epoch {} to {}, or generation {} to {}",
                        before.epoch, now.epoch, before.generation, now.generation
                    ));
                }
                if now.epoch == before.epoch && now.holder.is_some() && now.holder != before.holder {
                    return Err(format!(
                        "{member} changes hands to {:?} within epoch {}",
                        now.holder, now.epoch
                    ));
                }
                Ok(())
            }
            Fact::LeadRecorded { service, role } => {
                let now = (role.term, role.leader.clone());
                let Some((term, leader)) = self.terms.insert(service.clone(), now) else { return Ok(()) };
                if role.term < term {
                    return Err(format!("{service} falls from term {term} to {}", role.term));
                }
                if role.term == term && leader.is_some() && role.leader.is_some() && role.leader != leader {
                    return Err(format!("{service} has two leaders in term {term}"));
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }
}

/// First the record, then the deed; and nobody is let go of who may still write.
#[derive(Debug, Default)]
pub(super) struct RecordFirst {
    /// The services that let their data move on an expired lease: what comes of that, other rules judge.
    by_lease: BTreeSet<String>,
    holders: BTreeMap<MemberName, BTreeSet<NodeName>>,
    before: BTreeMap<String, MemberRecorded>,
}

impl RecordFirst {
    pub(super) fn new(scenario: &Scenario) -> Self {
        RecordFirst { by_lease: scenario.accepting_leases(), ..RecordFirst::default() }
    }
}

impl Rule for RecordFirst {
    fn id(&self) -> &'static str {
        "S4"
    }

    fn says(&self) -> &'static str {
        "a node touches a member's volume or address only once it is recorded as its holder; a holder is let go of \
         only when it cannot write; and whoever is prepared has every volume"
    }

    fn fact(&mut self, _at: Time, fact: &Fact, state: &State) -> Result<(), String> {
        match fact {
            Fact::Asked { by, what, member, .. } => {
                let Some(node) = by.strip_prefix("agent@") else { return Ok(()) };
                let known = self.holders.get(member);
                if known.is_some_and(|holders| holders.iter().any(|holder| holder.as_str() == node)) {
                    Ok(())
                } else {
                    Err(format!("{node} asks to {what} for {member} and was never recorded as its holder"))
                }
            }
            Fact::MemberRecorded(now) => {
                self.holders.entry(now.member.clone()).or_default().extend(now.unreleased.iter().cloned());
                let before = self.before.insert(now.id.clone(), (**now).clone());
                self.let_go(before.as_ref(), now, state)?;
                if now.phase == MemberPhase::Removed && !now.unreleased.is_empty() {
                    return Err(format!("{} is removed while {:?} hold it", now.member, now.unreleased));
                }
                prepared(before.as_ref(), now, state)
            }
            _ => Ok(()),
        }
    }
}

impl RecordFirst {
    fn let_go(
        &self,
        before: Option<&MemberRecorded>,
        now: &MemberRecorded,
        state: &State,
    ) -> Result<(), String> {
        if self.by_lease.contains(now.service.as_str()) {
            return Ok(());
        }
        let gone = |node: &NodeName| {
            before.is_some_and(|before| before.unreleased.contains(node)) && !now.unreleased.contains(node)
        };
        let mut engines = state.cloud.hosts.engines();
        let able = engines.find(|(node, member, _, engine)| {
            **member == now.member && gone(node) && state.cloud.storage_accepts(&engine.volume, node)
        });
        able.map_or(Ok(()), |(node, member, ..)| {
            Err(format!("{node} is let go of, and runs {member} on a volume that takes its writes"))
        })
    }
}

fn prepared(before: Option<&MemberRecorded>, now: &MemberRecorded, state: &State) -> Result<(), String> {
    let newly = now.phase == MemberPhase::Prepared
        && before.is_none_or(|before| before.phase != now.phase || before.epoch != now.epoch);
    let Some(holder) = now.holder.as_ref().filter(|_| newly) else { return Ok(()) };
    let mut own = state.cloud.volumes.all().filter(|volume| volume.status.spec.member.as_str() == now.id);
    let there = |volume: &Volume| {
        volume.mounted && matches!(&volume.status.attachment, Attachment::Attached(node) if node == holder)
    };
    match own.find(|volume| !there(volume)) {
        Some(volume) => Err(format!(
            "{} is prepared on {holder}, and {} is {:?}",
            now.member, volume.status.id, volume.status.attachment
        )),
        None => Ok(()),
    }
}

/// What was asked for once is done once.
#[derive(Debug, Default)]
pub(super) struct Once {
    keys: BTreeMap<(OperationKind, ServiceName, String), String>,
    states: BTreeMap<String, OperationState>,
    restarts: BTreeMap<ServiceName, BTreeSet<String>>,
    members: BTreeMap<String, (Generation, Revision, usize)>,
    /// What members have been filled on without a vote: each is started once more to have it again.
    learnt: BTreeSet<(MemberName, VolumeId)>,
}

impl Rule for Once {
    fn id(&self) -> &'static str {
        "S11"
    }

    fn says(&self) -> &'static str {
        "a request makes one operation, which ends once; a member is restarted once for each that asks for it, and once \
         more to vote again if it had lost its vote with its disk"
    }

    fn fact(&mut self, _at: Time, fact: &Fact, state: &State) -> Result<(), String> {
        match fact {
            Fact::EngineUp { member, node, .. } => {
                let engine = state.cloud.hosts.engine(node, member).filter(|engine| engine.launch.learner);
                self.learnt.extend(engine.map(|engine| (member.clone(), engine.volume.clone())));
                Ok(())
            }
            Fact::OperationRecorded { service, id, kind, state, key } => {
                if let Some(key) = key {
                    let asked = (*kind, service.clone(), key.clone());
                    let first = self.keys.entry(asked).or_insert_with(|| id.clone());
                    if first != id {
                        return Err(format!("{key} asked for one {kind} of {service} and made two"));
                    }
                }
                // A leader that its engines have chosen hands over by a restart before it leaves.
                if matches!(*kind, OperationKind::Restart | OperationKind::Scale) {
                    self.restarts.entry(service.clone()).or_default().insert(id.clone());
                }
                let before = self.states.insert(id.clone(), *state);
                let over = |state| matches!(state, OperationState::Succeeded | OperationState::Failed);
                match before {
                    Some(before) if over(before) && before != *state => {
                        Err(format!("{kind} of {service} was {before} and is {state}"))
                    }
                    _ => Ok(()),
                }
            }
            Fact::MemberRecorded(now) => {
                let first = (now.generation, now.revision, 0);
                let entry = self.members.entry(now.id.clone()).or_insert(first);
                let (generation, revision, told) = *entry;
                let again = now.generation > generation && now.revision == revision;
                *entry = (now.generation, now.revision, told + usize::from(again));
                let learnt = self.learnt.iter().filter(|(member, _)| *member == now.member).count();
                let asked = self.restarts.get(&now.service).map_or(0, BTreeSet::len) + learnt;
                if entry.2 > asked {
                    return Err(format!(
                        "{} is told to restart {} times, asked {asked}",
                        now.member, entry.2
                    ));
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }
}
