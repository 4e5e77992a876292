//! A running engine: looked at, brought into its role, and told about.

use std::sync::Arc;
use std::time::Duration;

use steadfast_core::engine::{Engine, EngineView, WantedRole};
use steadfast_core::error::{Error, ErrorKind};
use steadfast_core::ids::{Incarnation, Revision};
use steadfast_core::model::{MemberPhase, Membership, Reason, Role};

use super::bring_up::{Held, Setting};
use super::data::{counting, wanted_role};
use super::{Confirmed, Known, LOOKS_WITHOUT_GUARD, Live, Liveness, MemberTask, Records};
use crate::guard::{GuardStage, GuardStatus};

/// How often a role is confirmed anew although nothing seems to have changed.
const CONFIRM_AGAIN: Duration = Duration::from_secs(30);
/// How long a change of role may take before it is tried again.
pub(super) const ROLE_PATIENCE: Duration = Duration::from_secs(60);
/// How long an engine may be silent, or unseen, before users are told.
pub(super) const WORTH_A_WORD: Duration = Duration::from_secs(3);
/// How often disks are looked at.
const LOOK_AT_DISKS: Duration = Duration::from_secs(5);

impl MemberTask {
    /// One look at the engine; gives how long to wait for the next one.
    pub(super) async fn observe(&mut self, guard: &GuardStatus) -> Duration {
        let timers = self.parts().config.timers;
        let Records::Known(known) = &self.records else { return timers.look };
        let known = Arc::clone(known);
        self.status.epoch = guard.epoch;
        if self.live.as_ref().is_none_or(|live| live.incarnation != guard.incarnation)
            && !self.adopt(&known, guard).await
        {
            return timers.look;
        }
        let (mut seen, mut view) = (self.now(), self.see().await);
        if !view.alive && self.guard.take().is_some() {
            // Its guard knows whether it has ended.
            return Duration::ZERO;
        }
        let start = Duration::from_millis(known.revision.blueprint.start_deadline_ms);
        if let Some(live) = &mut self.live
            && let Some(complaint) = live.liveness.complaint(start, timers.liveness)
        {
            self.unhealthy = Some(complaint);
            self.status.ready = false;
            return Duration::ZERO;
        }
        let mut blocked = None;
        if known.is_led_by_us() && view.alive && view.recovering.is_none() {
            match self.lead(&known, &view).await {
                Ok(true) => (seen, view) = (self.now(), self.see().await),
                Ok(false) => {}
                Err(problem) => blocked = Some(problem),
            }
        } else if !known.is_led_by_us() {
            blocked = self.keep_voters(&known, &view).await.err();
        }
        self.seen = Some(seen);
        self.tell(&view, &known, blocked).await;
        if self.guard.is_none() && self.status.ready && guard.stage == GuardStage::Running {
            self.guard = Some((guard.clone(), LOOKS_WITHOUT_GUARD));
        }
        if self.status.ready { timers.look } else { timers.look_closely }
    }

    /// Takes over an engine that an earlier agent has started; `false`: not possible yet.
    async fn adopt(&mut self, known: &Known, guard: &GuardStatus) -> bool {
        let made = match self.setting(known).await {
            Ok(setting) => self
                .parts()
                .engines
                .engine(&setting.definition, setting.context.clone())
                .map(|made| (made, setting)),
            Err(held) => {
                self.status.blocked = Some(held.into_blocked());
                return false;
            }
        };
        match made {
            Ok((made, setting)) => {
                self.status.phase = known.member.phase;
                self.begin_live(guard.incarnation.clone(), made.engine, known.revision.revision, setting);
                true
            }
            Err(error) => {
                self.block_on(&error);
                false
            }
        }
    }

    pub(super) fn begin_live(
        &mut self,
        incarnation: Incarnation,
        engine: Arc<dyn Engine>,
        revision: Revision,
        setting: Setting,
    ) {
        self.unhealthy = None;
        self.status.revision = revision;
        // How far an earlier life was says nothing of this one.
        self.status.position = None;
        self.live = Some(Live {
            incarnation,
            engine,
            revision,
            peers: setting.context.peers,
            volumes: setting.volumes,
            liveness: Liveness::default(),
            confirmed: None,
            admitted: None,
            disk: None,
        });
    }

    /// What the engine says of itself. One that does not answer in time says nothing.
    async fn see(&mut self) -> EngineView {
        let timers = self.parts().config.timers;
        let Some(live) = &self.live else { return EngineView::default() };
        let engine = Arc::clone(&live.engine);
        let env = &self.parts().env;
        let view = env.timeout(timers.answer, engine.observe()).await.unwrap_or_default();
        let now = self.now();
        if let Some(live) = &mut self.live {
            live.liveness.saw(now, &view, timers.answer + timers.look * 2);
        }
        view
    }

    /// Brings the engine into the role that the records want. `true`: something may have changed.
    async fn lead(&mut self, known: &Known, view: &EngineView) -> Result<bool, (Reason, String)> {
        let now = self.now();
        let Some(live) = &self.live else { return Ok(false) };
        let wanted = wanted_role(&self.name, &live.peers, known.group(), known.role());
        let as_confirmed = live.confirmed.as_ref().is_some_and(|confirmed| {
            known.role().is_some_and(|state| state.term == confirmed.term)
                && known.group().is_some_and(|group| group.membership_term == confirmed.membership.term)
                && known.revision.revision == live.revision
                && confirmed.role == wanted
                && now.since(confirmed.at) < CONFIRM_AGAIN
        });
        if as_confirmed && is_in(view, &wanted) {
            return Ok(false);
        }
        let known = self.fresh(known).await?;
        let (Some(role), Some(group)) = (known.role(), known.group()) else {
            return Err((Reason::RoleTermStale, "nobody leads yet".to_owned()));
        };
        self.meet(&known).await?;
        let Some(live) = &self.live else { return Ok(false) };
        let (engine, peers) = (Arc::clone(&live.engine), &live.peers);
        let voters = counting(peers, Some(group)).map(|peer| peer.name.clone()).collect();
        let membership = Membership { term: group.membership_term, voters };
        let wanted = wanted_role(&self.name, peers, Some(group), Some(role));
        let done = self.parts().env.timeout(ROLE_PATIENCE, engine.assume(&wanted)).await;
        let confirmed_at = self.now();
        let Some(live) = &mut self.live else { return Ok(false) };
        live.confirmed = None;
        match done {
            Some(Ok(())) => {
                let term = role.term;
                live.confirmed = Some(Confirmed { term, role: wanted, membership, at: confirmed_at });
                // How far it was in another role is no answer under this term.
                self.status.position = None;
                Ok(true)
            }
            Some(Err(error)) => {
                if has_diverged(&error) {
                    self.diverged = true;
                }
                Err(super::told_of(&error))
            }
            None => Err((Reason::EngineUnhealthy, "a change of role takes too long".to_owned())),
        }
    }

    /// What is known, with the service's record read right before: what was read earlier may have been overtaken.
    pub(super) async fn fresh(&mut self, known: &Known) -> Result<Known, (Reason, String)> {
        let fresh = self.parts().store.service(&self.inbox.service).await.map_err(|error| {
            let text = format!("the role cannot be confirmed: {}", error.message());
            (Reason::StoreUnavailable, text)
        })?;
        let Some(service) = fresh.map(|found| found.body).filter(|service| service.id == known.service.id)
        else {
            self.stale = true;
            return Err((Reason::RoleTermStale, "the service is gone".to_owned()));
        };
        if let Records::Known(old) = &mut self.records {
            Arc::make_mut(old).service = service.clone();
        }
        Ok(Known { service, ..known.clone() })
    }

    /// Makes the engine's face anew if its revision is another one, or members have come, gone or got an address since.
    pub(super) async fn meet(&mut self, known: &Known) -> Result<(), (Reason, String)> {
        let Some(live) = &self.live else { return Ok(()) };
        let replicas = known.group().map_or(0, |group| group.replicas);
        let is_met =
            |ordinal| live.peers.iter().any(|peer| peer.ordinal == ordinal && peer.address.is_some());
        let met = live.peers.iter().all(|peer| peer.ordinal < replicas) && (0..replicas).all(is_met);
        if met && live.revision == known.revision.revision {
            return Ok(());
        }
        let setting = self.setting(known).await.map_err(Held::into_blocked)?;
        let made = self.parts().engines.engine(&setting.definition, setting.context.clone());
        let made = made.map_err(|error| super::told_of(&error))?;
        if let Some(live) = &mut self.live {
            live.engine = made.engine;
            live.revision = known.revision.revision;
            live.peers = setting.context.peers;
            live.volumes = setting.volumes;
        }
        Ok(())
    }

    /// Puts what was seen into the status, and records that the member serves.
    async fn tell(&mut self, view: &EngineView, known: &Known, blocked: Option<(Reason, String)>) {
        let disk = self.look_at_disks().await;
        let Some(live) = &self.live else { return };
        let confirmed = live.confirmed.as_ref();
        let in_role = !known.is_led_by_us()
            || confirmed.is_some_and(|confirmed| {
                confirmed.role != WantedRole::Fenced && is_in(view, &confirmed.role)
            });
        let follows = view.follows.and_then(|address| {
            live.peers.iter().find(|peer| peer.address == Some(address)).map(|peer| peer.name.clone())
        });
        let recovering = view
            .recovering
            .map(|progress| (Reason::EngineRecovering, format!("the engine recovers; it is at {progress}")));
        // Nothing waits silently; no sign of a recovery either, so that whoever decides on failover may go on.
        let silent = (!view.alive && live.liveness.quiet() >= WORTH_A_WORD)
            .then(|| (Reason::EngineUnhealthy, "the engine runs, and does not answer".to_owned()));
        self.status.revision = live.revision;
        self.status.role = view.role;
        self.status.role_term = confirmed.map(|confirmed| confirmed.term).unwrap_or_default();
        self.status.follows = follows;
        // Whoever takes writes decides whose confirmations it waits for.
        if known.is_led_by_us() {
            let leads = confirmed.filter(|_| in_role && view.role == Role::Primary);
            self.status.membership = leads.map(|confirmed| confirmed.membership.clone());
        }
        self.status.ready = view.alive && view.ready && in_role;
        self.status.position = view.position.or(self.status.position);
        self.status.lag = view.lag;
        self.status.blocked = disk.or_else(|| view.problem.clone()).or(blocked).or(recovering).or(silent);
        let (now, timers) = (self.now(), self.parts().config.timers);
        if self.status.ready {
            self.restarts.well(now, &timers);
            self.status.phase = MemberPhase::Serving;
            self.record(MemberPhase::Serving, None).await;
        } else {
            self.restarts.not_well();
        }
    }

    async fn look_at_disks(&mut self) -> Option<(Reason, String)> {
        let now = self.now();
        let (host, env) = (Arc::clone(&self.parts().host), self.parts().env.clone());
        let patience = self.parts().config.timers.answer;
        let live = self.live.as_mut()?;
        if let Some((at, found)) = &live.disk
            && now.since(*at) < LOOK_AT_DISKS
        {
            return found.clone();
        }
        let mut found = None;
        for volume in &live.volumes {
            // A disk that hangs keeps whoever looks at it for ever; users have to be told all the same.
            let seen = env.timeout(patience, host.disk(&volume.folder)).await;
            found = found.or(seen.unwrap_or_else(|| Some(crate::disk::silent())));
        }
        live.disk = Some((now, found.clone()));
        found
    }
}

/// Whether the engine is in a role, by its own word.
fn is_in(view: &EngineView, wanted: &WantedRole) -> bool {
    match wanted {
        WantedRole::Primary { .. } => view.role == Role::Primary,
        WantedRole::Follow(peer) => {
            view.role == Role::Replica && (view.follows.is_none() || view.follows == peer.address)
        }
        WantedRole::Fenced => view.role != Role::Primary,
    }
}

/// Whether the engine's history has left that of the member it shall follow: it has to be stopped and its data
/// brought into line.
fn has_diverged(error: &Error) -> bool {
    error.kind() == ErrorKind::Stale && error.operation() == "follow diverged"
}
