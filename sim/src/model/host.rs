//! Machines: whether they run, what they can reach, and the guards on them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use steadfast_agent::guard::{Ending, GuardExit, GuardSpec, GuardStage, GuardStatus};
use steadfast_agent::guards::GuardState;
use steadfast_core::error::{Error, ErrorKind, Result};
use steadfast_core::ids::{Incarnation, MemberName, NodeName, ServiceName, VolumeId, ZoneName};
use steadfast_core::model::Reason;
use steadfast_core::runtime::{Clock as _, Moment};

pub use super::cut::{Cut, Way};
use super::engine::{Engine, Launch};
use super::troubles::Trouble;
use super::volumes::{Locker, volume_of};
use super::{Cloud, Due, Fact};
use crate::env::MachineClock;
use crate::time::Time;

/// A guard, and the engine under it.
#[derive(Debug)]
pub struct Guard {
    spec: GuardSpec,
    stage: GuardStage,
    requested: bool,
    lease_until: Option<Moment>,
    pid: u32,
    /// The engine, from its start to its end.
    pub engine: Option<Engine>,
}

impl Guard {
    /// The life of its engine.
    pub fn life(&self) -> &Incarnation {
        &self.spec.incarnation
    }

    /// The epoch it works under.
    pub fn epoch(&self) -> steadfast_core::ids::Epoch {
        self.spec.epoch
    }

    /// The generation it was started in.
    pub fn generation(&self) -> steadfast_core::ids::Generation {
        self.spec.generation
    }

    fn volumes(&self) -> Vec<VolumeId> {
        self.spec.volumes.iter().filter_map(|volume| volume_of(&volume.lock)).collect()
    }
}

/// A machine.
#[derive(Debug)]
pub struct Host {
    /// Its zone.
    pub zone: ZoneName,
    /// Its clocks.
    pub clock: MachineClock,
    /// Whether it runs.
    pub running: bool,
    /// Whether it will never again.
    pub gone: bool,
    /// Since when it does not.
    pub stopped_at: Time,
    /// Whether it stands still.
    pub paused: bool,
    /// What was due while it stood still.
    pub held: Vec<Due>,
    /// Client writes that came while it stood still.
    pub inbox: Vec<(MemberName, Incarnation, u64)>,
    /// What it cannot reach.
    pub cut: Cut,
    /// Which way it is cut off from the store and the clouds' interfaces, besides.
    pub one_way: Option<Way>,
    /// Its life, as its agent has written it down.
    pub incarnation: Option<Incarnation>,
    /// Whether its agent lives.
    pub agent: bool,
    /// The guards on it.
    pub guards: BTreeMap<MemberName, Guard>,
    known: BTreeMap<MemberName, ServiceName>,
    exits: BTreeMap<MemberName, GuardExit>,
    pub(super) preparing: BTreeSet<Incarnation>,
    pids: u32,
}

impl Host {
    /// Everything that it has ever written down is gone.
    pub(super) fn forget(&mut self) {
        self.incarnation = None;
        self.exits.clear();
    }

    /// Whether it runs, and its agent gets through.
    pub fn is_reachable(&self) -> bool {
        self.running && !self.paused && !self.cut.control && self.one_way.is_none()
    }
}

/// The machines.
#[derive(Debug, Default)]
pub struct HostsModel {
    hosts: BTreeMap<NodeName, Host>,
}

impl HostsModel {
    /// A machine.
    pub fn get(&self, node: &NodeName) -> Option<&Host> {
        self.hosts.get(node)
    }

    /// A machine, to change it.
    pub fn get_mut(&mut self, node: &NodeName) -> Option<&mut Host> {
        self.hosts.get_mut(node)
    }

    /// Every machine.
    pub fn all(&self) -> impl Iterator<Item = (&NodeName, &Host)> {
        self.hosts.iter()
    }
    /// Every engine there is, also such as should not be.
    pub fn engines(&self) -> impl Iterator<Item = (&NodeName, &MemberName, &Guard, &Engine)> {
        self.hosts.iter().flat_map(|(node, host)| {
            host.guards.iter().filter_map(move |(member, guard)| {
                guard.engine.as_ref().map(|engine| (node, member, guard, engine))
            })
        })
    }

    /// The engine of a member on a node.
    pub fn engine(&self, node: &NodeName, member: &MemberName) -> Option<&Engine> {
        self.hosts.get(node)?.guards.get(member)?.engine.as_ref()
    }

    /// The engine of a member on a node, to change it.
    pub fn engine_mut(&mut self, node: &NodeName, member: &MemberName) -> Option<&mut Engine> {
        self.hosts.get_mut(node)?.guards.get_mut(member)?.engine.as_mut()
    }

    fn guard(&self, node: &NodeName, member: &MemberName, life: &Incarnation) -> Option<&Guard> {
        self.hosts.get(node)?.guards.get(member).filter(|guard| guard.life() == life)
    }
}

impl Cloud {
    /// Sets up a machine that runs.
    pub fn add_host(&mut self, now: Time, node: &NodeName, zone: ZoneName, clock: MachineClock) {
        let host = Host {
            zone,
            clock,
            running: true,
            gone: false,
            stopped_at: now,
            paused: false,
            held: Vec::new(),
            inbox: Vec::new(),
            cut: Cut::default(),
            one_way: None,
            incarnation: None,
            agent: false,
            guards: BTreeMap::new(),
            known: BTreeMap::new(),
            exits: BTreeMap::new(),
            preparing: BTreeSet::new(),
            pids: 100,
        };
        self.hosts.hosts.insert(node.clone(), host);
        self.truth.note(now, Fact::NodeUp { node: node.clone() });
    }

    /// Switches a machine off: everything on it ends at once, and its memory is lost.
    pub fn stop_host(&mut self, now: Time, node: &NodeName) {
        let Some(host) = self.hosts.get_mut(node) else { return };
        let members: Vec<MemberName> = host.guards.keys().cloned().collect();
        let preparing: Vec<Incarnation> = std::mem::take(&mut host.preparing).into_iter().collect();
        host.running = false;
        host.stopped_at = now;
        host.paused = false;
        host.held.clear();
        host.inbox.clear();
        host.agent = false;
        host.known.clear();
        self.truth.note(now, Fact::NodeDown { node: node.clone() });
        self.unmount_all(node);
        for member in members {
            self.end_guard(now, node, &member, None, "the machine is off");
        }
        for life in preparing {
            self.unlock_all(now, node, &life);
        }
    }

    /// Switches a machine on.
    pub fn start_host(&mut self, now: Time, node: &NodeName) {
        if let Some(host) = self.hosts.get_mut(node)
            && !host.running
            && !host.gone
        {
            host.running = true;
            self.truth.note(now, Fact::NodeUp { node: node.clone() });
        }
    }

    /// Lets a machine stand still, or go on: what was due meanwhile happens a moment after.
    pub fn pause_host(&mut self, now: Time, node: &NodeName, paused: bool) {
        let Some(host) = self.hosts.get_mut(node) else { return };
        host.paused = paused;
        let held = if paused { Vec::new() } else { std::mem::take(&mut host.held) };
        let inbox = if paused { Vec::new() } else { std::mem::take(&mut host.inbox) };
        for due in held {
            let after = self.draw((1, 60), node.as_str(), now.micros());
            self.agenda.push(now.plus_millis(after), due);
        }
        let fact = |node| if paused { Fact::NodePaused { node } } else { Fact::NodeResumed { node } };
        self.truth.note(now, fact(node.clone()));
        for (member, life, write) in inbox {
            // Whoever sent it may hear of it still.
            self.client_write(now, node, &member, &life, write).ok();
        }
        if !paused {
            self.vote_again(now, node);
            self.settle_disk(now, node);
        }
    }

    /// An agent takes a node: the life of what runs there goes on; without anything a new one begins.
    pub fn hold_node(&mut self, now: Time, node: &NodeName, fresh: Incarnation) -> Incarnation {
        let Some(host) = self.hosts.get_mut(node) else { return fresh };
        // What an earlier agent was preparing is killed.
        let strays = std::mem::take(&mut host.preparing);
        let life = match &host.incarnation {
            Some(life) if !host.guards.is_empty() => life.clone(),
            Some(_) | None => fresh,
        };
        host.incarnation = Some(life.clone());
        host.agent = true;
        for stray in strays {
            self.unlock_all(now, node, &stray);
        }
        self.settle_disk(now, node);
        life
    }

    /// The members a guard was started for.
    pub fn guards(&self, node: &NodeName) -> Vec<(MemberName, ServiceName)> {
        let known = self.hosts.get(node).map(|host| host.known.iter());
        known.into_iter().flatten().map(|(member, service)| (member.clone(), service.clone())).collect()
    }

    /// What there is of a member.
    pub fn find_guard(&self, now: Time, node: &NodeName, member: &MemberName) -> GuardState {
        let Some(host) = self.hosts.get(node) else { return GuardState::Absent(None) };
        let Some(guard) = host.guards.get(member) else {
            return GuardState::Absent(host.exits.get(member).cloned());
        };
        let left = guard.lease_until.map(|until| until.since(host.clock.moment(now)).as_millis());
        GuardState::Alive(GuardStatus {
            epoch: guard.spec.epoch,
            generation: guard.spec.generation,
            incarnation: guard.spec.incarnation.clone(),
            stage: guard.stage,
            engine_pid: guard.engine.as_ref().map(|_| i32::try_from(guard.pid + 1).unwrap_or(i32::MAX)),
            lease_left_ms: left.map(|left| u64::try_from(left).unwrap_or(u64::MAX)),
            guard_pid: guard.pid,
        })
    }

    /// Starts a guard.
    ///
    /// # Errors
    /// `Busy` while there is one.
    pub fn start_guard(&mut self, now: Time, node: &NodeName, spec: &GuardSpec) -> Result<()> {
        let (member, life) = (spec.member.clone(), spec.incarnation.clone());
        let refuse = |kind, message| Error::new(kind, "guards", "start", &member, message).without_effect();
        let Some(host) = self.hosts.get_mut(node) else {
            return Err(refuse(ErrorKind::NotFound, "there is no such machine"));
        };
        if host.guards.contains_key(&member) {
            return Err(refuse(ErrorKind::Busy, "there is a guard already"));
        }
        host.pids += 2;
        let lease_until = spec.lease_until_ms.map(std::time::Duration::from_millis).map(Moment::from_zero);
        let guard = Guard {
            spec: spec.clone(),
            stage: GuardStage::Locking,
            requested: false,
            lease_until,
            pid: host.pids,
            engine: None,
        };
        host.known.insert(member.clone(), spec.service.clone());
        host.guards.insert(member.clone(), guard);
        if let Some(until) = lease_until {
            let at = host.clock.time_of(until);
            self.agenda.push(at, Due::LeaseEnd(node.clone(), member.clone(), life.clone()));
        }
        let patience = now.plus_millis(spec.lock_wait_ms);
        self.agenda.push(patience, Due::LockPatience(node.clone(), member.clone(), life));
        self.try_start(now, node, &member);
        Ok(())
    }

    /// Takes the locks and starts the engine, if it can.
    fn try_start(&mut self, now: Time, node: &NodeName, member: &MemberName) {
        let Some(guard) = self.hosts.get(node).and_then(|host| host.guards.get(member)) else { return };
        if guard.stage != GuardStage::Locking {
            return;
        }
        let (volumes, life, epoch) = (guard.volumes(), guard.life().clone(), guard.spec.epoch);
        let present = self.hosts.get(node).map(|host| host.clock.moment(now));
        if guard.lease_until.is_some_and(|until| Some(until) <= present) {
            self.end_guard(now, node, member, Some(Ending::SelfFenced), "its lease has ended");
            return;
        }
        let launch: Option<Launch> =
            guard.spec.command.argv.get(1).and_then(|text| serde_json::from_str(text).ok());
        let locker = Locker { node: node.clone(), member: member.clone(), life: life.clone() };
        for id in &volumes {
            if self.lock_volume(id, &locker).is_some() {
                return;
            }
        }
        let seen = volumes.iter().filter_map(|id| self.volumes.get(id)).map(|found| found.disk.epoch).max();
        if let Some(found) = seen.filter(|found| *found > epoch) {
            self.end_guard(now, node, member, Some(Ending::EpochStale { found }), "an older epoch");
            return;
        }
        let (Some(launch), Some(volume)) = (launch, volumes.first().cloned()) else {
            let message = "there is nothing to run, or no volume".to_owned();
            let ending = Ending::NotStarted { reason: Reason::ConfigInvalid, message };
            self.end_guard(now, node, member, Some(ending), "nothing to run");
            return;
        };
        for id in &volumes {
            if let Some(disk) = self.volumes.disk_mut(id) {
                disk.epoch = epoch;
            }
        }
        let takes = self.draw(self.profile.engines.start_ms, member.as_str(), now.micros());
        self.agenda.push(now.plus_millis(takes), Due::EngineUp(node.clone(), member.clone(), life.clone()));
        if let Some(guard) = self.hosts.get_mut(node).and_then(|host| host.guards.get_mut(member)) {
            guard.stage = GuardStage::Running;
            guard.engine = Some(Engine::new(launch, volume.clone()));
        }
        let (member, node) = (member.clone(), node.clone());
        self.truth.note(now, Fact::EngineStarted { member, node, life, epoch, volume });
    }

    pub(super) fn lock_freed(&mut self, now: Time, id: &VolumeId) {
        let waiting: Vec<(NodeName, MemberName)> = self
            .hosts
            .hosts
            .iter()
            .filter(|(_, host)| !host.paused)
            .flat_map(|(node, host)| host.guards.iter().map(move |(member, guard)| (node, member, guard)))
            .filter(|(_, _, guard)| guard.stage == GuardStage::Locking && guard.volumes().contains(id))
            .map(|(node, member, _)| (node.clone(), member.clone()))
            .collect();
        for (node, member) in waiting {
            self.try_start(now, &node, &member);
        }
    }

    pub(super) fn lock_patience(
        &mut self,
        now: Time,
        node: &NodeName,
        member: &MemberName,
        life: &Incarnation,
    ) {
        if self.hosts.guard(node, member, life).is_some_and(|guard| guard.stage == GuardStage::Locking) {
            let ending = Ending::VolumeBusy { lock: PathBuf::from("lock"), holders: Vec::new() };
            self.end_guard(now, node, member, Some(ending), "its volume is busy");
        }
    }

    /// Begins to stop an engine in order.
    pub fn stop_guard(&mut self, now: Time, node: &NodeName, member: &MemberName) {
        let Some(guard) = self.hosts.get_mut(node).and_then(|host| host.guards.get_mut(member)) else {
            return;
        };
        guard.requested = true;
        let life = guard.spec.incarnation.clone();
        match guard.stage {
            GuardStage::Locking => self.end_guard(now, node, member, Some(Ending::Exited(0)), "stopped"),
            GuardStage::Running => {
                guard.stage = GuardStage::Stopping;
                self.stop_leading(now, node, member);
                let takes = self.draw(self.profile.engines.stop_ms, member.as_str(), now.micros());
                let hung = self.troubles.until(Trouble::Hung, member, now).unwrap_or(now);
                let due = Due::EngineEnded(node.clone(), member.clone(), life);
                self.agenda.push(now.plus_millis(takes).max(hung), due);
            }
            GuardStage::Stopping | GuardStage::Killing => {}
        }
    }

    pub(super) fn engine_stopped(
        &mut self,
        now: Time,
        node: &NodeName,
        member: &MemberName,
        life: &Incarnation,
    ) {
        if self.hosts.guard(node, member, life).is_some() {
            self.end_guard(now, node, member, Some(Ending::Exited(0)), "stopped");
        }
    }

    /// Kills guard and engine at once; nobody writes down how they ended.
    pub fn kill_guard(&mut self, now: Time, node: &NodeName, member: &MemberName) {
        self.end_guard(now, node, member, None, "killed");
    }

    /// The engine ends by itself, as after a crash or a failure to write.
    pub fn crash_engine(&mut self, now: Time, node: &NodeName, member: &MemberName, why: &'static str) {
        self.end_guard(now, node, member, Some(Ending::Exited(1)), why);
    }

    /// Lets an engine run longer.
    pub fn extend_lease(&mut self, now: Time, node: &NodeName, member: &MemberName, until: Moment) {
        let Some(host) = self.hosts.get_mut(node) else { return };
        let present = host.clock.moment(now);
        if let Some(guard) = host.guards.get_mut(member)
            && let Some(before) = guard.lease_until
            && before > present
            && until > before
        {
            guard.lease_until = Some(until);
        }
    }

    pub(super) fn lease_end(&mut self, now: Time, node: &NodeName, member: &MemberName, life: &Incarnation) {
        let Some(until) = self.hosts.guard(node, member, life).and_then(|guard| guard.lease_until) else {
            return;
        };
        let Some(host) = self.hosts.get(node) else { return };
        if until > host.clock.moment(now) {
            let at = host.clock.time_of(until).max(now.plus_millis(1));
            self.agenda.push(at, Due::LeaseEnd(node.clone(), member.clone(), life.clone()));
        } else {
            self.end_guard(now, node, member, Some(Ending::SelfFenced), "its lease has ended");
        }
    }

    /// Forgets how the last guard of a member ended.
    pub fn forget_guard(&mut self, node: &NodeName, member: &MemberName) {
        if let Some(host) = self.hosts.get_mut(node)
            && !host.guards.contains_key(member)
        {
            host.known.remove(member);
            host.exits.remove(member);
        }
    }

    fn end_guard(
        &mut self,
        now: Time,
        node: &NodeName,
        member: &MemberName,
        ending: Option<Ending>,
        why: &'static str,
    ) {
        self.stop_leading(now, node, member);
        let Some(host) = self.hosts.get_mut(node) else { return };
        let Some(guard) = host.guards.remove(member) else { return };
        let life = guard.spec.incarnation.clone();
        if let Some(ending) = ending {
            let exit = GuardExit {
                epoch: guard.spec.epoch,
                generation: guard.spec.generation,
                incarnation: life.clone(),
                ending,
                requested: guard.requested,
                at: host.clock.wall(),
            };
            host.exits.insert(member.clone(), exit);
        }
        if guard.engine.is_some() {
            let (member, node) = (member.clone(), node.clone());
            self.truth.note(now, Fact::EngineDown { member, node, life: life.clone(), why });
        } else {
            self.truth.note(now, Fact::NotStarted { member: member.clone(), node: node.clone(), why });
        }
        self.unlock_all(now, node, &life);
        if let Some(engine) = &guard.engine {
            self.after_loss(now, &engine.launch);
        }
    }
}
