//! Nodes: what they are, killing one of this machine for real, and an operator's word on a dead one.

use std::fs;
use std::time::Duration;

use clap::Subcommand;
use serde::Serialize;
use steadfast_core::control::NodeView;
use steadfast_core::ids::{Incarnation, NodeName};
use steadfast_core::model::NodeHealth;
use steadfast_orchestrators::process::node_dir::kill_node;

use super::Global;
use super::remote::refused;
use super::show::{WatchOption, repeat};
use crate::data_dir::DataDir;
use crate::exit::{Context as _, Exit, Failure, Result};
use crate::output::{self, Column, Format, column, line, number, wide};

/// What can be done about nodes.
#[derive(Debug, Clone, Subcommand)]
pub(super) enum NodeVerb {
    /// List the nodes
    List {
        #[command(flatten)]
        watch: WatchOption,
    },
    /// Kill a node of this machine: its agent, its guards and its engines, with SIGKILL. It stays dead until `start`
    Kill {
        /// The node
        node: NodeName,
    },
    /// Let a killed node live again
    Start {
        /// The node
        node: NodeName,
    },
    /// Say that a node's machine is dead for certain, so that its members may move
    ConfirmDead {
        /// The node
        node: NodeName,
        /// Which life of it; `node list -o wide` shows it [default: the present one]
        #[arg(long)]
        incarnation: Option<Incarnation>,
    },
}

/// How long killed processes may take to be gone.
const PATIENCE: Duration = Duration::from_secs(20);

pub(super) async fn run(global: &Global, verb: &NodeVerb) -> Result<Exit> {
    match verb {
        NodeVerb::List { watch } => list(global, watch).await,
        NodeVerb::Kill { node } => {
            let data = DataDir::locate(global.data.as_deref())?;
            data.config()?;
            let killed = kill(&data, node)?;
            line(&match killed {
                0 => format!("{node} is dead (nothing of it ran)"),
                1 => format!("{node} is dead: 1 process killed"),
                _ => format!("{node} is dead: {killed} processes killed"),
            })?;
            output::note(&format!("it stays dead until `steadfast node start {node}`"));
            Ok(Exit::Done)
        }
        NodeVerb::Start { node } => {
            let data = DataDir::locate(global.data.as_deref())?;
            data.config()?;
            start(&data, node)?;
            line(&format!("{node} may live again"))?;
            if !steadfast_lock::is_held(&data.path("up.lock")).context("look for the running `up`")? {
                output::note("no `steadfast up` runs here: the next one starts it");
            }
            Ok(Exit::Done)
        }
        NodeVerb::ConfirmDead { node, incarnation } => confirm_dead(global, node, incarnation.as_ref()).await,
    }
}

/// Kills a node of this machine, and marks it so that nobody starts it again. Gives the number of processes.
pub(crate) fn kill(data: &DataDir, node: &NodeName) -> Result<usize> {
    if !data.node(node).is_dir() {
        return Err(not_here(data, node));
    }
    // The mark comes first: from here on nobody starts what is about to be killed. It is empty, so that it fits on a
    // full disk, too.
    let mark = data.down_mark(node);
    fs::File::create(&mark).context(format!("make {}", mark.display()))?;
    kill_node(&data.path("nodes"), node, PATIENCE).context(format!("kill {node}"))
}

/// Lets a killed node live again.
pub(crate) fn start(data: &DataDir, node: &NodeName) -> Result<()> {
    if !data.node(node).is_dir() {
        return Err(not_here(data, node));
    }
    match fs::remove_file(data.down_mark(node)) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(Failure::new(format!("remove {}: {error}", data.down_mark(node).display())))
        }
        _ => Ok(()),
    }
}

fn not_here(data: &DataDir, node: &NodeName) -> Failure {
    Failure::new(format!("{} has no node {node}", data.root().display()))
        .remedy("list the nodes: steadfast node list")
        .exit(Exit::NotFound)
}

async fn confirm_dead(global: &Global, node: &NodeName, incarnation: Option<&Incarnation>) -> Result<Exit> {
    let client = global.client()?;
    let incarnation = match incarnation {
        Some(incarnation) => incarnation.clone(),
        None => {
            let nodes = client.nodes().await.map_err(refused)?;
            let found = nodes.into_iter().find(|view| &view.name == node).ok_or_else(|| {
                Failure::new(format!("node {node} does not exist"))
                    .remedy("list the nodes: steadfast node list")
                    .exit(Exit::NotFound)
            })?;
            refuse_living(&found)?;
            found.incarnation
        }
    };
    let view = client.confirm_dead(node, &incarnation).await.map_err(refused)?;
    output::show(global.output, &view, || {
        format!("{node} ({incarnation}) is taken for dead, on your word: its members may move")
    })?;
    Ok(Exit::Done)
}

/// Refuses to take a node for dead that was heard of a moment ago: another one is meant, or it is not off yet.
fn refuse_living(view: &NodeView) -> Result<()> {
    let NodeView { name, health: NodeHealth::Ready, incarnation, .. } = view else { return Ok(()) };
    let heard = output::or_dash(view.observed_ms_ago.map(output::age));
    Err(Failure::new(format!("{name} is alive: it was heard of {heard} ago"))
        .reason("FenceUnproven")
        .remedy(format!(
            "wait until it is silent; to insist: steadfast node confirm-dead {name} --incarnation {incarnation}"
        ))
        .exit(Exit::Conflict))
}

async fn list(global: &Global, watch: &WatchOption) -> Result<Exit> {
    #[derive(Serialize)]
    struct Nodes<'a> {
        items: &'a [NodeView],
    }
    let format = global.output;
    repeat(global, watch, async |client| {
        let nodes = client.nodes().await.map_err(refused)?;
        output::text(format, &Nodes { items: &nodes }, || table(format, &nodes))
    })
    .await
}

fn table(format: Format, nodes: &[NodeView]) -> String {
    const COLUMNS: &[Column] = &[
        column("NODE"),
        column("ZONE"),
        column("HEALTH"),
        number("MEMBERS"),
        wide("SEEN"),
        wide("INCARNATION"),
        wide("ENGINES"),
        wide("RUNS"),
    ];
    let row = |view: &NodeView| {
        let health = match &view.health {
            NodeHealth::Dead(evidence) => format!("Dead ({evidence})"),
            other if view.stalled.is_some() => format!("{other:?}, starts nothing"),
            other => format!("{other:?}"),
        };
        let engines: Vec<String> =
            view.engines.iter().map(|(name, version)| format!("{name}@{version}")).collect();
        let members: Vec<&str> = view.members.iter().map(|member| member.as_str()).collect();
        vec![
            view.name.to_string(),
            view.zone.to_string(),
            health,
            view.members.len().to_string(),
            view.observed_ms_ago.map_or_else(|| "-".to_owned(), output::age),
            view.incarnation.to_string(),
            engines.join(","),
            members.join(","),
        ]
    };
    output::rows(format, COLUMNS, 0, &nodes.iter().map(row).collect::<Vec<_>>())
}
