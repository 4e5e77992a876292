//! How an engine is looked at.

use serde::Deserialize;
use steadfast_core::model::{ByteSize, Span};

/// How the engine is looked at: a protocol with its parameters.
#[derive(Debug, Clone, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase", deny_unknown_fields)]
pub enum Probe {
    /// RESP.
    Redis(RedisProbe),
    /// The PostgreSQL protocol.
    Postgresql(PostgresqlProbe),
    /// Four-letter words.
    Zookeeper(PortProbe),
    /// An HTTP request that is answered with 2xx.
    Http(HttpProbe),
    /// A connection that is accepted.
    Tcp(PortProbe),
    /// A command that ends with 0.
    Command(CommandProbe),
}

/// Parameters of a RESP probe.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RedisProbe {
    /// The port's name.
    pub port: String,
    /// The ACL user.
    pub user: String,
    /// The name of its secret.
    pub password: String,
    /// A command that answers with the number of the history's branch and the replication id it began with.
    pub lineage: Option<Vec<String>>,
    /// Whether the server is part of a Redis Cluster: it is ready only while that is whole enough to serve.
    #[serde(default)]
    pub cluster: bool,
    /// How long an answer may take.
    #[serde(default = "short")]
    pub timeout: Span,
}

/// Parameters of a PostgreSQL probe.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PostgresqlProbe {
    /// The port's name.
    pub port: String,
    /// The role, a superuser.
    pub user: String,
    /// The name of its secret.
    pub password: String,
    /// The database.
    pub database: String,
    /// A replica that is further behind than this is not ready.
    pub ready_lag: ByteSize,
    /// How long an answer may take.
    #[serde(default = "short")]
    pub timeout: Span,
}

/// Parameters of a probe that needs a port only.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PortProbe {
    /// The port's name.
    pub port: String,
    /// How long an answer may take.
    #[serde(default = "short")]
    pub timeout: Span,
}

/// Parameters of an HTTP probe.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HttpProbe {
    /// The port's name.
    pub port: String,
    /// The path (template).
    pub path: String,
    /// How long an answer may take.
    #[serde(default = "short")]
    pub timeout: Span,
}

/// Parameters of a command probe.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CommandProbe {
    /// The program and its arguments (templates).
    pub argv: Vec<String>,
    /// How long it may take.
    #[serde(default = "short")]
    pub timeout: Span,
}

fn short() -> Span {
    Span(std::time::Duration::from_secs(2))
}
