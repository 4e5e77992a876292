//! `steadfast-sim`: search for what breaks the control plane, shrink it, keep it, explain it.

mod cli;

use std::process::ExitCode;

fn main() -> ExitCode {
    cli::main()
}
