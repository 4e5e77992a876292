//! Volumes: made once, attached to one node at a time, slowly; and what lies on them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use steadfast_agent::host::Identity;
use steadfast_core::error::{Error, ErrorKind, Result};
use steadfast_core::ids::{
    ClusterName, Epoch, Incarnation, MemberId, MemberName, NodeName, VolumeId, VolumeName,
};
use steadfast_core::volume::{Attachment, VolumeSpec, VolumeStatus};

use super::troubles::Trouble;
use super::{Cloud, Due, Fact};
use crate::time::Time;

/// The data of an engine: client writes in order, on a branch of history.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct History {
    /// The branch: raised with every promotion.
    pub timeline: u64,
    /// The writes.
    pub writes: Vec<u64>,
}

/// What lies on a volume.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Disk {
    /// Whose it is.
    pub identity: Option<Identity>,
    /// The highest epoch it was opened under.
    pub epoch: Epoch,
    /// The engine's data, if any was made.
    pub history: Option<History>,
}

/// What there is of a volume on the disk of its node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum OnDisk {
    /// Nothing yet: it is made when it is first attached.
    Unmade,
    /// It is there.
    Made,
    /// It was there, and the disk is gone.
    Lost,
}

/// A volume.
#[derive(Debug, Clone)]
pub struct Volume {
    /// What its provider says of it.
    pub status: VolumeStatus,
    /// What lies on it.
    pub disk: Disk,
    /// Whether it is mounted since its machine was switched on, where it lies on that machine's own disk.
    pub mounted: bool,
    /// Whether it was given up: it exists for nobody any more, and what is on it stays where it is.
    pub given_up: bool,
    /// What there is of it on the disk of its node.
    pub(super) on_disk: OnDisk,
    /// How often it was attached or detached.
    pub(super) moves: u64,
}

/// Who holds the lock of a volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Locker {
    /// The node.
    pub node: NodeName,
    /// The member.
    pub member: MemberName,
    /// The life of the engine, or of the preparation.
    pub life: Incarnation,
}

/// The volumes of every cluster.
#[derive(Debug, Default)]
pub struct VolumesModel {
    volumes: BTreeMap<VolumeId, Volume>,
    tokens: BTreeMap<(MemberId, VolumeName), VolumeId>,
    /// By volume, and by node unless locks are shared.
    locks: BTreeMap<(VolumeId, Option<NodeName>), Locker>,
    made: u64,
}

const ROOT: &str = "/simulated/volumes";

/// Where a node finds a volume.
pub fn folder_of(id: &VolumeId) -> PathBuf {
    Path::new(ROOT).join(id.as_str())
}

/// The volume of a folder, or of a path in it.
pub fn volume_of(path: &Path) -> Option<VolumeId> {
    path.strip_prefix(ROOT).ok()?.components().next()?.as_os_str().to_str()?.parse().ok()
}

pub(super) fn is_lost(operation: &'static str, id: &VolumeId, node: &NodeName) -> Error {
    let message = format!("VolumeCorrupt: it was made on the disk of {node}, which does not have it");
    refuse(ErrorKind::Corrupt, operation, id, message)
}

fn refuse(kind: ErrorKind, operation: &'static str, id: &VolumeId, message: impl std::fmt::Display) -> Error {
    Error::new(kind, "simulated volumes", operation, id, message).without_effect()
}

impl VolumesModel {
    /// A volume, also one that was given up: what still runs on it goes on.
    pub fn get(&self, id: &VolumeId) -> Option<&Volume> {
        self.volumes.get(id)
    }

    /// Every volume, also those that were given up.
    pub(super) fn everything(&self) -> impl Iterator<Item = &Volume> {
        self.volumes.values()
    }

    pub(super) fn get_mut(&mut self, id: &VolumeId) -> Option<&mut Volume> {
        self.volumes.get_mut(id)
    }

    /// What lies on a volume.
    pub fn disk_mut(&mut self, id: &VolumeId) -> Option<&mut Disk> {
        self.volumes.get_mut(id).map(|volume| &mut volume.disk)
    }

    /// Every volume that was not given up.
    pub fn all(&self) -> impl Iterator<Item = &Volume> {
        self.volumes.values().filter(|volume| !volume.given_up)
    }

    /// Every lock.
    pub fn locks(&self) -> impl Iterator<Item = (&VolumeId, &Locker)> {
        self.locks.iter().map(|((id, _), locker)| (id, locker))
    }
}

impl Cloud {
    /// Forgets what a volume was asked for with.
    pub fn forget_token(&mut self, spec: &VolumeSpec) {
        self.volumes.tokens.remove(&(spec.member.clone(), spec.name.clone()));
    }

    /// Everything that lies on a member's volumes is gone.
    pub fn lose_data(&mut self, member: &str) {
        let own = |volume: &&mut Volume| volume.status.spec.member_name.as_str() == member;
        for volume in self.volumes.volumes.values_mut().filter(own) {
            volume.disk = Disk::default();
        }
    }

    /// Makes sure that a member's volume exists.
    ///
    /// # Errors
    /// Never.
    pub fn ensure_volume(&mut self, now: Time, spec: &VolumeSpec) -> Result<VolumeId> {
        let token = (spec.member.clone(), spec.name.clone());
        if let Some(id) = self.volumes.tokens.get(&token) {
            return Ok(id.clone());
        }
        self.volumes.made += 1;
        let text = format!("vol-{}-{}-{}", self.volumes.made, spec.member_name, spec.name);
        let id: VolumeId = text.parse().map_err(|error| {
            Error::new(ErrorKind::Internal, "simulated volumes", "ensure", &text, error).without_effect()
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
        self.volumes.tokens.insert(token, id.clone());
        let volume = Volume {
            status,
            disk: Disk::default(),
            mounted: true,
            given_up: false,
            on_disk: OnDisk::Unmade,
            moves: 0,
        };
        self.volumes.volumes.insert(id.clone(), volume);
        self.truth.note(now, Fact::VolumeMade { volume: id.clone() });
        Ok(id)
    }

    /// What is known of a volume.
    pub fn describe_volume(&self, id: &VolumeId) -> Option<VolumeStatus> {
        let volume = self.volumes.volumes.get(id).filter(|volume| !volume.given_up)?;
        // A lock is the kernel's: a provider sees it only where there is one kernel.
        let in_use = self.profile.volumes.shared_locks && self.is_locked(id);
        Some(VolumeStatus { in_use, ..volume.status.clone() })
    }

    /// Every volume of a cluster.
    pub fn list_volumes(&self, cluster: &ClusterName) -> Vec<VolumeStatus> {
        let of_cluster = self.volumes.all().filter(|found| &found.status.spec.cluster == cluster);
        of_cluster.filter_map(|found| self.describe_volume(&found.status.id)).collect()
    }

    /// Begins to attach a volume.
    ///
    /// # Errors
    /// `NotFound`, `Busy` if it is elsewhere, `Invalid` in another zone or on another node's disk, `Corrupt` if that
    /// disk is gone, `QuotaExceeded` on a full node.
    pub fn begin_attach(&mut self, now: Time, id: &VolumeId, node: &NodeName) -> Result<()> {
        let Some(volume) = self.volumes.volumes.get(id).filter(|volume| !volume.given_up) else {
            return Err(refuse(ErrorKind::NotFound, "attach", id, "it does not exist"));
        };
        match &volume.status.attachment {
            Attachment::Free => {}
            Attachment::Attached(holder) if holder == node && !volume.mounted => {}
            Attachment::Attaching(holder) | Attachment::Attached(holder) if holder == node => return Ok(()),
            holder => return Err(refuse(ErrorKind::Busy, "attach", id, format!("it is {holder:?}"))),
        }
        if let Some(own) = volume.status.node.as_ref().filter(|own| *own != node) {
            return Err(refuse(ErrorKind::Invalid, "attach", id, format!("it is on the disk of {own}")));
        }
        if volume.on_disk == OnDisk::Lost {
            return Err(is_lost("attach", id, node));
        }
        let zone = self.hosts.get(node).map(|host| host.zone.clone());
        if self.profile.volumes.zonal && volume.status.spec.zone.is_some() && volume.status.spec.zone != zone
        {
            return Err(refuse(ErrorKind::Invalid, "attach", id, "it is in another zone"));
        }
        let there = |volume: &&Volume| volume.status.attachment.holder() == Some(node);
        let count = self.volumes.all().filter(there).count();
        if self.profile.volumes.attach_limit.is_some_and(|limit| count >= limit as usize) {
            return Err(refuse(ErrorKind::QuotaExceeded, "attach", id, "the node takes no more volumes"));
        }
        let span = self.profile.volumes.attach_ms;
        if self.profile.volumes.on_nodes
            && let Some(volume) = self.volumes.volumes.get_mut(id)
        {
            volume.status.node = Some(node.clone());
        }
        self.begin_move(now, id, Attachment::Attaching(node.clone()), span);
        Ok(())
    }

    /// Begins to detach a volume.
    ///
    /// # Errors
    /// `NotFound`, `Stale` if it is with another node.
    pub fn begin_detach(&mut self, now: Time, id: &VolumeId, expected: &NodeName) -> Result<()> {
        let Some(volume) = self.volumes.volumes.get(id).filter(|volume| !volume.given_up) else {
            return Err(refuse(ErrorKind::NotFound, "detach", id, "it does not exist"));
        };
        match &volume.status.attachment {
            Attachment::Free => Ok(()),
            Attachment::Detaching(holder) if holder == expected => Ok(()),
            Attachment::Attaching(holder) | Attachment::Attached(holder) if holder == expected => {
                let span = self.profile.volumes.detach_ms;
                self.begin_move(now, id, Attachment::Detaching(expected.clone()), span);
                Ok(())
            }
            holder => Err(refuse(ErrorKind::Stale, "detach", id, format!("it is {holder:?}"))),
        }
    }

    /// Deletes a volume.
    ///
    /// # Errors
    /// `Busy` if it is attached.
    pub fn delete_volume(&mut self, now: Time, id: &VolumeId) -> Result<()> {
        match self.volumes.volumes.get(id).map(|volume| &volume.status.attachment) {
            None => Ok(()),
            Some(Attachment::Free) => {
                if let Some(volume) = self.volumes.volumes.remove(id) {
                    let spec = volume.status.spec;
                    self.volumes.tokens.remove(&(spec.member, spec.name));
                    self.truth.note(now, Fact::VolumeDeleted { volume: id.clone() });
                }
                Ok(())
            }
            Some(holder) => Err(refuse(ErrorKind::Busy, "delete", id, format!("it is {holder:?}"))),
        }
    }

    fn begin_move(&mut self, now: Time, id: &VolumeId, to: Attachment, span: (u64, u64)) {
        let Some(volume) = self.volumes.volumes.get_mut(id) else { return };
        volume.status.attachment = to;
        volume.status.device = None;
        volume.moves += 1;
        let moves = volume.moves;
        let takes = self.draw(span, id.as_str(), moves);
        let stuck = self.trouble_of(Trouble::Stuck, id, now);
        if takes == 0 && stuck.is_none() {
            self.finish_volume(now, id, moves);
        } else {
            let done = now.plus_millis(takes).max(stuck.unwrap_or(now));
            self.agenda.push(done, Due::Volume(id.clone(), moves));
        }
    }

    pub(super) fn finish_volume(&mut self, now: Time, id: &VolumeId, moves: u64) {
        let busy = self.profile.volumes.detach_waits_for_use && self.is_locked(id);
        let carried_out = self.is_carried_out(id);
        let found = self.volumes.volumes.get_mut(id).filter(|volume| volume.moves == moves);
        let Some(volume) = found.filter(|volume| carried_out && !volume.given_up) else { return };
        match &volume.status.attachment {
            Attachment::Attaching(_) if volume.on_disk == OnDisk::Lost => {}
            Attachment::Attaching(node) => {
                let node = node.clone();
                (volume.mounted, volume.on_disk) = (true, OnDisk::Made);
                volume.status.attachment = Attachment::Attached(node.clone());
                volume.status.device = Some(folder_of(id));
                self.truth.note(now, Fact::Attached { volume: id.clone(), node });
            }
            Attachment::Detaching(_) if !busy => {
                volume.status.attachment = Attachment::Free;
                self.truth.note(now, Fact::Detached { volume: id.clone() });
            }
            // Tried again when its lock is freed.
            Attachment::Detaching(_) | Attachment::Attached(_) | Attachment::Free => {}
        }
    }

    fn lock_key(&self, id: &VolumeId, node: &NodeName) -> (VolumeId, Option<NodeName>) {
        (id.clone(), (!self.profile.volumes.shared_locks).then(|| node.clone()))
    }

    /// Whether somebody has locked a volume, anywhere.
    pub fn is_locked(&self, id: &VolumeId) -> bool {
        self.volumes.locks.keys().any(|(locked, _)| locked == id)
    }

    /// Locks a volume; gives who has it if it is somebody else.
    pub(super) fn lock_volume(&mut self, id: &VolumeId, locker: &Locker) -> Option<Locker> {
        let key = self.lock_key(id, &locker.node);
        match self.volumes.locks.get(&key) {
            Some(other) if other != locker => Some(other.clone()),
            Some(_) => None,
            None => {
                self.volumes.locks.insert(key, locker.clone());
                None
            }
        }
    }

    /// Frees every lock of one life, and lets go on what waited for it.
    pub(super) fn unlock_all(&mut self, now: Time, node: &NodeName, life: &Incarnation) {
        let freed: Vec<(VolumeId, Option<NodeName>)> = self
            .volumes
            .locks
            .iter()
            .filter(|(_, locker)| &locker.node == node && &locker.life == life)
            .map(|(key, _)| key.clone())
            .collect();
        for key in freed {
            self.volumes.locks.remove(&key);
            let id = key.0;
            let detaching = self
                .volumes
                .volumes
                .get(&id)
                .filter(|volume| matches!(volume.status.attachment, Attachment::Detaching(_)));
            if let Some(moves) = detaching.map(|volume| volume.moves) {
                let takes = self.draw(self.profile.volumes.detach_ms, id.as_str(), now.micros());
                let stuck = self.trouble_of(Trouble::Stuck, &id, now).unwrap_or(now);
                self.agenda.push(now.plus_millis(takes).max(stuck), Due::Volume(id.clone(), moves));
            }
            self.lock_freed(now, &id);
        }
    }

    /// Whether what a node writes to a volume arrives there.
    pub(crate) fn storage_accepts(&self, id: &VolumeId, node: &NodeName) -> bool {
        let Some(volume) = self.volumes.volumes.get(id) else { return false };
        let attached = matches!(
            &volume.status.attachment,
            Attachment::Attached(holder) | Attachment::Detaching(holder) if holder == node
        );
        volume.on_disk != OnDisk::Lost && (attached || !self.profile.volumes.fenced_by_storage)
    }
}
