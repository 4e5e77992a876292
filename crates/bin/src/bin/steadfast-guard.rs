//! The guard alone: what `steadfast guard` is, in a small program. Agents prefer it if it lies beside them.

use std::process::ExitCode;

fn main() -> ExitCode {
    steadfast_agent::guard::alone()
}
