//! `explain`: what happened, in lanes, and why.

use std::path::PathBuf;

use serde::Serialize;
use steadfast_sim::plan::{Expected, PlanFile};
use steadfast_sim::report::{Story, html, text};
use steadfast_sim::run::{Outcome, Violation, run};
use steadfast_sim::search::{Case, CaseError};

use super::exit::{Exit, Failure, Result};
use super::{Global, output};

#[derive(Debug, clap::Args)]
pub(crate) struct ExplainArgs {
    /// A plan file, or a line that begins with `plan:`
    #[arg(required_unless_present = "scenario")]
    plan: Option<String>,
    /// Instead of a plan: this reference scenario, without faults
    #[arg(long, value_name = "NAME", conflicts_with = "plan")]
    scenario: Option<String>,
    /// On this profile
    #[arg(long, value_name = "NAME", default_value = "embedded")]
    profile: String,
    /// With this seed
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Write one page with the timeline
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// Show who called most, too
    #[arg(long)]
    calls: bool,
}

#[derive(Debug, Serialize)]
struct Told {
    violations: Vec<Violation>,
    trace: String,
    calls: u64,
    simulated_ms: u64,
    faults: usize,
    lanes: String,
    difference: String,
}

pub(crate) fn explain(global: &Global, args: &ExplainArgs) -> Result<Exit> {
    let plan = match (&args.plan, &args.scenario) {
        (Some(from), _) => PlanFile::read(from)?,
        (None, Some(name)) => {
            let case = Case::new(name, &args.profile, args.seed);
            PlanFile::new(&format!("{name} on {}", args.profile), case, Expected::Holds, 0)
        }
        (None, None) => return Err(Failure::new(Exit::Usage, "give a plan or a scenario")),
    };
    let outcome = carry(&plan.case)?;
    let story = Story::of(&outcome);
    let mut told = text::lanes(&story);
    let mut difference = String::new();
    if let Some((last, without)) = plan.case.faults.split_last() {
        let calm = carry(&plan.case.with(without.to_vec()))?;
        difference = text::difference(&Story::of(&calm), &story);
        told.push_str(&format!(
            "\nwhat the last fault changes ({:?} at {}; - without it, + with it):\n{difference}",
            last.fault, last.at
        ));
    }
    if args.calls {
        told.push_str("\nwho called most:\n");
        told.push_str(&text::busiest(&outcome, 30));
    }
    let (calls, simulated_ms) = (outcome.timings.calls, outcome.timings.simulated_ms);
    let broken = outcome.violations.first().map_or("every rule holds".to_owned(), |violation| {
        format!("{} is broken at {}: {}", violation.rule, violation.at, violation.text)
    });
    told.push_str(&format!(
        "\n{broken}\n{calls} calls and {} faults in {} s of its own time, trace {:016x}\n",
        outcome.fired.len(),
        simulated_ms / 1000,
        outcome.hash
    ));
    let value = Told {
        violations: outcome.violations.clone(),
        trace: format!("{:016x}", outcome.hash),
        calls,
        simulated_ms,
        faults: outcome.fired.len(),
        lanes: told.clone(),
        difference: difference.clone(),
    };
    output::result(global.output, &told, &value)?;
    if let Some(path) = &args.html {
        let notes = if difference.is_empty() {
            broken
        } else {
            format!("{broken}\n\nWhat the last fault changes (- without it, + with it):\n{difference}")
        };
        output::file(path, &html::page(&plan.title, &story, &notes))?;
    }
    Ok(Exit::Done)
}

fn carry(case: &Case) -> Result<Outcome> {
    Ok(run(&case.build()?).map_err(CaseError::Invalid)?)
}
