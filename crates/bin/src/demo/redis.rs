//! Redis: `SET`, and `WAIT` for a replica to confirm it.

mod resp;

use std::collections::BTreeMap;
use std::net::SocketAddr;

use async_trait::async_trait;

use super::session::{PATIENCE, Session};
use resp::{Connection, Reply};

/// A connection to a primary.
#[derive(Debug)]
pub(super) struct RedisSession(Connection);

impl RedisSession {
    pub(super) async fn open(address: SocketAddr, env: &BTreeMap<String, String>) -> Result<Self, String> {
        let password = env.get("REDISCLI_AUTH").map(String::as_str);
        Connection::open(address, password, PATIENCE).await.map(RedisSession)
    }
}

fn key(number: u64) -> String {
    format!("steadfast-demo:{number}")
}

#[async_trait]
impl Session for RedisSession {
    async fn write(&mut self, number: u64) -> Result<(), String> {
        match self.0.call(&["SET", &key(number), &number.to_string()]).await? {
            Reply::Status(_) => {}
            other => return Err(format!("SET: {other:?}")),
        }
        // Without a replica's confirmation the write is on one disk only, and is not counted.
        match self.0.call(&["WAIT", "1", "1000"]).await? {
            Reply::Number(confirmed) if confirmed >= 1 => Ok(()),
            Reply::Number(_) => Err("WAIT: no replica has confirmed it".to_owned()),
            other => Err(format!("WAIT: {other:?}")),
        }
    }

    async fn read_all(&mut self) -> Result<Vec<u64>, String> {
        let mut found = Vec::new();
        let mut cursor = "0".to_owned();
        loop {
            let reply = self.0.call(&["SCAN", &cursor, "MATCH", "steadfast-demo:*", "COUNT", "1000"]).await?;
            let Reply::Array(parts) = reply else { return Err(format!("SCAN: {reply:?}")) };
            let [Reply::Bulk(Some(next)), Reply::Array(keys)] = parts.as_slice() else {
                return Err(format!("SCAN: {parts:?}"));
            };
            for name in keys {
                let Reply::Bulk(Some(name)) = name else { return Err(format!("SCAN: {name:?}")) };
                let name = String::from_utf8_lossy(name).into_owned();
                // The value too has to be what was written.
                if let Reply::Bulk(Some(value)) = self.0.call(&["GET", &name]).await?
                    && let Ok(number) = String::from_utf8_lossy(&value).parse()
                    && key(number) == name
                {
                    found.push(number);
                }
            }
            cursor = String::from_utf8_lossy(next).into_owned();
            if cursor == "0" {
                return Ok(found);
            }
        }
    }
}
