//! From an assignment to a started engine: claim, look at the data, prepare it, start the guard.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use serde_json::Value;
use steadfast_core::engine::{EngineContext, Peer, WantedRole};
use steadfast_core::error::{Error, ErrorKind, Result};
use steadfast_core::ids::{Epoch, Generation, VolumeName};
use steadfast_core::model::{Member, MemberPhase, Reason, Role};
use steadfast_core::planted::{self, Planted};
use steadfast_core::workflow::claim::ClaimProgress;

use super::data::{self, DataStep, DataView, wanted_role};
use super::decide::Wanted;
use super::{Known, MemberTask, Records, told_of};
use crate::guard::{GuardSpec, LogSpec};
use crate::host::{MountedVolume, Outcome, PrepareJob, VolumeFacts};
use crate::seams::MadeEngine;

/// Why the engine is not started yet.
pub(super) struct Held {
    reason: Reason,
    message: String,
    again: Again,
}

/// When to try again, and what users are told after many tries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Again {
    /// Something that is under way has to end first.
    Soon,
    /// After the delay of a restart. Why it was refused stays the answer, however often that is.
    Refused,
    /// After the delay of a restart. Often enough, it is a crash loop.
    Failed,
}

impl From<Error> for Held {
    fn from(error: Error) -> Self {
        let (reason, message) = told_of(&error);
        Held { reason, message, again: Again::Soon }
    }
}

/// What is known of an engine that is about to be started, or was found running.
pub(super) struct Setting {
    pub(super) definition: Value,
    pub(super) context: EngineContext,
    pub(super) volumes: Vec<MountedVolume>,
}

const CLAIMED_ELSEWHERE: &str = "the member was claimed by somebody else";
const LOG_BYTES: u64 = 16 * 1024 * 1024;
const LOGS_KEPT: u32 = 4;

impl MemberTask {
    /// Does what can be done now; gives how long to wait before the next pass.
    pub(super) async fn bring_up(&mut self) -> Duration {
        match self.try_bring_up().await {
            Ok(()) => {
                self.waits.begin_anew();
                self.diverged = false;
                self.refused = false;
                self.status.blocked = None;
                Duration::ZERO
            }
            Err(Held { reason, message, again }) => {
                tracing::debug!(member = %self.name, %reason, %message, "not started yet");
                self.status.blocked = Some((reason, message));
                if again == Again::Soon {
                    return self.growing_pause();
                }
                self.refused = again == Again::Refused;
                let (now, timers) = (self.now(), self.parts().config.timers);
                self.restarts.ended(now, &timers);
                timers.look_closely
            }
        }
    }

    async fn try_bring_up(&mut self) -> Result<(), Held> {
        // Whoever has lost the lease does not even begin.
        self.lease()?;
        self.claim().await?;
        let Records::Known(known) = &self.records else {
            return Err(held(Reason::StoreUnavailable, "the records are not known"));
        };
        let known = Arc::clone(known);
        self.status.epoch = known.member.epoch;
        // What is told while the data is prepared is another start's: this one has what was read for it.
        let generation = self.generation(&known);
        let setting = self.setting(&known).await?;
        let job = self.job(&known, &setting).await?;
        let outcome = self.prepare(&job).await?;
        self.note_prepared(&known, &outcome).await?;
        self.check_ports(&setting).await?;
        let made = self.parts().engines.engine(&setting.definition, setting.context.clone())?;
        // Asked for again, before the start: what came before may have taken longer than the lease, and an engine
        // must not begin under one that has ended.
        let lease_until_ms = self.lease()?;
        let spec = self.guard_spec(&known, &setting, &made, (generation, lease_until_ms))?;
        self.inbox.leased.store(spec.lease_until_ms.is_some(), Ordering::Release);
        self.start(&spec).await?;
        self.status.phase = MemberPhase::Starting;
        self.status.generation = spec.generation;
        self.record(MemberPhase::Starting, None).await;
        self.begin_live(spec.incarnation, made.engine, known.revision.revision, setting);
        Ok(())
    }

    /// Starts the guard, which may have to wait for a container. Given up when the member is no longer wanted here.
    async fn start(&mut self, spec: &GuardSpec) -> Result<()> {
        let (guards, inbox) = (Arc::clone(&self.parts().guards), Arc::clone(&self.inbox));
        let mut start = guards.start(spec);
        loop {
            tokio::select! {
                biased;
                started = &mut start => return started,
                () = inbox.wake.notified() => {
                    self.refresh().await;
                    if !matches!(self.wanted(), Wanted::Run(_)) {
                        // If a guard has begun, the start ends with that.
                        let withdrawn = guards.withdraw(&self.name).await;
                        tracing::debug!(member = %self.name, ?withdrawn, "no longer wanted here");
                    }
                }
            }
        }
    }

    fn lease(&self) -> Result<Option<u64>, Held> {
        // Whoever lets its data move on an expired lease has its engines stopped by the end of it.
        let accepted = match &self.records {
            Records::Known(known) => known.revision.spec.fencing.accept_lease,
            _ => false,
        };
        self.node.lease_end(accepted).map_err(|(reason, message)| Held {
            reason,
            message,
            again: Again::Soon,
        })
    }

    async fn claim(&mut self) -> Result<(), Held> {
        self.status.phase = MemberPhase::Claiming;
        let (service, in_doubt) = (&self.inbox.service, &mut self.in_doubt);
        match self.node.claimant.advance_noting(service, &self.name, in_doubt).await? {
            ClaimProgress::Prepared(member) => {
                if let Records::Known(known) = &mut self.records {
                    if known.revision.revision != member.body.revision {
                        self.stale = true;
                        return Err(held(Reason::SpecChanged, "it has another revision by now"));
                    }
                    self.recorded = Some((member.body.epoch, member.body.phase));
                    Arc::make_mut(known).member = member.body;
                }
                self.status.phase = MemberPhase::Prepared;
                Ok(())
            }
            ClaimProgress::Waiting(reason, message) => Err(held(reason, message)),
            ClaimProgress::Lost(reason, message) => {
                self.stale = true;
                Err(held(reason, message))
            }
        }
    }

    /// Everything the engine has to know, as it is now.
    pub(super) async fn setting(&self, known: &Known) -> Result<Setting, Held> {
        let parts = self.parts();
        let member = &known.member;
        let volumes = self.volumes(member).await?;
        let peers = self.peers(known).await?;
        let me = peers.iter().find(|peer| peer.name == self.name).cloned();
        let me = me.ok_or_else(|| held(Reason::StoreUnavailable, "the member has no record"))?;
        let blueprint = &known.revision.blueprint;
        let context = EngineContext {
            cluster: parts.store.cluster().clone(),
            service: member.service.clone(),
            group: member.group.clone(),
            member: me,
            peers,
            node: parts.config.node.clone(),
            zone: parts.config.zone.clone(),
            epoch: member.epoch,
            learner: member.recloning && blueprint.learners && !planted::is(Planted::VotesAtOnce),
            durability: known.revision.spec.durability,
            options: known.revision.options.clone(),
            ports: blueprint.ports.iter().map(|port| (port.name.clone(), port.port)).collect(),
            volumes: volumes.iter().map(|volume| (volume.name.clone(), volume.data())).collect(),
            run_dir: parts.dir.run(&self.name),
            secrets: parts.secrets.secrets(&member.service_id, &self.name).await?,
        };
        let definition = parts.engines.definition(&known.revision).await?;
        Ok(Setting { definition, context, volumes })
    }

    async fn volumes(&self, member: &Member) -> Result<Vec<MountedVolume>, Held> {
        let mut found = Vec::new();
        for binding in &member.volumes {
            let name: &VolumeName = &binding.name;
            let status = match &binding.id {
                Some(id) => self.parts().backends.volumes.describe(id).await?,
                None => None,
            };
            let found_at = status.and_then(|status| Some((status.device?, status.lock)));
            let (folder, lock) = found_at.ok_or_else(|| {
                held(Reason::VolumeAttaching, format!("volume {name} cannot be found on this node"))
            })?;
            let volume = MountedVolume::new(name.clone(), folder, lock);
            let mounted = self.parts().host.mount(&self.name, volume).await;
            found.push(mounted.map_err(|(reason, message)| held(reason, message))?);
        }
        Ok(found)
    }

    /// The members of the group, by ordinal. One that has no record yet has no address.
    async fn peers(&self, known: &Known) -> Result<Vec<Peer>, Held> {
        let parts = self.parts();
        let members: BTreeMap<_, _> = parts
            .store
            .members(&known.member.service)
            .await?
            .into_iter()
            .map(|found| (found.body.name.clone(), found.body))
            .collect();
        let names = known.service.member_names().filter(|(group, ..)| **group == known.member.group);
        let mut peers = Vec::new();
        for (_, ordinal, name) in names {
            let host = parts.backends.zone.child(&name).map_err(|error| {
                Error::new(ErrorKind::Invalid, "agent", "name", &name, error).without_effect()
            })?;
            let address = members.get(&name).and_then(|member| member.address.as_ref());
            peers.push(Peer {
                host: host.to_string(),
                ordinal,
                address: address.map(|binding| binding.address),
                name,
            });
        }
        Ok(peers)
    }

    /// What is to be done to the data; nothing is touched yet.
    async fn job(&mut self, known: &Known, setting: &Setting) -> Result<PrepareJob, Held> {
        let parts = self.parts();
        let mut found: Vec<(MountedVolume, VolumeFacts)> = Vec::new();
        for volume in &setting.volumes {
            let looked = parts.env.timeout(parts.config.timers.answer, parts.host.volume(volume)).await;
            let facts = looked
                .unwrap_or_else(|| Err(crate::disk::silent()))
                .map_err(|(reason, message)| Held { reason, message, again: Again::Refused })?;
            found.push((volume.clone(), facts));
        }
        let serving_leader = self.serving_leader(known, &setting.context.peers).await?;
        let step = data::decide(&DataView {
            member: &known.member,
            volumes: &found,
            leadership: known.revision.blueprint.leadership,
            topology: known.revision.blueprint.topology,
            learners: known.revision.blueprint.learners,
            bootstrapped: known.service.bootstrapped,
            role: known.role(),
            serving_leader: serving_leader.as_ref(),
        });
        let first = match step {
            DataStep::Keep => None,
            DataStep::Make(first) => Some(first),
            DataStep::Wait(reason, message) => return Err(held(reason, message)),
            DataStep::RaiseEpochAbove(epoch) => return Err(self.raise_epoch_above(known, epoch).await?),
            DataStep::Refuse(reason, message) => return Err(Held { reason, message, again: Again::Refused }),
        };
        let wanted = if known.is_led_by_us() {
            wanted_role(&self.name, &setting.context.peers, known.group(), known.role())
        } else {
            WantedRole::Fenced
        };
        Ok(PrepareJob {
            definition: setting.definition.clone(),
            context: setting.context.clone(),
            member: known.member.id.clone(),
            service: known.member.service_id.clone(),
            volumes: setting.volumes.clone(),
            guard_lock: parts.dir.guard_lock(&self.name),
            lock_wait_ms: millis(parts.config.timers.lock_wait),
            first,
            wanted,
        })
    }

    /// The volumes are ours, and bear an epoch of which the records do not know: the next pass is under a higher one.
    async fn raise_epoch_above(&mut self, known: &Known, found: Epoch) -> Result<Held, Held> {
        let (claimant, member) = (&self.node.claimant, &known.member);
        let raised = claimant.raise_epoch_above(&member.service, &self.name, member.epoch, found).await?;
        self.stale = true;
        let why =
            if raised { "it goes on under an epoch above that of its volume" } else { CLAIMED_ELSEWHERE };
        Ok(held(Reason::EpochStale, why))
    }

    /// The leader, if its agent says that it serves. Asked only by members that need it.
    async fn serving_leader(&self, known: &Known, peers: &[Peer]) -> Result<Option<Peer>, Held> {
        let leader = known.role().and_then(|role| role.leader.as_ref());
        let Some(leader) = leader.filter(|leader| **leader != self.name) else { return Ok(None) };
        if known.member.initialised.is_some() {
            return Ok(None);
        }
        let store = &self.parts().store;
        let holder =
            store.member(&known.member.service, leader).await?.and_then(|found| found.body.holder.clone());
        let Some(holder) = holder else { return Ok(None) };
        let status = store.node_status(&holder.node).await?;
        let serves = status.is_some_and(|status| {
            status.body.incarnation == holder.incarnation
                && status.body.members.get(leader).is_some_and(|status| {
                    status.epoch == holder.epoch && status.ready && status.role == Role::Primary
                })
        });
        Ok(peers.iter().find(|peer| serves && peer.name == *leader).cloned())
    }

    /// Prepares the data. Given up when the member is no longer wanted here.
    async fn prepare(&mut self, job: &PrepareJob) -> Result<Outcome, Held> {
        if job.first.is_some() {
            self.status.blocked = Some((Reason::BootstrapRunning, "its first data is being made".to_owned()));
            self.publish();
        }
        let (host, inbox) = (Arc::clone(&self.parts().host), Arc::clone(&self.inbox));
        let mut work = host.prepare(job);
        loop {
            tokio::select! {
                biased;
                outcome = &mut work => return outcome.map_err(not_prepared),
                () = inbox.wake.notified() => {
                    self.refresh().await;
                    if !matches!(self.wanted(), Wanted::Run(_)) {
                        return Err(held(Reason::StopRequested, "it is no longer wanted here"));
                    }
                }
            }
        }
    }

    async fn note_prepared(&mut self, known: &Known, outcome: &Outcome) -> Result<(), Held> {
        let claimant = &self.node.claimant;
        let (service, epoch) = (&known.member.service, known.member.epoch);
        if known.member.initialised.is_none() {
            let version = &outcome.engine_version;
            if !claimant.record_initialised(service, &self.name, epoch, version).await? {
                self.stale = true;
                return Err(held(Reason::EpochStale, CLAIMED_ELSEWHERE));
            }
            self.stale = true;
        }
        for remark in &outcome.remarks {
            self.record(MemberPhase::Prepared, Some(remark.clone())).await;
        }
        Ok(())
    }

    async fn check_ports(&self, setting: &Setting) -> Result<(), Held> {
        let context = &setting.context;
        let Some(address) = context.member.address else { return Ok(()) };
        let taken = self.parts().host.ports_taken(address, &context.ports).await;
        match taken.first() {
            None => Ok(()),
            Some(port) => Err(Held {
                reason: Reason::PortInUse,
                message: format!(
                    "port {port} of {address} is taken on {}; see by whom with: ss -ltnp 'sport = :{port}'",
                    context.node
                ),
                again: Again::Refused,
            }),
        }
    }

    /// The generation to start it in.
    fn generation(&self, known: &Known) -> Generation {
        match self.wanted() {
            Wanted::Run(generation) => generation,
            Wanted::Stop | Wanted::Unknown => known.member.generation,
        }
    }

    fn guard_spec(
        &self,
        known: &Known,
        setting: &Setting,
        made: &MadeEngine,
        (generation, lease_until_ms): (Generation, Option<u64>),
    ) -> Result<GuardSpec, Held> {
        let parts = self.parts();
        let incarnation = parts.env.entropy().token().parse().map_err(|error| {
            Error::new(ErrorKind::Internal, "agent", "start", &self.name, error).without_effect()
        })?;
        let (stop_signal, stop_grace_ms) = made.engine.stop();
        Ok(GuardSpec {
            member: self.name.clone(),
            service: known.member.service.clone(),
            node: parts.config.node.clone(),
            epoch: known.member.epoch,
            generation,
            incarnation,
            command: made.engine.start_command()?,
            run_as: made.run_as,
            machine_lock: Some(parts.dir.machine_lock_of(&self.name)),
            guard_lock: parts.dir.guard_lock(&self.name),
            volumes: setting.volumes.iter().map(MountedVolume::guarded).collect(),
            lock_wait_ms: millis(parts.config.timers.lock_wait),
            control: parts.dir.control(&self.name),
            exit: parts.dir.exit(&self.name),
            log: LogSpec {
                folder: parts.dir.log(&self.name, &parts.config.logs),
                max_bytes: LOG_BYTES,
                keep: LOGS_KEPT,
            },
            stop_signal,
            stop_grace_ms,
            network: None,
            lease_until_ms,
        })
    }
}

pub(super) fn held(reason: Reason, message: impl Into<String>) -> Held {
    Held { reason, message: message.into(), again: Again::Soon }
}

impl Held {
    pub(super) fn into_blocked(self) -> (Reason, String) {
        (self.reason, self.message)
    }
}

/// A volume that somebody else still uses is only waited for. What says neither by a code nor by its kind why it
/// failed is a program of the engine that did not end well: no store is asked while data is prepared.
fn not_prepared(error: Error) -> Held {
    let (reason, message) = told_of(&error);
    let (reason, again) = match reason {
        reason if error.kind() == ErrorKind::Busy => (reason, Again::Soon),
        Reason::EngineUnhealthy | Reason::StoreUnavailable => (Reason::EngineUnhealthy, Again::Failed),
        reason => (reason, Again::Refused),
    };
    Held { reason, message, again }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
