//! What concerns this program and this machine alone.

use clap::CommandFactory as _;
use serde::Serialize;

use super::{Cli, Global};
use crate::exit::{Exit, Result};
use crate::output::{self, Format};

/// Prints a shell's completions.
pub(super) fn completions(shell: clap_complete::Shell) -> Result<Exit> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "steadfast", &mut script);
    output::raw(&script)?;
    Ok(Exit::Done)
}

/// Prints the version.
pub(super) fn version(global: &Global) -> Result<Exit> {
    #[derive(Serialize)]
    struct Version {
        version: &'static str,
        data_format: u32,
        record_schema: u32,
    }
    let version = Version {
        version: env!("CARGO_PKG_VERSION"),
        data_format: crate::config::FORMAT,
        record_schema: steadfast_core::metadata::SCHEMA,
    };
    let Version { version: number, data_format, record_schema } = &version;
    output::show(global.output, &version, || match global.output {
        Format::Wide => {
            format!("steadfast {number}\ndata format   {data_format}\nrecord schema {record_schema}")
        }
        _ => format!("steadfast {number}"),
    })?;
    Ok(Exit::Done)
}
