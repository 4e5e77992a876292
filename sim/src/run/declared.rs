//! Whoever cannot go on has to say so, with a reason that is true: else waiting for ever would pass for caution.

use std::collections::BTreeMap;

use serde_json::Value;
use steadfast_core::ids::{Incarnation, NodeName};

use super::scenario::Scenario;
use crate::model::Cloud;
use crate::time::Time;
use crate::world::State;

/// A reason that was declared, and of what.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Declared {
    of: String,
    reason: String,
    text: String,
}

/// Why what is wanted is not reached, if that was declared and is so.
///
/// # Errors
/// What was declared instead.
pub(super) fn why_not(state: &State, scenario: &Scenario, now: Time) -> Result<String, String> {
    let declared = all(&state.cloud);
    if declared.is_empty() {
        return Err("and nothing was declared".to_owned());
    }
    for found in &declared {
        if is_true(&state.cloud, scenario, found, now) {
            return Ok(format!("{} waits: {}: {}", found.of, found.reason, found.text));
        }
    }
    let told: Vec<String> =
        declared.iter().map(|found| format!("{}: {} ({})", found.of, found.reason, found.text)).collect();
    Err(format!("and of what was declared nothing is so: {}", told.join("; ")))
}

fn records<'a>(cloud: &'a Cloud, kind: &'a str) -> impl Iterator<Item = (Vec<&'a str>, Value)> {
    cloud.store.all().iter().filter_map(move |(key, record)| {
        let segments: Vec<&str> = key.segments().skip(2).collect();
        (segments.first() == Some(&kind))
            .then(|| serde_json::from_slice(&record.value).ok())
            .flatten()
            .map(|value| (segments, value))
    })
}

/// What agents say of members, and servers of services.
fn all(cloud: &Cloud) -> Vec<Declared> {
    let mut found = Vec::new();
    for (segments, value) in records(cloud, "nodes").filter(|(key, _)| key.last() == Some(&"status")) {
        let members = value["body"]["members"].as_object().cloned().unwrap_or_default();
        for (member, status) in members {
            if let (Some(reason), Some(text)) = (status["blocked"][0].as_str(), status["blocked"][1].as_str())
            {
                let of = format!("{member} on {}", segments.get(1).copied().unwrap_or_default());
                found.push(Declared { of, reason: reason.to_owned(), text: text.to_owned() });
            }
        }
    }
    for (segments, value) in records(cloud, "services") {
        let conditions = value["body"]["conditions"].as_array().cloned().unwrap_or_default();
        for condition in conditions {
            if condition["kind"] == "Blocked"
                && condition["status"] == "True"
                && let Some(reason) = condition["reason"].as_str()
            {
                let text = condition["message"].as_str().unwrap_or_default().to_owned();
                let of = segments.get(1).copied().unwrap_or_default().to_owned();
                found.push(Declared { of, reason: reason.to_owned(), text });
            }
        }
    }
    found
}

/// Whether a reason holds in truth.
fn is_true(cloud: &Cloud, scenario: &Scenario, declared: &Declared, now: Time) -> bool {
    match declared.reason.as_str() {
        "FenceUnproven" => unreleased(cloud).iter().any(|(node, life)| {
            !cloud.is_proven_dead(now, node, life) && !lease_is_over(cloud, scenario, node)
        }),
        "StormBrake" => {
            let (mut all, mut lost) = (0_usize, 0_usize);
            for (_, host) in cloud.hosts.all() {
                all += 1;
                lost += usize::from(!host.is_reachable());
            }
            lost * 100 > all * 40
        }
        "DurabilityUnproven" => scenario.services.iter().any(|file| {
            let of_service =
                |engine: &crate::model::engine::Engine| engine.launch.service.as_str() == file.name;
            let up = cloud.hosts.engines().filter(|(.., engine)| engine.up && of_service(engine)).count();
            up < scenario.replicas_of(file) as usize
        }),
        "PlacementNone" | "AttachLimit" => is_full(cloud, scenario) || cloud.any_disk_away(),
        "VolumeCorrupt" => cloud.any_disk_away(),
        "DiskFull" | "IoError" | "VolumeBusy" | "EngineUnhealthy" | "VolumeDetaching" | "VolumeAttaching" => {
            cloud.troubles.any_volume(now)
        }
        _ => false,
    }
}

/// Whether the machines that can be reached are too few, as far as can be told without placing anything: where volumes
/// stay in their zone, one that cannot be reached may be the one that is needed.
fn is_full(cloud: &Cloud, scenario: &Scenario) -> bool {
    let usable = cloud.hosts.all().filter(|(_, host)| host.is_reachable()).count();
    let members: usize = scenario.services.iter().map(|file| scenario.replicas_of(file) as usize).sum();
    let volumes = &scenario.profile.volumes;
    let all_reachable = usable == cloud.hosts.all().count();
    let takes = volumes.attach_limit.map_or(usize::MAX, |limit| usable.saturating_mul(limit as usize));
    usable < members || members > takes || volumes.zonal && !all_reachable
}

/// Earlier holders that have given nothing back, as they are recorded: that they hold it no longer is what has to
/// be proven.
fn unreleased(cloud: &Cloud) -> Vec<(NodeName, Incarnation)> {
    let holders = records(cloud, "members").flat_map(|(_, value)| {
        let holders = value["body"]["unreleased"].as_array().cloned().unwrap_or_default();
        let latest = value["body"]["holder"].clone();
        holders.into_iter().filter(move |holder| *holder != latest).collect::<Vec<_>>()
    });
    let named: BTreeMap<_, _> = holders
        .filter_map(|holder| {
            let node: NodeName = holder["node"].as_str()?.parse().ok()?;
            let life: Incarnation = holder["incarnation"].as_str()?.parse().ok()?;
            Some(((node.clone(), life.clone()), (node, life)))
        })
        .collect();
    named.into_values().collect()
}

/// Whether the lease of a node counts as a proof, and is over: it has been silent for as long as it takes.
fn lease_is_over(cloud: &Cloud, scenario: &Scenario, node: &NodeName) -> bool {
    let accepted = scenario.services.iter().any(|file| {
        file.more.get("fencing").is_some_and(|fencing| fencing["accept_lease"] == Value::Bool(true))
    });
    accepted && cloud.hosts.get(node).is_none_or(|host| !host.is_reachable())
}
