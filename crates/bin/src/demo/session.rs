//! A real client's connection to an engine: one write at a time, acknowledged or not, and the reading back of all.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use async_trait::async_trait;

use super::{postgresql, redis, zookeeper};

/// The engines that the demonstration has a client for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub(crate) enum Engine {
    /// Redis
    Redis,
    /// PostgreSQL
    Postgresql,
    /// ZooKeeper
    Zookeeper,
}

impl Engine {
    /// Its blueprint's name.
    pub(super) fn blueprint(self) -> &'static str {
        match self {
            Engine::Redis => "redis",
            Engine::Postgresql => "postgresql",
            Engine::Zookeeper => "zookeeper",
        }
    }

    /// The port of the blueprint, where the service does not say another.
    pub(super) fn usual_port(self) -> u16 {
        match self {
            Engine::Redis => 6379,
            Engine::Postgresql => 5432,
            Engine::Zookeeper => 2181,
        }
    }

    /// What an acknowledgement means here, for people.
    pub(super) fn acknowledged(self) -> &'static str {
        match self {
            Engine::Redis => "SET answered and WAIT 1 confirmed by a replica",
            Engine::Postgresql => "INSERT committed",
            Engine::Zookeeper => "create answered",
        }
    }
}

/// How long a client waits for one answer before it connects anew.
pub(super) const PATIENCE: Duration = Duration::from_secs(2);

/// A connection to the member that takes writes. After an error it is thrown away.
#[async_trait]
pub(super) trait Session: Send {
    /// Writes number `number`. `Ok`: the engine has acknowledged it. `Err`: it may be there or not.
    async fn write(&mut self, number: u64) -> Result<(), String>;

    /// Every number that is there.
    async fn read_all(&mut self) -> Result<Vec<u64>, String>;
}

/// Connects to `address` with what the engine's own client would take from its environment.
pub(super) async fn open(
    engine: Engine,
    address: SocketAddr,
    env: &BTreeMap<String, String>,
) -> Result<Box<dyn Session>, String> {
    Ok(match engine {
        Engine::Redis => Box::new(redis::RedisSession::open(address, env).await?),
        Engine::Postgresql => Box::new(postgresql::PostgresqlSession::open(address, env).await?),
        Engine::Zookeeper => Box::new(zookeeper::ZookeeperSession::open(address).await?),
    })
}
