//! The command line: what can be said, and who does it. Verbs are in files of their own.

mod doctor;
mod enumerate;
mod exit;
mod explain;
mod failures;
mod mutants;
mod output;
mod replay;
mod run;
mod shrink;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand};

use exit::Exit;
use output::Format;

/// Search for what breaks the control plane, shrink it, keep it, explain it. Every run follows from its case alone.
#[derive(Debug, Parser)]
#[command(name = "steadfast-sim", version, propagate_version = true, max_term_width = 100)]
#[command(
    after_help = "Exit codes: 0 done, 1 a rule was broken or an error, 3 the budget was spent first, 5 not \
                        found,\n6 a stale plan, 64 usage."
)]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    verb: Verb,
}

/// What every verb understands.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Global options")]
struct Global {
    /// How to print results
    #[arg(short, long, global = true, value_enum, default_value_t, value_name = "FORMAT")]
    output: Format,
    /// Write the results as JUnit XML, too
    #[arg(long, global = true, value_name = "FILE")]
    junit: Option<PathBuf>,
    /// How many runs at once [default: the number of processors]
    #[arg(long, global = true, value_name = "COUNT", value_parser = clap::value_parser!(u16).range(1..))]
    jobs: Option<u16>,
}

impl Global {
    fn jobs(&self) -> usize {
        self.jobs.map_or_else(steadfast_sim::search::pool::processors, usize::from)
    }
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Search at random, with feedback, for so long
    Run(run::RunArgs),
    /// Give every call of every workflow every fault that can befall it, one after another
    Enumerate(enumerate::EnumerateArgs),
    /// Carry plans out and compare with what they expect
    Replay(replay::ReplayArgs),
    /// Find the smallest plan that still breaks the same rule
    Shrink(shrink::ShrinkArgs),
    /// Tell what happens in a run, and what the last fault of its plan changes
    Explain(explain::ExplainArgs),
    /// Plant known bugs, one at a time, and tell which of them are found (in builds with the feature `planted`)
    Mutants(mutants::MutantsArgs),
    /// Repeat cases on fresh threads and in two processes, and find the first event that differs
    Doctor(doctor::DoctorArgs),
}

/// Runs the command line of this process.
pub(crate) fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let exit = if error.use_stderr() { Exit::Usage } else { Exit::Done };
            output::usage(&error);
            return exit.into();
        }
    };
    let done = match &cli.verb {
        Verb::Run(args) => run::run(&cli.global, args),
        Verb::Explain(args) => explain::explain(&cli.global, args),
        Verb::Doctor(args) => doctor::doctor(&cli.global, args),
        Verb::Enumerate(args) => enumerate::enumerate(&cli.global, args),
        Verb::Replay(args) => replay::replay(&cli.global, args),
        Verb::Mutants(args) => mutants::mutants(&cli.global, args),
        Verb::Shrink(args) => shrink::shrink(&cli.global, args),
    };
    done.unwrap_or_else(|failure| output::failure(&failure)).into()
}

/// A duration as people write it: `90s`, `5m`, `1h`, `500ms`.
fn duration(text: &str) -> Result<Duration, String> {
    let split = text.find(|letter: char| !letter.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let number: u64 = number.parse().map_err(|_| "write it like 60s or 5m".to_owned())?;
    let millis = match unit {
        "ms" => Some(number),
        "s" | "" => number.checked_mul(1000),
        "m" => number.checked_mul(60_000),
        "h" => number.checked_mul(3_600_000),
        _ => return Err(format!("\"{unit}\" is no unit: use ms, s, m or h")),
    };
    match millis {
        Some(0) => Err("a budget of nothing finds nothing: give at least 1s".to_owned()),
        Some(millis) => Ok(Duration::from_millis(millis)),
        None => Err("that is too long".to_owned()),
    }
}
