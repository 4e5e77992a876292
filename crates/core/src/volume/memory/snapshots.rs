//! Snapshots of volumes in memory, which hold nothing: what is kept is of which volume they are.

use async_trait::async_trait;

use super::{MemoryVolumes, Shelf};
use crate::error::{Error, ErrorKind, Result};
use crate::ids::{ClusterName, SnapshotId, SnapshotName, VolumeId};
use crate::snapshot::{SnapshotCapabilities, SnapshotProvider, SnapshotState, SnapshotStatus};
use crate::volume::{VolumeProvider as _, VolumeSpec};

impl MemoryVolumes {
    fn refuse(
        &self,
        kind: ErrorKind,
        operation: &'static str,
        subject: impl std::fmt::Display,
        why: &str,
    ) -> Error {
        Error::new(kind, self, operation, subject, why).without_effect()
    }
}

impl Shelf {
    /// Completes the snapshots of a volume that are on their way; says whether there were any.
    pub(super) fn complete_snapshots(&mut self, volume: &VolumeId) -> bool {
        let pending = |snapshot: &&mut SnapshotStatus| {
            snapshot.volume == *volume && snapshot.state == SnapshotState::Pending
        };
        let mut any = false;
        for snapshot in self.snapshots.values_mut().filter(pending) {
            snapshot.state = SnapshotState::Complete;
            any = true;
        }
        any
    }
}

#[async_trait]
impl SnapshotProvider for MemoryVolumes {
    fn capabilities(&self) -> SnapshotCapabilities {
        SnapshotCapabilities { in_use: true }
    }

    async fn begin_snapshot(&self, volume: &VolumeId, name: &SnapshotName) -> Result<SnapshotId> {
        let id: SnapshotId = format!("{volume}:{name}").parse().map_err(|error| {
            Error::new(ErrorKind::Internal, self, "snapshot", volume, error).without_effect()
        })?;
        self.shelf.with(|shelf| {
            let Some(found) = shelf.volumes.get(volume) else {
                return Err(self.refuse(ErrorKind::NotFound, "snapshot", volume, "it does not exist"));
            };
            let state = if shelf.hold { SnapshotState::Pending } else { SnapshotState::Complete };
            let (spec, name) = (found.spec.clone(), name.clone());
            let made = SnapshotStatus { id: id.clone(), volume: volume.clone(), name, spec, state };
            shelf.snapshots.entry(id.clone()).or_insert(made);
            Ok(id)
        })
    }

    async fn snapshot(&self, id: &SnapshotId) -> Result<Option<SnapshotStatus>> {
        Ok(self.shelf.with(|shelf| shelf.snapshots.get(id).cloned()))
    }

    async fn snapshots(&self, cluster: &ClusterName) -> Result<Vec<SnapshotStatus>> {
        Ok(self.shelf.with(|shelf| {
            shelf.snapshots.values().filter(|found| &found.spec.cluster == cluster).cloned().collect()
        }))
    }

    async fn ensure_from(&self, spec: &VolumeSpec, snapshot: &SnapshotId) -> Result<VolumeId> {
        let refuse = |kind, why| Err(self.refuse(kind, "ensure from", snapshot, why));
        let known = self.shelf.with(|shelf| {
            let token = (spec.member.clone(), spec.name.clone());
            if let Some(id) = shelf.tokens.get(&token) {
                let same = shelf.sources.get(id) == Some(snapshot);
                let why = "there is a volume that was not made of it";
                return if same { Ok(true) } else { refuse(ErrorKind::AlreadyExists, why) };
            }
            match shelf.snapshots.get(snapshot) {
                None => refuse(ErrorKind::NotFound, "it does not exist"),
                Some(found) if found.state == SnapshotState::Pending => {
                    refuse(ErrorKind::Busy, "it is not complete yet")
                }
                Some(found) if found.spec.size_bytes > spec.size_bytes => {
                    refuse(ErrorKind::Invalid, "it is larger than the volume shall be")
                }
                Some(_) => Ok(false),
            }
        })?;
        let id = self.ensure(spec).await?;
        if !known {
            self.shelf.with(|shelf| shelf.sources.insert(id.clone(), snapshot.clone()));
        }
        Ok(id)
    }

    async fn delete_snapshot(&self, id: &SnapshotId) -> Result<()> {
        self.shelf.with(|shelf| shelf.snapshots.remove(id));
        Ok(())
    }
}
