//! The guard that this crate's tests run engines under.

use std::process::ExitCode;

fn main() -> ExitCode {
    steadfast_agent::guard::alone()
}
