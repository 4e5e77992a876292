//! What clients were told is safe.

use std::collections::{BTreeMap, BTreeSet};

use super::Rule;
use crate::model::engine::Doing;
use crate::model::{Cloud, Fact};
use crate::run::{Action, Scenario, ServiceFile, client_of, first_write};
use crate::time::Time;
use crate::world::State;

/// No write that was acknowledged is lost.
#[derive(Debug)]
pub(super) struct Acknowledged {
    /// The services that promise that, by the numbers of their clients.
    services: BTreeMap<u64, String>,
}

impl Acknowledged {
    pub(super) fn new(scenario: &Scenario) -> Self {
        let available = |value: &serde_json::Value| value.as_str() == Some("available");
        let strict =
            scenario.services.iter().filter(|file| !file.more.get("durability").is_some_and(available));
        let services = strict.filter(|file| !is_thrown_away(scenario, file)).flat_map(|file| {
            (0..scenario.clients.per_service)
                .map(|index| (client_of(first_write(index, &file.name)), file.name.clone()))
        });
        Acknowledged { services: services.collect() }
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
        let services: BTreeSet<&String> = self.services.values().collect();
        for service in services {
            let of_service =
                |write: &&u64| self.services.get(&client_of(**write)).is_some_and(|of| of == service);
            let safe: Vec<&u64> = cloud.truth.acknowledged.keys().filter(of_service).collect();
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
