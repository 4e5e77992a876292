//! `steadfast`: servers, agents, guards and the command line in one program.
//!
//! The guard comes before everything else: it is the parent of a database, and shall be small. `exec` comes before
//! any runtime too, since the kernel gives namespaces only to a process with a single thread.

mod cli;
mod config;
mod daemon;
mod data_dir;
mod demo;
mod exit;
mod lookup;
mod namespace;
mod output;

use std::process::ExitCode;

fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1);
    let verb = arguments.next();
    if verb.as_ref().is_some_and(|verb| verb == "guard") {
        let rest: Vec<String> = arguments.map(|argument| argument.to_string_lossy().into_owned()).collect();
        let code = steadfast_agent::guard::run_from_arguments(&rest);
        return ExitCode::from(u8::try_from(code).unwrap_or(1));
    }
    if verb.as_ref().is_some_and(|verb| verb == daemon::agent::PREPARE) {
        return match daemon::agent::prepare() {
            Ok(code) => ExitCode::from(u8::try_from(code).unwrap_or(1)),
            Err(failure) => output::failure(&failure).into(),
        };
    }
    cli::main().into()
}
