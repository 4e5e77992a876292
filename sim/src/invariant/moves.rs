//! What may be taken down on purpose.

use std::collections::{BTreeMap, BTreeSet};

use steadfast_core::ids::{MemberName, NodeName, ServiceName};
use steadfast_core::model::{MemberPhase, Role, RolePhase};

use super::Rule;
use crate::model::engine::Doing;
use crate::model::host::Host;
use crate::model::troubles::Trouble;
use crate::model::truth::MemberRecorded;
use crate::model::{Cloud, Fact};
use crate::run::Scenario;
use crate::time::Time;
use crate::world::State;

/// How long a node has to be silent to count for the brake: its lease, and a look.
const SILENT_MS: u128 = 6_500;
/// How long a member has to serve for that to be known: until its agent looks, tells it, and a server has heard that.
const HEARD_MS: u128 = 2_000;

fn is_silent(host: &Host) -> bool {
    !host.running || host.paused || host.cut.control
}

/// Nothing that serves is taken down without need.
#[derive(Debug, Default)]
pub(super) struct NoNeed {
    before: BTreeMap<String, MemberRecorded>,
    told: BTreeMap<MemberName, MemberRecorded>,
    silent: BTreeMap<NodeName, Time>,
    /// When a guard last ended its engine with the node's lease: nothing had been heard of it for that long, whatever is
    /// heard since.
    lapsed: BTreeMap<NodeName, Time>,
    /// The members that have served since they were told last, and of these when they fell: nobody can have heard of it
    /// at once.
    served: BTreeSet<MemberName>,
    fell: BTreeMap<MemberName, Time>,
    /// When each was up last, and when somebody began last to lead each service: one serves since then at the earliest.
    rose: BTreeMap<MemberName, Time>,
    led: BTreeMap<ServiceName, Time>,
    /// An operator has said of a node that it is dead: what follows is the operator's.
    confirmed: bool,
    /// The services that let their data move on an expired lease.
    by_lease: BTreeSet<String>,
}

impl NoNeed {
    pub(super) fn new(scenario: &Scenario) -> Self {
        NoNeed { by_lease: scenario.accepting_leases(), ..NoNeed::default() }
    }
}

impl Rule for NoNeed {
    fn id(&self) -> &'static str {
        "S10"
    }

    fn says(&self) -> &'static str {
        "no member is moved from a node where it runs (and is heard, if it accepts leases), none at all while most nodes are silent, and none \
         is restarted before the one that was told before it is there"
    }

    fn fact(&mut self, at: Time, fact: &Fact, state: &State) -> Result<(), String> {
        if fact.is_of_clients() {
            return Ok(());
        }
        for (node, host) in state.cloud.hosts.all() {
            if !is_silent(host) {
                self.silent.remove(node);
            } else if !self.silent.contains_key(node) {
                self.silent.insert(node.clone(), at);
            }
        }
        match fact {
            Fact::Scripted { text } => {
                self.confirmed |= text.starts_with("ConfirmDead");
                Ok(())
            }
            Fact::EngineUp { member, .. } => {
                self.served.insert(member.clone());
                self.rose.insert(member.clone(), at);
                Ok(())
            }
            Fact::Leads { member, leads: true, .. } => {
                let service = self.told.get(member).map(|told| told.service.clone());
                self.led.extend(service.map(|service| (service, at)));
                Ok(())
            }
            Fact::EngineDown { member, node, why, .. } => {
                if *why == "its lease has ended" {
                    self.lapsed.insert(node.clone(), at);
                }
                if *why != "stopped" && self.served.contains(member) {
                    self.fell.insert(member.clone(), at);
                }
                Ok(())
            }
            Fact::MemberRecorded(now) => {
                let before = self.before.insert(now.id.clone(), (**now).clone());
                let told = self.told.insert(now.member.clone(), (**now).clone());
                if told.is_none_or(|told| told.generation < now.generation) {
                    self.served.remove(&now.member);
                }
                let Some(before) = before else { return Ok(()) };
                self.moved(at, &before, now, &state.cloud)?;
                self.restarted(at, &before, now, &state.cloud)
            }
            _ => Ok(()),
        }
    }
}

impl NoNeed {
    fn moved(
        &self,
        at: Time,
        before: &MemberRecorded,
        now: &MemberRecorded,
        cloud: &Cloud,
    ) -> Result<(), String> {
        let (Some(from), Some(to)) = (&before.placed_on, &now.placed_on) else { return Ok(()) };
        if from == to || self.confirmed || !now.run {
            return Ok(());
        }
        let host = cloud.hosts.get(from);
        let by_lease = self.by_lease.contains(now.service.as_str());
        let lapsed = self.lapsed.get(from).is_some_and(|since| at.since(*since).as_millis() < SILENT_MS);
        let heard = |host: &Host| !is_silent(host) && host.agent && !lapsed;
        let lives = host.is_some_and(|host| host.running && (!by_lease || heard(host)));
        let unproven = !by_lease && cloud.profile.lease_margin_ms.is_some();
        if lives && (unproven || cloud.hosts.engine(from, &now.member).is_some()) {
            return Err(format!("{} is moved from {from}, which lives, to {to}", now.member));
        }
        // Where a proof says who is dead, the brake is for the others.
        let silent = self.silent.iter().filter(|(node, since)| {
            let proven = cloud.profile.lease_margin_ms.is_none()
                && cloud.hosts.get(node).is_some_and(|host| !host.running);
            !proven && at.since(**since).as_millis() >= SILENT_MS
        });
        let (silent, all) = (silent.count(), cloud.hosts.all().count());
        if silent > 1 && silent * 100 > all * 40 {
            return Err(format!("{} is moved to {to} while {silent} of {all} nodes are silent", now.member));
        }
        Ok(())
    }

    /// Two that were told and are not there at once.
    fn restarted(
        &self,
        at: Time,
        before: &MemberRecorded,
        now: &MemberRecorded,
        cloud: &Cloud,
    ) -> Result<(), String> {
        if now.generation <= before.generation || !now.run || !serves(cloud, &now.member) {
            return Ok(());
        }
        // One that did not serve a moment ago was to be told, as far as anybody had heard.
        let since = self.rose.get(&now.member).max(self.led.get(&now.service));
        if since.is_some_and(|since| at.since(*since).as_millis() < HEARD_MS) {
            return Ok(());
        }
        let missing = self.told.values().find(|other| {
            let there = cloud.hosts.engines().any(|(_, member, guard, _)| {
                *member == other.member && guard.generation() >= other.generation
            });
            let here = serves(cloud, &other.member) && there;
            // One that was removed, or stopped, is not to be there.
            let awaited = other.run && other.phase != MemberPhase::Removed && other.generation.0 > 1;
            let fell = self.fell.get(&other.member).filter(|_| self.served.contains(&other.member));
            let cut = other.holder.as_ref().and_then(|node| self.silent.get(node));
            let late = |since: &Time| at.since(*since).as_millis() < SILENT_MS;
            let unheard = fell.is_some_and(late) || cut.is_some_and(late);
            other.service == now.service && other.member != now.member && awaited && !here && !unheard
        });
        missing.map_or(Ok(()), |other| {
            Err(format!("{} is told to restart, and {} was told and is not there", now.member, other.member))
        })
    }
}

fn serves(cloud: &Cloud, member: &MemberName) -> bool {
    let mut engines = cloud.hosts.engines().filter(|(_, name, ..)| *name == member);
    engines.any(|(node, name, ..)| cloud.observe_engine(node, name).ready)
}

/// The primary goes last, and is not deposed while it serves.
#[derive(Debug, Default)]
pub(super) struct Primaries {
    told: BTreeMap<MemberName, MemberRecorded>,
    /// When each was told last to restart. One that was added later has been told less often than the others.
    told_at: BTreeMap<MemberName, Time>,
    leads_since: BTreeMap<MemberName, Time>,
    /// By service: since when nobody was chosen to lead.
    electing: BTreeMap<ServiceName, Time>,
    service_of: BTreeMap<MemberName, ServiceName>,
    confirmed: bool,
}

/// How long a change of role that was decided before may be under way.
const UNDER_WAY_MS: u128 = 5_000;
/// How long a primary has to lead to be known as one.
const KNOWN_MS: u128 = 15_000;

impl Rule for Primaries {
    fn id(&self) -> &'static str {
        "S12"
    }

    fn says(&self) -> &'static str {
        "a restart comes to the primary last, no election begins while it serves, and nobody leads before being chosen"
    }

    fn fact(&mut self, at: Time, fact: &Fact, state: &State) -> Result<(), String> {
        match fact {
            Fact::Leads { member, leads: true, .. } => {
                self.leads_since.insert(member.clone(), at);
                let electing = self.service_of.get(member).and_then(|service| self.electing.get(service));
                match electing {
                    Some(since) if at.since(*since).as_millis() >= UNDER_WAY_MS => {
                        Err(format!("{member} leads, and nobody was chosen since {since}"))
                    }
                    _ => Ok(()),
                }
            }
            Fact::Scripted { text } => {
                self.confirmed |= text.starts_with("ConfirmDead");
                Ok(())
            }
            Fact::MemberRecorded(now) => {
                self.service_of.insert(now.member.clone(), now.service.clone());
                let before = self.told.insert(now.member.clone(), (**now).clone());
                let raised =
                    before.is_some_and(|before| before.id == now.id && now.generation > before.generation);
                // One that leads where an operator says nothing runs is not the one that is told.
                let node = leads(&state.cloud, &now.member);
                let told_before = match raised {
                    true => self.told_at.insert(now.member.clone(), at),
                    false => None,
                };
                if raised && node.is_some() && node == now.holder {
                    return self.last(now, told_before, &state.cloud);
                }
                Ok(())
            }
            Fact::LeadRecorded { service, role } if role.phase != RolePhase::Electing => {
                self.electing.remove(service);
                Ok(())
            }
            Fact::LeadRecorded { service, role } => {
                self.electing.entry(service.clone()).or_insert(at);
                let Some(old) = &role.previous else { return Ok(()) };
                let heard = leads(&state.cloud, old).is_some_and(|node| {
                    let host = state.cloud.hosts.get(&node);
                    let troubled = state.cloud.troubles.until(Trouble::Hung, old, at).is_some();
                    host.is_some_and(|host| !host.paused && !host.cut.peers && !host.cut.clients && !troubled)
                });
                let known = self.leads_since.get(old).is_some_and(|s| at.since(*s).as_millis() >= KNOWN_MS);
                if heard && known && !self.confirmed {
                    return Err(format!("{service} elects a primary while {old} leads and serves"));
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }
}

impl Primaries {
    fn last(&self, now: &MemberRecorded, told_before: Option<Time>, cloud: &Cloud) -> Result<(), String> {
        let mut others = self.told.values().filter(|other| other.service == now.service);
        let later = others.find(|other| {
            let told_since = self.told_at.get(&other.member).copied() > told_before;
            other.generation < now.generation && !told_since && serves(cloud, &other.member)
        });
        later.map_or(Ok(()), |other| {
            Err(format!("the primary {} is restarted before {}", now.member, other.member))
        })
    }
}

/// The node where a member leads, in truth.
fn leads(cloud: &Cloud, member: &MemberName) -> Option<NodeName> {
    let mut engines = cloud.hosts.engines();
    let found = engines.find(|(node, name, _, engine)| {
        *name == member
            && engine.doing == Doing::Leading
            && cloud.observe_engine(node, name).role == Role::Primary
    });
    found.map(|(node, ..)| node.clone())
}
