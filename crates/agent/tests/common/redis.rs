//! Redis as the agent's tests need it: little, and by hand, so that they test the agent and not a blueprint.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use serde_json::Value;
use steadfast_agent::seams::{EngineSource, MadeEngine};
use steadfast_core::engine::{
    Command, ConfigFile, Engine, EngineContext, EngineView, Peer, Prepared, StopSignal, WantedRole,
};
use steadfast_core::error::{Error, ErrorKind, Result};
use steadfast_core::model::{Position, Reason, Role, SpecRevision};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

pub const PORT: u16 = 6379;
const NOBODY: &str = "1000";

/// Makes [`Redis`], or an engine that ends at once.
#[derive(Debug)]
pub struct RedisSource {
    pub program: PathBuf,
}

#[async_trait]
impl EngineSource for RedisSource {
    async fn definition(&self, _revision: &SpecRevision) -> Result<Value> {
        Ok(Value::Null)
    }

    fn engine(&self, _definition: &Value, context: EngineContext) -> Result<MadeEngine> {
        let engine = Arc::new(Redis { program: self.program.clone(), context });
        Ok(MadeEngine { engine, run_as: None })
    }
}

#[derive(Debug)]
struct Redis {
    program: PathBuf,
    context: EngineContext,
}

impl Redis {
    fn address(&self) -> IpAddr {
        self.context.member.address.unwrap()
    }

    fn data(&self) -> PathBuf {
        self.context.volumes.values().next().unwrap().clone()
    }

    fn make(&self) -> Prepared {
        std::fs::write(self.data().join("made"), "").unwrap();
        Prepared { engine_version: "7.0.15".to_owned(), remarks: Vec::new() }
    }

    async fn ask(&self, words: &[&str]) -> Result<String> {
        ask(self.address(), words).await.map_err(|error| {
            Error::new(ErrorKind::Unavailable, "redis", "ask", &self.context.member.name, error)
        })
    }

    async fn view(&self) -> Result<EngineView> {
        let info = self.ask(&["INFO"]).await?;
        if info.starts_with("-LOADING") {
            return Ok(EngineView { alive: true, recovering: Some(0), ..EngineView::default() });
        }
        let field = |name: &str| {
            info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).unwrap_or_default()
        };
        let closed = self.ask(&["CONFIG", "GET", "min-replicas-to-write"]).await?.contains(NOBODY);
        let follows = field("master_host").parse().ok();
        let offset = field("master_repl_offset").parse().unwrap_or_default();
        let role = match (field("role"), closed) {
            ("master", false) => Role::Primary,
            ("slave", _) => Role::Replica,
            _ => Role::Unknown,
        };
        Ok(EngineView {
            alive: true,
            ready: role == Role::Primary || field("master_link_status") == "up",
            role,
            follows,
            position: Some(Position { timeline: 0, offset }),
            ..EngineView::default()
        })
    }
}

/// One command, and the answer as it is.
pub async fn ask(address: IpAddr, words: &[&str]) -> std::io::Result<String> {
    let mut request = format!("*{}\r\n", words.len());
    for word in words {
        request.push_str(&format!("${}\r\n{word}\r\n", word.len()));
    }
    let talk = async {
        let mut stream = TcpStream::connect((address, PORT)).await?;
        stream.write_all(request.as_bytes()).await?;
        stream.write_all(b"*1\r\n$4\r\nQUIT\r\n").await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        Ok(answer)
    };
    tokio::time::timeout(Duration::from_secs(2), talk)
        .await
        .unwrap_or_else(|_| Err(std::io::Error::from(std::io::ErrorKind::TimedOut)))
}

#[async_trait]
impl Engine for Redis {
    fn config(&self) -> Result<Vec<ConfigFile>> {
        let content = format!(
            "bind {}\nport {PORT}\ndir {}\nappendonly yes\nappendfsync always\nprotected-mode no\n\
             min-replicas-to-write {NOBODY}\nreplica-read-only yes\nrepl-diskless-sync-delay 0\n",
            self.address(),
            self.data().display()
        );
        Ok(vec![ConfigFile { path: self.context.run_dir.join("redis.conf"), content, mode: 0o600 }])
    }

    fn start_command(&self) -> Result<Command> {
        let config = self.context.run_dir.join("redis.conf");
        let argv = vec![self.program.display().to_string(), config.display().to_string()];
        Ok(Command { argv, ..Command::default() })
    }

    async fn version(&self) -> Result<String> {
        if self.program.exists() {
            return Ok("7.0.15".to_owned());
        }
        let message = format!("{}: there is no {}", Reason::EngineMissing, self.program.display());
        Err(Error::new(ErrorKind::NotFound, "redis", "version", &self.context.member.name, message))
    }

    async fn initialise(&self) -> Result<Prepared> {
        Ok(self.make())
    }

    async fn join(&self, from: Option<&Peer>) -> Result<Prepared> {
        assert!(from.is_some(), "a replica joins a primary");
        Ok(self.make())
    }

    async fn reconcile_data(&self, _wanted: &WantedRole) -> Result<Vec<(Reason, String)>> {
        assert!(self.data().join("made").exists(), "data is made before it is brought into line");
        Ok(Vec::new())
    }

    async fn observe(&self) -> EngineView {
        self.view().await.unwrap_or_default()
    }

    async fn assume(&self, wanted: &WantedRole) -> Result<()> {
        match wanted {
            WantedRole::Primary { .. } => {
                self.ask(&["REPLICAOF", "NO", "ONE"]).await?;
                self.ask(&["CONFIG", "SET", "min-replicas-to-write", "0"]).await?;
            }
            WantedRole::Follow(peer) => {
                let host = peer.address.unwrap().to_string();
                self.ask(&["REPLICAOF", &host, &PORT.to_string()]).await?;
            }
            WantedRole::Fenced => {
                self.ask(&["CONFIG", "SET", "min-replicas-to-write", NOBODY]).await?;
                self.ask(&["REPLICAOF", "NO", "ONE"]).await?;
            }
        }
        Ok(())
    }

    fn stop(&self) -> (StopSignal, u64) {
        (StopSignal::Term, 20_000)
    }
}

/// The ports of a stored blueprint.
pub fn ports() -> BTreeMap<String, u16> {
    BTreeMap::from([("redis".to_owned(), PORT)])
}
