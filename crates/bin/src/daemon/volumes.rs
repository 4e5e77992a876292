//! The members' volumes: folders of this machine or of a shared folder, or images of a file system in the latter.

use std::path::Path;
use std::sync::Arc;

use nix::unistd::geteuid;
use steadfast_backends::embedded::volumes::{DataOwner, DirectoryVolumes};
#[cfg(feature = "linux")]
use steadfast_backends::linux::volumes::{Filesystem, ImageVolumes};
use steadfast_core::Environment;
use steadfast_core::ids::NodeName;
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
}

impl Volumes {
    /// As the configuration says; `node` is the one whose agent this is.
    pub(super) fn open(
        data: &DataDir,
        config: &ClusterConfig,
        node: Option<&NodeName>,
        environment: &Environment,
    ) -> Result<Self> {
        // Engines that refuse to run as root have to pass through the folders above their data.
        let owner = geteuid().is_root().then_some(DataOwner { uid: 0, gid: 0 });
        let folders = |folder: &Path| DirectoryVolumes::open_for(folder, environment.clone(), owner);
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
        }
    }

    /// Keeps what the agent's node has mounted in line with the records, for as long as it runs.
    pub(super) fn keep(&self) {
        match self {
            Volumes::Folders(_) => {}
            #[cfg(feature = "linux")]
            Volumes::Images(volumes) => volumes.keep(),
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
    Err(crate::exit::Failure::usage(
        format!("volume_kind {kind:?}: this build has no volumes but folders"),
        "build it with them: cargo build --package steadfast --features etcd,linux",
    ))
}
