//! What is left at the end of a run, without what two good runs may differ in: identifiers, times, places.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use steadfast_core::registry::RecordSet;

use crate::world::State;

/// What was left at the end of a run.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Ending {
    /// How often each member runs.
    pub members: BTreeMap<String, usize>,
    /// How many members of each service take writes.
    pub leaders: BTreeMap<String, usize>,
    /// The most members of one service that share a node, while a node of those that run has none.
    pub crowded: usize,
    /// How many volumes belong to each member.
    pub volumes: BTreeMap<String, usize>,
    /// How many addresses belong to each member.
    pub addresses: BTreeMap<String, usize>,
    /// The names, and whose addresses they hold; names that follow a role hold `*` for whoever has it.
    pub names: BTreeMap<String, Vec<String>>,
    /// How many records there are of each kind.
    pub records: BTreeMap<String, usize>,
    /// How many calls of ours may have changed something outside a machine.
    pub changing_calls: u64,
}

impl Ending {
    pub(super) fn of(state: &State) -> Self {
        let cloud = &state.cloud;
        let mut ending = Ending::default();
        let mut on: BTreeMap<(&str, &str), usize> = BTreeMap::new();
        for (node, member, _, engine) in cloud.hosts.engines() {
            *ending.members.entry(member.to_string()).or_default() += 1;
            let service = engine.launch.service.as_str();
            *on.entry((service, node.as_str())).or_default() += 1;
            if engine.doing == crate::model::engine::Doing::Leading {
                *ending.leaders.entry(service.to_owned()).or_default() += 1;
            }
        }
        let busiest = on.values().copied().max().unwrap_or(0);
        let idle = cloud
            .hosts
            .all()
            .filter(|(_, host)| host.running)
            .any(|(node, _)| !on.keys().any(|(_, used)| *used == node.as_str()));
        ending.crowded = if idle { busiest } else { 0 };
        let mut owners: BTreeMap<String, String> = BTreeMap::new();
        for volume in cloud.volumes.all() {
            let spec = &volume.status.spec;
            owners.insert(spec.member.to_string(), spec.member_name.to_string());
            *ending.volumes.entry(spec.member_name.to_string()).or_default() += 1;
        }
        let mut holders: BTreeMap<IpAddr, String> = BTreeMap::new();
        for address in cloud.ips.list() {
            let owner = owners.get(&address.owner.to_string()).cloned();
            let owner = owner.unwrap_or_else(|| "nobody".to_owned());
            holders.insert(address.address, owner.clone());
            *ending.addresses.entry(owner).or_default() += 1;
        }
        for (name, set) in cloud.dns.all() {
            // A name may have addresses and service targets.
            let whose = whose(name.as_str(), set, &holders);
            ending.names.entry(name.to_string()).or_default().extend(whose);
        }
        for key in cloud.store.all().keys() {
            let kind = key.segments().nth(2).unwrap_or_default().to_owned();
            *ending.records.entry(kind).or_default() += 1;
        }
        let outside = state.sites.all().iter().filter(|site| site.writes && !site.local);
        let outside = outside.filter(|site| !site.operation.starts_with("metadata."));
        ending.changing_calls = outside.map(|site| u64::from(site.calls)).sum();
        ending
    }
}

fn whose(name: &str, set: &RecordSet, holders: &BTreeMap<IpAddr, String>) -> Vec<String> {
    let by_role = name.starts_with("primary.") || name.starts_with("replicas.");
    match set {
        RecordSet::Addresses(set) => {
            let holder = |address| match holders.get(address) {
                Some(_) if by_role => "*".to_owned(),
                Some(holder) => holder.clone(),
                None => "nobody".to_owned(),
            };
            let mut whose: Vec<String> = set.iter().map(holder).collect();
            whose.sort();
            whose
        }
        RecordSet::Services(set) => vec![format!("{} services", set.len())],
    }
}
