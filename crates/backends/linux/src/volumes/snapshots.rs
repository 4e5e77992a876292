//! Snapshots of images: recorded by whoever asks, and made where the image is mounted, or by whoever asks if it is mounted
//! nowhere.

use std::path::Path;

use async_trait::async_trait;
use steadfast_core::ids::{ClusterName, SnapshotId, SnapshotName, VolumeId};
use steadfast_core::snapshot::{SnapshotCapabilities, SnapshotProvider, SnapshotStatus};
use steadfast_core::volume::{VolumeProvider as _, VolumeSpec, VolumeStatus};
use steadfast_core::{Error, ErrorKind, Result};

use super::shelf::{Shelf, Snapshot};
use super::system::Problem;
use super::{ImageVolumes, LOOK_EVERY, PATIENCE, SOON, error_of};

impl ImageVolumes {
    /// The same volumes, with snapshots in `dir`: a folder of the file system that the volumes' images lie in, which every
    /// machine has at the same place.
    ///
    /// # Errors
    /// What the folder says.
    pub fn with_snapshots(self, dir: &Path) -> Result<Self> {
        match Shelf::open(dir) {
            Ok(shelf) => Ok(ImageVolumes { snapshots: Some(shelf), ..self }),
            Err(problem) => Err(error_of(&self, "open", dir.display(), problem).without_effect()),
        }
    }

    fn shelf(&self, operation: &'static str, subject: impl std::fmt::Display) -> Result<Shelf> {
        self.snapshots.clone().ok_or_else(|| {
            let message = "CapabilityMissing: no folder is given for snapshots";
            Error::new(ErrorKind::Unsupported, self, operation, subject, message).without_effect()
        })
    }

    /// Makes the snapshots that are wanted of a volume which is mounted here.
    pub(super) async fn take_wanted(&self, status: &VolumeStatus) -> Result<()> {
        let Some(shelf) = self.snapshots.clone() else { return Ok(()) };
        let volume = status.id.clone();
        let wanted = move || {
            let all = shelf.all()?.into_iter();
            let wanted = all.filter(|(_, found)| found.volume == volume && found.content.is_none());
            Ok(wanted.map(|(id, _)| id).collect::<Vec<_>>())
        };
        let wanted =
            self.blocking(wanted).await.map_err(|problem| self.error("snapshot", &status.id, problem))?;
        for id in wanted {
            self.take(status, &id).await?;
        }
        Ok(())
    }

    /// Makes a snapshot that is on record, if it can be made here. What takes long goes on by itself.
    async fn take(&self, status: &VolumeStatus, id: &SnapshotId) -> Result<()> {
        let shelf = self.shelf("snapshot", id)?;
        let (image, lock) = match self.lock("snapshot", status).await {
            // Whoever works on it is followed by the next round, or by who asks again.
            Err(error) if error.kind() == ErrorKind::Busy => return Ok(()),
            locked => locked?,
        };
        let here = self.here.clone().map(|here| (here.target(&status.id), here.node));
        let (this, own) = (self.clone(), id.clone());
        let work = async move {
            let (from, named) = (shelf.clone(), own.clone());
            let taken = this.blocking(move || {
                let here = here.as_ref().map(|(target, node)| (node, target.as_path()));
                image.take_snapshot(&lock, &from, &named, here)
            });
            let Some(content) = taken.await? else { return Ok(()) };
            let copy = shelf.image(&own).with_extension("new");
            this.on_shelf(move |lock| shelf.complete(lock, &own, &copy, content.clone())).await
        };
        let (tell, told) = tokio::sync::oneshot::channel();
        self.environment.tasks().spawn("snapshot", async move {
            if let Err(Err(problem)) = tell.send(work.await) {
                tracing::warn!(problem = problem.message, "a snapshot could not be made; it is tried again");
            }
        });
        match self.environment.timeout(SOON, told).await {
            Some(Ok(done)) => done.map_err(|problem| self.error("snapshot", id, problem)),
            Some(Err(_)) | None => Ok(()),
        }
    }

    /// Changes a record of a snapshot under the lock of all, which is held for moments.
    async fn on_shelf<T: Send + 'static>(
        &self,
        change: impl Fn(&steadfast_lock::Lock) -> Result<T, Problem> + Send + Sync + 'static,
    ) -> Result<T, Problem> {
        let shelf =
            self.shelf("snapshot", "").map_err(|error| Problem::new(error.kind(), error.message()))?;
        let change = std::sync::Arc::new(change);
        let clock = self.environment.clock();
        let deadline = clock.monotonic().plus(PATIENCE);
        loop {
            let (shelf, again) = (shelf.clone(), std::sync::Arc::clone(&change));
            let attempt = move || shelf.lock()?.map(|lock| again(&lock)).transpose();
            if let Some(done) = self.blocking(attempt).await? {
                return Ok(done);
            }
            if clock.monotonic() >= deadline {
                let message =
                    "VolumeBusy: the records of snapshots have been held by another process for 5 s";
                return Err(Problem::new(ErrorKind::Busy, message));
            }
            clock.sleep(LOOK_EVERY).await;
        }
    }

    async fn known(&self, operation: &'static str, id: &SnapshotId) -> Result<Option<Snapshot>> {
        let (shelf, own) = (self.shelf(operation, id)?, id.clone());
        let read = self.blocking(move || shelf.read(&own)).await;
        read.map_err(|problem| self.error(operation, id, problem).without_effect())
    }
}

#[async_trait]
impl SnapshotProvider for ImageVolumes {
    fn capabilities(&self) -> SnapshotCapabilities {
        SnapshotCapabilities { in_use: self.snapshots.as_ref().is_some_and(|shelf| shelf.shares_blocks) }
    }

    async fn begin_snapshot(&self, volume: &VolumeId, name: &SnapshotName) -> Result<SnapshotId> {
        let failed = |problem| self.error("snapshot", volume, problem);
        let (shelf, id) = (self.shelf("snapshot", volume)?, Shelf::id_of(volume, name).map_err(failed)?);
        let status = self.folder("snapshot", volume).await?;
        let known = self.known("snapshot", &id).await?;
        let is_whole = known.as_ref().is_some_and(|known| known.content.is_some());
        let (on, before) = (shelf.clone(), known.clone());
        self.look("snapshot", &status, move |image| image.check_snapshot(&on, before.as_ref())).await?;
        if is_whole {
            return Ok(id);
        }
        let seen = self.seen(status.clone()).await?;
        let wanted = Snapshot::of(volume.clone(), name.clone(), seen.spec);
        let own = id.clone();
        self.on_shelf(move |lock| shelf.want(lock, &own, &wanted)).await.map_err(failed)?;
        self.take(&status, &id).await?;
        Ok(id)
    }

    async fn snapshot(&self, id: &SnapshotId) -> Result<Option<SnapshotStatus>> {
        Ok(self.known("describe", id).await?.map(|found| found.status(id.clone())))
    }

    async fn snapshots(&self, cluster: &ClusterName) -> Result<Vec<SnapshotStatus>> {
        let shelf = self.shelf("list", cluster)?;
        let listed = self.blocking(move || shelf.all()).await;
        let all = listed.map_err(|problem| self.error("list", cluster, problem).without_effect())?;
        let own = all.into_iter().filter(|(_, found)| &found.spec.cluster == cluster);
        Ok(own.map(|(id, found)| found.status(id)).collect())
    }

    async fn ensure_from(&self, spec: &VolumeSpec, snapshot: &SnapshotId) -> Result<VolumeId> {
        let refuse =
            |kind, message: &str| Error::new(kind, self, "ensure from", snapshot, message).without_effect();
        let shelf = self.shelf("ensure from", snapshot)?;
        let found = self.known("ensure from", snapshot).await?;
        let content = match found.map(|found| found.content) {
            // One that was made of it is found again, whatever became of the snapshot.
            None if self.made_of(spec, snapshot).await?.is_some() => return self.ensure(spec).await,
            None => return Err(refuse(ErrorKind::NotFound, "it does not exist")),
            Some(None) => return Err(refuse(ErrorKind::Busy, "it is not complete yet")),
            Some(Some(content)) => content,
        };
        if content.size_bytes > spec.size_bytes {
            let message = format!(
                "ConfigInvalid: it is of {} MiB, and a volume of {} MiB is asked for",
                content.size_bytes >> 20,
                spec.size_bytes >> 20
            );
            return Err(refuse(ErrorKind::Invalid, &message));
        }
        let id = self.folders.ensure(spec).await?;
        let status = self.folder("ensure from", &id).await?;
        let (image, lock) = self.lock("ensure from", &status).await?;
        let own = snapshot.clone();
        let begun = self.blocking(move || image.begin_from(&lock, &own, &shelf, &content)).await;
        begun.map_err(|problem| {
            let exists = problem.kind == ErrorKind::AlreadyExists;
            let error = self.error("ensure from", snapshot, problem);
            if exists { error.without_effect() } else { error }
        })?;
        Ok(id)
    }

    async fn delete_snapshot(&self, id: &SnapshotId) -> Result<()> {
        let (shelf, own) = (self.shelf("delete", id)?, id.clone());
        let deleted = self.on_shelf(move |lock| shelf.delete(lock, &own)).await;
        deleted.map_err(|problem| self.error("delete", id, problem))
    }
}

impl ImageVolumes {
    /// The volume of this member and name, if it was made of that snapshot.
    async fn made_of(&self, spec: &VolumeSpec, snapshot: &SnapshotId) -> Result<Option<VolumeId>> {
        let all = self.folders.list(&spec.cluster).await?;
        let named =
            |status: &&VolumeStatus| status.spec.member == spec.member && status.spec.name == spec.name;
        let Some(status) = all.iter().find(named) else { return Ok(None) };
        let own = snapshot.clone();
        let is = self.look("ensure from", status, move |image| image.is_made_of(&own)).await?;
        Ok(is.then(|| status.id.clone()))
    }
}
