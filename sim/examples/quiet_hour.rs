//! What a cluster asks of its backends while nothing happens: `cargo run --release --example quiet_hour [PROFILE]`.
//!
//! Three members on four nodes under two servers, with the timers that ship. What asks often has to have a reason, which
//! is told in docs/benchmarks.md.
#![expect(clippy::print_stdout, reason = "this is a program that prints a table")]

use std::collections::BTreeMap;

use steadfast_sim::key::Site;
use steadfast_sim::model::Profile;
use steadfast_sim::run::{Scenario, run};

/// The hour begins after this, when everything is made and has settled.
const BEGIN_MS: u64 = 120_000;
const HOUR_MS: u64 = 3_600_000;

fn main() -> Result<(), String> {
    let name = std::env::args().nth(1).unwrap_or_else(|| "shared-storage".to_owned());
    let profile = match name.as_str() {
        "embedded" => Profile::embedded(),
        "block-storage" => Profile::block_storage(),
        "shared-storage" => Profile::shared_storage(),
        "leases" => Profile::leases(),
        _ => return Err(format!("{name} is no profile: embedded, block-storage, shared-storage or leases")),
    };
    let before = sites(profile.clone(), BEGIN_MS)?;
    let mut rows: BTreeMap<(String, &str, &str, String), u32> = BTreeMap::new();
    for site in sites(profile, BEGIN_MS + HOUR_MS)? {
        let earlier = before.iter().find(|old| old.label == site.label).map_or(0, |old| old.calls);
        let kind = site.actor.split('@').next().unwrap_or_default().to_owned();
        let about = site.resource.split('/').next().unwrap_or_default();
        let about = about.trim_end_matches(|last: char| last.is_ascii_digit()).to_owned();
        *rows.entry((kind, site.workflow, site.operation, about)).or_default() += site.calls - earlier;
    }
    let mut rows: Vec<_> = rows.into_iter().filter(|(_, calls)| *calls > 0).collect();
    rows.sort_by_key(|(_, calls)| std::cmp::Reverse(*calls));
    for ((kind, workflow, operation, about), calls) in &rows {
        println!("{calls:>7}  {kind:<7} {workflow:<12} {operation:<22} {about}");
    }
    println!("{:>7}  in all", rows.iter().map(|(_, calls)| calls).sum::<u32>());
    Ok(())
}

fn sites(profile: Profile, for_ms: u64) -> Result<Vec<Site>, String> {
    let mut scenario = Scenario::calm("quiet", profile, 1);
    scenario.servers = 2;
    scenario.storm_ms = for_ms;
    scenario.heal.stable_ms = 1_000;
    let outcome = run(&scenario)?;
    match outcome.violations.first() {
        None => Ok(outcome.sites),
        Some(broken) => Err(format!("{} is broken: {}", broken.rule, broken.text)),
    }
}
