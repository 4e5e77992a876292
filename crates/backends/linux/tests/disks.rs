//! Volumes on the disks of nodes against the contract, with a server and two nodes that have a disk each: each call is
//! made where a cluster makes it.
#![allow(clippy::unwrap_used, reason = "a test ends where something is not as it should be")]

use std::any::Any;
use std::fmt;
use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use async_trait::async_trait;
use steadfast_backend_embedded::volumes::DirectoryVolumes;
use steadfast_backend_linux::disks::DiskVolumes;
use steadfast_core::conformance::Harness;
use steadfast_core::conformance::volume::VolumeHarness;
use steadfast_core::ids::{ClusterName, NodeName, VolumeId};
use steadfast_core::layer::Access;
use steadfast_core::layer::fault::{Fault, Faults};
use steadfast_core::metadata::memory::MemoryDb;
use steadfast_core::metadata::{Key, MetadataDb, Records};
use steadfast_core::volume::{
    Attachment, Exclusivity, Reach, VolumeCapabilities, VolumeProvider, VolumeSpec, VolumeStatus,
};
use steadfast_core::{Environment, ErrorKind, Result};
use steadfast_lock::Lock;
use tempfile::TempDir;

const NODES: [&str; 2] = ["node-a", "node-b"];

/// What the machines have: records, and a folder for each.
struct Lab {
    folder: TempDir,
    db: MemoryDb,
    environment: Environment,
}

impl Lab {
    fn new() -> Lab {
        let environment = Environment::system([3; 32]);
        Lab { folder: tempfile::tempdir().unwrap(), db: MemoryDb::new(), environment }
    }

    fn records(&self) -> Records {
        self.records_over(Arc::new(self.db.clone()))
    }

    fn records_over(&self, db: Arc<dyn MetadataDb>) -> Records {
        let entropy = self.environment.entropy().fork("records");
        Records::new(db, entropy, Key::new(["steadfast", "conformance"]).unwrap())
    }

    fn server(&self) -> DiskVolumes {
        DiskVolumes::recorded(self.records())
    }

    fn disk(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn agent(&self, name: &str) -> DiskVolumes {
        let disk = DirectoryVolumes::open(&self.disk(name), self.environment.clone()).unwrap();
        DiskVolumes::on(self.records(), self.environment.clone(), node(name), Arc::new(disk))
    }
}

fn node(name: &str) -> NodeName {
    name.parse().unwrap()
}

/// Who is asked to attach and detach.
#[derive(Debug, Clone, Copy)]
enum Asked {
    /// The agent of the node.
    Agents,
    /// A server, which leaves it to them.
    Server,
}

/// A server, and the agents of two nodes.
#[derive(Debug)]
struct Cluster {
    asked: Asked,
    server: DiskVolumes,
    agents: [(NodeName, DiskVolumes); 2],
}

impl Cluster {
    fn agent(&self, name: &NodeName) -> &DiskVolumes {
        &self.agents.iter().find(|(own, _)| own == name).unwrap().1
    }

    fn asked(&self, name: &NodeName) -> &DiskVolumes {
        match self.asked {
            Asked::Agents => self.agent(name),
            Asked::Server => &self.server,
        }
    }
}

impl fmt::Display for Cluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.server.fmt(f)
    }
}

#[async_trait]
impl VolumeProvider for Cluster {
    fn capabilities(&self) -> VolumeCapabilities {
        self.server.capabilities()
    }

    async fn ensure(&self, spec: &VolumeSpec) -> Result<VolumeId> {
        self.server.ensure(spec).await
    }

    /// Asked of the node that has it, which alone can look at it.
    async fn describe(&self, id: &VolumeId) -> Result<Option<VolumeStatus>> {
        let recorded = self.server.describe(id).await?;
        match recorded.as_ref().and_then(|status| status.node.clone()) {
            Some(disk) => self.agent(&disk).describe(id).await,
            None => Ok(recorded),
        }
    }

    async fn list(&self, cluster: &ClusterName) -> Result<Vec<VolumeStatus>> {
        self.server.list(cluster).await
    }

    async fn begin_attach(&self, id: &VolumeId, node: &NodeName) -> Result<()> {
        self.asked(node).begin_attach(id, node).await
    }

    async fn begin_detach(&self, id: &VolumeId, expected: &NodeName) -> Result<()> {
        self.asked(expected).begin_detach(id, expected).await
    }

    async fn begin_grow(&self, id: &VolumeId, size_bytes: u64) -> Result<()> {
        self.server.begin_grow(id, size_bytes).await
    }

    async fn delete(&self, id: &VolumeId) -> Result<()> {
        self.server.delete(id).await
    }

    async fn abandon(&self, id: &VolumeId) -> Result<()> {
        self.server.abandon(id).await
    }
}

impl Harness for Asked {
    type Backend = Cluster;
    type Guard = Lab;

    async fn open(&self) -> (Lab, Cluster) {
        let lab = Lab::new();
        let cluster = self.reopen(&lab).await;
        (lab, cluster)
    }

    async fn reopen(&self, lab: &Lab) -> Cluster {
        let agents = NODES.map(|name| (node(name), lab.agent(name)));
        Cluster { asked: *self, server: lab.server(), agents }
    }
}

impl VolumeHarness for Asked {
    async fn advance(&self, cluster: &Cluster, _id: &VolumeId) {
        for (_, agent) in &cluster.agents {
            agent.settle().await.unwrap();
        }
    }

    async fn occupy(&self, _cluster: &Cluster, volume: &VolumeStatus) -> Option<Box<dyn Any>> {
        let lock = Lock::try_exclusive(volume.lock.as_ref().unwrap()).unwrap().unwrap();
        Some(Box::new(lock))
    }

    fn mark(&self, volume: &VolumeStatus) -> bool {
        fs::write(volume.device.as_ref().unwrap().join("data/mark"), "here").unwrap();
        true
    }

    fn is_marked(&self, volume: &VolumeStatus) -> bool {
        let mark = volume.device.as_ref().unwrap().join("data/mark");
        fs::read_to_string(mark).is_ok_and(|mark| mark == "here")
    }
}

mod asked_of_agents {
    steadfast_core::volume_conformance!(super::Asked::Agents);
}

mod asked_of_a_server {
    steadfast_core::volume_conformance!(super::Asked::Server);
}

fn spec(member: &str) -> VolumeSpec {
    VolumeSpec {
        cluster: "conformance".parse().unwrap(),
        member: member.parse().unwrap(),
        member_name: "orders-0".parse().unwrap(),
        name: "data".parse().unwrap(),
        size_bytes: 1 << 20,
        class: "default".to_owned(),
        zone: None,
    }
}

/// A volume on the disk of the first node, attached there.
async fn attached(lab: &Lab) -> (VolumeId, DiskVolumes) {
    let (id, agent) = (lab.server().ensure(&spec("m1")).await.unwrap(), lab.agent(NODES[0]));
    agent.begin_attach(&id, &node(NODES[0])).await.unwrap();
    (id, agent)
}

/// Whoever plans goes by this. Only one kernel can write to a volume, so its lock is proof.
#[tokio::test]
async fn a_disk_excludes_by_its_own_kernel_and_reaches_one_node() {
    let declared = Lab::new().server().capabilities();
    assert_eq!((declared.exclusivity, declared.reach), (Exclusivity::Storage, Reach::Node));
    assert!(!declared.grow && !declared.snapshot);
}

/// What lies on a disk is known to everybody, and only its node says how it fares.
#[tokio::test]
async fn a_volume_is_on_record_while_its_node_is_away() {
    let lab = Lab::new();
    let (id, _agent) = attached(&lab).await;
    let other = lab.agent(NODES[1]);
    for seen in [lab.server().describe(&id).await.unwrap(), other.describe(&id).await.unwrap()] {
        let seen = seen.unwrap();
        assert_eq!((seen.node, seen.device, seen.lock), (Some(node(NODES[0])), None, None));
        assert_eq!(seen.attachment, Attachment::Attached(node(NODES[0])));
    }
    // What is asked of it meanwhile is on its way until it says that it is done.
    lab.server().begin_detach(&id, &node(NODES[0])).await.unwrap();
    other.settle().await.unwrap();
    let seen = lab.server().describe(&id).await.unwrap().unwrap();
    assert_eq!(seen.attachment, Attachment::Detaching(node(NODES[0])));
    assert_eq!(lab.server().delete(&id).await.unwrap_err().kind(), ErrorKind::Busy);
    lab.agent(NODES[0]).settle().await.unwrap();
    let seen = lab.server().describe(&id).await.unwrap().unwrap();
    assert_eq!(seen.attachment, Attachment::Free);
}

/// A disk that is not mounted is no empty disk.
#[tokio::test]
async fn a_volume_that_its_disk_does_not_have_is_refused_and_never_made_anew() {
    let lab = Lab::new();
    let (id, _agent) = attached(&lab).await;
    fs::rename(lab.disk(NODES[0]), lab.disk("away")).unwrap();
    let agent = lab.agent(NODES[0]);
    for error in [
        agent.describe(&id).await.unwrap_err(),
        agent.begin_attach(&id, &node(NODES[0])).await.unwrap_err(),
        agent.settle().await.unwrap_err(),
    ] {
        assert_eq!(error.kind(), ErrorKind::Corrupt);
        assert!(error.message().starts_with("VolumeCorrupt: "), "{error}");
    }
    assert_eq!(lab.server().ensure(&spec("m1")).await.unwrap(), id);
    assert_eq!(agent.list(&"conformance".parse().unwrap()).await.unwrap().len(), 1, "it is not called gone");
    let made = fs::read_dir(lab.disk(NODES[0]).join("volumes")).unwrap().flatten();
    let made: Vec<_> = made.filter(|entry| !entry.file_name().to_string_lossy().starts_with('.')).collect();
    assert!(made.is_empty(), "{made:?}");

    // Mounted again, it is what it was.
    fs::remove_dir_all(lab.disk(NODES[0])).unwrap();
    fs::rename(lab.disk("away"), lab.disk(NODES[0])).unwrap();
    let agent = lab.agent(NODES[0]);
    agent.settle().await.unwrap();
    let seen = agent.describe(&id).await.unwrap().unwrap();
    assert_eq!(seen.attachment, Attachment::Attached(node(NODES[0])));
}

/// A volume that was deleted while its node was away is removed by that node, and is not what its member has next.
#[tokio::test]
async fn what_was_deleted_while_its_node_was_away_is_removed_when_it_is_back() {
    let lab = Lab::new();
    let (id, agent) = attached(&lab).await;
    let old = agent.describe(&id).await.unwrap().unwrap().device.unwrap();
    agent.begin_detach(&id, &node(NODES[0])).await.unwrap();
    drop(agent);
    lab.server().delete(&id).await.unwrap();
    assert_eq!(lab.server().describe(&id).await.unwrap(), None);
    assert!(old.exists());
    let next = lab.server().ensure(&spec("m1")).await.unwrap();
    assert_ne!(next, id);
    let agent = lab.agent(NODES[0]);
    agent.begin_attach(&next, &node(NODES[0])).await.unwrap();
    let new = agent.describe(&next).await.unwrap().unwrap().device.unwrap();
    assert_ne!(new, old);
    agent.settle().await.unwrap();
    assert!(!old.exists() && new.exists());
    agent.begin_detach(&next, &node(NODES[0])).await.unwrap();
    lab.server().delete(&next).await.unwrap();
    agent.settle().await.unwrap();
    assert!(!new.exists());
    assert_eq!(
        lab.server().ensure(&spec("m1")).await.unwrap(),
        id,
        "nothing is left of them, records included"
    );
}

/// An agent that was killed between any two steps of an attachment is followed by one that goes on.
#[tokio::test]
async fn an_attachment_that_was_cut_short_is_finished_by_the_next_agent() {
    let here = node(NODES[0]);
    for writes in 0.. {
        let lab = Lab::new();
        let id = lab.server().ensure(&spec("m1")).await.unwrap();
        let (faults, made) = (Faults::new(), Arc::new(AtomicU32::new(0)));
        let count = Arc::clone(&made);
        faults.always(
            move |call| {
                let dead = count.load(Ordering::Relaxed) >= writes;
                if !dead && call.access == Access::Write {
                    count.fetch_add(1, Ordering::Relaxed);
                }
                dead
            },
            Fault::Refused(ErrorKind::Unavailable),
        );
        let disk = DirectoryVolumes::open(&lab.disk(NODES[0]), lab.environment.clone()).unwrap();
        let disk: Arc<dyn VolumeProvider> = faults.around(Arc::new(disk));
        let records = lab.records_over(faults.around(Arc::new(lab.db.clone())));
        let doomed = DiskVolumes::on(records, lab.environment.clone(), here.clone(), disk);
        let done = doomed.begin_attach(&id, &here).await.and(doomed.begin_detach(&id, &here).await);
        if faults.fired() == 0 {
            done.unwrap();
            assert!(writes > 4, "nothing was ever killed: the test tests nothing");
            return;
        }
        let next = lab.agent(NODES[0]);
        next.settle().await.unwrap();
        next.begin_attach(&id, &here).await.unwrap();
        let seen = next.describe(&id).await.unwrap().unwrap();
        assert_eq!(seen.attachment, Attachment::Attached(here.clone()), "after {writes} writes");
        next.begin_detach(&id, &here).await.unwrap();
        assert_eq!(lab.server().describe(&id).await.unwrap().unwrap().attachment, Attachment::Free);
        lab.server().delete(&id).await.unwrap();
        next.settle().await.unwrap();
        let left = fs::read_dir(lab.disk(NODES[0]).join("volumes")).unwrap().flatten();
        assert_eq!(left.filter(|entry| !entry.file_name().to_string_lossy().starts_with('.')).count(), 0);
    }
}
