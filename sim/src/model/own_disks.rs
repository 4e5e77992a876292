//! Volumes on machines' own disks: what such a machine does for its volumes, and what is lost with its disk.
//!
//! What anybody may do to such a volume is recorded where all can read it, and carried out by the agent of the one
//! machine that has it: what was begun while that is away waits for it.

use steadfast_core::error::{Error, ErrorKind, Result};
use steadfast_core::ids::{MemberName, NodeName, VolumeId};
use steadfast_core::planted::{self, Planted};
use steadfast_core::volume::{Attachment, VolumeStatus};

use super::volumes::{Disk, OnDisk, Volume, is_lost};
use super::{Cloud, Due, Fact};
use crate::time::Time;

impl Cloud {
    fn is_on(&self, volume: &Volume, node: &NodeName) -> bool {
        self.profile.volumes.on_nodes && volume.status.node.as_ref() == Some(node)
    }

    /// The volumes on a machine's disk, also those that were given up.
    fn on_disk_of(&self, node: &NodeName) -> Vec<VolumeId> {
        let there = self.volumes.everything().filter(|volume| self.is_on(volume, node));
        there.map(|volume| volume.status.id.clone()).collect()
    }

    /// Whether somebody can carry out now what was begun with a volume: where it lies on a machine's own disk, only the
    /// agent of that machine.
    pub(super) fn is_carried_out(&self, id: &VolumeId) -> bool {
        if !self.profile.volumes.on_nodes {
            return true;
        }
        let node = self.volumes.get(id).and_then(|volume| volume.status.node.as_ref());
        let host = node.and_then(|node| self.hosts.get(node));
        host.is_none_or(|host| host.running && host.agent && !host.paused)
    }

    /// An agent goes on with what was begun with the volumes on its machine's disk.
    pub(super) fn settle_disk(&mut self, now: Time, node: &NodeName) {
        for id in self.on_disk_of(node) {
            let Some(volume) = self.volumes.get(&id) else { continue };
            let span = match volume.status.attachment {
                Attachment::Attaching(_) => self.profile.volumes.attach_ms,
                Attachment::Detaching(_) => self.profile.volumes.detach_ms,
                Attachment::Attached(_) | Attachment::Free => continue,
            };
            let moves = volume.moves;
            let takes = self.draw(span, id.as_str(), now.micros());
            self.agenda.push(now.plus_millis(takes), Due::Volume(id, moves));
        }
    }

    /// A machine has been switched off: nothing on its disk is mounted any more.
    pub(super) fn unmount_all(&mut self, node: &NodeName) {
        for id in self.on_disk_of(node) {
            if let Some(volume) = self.volumes.get_mut(&id) {
                volume.mounted = false;
            }
        }
    }

    /// What `by` is told of a volume. Whoever has the disk that it lies on looks there, others at what is recorded.
    ///
    /// # Errors
    /// `Corrupt` if that disk does not have it any more.
    pub fn look_at_volume(&self, id: &VolumeId, by: Option<&NodeName>) -> Result<Option<VolumeStatus>> {
        let Some(status) = self.describe_volume(id) else { return Ok(None) };
        let here = by.filter(|node| self.volumes.get(id).is_some_and(|volume| self.is_on(volume, node)));
        let (Some(here), Some(volume)) = (here, self.volumes.get(id)) else { return Ok(Some(status)) };
        if volume.on_disk == OnDisk::Lost {
            return Err(is_lost("describe", id, here));
        }
        let attachment = match status.attachment {
            Attachment::Attached(_) if !volume.mounted => Attachment::Free,
            other => other,
        };
        Ok(Some(VolumeStatus { attachment, ..status }))
    }

    /// Gives a volume up, wherever it is: whoever has it mounted goes on with it, and nobody else will.
    ///
    /// # Errors
    /// `Unsupported` where volumes are on no machine's own disk.
    pub fn abandon_volume(&mut self, now: Time, id: &VolumeId) -> Result<()> {
        if !self.profile.volumes.on_nodes {
            let message = "CapabilityMissing: its volumes are on no node's own disk";
            let error = Error::new(ErrorKind::Unsupported, "simulated volumes", "abandon", id, message);
            return Err(error.without_effect());
        }
        let Some(volume) = self.volumes.get_mut(id).filter(|volume| !volume.given_up) else { return Ok(()) };
        volume.moves += 1;
        if planted::is(Planted::AbandonedInName) {
            // Whoever takes it next makes it anew, and the disk that it was on has the one of before.
            volume.status.node = None;
            volume.status.attachment = Attachment::Free;
            (volume.on_disk, volume.disk) = (OnDisk::Unmade, Disk::default());
            return Ok(());
        }
        volume.given_up = true;
        let member = volume.status.spec.member_name.clone();
        let spec = volume.status.spec.clone();
        self.forget_token(&spec);
        self.truth.note(now, Fact::GivenUp { member, volume: id.clone() });
        Ok(())
    }

    /// The disk of a machine is gone with everything on it, also what the machine knew of itself.
    pub fn lose_disk(&mut self, now: Time, node: &NodeName) {
        for id in self.on_disk_of(node) {
            let Some(volume) = self.volumes.get_mut(&id) else { continue };
            if volume.on_disk == OnDisk::Made {
                volume.on_disk = OnDisk::Lost;
            }
            volume.disk = Disk::default();
        }
        if let Some(host) = self.hosts.get_mut(node) {
            host.forget();
        }
        self.truth.note(now, Fact::DiskLost { node: node.clone() });
    }

    fn volumes_of<'a>(&'a self, member: &'a MemberName) -> impl Iterator<Item = &'a Volume> {
        self.volumes.all().filter(move |volume| volume.status.spec.member_name == *member)
    }

    /// The node on whose own disk a member's volumes lie.
    pub fn disk_of(&self, member: &MemberName) -> Option<NodeName> {
        self.volumes_of(member).find_map(|volume| volume.status.node.clone())
    }

    /// Whether a member's volumes were on the disk of a node, and are gone with it.
    pub fn has_lost(&self, member: &MemberName, node: &NodeName) -> bool {
        self.volumes_of(member).any(|volume| self.is_on(volume, node) && volume.on_disk == OnDisk::Lost)
    }

    /// Whether a member has no volume but such that are gone with their disk, and so never comes up with what it had.
    pub fn has_nothing_left(&self, member: &MemberName) -> bool {
        self.volumes_of(member).all(|volume| volume.on_disk == OnDisk::Lost)
    }

    /// Whether any volume is on a disk that is away or gone.
    pub fn any_disk_away(&self) -> bool {
        self.profile.volumes.on_nodes
            && self.volumes.all().any(|volume| {
                let host = volume.status.node.as_ref().and_then(|node| self.hosts.get(node));
                volume.on_disk == OnDisk::Lost || host.is_some_and(|host| !host.is_reachable())
            })
    }
}
