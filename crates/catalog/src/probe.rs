//! Probes: what an engine says of itself, in its own protocol, to its own address.

mod command;
mod http;
pub(crate) mod pgwire;
pub(crate) mod postgresql;
mod redis;
mod tcp;
mod zookeeper;

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use serde_json::Value;
use steadfast_core::Environment;
use steadfast_core::engine::{EngineContext, EngineView};

use crate::context::Context;
use crate::definition::Definition;
use crate::engine::EngineHost;
use crate::format::Probe;

/// What a probe found beyond the [`EngineView`]: for the expressions of a blueprint.
pub(crate) type Facts = BTreeMap<String, Value>;

/// Why an engine could not be talked to.
#[derive(Debug)]
pub(crate) enum ProtocolError {
    /// No answer in time.
    TimedOut,
    /// No connection, or it broke.
    Io(io::Error),
    /// It answered with an error.
    Refused {
        /// The engine's own code for it.
        code: String,
        /// Its words.
        message: String,
    },
    /// It speaks another protocol, or the blueprint has none for this.
    Unexpected(String),
}

impl fmt::Display for ProtocolError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ProtocolError::TimedOut => f.write_str("no answer in time"),
            ProtocolError::Io(error) => error.fmt(f),
            ProtocolError::Refused { code, message } => write!(f, "{code}: {message}"),
            ProtocolError::Unexpected(message) => f.write_str(message),
        }
    }
}

impl From<io::Error> for ProtocolError {
    fn from(error: io::Error) -> Self {
        ProtocolError::Io(error)
    }
}

/// Where an engine listens, and what to say there.
#[derive(Clone)]
pub(crate) struct Access {
    pub(crate) environment: Environment,
    pub(crate) address: SocketAddr,
    pub(crate) user: String,
    pub(crate) password: String,
    pub(crate) timeout: Duration,
}

impl Access {
    /// Waits for `work`, no longer than `limit`.
    pub(crate) async fn within<T>(
        &self,
        limit: Duration,
        work: impl Future<Output = Result<T, ProtocolError>>,
    ) -> Result<T, ProtocolError> {
        self.environment.timeout(limit, work).await.unwrap_or(Err(ProtocolError::TimedOut))
    }
}

/// Looks at one member's engine.
#[derive(Clone)]
pub(crate) struct Prober {
    definition: Definition,
    context: EngineContext,
    host: EngineHost,
}

impl Prober {
    pub(crate) fn new(definition: &Definition, context: &EngineContext, host: &EngineHost) -> Self {
        Prober { definition: definition.clone(), context: context.clone(), host: host.clone() }
    }

    /// What the engine says of itself.
    pub(crate) async fn observe(&self, context: &Context) -> (EngineView, Facts) {
        let format = self.definition.format();
        let own = self.context.member.address;
        match &format.probe {
            Probe::Redis(probe) => match self.access(own) {
                Ok(access) => redis::observe(&access, probe, self.context.durability).await,
                Err(error) => (problem(&error), Facts::new()),
            },
            Probe::Postgresql(probe) => match self.access(own) {
                Ok(access) => {
                    let data_dir = Path::new(context.text("data_dir"));
                    postgresql::observe(&access, probe, data_dir, context.number("confirming")).await
                }
                Err(error) => (problem(&error), Facts::new()),
            },
            Probe::Zookeeper(_) => match self.access(own) {
                Ok(access) => zookeeper::observe(&access).await,
                Err(error) => (problem(&error), Facts::new()),
            },
            Probe::Http(probe) => match self.access(own) {
                Ok(access) => match context.render(&self.definition, &probe.path, "probe.path") {
                    Ok(path) => (http::observe(&access, &path).await, Facts::new()),
                    Err(error) => (problem(&error), Facts::new()),
                },
                Err(error) => (problem(&error), Facts::new()),
            },
            Probe::Tcp(_) => match self.access(own) {
                Ok(access) => (tcp::observe(&access).await, Facts::new()),
                Err(error) => (problem(&error), Facts::new()),
            },
            Probe::Command(probe) => match context.render_all(&self.definition, &probe.argv, "probe.argv") {
                Ok(argv) => (command::observe(&self.host, argv, probe.timeout.0).await, Facts::new()),
                Err(error) => (problem(&error), Facts::new()),
            },
        }
    }

    /// Sends one RESP command to the member.
    pub(crate) async fn redis(&self, words: &[String], timeout: Duration) -> Result<String, ProtocolError> {
        let access = self.access(self.context.member.address).map_err(unexpected)?;
        redis::command(&access, words, timeout).await
    }

    /// Runs SQL on the member.
    pub(crate) async fn sql(&self, text: &str, timeout: Duration) -> Result<String, ProtocolError> {
        let access = self.access(self.context.member.address).map_err(unexpected)?;
        let Probe::Postgresql(probe) = &self.definition.format().probe else {
            return Err(ProtocolError::Unexpected("the blueprint's probe speaks no SQL".to_owned()));
        };
        access.within(timeout, postgresql::sql(&access, &probe.database, text)).await
    }

    /// How to reach the engine of the member at `address`.
    pub(crate) fn access(&self, address: Option<IpAddr>) -> steadfast_core::Result<Access> {
        let invalid = |message: String| self.definition.invalid("reach", &self.context.member.name, message);
        let (port, user, password, timeout) = match &self.definition.format().probe {
            Probe::Redis(probe) => (&probe.port, probe.user.as_str(), probe.password.as_str(), probe.timeout),
            Probe::Postgresql(probe) => {
                (&probe.port, probe.user.as_str(), probe.password.as_str(), probe.timeout)
            }
            Probe::Zookeeper(probe) | Probe::Tcp(probe) => (&probe.port, "", "", probe.timeout),
            Probe::Http(probe) => (&probe.port, "", "", probe.timeout),
            Probe::Command(_) => return Err(invalid("a command probe has no port".to_owned())),
        };
        let address = address.ok_or_else(|| invalid("the member has no address".to_owned()))?;
        let number =
            self.context.ports.get(port).ok_or_else(|| invalid(format!("there is no port {port}")))?;
        let secret = if password.is_empty() {
            String::new()
        } else {
            self.context
                .secrets
                .get(password)
                .cloned()
                .ok_or_else(|| invalid(format!("there is no secret {password}")))?
        };
        Ok(Access {
            environment: self.host.environment.clone(),
            address: SocketAddr::new(address, *number),
            user: user.to_owned(),
            password: secret,
            timeout: timeout.0,
        })
    }
}

/// Facts as this kind of probe tells them, for checking the expressions of a blueprint.
pub(crate) fn sample_facts(probe: &Probe) -> Facts {
    match probe {
        Probe::Redis(_) => redis::sample(),
        Probe::Zookeeper(_) => zookeeper::sample(),
        Probe::Postgresql(_) => postgresql::sample(),
        Probe::Http(_) | Probe::Tcp(_) | Probe::Command(_) => Facts::new(),
    }
}

fn unexpected(error: steadfast_core::Error) -> ProtocolError {
    ProtocolError::Unexpected(error.message().to_owned())
}

fn problem(error: &steadfast_core::Error) -> EngineView {
    EngineView {
        problem: Some((steadfast_core::model::Reason::ConfigInvalid, error.message().to_owned())),
        ..EngineView::default()
    }
}
