//! The one module that prints. Results go to standard output; errors go to standard error.

use std::io::Write as _;
use std::path::Path;

use serde::Serialize;

use super::exit::{Exit, Failure, Result};

/// How results are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub(crate) enum Format {
    /// For people.
    #[default]
    Text,
    /// One JSON document.
    Json,
}

/// Prints a result: text for people, or the value as JSON.
pub(crate) fn result(format: Format, text: &str, value: &impl Serialize) -> Result<()> {
    match format {
        Format::Text => line(text.trim_end()),
        Format::Json => {
            let json =
                serde_json::to_string_pretty(value).map_err(|error| Failure::new(Exit::Error, error))?;
            line(&json);
        }
    }
    Ok(())
}

/// Prints a line to standard output.
pub(crate) fn line(text: &str) {
    // There is nobody to tell that nobody listens.
    writeln!(std::io::stdout(), "{text}").ok();
}

/// Prints a line to standard error.
pub(crate) fn hint(text: &str) {
    writeln!(std::io::stderr(), "{text}").ok();
}

/// Prints a failure.
pub(crate) fn failure(failure: &Failure) -> Exit {
    hint(&format!("steadfast-sim: {}", failure.message));
    failure.exit
}

/// Prints what clap has to say.
pub(crate) fn usage(error: &clap::Error) {
    // As above: nobody may be listening.
    error.print().ok();
}

/// Writes a file, and says so.
pub(crate) fn file(path: &Path, text: &str) -> Result<()> {
    if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        std::fs::create_dir_all(folder).map_err(|error| {
            Failure::new(Exit::Error, format!("cannot make {}: {error}", folder.display()))
        })?;
    }
    std::fs::write(path, text)
        .map_err(|error| Failure::new(Exit::Error, format!("cannot write {}: {error}", path.display())))?;
    hint(&format!("wrote {}", path.display()));
    Ok(())
}
