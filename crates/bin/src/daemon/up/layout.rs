//! What `up` runs: which servers and nodes, as last time but for what it is told.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::Path;

use serde::{Deserialize, Serialize};
use steadfast_core::ids::{NodeName, ServerId, ZoneName};

use super::UpOptions;
use crate::data_dir::DataDir;
use crate::exit::{Context as _, Failure, Result};

/// What `up` ran last (`up.json`).
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(super) struct Layout {
    pub(super) servers: Vec<ServerEntry>,
    pub(super) nodes: Vec<NodeEntry>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct ServerEntry {
    pub(super) id: ServerId,
    pub(super) listen: SocketAddr,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct NodeEntry {
    pub(super) node: NodeName,
    pub(super) zone: ZoneName,
}

/// The port of the first server, if it is free.
const FIRST_PORT: u16 = 7070;
/// What shall run: as last time but for what the options say.
pub(super) fn lay_out(data: &DataDir, options: &UpOptions) -> Result<Layout> {
    let before = read_layout(data)?;
    // Only the user's own cluster has the ports that the documents name: others would race for them.
    let own = is_own(data).then_some(FIRST_PORT);
    let layout = Layout { servers: servers(&before, options, own)?, nodes: nodes(&before, options)? };
    let text = serde_json::to_string_pretty(&layout).context("write the layout")?;
    data.write("up.json", &format!("{text}\n"), 0o644)?;
    for server in &layout.servers {
        data.make(Path::new("servers").join(server.id.as_str()))?;
    }
    for NodeEntry { node, .. } in &layout.nodes {
        data.make_passable(Path::new("nodes").join(node.as_str()))?;
        data.token_file(&format!("tokens/{node}"))?;
    }
    Ok(layout)
}

/// Whether this is the folder that is meant where none is named.
pub(super) fn is_own(data: &DataDir) -> bool {
    DataDir::locate(None).is_ok_and(|own| &own == data)
}

fn servers(before: &Layout, options: &UpOptions, first_port: Option<u16>) -> Result<Vec<ServerEntry>> {
    let count = options.servers.map_or(before.servers.len().max(1), usize::from);
    let mut servers: Vec<ServerEntry> = Vec::new();
    for number in 1..=count {
        let id: ServerId = format!("server-{number}").parse()?;
        let last = before.servers.iter().find(|server| server.id == id).map(|server| server.listen);
        let offset = u16::try_from(number - 1).ok();
        let wanted = first_port.zip(offset).and_then(|(first, offset)| first.checked_add(offset));
        let wanted = wanted.map(|port| SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
        let taken: Vec<SocketAddr> = servers.iter().map(|server| server.listen).collect();
        let free = |address: &SocketAddr| !taken.contains(address) && TcpListener::bind(address).is_ok();
        let listen = match [last, wanted].into_iter().flatten().find(free) {
            Some(listen) => listen,
            None => TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
                .and_then(|listener| listener.local_addr())
                .context("find a free port")?,
        };
        servers.push(ServerEntry { id, listen });
    }
    Ok(servers)
}

fn nodes(before: &Layout, options: &UpOptions) -> Result<Vec<NodeEntry>> {
    let known = if before.nodes.is_empty() { 3 } else { before.nodes.len() };
    let count = options.nodes.map_or(known, usize::from);
    let default: Vec<ZoneName> = ["a", "b", "c"].iter().map(|zone| zone.parse()).collect::<Result<_, _>>()?;
    let zones = if options.zones.is_empty() { &default } else { &options.zones };
    (1..=count)
        .zip(zones.iter().cycle())
        .map(|(number, zone)| {
            let node: NodeName = format!("node-{number}").parse()?;
            let last = before.nodes.iter().find(|entry| entry.node == node);
            let zone = match last {
                Some(entry) if options.zones.is_empty() => entry.zone.clone(),
                _ => zone.clone(),
            };
            Ok(NodeEntry { node, zone })
        })
        .collect()
}

/// What ran last; nothing in a folder where nothing has.
pub(super) fn read_layout(data: &DataDir) -> Result<Layout> {
    let file = data.path("up.json");
    match fs::read_to_string(&file) {
        Ok(text) => serde_json::from_str(&text).context(format!("read {}", file.display())),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Layout::default()),
        Err(error) => Err(Failure::new(format!("read {}: {error}", file.display()))),
    }
}
