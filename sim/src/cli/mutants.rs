//! `mutants`: whether bugs that are planted on purpose are found.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::builder::{PossibleValuesParser, TypedValueParser as _};
use serde::Serialize;
use steadfast_sim::plan::{Expected, PlanFile};
use steadfast_sim::planted::{self, Budget, Found, Hunt, IN_THIS_BUILD, Planted, Tally};
use steadfast_sim::report::junit::{self, Test};
use steadfast_sim::search::{carry_out, pool};

use super::exit::{Exit, Failure, Result};
use super::{Global, duration, output};

#[derive(Debug, clap::Args)]
pub(crate) struct MutantsArgs {
    /// Only these bugs [default: every bug]
    #[arg(value_name = "BUG", value_parser = bugs(), hide_possible_values = true)]
    bugs: Vec<Planted>,
    /// How long each may be looked for
    #[arg(long, value_parser = duration, value_name = "DURATION", default_value = "5m")]
    budget: Duration,
    /// Keep the plan that finds each in this folder
    #[arg(long, value_name = "DIR")]
    save: Option<PathBuf>,
    /// Write the page of known bugs
    #[arg(long, value_name = "FILE")]
    markdown: Option<PathBuf>,
}

/// Reads the name of a bug; a wrong one is answered with all there are.
fn bugs() -> impl clap::builder::TypedValueParser<Value = Planted> {
    let names = Planted::ALL.iter().map(|bug| bug.name());
    PossibleValuesParser::new(names).try_map(|name| name.parse::<Planted>())
}

#[derive(Debug, Serialize)]
struct Report {
    tally: Tally,
    hunts: Vec<Hunt>,
}

pub(crate) fn mutants(global: &Global, args: &MutantsArgs) -> Result<Exit> {
    if !IN_THIS_BUILD {
        return Err(Failure::new(
            Exit::Usage,
            "this build has no planted bugs; make one that has them: cargo build --profile sim --package \
             steadfast-sim --features planted",
        ));
    }
    let bugs = if args.bugs.is_empty() { Planted::ALL } else { &args.bugs };
    let budget = Budget { time: args.budget, runs: usize::MAX };
    let hunts = pool::over(global.jobs(), bugs, &pool::Budget::of(None), |bug| {
        let hunt = planted::hunt(*bug, budget);
        if let Ok(hunt) = &hunt {
            output::hint(&line(hunt));
        }
        hunt
    });
    let hunts: Vec<Hunt> = hunts
        .into_iter()
        .flatten()
        .collect::<Result<_, String>>()
        .map_err(|why| Failure::new(Exit::Error, why))?;
    let report = Report { tally: Tally::of(&hunts), hunts };
    output::result(global.output, &text(&report), &report)?;
    write_junit(global, &report)?;
    if let Some(folder) = &args.save {
        keep(folder, &report.hunts)?;
    }
    if let Some(path) = &args.markdown {
        let setting = format!("{} hunts at once, of at most {} s each", global.jobs(), args.budget.as_secs());
        output::file(path, &planted::markdown(&report.hunts, &setting))?;
    }
    // Whatever breaks a rule without a bug is a bug that nobody has planted.
    if let Some(found) = report.hunts.iter().find_map(|hunt| hunt.innocent.first()) {
        output::hint(&format!("replay: {}", innocent(found).command()));
        return Ok(Exit::Error);
    }
    Ok(if report.tally.found == report.tally.planted { Exit::Done } else { Exit::Error })
}

fn line(hunt: &Hunt) -> String {
    let Hunt { bug, found, runs, took_ms, .. } = hunt;
    let took = planted::time(*took_ms);
    match found {
        Some(Found { how, violation, scenario }) => format!(
            "{bug:28} {:4} after {took:>6} and {runs:3} runs, by {how}, {}: {}",
            violation.rule, scenario.name, violation.text
        ),
        None => format!("{bug:28} SURVIVES {took} and {runs} runs"),
    }
}

fn text(report: &Report) -> String {
    let mut text: String = report.hunts.iter().map(|hunt| line(hunt) + "\n").collect();
    for hunt in &report.hunts {
        for found in &hunt.innocent {
            text.push_str(&format!(
                "NOT PLANTED: {} is broken without {}, too, by {}: {}\n",
                found.violation.rule, hunt.bug, found.scenario.name, found.violation.text
            ));
        }
    }
    text.push_str(&format!("{}\n", report.tally));
    text
}

/// The run that breaks a rule without the bug.
fn innocent(found: &Found) -> PlanFile {
    let case = steadfast_sim::search::Case { planted: Vec::new(), ..found.case() };
    PlanFile::new("no bug is planted, and a rule is broken", case, Expected::Holds, 0)
}

/// Keeps the plans that find them, once each has done so again.
fn keep(folder: &Path, hunts: &[Hunt]) -> Result<()> {
    for (bug, found) in hunts.iter().filter_map(|hunt| Some((hunt.bug, hunt.found.as_ref()?))) {
        let (case, rule) = (found.case(), found.violation.rule.clone());
        let verdict = carry_out(&case)?;
        if verdict.broke() != Some(&rule) {
            return Err(Failure::new(Exit::Error, format!("the plan of {bug} does not break {rule} again")));
        }
        let title = format!("Planted: {}", bug.says().trim());
        let plan = PlanFile::new(&title, case, Expected::Violates(rule), verdict.hash);
        output::file(&folder.join(format!("{bug}.json")), &plan.text())?;
    }
    Ok(())
}

fn write_junit(global: &Global, report: &Report) -> Result<()> {
    let Some(path) = &global.junit else { return Ok(()) };
    let tests: Vec<Test> = report
        .hunts
        .iter()
        .map(|hunt| Test {
            group: "mutants".to_owned(),
            name: hunt.bug.to_string(),
            took: Duration::from_millis(hunt.took_ms),
            failed: hunt.found.is_none().then(|| (line(hunt), format!("steadfast-sim mutants {}", hunt.bug))),
        })
        .collect();
    output::file(path, &junit::document("steadfast-sim", &tests))
}
