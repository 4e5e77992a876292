//! What is wrong with single members' disks and volumes, and until when.

use std::collections::BTreeMap;

use steadfast_core::ids::{MemberName, VolumeId};
use steadfast_core::volume::Attachment;

use super::{Cloud, Due};
use crate::time::Time;

/// What can be wrong with the disk of a member.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Trouble {
    /// It answers nothing: neither its engine nor anybody else gets to its data.
    Hung,
    /// There is no room on it.
    Full,
    /// Its volume does not finish attaching or detaching.
    Stuck,
}

/// What is wrong, by member.
#[derive(Debug, Default)]
pub struct Troubles(BTreeMap<(Trouble, MemberName), Time>);

impl Troubles {
    /// Something is wrong until then.
    pub fn begin(&mut self, trouble: Trouble, member: &MemberName, until: Time) {
        self.0.insert((trouble, member.clone()), until);
    }

    /// Until when something is wrong, if it is.
    pub fn until(&self, trouble: Trouble, member: &MemberName, now: Time) -> Option<Time> {
        self.0.get(&(trouble, member.clone())).copied().filter(|until| *until > now)
    }

    /// Whether anything is wrong with any volume.
    pub fn any_volume(&self, now: Time) -> bool {
        self.0.values().any(|until| *until > now)
    }
}

impl Cloud {
    /// Until when something is wrong with a volume, if it is.
    pub fn trouble_of(&self, trouble: Trouble, volume: &VolumeId, now: Time) -> Option<Time> {
        if self.troubles.0.is_empty() {
            return None;
        }
        let member = &self.volumes.get(volume)?.status.spec.member_name;
        self.troubles.until(trouble, member, now)
    }

    /// Nothing is wrong any more: what was stuck goes on.
    pub fn repair(&mut self, now: Time) {
        self.troubles.0.clear();
        let moving: Vec<(VolumeId, u64)> = self
            .volumes
            .all()
            .filter(|volume| {
                matches!(volume.status.attachment, Attachment::Attaching(_) | Attachment::Detaching(_))
            })
            .map(|volume| (volume.status.id.clone(), volume.moves))
            .collect();
        for (id, moves) in moving {
            let takes = self.draw(self.profile.volumes.attach_ms, id.as_str(), now.micros());
            self.agenda.push(now.plus_millis(takes), Due::Volume(id, moves));
        }
    }
}
