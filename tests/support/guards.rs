//! Guards and agents of a cluster, asked and found past the control plane.

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use serde::Deserialize;

use super::cluster::Cluster;
use super::until;

/// What a guard says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Guarded {
    pub incarnation: String,
    pub engine_pid: Option<i32>,
    pub guard_pid: i32,
    pub stage: String,
    pub epoch: u64,
    /// The node whose folder it was found in.
    #[serde(skip)]
    pub node: String,
}

impl Guarded {
    /// The engine's process.
    pub fn engine(&self) -> i32 {
        self.engine_pid.unwrap_or_else(|| panic!("the guard has no engine: {self:?}"))
    }
}

impl Cluster {
    /// Every guard of a member that answers, on whatever node.
    pub fn guards(&self, member: &str) -> Vec<Guarded> {
        let nodes = fs::read_dir(self.data().join("nodes")).unwrap();
        nodes
            .flatten()
            .filter_map(|node| {
                let socket = node.path().join("guards").join(member).join("control.sock");
                let mut found = ask(&socket)?;
                found.node = node.file_name().into_string().unwrap();
                Some(found)
            })
            .collect()
    }

    /// The one guard of a member whose engine runs.
    pub fn guard(&self, member: &str) -> Guarded {
        until(&format!("{member} has one guard with an engine"), || match self.guards(member).as_slice() {
            [one] if one.engine_pid.is_some() => Ok(one.clone()),
            others => Err(format!("{others:?}")),
        })
    }

    /// The process of a node's agent.
    pub fn agent_pid(&self, node: &str) -> i32 {
        self.one_holder(&self.data().join("nodes").join(node).join("agent.lock"))
    }

    /// The process of a server.
    pub fn server_pid(&self, server: &str) -> i32 {
        self.one_holder(&self.data().join("servers").join(server).join("lock"))
    }

    fn one_holder(&self, lock: &Path) -> i32 {
        until(&format!("{} has one holder", lock.display()), || {
            let holders = steadfast_lock::holders(lock).map_err(|error| error.to_string())?;
            match holders.iter().collect::<Vec<_>>().as_slice() {
                [one] => Ok(**one),
                others => Err(format!("{others:?}")),
            }
        })
    }
}

fn ask(socket: &Path) -> Option<Guarded> {
    let mut stream = UnixStream::connect(socket).ok()?;
    // One that stands still does not answer; on a busy machine one that lives may take its time.
    stream.set_read_timeout(Some(Duration::from_secs(10))).ok()?;
    stream.write_all(b"{\"ask\":\"status\"}\n").ok()?;
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line).ok()?;
    serde_json::from_str(&line).ok()
}
