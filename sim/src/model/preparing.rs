//! What prepares data on a machine, under the locks that its guard takes later; and who can prove a machine dead.

use steadfast_core::ids::{Incarnation, NodeName, VolumeId};

use super::Cloud;
use super::profile::ProverKind;
use super::volumes::Locker;
use crate::time::Time;

impl Cloud {
    /// Whether a life of a machine is over, by who proves such things; none: nobody knows.
    pub fn is_node_dead(&self, now: Time, node: &NodeName, life: &Incarnation) -> Option<bool> {
        let host = self.hosts.get(node).filter(|host| host.incarnation.as_ref() == Some(life))?;
        match self.profile.prover {
            ProverKind::Nobody => None,
            ProverKind::Kernel => Some(!host.agent && host.guards.is_empty()),
            ProverKind::Cloud(_) if host.running => Some(false),
            ProverKind::Cloud(after) => (now >= host.stopped_at.plus_millis(after)).then_some(true),
        }
    }

    /// Whether that is proven.
    pub fn is_proven_dead(&self, now: Time, node: &NodeName, life: &Incarnation) -> bool {
        self.is_node_dead(now, node, life) == Some(true)
    }

    /// Begins to prepare data, under the lock of the volumes; gives who has one of them if it is somebody else.
    pub fn begin_prepare(
        &mut self,
        now: Time,
        locker: &Locker,
        volumes: &[VolumeId],
    ) -> Result<Option<Locker>, &'static str> {
        let host = self.hosts.get_mut(&locker.node).ok_or("there is no such machine")?;
        host.running.then_some(()).ok_or("the machine is off")?;
        host.preparing.insert(locker.life.clone());
        for id in volumes {
            if let Some(other) = self.lock_volume(id, locker) {
                self.unlock_all(now, &locker.node, &locker.life);
                return Ok(Some(other));
            }
        }
        Ok(None)
    }

    /// Ends a preparation, done or not.
    pub fn end_prepare(&mut self, now: Time, locker: &Locker) {
        if let Some(host) = self.hosts.get_mut(&locker.node) {
            host.preparing.remove(&locker.life);
        }
        self.unlock_all(now, &locker.node, &locker.life);
    }
}
