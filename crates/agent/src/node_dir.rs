//! The folder of a node.
//!
//! ```text
//! NODEDIR/agent.lock              exclusive: the one agent
//!         machine.lock            shared by the agent and everything it starts: free means that the node is dead
//!         incarnation             the node's present life
//!         guards/MEMBER/          lock, spec.json, control.sock, exit.json, guard.err
//!         run/MEMBER/             configuration and sockets of the engine
//! ```
//!
//! Where engines run in containers, `guard/` and `run/` of a member are in a folder of its own elsewhere, which its
//! container sees at the same path, with everything else that it needs ([`NodeDir::with_containers`]).

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use steadfast_core::ids::{Incarnation, MemberName};
use steadfast_core::runtime::Entropy;
use steadfast_lock::Lock;

/// Where the files of a node are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeDir {
    path: PathBuf,
    /// The folder with a folder for each member, where engines run in containers.
    members: Option<PathBuf>,
}

/// What only the one agent of a node has.
#[derive(Debug)]
pub struct NodeHold {
    _agent: Lock,
    _machine: Lock,
    incarnation: Incarnation,
}

impl NodeHold {
    /// The node's present life.
    pub fn incarnation(&self) -> &Incarnation {
        &self.incarnation
    }
}

impl NodeDir {
    /// The node whose folder is `path`.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        NodeDir { path: path.into(), members: None }
    }

    /// The same node, with engines in containers: what the container of a member sees is in a folder of the member's
    /// name in `members`.
    #[must_use]
    pub fn with_containers(self, members: impl Into<PathBuf>) -> Self {
        NodeDir { members: Some(members.into()), ..self }
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What a member's container sees, at the same path; none where engines do not run in containers.
    pub fn member(&self, member: &MemberName) -> Option<PathBuf> {
        self.members.as_ref().map(|members| members.join(member.as_str()))
    }

    /// The agent's lock.
    pub fn agent_lock(&self) -> PathBuf {
        self.path.join("agent.lock")
    }

    /// The lock that everything on the node shares.
    pub fn machine_lock(&self) -> PathBuf {
        self.path.join("machine.lock")
    }

    /// The same lock, where the guard of a member finds it.
    pub fn machine_lock_of(&self, member: &MemberName) -> PathBuf {
        self.member(member).map_or_else(|| self.machine_lock(), |folder| folder.join("machine.lock"))
    }

    /// The folder that a member's log is written to; `logs` is the one with those of all members.
    pub fn log(&self, member: &MemberName, logs: &Path) -> PathBuf {
        self.member(member).map_or_else(|| logs.join(member.as_str()), |folder| folder.join("log"))
    }

    /// The file with the node's present life.
    pub fn incarnation(&self) -> PathBuf {
        self.path.join("incarnation")
    }

    /// The folder with a folder for each member that has, or had, a guard here.
    pub fn guards(&self) -> PathBuf {
        self.members.clone().unwrap_or_else(|| self.path.join("guards"))
    }

    /// A guard's folder.
    pub fn guard(&self, member: &MemberName) -> PathBuf {
        self.member(member).map_or_else(|| self.guards().join(member.as_str()), |folder| folder.join("guard"))
    }

    /// The members with a folder in [`guards`](Self::guards).
    ///
    /// # Errors
    /// If the folder cannot be read. One that is not there has none.
    pub fn guarded(&self) -> io::Result<Vec<MemberName>> {
        members_in(&self.guards())
    }

    /// The lock that a member's guard and engine hold.
    pub fn guard_lock(&self, member: &MemberName) -> PathBuf {
        self.guard(member).join("lock")
    }

    /// What a guard was started with.
    pub fn spec(&self, member: &MemberName) -> PathBuf {
        self.guard(member).join("spec.json")
    }

    /// Where a guard listens.
    pub fn control(&self, member: &MemberName) -> PathBuf {
        self.guard(member).join("control.sock")
    }

    /// How a guard ended.
    pub fn exit(&self, member: &MemberName) -> PathBuf {
        self.guard(member).join("exit.json")
    }

    /// The folder for what an engine needs as long as it runs here.
    pub fn run(&self, member: &MemberName) -> PathBuf {
        match self.member(member) {
            Some(folder) => folder.join("run"),
            None => self.path.join("run").join(member.as_str()),
        }
    }

    /// Becomes the agent of this node, for as long as the result lives. Guards that are alive are of the node's
    /// present life, which goes on; without any a new one begins.
    ///
    /// From here on every process that this one starts belongs to the node: while any of them lives the node is
    /// not dead.
    ///
    /// # Errors
    /// `AddrInUse` if the node has an agent already; else what the disk says.
    pub fn hold(&self, entropy: &Entropy) -> io::Result<NodeHold> {
        DirBuilder::new().recursive(true).mode(0o700).create(&self.path)?;
        let Some(agent) = Lock::try_exclusive(&self.agent_lock())? else {
            let holders = steadfast_lock::holders(&self.agent_lock())?;
            return Err(io::Error::new(
                io::ErrorKind::AddrInUse,
                format!("{} has an agent already: process {holders:?}", self.path.display()),
            ));
        };
        let alive = steadfast_lock::is_held(&self.machine_lock())?;
        let machine = Lock::try_shared(&self.machine_lock())?.ok_or_else(|| {
            io::Error::other(format!("{} is locked by a stranger", self.machine_lock().display()))
        })?;
        machine.pass_to_children()?;
        let before = match fs::read_to_string(self.incarnation()) {
            Ok(text) => text.trim().parse().ok(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(error),
        };
        let incarnation = match before {
            Some(incarnation) if alive => incarnation,
            Some(_) | None => {
                let fresh: Incarnation = entropy.token().parse().map_err(io::Error::other)?;
                crate::guard::write_durably(&self.incarnation(), format!("{fresh}\n").as_bytes())?;
                fresh
            }
        };
        Ok(NodeHold { _agent: agent, _machine: machine, incarnation })
    }

    /// Kills what an earlier agent has left behind that is under no guard: commands that were making data.
    ///
    /// # Errors
    /// If `/proc` or the folder cannot be read.
    pub fn kill_strays(&self) -> io::Result<usize> {
        let mut strays = steadfast_lock::holders(&self.machine_lock())?;
        // Guards that cannot be seen would pass for strays.
        for member in self.guarded()? {
            for pid in steadfast_lock::holders(&self.guard_lock(&member))? {
                strays.remove(&pid);
            }
        }
        let own = i32::try_from(std::process::id()).ok();
        strays.retain(|pid| Some(*pid) != own);
        steadfast_lock::kill_holders_among(&[&self.machine_lock()], &strays).map(|killed| killed.len())
    }
}

/// The members that have an entry of their name in `folder`, in order. A folder that is not there has none.
pub(crate) fn members_in(folder: &Path) -> io::Result<Vec<MemberName>> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut members = Vec::new();
    for entry in entries {
        // What bears no member's name is not ours.
        members.extend(entry?.file_name().to_str().and_then(|name| name.parse().ok()));
    }
    members.sort();
    Ok(members)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A failing disk once made every engine of the node a stray, which is killed.
    #[test]
    fn guards_that_cannot_be_read_are_no_reason_to_take_their_engines_for_strays() {
        let folder = tempfile::tempdir().unwrap();
        let dir = NodeDir::new(folder.path());
        let held = Lock::try_shared(&dir.machine_lock()).unwrap();
        assert_eq!(dir.kill_strays().unwrap(), 0, "there are none yet");
        fs::write(dir.guards(), "not a folder").unwrap();
        dir.kill_strays().unwrap_err();
        drop(held);
    }
}
