//! The same scenario as hosts of plain turmoil: agents that are heard over TCP, servers that move the members of one
//! that falls silent, a client that writes to one member.
//!
//! The programs here are far smaller than what ships: what is measured is turmoil, not they.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::time::{Instant, sleep, timeout};
use turmoil::net::{TcpListener, TcpStream};
use turmoil::{Builder, Sim};

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

/// What a server knows: when each node was heard last, and which node has each member.
#[derive(Debug, Default)]
struct Known {
    heard: BTreeMap<String, Instant>,
    places: BTreeMap<String, String>,
}

/// A node that was not heard for so long is given up.
const LEASE: Duration = Duration::from_secs(6);

fn builder(seconds: u64) -> Builder {
    let mut builder = Builder::new();
    builder
        .rng_seed(1)
        .simulation_duration(Duration::from_secs(seconds + 60))
        .tick_duration(Duration::from_millis(1))
        .min_message_latency(Duration::from_millis(1))
        .max_message_latency(Duration::from_millis(20));
    builder
}

/// Ten minutes of three members on four nodes under two servers; the first member's node is lost after one. How many
/// of the client's writes were answered after that.
pub(crate) fn failover(seconds: u64) -> Outcome<u64> {
    let mut sim = builder(seconds).build();
    for server in ["server-1", "server-2"] {
        sim.host(server, || async { Ok(serve().await?) });
    }
    for node in 1..=4 {
        let name = format!("node-{node}");
        sim.host(name.as_str(), move || {
            let name = format!("node-{node}");
            async move { Ok(run_node(name, &["server-1", "server-2"]).await?) }
        });
    }
    let answered = Arc::new(Mutex::new(0));
    let count = Arc::clone(&answered);
    sim.client("client", async move { Ok(write(seconds, count).await?) });
    let mut lost = false;
    while !sim.step()? {
        if !lost && sim.elapsed() >= Duration::from_secs(60) {
            lost = true;
            sim.crash("node-1");
            *answered.lock().unwrap_or_else(PoisonError::into_inner) = 0;
        }
    }
    Ok(*answered.lock().unwrap_or_else(PoisonError::into_inner))
}

/// So many nodes that one server hears once a second, for so long.
pub(crate) fn heartbeats(nodes: u32, seconds: u64) -> Outcome<()> {
    let mut sim: Sim<'_> = builder(seconds).build();
    sim.host("server-1", || async { Ok(serve().await?) });
    for node in 1..=nodes {
        let name = format!("node-{node}");
        sim.host(name.as_str(), move || {
            let name = format!("node-{node}");
            async move { Ok(run_node(name, &["server-1"]).await?) }
        });
    }
    sim.client("end", async move {
        sleep(Duration::from_secs(seconds)).await;
        Ok(())
    });
    sim.run()
}

async fn serve() -> std::io::Result<()> {
    let known = Arc::new(Mutex::new(Known::default()));
    let listener = TcpListener::bind(("0.0.0.0", 7000)).await?;
    loop {
        let (stream, _) = listener.accept().await?;
        let known = Arc::clone(&known);
        tokio::spawn(async move {
            let mut stream = BufReader::new(stream);
            let mut line = String::new();
            while stream.read_line(&mut line).await.is_ok_and(|read| read > 0) {
                let answer = hear(&known, line.trim());
                if stream.write_all(answer.as_bytes()).await.is_err() {
                    return;
                }
                line.clear();
            }
        });
    }
}

/// Takes in that a node is there, moves the members of those that are not, and tells who has the first member.
fn hear(known: &Mutex<Known>, node: &str) -> String {
    let mut known = known.lock().unwrap_or_else(PoisonError::into_inner);
    let now = Instant::now();
    if node != "client" {
        known.heard.insert(node.to_owned(), now);
    }
    let live: Vec<String> =
        known.heard.iter().filter(|(_, at)| now - **at < LEASE).map(|(node, _)| node.clone()).collect();
    for (index, member) in ["orders-0", "orders-1", "orders-2"].into_iter().enumerate() {
        let placed = known.places.get(member).is_some_and(|node| live.contains(node));
        if !placed && let Some(node) = live.get(index % live.len().max(1)) {
            known.places.insert(member.to_owned(), node.clone());
        }
    }
    format!("{}\n", known.places.get("orders-0").map_or("", |node| node.as_str()))
}

/// A node: heard by every server once a second, and answering what clients write to its members.
async fn run_node(name: String, servers: &[&'static str]) -> std::io::Result<()> {
    for server in servers.iter().copied() {
        let name = name.clone();
        tokio::spawn(async move {
            loop {
                // A connection that breaks is made anew.
                speak(server, &name).await.ok();
                sleep(Duration::from_secs(1)).await;
            }
        });
    }
    let listener = TcpListener::bind(("0.0.0.0", 8000)).await?;
    loop {
        let (stream, _) = listener.accept().await?;
        let mut stream = BufReader::new(stream);
        let mut line = String::new();
        if stream.read_line(&mut line).await.is_ok() {
            // The client may be gone.
            stream.write_all(line.as_bytes()).await.ok();
        }
    }
}

async fn speak(server: &str, name: &str) -> std::io::Result<()> {
    let mut stream = BufReader::new(TcpStream::connect((server, 7000)).await?);
    let mut line = String::new();
    loop {
        stream.write_all(format!("{name}\n").as_bytes()).await?;
        line.clear();
        stream.read_line(&mut line).await?;
        sleep(Duration::from_secs(1)).await;
    }
}

/// A client that writes once a second to whoever has the first member.
async fn write(seconds: u64, answered: Arc<Mutex<u64>>) -> std::io::Result<()> {
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(seconds) {
        sleep(Duration::from_secs(1)).await;
        if timeout(Duration::from_millis(900), write_once()).await.is_ok_and(|done| done.is_ok()) {
            *answered.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        }
    }
    Ok(())
}

async fn write_once() -> std::io::Result<()> {
    let mut line = String::new();
    let mut stream = BufReader::new(TcpStream::connect(("server-1", 7000)).await?);
    stream.write_all(b"client\n").await?;
    stream.read_line(&mut line).await?;
    let mut stream = BufReader::new(TcpStream::connect((line.trim(), 8000)).await?);
    stream.write_all(b"write\n").await?;
    line.clear();
    stream.read_line(&mut line).await?;
    Ok(())
}
