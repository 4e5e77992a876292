//! `steadfast-sim FILE`: carries out the scenario in a JSON file and tells what came of it.

use std::io::Write as _;
use std::process::ExitCode;

use steadfast_sim::run::{Scenario, run};

fn main() -> ExitCode {
    let mut out = std::io::stdout();
    let told = match std::env::args().nth(1) {
        Some(file) => carry_out(&file),
        None => Err("use: steadfast-sim FILE".to_owned()),
    };
    let (text, code) = match told {
        Ok((text, true)) => (text, ExitCode::SUCCESS),
        Ok((text, false)) => (text, ExitCode::FAILURE),
        Err(text) => (text, ExitCode::from(64)),
    };
    // There is nobody to tell that nobody listens.
    writeln!(out, "{text}").ok();
    code
}

fn carry_out(file: &str) -> Result<(String, bool), String> {
    let bytes = std::fs::read(file).map_err(|error| format!("cannot read {file}: {error}"))?;
    let scenario: Scenario =
        serde_json::from_slice(&bytes).map_err(|error| format!("{file} is not a scenario: {error}"))?;
    let outcome = run(&scenario)?;
    let text = format!(
        "{}{} calls in {} s of its own time, trace {:016x}, {} faults fired",
        outcome.story(),
        outcome.timings.calls,
        outcome.timings.simulated_ms / 1000,
        outcome.hash,
        outcome.fired.len()
    );
    Ok((text, outcome.violations.is_empty()))
}
