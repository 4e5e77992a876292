//! The typed client: one method per address, several servers, failover.
//!
//! A call goes to the server that answered last, then to the others in order. It goes on to the next one only if
//! that cannot do anything twice: reads always, changes when the server certainly did nothing.

mod calls;
mod error;
mod exchange;
mod sse;
mod store;
mod transport;

use std::sync::Arc;
use std::time::Duration;

pub use error::ClientError;
pub use exchange::{Chunks, Exchange, ExchangeError};
use steadfast_core::Environment;
use steadfast_core::ids::ClusterName;

use crate::auth::Token;
use transport::Transport;

/// The answer to a call.
pub type ClientResult<T> = Result<T, ClientError>;

/// Where the servers are, and who calls.
#[derive(Debug, Clone)]
pub struct ClientConfig {
    /// The servers: `http://HOST:PORT`, `https://HOST:PORT` or `unix:///PATH`. Tried in order.
    pub servers: Vec<String>,
    /// The cluster.
    pub cluster: ClusterName,
    /// The caller's token.
    pub token: Option<Token>,
    /// Certificates to trust instead of the system's, in PEM.
    pub authorities: Option<Vec<u8>>,
    /// How long one call may take, over all servers; streams count until their first byte.
    pub timeout: Duration,
    /// How long a stream may be silent, heartbeats included, before it counts as broken.
    pub silence: Duration,
    /// Whether only the owner of the store may answer: for servers, which must not be sent in circles.
    pub direct: bool,
}

impl ClientConfig {
    /// A client of these servers, with the usual bounds.
    pub fn new(
        servers: impl IntoIterator<Item = impl Into<String>>,
        cluster: ClusterName,
        token: Option<Token>,
    ) -> Self {
        ClientConfig {
            servers: servers.into_iter().map(Into::into).collect(),
            cluster,
            token,
            authorities: None,
            timeout: Duration::from_secs(30),
            silence: Duration::from_secs(30),
            direct: false,
        }
    }
}

/// A client of one cluster. Clones share connections and the memory of which server answers.
#[derive(Debug, Clone)]
pub struct Client {
    transport: Arc<Transport>,
    timeout: Duration,
}

impl Client {
    /// A client. Opens no connection yet.
    ///
    /// # Errors
    /// [`ClientError::Config`] if there is no server, an address is none, or the certificates are not PEM.
    pub fn new(environment: Environment, config: ClientConfig) -> ClientResult<Self> {
        Client::made(environment, config, None)
    }

    /// A client whose requests travel over `exchange`, and not over sockets of its own. The addresses of the servers
    /// are what `exchange` finds them by; certificates are its matter.
    ///
    /// # Errors
    /// [`ClientError::Config`] if there is no server, or an address is none.
    pub fn over(
        environment: Environment,
        config: ClientConfig,
        exchange: Arc<dyn Exchange>,
    ) -> ClientResult<Self> {
        Client::made(environment, config, Some(exchange))
    }

    fn made(
        environment: Environment,
        config: ClientConfig,
        exchange: Option<Arc<dyn Exchange>>,
    ) -> ClientResult<Self> {
        let timeout = config.timeout;
        Ok(Client { transport: Arc::new(Transport::new(environment, config, exchange)?), timeout })
    }

    /// The same client with another bound on each call.
    #[must_use]
    pub fn with_timeout(&self, timeout: Duration) -> Self {
        Client { transport: Arc::clone(&self.transport), timeout }
    }

    /// The server that is asked first: the one that answered last.
    pub fn server(&self) -> &str {
        self.transport.preferred()
    }

    /// The cluster.
    pub fn cluster(&self) -> &ClusterName {
        self.transport.cluster()
    }
}
