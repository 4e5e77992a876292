//! The members' volumes: folders of this machine or of a shared folder, images of a file system in the latter, or folders
//! on the nodes' own disks.

use std::path::Path;
use std::sync::Arc;

use nix::unistd::geteuid;
use steadfast_backends::embedded::volumes::{DataOwner, DirectoryVolumes};
#[cfg(feature = "linux")]
use steadfast_backends::linux::disks::DiskVolumes;
#[cfg(feature = "linux")]
use steadfast_backends::linux::volumes::{Filesystem, ImageVolumes};
use steadfast_core::Environment;
use steadfast_core::ids::NodeName;
use steadfast_core::metadata::Records;
use steadfast_core::volume::VolumeProvider;

use super::shared_volumes;
use crate::config::{ClusterConfig, VolumeKind};
use crate::data_dir::DataDir;
use crate::exit::Result;

/// A cluster's volumes, as a server or a node's agent has them.
#[derive(Debug, Clone)]
pub(super) enum Volumes {
    Folders(DirectoryVolumes),
    #[cfg(feature = "linux")]
    Images(ImageVolumes),
    #[cfg(feature = "linux")]
    Disks(DiskVolumes),
}

impl Volumes {
    /// As the configuration says; `node` is the one whose agent this is.
    pub(super) fn open(
        data: &DataDir,
        config: &ClusterConfig,
        records: &Records,
        node: Option<&NodeName>,
        environment: &Environment,
    ) -> Result<Self> {
        // Engines that refuse to run as root have to pass through the folders above their data.
        let owner = geteuid().is_root().then_some(DataOwner { uid: 0, gid: 0 });
        let folders = |folder: &Path| DirectoryVolumes::open_for(folder, environment.clone(), owner);
        if let Some(local) = &config.local_volumes {
            return disks(records, environment, node, |node| folders(&local.join(node.as_str())));
        }
        let Some(shared) = &config.shared_volumes else { return Ok(Volumes::Folders(folders(data.root())?)) };
        shared_volumes::check(shared, config)?;
        let folders = folders(shared)?.shared();
        match config.volume_kind {
            VolumeKind::Folder => Ok(Volumes::Folders(folders)),
            kind @ (VolumeKind::Ext4 | VolumeKind::Xfs) => images(data, folders, kind, node, environment),
        }
    }

    pub(super) fn provider(&self) -> Arc<dyn VolumeProvider> {
        match self {
            Volumes::Folders(volumes) => Arc::new(volumes.clone()),
            #[cfg(feature = "linux")]
            Volumes::Images(volumes) => Arc::new(volumes.clone()),
            #[cfg(feature = "linux")]
            Volumes::Disks(volumes) => Arc::new(volumes.clone()),
        }
    }

    /// Keeps what the agent's node has mounted in line with the records, for as long as it runs.
    pub(super) fn keep(&self) {
        match self {
            Volumes::Folders(_) => {}
            #[cfg(feature = "linux")]
            Volumes::Images(volumes) => volumes.keep(),
            #[cfg(feature = "linux")]
            Volumes::Disks(volumes) => volumes.keep(),
        }
    }
}

#[cfg(feature = "linux")]
fn images(
    data: &DataDir,
    folders: DirectoryVolumes,
    kind: VolumeKind,
    node: Option<&NodeName>,
    environment: &Environment,
) -> Result<Volumes> {
    let filesystem = if kind == VolumeKind::Xfs { Filesystem::Xfs } else { Filesystem::Ext4 };
    let (folders, environment) = (Arc::new(folders), environment.clone());
    Ok(Volumes::Images(match node {
        Some(node) => {
            let mounts = Path::new("nodes").join(node.as_str()).join("volumes");
            data.make_passable(&mounts)?;
            ImageVolumes::on(folders, filesystem, environment, node.clone(), &data.path(&mounts))?
        }
        None => ImageVolumes::recorded(folders, filesystem, environment),
    }))
}

#[cfg(not(feature = "linux"))]
fn images(
    _data: &DataDir,
    _folders: DirectoryVolumes,
    kind: VolumeKind,
    _node: Option<&NodeName>,
    _environment: &Environment,
) -> Result<Volumes> {
    Err(without(&format!("volume_kind {kind:?}")))
}

/// The volumes on the nodes' own disks, of which an agent has its node's.
#[cfg(feature = "linux")]
fn disks(
    records: &Records,
    environment: &Environment,
    node: Option<&NodeName>,
    disk: impl Fn(&NodeName) -> steadfast_core::Result<DirectoryVolumes>,
) -> Result<Volumes> {
    Ok(Volumes::Disks(match node {
        Some(node) => {
            let disk = Arc::new(disk(node)?);
            DiskVolumes::on(records.clone(), environment.clone(), node.clone(), disk)
        }
        None => DiskVolumes::recorded(records.clone()),
    }))
}

#[cfg(not(feature = "linux"))]
fn disks(
    _records: &Records,
    _environment: &Environment,
    _node: Option<&NodeName>,
    _disk: impl Fn(&NodeName) -> steadfast_core::Result<DirectoryVolumes>,
) -> Result<Volumes> {
    Err(without("local_volumes"))
}

#[cfg(not(feature = "linux"))]
fn without(what: &str) -> crate::exit::Failure {
    crate::exit::Failure::usage(
        format!("{what}: this build has no volumes but folders"),
        "build it with them: cargo build --package steadfast --features etcd,linux",
    )
}

/// Whether a folder of volumes has any.
pub(super) fn has_volumes(folder: &Path) -> bool {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name()).any(|name| !name.to_string_lossy().starts_with('.'))
}
