//! Every operation of every contract is reached by some reference run: a new one that no scenario comes by fails here.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

use std::collections::BTreeSet;

use steadfast_sim::run::run;
use steadfast_sim::search::{Case, library};

/// The traits whose every method is a call through the gate, by the file that has them.
const CONTRACTS: &[(&str, &str, &str)] = &[
    ("crates/core/src/metadata.rs", "MetadataDb", "metadata"),
    ("crates/core/src/volume.rs", "VolumeProvider", "volume"),
    ("crates/core/src/ip.rs", "IpProvider", "ip"),
    ("crates/core/src/registry.rs", "Registry", "registry"),
    ("crates/orchestrators/process/src/prover.rs", "NodeProver", "prover"),
    ("crates/agent/src/guards.rs", "Guards", "guards"),
    ("crates/agent/src/host.rs", "NodeHost", "host"),
    ("crates/core/src/engine.rs", "Engine", "engine"),
];

/// Operations that no scenario reaches, and why that is so.
const NOT_REACHED: &[(&str, &str)] = &[
    ("engine.version", "asked by the binary when it lists engines, not by any workflow"),
    ("engine.initialise", "carried out within host.prepare, in a process of its own"),
    ("engine.join", "carried out within host.prepare, in a process of its own"),
    ("engine.reconcile_data", "carried out within host.prepare, in a process of its own"),
    ("host.ports_taken", "looks at the machine itself; simulated machines have every port free"),
    ("host.mount", "puts together what containers see; simulated engines are processes"),
    ("host.unmount", "puts together what containers see; simulated engines are processes"),
    (
        "guards.withdraw",
        "keeps back containers that come up late; simulated engines begin when they are started",
    ),
    ("host.disk", "looks at the machine itself; simulated disks do not fill yet"),
    ("ip.list", "asked by the binary's sweep of addresses that nobody has, not by any workflow"),
    ("registry.ensure_zone", "carried out once by the binary, before any workflow"),
    ("registry.records", "asked by the binary, not by any workflow"),
    ("guards.kill", "asked only of an engine that ignores its stop signal; simulated engines obey"),
    ("volume.delete", "volumes are kept unless a service file says otherwise; no workflow deletes one yet"),
    ("volume.begin_grow", "simulated volumes keep the size that they are made with"),
    ("volume.begin_detach", "asked only where something else holds the volume"),
    ("ip.unassign", "addresses are taken over by assigning them with the expected holder"),
];

/// The asynchronous methods of a trait.
fn methods(file: &str, name: &str) -> Vec<String> {
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/..");
    let text = std::fs::read_to_string(format!("{root}/{file}")).unwrap();
    let begin = text.find(&format!("pub trait {name}")).unwrap();
    let body = &text[begin..];
    let body = &body[..body.find("\n}").unwrap()];
    let found = body.match_indices("    async fn ").map(|(at, before)| {
        let rest = &body[at + before.len()..];
        rest[..rest.find(['(', '<']).unwrap()].to_owned()
    });
    found.collect()
}

#[test]
fn every_operation_of_every_contract_is_reached_or_has_a_reason() {
    let mut reached: BTreeSet<String> = BTreeSet::new();
    for reference in library::ALL {
        for profile in library::PROFILES.iter().filter(|profile| reference.is_for(profile)) {
            let outcome = run(&Case::new(reference.name, profile, 1).build().unwrap()).unwrap();
            reached.extend(outcome.sites.iter().map(|site| site.operation.to_owned()));
        }
    }
    let mut missing = Vec::new();
    for (file, name, prefix) in CONTRACTS {
        let methods = methods(file, name);
        assert!(!methods.is_empty(), "{name} is not found in {file}");
        for method in methods {
            let operation = format!("{prefix}.{method}");
            let has_reason = NOT_REACHED.iter().any(|(other, _)| *other == operation);
            if !reached.contains(&operation) && !has_reason {
                missing.push(operation);
            }
        }
    }
    assert_eq!(
        missing,
        Vec::<String>::new(),
        "add a scenario to sim/src/search/library.rs, or a reason here"
    );
}

#[test]
fn no_reason_is_left_for_an_operation_that_is_not_there() {
    let known: BTreeSet<String> = CONTRACTS
        .iter()
        .flat_map(|(file, name, prefix)| {
            methods(file, name).into_iter().map(move |m| format!("{prefix}.{m}"))
        })
        .collect();
    for (operation, why) in NOT_REACHED {
        assert!(known.contains(*operation), "{operation} ({why}) is no operation any more");
    }
}
