//! ZooKeeper's four-letter words: the mode of a server and how far its data reaches.

use std::collections::BTreeMap;

use serde_json::Value;
use steadfast_core::engine::EngineView;
use steadfast_core::model::{Position, Reason, Role};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::{Access, Facts, ProtocolError};

/// Longer answers are of no interest.
const LONGEST: u64 = 1 << 20;

pub(super) async fn observe(access: &Access) -> (EngineView, Facts) {
    match access.within(access.timeout, look(access)).await {
        Ok(facts) => (view(&facts), facts),
        Err(ProtocolError::TimedOut | ProtocolError::Io(_)) => (EngineView::default(), Facts::new()),
        Err(error) => {
            let view = EngineView {
                alive: true,
                problem: Some((Reason::EngineUnhealthy, error.to_string())),
                ..EngineView::default()
            };
            (view, Facts::new())
        }
    }
}

async fn look(access: &Access) -> Result<Facts, ProtocolError> {
    let alive = say(access, "ruok").await?;
    if alive.trim() != "imok" {
        return Err(ProtocolError::Unexpected(format!(
            "ruok was answered with {:?}",
            alive.chars().take(80).collect::<String>()
        )));
    }
    let answer = say(access, "srvr").await?;
    let mut facts: Facts = answer
        .lines()
        .filter_map(|line| line.split_once(": "))
        .map(|(name, value)| (name.to_lowercase().replace(' ', "_"), Value::from(value.trim())))
        .collect();
    facts.insert("serving".to_owned(), Value::from(facts.contains_key("mode")));
    Ok(facts)
}

fn view(facts: &Facts) -> EngineView {
    let text = |name: &str| facts.get(name).and_then(Value::as_str);
    let mut view = EngineView { alive: true, ..EngineView::default() };
    // The server answers before it has joined a quorum, and says then that it is not serving.
    let Some(mode) = text("mode") else { return view };
    view.role = match mode {
        "leader" | "follower" | "standalone" => Role::Voter,
        "observer" => Role::Learner,
        _ => Role::Unknown,
    };
    view.ready = view.role != Role::Unknown;
    view.position = text("zxid")
        .and_then(|zxid| u64::from_str_radix(zxid.trim_start_matches("0x"), 16).ok())
        .map(|zxid| Position { timeline: zxid >> 32, offset: zxid & 0xffff_ffff });
    view
}

async fn say(access: &Access, word: &str) -> Result<String, ProtocolError> {
    let mut stream = TcpStream::connect(access.address).await?;
    stream.write_all(word.as_bytes()).await?;
    let mut answer = String::new();
    stream.take(LONGEST).read_to_string(&mut answer).await?;
    Ok(answer)
}

/// Facts as a server tells them, for checking the expressions of a blueprint.
pub(crate) fn sample() -> Facts {
    BTreeMap::from([
        ("mode".to_owned(), Value::from("follower")),
        ("zxid".to_owned(), Value::from("0x100000001")),
        ("serving".to_owned(), Value::from(true)),
    ])
}
