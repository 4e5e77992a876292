//! RESP: the role, the link, loading and the replication offset of a Redis server.
//!
//! A server's replication offset begins anew at 0 when it has restarted from its append-only file, so offsets
//! alone cannot be compared. The *lineage*, a number kept in the dataset itself and raised by every primary that
//! begins a new replication id, is the position's timeline: a replica that has synchronised with the newest
//! primary is ahead of one that has not, whatever their offsets. A replica that has restarted and not
//! synchronised since knows its lineage and not its offset: it tells no position where every acknowledged write
//! counts (`strict`), and the beginning of its lineage otherwise, which is never too high.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Value, json};
use steadfast_core::engine::EngineView;
use steadfast_core::model::{Durability, Position, Reason, Role};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

use super::{Access, Facts, ProtocolError};
use crate::format::RedisProbe;

/// The longest text an answer may hold; INFO is a few KiB.
const LONGEST: usize = 1 << 20;

pub(super) async fn observe(
    access: &Access,
    probe: &RedisProbe,
    durability: Durability,
) -> (EngineView, Facts) {
    match access.within(access.timeout, look(access, probe)).await {
        Ok(facts) => (view(access, &facts, durability), facts),
        Err(ProtocolError::Refused { code, message }) => {
            let reason = if code == "WRONGPASS" || code == "NOAUTH" || code == "NOPERM" {
                Reason::PermissionDenied
            } else {
                Reason::EngineUnhealthy
            };
            let view = EngineView {
                alive: true,
                problem: Some((reason, format!("{code} {message}"))),
                ..EngineView::default()
            };
            (view, Facts::new())
        }
        Err(ProtocolError::Unexpected(message)) => {
            let view = EngineView {
                alive: true,
                problem: Some((Reason::EngineUnhealthy, message)),
                ..EngineView::default()
            };
            (view, Facts::new())
        }
        Err(ProtocolError::TimedOut | ProtocolError::Io(_)) => (EngineView::default(), Facts::new()),
    }
}

/// Sends one command and gives its answer as text.
pub(super) async fn command(
    access: &Access,
    words: &[String],
    timeout: Duration,
) -> Result<String, ProtocolError> {
    access
        .within(timeout, async {
            let mut session = Session::open(access).await?;
            let words: Vec<&str> = words.iter().map(String::as_str).collect();
            Ok(session.ask(&words).await?.text())
        })
        .await
}

async fn look(access: &Access, probe: &RedisProbe) -> Result<Facts, ProtocolError> {
    let mut session = Session::open(access).await?;
    let mut facts = Facts::new();
    let sections = ["server", "replication", "persistence"].map(|section| ["INFO", section]);
    for words in sections.into_iter().chain(probe.cluster.then_some(["CLUSTER", "INFO"])) {
        let info = session.ask(&words).await?.text();
        facts.extend(
            info.lines()
                .filter_map(|line| line.split_once(':'))
                .map(|(name, value)| (name.to_owned(), Value::from(value.trim()))),
        );
    }
    facts.insert("timeline".to_owned(), json!(0));
    facts.insert("lineage".to_owned(), json!(""));
    if let Some(words) = &probe.lineage {
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        match session.ask(&words).await {
            Ok(Reply::List(parts)) => {
                if let [Reply::Number(timeline), lineage, ..] = &parts[..] {
                    facts.insert("timeline".to_owned(), json!(timeline));
                    facts.insert("lineage".to_owned(), json!(lineage.text()));
                }
            }
            // No primary has written one yet, or the dataset is being loaded.
            Ok(_) | Err(ProtocolError::Refused { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(facts)
}

fn view(access: &Access, facts: &Facts, durability: Durability) -> EngineView {
    let text = |name: &str| facts.get(name).and_then(Value::as_str).unwrap_or_default();
    let number = |name: &str| text(name).parse::<u64>().ok();
    let timeline = facts.get("timeline").and_then(Value::as_u64).unwrap_or_default();
    let loading = text("loading") == "1" || text("async_loading") == "1";
    let syncing = text("master_sync_in_progress") == "1";
    let mut view = EngineView { alive: true, ..EngineView::default() };
    if loading {
        view.recovering = Some(number("loading_loaded_bytes").unwrap_or_default());
    }
    if text("aof_last_write_status") == "err" {
        view.problem = Some((
            Reason::IoError,
            "the append-only file cannot be written: see the engine's log for full disk or I/O errors"
                .to_owned(),
        ));
    }
    match text("role") {
        "master" => {
            view.role = Role::Primary;
            view.ready = !loading && view.problem.is_none();
            if !loading {
                view.position = number("master_repl_offset").map(|offset| Position { timeline, offset });
            }
        }
        "slave" => {
            view.role = Role::Replica;
            // A member is fenced by following a port of its own on which nobody listens.
            view.follows = text("master_host").parse().ok().filter(|address| *address != access.address.ip());
            let linked = text("master_link_status") == "up";
            view.ready = linked && !loading && !syncing && view.follows.is_some() && view.problem.is_none();
            let applied = number("slave_repl_offset").unwrap_or_default();
            view.lag = number("slave_read_repl_offset").map(|read| read.saturating_sub(applied));
            if syncing && view.recovering.is_none() {
                view.recovering = Some(number("master_sync_read_bytes").unwrap_or_default());
            }
            let synchronised = applied > 1 || text("repl_backlog_active") == "1";
            view.position = match (loading || syncing, synchronised, durability) {
                (true, _, _) | (false, false, Durability::Strict) => None,
                (false, true, _) => Some(Position { timeline, offset: applied }),
                (false, false, Durability::Available) => Some(Position { timeline, offset: 0 }),
            };
        }
        other => {
            view.problem = Some((Reason::EngineUnhealthy, format!("it has the unknown role {other:?}")));
        }
    }
    // A server of its own does not say.
    view.ready &= matches!(text("cluster_state"), "ok" | "");
    view
}

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Reply {
    Text(String),
    Number(i64),
    Nothing,
    List(Vec<Reply>),
}

impl Reply {
    fn text(&self) -> String {
        match self {
            Reply::Text(text) => text.clone(),
            Reply::Number(number) => number.to_string(),
            Reply::Nothing => String::new(),
            Reply::List(parts) => parts.iter().map(Reply::text).collect::<Vec<_>>().join("\n"),
        }
    }
}

/// A connection to a server, with the user logged in.
struct Session {
    stream: BufReader<TcpStream>,
}

impl Session {
    async fn open(access: &Access) -> Result<Self, ProtocolError> {
        let stream = TcpStream::connect(access.address).await?;
        stream.set_nodelay(true)?;
        let mut session = Session { stream: BufReader::new(stream) };
        session.ask(&["AUTH", &access.user, &access.password]).await?;
        Ok(session)
    }

    async fn ask(&mut self, words: &[&str]) -> Result<Reply, ProtocolError> {
        let mut request = format!("*{}\r\n", words.len());
        for word in words {
            request.push_str(&format!("${}\r\n{word}\r\n", word.len()));
        }
        self.stream.write_all(request.as_bytes()).await?;
        let reply = self.reply().await?;
        match reply {
            (Reply::Text(message), true) => {
                let (code, message) = message.split_once(' ').unwrap_or((&message, ""));
                Err(ProtocolError::Refused { code: code.to_owned(), message: message.to_owned() })
            }
            (reply, _) => Ok(reply),
        }
    }

    /// The next answer, and whether it is an error. Lists are read without recursion on the stack of polls: they
    /// are flat in every answer we ask for.
    async fn reply(&mut self) -> Result<(Reply, bool), ProtocolError> {
        match self.head().await? {
            Head::Whole(reply, is_error) => Ok((reply, is_error)),
            Head::List(length) => {
                let mut parts = Vec::new();
                for _ in 0..length {
                    match self.head().await? {
                        Head::Whole(reply, _) => parts.push(reply),
                        Head::List(_) => {
                            return Err(ProtocolError::Unexpected("the answer is nested".to_owned()));
                        }
                    }
                }
                Ok((Reply::List(parts), false))
            }
        }
    }

    async fn head(&mut self) -> Result<Head, ProtocolError> {
        let mut line = String::new();
        let mut limited = (&mut self.stream).take(LONGEST as u64);
        if limited.read_line(&mut line).await? == 0 {
            return Err(ProtocolError::Io(std::io::ErrorKind::UnexpectedEof.into()));
        }
        let line = line.trim_end();
        let strange = || ProtocolError::Unexpected("the answer is not RESP".to_owned());
        let mut characters = line.chars();
        let kind = characters.next();
        let rest = characters.as_str();
        match kind {
            Some('+') => Ok(Head::Whole(Reply::Text(rest.to_owned()), false)),
            Some('-') => Ok(Head::Whole(Reply::Text(rest.to_owned()), true)),
            Some(':') => Ok(Head::Whole(Reply::Number(rest.parse().map_err(|_| strange())?), false)),
            Some('$') => match rest.parse::<i64>().map_err(|_| strange())? {
                ..0 => Ok(Head::Whole(Reply::Nothing, false)),
                length => {
                    let length =
                        usize::try_from(length).ok().filter(|n| *n <= LONGEST).ok_or_else(strange)?;
                    let mut bytes = vec![0; length + 2];
                    self.stream.read_exact(&mut bytes).await?;
                    bytes.truncate(length);
                    Ok(Head::Whole(Reply::Text(String::from_utf8_lossy(&bytes).into_owned()), false))
                }
            },
            Some('*') => match rest.parse::<i64>().map_err(|_| strange())? {
                ..0 => Ok(Head::Whole(Reply::Nothing, false)),
                length => Ok(Head::List(length)),
            },
            _ => Err(strange()),
        }
    }
}

enum Head {
    Whole(Reply, bool),
    List(i64),
}

/// Facts as a server tells them, for checking the expressions of a blueprint.
pub(crate) fn sample() -> Facts {
    let texts = [
        ("role", "slave"),
        ("run_id", "0"),
        ("redis_version", "7.0.15"),
        ("master_host", "127.0.0.2"),
        ("master_port", "6379"),
        ("master_link_status", "up"),
        ("master_sync_in_progress", "0"),
        ("slave_repl_offset", "1"),
        ("slave_read_repl_offset", "1"),
        ("slave_read_only", "1"),
        ("connected_slaves", "0"),
        ("master_replid", "0"),
        ("master_replid2", "0"),
        ("master_repl_offset", "0"),
        ("repl_backlog_active", "0"),
        ("loading", "0"),
        ("aof_last_write_status", "ok"),
        ("lineage", ""),
    ];
    let mut facts: BTreeMap<String, Value> =
        texts.into_iter().map(|(name, text)| (name.to_owned(), Value::from(text))).collect();
    facts.insert("timeline".to_owned(), json!(0));
    facts
}
