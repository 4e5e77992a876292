//! Engines: how one member's database is looked at and changed, on the node that runs it.
//!
//! An [`Engine`] is made by the catalog from a blueprint and the member's [`EngineContext`]; the agent calls it.
//! It speaks the engine's own protocol; starting and stopping the process is the guard's matter.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::net::IpAddr;
use std::path::PathBuf;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::error::{Error, ErrorKind, Result};
use crate::ids::{
    ClusterName, Epoch, GroupName, MemberName, NodeName, Ordinal, ServiceName, VolumeName, ZoneName,
};
use crate::model::{Durability, Position, Reason, Role};

/// A member of the group, as its peers see it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Peer {
    /// Its name.
    pub name: MemberName,
    /// Its ordinal.
    pub ordinal: Ordinal,
    /// Its fully qualified DNS name.
    pub host: String,
    /// Its static address.
    pub address: Option<IpAddr>,
}

/// Everything an engine may know of the member it is. The values of templates, too.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
pub struct EngineContext {
    /// The cluster.
    pub cluster: ClusterName,
    /// The service.
    pub service: ServiceName,
    /// The group.
    pub group: GroupName,
    /// The member itself.
    pub member: Peer,
    /// Every member of the group, itself included, in order of ordinals.
    pub peers: Vec<Peer>,
    /// The node it runs on.
    pub node: NodeName,
    /// That node's zone.
    pub zone: ZoneName,
    /// The epoch it is claimed under.
    pub epoch: Epoch,
    /// Whether it follows without a vote: it has lost its data, and has not caught up with the others since.
    #[serde(default)]
    pub learner: bool,
    /// The durability class.
    pub durability: Durability,
    /// The options, defaults filled in.
    pub options: BTreeMap<String, Value>,
    /// Ports by name.
    pub ports: BTreeMap<String, u16>,
    /// Where each volume is mounted.
    pub volumes: BTreeMap<VolumeName, PathBuf>,
    /// A folder of the member's own for files that live as long as the claim (configuration, sockets).
    pub run_dir: PathBuf,
    /// The secrets of the service, in the clear.
    pub secrets: BTreeMap<String, String>,
}

impl Debug for EngineContext {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Without the secrets.
        f.debug_struct("EngineContext")
            .field("member", &self.member)
            .field("node", &self.node)
            .field("epoch", &self.epoch)
            .finish_non_exhaustive()
    }
}

/// A program to run, without a shell.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Command {
    /// The program's absolute path, followed by its arguments. No secret is ever among them.
    pub argv: Vec<String>,
    /// Environment variables. No secret is ever among them.
    pub env: BTreeMap<String, String>,
    /// The working folder.
    pub cwd: Option<PathBuf>,
}

/// A file to write beside the data before the engine starts.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConfigFile {
    /// Where, absolute.
    pub path: PathBuf,
    /// What.
    pub content: String,
    /// The permission bits.
    pub mode: u32,
}

impl Debug for ConfigFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The content may hold secrets.
        f.debug_struct("ConfigFile")
            .field("path", &self.path)
            .field("mode", &self.mode)
            .finish_non_exhaustive()
    }
}

/// What an engine says of itself. Fields it does not tell are at their `Default`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct EngineView {
    /// Whether it answers at all.
    pub alive: bool,
    /// Whether it serves in its role (a replica: follows and is caught up far enough to be of use).
    pub ready: bool,
    /// Its role.
    pub role: Role,
    /// The address of the primary it follows.
    pub follows: Option<IpAddr>,
    /// How far its data reaches.
    pub position: Option<Position>,
    /// How far it is behind, as the engine counts.
    pub lag: Option<u64>,
    /// Whether it is recovering or loading, which may take longer than any deadline, and how far it is: a
    /// number that grows with progress.
    pub recovering: Option<u64>,
    /// What is wrong, with the code for it.
    pub problem: Option<(Reason, String)>,
    /// Who votes, if the engine elects its leader itself, leads, and can be told.
    #[serde(default)]
    pub voters: Option<Voters>,
}

/// Who votes in a group of engines that elect their leader themselves, by the word of the one that leads.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Voters {
    /// Raised with every change that the engines have agreed on.
    pub version: u64,
    /// Who votes.
    pub members: BTreeSet<MemberName>,
}

/// What the agent wants a member to be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum WantedRole {
    /// Take writes.
    Primary {
        /// The other members that confirm writes, if the durability class has any.
        replicas: Vec<Peer>,
    },
    /// Follow this member.
    Follow(Peer),
    /// Follow nobody and take no writes: an election is on, or nobody leads yet.
    Fenced,
}

/// How making a member's first data ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Prepared {
    /// The engine's exact version, written on the volume.
    pub engine_version: String,
    /// The codes and words of what was done beyond the plain (rewound, re-cloned with the range given up).
    pub remarks: Vec<(Reason, String)>,
}

/// One member's engine. Every method is safe to repeat, and to give up on and call again later.
#[async_trait]
pub trait Engine: Debug + Send + Sync + 'static {
    /// The configuration files of the member, rendered. Pure: the same context gives the same files.
    ///
    /// # Errors
    /// `Invalid` if a template cannot be rendered.
    fn config(&self) -> Result<Vec<ConfigFile>>;

    /// The command that runs the engine in the foreground. It comes up not writable where
    /// `leadership = steadfast`.
    fn start_command(&self) -> Result<Command>;

    /// The exact version of the engine's program on this node.
    ///
    /// # Errors
    /// `NotFound` if it is missing.
    async fn version(&self) -> Result<String>;

    /// Makes the first data of the whole group: called for one member, once, under a durable decision.
    ///
    /// # Behavior
    /// - Repeating after a crash begins anew: nothing that was half made is used.
    async fn initialise(&self) -> Result<Prepared>;

    /// Makes this member's data as one of an existing group. `from` is the primary to copy from, for engines
    /// that copy at the outset.
    async fn join(&self, from: Option<&Peer>) -> Result<Prepared>;

    /// Brings data that exists into line before the engine starts: after a promotion elsewhere the old
    /// primary's is rewound, or copied anew if that is not possible.
    async fn reconcile_data(&self, wanted: &WantedRole) -> Result<Vec<(Reason, String)>>;

    /// What the running engine says of itself.
    ///
    /// # Behavior
    /// - An engine that does not answer is a view with `alive: false`, not an error.
    async fn observe(&self) -> EngineView;

    /// Brings the running engine into the wanted role. The caller has checked the role term right before.
    ///
    /// # Behavior
    /// - Observe-first: already there is success without effect.
    async fn assume(&self, wanted: &WantedRole) -> Result<()>;

    /// Has the engines agree on who votes, through the one that leads them; gives the new version. The caller has
    /// read who shall vote right before.
    ///
    /// # Behavior
    /// - Refused if the version is no longer `version`: what the change was decided on does not hold.
    /// - Raises the version even if the same members vote already, so that changes on their way are refused.
    /// - Takes effect only with a majority of those who voted before and of those who are to.
    ///
    /// # Errors
    /// `Unsupported` if members cannot come and go while the engines run; `Stale` if it does not lead, or the
    /// version is another one.
    async fn admit(&self, voters: &[Peer], version: u64) -> Result<u64> {
        let text =
            format!("{} members are to vote, and members of this engine stay as they are", voters.len());
        Err(Error::new(ErrorKind::Unsupported, "engine", "admit", version, text).without_effect())
    }

    /// The signal that stops the engine in order (`TERM`, `INT`), and how long that may take, in milliseconds.
    fn stop(&self) -> (StopSignal, u64);
}

/// A signal that stops an engine in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum StopSignal {
    /// SIGTERM.
    Term,
    /// SIGINT.
    Int,
    /// SIGQUIT.
    Quit,
}
