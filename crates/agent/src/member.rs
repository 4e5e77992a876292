//! One member on this node: look, decide the next step, take it, say how it is; again and again.

mod bring_up;
mod data;
mod decide;
mod ending;
mod liveness;
mod observe;
mod reason;
mod restarts;
mod voters;
mod waiting;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use steadfast_core::engine::{Engine, Peer, WantedRole};
use steadfast_core::error::{Error, ErrorKind, Result};
use steadfast_core::ids::{Epoch, Incarnation, MemberName, MembershipTerm, Revision, RoleTerm};
use steadfast_core::model::{
    Group, Holder, Leadership, Member, MemberPhase, MemberStatus, Membership, Reason, Role, RoleState,
    Service, SpecRevision,
};
use steadfast_core::orchestrator::Run;
use steadfast_core::planted::{self, Planted};
use steadfast_core::runtime::Moment;

use crate::agent::{AgentParts, Inbox, Node, Told};
use crate::guard::GuardStatus;
use crate::guards::GuardState;
use crate::host::MountedVolume;
use decide::{Holding, Process, Step, View, Wanted};
use liveness::Liveness;
use reason::told_of;
use restarts::Restarts;
use waiting::Slowing;

/// What is recorded of the member and its service.
#[derive(Debug, Clone)]
struct Known {
    member: Arc<Member>,
    service: Arc<Service>,
    revision: Arc<SpecRevision>,
}

impl Known {
    fn role(&self) -> Option<&RoleState> {
        self.service.roles.get(&self.member.group)
    }

    fn group(&self) -> Option<&Group> {
        self.service.groups.get(&self.member.group)
    }

    fn is_led_by_us(&self) -> bool {
        self.revision.blueprint.leadership == Leadership::Steadfast
    }
}

/// What the records say, if anything is known.
#[derive(Debug, Clone)]
enum Records {
    /// They could not be read yet.
    Unknown,
    /// The member has none.
    Gone,
    /// They say this.
    Known(Arc<Known>),
}

/// An engine that runs under a guard.
#[derive(Debug)]
struct Live {
    incarnation: Incarnation,
    engine: Arc<dyn Engine>,
    /// What the engine was made from, here and in the next field: made anew when either is another one.
    revision: Revision,
    peers: Vec<Peer>,
    volumes: Vec<MountedVolume>,
    liveness: Liveness,
    /// The role it was last brought into.
    confirmed: Option<Confirmed>,
    /// The term under which its group was last brought into line, and the version that came of it.
    admitted: Option<(MembershipTerm, u64)>,
    /// When its disks were last looked at, and what was found.
    disk: Option<(Moment, Option<(Reason, String)>)>,
}

/// An engine that answers has a guard: that one is asked with every so-manyth look only.
const LOOKS_WITHOUT_GUARD: u32 = 2;

/// A role that an engine was brought into.
#[derive(Debug)]
struct Confirmed {
    term: RoleTerm,
    role: WantedRole,
    /// Who counts in the group, as the engine was told if it leads.
    membership: Membership,
    at: Moment,
}

/// The task of one member.
#[derive(Debug)]
pub(crate) struct MemberTask {
    node: Arc<Node>,
    name: MemberName,
    inbox: Arc<Inbox>,
    told: Told,
    stale: bool,
    /// Whether this process has held the member, and has given nothing back since.
    in_doubt: bool,
    records: Records,
    live: Option<Live>,
    status: MemberStatus,
    /// When the engine was last asked how it is.
    seen: Option<Moment>,
    restarts: Restarts,
    /// The guard of an engine that is well, as it was last found, and for how many looks more it is taken to be there.
    guard: Option<(GuardStatus, u32)>,
    silent_since: Option<Moment>,
    /// Since when an engine is known to run that was never looked at.
    unseen_since: Option<Moment>,
    exit_seen: Option<Incarnation>,
    recorded: Option<(Epoch, MemberPhase)>,
    unhealthy: Option<String>,
    diverged: bool,
    /// Whether the last try to start it was refused for a reason of its own.
    refused: bool,
    waits: Slowing,
    /// The looks in a row that have found its guard at something which ends by itself.
    guard_looks: Slowing,
}

impl MemberTask {
    pub(crate) fn new(node: Arc<Node>, name: MemberName, inbox: Arc<Inbox>) -> Self {
        MemberTask {
            node,
            name,
            inbox,
            told: Told::default(),
            stale: true,
            in_doubt: false,
            records: Records::Unknown,
            live: None,
            status: MemberStatus {
                epoch: Epoch::default(),
                generation: Default::default(),
                revision: Default::default(),
                incarnation: None,
                phase: MemberPhase::Pending,
                role: Role::Unknown,
                role_term: RoleTerm::default(),
                follows: None,
                membership: None,
                ready: false,
                position: None,
                lag: None,
                restarts: 0,
                blocked: None,
            },
            seen: None,
            restarts: Restarts::default(),
            guard: None,
            silent_since: None,
            unseen_since: None,
            exit_seen: None,
            recorded: None,
            unhealthy: None,
            diverged: false,
            refused: false,
            waits: Slowing::default(),
            guard_looks: Slowing::default(),
        }
    }

    /// Runs until the member is no longer this node's business, or the agent stops. What runs goes on.
    pub(crate) async fn run(mut self) {
        let (node, inbox) = (Arc::clone(&self.node), Arc::clone(&self.inbox));
        let clock = Arc::clone(node.parts.env.clock());
        loop {
            let pause = tokio::select! {
                biased;
                () = node.tasks_must_end() => return,
                pause = self.pass() => pause,
            };
            let Some(pause) = pause else { return };
            tokio::select! {
                biased;
                () = node.tasks_must_end() => return,
                () = inbox.wake.notified() => {}
                () = clock.sleep(pause) => {}
            }
        }
    }

    /// One pass; gives how long to wait for the next one, or `None` at the end.
    async fn pass(&mut self) -> Option<Duration> {
        self.refresh().await;
        let process = match self.look().await {
            Ok(process) => process,
            Err(error) => {
                self.block_on(&error);
                return Some(self.parts().config.timers.look);
            }
        };
        let view = self.view(process);
        let step = decide::next(&view);
        tracing::trace!(member = %self.name, ?step, ?view, "next");
        if step != Step::Observe {
            self.guard = None;
        }
        if step != Step::Wait {
            self.guard_looks.begin_anew();
        }
        let pause = self.take_step(step, &view).await;
        self.status.restarts = self.restarts.count();
        if pause.is_some() && self.has_a_say(&view.process) {
            self.publish();
        }
        pause
    }

    pub(super) fn publish(&self) {
        self.node.publish(&self.name, &self.status, self.seen);
    }

    /// Whether the status says something of the engine. That of an agent which has just begun, and has not looked at
    /// an engine that runs, would call down what serves; if it cannot look, users are told why after a while.
    fn has_a_say(&mut self, process: &Process) -> bool {
        if !matches!(process, Process::Guarded(_)) || self.status.phase != MemberPhase::Pending {
            return true;
        }
        let now = self.now();
        let since = *self.unseen_since.get_or_insert(now);
        self.status.blocked.is_some() && now.since(since) >= observe::WORTH_A_WORD
    }

    fn parts(&self) -> &AgentParts {
        &self.node.parts
    }

    fn now(&self) -> Moment {
        self.parts().env.clock().monotonic()
    }

    /// Reads the records, if they may have changed. What could not be read stays as it was.
    async fn refresh(&mut self) {
        let generation = self.wanted_generation();
        self.told = self.inbox.take();
        self.stale |= self.told.stale;
        if !self.stale && !matches!(self.records, Records::Unknown) {
            return;
        }
        match self.read().await {
            Ok(records) => {
                self.records = records;
                self.stale = false;
                if let Records::Known(known) = &self.records {
                    let member = &known.member;
                    self.recorded = Some((member.epoch, member.phase));
                    self.status.epoch = member.epoch;
                    if self.live.is_none() {
                        self.status.revision = member.revision;
                    }
                }
            }
            Err(error) => {
                tracing::debug!(member = %self.name, error = %error.chain(), "the records cannot be read");
                self.stale = true;
            }
        }
        if self.wanted_generation() > generation {
            self.restarts.forgive();
        }
    }

    async fn read(&self) -> Result<Records> {
        let store = &self.parts().store;
        let service = &self.inbox.service;
        let (Some(member), Some(found)) =
            (store.member(service, &self.name).await?, store.service(service).await?)
        else {
            return Ok(Records::Gone);
        };
        let (member, service) = (member.body, found.body);
        let same = match &self.records {
            Records::Known(known)
                if known.revision.revision == member.revision
                    && known.revision.service_id == member.service_id =>
            {
                Some(Arc::clone(&known.revision))
            }
            Records::Known(_) | Records::Unknown | Records::Gone => None,
        };
        let revision = match same {
            Some(revision) => revision,
            None => {
                Arc::new(store.revision(&member.service_id, member.revision).await?.ok_or_else(|| {
                    let subject = format!("revision {} of {}", member.revision, member.service);
                    Error::new(ErrorKind::NotFound, "agent", "read", subject, "it is not there")
                        .without_effect()
                })?)
            }
        };
        Ok(Records::Known(Arc::new(Known { member, service, revision })))
    }

    /// What runs of the member. Takes in how the engine has ended.
    async fn look(&mut self) -> Result<Process> {
        if let Some((status, looks)) = &mut self.guard
            && *looks > 0
        {
            *looks -= 1;
            return Ok(Process::Guarded(status.clone()));
        }
        self.guard = None;
        let found = self.parts().guards.find(&self.name).await?;
        let now = self.now();
        if found != GuardState::Silent {
            self.silent_since = None;
        }
        Ok(match found {
            GuardState::Alive(_) if self.live.is_none() && planted::is(Planted::GuardsForgotten) => {
                Process::None
            }
            GuardState::Alive(status) => {
                self.status.incarnation = status.engine_pid.map(|_| status.incarnation.clone());
                self.status.generation = status.generation;
                self.inbox.leased.store(status.lease_left_ms.is_some(), Ordering::Release);
                Process::Guarded(status)
            }
            GuardState::Silent => {
                let since = *self.silent_since.get_or_insert(now);
                Process::Silent(now.since(since) >= self.parts().config.timers.guard_silence)
            }
            GuardState::Orphans => Process::Orphans,
            GuardState::Absent(exit) => {
                let live = self.live.as_ref().filter(|_| self.status.phase != MemberPhase::Stopping);
                let lived = live.map(|live| live.incarnation.clone());
                self.gone();
                // Nobody waits for the store to hear that it serves no more.
                self.publish();
                let told = exit.filter(|exit| self.exit_seen.as_ref() != Some(&exit.incarnation));
                match (told, lived) {
                    (Some(exit), _) => {
                        self.exit_seen = Some(exit.incarnation.clone());
                        self.note_exit(&exit).await;
                    }
                    (None, Some(lived)) => self.note_untold_end(&lived).await,
                    (None, None) => {}
                }
                Process::None
            }
        })
    }

    fn wanted_generation(&self) -> u64 {
        match self.wanted() {
            Wanted::Run(generation) => generation.0,
            Wanted::Unknown | Wanted::Stop => 0,
        }
    }

    fn wanted(&self) -> Wanted {
        let known = match &self.records {
            _ if !self.told.known => return Wanted::Unknown,
            Records::Unknown => return Wanted::Unknown,
            Records::Gone => return Wanted::Stop,
            Records::Known(known) => known,
        };
        let member = &known.member;
        match &self.told.assignment {
            Some(assignment)
                if assignment.placement.run == Run::Started
                    && member.run
                    && member.placed_on.as_ref() == Some(&self.parts().config.node) =>
            {
                Wanted::Run(assignment.placement.generation.max(member.generation))
            }
            Some(_) | None => Wanted::Stop,
        }
    }

    fn view(&self, process: Process) -> View {
        let AgentParts { config, incarnation, .. } = self.parts();
        let (holding, unreleased) = match &self.records {
            Records::Unknown => (Holding::Unknown, false),
            Records::Gone => (Holding::NotOurs, false),
            Records::Known(known) => {
                let member = &known.member;
                let is_us =
                    |holder: &Holder| holder.node == config.node && &holder.incarnation == incarnation;
                // Whoever has given everything back holds nothing, though the record still names it.
                let ours = member.holder.as_ref().is_some_and(is_us) && member.unreleased.iter().any(is_us);
                let unreleased = member.unreleased.iter().any(|holder| holder.node == config.node);
                (if ours { Holding::Ours(member.epoch) } else { Holding::NotOurs }, unreleased)
            }
        };
        View {
            wanted: self.wanted(),
            holding,
            process,
            unreleased,
            assigned: self.told.assignment.is_some(),
            may_start: self.restarts.delay(self.now()).is_zero(),
            unhealthy: self.unhealthy.clone(),
            diverged: self.diverged,
        }
    }

    async fn take_step(&mut self, step: Step, view: &View) -> Option<Duration> {
        let timers = self.parts().config.timers;
        match step {
            Step::Wait => Some(self.wait(view)),
            Step::BringUp => Some(self.bring_up().await),
            Step::Observe => match &view.process {
                Process::Guarded(status) => Some(self.observe(&status.clone()).await),
                Process::None | Process::Silent(_) | Process::Orphans => Some(timers.look),
            },
            Step::Stop => {
                self.status.phase = MemberPhase::Stopping;
                self.status.ready = false;
                self.record(MemberPhase::Stopping, None).await;
                if let Err(error) = self.parts().guards.stop(&self.name).await {
                    self.block_on(&error);
                }
                Some(Duration::from_millis(10))
            }
            Step::Kill { why, engine_failed } => Some(self.kill(why, engine_failed).await),
            Step::Release => Some(self.release().await),
            Step::Forget => self.forget().await,
        }
    }

    /// Records a phase, if it is not recorded already and the member is ours. What cannot be recorded now is
    /// tried again with the next change.
    async fn record(&mut self, phase: MemberPhase, event: Option<(Reason, String)>) {
        let Records::Known(known) = &self.records else { return };
        let epoch = known.member.epoch;
        if event.is_none() && self.recorded == Some((epoch, phase)) {
            return;
        }
        let claimant = &self.node.claimant;
        match claimant.record_phase(&self.inbox.service, &self.name, epoch, phase, event).await {
            Ok(true) => self.recorded = Some((epoch, phase)),
            Ok(false) => self.stale = true,
            Err(error) => {
                tracing::debug!(member = %self.name, error = %error.chain(), "a phase cannot be recorded");
            }
        }
    }

    fn block_on(&mut self, error: &Error) {
        self.status.blocked = Some(told_of(error));
    }
}
