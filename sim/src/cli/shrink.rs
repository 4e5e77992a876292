//! `shrink`.

use std::path::PathBuf;
use std::time::Duration;

use steadfast_sim::plan::{Expected, PlanFile};
use steadfast_sim::run::run;
use steadfast_sim::search::carry_out;
use steadfast_sim::search::pool::Budget;
use steadfast_sim::search::shrink as search;

use super::exit::{Exit, Failure, Result};
use super::{Global, duration, output};

#[derive(Debug, clap::Args)]
pub(crate) struct ShrinkArgs {
    /// A plan file, or a line that begins with `plan:`
    plan: String,
    /// Keep the smallest plan in this file
    #[arg(long, value_name = "FILE")]
    save: Option<PathBuf>,
    /// How long it may take
    #[arg(long, value_parser = duration, value_name = "DURATION", default_value = "60s")]
    budget: Duration,
}

pub(crate) fn shrink(global: &Global, args: &ShrinkArgs) -> Result<Exit> {
    let plan = PlanFile::read(&args.plan)?;
    let budget = Budget::of(Some(args.budget));
    let Some(shrunk) = search::shrink(&plan.case, &run, &budget)? else {
        return Err(Failure::new(Exit::Error, "the plan breaks no rule: there is nothing to shrink"));
    };
    let verdict = carry_out(&shrunk.case)?;
    let mut smallest = PlanFile::new(
        &plan.title,
        shrunk.case.clone(),
        Expected::Violates(shrunk.rule.clone()),
        verdict.hash,
    );
    smallest.commit = commit();
    let faults: Vec<String> = shrunk
        .case
        .faults
        .iter()
        .map(|planned| format!("  {:?} at {}\n", planned.fault, planned.at))
        .collect();
    let text = format!(
        "{} is broken with {} of {} faults ({} runs, {:.1} s)\n{}",
        shrunk.rule,
        shrunk.case.faults.len(),
        shrunk.faults_before,
        shrunk.runs,
        budget.elapsed().as_secs_f64(),
        faults.concat()
    );
    output::result(global.output, &text, &shrunk)?;
    if let Some(path) = &args.save {
        output::file(path, &smallest.text())?;
    }
    output::line(&format!("replay: {}", smallest.command()));
    Ok(Exit::Done)
}

/// The commit of the checkout that this runs in, if it does.
pub(crate) fn commit() -> String {
    let told = std::process::Command::new("git").args(["rev-parse", "--short=12", "HEAD"]).output();
    told.ok()
        .filter(|told| told.status.success())
        .map(|told| String::from_utf8_lossy(&told.stdout).trim().to_owned())
        .unwrap_or_default()
}
