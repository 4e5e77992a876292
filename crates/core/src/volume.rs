//! Volumes: made once, attached to one node at a time, and never taken from an unexpected holder.

pub mod memory;

use std::fmt::{Debug, Display};
use std::path::PathBuf;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::error::{Error, ErrorKind, Result};
use crate::ids::{ClusterName, MemberId, MemberName, NodeName, VolumeId, VolumeName, ZoneName};

/// What a volume shall be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeSpec {
    /// The cluster that owns it.
    pub cluster: ClusterName,
    /// The member it belongs to: with the volume's name, the token that finds it again.
    pub member: MemberId,
    /// The member's name, for people who look at the provider.
    pub member_name: MemberName,
    /// Which of the member's volumes.
    pub name: VolumeName,
    /// Its size in bytes: of one that exists, what whoever uses it can use of it.
    pub size_bytes: u64,
    /// The class the cluster's configuration maps to the provider's own kinds.
    pub class: String,
    /// The zone it is made in, if the provider pins volumes to zones.
    pub zone: Option<ZoneName>,
}

/// Where a volume is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Attachment {
    /// Attached to no node.
    Free,
    /// On its way to a node.
    Attaching(NodeName),
    /// Attached.
    Attached(NodeName),
    /// On its way off a node, which may still write.
    Detaching(NodeName),
}

impl Attachment {
    /// The node that may write, or may come to.
    pub fn holder(&self) -> Option<&NodeName> {
        match self {
            Attachment::Free => None,
            Attachment::Attaching(node) | Attachment::Attached(node) | Attachment::Detaching(node) => {
                Some(node)
            }
        }
    }
}

/// What a provider says of a volume.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeStatus {
    /// The provider's identifier.
    pub id: VolumeId,
    /// What it was made as, with the size that it has now.
    pub spec: VolumeSpec,
    /// Where it is.
    pub attachment: Attachment,
    /// The node whose own disk it lies on, where volumes do ([`Reach::Node`]); none until it was first attached.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<NodeName>,
    /// Whether somebody is using it right now, as far as the provider can see (a held lock, a mount).
    pub in_use: bool,
    /// Where the node that holds it finds it: a device or a folder.
    pub device: Option<PathBuf>,
    /// The file that whoever uses it there holds locked, if that is not `lock` in the folder.
    #[serde(default)]
    pub lock: Option<PathBuf>,
}

/// Who refuses a second writer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Exclusivity {
    /// Nobody: two nodes can write at once, so the old one must be proven unable to.
    None,
    /// The storage: after a detach, what the old node writes is refused.
    Storage,
}

/// How far a volume reaches: where it can be attached once it has been attached for the first time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Reach {
    /// On the one node whose own disk it lies on. It is made there when it is first attached.
    Node,
    /// On the nodes of the zone that it was made in.
    Zone,
    /// Everywhere.
    Cluster,
}

/// What a volume provider can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeCapabilities {
    /// Who refuses a second writer.
    pub exclusivity: Exclusivity,
    /// Where a volume can be attached.
    pub reach: Reach,
    /// The most volumes one node takes; none: no limit.
    pub attach_limit: Option<u32>,
    /// Whether a volume can be made larger in use ([`begin_grow`](VolumeProvider::begin_grow)).
    pub grow: bool,
    /// Whether it makes snapshots: then it is a [`SnapshotProvider`](crate::snapshot::SnapshotProvider) as well.
    pub snapshot: bool,
}

/// Gives back what `node` may hold of a volume. A volume that is somebody else's, or does not exist, is given back.
///
/// It is asked for whatever [`describe`](VolumeProvider::describe) says: that may be older than an attachment that has
/// just been begun, which would then stay for ever.
///
/// # Errors
/// What the provider says. Calling again is always right.
pub async fn give_back(volumes: &dyn VolumeProvider, id: &VolumeId, node: &NodeName) -> Result<()> {
    match volumes.begin_detach(id, node).await {
        Err(error) if !matches!(error.kind(), ErrorKind::Stale | ErrorKind::NotFound) => Err(error),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// What a provider answers that makes no volume larger.
pub fn cannot_grow(provider: &dyn VolumeProvider, id: &VolumeId) -> Error {
    let message = "CapabilityMissing: it makes no volume larger";
    Error::new(ErrorKind::Unsupported, provider, "grow", id, message).without_effect()
}

/// What a provider answers whose volumes are on no disk that could be lost with its node.
pub fn cannot_abandon(provider: &dyn VolumeProvider, id: &VolumeId) -> Error {
    let message = "CapabilityMissing: its volumes are on no node's own disk";
    Error::new(ErrorKind::Unsupported, provider, "abandon", id, message).without_effect()
}

/// A source of volumes. Calls begin a change and return; what came of it is seen by [`describe`](Self::describe).
#[async_trait]
pub trait VolumeProvider: Debug + Display + Send + Sync + 'static {
    /// What this backend can do.
    fn capabilities(&self) -> VolumeCapabilities;

    /// Makes sure that the volume of this member and name exists, and gives its identifier.
    ///
    /// # Behavior
    /// - Found again by member id and volume name, however often and from wherever it is called: a crash
    ///   between creation and recording leaks nothing.
    /// - An existing volume is never emptied; one of another size is returned as it is.
    async fn ensure(&self, spec: &VolumeSpec) -> Result<VolumeId>;

    /// What is known of a volume; `None` if it does not exist.
    ///
    /// # Behavior
    /// - It may be some seconds old, as clouds' answers are: what is done because of it names the expected holder.
    async fn describe(&self, id: &VolumeId) -> Result<Option<VolumeStatus>>;

    /// Every volume of a cluster.
    async fn list(&self, cluster: &ClusterName) -> Result<Vec<VolumeStatus>>;

    /// Begins to attach a free volume to `node`.
    ///
    /// # Behavior
    /// - Attached (or attaching) to `node` already: success.
    /// - Attached to another node, or on its way off any: `Busy`, without effect.
    /// - Free, and out of reach of `node` ([`Reach`]): `Invalid`, without effect.
    /// - A volume that does not exist is `NotFound`.
    async fn begin_attach(&self, id: &VolumeId, node: &NodeName) -> Result<()>;

    /// Begins to detach a volume from `expected`.
    ///
    /// # Behavior
    /// - Attached to nobody, or to another node than `expected`: `Stale` for another node, success for nobody;
    ///   either way without effect. A volume that does not exist is `NotFound`.
    /// - The volume stays `Detaching` for as long as `expected` may still write.
    async fn begin_detach(&self, id: &VolumeId, expected: &NodeName) -> Result<()>;

    /// Begins to make a volume larger: one that is in use as well, whose user goes on.
    ///
    /// # Behavior
    /// - As large as that, or larger: success, without effect. A volume never shrinks, and the largest that was asked
    ///   for is what it comes to.
    /// - [`describe`](Self::describe) says the new size once all of it can be used, and the old one until then. One
    ///   that is attached nowhere may keep the old one until it is attached again.
    /// - What it holds stays, and so does where it is attached.
    /// - A call may tell how an earlier one has failed that nobody waited for. Calling again tries again.
    /// - A volume that does not exist is `NotFound`; no room for it is `QuotaExceeded`, and the volume as it was. A
    ///   provider that does not declare `grow` answers `Unsupported`, without effect: see [`cannot_grow`].
    async fn begin_grow(&self, id: &VolumeId, size_bytes: u64) -> Result<()>;

    /// Deletes a volume and its data.
    ///
    /// # Behavior
    /// - An absent volume is success; an attached one is `Busy`, without effect.
    async fn delete(&self, id: &VolumeId) -> Result<()>;

    /// Gives a volume up whose disk is gone by an operator's word, wherever it is attached. Whoever asks for this has
    /// proof that nobody uses it.
    ///
    /// # Behavior
    /// - From then on it does not exist, and its member and name can have a new volume, on any node.
    /// - Nothing is removed: should its disk come back, what is on it stays there, and is nobody's.
    /// - An absent volume, or one that was given up, is success.
    /// - A provider whose volumes are on no node's own disk answers `Unsupported`, without effect: see
    ///   [`cannot_abandon`].
    async fn abandon(&self, id: &VolumeId) -> Result<()>;
}
