//! After the storm: everything is repaired, and what is wanted has to be reached and kept.

use std::collections::BTreeMap;
use std::sync::Arc;

use steadfast_core::ids::{MemberName, NodeName};
use steadfast_core::metadata::{Key, Version};
use steadfast_core::model::{NodeStatus, Role, Service};

use super::bound;
use super::declared;
use super::fleet::Fleet;
use super::outcome::Timings;
use super::scenario::{Scenario, ServiceFile};
use super::trouble;
use crate::invariant::Judge;
use crate::model::host::Cut;
use crate::model::{Cloud, Fact};
use crate::time::Time;
use crate::world::World;

/// Repairs everything, but what shall stay dead.
pub(super) fn heal(fleet: &Arc<Fleet>, scenario: &Scenario) {
    let world = fleet.world();
    world.heal();
    world.act(|cloud, now| cloud.truth.note(now, Fact::Healing));
    let nodes: Vec<_> =
        world.look(|state| state.cloud.hosts.all().map(|(node, host)| (node.clone(), host.paused)).collect());
    world.act(|cloud, now| {
        cloud.limits.lift();
        cloud.servers_cut.clear();
        cloud.repair(now);
    });
    for (node, paused) in nodes {
        fleet.cut_node(&node, Cut::default());
        trouble::set_cut(world, &node, scenario.heal.cut.get(node.as_str()).copied());
        if paused {
            world.act(|cloud, now| cloud.pause_host(now, &node, false));
        }
        if let Some(agent) = fleet.agent(&node) {
            world.exec().resume(agent);
        }
    }
    for index in 0..scenario.servers {
        if let Some(server) = fleet.server(index) {
            world.exec().resume(server);
        }
    }
    let mut dead = scenario.heal.dead.clone();
    dead.extend(world.look(|state| {
        let in_zone = state
            .cloud
            .hosts
            .all()
            .filter(|(_, host)| scenario.heal.dead_zones.iter().any(|zone| zone == host.zone.as_str()));
        in_zone.map(|(node, _)| node.to_string()).collect::<Vec<_>>()
    }));
    for node in dead.iter().filter_map(|name| name.parse().ok()) {
        if scenario.heal.dead_zones.is_empty() {
            continue;
        }
        fleet.stop_node(&node);
    }
    fleet.start_all_nodes(&dead);
    fleet.start_missing_agents();
}

/// Waits for the desired state, within its bound, and sees that it stays, without a change being made again and
/// again. What cannot be reached has to be declared, with a reason that is true.
pub(super) fn settle(fleet: &Fleet, judge: &mut Judge, scenario: &Scenario, timings: &mut Timings) {
    const STEP_MS: u64 = 500;
    let world = fleet.world();
    let begun = world.now();
    let bound = begun.plus_millis(bound::of(scenario));
    let mut good_since: Option<(Time, Changes)> = None;
    let mut read = Read::default();
    let mut why = String::new();
    while world.now() < bound.plus_millis(scenario.heal.stable_ms) {
        super::advance(world, judge, scenario, world.now().plus_millis(STEP_MS));
        if !judge.goes_on(scenario) {
            return;
        }
        let now = world.now();
        let all_answered = fleet.all_answered();
        match all_answered
            .and_then(|()| world.look(|state| as_desired(&state.cloud, scenario, now, &mut read)))
        {
            Ok(()) => {
                let (since, before) = good_since.get_or_insert_with(|| (now, Changes::so_far(world)));
                if now.since(*since).as_millis() >= u128::from(scenario.heal.stable_ms) {
                    if let Some(text) = before.again_and_again(world, scenario.heal.stable_ms) {
                        judge.violated(now, "L1", text);
                    }
                    timings.healed_ms =
                        Some(u64::try_from(since.since(begun).as_millis()).unwrap_or(u64::MAX));
                    return;
                }
            }
            Err(reason) => {
                if good_since.take().is_some() {
                    timings.relapses += 1;
                }
                why = reason;
            }
        }
        if good_since.is_none() && now >= bound {
            break;
        }
    }
    match world.look(|state| declared::why_not(state, scenario, world.now())) {
        Ok(text) => world.act(|cloud, now| cloud.truth.note(now, Fact::Blocked { text })),
        Err(told) => {
            let text = format!("what is wanted was not reached, or did not last: {why}; {told}");
            judge.violated(world.now(), "L1", text);
        }
    }
}

/// How many changes each call site has asked for.
struct Changes(Vec<u32>);

impl Changes {
    fn so_far(world: &World) -> Self {
        Changes(world.look(|state| state.sites.all().iter().map(|site| site.calls).collect()))
    }

    /// The call site that goes on changing things although all is as it shall be, if there is one.
    fn again_and_again(&self, world: &World, for_ms: u64) -> Option<String> {
        // What is left to be written down takes a few; what is confirmed from time to time some more.
        let allowed = 4 + u32::try_from(for_ms / 10_000).unwrap_or(u32::MAX);
        world.look(|state| {
            let sites = state.sites.all().iter().enumerate();
            let mut changing = sites.filter(|(_, site)| site.writes && is_ours(site) && !is_heartbeat(site));
            changing.find_map(|(index, site)| {
                let since = site.calls - self.0.get(index).copied().unwrap_or(0);
                (since > allowed).then(|| {
                    format!(
                        "all is as it shall be, and {} was asked {since} more times",
                        site.key(site.calls)
                    )
                })
            })
        })
    }
}

/// What programs of one's own change is for rules of one's own.
fn is_ours(site: &crate::key::Site) -> bool {
    site.actor.starts_with("server@") || site.actor.starts_with("agent@")
}

/// Leases are renewed for ever.
fn is_heartbeat(site: &crate::key::Site) -> bool {
    let lease = ["nodes/", "servers/", "leases/"];
    site.operation == "guards.extend_lease"
        || (site.operation == "metadata.put" && lease.iter().any(|kind| site.resource.starts_with(kind)))
}

/// Whether every service is as it is wanted, by what really runs.
fn as_desired(cloud: &Cloud, scenario: &Scenario, now: Time, read: &mut Read) -> Result<(), String> {
    for file in &scenario.services {
        let wanted = scenario.is_wanted(&file.name);
        let engines: Vec<_> = cloud
            .hosts
            .engines()
            .filter(|(_, _, _, engine)| engine.launch.service.as_str() == file.name)
            .map(|(node, member, _, engine)| (node, member, engine.launch.version.as_str()))
            .collect();
        if !wanted {
            if let Some((node, member, _)) = engines.first() {
                return Err(format!("{member} still runs on {node}"));
            }
            continue;
        }
        for (member, reason) in &scenario.heal.blocked {
            if !declares(cloud, member, reason) {
                return Err(format!("{member} does not say that it waits for {reason}"));
            }
        }
        serves(cloud, scenario, file, &engines, read)?;
        let recent = cloud.truth.last_acknowledged();
        let patience = scenario.clients.every_ms + scenario.clients.patience_ms;
        if scenario.clients.per_service > 0
            && recent.is_none_or(|at| now.since(at).as_millis() > u128::from(patience))
        {
            return Err(format!("no write to {} was confirmed of late", file.name));
        }
    }
    Ok(())
}

/// Whether the agent of a member says that it waits for this.
fn declares(cloud: &Cloud, member: &str, reason: &str) -> bool {
    #[derive(serde::Deserialize)]
    struct Record {
        body: NodeStatus,
    }
    let statuses = cloud.store.all().iter().filter(|(key, _)| key.segments().last() == Some("status"));
    let said = statuses.filter_map(|(_, record)| serde_json::from_slice::<Record>(&record.value).ok());
    said.into_iter().any(|status| {
        let mut members = status.body.members.iter().filter(|(name, _)| name.as_str() == member);
        members.any(|(_, status)| status.blocked.as_ref().is_some_and(|(why, _)| why.as_str() == reason))
    })
}

/// The services' records as they were read last. The store gives every write a version of its own, so what has the
/// same version says the same: it is looked at twice a second, and hardly ever differs.
#[derive(Default)]
struct Read(BTreeMap<String, (Version, Option<Service>)>);

impl Read {
    fn service(&mut self, cloud: &Cloud, file: &ServiceFile) -> Option<&Service> {
        #[derive(serde::Deserialize)]
        struct Stored {
            body: Service,
        }
        let key: Key = format!("steadfast/sim/services/{}", file.name).parse().ok()?;
        let record = cloud.store.all().get(&key)?;
        if self.0.get(&file.name).is_none_or(|(version, _)| *version != record.version) {
            let stored = serde_json::from_slice::<Stored>(&record.value).ok();
            let service = stored.map(|stored| stored.body);
            self.0.insert(file.name.clone(), (record.version.clone(), service));
        }
        self.0.get(&file.name)?.1.as_ref()
    }
}

/// What is still being done to a service, by its record.
fn under_way(cloud: &Cloud, file: &ServiceFile, read: &mut Read) -> Option<String> {
    let service = read.service(cloud, file)?;
    if let Some(operation) = &service.operation {
        return Some(format!("operation {operation} on {} has not ended", file.name));
    }
    let changes =
        service.groups.values().any(|group| group.change.is_some() || group.target() != group.replicas);
    changes.then(|| format!("the members of {} are still changing", file.name))
}

fn serves(
    cloud: &Cloud,
    scenario: &Scenario,
    file: &ServiceFile,
    engines: &[(&NodeName, &MemberName, &str)],
    read: &mut Read,
) -> Result<(), String> {
    let mut running: BTreeMap<&MemberName, usize> = BTreeMap::new();
    let mut leaders = 0;
    let version = scenario.version_of(file);
    for (node, member, runs) in engines {
        *running.entry(member).or_default() += 1;
        if *runs != version {
            return Err(format!("{member} on {node} runs version {runs}, and {version} is wanted"));
        }
        let view = cloud.observe_engine(node, member);
        if !view.ready {
            return Err(format!("{member} on {node} is not ready: {view:?}"));
        }
        if view.role == Role::Learner {
            return Err(format!("{member} on {node} has no vote yet"));
        }
        leaders += usize::from(view.role == Role::Primary);
    }
    if let Some((member, _)) = running.iter().find(|(_, count)| **count > 1) {
        return Err(format!("{member} runs more than once"));
    }
    let replicas = scenario.replicas_of(file);
    if running.len() + scenario.heal.blocked.len() != replicas as usize {
        return Err(format!("{} of {replicas} members of {} run", running.len(), file.name));
    }
    if let Some(text) = under_way(cloud, file, read).filter(|_| scenario.heal.blocked.is_empty()) {
        return Err(text);
    }
    if file.is_led_by_us() && leaders != 1 {
        return Err(format!("{leaders} members of {} take writes", file.name));
    }
    Ok(())
}
