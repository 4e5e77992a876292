//! `enumerate`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use steadfast_sim::fault::Class;
use steadfast_sim::run::run;
use steadfast_sim::search::Case;
use steadfast_sim::search::enumerate::{self as search, Difference, Failure as Broken, Options, Report};
use steadfast_sim::search::pairs as search_pairs;

use super::exit::{Exit, Result};
use super::{Global, duration, failures, output};

#[derive(Debug, clap::Args)]
pub(crate) struct EnumerateArgs {
    /// Only these reference scenarios
    #[arg(long = "scenario", value_name = "NAME")]
    scenarios: Vec<String>,
    /// Only these profiles
    #[arg(long = "profile", value_name = "NAME")]
    profiles: Vec<String>,
    /// Only these classes of faults: late_effect, crash_after…
    #[arg(long = "class", value_name = "NAME", value_parser = class)]
    classes: Vec<Class>,
    /// The seed of every run
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// The most calls of one site that get a fault: the first, the last, and some between
    #[arg(long, default_value_t = 1, value_name = "COUNT", value_parser = clap::value_parser!(u16).range(1..))]
    per_site: u16,
    /// Every site and class on every profile, instead of on one of them in turn
    #[arg(long)]
    every_profile: bool,
    /// Each site and class in one scenario after another, instead of in every one that comes by it
    #[arg(long, conflicts_with = "every_profile")]
    fold: bool,
    /// Every run from its beginning, instead of once up to where runs that differ in their last fault part
    #[arg(long)]
    apart: bool,
    /// A second fault in the wake of the first, so many for each
    #[arg(long, value_name = "COUNT", num_args = 0..=1, default_missing_value = "4", value_parser = clap::value_parser!(u16).range(1..))]
    pairs: Option<u16>,
    /// How long it may take
    #[arg(long, value_parser = duration, value_name = "DURATION")]
    budget: Option<Duration>,
    /// Keep the shrunk plans of what breaks in this folder
    #[arg(long, value_name = "DIR")]
    save: Option<PathBuf>,
}

fn class(name: &str) -> std::result::Result<Class, String> {
    let found = serde_json::from_value(name.into());
    found.map_err(|_| {
        let names = Class::ALL.iter().filter_map(|class| serde_json::to_value(class).ok());
        let names: Vec<String> = names.filter_map(|name| Some(name.as_str()?.to_owned())).collect();
        format!("there are: {}", names.join(", "))
    })
}

/// How long after the first fault of a pair the second may come, in milliseconds: longer than any lease.
const WINDOW_MS: u64 = 15_000;

pub(crate) fn enumerate(global: &Global, args: &EnumerateArgs) -> Result<Exit> {
    let options = Options {
        scenarios: args.scenarios.clone(),
        profiles: args.profiles.clone(),
        classes: args.classes.clone(),
        seed: args.seed,
        per_site: usize::from(args.per_site),
        every_profile: args.every_profile,
        fold: args.fold,
        fork: !args.apart,
        jobs: global.jobs(),
        budget: args.budget,
    };
    if let Some(per_first) = args.pairs {
        return pairs(global, options, usize::from(per_first), args.save.as_deref());
    }
    let report = search::enumerate(&options, &run)?;
    let shrunk = failures::shrink(&distinct(&report.failures));
    output::result(global.output, &text(&report), &report)?;
    failures::junit(global, "enumerate", &shrunk, report.runs, report.elapsed)?;
    failures::keep(args.save.as_deref(), &shrunk)?;
    failures::tell(&shrunk);
    Ok(match &report {
        report if report.is_good() => Exit::Done,
        Report { failures, uncovered, inert, never, .. }
            if failures.is_empty() && uncovered.is_empty() && inert.is_empty() && never.is_empty() =>
        {
            Exit::TimedOut
        }
        _ => Exit::Error,
    })
}

/// One failure for each rule, scenario and call.
fn distinct(failures: &[Broken]) -> Vec<Broken> {
    let mut seen = BTreeSet::new();
    failures.iter().filter(|broken| seen.insert(search::place(broken))).cloned().collect()
}

/// A second fault in the wake of the first.
fn pairs(global: &Global, options: Options, per_first: usize, save: Option<&Path>) -> Result<Exit> {
    let options =
        search_pairs::Options { first: options, window_ms: WINDOW_MS, per_first, most_firsts: usize::MAX };
    let report = search_pairs::enumerate(&options, &run)?;
    let shrunk = failures::shrink(&report.failures);
    let search_pairs::Report { firsts, left, pairs, both, broken, elapsed, .. } = &report;
    let text = format!(
        "{pairs} runs with two faults after {firsts} first ones in {:.1} s; in {both} of them both fired; {left} first \
         faults are left; {broken} runs broke a rule",
        elapsed.as_secs_f64()
    );
    output::result(global.output, &text, &report)?;
    failures::junit(global, "pairs", &shrunk, *pairs, *elapsed)?;
    failures::keep(save, &shrunk)?;
    failures::tell(&shrunk);
    // Nobody expects all of them: a budget that is spent is no failure, unless nothing came of it.
    Ok(match (report.failures.is_empty(), *pairs) {
        (true, 0) => Exit::TimedOut,
        (true, _) => Exit::Done,
        (false, _) => Exit::Error,
    })
}

fn text(report: &Report) -> String {
    let Report { references, sites, calls, runs, left, folded, behind_faults, elapsed, .. } = report;
    let mut text = format!(
        "{references} reference runs, {calls} calls at {sites} sites, {behind_faults} sites behind faults; \
         {runs} runs in {:.1} s\n",
        elapsed.as_secs_f64()
    );
    text.push_str(&failures::classes(&report.classes, &report.inert, &report.never));
    for site in &report.uncovered {
        text.push_str(&format!("UNCOVERED {site}: a run came by it, and it was never enumerated\n"));
    }
    if *folded > 0 {
        text.push_str(&format!(
            "{folded} runs are left to the enumeration of every scenario (without --fold)\n"
        ));
    }
    if *left > 0 {
        text.push_str(&format!("{left} runs are left: the budget was spent first\n"));
    }
    if !report.differences.is_empty() {
        let mut kinds: BTreeMap<&str, (usize, &Case)> = BTreeMap::new();
        for Difference { case, told } in &report.differences {
            for told in told {
                kinds.entry(told).or_insert((0, case)).0 += 1;
            }
        }
        text.push_str(&format!("{} runs end otherwise than without faults:\n", report.differences.len()));
        for (told, (count, case)) in kinds {
            let faults: Vec<String> =
                case.faults.iter().map(|planned| format!("{:?} at {}", planned.fault, planned.at)).collect();
            let (scenario, profile) = (&case.scenario, &case.profile);
            text.push_str(&format!(
                "  {count}x {told} (as {scenario} on {profile}: {})\n",
                faults.join("; ")
            ));
        }
    }
    if !report.failures.is_empty() {
        text.push_str(&format!("{} runs broke a rule\n", report.failures.len()));
    }
    text
}
