//! A Redis Cluster, as a client that goes where it is sent.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use super::engine::{Engine, Session};
use super::redis::{Redis, Reply};

pub const REDIS_CLUSTER: Engine = Engine {
    blueprint: "redis-cluster",
    port: 6379,
    program: "redis-server",
    led_by_us: false,
    precious: "redis/appendonlydir",
    open: |address, env| Ok(Box::new(RedisCluster::open(address, env.get("REDISCLI_AUTH").cloned())?)),
};

/// A set in each of three shards: their slots are 3300, 11298 and 15495.
const SETS: [&str; 3] = ["{b}numbers", "{d}numbers", "{a}numbers"];
/// A cluster that is whole sends a client on once.
const MOST_MOVES: usize = 3;

/// Connections to the members that have had an answer for us.
#[derive(Debug)]
struct RedisCluster {
    first: SocketAddr,
    password: Option<String>,
    members: BTreeMap<SocketAddr, Redis>,
}

impl RedisCluster {
    fn open(first: SocketAddr, password: Option<String>) -> Result<RedisCluster, String> {
        let mut session = RedisCluster { first, password, members: BTreeMap::new() };
        session.member(first)?;
        Ok(session)
    }

    fn member(&mut self, address: SocketAddr) -> Result<&mut Redis, String> {
        if !self.members.contains_key(&address) {
            self.members.insert(address, Redis::open(address, self.password.as_deref())?);
        }
        self.members.get_mut(&address).ok_or_else(|| "it was just put there".to_owned())
    }

    /// One command, wherever its key is.
    fn call(&mut self, command: &[&str]) -> Result<Reply, String> {
        let mut address = self.first;
        for _ in 0..=MOST_MOVES {
            match self.member(address)?.call(command)? {
                Reply::Error(text) if text.starts_with("MOVED ") => {
                    let to = text.rsplit(' ').next().and_then(|to| to.parse().ok());
                    address = to.ok_or_else(|| format!("{text:?} leads nowhere"))?;
                }
                other => return Ok(other),
            }
        }
        Err(format!("{command:?} is sent from member to member"))
    }
}

impl Session for RedisCluster {
    /// Acknowledged once every shard has it.
    fn write(&mut self, number: u64) -> Result<(), String> {
        for set in SETS {
            match self.call(&["SADD", set, &number.to_string()])? {
                Reply::Number(_) => {}
                other => return Err(format!("SADD {set}: {other:?}")),
            }
        }
        Ok(())
    }

    fn read_all(&mut self) -> Result<Vec<u64>, String> {
        let mut in_all: Option<BTreeSet<u64>> = None;
        for set in SETS {
            let Reply::Many(found) = self.call(&["SMEMBERS", set])? else {
                return Err(format!("SMEMBERS {set}: no list"));
            };
            let number = |reply: &Reply| match reply {
                Reply::Text(text) => text.parse().map_err(|_| format!("{text:?} is no number")),
                other => Err(format!("SMEMBERS {set}: {other:?}")),
            };
            let found = found.iter().map(number).collect::<Result<BTreeSet<u64>, _>>()?;
            in_all = Some(in_all.map_or_else(|| found.clone(), |all| &all & &found));
        }
        Ok(in_all.into_iter().flatten().collect())
    }
}
