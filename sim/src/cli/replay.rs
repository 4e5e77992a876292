//! `replay`.

use serde::Serialize;
use steadfast_sim::plan::{Expected, Found, PlanFile, Replay};
use steadfast_sim::run::run;

use super::exit::{Exit, Failure, Result};
use super::{Global, output};

#[derive(Debug, clap::Args)]
pub(crate) struct ReplayArgs {
    /// Plan files, folders of them, or lines that begin with `plan:`
    #[arg(required = true, value_name = "PLAN")]
    plans: Vec<String>,
    /// Hold every plan to its trace, byte for byte
    #[arg(long)]
    exact: bool,
}

#[derive(Debug, Serialize)]
struct Told {
    plan: String,
    title: String,
    replay: Replay,
}

pub(crate) fn replay(global: &Global, args: &ReplayArgs) -> Result<Exit> {
    let mut told = Vec::new();
    let mut exit = Exit::Done;
    let mut command = None;
    for from in files(&args.plans)? {
        let mut plan = PlanFile::read(&from)?;
        if args.exact {
            plan.mode = steadfast_sim::plan::Mode::Exact;
        }
        let replay = plan.replay(&run)?;
        let ends = match &replay.found {
            Found::AsExpected => Exit::Done,
            Found::Stale(_) => Exit::Stale,
            _ => Exit::Error,
        };
        if ends != Exit::Done {
            exit = if exit == Exit::Error { exit } else { ends };
            command = Some(plan.command());
        }
        if global.output == output::Format::Text {
            output::line(&line(&from, &plan, &replay));
        }
        told.push(Told { plan: from, title: plan.title, replay });
    }
    if global.output == output::Format::Json {
        output::result(global.output, "", &told)?;
    }
    if let Some(command) = command {
        output::line(&format!("replay: {command}"));
    }
    Ok(exit)
}

/// The plans that are meant: files as they are, of folders the plans in them.
fn files(plans: &[String]) -> Result<Vec<String>> {
    let mut files = Vec::new();
    for plan in plans {
        if !std::path::Path::new(plan).is_dir() {
            files.push(plan.clone());
            continue;
        }
        let entries = std::fs::read_dir(plan)
            .map_err(|error| Failure::new(Exit::NotFound, format!("cannot read {plan}: {error}")))?;
        let names = entries.filter_map(|entry| entry.ok().map(|entry| entry.path()));
        let mut found: Vec<String> = names
            .filter(|path| path.extension().is_some_and(|extension| extension == "json"))
            .map(|path| path.to_string_lossy().into_owned())
            .collect();
        found.sort();
        if found.is_empty() {
            return Err(Failure::new(Exit::NotFound, format!("there is no plan in {plan}")));
        }
        files.extend(found);
    }
    Ok(files)
}

fn line(from: &str, plan: &PlanFile, replay: &Replay) -> String {
    let name = if from.starts_with(steadfast_sim::plan::INLINE) { "the pasted plan" } else { from };
    let broken = replay.violation.as_ref().map_or_else(
        || "every rule holds".to_owned(),
        |violation| format!("{} is broken at {}: {}", violation.rule, violation.at, violation.text),
    );
    let expected = match &plan.expected {
        Expected::Holds => "every rule to hold".to_owned(),
        Expected::Violates(rule) => format!("{rule} to be broken"),
    };
    match &replay.found {
        Found::AsExpected if replay.same_trace => format!("ok {name}: {broken}, by the same trace"),
        Found::AsExpected => format!("ok {name}: {broken}"),
        Found::Stale(missing) => {
            let keys: Vec<String> =
                missing.iter().map(|planned| format!("{:?} at {}", planned.fault, planned.at)).collect();
            format!(
                "STALE {name}: nobody makes these calls any more, so the plan tests nothing: {}; find the calls' new \
                 names with `steadfast-sim enumerate`, or write the plan anew",
                keys.join("; ")
            )
        }
        Found::OtherTrace => format!(
            "CHANGED {name}: {broken} as expected, but the trace is {} and was {}; in semantic mode that is fine",
            replay.trace, plan.trace
        ),
        Found::Broken | Found::Other | Found::Held => {
            format!("FAILED {name}: expected {expected}, but {broken}")
        }
    }
}
