//! Specs and blueprints to begin with.

use std::collections::BTreeMap;
use std::str::FromStr;

use serde_json::Value;

use crate::control::{Blueprints, Resolved};
use crate::ids::GroupName;
use crate::model::{
    Blueprint, Durability, FailoverSpec, FencingSpec, GroupSpec, Leadership, PlacementSpec, RollingOrder,
    ServiceSpec, SpecError, StoredPort, Topology,
};

fn parsed<T: FromStr<Err: std::fmt::Display>>(text: &str) -> T {
    match text.parse() {
        Ok(value) => value,
        Err(error) => panic!("{error}"),
    }
}

/// A spec of the blueprint `store@1`, with every default. Change a field with `ServiceSpec { durability: …,
/// ..service_spec("orders", 3) }`.
///
/// # Panics
/// If `name` is not a service's.
pub fn service_spec(name: &str, replicas: u32) -> ServiceSpec {
    ServiceSpec {
        api_version: ServiceSpec::API_VERSION.to_owned(),
        name: parsed(name),
        blueprint: "store@1".to_owned(),
        replicas: Some(replicas),
        groups: Vec::new(),
        durability: Durability::Strict,
        placement: PlacementSpec::default(),
        volumes: Vec::new(),
        fencing: FencingSpec::default(),
        failover: FailoverSpec::default(),
        options: BTreeMap::new(),
    }
}

/// The blueprint `store@1`: one volume `data` of 1 MiB and one client port 7000. A `PrimaryReplicas` topology is
/// led by Steadfast, with one confirming replica; any other leads itself.
pub fn blueprint(topology: Topology) -> Blueprint {
    let led = topology == Topology::PrimaryReplicas;
    Blueprint {
        name: parsed("store"),
        version: "1".to_owned(),
        digest: "0".repeat(64),
        leadership: if led { Leadership::Steadfast } else { Leadership::Engine },
        topology,
        ports: vec![StoredPort { name: "store".to_owned(), port: 7000, client: true }],
        volumes: vec![(parsed("data"), 1 << 20)],
        confirming_replicas: u32::from(led),
        learners: false,
        rolling: RollingOrder::default(),
        start_deadline_ms: 60_000,
    }
}

/// A catalog of the blueprints it is given. It fills in nothing but the number of members, and refuses
/// blueprints that it does not have.
#[derive(Debug, Clone)]
pub struct FixedBlueprints(pub Vec<Blueprint>);

impl Blueprints for FixedBlueprints {
    fn resolve(&self, spec: &ServiceSpec) -> Result<Resolved, Vec<SpecError>> {
        let (name, version) = spec.blueprint_and_version();
        let matches = |blueprint: &&Blueprint| {
            blueprint.name.as_str() == name && version.is_none_or(|version| version == blueprint.version)
        };
        let Some(blueprint) = self.0.iter().find(matches) else {
            let known: Vec<&str> = self.0.iter().map(|blueprint| blueprint.name.as_str()).collect();
            let remedy = format!("use one of: {}", known.join(", "));
            return Err(vec![SpecError::new(
                "blueprint",
                format!("{:?} is not in the catalog", spec.blueprint),
                remedy,
            )]);
        };
        let groups = if spec.groups.is_empty() {
            vec![GroupSpec { name: GroupName::main(), replicas: spec.replicas.unwrap_or(1) }]
        } else {
            spec.groups.clone()
        };
        Ok(Resolved {
            blueprint: blueprint.clone(),
            groups,
            options: spec.options.clone(),
            secrets: vec!["password".to_owned()],
            stored: Value::Null,
            warnings: Vec::new(),
        })
    }

    fn list(&self) -> Vec<(String, String)> {
        let described = |blueprint: &Blueprint| {
            (format!("{}@{}", blueprint.name, blueprint.version), "for tests".to_owned())
        };
        self.0.iter().map(described).collect()
    }
}
