//! Proof that a node is dead.

use std::fmt::Debug;
use std::fs;
use std::io;
use std::path::PathBuf;

use async_trait::async_trait;
use steadfast_core::ids::{Incarnation, NodeName};

use crate::node_dir;

/// What can be proven about one life of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Proof {
    /// Nothing of it is left, and nothing of it comes back.
    Dead,
    /// Something of it lives.
    Alive,
    /// It cannot be seen from here.
    Unknown,
}

/// Somebody who can tell whether a node is dead.
#[async_trait]
pub trait NodeProver: Debug + Send + Sync + 'static {
    /// Whether it ever proves a death.
    fn proves(&self) -> bool;

    /// Whether asking costs next to nothing, so that every node can be asked about with every look. Of others it is
    /// only asked about nodes that have been silent for half their lease.
    fn is_cheap(&self) -> bool {
        false
    }

    /// What can be proven about each of these lives of nodes, in their order. Not being able to look is `Unknown`.
    async fn prove(&self, lives: &[(&NodeName, &Incarnation)]) -> Vec<Proof>;
}

/// Sees nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct BlindProver;

#[async_trait]
impl NodeProver for BlindProver {
    fn proves(&self) -> bool {
        false
    }

    async fn prove(&self, lives: &[(&NodeName, &Incarnation)]) -> Vec<Proof> {
        vec![Proof::Unknown; lives.len()]
    }
}

/// Sees nodes whose folders are on this machine: every process of a node inherits the node's lock, which the
/// kernel frees with the last of them. Proves nothing where the folder is on a network file system.
#[derive(Debug, Clone)]
pub struct LockProver {
    nodes_dir: PathBuf,
}

impl LockProver {
    /// The nodes with a folder of their name in `nodes_dir`.
    pub fn new(nodes_dir: impl Into<PathBuf>) -> Self {
        LockProver { nodes_dir: nodes_dir.into() }
    }

    fn look(&self, node: &NodeName, incarnation: &Incarnation) -> io::Result<Proof> {
        let folder = self.nodes_dir.join(node.as_str());
        // The life is read before the lock is looked at. A life is written down only under the lock, so if the
        // lock is free afterwards, all of that life is gone; and a life that begins later is a new one.
        let written = fs::read_to_string(folder.join(node_dir::INCARNATION))?;
        let same_life = written.trim() == incarnation.as_str();
        let held = steadfast_lock::is_held(&folder.join(node_dir::MACHINE_LOCK))?;
        Ok(match (same_life, held) {
            (true, false) => Proof::Dead,
            (true, true) => Proof::Alive,
            // Another life than is recorded: one of the two is about to change.
            (false, _) => Proof::Unknown,
        })
    }
}

#[async_trait]
impl NodeProver for LockProver {
    fn is_cheap(&self) -> bool {
        true
    }

    fn proves(&self) -> bool {
        true
    }

    async fn prove(&self, lives: &[(&NodeName, &Incarnation)]) -> Vec<Proof> {
        // Two small files of a local disk each: quicker than handing it to another thread.
        let look = |(node, life): &(&NodeName, &Incarnation)| self.look(node, life).unwrap_or(Proof::Unknown);
        lives.iter().map(look).collect()
    }
}

#[cfg(test)]
mod tests {
    use steadfast_lock::Lock;

    use super::*;

    #[tokio::test]
    async fn a_free_lock_proves_the_death_of_the_life_that_is_written_down() {
        let folder = tempfile::tempdir().unwrap();
        let node: NodeName = "node-1".parse().unwrap();
        let (first, second): (Incarnation, Incarnation) = ("i1".parse().unwrap(), "i2".parse().unwrap());
        let prover = LockProver::new(folder.path());
        let prove = async |life| prover.prove(&[(&node, life)]).await[0];
        assert_eq!(prove(&first).await, Proof::Unknown, "there is nothing to look at");

        fs::create_dir(folder.path().join("node-1")).unwrap();
        fs::write(folder.path().join("node-1/incarnation"), "i1\n").unwrap();
        let lock = Lock::try_shared(&folder.path().join("node-1/machine.lock")).unwrap().unwrap();
        assert_eq!(prove(&first).await, Proof::Alive);
        assert_eq!(prove(&second).await, Proof::Unknown);
        drop(lock);
        assert_eq!(prove(&first).await, Proof::Dead);
        assert_eq!(prove(&second).await, Proof::Unknown, "not the life that was asked for");
    }
}
