//! `run`: the random search.

use std::path::PathBuf;
use std::time::Duration;

use steadfast_sim::run::run as carry;
use steadfast_sim::search::random::{self, Options, Report};

use super::exit::{Exit, Failure, Result};
use super::{Global, duration, failures, output};

#[derive(Debug, clap::Args)]
pub(crate) struct RunArgs {
    /// Only these reference scenarios
    #[arg(long = "scenario", value_name = "NAME")]
    scenarios: Vec<String>,
    /// Only these profiles
    #[arg(long = "profile", value_name = "NAME")]
    profiles: Vec<String>,
    /// What everything is drawn from: the same seed makes the same cases
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// How long it may take
    #[arg(long, value_parser = duration, value_name = "DURATION", default_value = "60s")]
    budget: Duration,
    /// The most runs
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..))]
    runs: Option<u32>,
    /// Shrink what breaks, and keep the plans in this folder
    #[arg(long, value_name = "DIR")]
    save: Option<PathBuf>,
}

pub(crate) fn run(global: &Global, args: &RunArgs) -> Result<Exit> {
    let options = Options {
        scenarios: args.scenarios.clone(),
        profiles: args.profiles.clone(),
        seed: args.seed,
        jobs: global.jobs(),
        budget: Some(args.budget),
        runs: args.runs.and_then(|runs| usize::try_from(runs).ok()),
    };
    let report = random::search(&options, &carry)?;
    if report.runs == 0 {
        return Err(Failure::new(
            Exit::TimedOut,
            "the budget was spent before one run was over: give a longer one",
        ));
    }
    let shrunk = failures::shrink(&report.failures);
    output::result(global.output, &text(&report, global.output), &report)?;
    failures::junit(global, "run", &shrunk, report.runs, report.elapsed)?;
    failures::keep(args.save.as_deref(), &shrunk)?;
    failures::tell(&shrunk);
    // A short or narrow search cannot come by everything.
    let whole = args.scenarios.is_empty() && args.profiles.is_empty() && report.runs >= ENOUGH;
    let inert = whole && !(report.inert.is_empty() && report.never.is_empty());
    Ok(if report.failures.is_empty() && !inert { Exit::Done } else { Exit::Error })
}

/// After so many runs every class and everything that happens sometimes has to have come up.
const ENOUGH: usize = 500;

fn text(report: &Report, _: output::Format) -> String {
    let Report { runs, tuples, kept, broken, simulated_s, elapsed, .. } = report;
    let mut text = format!(
        "{runs} runs of {:.1} simulated hours in {:.1} s; {tuples} (step, class, state), {kept} cases kept, {broken} \
         runs broke something\n",
        *simulated_s as f64 / 3600.0,
        elapsed.as_secs_f64()
    );
    text.push_str(&failures::classes(&report.classes, &report.inert, &report.never));
    text
}
