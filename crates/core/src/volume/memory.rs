//! The memory backend: the reference, and the state of the simulator.

mod snapshots;

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use async_trait::async_trait;

use super::{
    Attachment, Exclusivity, Reach, VolumeCapabilities, VolumeProvider, VolumeSpec, VolumeStatus,
    cannot_abandon, cannot_grow,
};
use crate::error::{Error, ErrorKind, Result};
use crate::ids::{ClusterName, MemberId, NodeName, SnapshotId, VolumeId, VolumeName, ZoneName};
use crate::memory::Shared;
use crate::snapshot::SnapshotStatus;

/// Volumes in memory. Clones are handles on the same ones.
///
/// By default a transition is complete when the call that begins it returns. With
/// [`hold_transitions`](Self::hold_transitions) volumes stay `Attaching` and `Detaching`, and as small as they were, and
/// snapshots `Pending`, until [`complete`](Self::complete) is called, and a volume that is [in use](Self::set_in_use) stays `Detaching`
/// until it no longer is.
#[derive(Debug, Clone)]
pub struct MemoryVolumes {
    shelf: Shared<Shelf>,
    capabilities: VolumeCapabilities,
}

#[derive(Debug, Default)]
struct Shelf {
    volumes: BTreeMap<VolumeId, VolumeStatus>,
    tokens: BTreeMap<(MemberId, VolumeName), VolumeId>,
    /// The sizes that volumes are on their way to.
    growing: BTreeMap<VolumeId, u64>,
    snapshots: BTreeMap<SnapshotId, SnapshotStatus>,
    /// The snapshots that volumes were made of.
    sources: BTreeMap<VolumeId, SnapshotId>,
    made: u64,
    hold: bool,
    node_zones: BTreeMap<NodeName, ZoneName>,
}

impl Shelf {
    /// Forgets a volume, and that its member has it. One that does not exist is nothing to forget.
    fn forget(&mut self, id: &VolumeId) {
        let Some(volume) = self.volumes.remove(id) else { return };
        self.tokens.remove(&(volume.spec.member, volume.spec.name));
        self.growing.remove(id);
        self.sources.remove(id);
    }
}

impl MemoryVolumes {
    /// No volumes yet; the storage refuses a second writer, and there are no zones and no limits.
    pub fn new() -> Self {
        Self::with_capabilities(VolumeCapabilities {
            exclusivity: Exclusivity::Storage,
            reach: Reach::Cluster,
            attach_limit: None,
            grow: false,
            snapshot: true,
        })
    }

    /// No volumes yet, which can be made larger.
    pub fn that_grow() -> Self {
        let declared = MemoryVolumes::new().capabilities;
        Self::with_capabilities(VolumeCapabilities { grow: true, ..declared })
    }

    /// No volumes yet, each of which will lie on the disk of the node that it is first attached to.
    pub fn pinned() -> Self {
        let declared = MemoryVolumes::new().capabilities;
        Self::with_capabilities(VolumeCapabilities { reach: Reach::Node, ..declared })
    }

    /// No volumes yet, with these capabilities.
    pub fn with_capabilities(capabilities: VolumeCapabilities) -> Self {
        MemoryVolumes { shelf: Shared::new(Shelf::default()), capabilities }
    }

    /// Whether transitions wait for [`complete`](Self::complete). Those under way go on waiting either way.
    pub fn hold_transitions(&self, hold: bool) {
        self.shelf.with(|shelf| shelf.hold = hold);
    }

    /// Completes the transition of a volume; says whether there was one that could be completed.
    pub fn complete(&self, id: &VolumeId) -> bool {
        self.shelf.with(|shelf| {
            let taken = shelf.complete_snapshots(id);
            let Some(volume) = shelf.volumes.get_mut(id) else { return taken };
            let grown = shelf.growing.remove(id).is_some_and(|size| grow(volume, size));
            complete(volume) || grown || taken
        })
    }

    /// Says whether somebody is using a volume. One that is in use stays `Detaching`.
    pub fn set_in_use(&self, id: &VolumeId, in_use: bool) {
        self.shelf.with(|shelf| {
            let hold = shelf.hold;
            if let Some(volume) = shelf.volumes.get_mut(id) {
                volume.in_use = in_use;
                if !hold {
                    complete(volume);
                }
            }
        });
    }

    /// Every volume of every cluster.
    pub fn all(&self) -> Vec<VolumeStatus> {
        self.shelf.with(|shelf| shelf.volumes.values().cloned().collect())
    }

    /// Says in which zone a node is, for providers whose volumes are pinned to zones.
    pub fn set_node_zone(&self, node: &NodeName, zone: &ZoneName) {
        self.shelf.with(|shelf| shelf.node_zones.insert(node.clone(), zone.clone()));
    }

    fn change(
        &self,
        operation: &'static str,
        id: &VolumeId,
        step: impl FnOnce(&mut Shelf, Attachment) -> Result<Option<Attachment>, (ErrorKind, String)>,
    ) -> Result<()> {
        let refuse = |(kind, message): (ErrorKind, String)| {
            Error::new(kind, self, operation, id, message).without_effect()
        };
        self.shelf.with(|shelf| {
            let Some(volume) = shelf.volumes.get(id) else {
                return Err(refuse((ErrorKind::NotFound, "it does not exist".to_owned())));
            };
            let attachment = volume.attachment.clone();
            let Some(next) = step(shelf, attachment).map_err(refuse)? else { return Ok(()) };
            let hold = shelf.hold;
            if let Some(volume) = shelf.volumes.get_mut(id) {
                if self.capabilities.reach == Reach::Node {
                    volume.node = volume.node.take().or_else(|| next.holder().cloned());
                }
                volume.attachment = next;
                volume.device = None;
                if !hold {
                    complete(volume);
                }
            }
            Ok(())
        })
    }

    fn room_on(&self, shelf: &Shelf, id: &VolumeId, node: &NodeName) -> Result<(), (ErrorKind, String)> {
        let there = |volume: &&VolumeStatus| volume.attachment.holder() == Some(node);
        if let Some(limit) = self.capabilities.attach_limit
            && shelf.volumes.values().filter(there).count() >= limit as usize
        {
            let message = format!("{node} has {limit} volumes, and takes no more");
            return Err((ErrorKind::QuotaExceeded, message));
        }
        let Some(volume) = shelf.volumes.get(id) else { return Ok(()) };
        match self.capabilities.reach {
            Reach::Node => match volume.node.as_ref().filter(|own| *own != node) {
                Some(own) => Err((ErrorKind::Invalid, format!("it is on the disk of {own}"))),
                None => Ok(()),
            },
            Reach::Zone => match (volume.spec.zone.as_ref(), shelf.node_zones.get(node)) {
                (Some(zone), Some(elsewhere)) if zone != elsewhere => {
                    Err((ErrorKind::Invalid, format!("it is in zone {zone}, and {node} is in {elsewhere}")))
                }
                _ => Ok(()),
            },
            Reach::Cluster => Ok(()),
        }
    }
}

impl Default for MemoryVolumes {
    fn default() -> Self {
        MemoryVolumes::new()
    }
}

impl fmt::Display for MemoryVolumes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("memory volumes")
    }
}

fn grow(volume: &mut VolumeStatus, size_bytes: u64) -> bool {
    let smaller = volume.spec.size_bytes < size_bytes;
    volume.spec.size_bytes = volume.spec.size_bytes.max(size_bytes);
    smaller
}

fn complete(volume: &mut VolumeStatus) -> bool {
    match &volume.attachment {
        Attachment::Attaching(node) => {
            volume.attachment = Attachment::Attached(node.clone());
            volume.device = Some(PathBuf::from(format!("/memory/{}", volume.id)));
            true
        }
        Attachment::Detaching(_) if !volume.in_use => {
            volume.attachment = Attachment::Free;
            true
        }
        Attachment::Detaching(_) | Attachment::Attached(_) | Attachment::Free => false,
    }
}

#[async_trait]
impl VolumeProvider for MemoryVolumes {
    fn capabilities(&self) -> VolumeCapabilities {
        self.capabilities
    }

    async fn ensure(&self, spec: &VolumeSpec) -> Result<VolumeId> {
        self.shelf.with(|shelf| {
            let token = (spec.member.clone(), spec.name.clone());
            if let Some(id) = shelf.tokens.get(&token) {
                return Ok(id.clone());
            }
            shelf.made += 1;
            let id: VolumeId = format!("vol-{}", shelf.made).parse().map_err(|error| {
                Error::new(ErrorKind::Internal, self, "ensure", &spec.member_name, error).without_effect()
            })?;
            let status = VolumeStatus {
                id: id.clone(),
                spec: spec.clone(),
                attachment: Attachment::Free,
                node: None,
                in_use: false,
                device: None,
                lock: None,
            };
            shelf.tokens.insert(token, id.clone());
            shelf.volumes.insert(id.clone(), status);
            Ok(id)
        })
    }

    async fn describe(&self, id: &VolumeId) -> Result<Option<VolumeStatus>> {
        Ok(self.shelf.with(|shelf| shelf.volumes.get(id).cloned()))
    }

    async fn list(&self, cluster: &ClusterName) -> Result<Vec<VolumeStatus>> {
        Ok(self.shelf.with(|shelf| {
            shelf.volumes.values().filter(|volume| &volume.spec.cluster == cluster).cloned().collect()
        }))
    }

    async fn begin_attach(&self, id: &VolumeId, node: &NodeName) -> Result<()> {
        self.change("attach", id, |shelf, attachment| match attachment {
            Attachment::Free => {
                self.room_on(shelf, id, node)?;
                Ok(Some(Attachment::Attaching(node.clone())))
            }
            Attachment::Attaching(holder) | Attachment::Attached(holder) if &holder == node => Ok(None),
            Attachment::Attaching(holder) | Attachment::Attached(holder) => {
                Err((ErrorKind::Busy, format!("it is attached to {holder}")))
            }
            Attachment::Detaching(holder) => {
                Err((ErrorKind::Busy, format!("it is being detached from {holder}")))
            }
        })
    }

    async fn begin_detach(&self, id: &VolumeId, expected: &NodeName) -> Result<()> {
        self.change("detach", id, |_, attachment| match attachment {
            Attachment::Free => Ok(None),
            Attachment::Attaching(holder) | Attachment::Attached(holder) if &holder == expected => {
                Ok(Some(Attachment::Detaching(holder)))
            }
            Attachment::Detaching(holder) if &holder == expected => Ok(None),
            Attachment::Attaching(holder) | Attachment::Attached(holder) | Attachment::Detaching(holder) => {
                Err((ErrorKind::Stale, format!("it is with {holder}, not with {expected}")))
            }
        })
    }

    async fn begin_grow(&self, id: &VolumeId, size_bytes: u64) -> Result<()> {
        if !self.capabilities.grow {
            return Err(cannot_grow(self, id));
        }
        self.shelf.with(|shelf| {
            let Some(volume) = shelf.volumes.get_mut(id) else {
                let message = "it does not exist";
                return Err(Error::new(ErrorKind::NotFound, self, "grow", id, message).without_effect());
            };
            if shelf.hold {
                let wanted = shelf.growing.entry(id.clone()).or_default();
                *wanted = size_bytes.max(*wanted);
            } else {
                grow(volume, size_bytes);
            }
            Ok(())
        })
    }

    async fn delete(&self, id: &VolumeId) -> Result<()> {
        self.shelf.with(|shelf| {
            let Some(volume) = shelf.volumes.get(id) else { return Ok(()) };
            if let Some(holder) = volume.attachment.holder() {
                let message = format!("it is with {holder}");
                return Err(Error::new(ErrorKind::Busy, self, "delete", id, message).without_effect());
            }
            shelf.forget(id);
            Ok(())
        })
    }

    async fn abandon(&self, id: &VolumeId) -> Result<()> {
        if self.capabilities.reach != Reach::Node {
            return Err(cannot_abandon(self, id));
        }
        self.shelf.with(|shelf| shelf.forget(id));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::any::Any;

    use super::*;
    use crate::conformance::Harness;
    use crate::conformance::volume::VolumeHarness;

    /// Volumes whose transitions are complete at once, or only when told to; that can be made larger, or cannot; that
    /// lie on the disk of a node, or nowhere in particular.
    struct Memory {
        hold: bool,
        grow: bool,
        reach: Reach,
    }

    impl Harness for Memory {
        type Backend = MemoryVolumes;
        type Guard = MemoryVolumes;

        async fn open(&self) -> (MemoryVolumes, MemoryVolumes) {
            let declared = MemoryVolumes::new().capabilities();
            let capabilities = VolumeCapabilities { grow: self.grow, reach: self.reach, ..declared };
            let volumes = MemoryVolumes::with_capabilities(capabilities);
            volumes.hold_transitions(self.hold);
            (volumes.clone(), volumes)
        }

        async fn reopen(&self, guard: &MemoryVolumes) -> MemoryVolumes {
            guard.clone()
        }
    }

    /// Uses a volume until it is dropped.
    struct Use(MemoryVolumes, VolumeId);

    impl Drop for Use {
        fn drop(&mut self) {
            self.0.set_in_use(&self.1, false);
        }
    }

    impl VolumeHarness for Memory {
        async fn advance(&self, volumes: &MemoryVolumes, id: &VolumeId) {
            volumes.complete(id);
        }

        async fn occupy(&self, volumes: &MemoryVolumes, volume: &VolumeStatus) -> Option<Box<dyn Any>> {
            volumes.set_in_use(&volume.id, true);
            Some(Box::new(Use(volumes.clone(), volume.id.clone())))
        }
    }

    const AT_ONCE: Memory = Memory { hold: false, grow: true, reach: Reach::Cluster };
    const HELD: Memory = Memory { hold: true, ..AT_ONCE };

    mod at_once {
        crate::volume_conformance!(super::AT_ONCE);
        crate::snapshot_conformance!(super::AT_ONCE);
    }

    mod held {
        crate::volume_conformance!(super::HELD);
        crate::snapshot_conformance!(super::HELD);
    }

    mod of_one_size {
        crate::volume_conformance!(super::Memory { grow: false, ..super::AT_ONCE });
    }

    mod pinned {
        crate::volume_conformance!(super::Memory { reach: super::Reach::Node, ..super::AT_ONCE });
    }

    mod pinned_and_held {
        crate::volume_conformance!(super::Memory { reach: super::Reach::Node, ..super::HELD });
    }

    fn spec(member: &str, zone: &str) -> VolumeSpec {
        VolumeSpec {
            cluster: "demo".parse().unwrap(),
            member: member.parse().unwrap(),
            member_name: "orders-0".parse().unwrap(),
            name: "data".parse().unwrap(),
            size_bytes: 1 << 20,
            class: "default".to_owned(),
            zone: Some(zone.parse().unwrap()),
        }
    }

    #[tokio::test]
    async fn zones_and_limits_are_kept() {
        let volumes = MemoryVolumes::with_capabilities(VolumeCapabilities {
            reach: Reach::Zone,
            attach_limit: Some(1),
            ..MemoryVolumes::new().capabilities()
        });
        let [here, there] = ["node-a", "node-b"].map(|name| name.parse::<NodeName>().unwrap());
        volumes.set_node_zone(&here, &"zone-a".parse().unwrap());
        volumes.set_node_zone(&there, &"zone-b".parse().unwrap());
        let first = volumes.ensure(&spec("a", "zone-a")).await.unwrap();
        let second = volumes.ensure(&spec("b", "zone-a")).await.unwrap();
        assert_eq!(volumes.begin_attach(&first, &there).await.unwrap_err().kind(), ErrorKind::Invalid);
        volumes.begin_attach(&first, &here).await.unwrap();
        assert_eq!(volumes.begin_attach(&second, &here).await.unwrap_err().kind(), ErrorKind::QuotaExceeded);
        volumes.begin_detach(&first, &here).await.unwrap();
        volumes.begin_attach(&second, &here).await.unwrap();
    }

    #[test]
    fn its_storage_refuses_a_second_writer() {
        let declared = VolumeCapabilities {
            exclusivity: Exclusivity::Storage,
            reach: Reach::Cluster,
            attach_limit: None,
            grow: false,
            snapshot: true,
        };
        assert_eq!(MemoryVolumes::new().capabilities(), declared);
        assert_eq!(MemoryVolumes::that_grow().capabilities(), VolumeCapabilities { grow: true, ..declared });
        let pinned = VolumeCapabilities { reach: Reach::Node, ..declared };
        assert_eq!(MemoryVolumes::pinned().capabilities(), pinned);
    }
}
