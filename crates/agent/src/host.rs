//! What an agent does on its node beside guarding: looking at disks and ports, and preparing data. A simulator has
//! its own.

mod apart;
mod local;
mod starter;

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use steadfast_core::engine::{EngineContext, Peer, WantedRole};
use steadfast_core::error::Result;
use steadfast_core::ids::{Epoch, MemberId, MemberName, ServiceId, VolumeName};
use steadfast_core::model::Reason;

pub use local::{LocalHost, Preparer};
pub use starter::Starter;

use crate::guard::GuardedVolume;

/// What is written on every volume (`identity.json`): whose it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// The member.
    pub member: MemberId,
    /// The service.
    pub service: ServiceId,
    /// Which of the member's volumes.
    pub volume: VolumeName,
    /// The epoch under which this was written.
    pub epoch: Epoch,
    /// The processor architecture that the data was made on.
    pub architecture: String,
    /// The engine's exact version that last had the data; none before there was any.
    #[serde(default)]
    pub engine_version: Option<String>,
    /// Whether the member's first data is complete.
    pub initialised: bool,
}

/// What a volume holds.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct VolumeFacts {
    /// Whose it is; none: it was never used.
    pub identity: Option<Identity>,
    /// Whether the part for the engine's data is empty.
    pub empty: bool,
    /// The highest epoch under which it was opened; none: it never was.
    pub epoch: Option<Epoch>,
}

/// A volume as it lies on this node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MountedVolume {
    /// Which of the member's volumes.
    pub name: VolumeName,
    /// Its folder: `epoch`, `identity.json`, and the engine's part, `data/`.
    pub folder: PathBuf,
    /// Held locked by whoever uses it.
    pub lock: PathBuf,
}

impl MountedVolume {
    /// A volume in `folder`; its lock is there, too, if its provider has named no other.
    pub fn new(name: VolumeName, folder: PathBuf, lock: Option<PathBuf>) -> Self {
        let lock = lock.unwrap_or_else(|| folder.join("lock"));
        MountedVolume { name, folder, lock }
    }

    /// The engine's part.
    pub fn data(&self) -> PathBuf {
        self.folder.join("data")
    }

    /// Whose it is.
    pub fn identity(&self) -> PathBuf {
        self.folder.join("identity.json")
    }

    /// What a guard needs of it.
    pub fn guarded(&self) -> GuardedVolume {
        GuardedVolume { lock: self.lock.clone(), epoch: self.folder.join("epoch") }
    }
}

/// The making of a member's first data.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum FirstData {
    /// As the first of its group.
    Initialise,
    /// As one of an existing group, from this member if the engine copies.
    Join(Option<Peer>),
}

/// Everything to be done to a member's data and files before its engine starts.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
pub struct PrepareJob {
    /// The blueprint.
    pub definition: Value,
    /// The member.
    pub context: EngineContext,
    /// The member's identity.
    pub member: MemberId,
    /// Its service's.
    pub service: ServiceId,
    /// The volumes.
    pub volumes: Vec<MountedVolume>,
    /// The lock of the member on this node.
    pub guard_lock: PathBuf,
    /// How long to wait for a volume that somebody else uses, in milliseconds.
    pub lock_wait_ms: u64,
    /// The first data to make, if there is none yet.
    pub first: Option<FirstData>,
    /// The role to bring existing data into line with.
    pub wanted: WantedRole,
}

impl Debug for PrepareJob {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PrepareJob").field("context", &self.context).field("first", &self.first).finish()
    }
}

/// What came of a preparation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcome {
    /// The engine's exact version.
    pub engine_version: String,
    /// What was done beyond the plain.
    pub remarks: Vec<(Reason, String)>,
}

/// A node's disks, ports and data.
#[async_trait]
pub trait NodeHost: Debug + Send + Sync + 'static {
    /// Has the engine of `member` find a volume that is attached to this node; gives where it does.
    ///
    /// # Behavior
    /// - Idempotent. A host whose engines see what it sees has nothing to do.
    ///
    /// # Errors
    /// Why it does not, as a code and in words.
    async fn mount(
        &self,
        _member: &MemberName,
        volume: MountedVolume,
    ) -> Result<MountedVolume, (Reason, String)> {
        Ok(volume)
    }

    /// Undoes every [`mount`](Self::mount) for a member of which nothing runs here. Nothing there: success.
    ///
    /// # Errors
    /// Why something is left, as a code and in words.
    async fn unmount(&self, _member: &MemberName) -> Result<(), (Reason, String)> {
        Ok(())
    }

    /// What a volume holds.
    ///
    /// # Errors
    /// Why it cannot be read, as a code and in words.
    async fn volume(&self, volume: &MountedVolume) -> Result<VolumeFacts, (Reason, String)>;

    /// The ports on this address that somebody else listens on.
    async fn ports_taken(&self, address: IpAddr, ports: &BTreeMap<String, u16>) -> Vec<u16>;

    /// Why whoever starts engines on this node starts none, in words that stay the same as long as that does; none: it
    /// does, as far as is known.
    fn stalled(&self) -> Option<String> {
        None
    }

    /// What is wrong with a disk, if anything can be seen.
    async fn disk(&self, folder: &Path) -> Option<(Reason, String)>;

    /// Prepares a member's data and files, under the same locks that its engine will hold.
    ///
    /// # Behavior
    /// - Idempotent; whatever was half made before is made anew.
    /// - Nothing is written to a volume that somebody else uses, or that has seen a higher epoch.
    /// - Dropping the future ends the work; what it has started may live on, under the member's lock.
    ///
    /// # Errors
    /// What the engine says; the message begins with a reason code if there is one.
    async fn prepare(&self, job: &PrepareJob) -> Result<Outcome>;
}
