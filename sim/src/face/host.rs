//! The agent's seams over the machines of the model: guards and preparations.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use steadfast_agent::guard::GuardSpec;
use steadfast_agent::guards::{GuardState, Guards};
use steadfast_agent::host::{FirstData, Identity, MountedVolume, NodeHost, Outcome, PrepareJob, VolumeFacts};
use steadfast_core::engine::{Peer, WantedRole};
use steadfast_core::error::{Error, ErrorKind, Result};
use steadfast_core::ids::{MemberName, NodeName, ServiceName, VolumeId};
use steadfast_core::model::Reason;
use steadfast_core::runtime::{Environment, Moment};

use super::backends::VolumeRole;
use crate::hash::{self, Hasher};
use crate::model::troubles::Trouble;
use crate::model::volumes::{History, Locker, volume_of};
use crate::model::{Cloud, Fact};
use crate::time::Time;
use crate::world::{Answer, Ask, Caller};

impl Answer for bool {}
impl Answer for u64 {}
impl Answer for Vec<(MemberName, ServiceName)> {}
impl Answer for GuardState {
    fn digest(&self) -> u64 {
        // What is asked for all the time is not printed.
        let GuardState::Alive(status) = self else { return hash::of_debug(self) };
        let mut hasher = Hasher::default();
        hasher.word(status.epoch.0);
        hasher.word(status.generation.0);
        hasher.bytes(status.incarnation.as_str().as_bytes());
        hasher.word(status.stage as u64);
        hasher.word(status.lease_left_ms.map_or(u64::MAX, |left| left));
        hasher.finish()
    }
}
impl Answer for Result<VolumeFacts, (Reason, String)> {}
impl Answer for Option<Locker> {}
impl Answer for Outcome {}

pub(super) fn ask<'a>(
    operation: &'static str,
    resource: &'a (dyn std::fmt::Display + Sync),
    writes: bool,
) -> Ask<'a> {
    Ask { operation, resource, writes, local: true }
}

/// The guards of a node.
#[derive(Debug)]
pub struct SimGuards {
    caller: Caller,
    node: NodeName,
}

impl SimGuards {
    /// The guards of `node`.
    pub fn new(caller: Caller, node: NodeName) -> Self {
        SimGuards { caller, node }
    }
}

#[async_trait]
impl Guards for SimGuards {
    async fn list(&self) -> Result<Vec<(MemberName, ServiceName)>> {
        let node = self.node.clone();
        self.caller.call(ask("guards.list", &"", false), move |cloud, _| Ok(cloud.guards(&node))).await
    }

    async fn find(&self, member: &MemberName) -> Result<GuardState> {
        let (node, own) = (self.node.clone(), member.clone());
        let ask = ask("guards.find", member, false);
        self.caller.call(ask, move |cloud, now| Ok(cloud.find_guard(now, &node, &own))).await
    }

    async fn start(&self, spec: &GuardSpec) -> Result<()> {
        let (node, own) = (self.node.clone(), spec.clone());
        let ask = ask("guards.start", &spec.member, true);
        self.caller.call(ask, move |cloud, now| cloud.start_guard(now, &node, &own)).await
    }

    /// A guard of the model has begun when its start ends.
    async fn withdraw(&self, _member: &MemberName) -> Result<()> {
        Ok(())
    }

    async fn stop(&self, member: &MemberName) -> Result<()> {
        let (node, own) = (self.node.clone(), member.clone());
        let ask = ask("guards.stop", member, true);
        self.caller
            .call(ask, move |cloud, now| {
                cloud.stop_guard(now, &node, &own);
                Ok(())
            })
            .await
    }

    async fn kill(&self, member: &MemberName) -> Result<()> {
        let (node, own) = (self.node.clone(), member.clone());
        let ask = ask("guards.kill", member, true);
        self.caller
            .call(ask, move |cloud, now| {
                if cloud.troubles.until(Trouble::Hung, &own, now).is_some() {
                    // In a system call that does not end.
                    let text = "a process of it does not end";
                    return Err(Error::new(ErrorKind::Busy, "guards", "kill", &own, text));
                }
                cloud.kill_guard(now, &node, &own);
                Ok(())
            })
            .await
    }

    async fn extend_lease(&self, member: &MemberName, until: Moment) -> Result<()> {
        let (node, own) = (self.node.clone(), member.clone());
        let ask = ask("guards.extend_lease", member, true);
        self.caller
            .call(ask, move |cloud, now| {
                cloud.extend_lease(now, &node, &own, until);
                Ok(())
            })
            .await
    }

    async fn forget(&self, member: &MemberName) -> Result<()> {
        let (node, own) = (self.node.clone(), member.clone());
        let ask = ask("guards.forget", member, true);
        self.caller
            .call(ask, move |cloud, _| {
                cloud.forget_guard(&node, &own);
                Ok(())
            })
            .await
    }
}

/// A machine, as its agent uses it.
#[derive(Debug)]
pub struct SimHost {
    caller: Caller,
    env: Environment,
    node: NodeName,
}

impl SimHost {
    /// The machine `node`.
    pub fn new(caller: Caller, env: Environment, node: NodeName) -> Self {
        SimHost { caller, env, node }
    }
}

/// Returns when the disk of a volume answers: whoever reads from one that hangs waits as long.
pub(super) async fn disk_answers(caller: &Caller, id: &VolumeId) {
    let world = caller.world();
    while world.look(|state| state.cloud.trouble_of(Trouble::Hung, id, world.now()).is_some()) {
        world.exec().sleep(Duration::from_millis(250)).await;
    }
}

/// The volume of an engine.
pub(super) fn volume_of_engine(caller: &Caller, node: &NodeName, member: &MemberName) -> Option<VolumeId> {
    caller.world().look(|state| Some(state.cloud.hosts.engine(node, member)?.volume.clone()))
}

/// The lock of a preparation, freed with whoever holds it.
struct Preparing {
    caller: Caller,
    locker: Locker,
}

impl Drop for Preparing {
    fn drop(&mut self) {
        let locker = self.locker.clone();
        self.caller.world().act(|cloud, now| cloud.end_prepare(now, &locker));
    }
}

fn failed(job: &PrepareJob, kind: ErrorKind, reason: &Reason, message: impl std::fmt::Display) -> Error {
    Error::new(kind, "agent", "prepare", &job.context.member.name, format!("{reason}: {message}"))
}

#[async_trait]
impl NodeHost for SimHost {
    async fn volume(&self, volume: &MountedVolume) -> Result<VolumeFacts, (Reason, String)> {
        let gone = || (Reason::IoError, "the volume cannot be read".to_owned());
        let id = volume_of(&volume.folder).ok_or_else(gone)?;
        disk_answers(&self.caller, &id).await;
        let name = volume.name.clone();
        let facts = self.caller.call(ask("host.volume", &name, false), move |cloud, _| {
            Ok(match cloud.volumes.get(&id).filter(|found| found.mounted) {
                Some(found) => Ok(VolumeFacts {
                    identity: found.disk.identity.clone(),
                    empty: found.disk.history.is_none(),
                    epoch: Some(found.disk.epoch),
                }),
                None => Err((Reason::IoError, "it is not there".to_owned())),
            })
        });
        facts.await.map_err(|error| (Reason::IoError, error.to_string()))?
    }

    async fn ports_taken(&self, _address: IpAddr, _ports: &BTreeMap<String, u16>) -> Vec<u16> {
        Vec::new()
    }

    async fn disk(&self, folder: &Path) -> Option<(Reason, String)> {
        let id = volume_of(folder)?;
        disk_answers(&self.caller, &id).await;
        let role = VolumeRole(&id);
        let own = id.clone();
        let full = self.caller.call(ask("host.disk", &role, false), move |cloud, now| {
            Ok(cloud.trouble_of(Trouble::Full, &own, now).is_some())
        });
        match full.await {
            Ok(false) => None,
            Ok(true) => Some((Reason::DiskFull, "there is no room on its disk".to_owned())),
            Err(error) => Some((Reason::IoError, error.to_string())),
        }
    }

    async fn prepare(&self, job: &PrepareJob) -> Result<Outcome> {
        let volumes: Vec<VolumeId> = job.volumes.iter().filter_map(|v| volume_of(&v.folder)).collect();
        let member = job.context.member.name.clone();
        let life = self.env.entropy().token().parse().map_err(|error| {
            Error::new(ErrorKind::Internal, "agent", "prepare", &member, error).without_effect()
        })?;
        let locker = Locker { node: self.node.clone(), member: member.clone(), life };
        let clock = Arc::clone(self.env.clock());
        let patience_ends = clock.monotonic().plus(Duration::from_millis(job.lock_wait_ms));
        let preparing = Preparing { caller: self.caller.clone(), locker: locker.clone() };
        loop {
            let (own, ids) = (locker.clone(), volumes.clone());
            let other = self.caller.call(ask("host.prepare", &member, true), move |cloud, now| {
                cloud.begin_prepare(now, &own, &ids).map_err(|why| {
                    Error::new(ErrorKind::Unavailable, "agent", "prepare", &own.member, why).without_effect()
                })
            });
            match other.await? {
                None => break,
                Some(other) if clock.monotonic() >= patience_ends => {
                    let text = format!("its volume is held by {} on {}", other.member, other.node);
                    return Err(failed(job, ErrorKind::Busy, &Reason::VolumeBusy, text));
                }
                Some(_) => clock.sleep(Duration::from_millis(500)).await,
            }
        }
        clock.sleep(Duration::from_millis(self.takes(job))).await;
        for id in &volumes {
            disk_answers(&self.caller, id).await;
        }
        let own = job.clone();
        let done = self
            .caller
            .call(ask("host.prepared", &member, true), move |cloud, now| finish(cloud, now, &own, &volumes));
        let outcome = done.await;
        drop(preparing);
        outcome
    }
}

impl SimHost {
    /// How long a preparation takes, in milliseconds.
    fn takes(&self, job: &PrepareJob) -> u64 {
        let now = self.caller.world().now();
        self.caller.world().look(|state| {
            let engines = &state.cloud.profile.engines;
            let span = match &job.first {
                Some(FirstData::Initialise) => engines.initialise_ms,
                Some(FirstData::Join(_)) if !engines.joins_empty => engines.copy_ms,
                Some(FirstData::Join(_)) | None => engines.reconcile_ms,
            };
            state.cloud.draw(span, job.context.member.name.as_str(), now.micros())
        })
    }
}

/// What a preparation comes to: the identity on every volume, and data that fits the role.
fn finish(cloud: &mut Cloud, now: Time, job: &PrepareJob, volumes: &[VolumeId]) -> Result<Outcome> {
    let member = &job.context.member.name;
    let upstream = match (&job.first, &job.wanted) {
        (Some(FirstData::Join(from)), _) => from.as_ref().map(|peer| data_of(cloud, peer)),
        (_, WantedRole::Follow(peer)) => Some(data_of(cloud, peer)),
        _ => None,
    };
    if matches!(&job.first, Some(FirstData::Join(Some(_)))) && upstream.as_ref().is_none_or(Option::is_none) {
        let text = "the primary to copy from cannot be reached";
        return Err(failed(job, ErrorKind::Unavailable, &Reason::BootstrapRunning, text));
    }
    let upstream = upstream.flatten();
    let begins_empty = cloud.profile.engines.joins_empty;
    for (volume, id) in job.volumes.iter().zip(volumes) {
        let Some(found) = cloud.volumes.get(id) else {
            return Err(failed(job, ErrorKind::NotFound, &Reason::IoError, "its volume is not there"));
        };
        if found.disk.epoch > job.context.epoch {
            let text = format!("the volume has been opened under epoch {}", found.disk.epoch);
            return Err(failed(job, ErrorKind::Stale, &Reason::EpochStale, text));
        }
        if found.disk.identity.as_ref().is_some_and(|identity| identity.member != job.member) {
            let text = "it belongs to another member";
            return Err(failed(job, ErrorKind::Stale, &Reason::VolumeForeign, text));
        }
        if cloud.trouble_of(Trouble::Full, id, now).is_some() {
            return Err(failed(
                job,
                ErrorKind::Unavailable,
                &Reason::DiskFull,
                "there is no room on its disk",
            ));
        }
        if !cloud.storage_accepts(id, &job.context.node) {
            return Err(failed(job, ErrorKind::Unavailable, &Reason::IoError, "its volume refuses writes"));
        }
        let Some(disk) = cloud.volumes.disk_mut(id) else { continue };
        disk.epoch = job.context.epoch;
        disk.identity = Some(Identity {
            member: job.member.clone(),
            service: job.service.clone(),
            volume: volume.name.clone(),
            epoch: job.context.epoch,
            architecture: std::env::consts::ARCH.to_owned(),
            engine_version: Some("1.0".to_owned()),
            initialised: true,
        });
        let mut rewound = None;
        match (&job.first, &mut disk.history, &upstream) {
            (Some(FirstData::Initialise), history, _) => *history = Some(History::default()),
            (Some(FirstData::Join(_)), history, _) if begins_empty => *history = Some(History::default()),
            (Some(FirstData::Join(_)), history, upstream) => {
                *history = Some(upstream.clone().unwrap_or_default());
            }
            (None, Some(own), Some(theirs)) if !theirs.writes.starts_with(&own.writes) => {
                let pairs = own.writes.iter().zip(&theirs.writes);
                let common = pairs.take_while(|(own, theirs)| own == theirs).count();
                rewound = Some(own.writes.len() - common);
                own.writes.truncate(common);
                own.timeline = theirs.timeline;
            }
            (None, ..) => {}
        }
        if job.first.is_some() {
            cloud.truth.note(now, Fact::DataMade { member: member.clone(), volume: id.clone() });
        }
        if let Some(writes) = rewound {
            cloud.truth.note(now, Fact::Rewound { member: member.clone(), writes });
        }
    }
    Ok(Outcome { engine_version: "1.0".to_owned(), remarks: Vec::new() })
}

/// The data of a member, if it can be reached at its address.
fn data_of(cloud: &Cloud, peer: &Peer) -> Option<History> {
    let (node, member) = cloud.engine_at(peer.address?)?;
    let engine = cloud.hosts.engine(&node, &member)?;
    cloud.volumes.get(&engine.volume)?.disk.history.clone()
}
