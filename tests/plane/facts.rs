//! What there is of a service, past the views that are made for users.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;
use steadfast_core::ids::{MemberName, OperationId};
use steadfast_core::model::{Member, Operation};

use super::Api;
use crate::support::cluster::Cluster;

/// The service that these tests are about.
pub const SERVICE: &str = "orders";
/// How many members it has.
pub const MEMBERS: usize = 3;

/// What there is of the service, past the views that are made for users.
#[derive(Debug)]
pub struct Facts {
    pub operations: BTreeSet<OperationId>,
    pub members: BTreeMap<MemberName, Member>,
    /// How often each engine was started, by its own account.
    pub starts: BTreeMap<MemberName, usize>,
    pub volumes: BTreeSet<String>,
    pub addresses: usize,
    pub names: usize,
}

/// The members of the service.
pub fn member_names() -> impl Iterator<Item = MemberName> {
    (0..MEMBERS).map(|ordinal| format!("{SERVICE}-{ordinal}").parse().unwrap())
}

impl Facts {
    /// What there is now.
    pub fn of(cluster: &Cluster, servers: &Api) -> Facts {
        let members: BTreeMap<String, Member> = servers.records(&format!("members/{SERVICE}"));
        let names: BTreeMap<String, Value> = servers.records("dns/names");
        let volumes = std::fs::read_dir(cluster.data().join("volumes")).unwrap().flatten();
        let starts = |member: &MemberName| {
            let answer = cluster.run(["logs", member.as_str()]);
            answer.out.lines().filter(|line| line.contains("oO0OoO0OoO0Oo Redis is starting")).count()
        };
        Facts {
            operations: operations(servers).into_keys().collect(),
            members: members.into_values().map(|member| (member.name.clone(), member)).collect(),
            starts: member_names().map(|member| (member.clone(), starts(&member))).collect(),
            volumes: volumes
                .filter_map(|entry| entry.file_name().into_string().ok())
                .filter(|name| !name.starts_with('.'))
                .collect(),
            addresses: servers.records::<Value>("ip").len(),
            names: names.keys().filter(|name| name.contains(SERVICE)).count(),
        }
    }
}

/// Every operation on record.
pub fn operations(servers: &Api) -> BTreeMap<OperationId, Operation> {
    let all: BTreeMap<String, Operation> = servers.records("operations");
    all.into_values().map(|operation| (operation.id.clone(), operation)).collect()
}
