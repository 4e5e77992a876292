//! What clients were told is safe.

use std::collections::{BTreeMap, BTreeSet};

use steadfast_core::ids::{MemberName, RoleTerm, ServiceName};
use steadfast_core::model::RolePhase;

use super::Rule;
use crate::model::engine::Doing;
use crate::model::{Cloud, Fact};
use crate::run::{Action, Scenario, ServiceFile, client_of, first_write};
use crate::time::Time;
use crate::world::State;

/// The services that promise to lose no write, by the numbers of their clients.
#[derive(Debug)]
pub(super) struct Promised(BTreeMap<u64, String>);

impl Promised {
    pub(super) fn of(scenario: &Scenario) -> Self {
        let available = |value: &serde_json::Value| value.as_str() == Some("available");
        let strict =
            scenario.services.iter().filter(|file| !file.more.get("durability").is_some_and(available));
        let services = strict.filter(|file| !is_thrown_away(scenario, file)).flat_map(|file| {
            (0..scenario.clients.per_service)
                .map(|index| (client_of(first_write(index, &file.name)), file.name.clone()))
        });
        Promised(services.collect())
    }

    /// What clients of a service were told is safe.
    pub(super) fn safe<'a>(&'a self, cloud: &'a Cloud, service: &'a str) -> impl Iterator<Item = &'a u64> {
        let of_service = move |write: &&u64| self.0.get(&client_of(**write)).is_some_and(|of| of == service);
        cloud.truth.acknowledged.keys().filter(of_service)
    }
}

/// No write that was acknowledged is lost.
#[derive(Debug)]
pub(super) struct Acknowledged(Promised);

impl Acknowledged {
    pub(super) fn new(scenario: &Scenario) -> Self {
        Acknowledged(Promised::of(scenario))
    }
}

impl Rule for Acknowledged {
    fn id(&self) -> &'static str {
        "S13"
    }

    fn says(&self) -> &'static str {
        "whatever a client was told is safe is there at the end: with whoever leads, or if nobody does on a volume"
    }

    fn fact(&mut self, _at: Time, _fact: &Fact, _state: &State) -> Result<(), String> {
        Ok(())
    }

    fn end(&mut self, _at: Time, state: &State) -> Result<(), String> {
        let cloud = &state.cloud;
        let services: BTreeSet<&String> = self.0.0.values().collect();
        for service in services {
            let safe: Vec<&u64> = self.0.safe(cloud, service).collect();
            let (kept, place) = kept(cloud, service);
            let lost: Vec<&&u64> = safe.iter().filter(|write| !kept.contains(write)).collect();
            if !lost.is_empty() {
                let some = &lost[..lost.len().min(5)];
                return Err(format!(
                    "{} of {} acknowledged writes to {service} are not {place}: {some:?}",
                    lost.len(),
                    safe.len()
                ));
            }
        }
        Ok(())
    }
}

/// Who is chosen to lead has everything that was ever acknowledged.
///
/// The end does not tell: one that has forgotten what it once confirmed may be chosen, and another one after it.
#[derive(Debug)]
pub(super) struct Chosen {
    promised: Promised,
    terms: BTreeMap<ServiceName, RoleTerm>,
}

impl Chosen {
    pub(super) fn new(scenario: &Scenario) -> Self {
        Chosen { promised: Promised::of(scenario), terms: BTreeMap::new() }
    }

    fn has_all(&self, cloud: &Cloud, service: &str, member: &MemberName) -> Result<(), String> {
        let has: BTreeSet<u64> = cloud
            .volumes
            .all()
            .filter(|volume| volume.status.spec.member_name == *member)
            .filter_map(|volume| volume.disk.history.as_ref())
            .flat_map(|history| history.writes.iter().copied())
            .collect();
        let safe: Vec<&u64> = self.promised.safe(cloud, service).collect();
        let lacks: Vec<&&u64> = safe.iter().filter(|write| !has.contains(write)).collect();
        if lacks.is_empty() {
            return Ok(());
        }
        Err(format!(
            "{member} is to lead {service}, and lacks {} of {} acknowledged writes: {:?}",
            lacks.len(),
            safe.len(),
            &lacks[..lacks.len().min(5)]
        ))
    }
}

impl Rule for Chosen {
    fn id(&self) -> &'static str {
        "S17"
    }

    fn says(&self) -> &'static str {
        "whoever is chosen to lead, or is elected by its engines, has every write that a client was told is safe"
    }

    fn fact(&mut self, _at: Time, fact: &Fact, state: &State) -> Result<(), String> {
        match fact {
            Fact::LeadRecorded { service, role } if role.phase == RolePhase::Led => {
                let Some(leader) = &role.leader else { return Ok(()) };
                if self.terms.insert(service.clone(), role.term) == Some(role.term) {
                    return Ok(());
                }
                // Its disk was lost since it said what it has, or since it led: nobody is served what it lacks.
                if state.cloud.has_nothing_left(leader) {
                    return Ok(());
                }
                self.has_all(&state.cloud, service.as_str(), leader)
            }
            Fact::Leads { member, node, leads: true, .. } => {
                let launch = state.cloud.hosts.engine(node, member).map(|engine| &engine.launch);
                match launch.filter(|launch| launch.quorum.is_some()) {
                    Some(launch) => self.has_all(&state.cloud, launch.service.as_str(), member),
                    None => Ok(()),
                }
            }
            _ => Ok(()),
        }
    }
}

/// Whether users have asked for the end of a service together with its data.
fn is_thrown_away(scenario: &Scenario, file: &ServiceFile) -> bool {
    let volumes = file.more.get("volumes").and_then(|volumes| volumes.as_array());
    let goes = volumes.is_some_and(|all| all.iter().any(|volume| volume["on_delete"] == "delete"));
    let asked = |action: &Action| matches!(action, Action::Ask(operation, service) if operation == "delete" && service == &file.name);
    goes && scenario.script.iter().any(|scripted| asked(&scripted.action))
}

/// The writes that are left, and where they were looked for.
fn kept(cloud: &Cloud, service: &str) -> (BTreeSet<u64>, &'static str) {
    let leaders: Vec<_> = cloud
        .hosts
        .engines()
        .filter(|(.., engine)| engine.launch.service.as_str() == service && engine.doing == Doing::Leading)
        .filter_map(|(.., engine)| cloud.volumes.get(&engine.volume)?.disk.history.as_ref())
        .collect();
    let (histories, place) = if leaders.is_empty() {
        let of_service = cloud.volumes.all().filter(|volume| {
            let member = volume.status.spec.member_name.as_str();
            member.rsplit_once('-').is_some_and(|(of, _)| of == service)
        });
        (of_service.filter_map(|volume| volume.disk.history.as_ref()).collect(), "on any of its volumes")
    } else {
        (leaders, "with its leader")
    };
    (histories.into_iter().flat_map(|history| history.writes.iter().copied()).collect(), place)
}
