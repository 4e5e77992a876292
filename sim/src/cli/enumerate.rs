//! `enumerate`.

use std::time::Duration;

use steadfast_sim::plan::{Expected, PlanFile};
use steadfast_sim::run::run;
use steadfast_sim::search::enumerate::{self as search, Failure as Broken, Options, Report};

use super::exit::{Exit, Result};
use super::{Global, duration, output};

#[derive(Debug, clap::Args)]
pub(crate) struct EnumerateArgs {
    /// Only these reference scenarios
    #[arg(long = "scenario", value_name = "NAME")]
    scenarios: Vec<String>,
    /// Only these profiles
    #[arg(long = "profile", value_name = "NAME")]
    profiles: Vec<String>,
    /// The seed of every run
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// The most calls of one site that get a fault: the first, the last, and some between
    #[arg(long, default_value_t = 1, value_name = "COUNT", value_parser = clap::value_parser!(u16).range(1..))]
    per_site: u16,
    /// Every site and class on every profile, instead of on one of them in turn
    #[arg(long)]
    every_profile: bool,
    /// How long it may take
    #[arg(long, value_parser = duration, value_name = "DURATION")]
    budget: Option<Duration>,
}

pub(crate) fn enumerate(global: &Global, args: &EnumerateArgs) -> Result<Exit> {
    let options = Options {
        scenarios: args.scenarios.clone(),
        profiles: args.profiles.clone(),
        classes: Vec::new(),
        seed: args.seed,
        per_site: usize::from(args.per_site),
        every_profile: args.every_profile,
        jobs: global.jobs(),
        budget: args.budget,
    };
    let report = search::enumerate(&options, &run)?;
    output::result(global.output, &text(&report), &report)?;
    let exit = match &report {
        report if report.is_good() => Exit::Done,
        Report { failures, uncovered, inert, .. }
            if failures.is_empty() && uncovered.is_empty() && inert.is_empty() =>
        {
            Exit::TimedOut
        }
        _ => Exit::Error,
    };
    if let Some(failure) = report.failures.first() {
        output::line(&format!("replay: {}", plan_of(failure).command()));
    }
    Ok(exit)
}

/// The plan of a failure.
pub(crate) fn plan_of(broken: &Broken) -> PlanFile {
    let rule = broken.violation.rule.clone();
    PlanFile::new(&broken.violation.text, broken.case.clone(), Expected::Violates(rule), 0)
}

fn text(report: &Report) -> String {
    let Report { references, sites, calls, runs, left, behind_faults, elapsed, .. } = report;
    let mut text = format!(
        "{references} reference runs, {calls} calls at {sites} sites, {behind_faults} sites behind faults; \
         {runs} runs in {:.1} s\n",
        elapsed.as_secs_f64()
    );
    for (class, count) in &report.classes {
        text.push_str(&format!(
            "  {class:?}: befell {} calls, made a difference to {}\n",
            count.fired, count.changed
        ));
    }
    for class in &report.inert {
        text.push_str(&format!(
            "INERT {class:?}: it never made a difference, so nothing was tested with it\n"
        ));
    }
    for site in &report.uncovered {
        text.push_str(&format!("UNCOVERED {site}: a run came by it, and it was never enumerated\n"));
    }
    if *left > 0 {
        text.push_str(&format!("{left} runs are left: the budget was spent first\n"));
    }
    for Broken { case, violation } in &report.failures {
        let faults: Vec<String> =
            case.faults.iter().map(|planned| format!("{:?} at {}", planned.fault, planned.at)).collect();
        let Broken { case, .. } = &Broken { case: case.clone(), violation: violation.clone() };
        text.push_str(&format!(
            "BROKEN {} {} {}: {} [{}]\n",
            violation.rule,
            case.scenario,
            case.profile,
            violation.text,
            faults.join("; ")
        ));
    }
    text
}
