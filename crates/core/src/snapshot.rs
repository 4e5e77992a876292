//! Snapshots: what a volume held at one moment, under a name, apart from the volume.

use std::fmt::{Debug, Display};

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::ids::{ClusterName, SnapshotId, SnapshotName, VolumeId};
use crate::volume::VolumeSpec;

/// How far a snapshot is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum SnapshotState {
    /// It is being made, and nothing can be made of it yet.
    Pending,
    /// It is whole.
    Complete,
}

/// What a provider says of a snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotStatus {
    /// The provider's identifier.
    pub id: SnapshotId,
    /// The volume that it is of, which may be no more.
    pub volume: VolumeId,
    /// Its name, one of that volume's.
    pub name: SnapshotName,
    /// What the volume was made as, with the size that it had then.
    pub spec: VolumeSpec,
    /// How far it is.
    pub state: SnapshotState,
}

/// What a provider of snapshots can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotCapabilities {
    /// Whether there can be a snapshot of a volume that is attached, without keeping its user waiting for long.
    pub in_use: bool,
}

/// A source of volumes that makes snapshots of them. Calls begin a change and return; what came of it is seen by
/// [`snapshot`](Self::snapshot).
///
/// A snapshot of a volume in use is what its disk would hold had the power failed at a moment between the call and the
/// snapshot's being complete: what was synced before the call is in it, and whoever uses it recovers first.
#[async_trait]
pub trait SnapshotProvider: Debug + Display + Send + Sync + 'static {
    /// What this backend can do.
    fn capabilities(&self) -> SnapshotCapabilities;

    /// Begins a snapshot of a volume, and gives its identifier.
    ///
    /// # Behavior
    /// - Found again by volume and name: asked for twice it is made once, of the first time. Calling again goes on with
    ///   one that is pending.
    /// - A volume that does not exist is `NotFound`; one that is attached, where that is not declared, `Unsupported`;
    ///   no room for it is `QuotaExceeded`: each without effect.
    /// - The name of a snapshot of a volume that was deleted and made anew is `AlreadyExists`.
    async fn begin_snapshot(&self, volume: &VolumeId, name: &SnapshotName) -> Result<SnapshotId>;

    /// What is known of a snapshot; `None` if it does not exist.
    async fn snapshot(&self, id: &SnapshotId) -> Result<Option<SnapshotStatus>>;

    /// Every snapshot of a cluster's volumes, those of deleted ones as well.
    async fn snapshots(&self, cluster: &ClusterName) -> Result<Vec<SnapshotStatus>>;

    /// Makes sure that the volume of this member and name exists, made of a snapshot, and gives its identifier.
    ///
    /// # Behavior
    /// - Found again by member id and volume name, as with [`ensure`](crate::volume::VolumeProvider::ensure), if it was
    ///   made of this very snapshot. One that was made otherwise is `AlreadyExists`, and not touched.
    /// - It has the size that is asked for; less than the snapshot's is `Invalid`, without effect.
    /// - A snapshot that does not exist is `NotFound`, one that is pending `Busy`: without effect. Once it is made, the
    ///   snapshot may be deleted.
    async fn ensure_from(&self, spec: &VolumeSpec, snapshot: &SnapshotId) -> Result<VolumeId>;

    /// Deletes a snapshot. Volumes that were made of it keep what they hold.
    ///
    /// # Behavior
    /// - An absent snapshot is success.
    async fn delete_snapshot(&self, id: &SnapshotId) -> Result<()>;
}
