//! Volumes of a size: images of a file system in a folder that machines share, mounted over a loop device on the node
//! that a volume is attached to. A volume that is full is full for its member, and for nobody else.
//!
//! Whose a volume is, where it is attached, and the lock that an engine's tree holds are the matter of another provider,
//! which gives each volume a folder; here it gets an image in it. The record says `Attached` before anything is mounted,
//! and `mounted` in the image's own record is taken back after it was unmounted. So a crash between any two steps leaves
//! a state that the next call, or the next round ([`ImageVolumes::keep`]), goes on from.
//!
//! # Two kernels
//! A file system that two kernels have mounted is destroyed, also if one of them runs nothing any more: it writes back
//! what it has in memory. A machine that fell silent cannot be asked to unmount, so whoever takes its volume over goes on
//! with a **copy** of the image, and the old file is removed. What the old kernel writes then reaches nobody (a file
//! server answers it with a stale handle). Where the folder's file system shares blocks between files (XFS, btrfs, and
//! NFS 4.2 over these) the copy is made at once; elsewhere it takes as long as reading and writing what the volume
//! holds, and needs that room. An image that changes while it is copied is not taken over: somebody still writes.
//!
//! # Growth
//! The folder's record says how large a volume shall be, and the image's how large it is. Whoever has it mounted makes up
//! for the difference, while it is in use; whoever mounts it does so as well. A mounted ext4 grows only where the agent has
//! `CAP_SYS_RESOURCE`; elsewhere a copy is made larger when it is mounted next.
//!
//! # Snapshots
//! A snapshot is a copy of the image in a folder beside the volumes. One of a mounted image is made where it is mounted,
//! while its file system stands still for as long as sharing its blocks takes; where the folder cannot share blocks,
//! only of an image that is mounted nowhere. A volume that is made of one begins as a link to it.
//!
//! Nothing refuses the old writer itself, which goes on as if its volume were whole: so these volumes declare
//! [`Exclusivity::None`](steadfast_core::volume::Exclusivity::None) if the folder's provider does.

mod filesystem;
mod image;
mod record;
mod shelf;
mod snapshots;
mod system;

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use nix::unistd::geteuid;
use steadfast_core::ids::{ClusterName, NodeName, VolumeId};
use steadfast_core::volume::{
    Attachment, VolumeCapabilities, VolumeProvider, VolumeSpec, VolumeStatus, cannot_grow,
};
use steadfast_core::{Environment, Error, ErrorKind, Result};
use steadfast_lock::Lock;
use tokio::sync::oneshot;

use crate::rounds;
pub use filesystem::Filesystem;
use image::{Image, Presence, check_programs};
use shelf::Shelf;
use system::Problem;

/// How long a change waits for another one of the same volume. Only a copy takes longer.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long an attachment is waited for before it counts as begun: what came of it is seen, or told by the next call.
const SOON: Duration = Duration::from_secs(2);
/// How often it looks whether the other one is done.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// Images of a file system in the folders of another provider.
#[derive(Debug, Clone)]
pub struct ImageVolumes {
    folders: Arc<dyn VolumeProvider>,
    filesystem: Filesystem,
    environment: Environment,
    here: Option<Here>,
    snapshots: Option<Shelf>,
    /// How attachments have failed that nobody waited for to their end.
    late: Arc<Mutex<BTreeMap<VolumeId, Problem>>>,
}

/// The node on which this runs.
#[derive(Debug, Clone)]
struct Here {
    node: NodeName,
    mounts: PathBuf,
}

impl Here {
    fn target(&self, id: &VolumeId) -> PathBuf {
        self.mounts.join(id.as_str())
    }
}

impl ImageVolumes {
    /// The volumes as a server sees them, which touches none of them. New ones will hold `filesystem`; one that exists
    /// keeps its own. `folders` gives each volume a folder, which `device` names.
    pub fn recorded(
        folders: Arc<dyn VolumeProvider>,
        filesystem: Filesystem,
        environment: Environment,
    ) -> Self {
        ImageVolumes { folders, filesystem, environment, here: None, snapshots: None, late: Arc::default() }
    }

    /// The volumes as the agent of `node` has them: those attached to it are mounted below `mounts`, a folder of this
    /// machine alone.
    ///
    /// # Errors
    /// `Unsupported` if a program is not installed, `Denied` unless this runs as root.
    pub fn on(
        folders: Arc<dyn VolumeProvider>,
        filesystem: Filesystem,
        environment: Environment,
        node: NodeName,
        mounts: &Path,
    ) -> Result<Self> {
        let refuse =
            |problem: Problem| error_of(&folders, "open", mounts.display(), problem).without_effect();
        if !geteuid().is_root() {
            let message = format!("PermissionDenied: mounting {} needs root", filesystem.as_str());
            return Err(refuse(Problem::new(ErrorKind::Denied, message)));
        }
        // As the kernel's table of mounts names it.
        let mounts = fs::create_dir_all(mounts)
            .and_then(|()| fs::canonicalize(mounts))
            .map_err(|error| refuse(Problem::at(mounts, error)))?;
        check_programs(filesystem).map_err(refuse)?;
        let here = Some(Here { node, mounts });
        Ok(ImageVolumes { folders, filesystem, environment, here, snapshots: None, late: Arc::default() })
    }

    /// Keeps this node's mounts in line with the records until the process stops.
    pub fn keep(&self) {
        let this = self.clone();
        rounds::keep(&self.environment, "volumes", "mounts are left as they are", move || {
            let this = this.clone();
            async move { this.settle().await }
        });
    }

    /// Unmounts once what this node has mounted and does not hold: what became another's while this node could not be
    /// told, and what was in use when it was given back.
    ///
    /// # Errors
    /// What the folder or a program says, after everything else was tried.
    pub async fn settle(&self) -> Result<()> {
        let Some(here) = &self.here else { return Ok(()) };
        let mounts = here.mounts.clone();
        let listed = self.blocking(move || {
            let entries = fs::read_dir(&mounts).map_err(|error| Problem::at(&mounts, error))?;
            Ok(entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect())
        });
        let ids: Vec<VolumeId> =
            listed.await.map_err(|problem| self.error("settle", here.mounts.display(), problem))?;
        let mut failed = None;
        for id in ids {
            if let Err(error) = self.settle_one(here, &id).await {
                failed = Some(error);
            }
        }
        failed.map_or(Ok(()), Err)
    }

    async fn settle_one(&self, here: &Here, id: &VolumeId) -> Result<()> {
        match self.folders.describe(id).await? {
            Some(status) if status.attachment == Attachment::Attached(here.node.clone()) => {
                let grown = self.grow(here, &status).await;
                self.take_wanted(&status).await.and(grown)
            }
            Some(status) => self.unmount(here, &status, |now| now.attachment == status.attachment).await,
            None => {
                let target = here.target(id);
                let work = move || image::unmount_deleted(&target);
                self.blocking(work).await.map_err(|problem| self.error("settle", id, problem))
            }
        }
    }

    /// Unmounts a volume here, if that is `still` right once its lock is held: an attachment is recorded before the
    /// lock is taken to mount it.
    async fn unmount(
        &self,
        here: &Here,
        status: &VolumeStatus,
        still: impl Fn(&VolumeStatus) -> bool + Send,
    ) -> Result<()> {
        let (image, lock) = self.lock("unmount", status).await?;
        if self.folders.describe(&status.id).await?.is_none_or(|now| !still(&now)) {
            return Ok(());
        }
        let (node, target) = (here.node.clone(), here.target(&status.id));
        let work = move || image.unmount(&lock, &node, &target);
        self.blocking(work).await.map_err(|problem| self.error("unmount", &status.id, problem))
    }

    /// Gives a volume that is mounted here the size that is on record. What takes long goes on by itself.
    async fn grow(&self, here: &Here, status: &VolumeStatus) -> Result<()> {
        if self.sized(status).await?.is_none_or(|size_bytes| size_bytes >= status.spec.size_bytes) {
            return Ok(());
        }
        let (image, lock) = match self.lock("grow", status).await {
            // Whoever works on it is followed by the next round.
            Err(error) if error.kind() == ErrorKind::Busy => return Ok(()),
            locked => locked?,
        };
        let (node, target, size) = (here.node.clone(), here.target(&status.id), status.spec.size_bytes);
        let work = self.blocking(move || image.grow(&lock, &node, &target, size));
        let done = self.environment.timeout(SOON, work).await.unwrap_or(Ok(()));
        done.map_err(|problem| self.error("grow", &status.id, problem))
    }

    /// How large the file system of a volume is; none if it is not made yet.
    async fn sized(&self, status: &VolumeStatus) -> Result<Option<u64>> {
        let look = |image: Image| image.size_bytes();
        self.look("describe", status, look).await
    }

    /// Looks at the image of a volume.
    async fn look<T: Send + 'static>(
        &self,
        operation: &'static str,
        status: &VolumeStatus,
        look: impl FnOnce(Image) -> Result<T, Problem> + Send + 'static,
    ) -> Result<T> {
        let failed = |problem| self.error(operation, &status.id, problem).without_effect();
        let folder = folder_of(status).map_err(failed)?;
        self.blocking(move || Image::of(&folder).and_then(look)).await.map_err(failed)
    }

    /// A volume's image and its lock, which is waited for no longer than [`PATIENCE`]. Whoever works under it on a
    /// thread takes it along: if nobody waits for that any more, it goes on, and `describe` says so.
    async fn lock(&self, operation: &'static str, status: &VolumeStatus) -> Result<(Image, Lock)> {
        let failed = |problem| self.error(operation, &status.id, problem).without_effect();
        let folder = folder_of(status).map_err(failed)?;
        let image = self.blocking(move || Image::of(&folder)).await.map_err(failed)?;
        let clock = self.environment.clock();
        let deadline = clock.monotonic().plus(PATIENCE);
        loop {
            let asked = image.clone();
            if let Some(lock) = self.blocking(move || asked.lock()).await.map_err(failed)? {
                return Ok((image, lock));
            }
            if clock.monotonic() >= deadline {
                let message =
                    format!("VolumeBusy: its image has been worked on for {} s: wait", PATIENCE.as_secs());
                return Err(failed(Problem::new(ErrorKind::Busy, message)));
            }
            clock.sleep(LOOK_EVERY).await;
        }
    }

    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, Problem> + Send + 'static,
    ) -> Result<T, Problem> {
        tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| {
            Err(Problem::new(ErrorKind::Internal, format!("the thread that did it has ended: {error}")))
        })
    }

    /// A volume as its folder's provider says, and as it is mounted here.
    async fn seen(&self, mut found: VolumeStatus) -> Result<VolumeStatus> {
        // What cannot be read is told by the node that has to mount it.
        if let Ok(Some(size_bytes)) = self.sized(&found).await {
            found.spec.size_bytes = size_bytes;
        }
        let Some(here) = &self.here else { return Ok(VolumeStatus { device: None, ..found }) };
        let holds = found.attachment.holder() == Some(&here.node);
        if !holds && found.attachment != Attachment::Free {
            return Ok(VolumeStatus { device: None, ..found });
        }
        let (node, target) = (here.node.clone(), here.target(&found.id));
        let presence = self.look("describe", &found, move |image| image.presence(&node, &target)).await?;
        let node = || here.node.clone();
        let attachment = match (&found.attachment, presence) {
            (Attachment::Attached(_), Presence::Mounted) => {
                return Ok(VolumeStatus { device: Some(here.target(&found.id)), ..found });
            }
            // It is ours by record: after a crash, or the machine's new start, it is to be mounted again.
            (Attachment::Attached(_), Presence::Lingering | Presence::Absent) => Attachment::Free,
            (Attachment::Attached(_), Presence::Working) => Attachment::Attaching(node()),
            (Attachment::Free, Presence::Mounted | Presence::Lingering) => Attachment::Detaching(node()),
            (other, _) => other.clone(),
        };
        Ok(VolumeStatus { attachment, device: None, ..found })
    }

    fn error(&self, operation: &'static str, subject: impl fmt::Display, problem: Problem) -> Error {
        error_of(self, operation, subject, problem)
    }

    async fn folder(&self, operation: &'static str, id: &VolumeId) -> Result<VolumeStatus> {
        let found = self.folders.describe(id).await?;
        found.ok_or_else(|| {
            Error::new(ErrorKind::NotFound, self, operation, id, "it does not exist").without_effect()
        })
    }
}

#[async_trait]
impl VolumeProvider for ImageVolumes {
    fn capabilities(&self) -> VolumeCapabilities {
        let declared = self.folders.capabilities();
        let may_grow = self.here.is_none() || self.filesystem.may_grow_mounted();
        VolumeCapabilities { grow: declared.grow && may_grow, snapshot: self.snapshots.is_some(), ..declared }
    }

    async fn ensure(&self, spec: &VolumeSpec) -> Result<VolumeId> {
        // Its image is made by the first node that it is attached to, which says what is in the way of that.
        self.folders.ensure(spec).await
    }

    async fn describe(&self, id: &VolumeId) -> Result<Option<VolumeStatus>> {
        match self.folders.describe(id).await? {
            Some(found) => self.seen(found).await.map(Some),
            None => Ok(None),
        }
    }

    async fn list(&self, cluster: &ClusterName) -> Result<Vec<VolumeStatus>> {
        let mut seen = Vec::new();
        for found in self.folders.list(cluster).await? {
            seen.push(self.seen(found).await?);
        }
        Ok(seen)
    }

    async fn begin_attach(&self, id: &VolumeId, node: &NodeName) -> Result<()> {
        self.folders.begin_attach(id, node).await?;
        let Some(here) = self.here.as_ref().filter(|here| here.node == *node) else { return Ok(()) };
        if let Some(problem) = held(&self.late).remove(id) {
            return Err(self.error("attach", id, problem));
        }
        let status = self.folder("attach", id).await?;
        let (image, lock) = self.lock("attach", &status).await?;
        let (node, target) = (here.node.clone(), here.target(id));
        let (filesystem, size) = (self.filesystem, status.spec.size_bytes);
        let (late, subject) = (Arc::clone(&self.late), id.clone());
        let (tell, told) = oneshot::channel();
        let work = move || {
            let mount = || image.mount(&lock, &node, &target, size);
            let done = image.make(&lock, filesystem, size).and_then(|()| mount());
            if done.is_ok()
                && let Err(problem) = image.grow(&lock, &node, &target, size)
            {
                // With the data, and as small as it was: the next round tries again.
                tracing::warn!(volume = %subject, problem = problem.message, "it is not made larger yet");
            }
            if let Err(Err(problem)) = tell.send(done) {
                held(&late).insert(subject, problem);
            }
            // Whoever sees that nothing is under way any more finds what came of it.
            drop(lock);
            Ok(())
        };
        // If it takes long, it goes on by itself: a volume is made, or copied.
        let begun = async { tokio::join!(self.blocking(work), told).1 };
        match self.environment.timeout(SOON, begun).await {
            Some(Ok(Err(problem))) => Err(self.error("attach", id, problem)),
            Some(Err(_)) => {
                let message = "the thread that did it has ended";
                Err(self.error("attach", id, Problem::new(ErrorKind::Internal, message)))
            }
            Some(Ok(Ok(()))) | None => Ok(()),
        }
    }

    async fn begin_detach(&self, id: &VolumeId, expected: &NodeName) -> Result<()> {
        if let Some(here) = self.here.as_ref().filter(|here| here.node == *expected) {
            let status = self.folder("detach", id).await?;
            // One in use is unmounted when it is not any more.
            let idle = |now: &VolumeStatus| now.attachment.holder() == Some(expected) && !now.in_use;
            if idle(&status) {
                self.unmount(here, &status, idle).await?;
            }
        }
        self.folders.begin_detach(id, expected).await
    }

    async fn begin_grow(&self, id: &VolumeId, size_bytes: u64) -> Result<()> {
        if !self.capabilities().grow {
            return Err(cannot_grow(self, id));
        }
        let status = self.folder("grow", id).await?;
        if status.spec.size_bytes < size_bytes {
            self.look("grow", &status, move |image| image.check_growth(size_bytes)).await?;
        }
        // From here on whoever mounts it, or has it mounted, gives it that size.
        self.folders.begin_grow(id, size_bytes).await?;
        let status = self.folder("grow", id).await?;
        if let Some(here) = &self.here
            && status.attachment == Attachment::Attached(here.node.clone())
        {
            return self.grow(here, &status).await;
        }
        match self.look("grow", &status, move |image| image.growth_failure(size_bytes)).await? {
            Some(problem) => Err(self.error("grow", id, problem)),
            None => Ok(()),
        }
    }

    async fn delete(&self, id: &VolumeId) -> Result<()> {
        self.folders.delete(id).await
    }

    async fn abandon(&self, id: &VolumeId) -> Result<()> {
        self.folders.abandon(id).await
    }
}

impl fmt::Display for ImageVolumes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} images in {}", self.filesystem.as_str(), self.folders)
    }
}

/// Nothing that is done under these locks can panic half-way, so a poisoned one holds a whole value.
fn held<T>(value: &Mutex<T>) -> MutexGuard<'_, T> {
    value.lock().unwrap_or_else(PoisonError::into_inner)
}

fn folder_of(status: &VolumeStatus) -> Result<PathBuf, Problem> {
    let message = "its provider gives it no folder to put an image in";
    status.device.clone().ok_or_else(|| Problem::new(ErrorKind::Unsupported, message))
}

fn error_of(
    backend: impl fmt::Display,
    operation: &'static str,
    subject: impl fmt::Display,
    Problem { kind, message, source }: Problem,
) -> Error {
    let error = Error::new(kind, backend, operation, subject, message);
    match source {
        Some(source) => error.with_source(source),
        None => error,
    }
}
