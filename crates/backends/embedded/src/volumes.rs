//! Volumes that are folders on this machine.
//!
//! ```text
//! DIR/volumes/MEMBER_ID.NAME/
//!   volume.json   what it was made as, and where it is attached; replaced whole, and durable on return
//!   meta.lock     held for the length of one change of volume.json
//!   lock          held by the tree of the engine that uses the volume, from the guard down
//!   data/         the content
//! ```
//!
//! The second writer is refused by the kernel: the guard takes `lock` before it starts the engine, the whole tree of
//! the engine inherits it, and the kernel frees it with the last process. This provider never takes it to attach or
//! detach; it asks whether it is held, and calls a volume `Detaching` for as long as it is. That proves something on
//! one machine only. In a folder that several machines share ([`DirectoryVolumes::shared`]) the lock is taken and asked
//! about all the same, but nothing is concluded from a free one: a file server may free the locks of a machine that it
//! does not hear, which goes on to write.
//!
//! Any number of processes may call any method at the same time.

mod folder;

use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use steadfast_core::ids::{ClusterName, MemberId, NodeName, VolumeId, VolumeName};
use steadfast_core::runtime::Environment;
use steadfast_core::volume::{
    Attachment, Exclusivity, Reach, VolumeCapabilities, VolumeProvider, VolumeSpec, VolumeStatus,
    cannot_abandon,
};
use steadfast_core::{Error, ErrorKind, Result};

use crate::failure::io_failure;
use crate::files;
use folder::{Attempt, Root};

/// How long a change waits for another one of the same volume. A change takes milliseconds; one that takes longer
/// belongs to a process that is stopped.
const PATIENCE: Duration = Duration::from_secs(10);

/// How often it looks whether the other one is done.
const LOOK_EVERY: Duration = Duration::from_millis(2);

/// The user and group that own the content of volumes, where engines run as another user than the provider.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DataOwner {
    /// The user.
    pub uid: u32,
    /// The group.
    pub gid: u32,
}

/// Volumes that are folders under `DIR/volumes`.
#[derive(Clone)]
pub struct DirectoryVolumes {
    root: Arc<Root>,
    environment: Environment,
    exclusivity: Exclusivity,
}

impl DirectoryVolumes {
    /// The volumes under `dir`, which is made if it does not exist. The content of new volumes belongs to the user
    /// of this process.
    ///
    /// # Errors
    /// `Denied` or `QuotaExceeded` if the folder cannot be made or written, with its name and the remedy.
    pub fn open(dir: &Path, environment: Environment) -> Result<Self> {
        Self::open_for(dir, environment, None)
    }

    /// The volumes under `dir`, their content owned by `owner`: for engines that refuse to run as the user of this
    /// process, which must be root then.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn open_for(dir: &Path, environment: Environment, owner: Option<DataOwner>) -> Result<Self> {
        let root = Root::new(dir.join("volumes"), owner);
        // Another user can only pass through these folders, and only if the content is for another user.
        let mode = root.folder_mode();
        let made = files::make_folder(root.path(), mode)
            .and_then(|()| root.open_way(root.path()))
            .and_then(|()| files::make_folder(&root.staging(), 0o700))
            .and_then(|()| files::make_folder(&root.trash(), 0o700));
        made.map_err(|error| io_failure(&root, "open", root.path(), error).without_effect())?;
        Ok(DirectoryVolumes { root: Arc::new(root), environment, exclusivity: Exclusivity::Storage })
    }

    /// The same volumes, in a folder that several machines share: then nobody refuses a second writer, so the old one
    /// has to be proven unable to write before a volume is detached.
    #[must_use]
    pub fn shared(self) -> Self {
        DirectoryVolumes { exclusivity: Exclusivity::None, ..self }
    }

    /// The identifier of a member's volume: it follows from the two, so that it is found again without a record.
    ///
    /// # Errors
    /// Never for parsed names.
    pub fn volume_id(member: &MemberId, name: &VolumeName) -> Result<VolumeId> {
        // The name has no dot, so the last one parts the two again.
        format!("{member}.{name}").parse().map_err(|error| {
            Error::new(ErrorKind::Internal, "directory volumes", "name", member, error).without_effect()
        })
    }

    /// The folder of a volume.
    pub fn folder(&self, id: &VolumeId) -> PathBuf {
        self.root.folder(id)
    }

    /// The lock of a volume, for the guard to take before it starts the engine.
    pub fn lock_path(&self, id: &VolumeId) -> PathBuf {
        self.root.folder(id).join(folder::LOCK)
    }

    /// The content of a volume.
    pub fn data_path(&self, id: &VolumeId) -> PathBuf {
        self.root.folder(id).join(folder::DATA)
    }

    /// Runs `work` on a thread that may block. Dropping the future lets it end: the change is then done or not done.
    async fn blocking<T: Send + 'static>(
        &self,
        operation: &'static str,
        subject: String,
        work: impl FnOnce(&Root) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let root = Arc::clone(&self.root);
        tokio::task::spawn_blocking(move || work(&root)).await.unwrap_or_else(|error| {
            let message = "the thread that did it has ended";
            Err(Error::new(ErrorKind::Internal, self, operation, subject, message).with_source(error))
        })
    }

    /// Repeats `attempt` until it finds the lock it needs free, but no longer than [`PATIENCE`].
    async fn locked<T: Send + 'static>(
        &self,
        operation: &'static str,
        subject: &VolumeId,
        attempt: impl Fn(&Root) -> Result<Attempt<T>> + Send + Sync + 'static,
    ) -> Result<T> {
        let attempt = Arc::new(attempt);
        let clock = self.environment.clock();
        let deadline = clock.monotonic().plus(PATIENCE);
        loop {
            let again = Arc::clone(&attempt);
            let tried = self.blocking(operation, subject.to_string(), move |root| again(root)).await?;
            let held = match tried {
                Attempt::Done(value) => return Ok(value),
                Attempt::Held(path) => path,
            };
            if clock.monotonic() >= deadline {
                let message = format!(
                    "{} has been held for {} s: see with `fuser {0}` which process holds it, and whether it is stopped",
                    held.display(),
                    PATIENCE.as_secs()
                );
                return Err(
                    Error::new(ErrorKind::Unavailable, self, operation, subject, message).without_effect()
                );
            }
            clock.sleep(LOOK_EVERY).await;
        }
    }
}

#[async_trait]
impl VolumeProvider for DirectoryVolumes {
    fn capabilities(&self) -> VolumeCapabilities {
        VolumeCapabilities {
            exclusivity: self.exclusivity,
            reach: Reach::Cluster,
            attach_limit: None,
            grow: true,
            snapshot: false,
        }
    }

    async fn ensure(&self, spec: &VolumeSpec) -> Result<VolumeId> {
        let id = Self::volume_id(&spec.member, &spec.name)?;
        let (spec, volume) = (spec.clone(), id.clone());
        self.locked("ensure", &id, move |root| root.ensure(&volume, &spec)).await?;
        Ok(id)
    }

    async fn describe(&self, id: &VolumeId) -> Result<Option<VolumeStatus>> {
        let volume = id.clone();
        self.blocking("describe", id.to_string(), move |root| root.describe(&volume)).await
    }

    async fn list(&self, cluster: &ClusterName) -> Result<Vec<VolumeStatus>> {
        let wanted = cluster.clone();
        self.blocking("list", cluster.to_string(), move |root| root.list(&wanted)).await
    }

    async fn begin_attach(&self, id: &VolumeId, node: &NodeName) -> Result<()> {
        let (volume, node) = (id.clone(), node.clone());
        self.locked("attach", id, move |root| {
            root.change("attach", &volume, |attachment, in_use| match attachment {
                Attachment::Attaching(holder) | Attachment::Attached(holder) if *holder == node => Ok(None),
                Attachment::Free if !in_use => Ok(Some(Attachment::Attached(node.clone()))),
                Attachment::Free => {
                    Err((ErrorKind::Busy, "its lock is held although it is attached to no node".to_owned()))
                }
                Attachment::Detaching(holder) => {
                    Err((ErrorKind::Busy, format!("it is on its way off {holder}, which may still write")))
                }
                Attachment::Attaching(holder) | Attachment::Attached(holder) => {
                    Err((ErrorKind::Busy, format!("it is attached to {holder}")))
                }
            })
        })
        .await
    }

    async fn begin_detach(&self, id: &VolumeId, expected: &NodeName) -> Result<()> {
        let (volume, expected) = (id.clone(), expected.clone());
        self.locked("detach", id, move |root| {
            root.change("detach", &volume, |attachment, in_use| match attachment.holder() {
                None => Ok(None),
                Some(holder) if *holder != expected => {
                    Err((ErrorKind::Stale, format!("it is held by {holder}, not by {expected}")))
                }
                Some(_) if in_use => Ok(Some(Attachment::Detaching(expected.clone()))),
                Some(_) => Ok(Some(Attachment::Free)),
            })
        })
        .await
    }

    async fn begin_grow(&self, id: &VolumeId, size_bytes: u64) -> Result<()> {
        let volume = id.clone();
        self.locked("grow", id, move |root| root.grow(&volume, size_bytes)).await
    }

    async fn delete(&self, id: &VolumeId) -> Result<()> {
        let volume = id.clone();
        self.locked("delete", id, move |root| root.delete(&volume)).await?;
        // The volume is gone by now; what is left is to free its space.
        let volume = id.clone();
        self.blocking("delete", id.to_string(), move |root| root.empty_trash(&volume)).await
    }

    async fn abandon(&self, id: &VolumeId) -> Result<()> {
        Err(cannot_abandon(self, id))
    }
}

impl fmt::Display for DirectoryVolumes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.root.fmt(f)
    }
}

impl fmt::Debug for DirectoryVolumes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DirectoryVolumes").field("root", &self.root).finish_non_exhaustive()
    }
}

/// Whether something is there, without following links.
fn exists(path: &Path) -> io::Result<bool> {
    match fs::symlink_metadata(path) {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests;
