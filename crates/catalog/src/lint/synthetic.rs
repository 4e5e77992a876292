//! Made-up members, for rendering templates that no service has been made from yet.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;

use serde_json::Value;
use steadfast_core::engine::{EngineContext, EngineView, Peer};
use steadfast_core::ids::{Epoch, InvalidId, MemberName};
use steadfast_core::model::{Durability, Position, Role};

use crate::format::{Format, OptionType, Probe};
use crate::probe::{Facts, sample_facts};

/// What a made-up service is made of.
pub(super) struct Made<'a> {
    pub(super) replicas: u32,
    pub(super) durability: Durability,
    pub(super) options: &'a BTreeMap<String, Value>,
    /// Whether its first member learns.
    pub(super) learner: bool,
}

/// The first member of a made-up service.
pub(super) fn member(format: &Format, made: &Made<'_>) -> Result<EngineContext, InvalidId> {
    let Made { replicas, durability, options, learner } = *made;
    let service = "orders".parse()?;
    let group = steadfast_core::ids::GroupName::main();
    let peers: Vec<Peer> = (0..replicas)
        .map(|ordinal| {
            let name = MemberName::of(&service, &group, ordinal)?;
            let last = u8::try_from(ordinal % 250 + 1).unwrap_or(1);
            let host = format!("{name}.demo.steadfast.internal");
            let address = Some(IpAddr::V4(Ipv4Addr::new(127, 77, 0, last)));
            Ok(Peer { name, ordinal, host, address })
        })
        .collect::<Result<_, InvalidId>>()?;
    Ok(EngineContext {
        cluster: "demo".parse()?,
        service,
        group,
        member: peers[0].clone(),
        peers,
        node: "node-1".parse()?,
        zone: "zone-a".parse()?,
        epoch: Epoch(1),
        learner,
        durability,
        options: options.clone(),
        ports: format.ports.iter().map(|port| (port.name.clone(), port.port)).collect(),
        volumes: format
            .volumes
            .iter()
            .map(|volume| (volume.name.clone(), PathBuf::from(format!("/volumes/{}", volume.name))))
            .collect(),
        run_dir: PathBuf::from("/run/orders-0"),
        secrets: format.secrets.iter().map(|name| (name.clone(), SECRET.to_owned())).collect(),
    })
}

/// What stands for every secret: quoting must cope with it.
pub(super) const SECRET: &str = "s3cret 'with\" $odd \\characters";

/// What a made-up engine says of itself.
pub(super) fn seen(format: &Format) -> (EngineView, Facts) {
    let view = EngineView {
        alive: true,
        ready: true,
        role: Role::Replica,
        follows: Some(IpAddr::V4(Ipv4Addr::new(127, 77, 0, 2))),
        position: Some(Position { timeline: 1, offset: 1 }),
        lag: Some(0),
        recovering: None,
        problem: None,
        voters: None,
    };
    (view, sample_facts(&format.probe))
}

/// Sets of options to try: the defaults, and each option at each of its ends with the others at their defaults.
pub(super) fn option_sets(format: &Format) -> Vec<BTreeMap<String, Value>> {
    let defaults: BTreeMap<String, Value> =
        format.options.iter().map(|(name, option)| (name.clone(), option.default.clone())).collect();
    let mut sets = vec![defaults.clone()];
    for (name, option) in &format.options {
        let tried: Vec<Value> = match option.kind {
            OptionType::Bool => vec![Value::from(true), Value::from(false)],
            OptionType::Enum => option.values.iter().map(|value| Value::from(value.as_str())).collect(),
            OptionType::String => vec![Value::from("a 'text' with \"quotes\"")],
            OptionType::Int | OptionType::Duration | OptionType::Size => {
                option.min.iter().chain(&option.max).cloned().collect()
            }
        };
        for value in tried {
            let mut set = defaults.clone();
            set.insert(name.clone(), value);
            sets.push(set);
        }
    }
    sets
}

/// The numbers of members to try.
pub(super) fn replica_counts(format: &Format) -> Vec<u32> {
    let mut counts = vec![format.replicas.min, format.replicas.default, format.replicas.max.min(9)];
    counts.dedup();
    counts
}

/// Whether the blueprint's probe tells facts that expressions can use.
pub(super) fn tells_facts(format: &Format) -> bool {
    matches!(format.probe, Probe::Redis(_) | Probe::Postgresql(_) | Probe::Zookeeper(_))
}
