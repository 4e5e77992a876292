//! Structured logs of the processes that stay.

use tracing_subscriber::EnvFilter;

/// How a process logs.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct LogOptions {
    /// How to log
    #[arg(long, value_enum, default_value_t, env = "STEADFAST_LOG_FORMAT")]
    log_format: LogFormat,
    /// What to log, as in `info` or `steadfast_core=debug,warn`
    #[arg(long, default_value = "info", env = "STEADFAST_LOG", value_name = "FILTER")]
    log: String,
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
        let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
        match self.log_format {
            LogFormat::Text => builder.with_ansi(false).init(),
            LogFormat::Json => builder.json().init(),
        }
        if let Some(error) = wrong {
            tracing::warn!(%error, filter = self.log, "--log is not a filter; logging at info");
        }
    }
}
