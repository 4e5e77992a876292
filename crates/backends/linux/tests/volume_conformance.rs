//! Images against the contract, with two machines that share a folder: each call is made on the machine that a cluster
//! makes it on.
#![allow(clippy::unwrap_used, reason = "a test ends where something is not as it should be")]

mod volumes;

use std::any::Any;
use std::fmt;
use std::fs::{self, File};

use async_trait::async_trait;
use nix::sys::statvfs::statvfs;
use steadfast_backend_linux::volumes::{Filesystem, ImageVolumes};
use steadfast_core::Result;
use steadfast_core::conformance::Harness;
use steadfast_core::conformance::volume::VolumeHarness;
use steadfast_core::ids::{ClusterName, NodeName, SnapshotId, SnapshotName, VolumeId};
use steadfast_core::snapshot::{SnapshotCapabilities, SnapshotProvider, SnapshotStatus};
use steadfast_core::volume::{
    Exclusivity, Reach, VolumeCapabilities, VolumeProvider, VolumeSpec, VolumeStatus, cannot_grow,
};
use steadfast_lock::Lock;
use volumes::{Lab, may_mount, node};

const NODES: [&str; 2] = ["node-a", "node-b"];

/// A server, and the agents of two machines.
#[derive(Debug)]
struct Cluster {
    server: ImageVolumes,
    agents: [(NodeName, ImageVolumes); 2],
}

impl Cluster {
    fn of(lab: &Lab) -> Cluster {
        Cluster { server: lab.server(), agents: NODES.map(|name| (node(name), lab.agent(name))) }
    }

    fn on(&self, name: &NodeName) -> &ImageVolumes {
        self.agents.iter().find(|(own, _)| own == name).map_or(&self.server, |(_, agent)| agent)
    }
}

impl fmt::Display for Cluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.server.fmt(f)
    }
}

#[async_trait]
impl VolumeProvider for Cluster {
    /// What a server declares, as far as these machines can do it.
    fn capabilities(&self) -> VolumeCapabilities {
        let grow = self.agents.iter().all(|(_, agent)| VolumeProvider::capabilities(agent).grow);
        VolumeCapabilities { grow, ..VolumeProvider::capabilities(&self.server) }
    }

    async fn ensure(&self, spec: &VolumeSpec) -> Result<VolumeId> {
        self.server.ensure(spec).await
    }

    async fn describe(&self, id: &VolumeId) -> Result<Option<VolumeStatus>> {
        for (name, agent) in &self.agents {
            let status = agent.describe(id).await?;
            if status.as_ref().is_some_and(|status| status.attachment.holder() == Some(name)) {
                return Ok(status);
            }
        }
        self.server.describe(id).await
    }

    async fn list(&self, cluster: &ClusterName) -> Result<Vec<VolumeStatus>> {
        self.server.list(cluster).await
    }

    async fn begin_attach(&self, id: &VolumeId, node: &NodeName) -> Result<()> {
        self.on(node).begin_attach(id, node).await
    }

    async fn begin_detach(&self, id: &VolumeId, expected: &NodeName) -> Result<()> {
        self.on(expected).begin_detach(id, expected).await
    }

    /// Asked of the server, which leaves the work to whichever machine has it mounted.
    async fn begin_grow(&self, id: &VolumeId, size_bytes: u64) -> Result<()> {
        if !VolumeProvider::capabilities(self).grow {
            return Err(cannot_grow(self, id));
        }
        self.server.begin_grow(id, size_bytes).await
    }

    async fn delete(&self, id: &VolumeId) -> Result<()> {
        self.server.delete(id).await
    }

    async fn abandon(&self, id: &VolumeId) -> Result<()> {
        self.server.abandon(id).await
    }
}

/// Snapshots are asked of the server, which leaves those of a mounted volume to its machine.
#[async_trait]
impl SnapshotProvider for Cluster {
    fn capabilities(&self) -> SnapshotCapabilities {
        SnapshotProvider::capabilities(&self.server)
    }

    async fn begin_snapshot(&self, volume: &VolumeId, name: &SnapshotName) -> Result<SnapshotId> {
        self.server.begin_snapshot(volume, name).await
    }

    async fn snapshot(&self, id: &SnapshotId) -> Result<Option<SnapshotStatus>> {
        self.server.snapshot(id).await
    }

    async fn snapshots(&self, cluster: &ClusterName) -> Result<Vec<SnapshotStatus>> {
        self.server.snapshots(cluster).await
    }

    async fn ensure_from(&self, spec: &VolumeSpec, snapshot: &SnapshotId) -> Result<VolumeId> {
        self.server.ensure_from(spec, snapshot).await
    }

    async fn delete_snapshot(&self, id: &SnapshotId) -> Result<()> {
        self.server.delete_snapshot(id).await
    }
}

/// Images of a file system, in a folder that shares blocks between files or one that does not.
struct Images(Filesystem, Folder);

#[derive(Clone, Copy)]
enum Folder {
    Usual,
    SharesBlocks,
}

impl Harness for Images {
    type Backend = Cluster;
    type Guard = Lab;

    async fn open(&self) -> (Lab, Cluster) {
        if !may_mount(&format!("conformance of volumes of {}", self.0.as_str()), self.0) {
            // Each test is a process: this one has nothing more to do.
            std::process::exit(0);
        }
        let lab = match self.1 {
            Folder::Usual => Lab::new(self.0),
            Folder::SharesBlocks => Lab::that_shares_blocks(self.0),
        };
        let cluster = Cluster::of(&lab);
        (lab, cluster)
    }

    async fn reopen(&self, lab: &Lab) -> Cluster {
        Cluster::of(lab)
    }
}

impl VolumeHarness for Images {
    fn size_bytes(&self) -> u64 {
        self.0.least_bytes()
    }

    async fn advance(&self, cluster: &Cluster, _id: &VolumeId) {
        for (_, agent) in &cluster.agents {
            // One in use cannot be unmounted yet.
            agent.settle().await.ok();
        }
    }

    async fn occupy(&self, _cluster: &Cluster, volume: &VolumeStatus) -> Option<Box<dyn Any>> {
        let lock = Lock::try_exclusive(volume.lock.as_ref().unwrap()).unwrap().unwrap();
        let file = File::create(volume.device.as_ref().unwrap().join("in-use")).unwrap();
        Some(Box::new((lock, file)))
    }

    fn room_bytes(&self, volume: &VolumeStatus) -> Option<u64> {
        let space = statvfs(volume.device.as_ref().unwrap()).unwrap();
        Some(space.blocks() * space.fragment_size())
    }

    fn mark(&self, volume: &VolumeStatus) -> bool {
        fs::write(volume.device.as_ref().unwrap().join("mark"), "here").unwrap();
        true
    }

    fn is_marked(&self, volume: &VolumeStatus) -> bool {
        let mark = volume.device.as_ref().unwrap().join("mark");
        fs::read_to_string(mark).is_ok_and(|mark| mark == "here")
    }
}

mod ext4 {
    use super::{Filesystem, Folder, Images};
    steadfast_core::volume_conformance!(Images(Filesystem::Ext4, Folder::Usual));
    steadfast_core::snapshot_conformance!(Images(Filesystem::Ext4, Folder::Usual));
}

mod xfs {
    use super::{Filesystem, Folder, Images};
    steadfast_core::volume_conformance!(Images(Filesystem::Xfs, Folder::Usual));
    steadfast_core::snapshot_conformance!(Images(Filesystem::Xfs, Folder::Usual));
}

mod sharing_blocks {
    use super::{Filesystem, Folder, Images};

    mod ext4 {
        use super::{Filesystem, Folder, Images};
        steadfast_core::snapshot_conformance!(Images(Filesystem::Ext4, Folder::SharesBlocks));
    }

    mod xfs {
        use super::{Filesystem, Folder, Images};
        steadfast_core::snapshot_conformance!(Images(Filesystem::Xfs, Folder::SharesBlocks));
    }
}

#[tokio::test]
async fn nobody_refuses_a_second_writer_and_that_is_declared() {
    if may_mount("nobody_refuses_a_second_writer_and_that_is_declared", Filesystem::Ext4) {
        let lab = Lab::new(Filesystem::Ext4);
        let declared = VolumeProvider::capabilities(&lab.server());
        assert_eq!(declared.exclusivity, Exclusivity::None);
        assert!(declared.grow && declared.snapshot && declared.reach == Reach::Cluster);
    }
}
