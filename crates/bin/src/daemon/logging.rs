//! Structured logs of the processes that stay.

pub(crate) mod rotated;

use std::path::PathBuf;
use std::sync::Mutex;

use steadfast_core::model::ByteSize;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::writer::BoxMakeWriter;

use rotated::RotatedError;

/// How a process logs.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct LogOptions {
    /// How to log
    #[arg(long, value_enum, default_value_t, env = "STEADFAST_LOG_FORMAT")]
    log_format: LogFormat,
    /// What to log, as in `info` or `steadfast_core=debug,warn`
    #[arg(long, default_value = "info", env = "STEADFAST_LOG", value_name = "FILTER")]
    log: String,
    /// The file that standard error goes to: it is begun anew when it is full
    #[arg(long, value_name = "FILE", hide = true)]
    log_file: Option<PathBuf>,
    /// How long that file becomes
    #[arg(long, value_name = "SIZE", hide = true, default_value_t = ByteSize(rotated::LOG_BYTES))]
    log_size: ByteSize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
enum LogFormat {
    /// Lines for people
    #[default]
    Text,
    /// One JSON object a line
    Json,
}

impl LogOptions {
    /// Begins to log to standard error.
    pub(crate) fn start(&self) {
        // A filter that does not parse falls back to the default, and the log's first line says so.
        let (filter, wrong) = match EnvFilter::try_new(&self.log) {
            Ok(filter) => (filter, None),
            Err(error) => (EnvFilter::new("info"), Some(error)),
        };
        let writer = match &self.log_file {
            Some(path) => BoxMakeWriter::new(Mutex::new(RotatedError::new(path.clone(), self.log_size.0))),
            None => BoxMakeWriter::new(std::io::stderr),
        };
        // A line that cannot be written is lost. Complaining of it where it could not be written would be a panic.
        let builder =
            tracing_subscriber::fmt().with_env_filter(filter).with_writer(writer).log_internal_errors(false);
        match self.log_format {
            LogFormat::Text => builder.with_ansi(false).init(),
            LogFormat::Json => builder.json().init(),
        }
        if let Some(error) = wrong {
            tracing::warn!(%error, filter = self.log, "--log is not a filter; logging at info");
        }
    }
}
