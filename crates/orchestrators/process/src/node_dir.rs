//! The folders of nodes on this machine, from outside: what a server and `steadfast node kill` look at.

use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use steadfast_core::ids::NodeName;

/// The lock that everything on a node shares.
pub const MACHINE_LOCK: &str = "machine.lock";
/// The lock of the node's one agent.
pub const AGENT_LOCK: &str = "agent.lock";
/// The file with the node's present life.
pub const INCARNATION: &str = "incarnation";

/// Kills a node: its agent, its guards and its engines, found by the locks they hold, until nothing is left.
/// Gives the number of processes that were killed; 0 if the node was dead already.
///
/// Blocks, for milliseconds as a rule and for `patience` at most. Whoever starts agents again has to be told not
/// to, before.
///
/// # Errors
/// `NotFound` if there is no such node here; `TimedOut` if processes do not die (they are named).
pub fn kill_node(nodes_dir: &Path, node: &NodeName, patience: Duration) -> io::Result<usize> {
    let folder = nodes_dir.join(node.as_str());
    if !folder.is_dir() {
        return Err(io::Error::new(
            io::ErrorKind::NotFound,
            format!("{} has no node {node}", nodes_dir.display()),
        ));
    }
    let (machine, agent) = (folder.join(MACHINE_LOCK), folder.join(AGENT_LOCK));
    let begun = Instant::now();
    let mut killed = std::collections::BTreeSet::new();
    loop {
        killed.extend(steadfast_lock::kill_holders(&[&machine, &agent])?);
        if !steadfast_lock::is_held(&machine)? && !steadfast_lock::is_held(&agent)? {
            return Ok(killed.len());
        }
        if begun.elapsed() >= patience {
            let left = steadfast_lock::holders(&machine)?;
            return Err(io::Error::new(
                io::ErrorKind::TimedOut,
                format!("processes {left:?} of {node} do not die"),
            ));
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;
    use std::process::Command;

    use super::*;

    #[test]
    fn a_node_is_killed_with_everything_that_holds_its_lock() {
        let folder = tempfile::tempdir().unwrap();
        let node: NodeName = "node-1".parse().unwrap();
        let patience = Duration::from_secs(30);
        assert_eq!(kill_node(folder.path(), &node, patience).unwrap_err().kind(), io::ErrorKind::NotFound);

        std::fs::create_dir(folder.path().join("node-1")).unwrap();
        let path = folder.path().join("node-1").join(MACHINE_LOCK);
        let lock = steadfast_lock::Lock::try_shared(&path).unwrap().unwrap();
        let children: Vec<_> = (0..3)
            .map(|_| {
                let inherited = lock.as_fd().try_clone_to_owned().unwrap();
                Command::new("sleep").arg("600").stdin(inherited).spawn().unwrap()
            })
            .collect();
        drop(lock);
        assert_eq!(kill_node(folder.path(), &node, patience).unwrap(), 3);
        assert_eq!(kill_node(folder.path(), &node, patience).unwrap(), 0);
        for mut child in children {
            child.wait().unwrap();
        }
    }
}
