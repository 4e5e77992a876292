//! Engines: a log of client writes with one primary that takes them and replicas that copy it, or a quorum.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use steadfast_core::engine::{EngineView, WantedRole};
use steadfast_core::error::{Error, ErrorKind, Result};
use steadfast_core::ids::{Incarnation, MemberName, NodeName, ServiceName, VolumeId};
use steadfast_core::model::{Position, Role};

use super::troubles::Trouble;
use super::volumes::History;
use super::{Cloud, Due, Fact};
use crate::time::Time;

/// What an engine is started with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Launch {
    /// The member.
    pub member: MemberName,
    /// Its service.
    pub service: ServiceName,
    /// Where it listens.
    pub address: Option<IpAddr>,
    /// How many others have to have a write before it is confirmed.
    pub confirming: usize,
    /// The group's members, if they elect their leader themselves: those who vote if none has before.
    pub quorum: Option<BTreeSet<MemberName>>,
    /// Whether it follows without a vote: it neither elects nor confirms, and the others count it as one that is away.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub learner: bool,
    /// The version of its program.
    #[serde(default)]
    pub version: String,
}

impl Launch {
    /// Whether it ends as soon as it is up: a version that does not work.
    pub fn is_broken(&self) -> bool {
        self.version.ends_with("broken")
    }
}

/// What an engine does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Doing {
    /// It takes no writes and follows nobody.
    Nothing,
    /// It takes writes.
    Leading,
    /// It copies from whoever is at this address.
    Following(IpAddr),
}

/// An engine that was started.
#[derive(Debug, Clone)]
pub struct Engine {
    /// What it was started with.
    pub launch: Launch,
    /// Its data.
    pub volume: VolumeId,
    /// Whether it answers.
    pub up: bool,
    /// What it does.
    pub doing: Doing,
    /// How much of its log each replica has confirmed.
    confirmed: BTreeMap<MemberName, usize>,
    /// How many have to confirm a write, and whose word counts; none: everybody's.
    pub(super) confirming: (usize, Option<BTreeSet<MemberName>>),
    /// Writes that are not confirmed yet, with the length of the log that has them.
    pending: Vec<(u64, usize)>,
    /// How long the log is that is on its way here.
    receiving: Option<usize>,
    /// Whether anything has arrived since it was started.
    filled: bool,
}

impl Engine {
    /// An engine that begins to start.
    pub fn new(launch: Launch, volume: VolumeId) -> Self {
        Engine {
            confirming: (launch.confirming, None),
            launch,
            volume,
            up: false,
            doing: Doing::Nothing,
            confirmed: BTreeMap::new(),
            pending: Vec::new(),
            receiving: None,
            filled: false,
        }
    }

    /// Whether it has been given, since it was started, what another one had by then.
    pub(super) fn has_synced(&self) -> bool {
        self.filled
    }

    /// Whether it waits for a member's word, among others', before it confirms a write.
    pub fn waits_for(&self, member: &MemberName) -> bool {
        self.confirming.1.as_ref().is_some_and(|counting| counting.contains(member))
    }
}

fn failed(kind: ErrorKind, operation: &'static str, member: &MemberName, message: &str) -> Error {
    Error::new(kind, "simulated engine", operation, member, message)
}

impl Cloud {
    pub(super) fn history(&self, volume: &VolumeId) -> Option<&History> {
        self.volumes.get(volume)?.disk.history.as_ref()
    }

    /// Whether a member's guard on a node is of this life.
    pub(super) fn is_life(&self, node: &NodeName, member: &MemberName, life: &Incarnation) -> bool {
        let guard = self.hosts.get(node).and_then(|host| host.guards.get(member));
        guard.is_some_and(|guard| guard.life() == life)
    }

    pub(super) fn is_paused(&self, node: &NodeName) -> bool {
        self.hosts.get(node).is_none_or(|host| host.paused || !host.running)
    }

    /// The engine that packets to an address reach.
    pub fn engine_at(&self, address: IpAddr) -> Option<(NodeName, MemberName)> {
        let node = self.ips.route(address)?;
        let host = self.hosts.get(node)?;
        let (member, _) = host.guards.iter().find(|(_, guard)| {
            guard.engine.as_ref().is_some_and(|engine| engine.up && engine.launch.address == Some(address))
        })?;
        Some((node.clone(), member.clone()))
    }

    pub(super) fn can_talk(&self, from: &NodeName, to: &NodeName) -> bool {
        let cut = |node| self.hosts.get(node).is_none_or(|host| host.cut.peers);
        from == to || (!cut(from) && !cut(to))
    }

    pub(super) fn engine_up(&mut self, now: Time, node: &NodeName, member: &MemberName, life: &Incarnation) {
        if !self.is_life(node, member, life) {
            return;
        }
        let Some(engine) = self.hosts.engine_mut(node, member) else { return };
        engine.up = true;
        let address = engine.launch.address;
        let (volume, quorum) = (engine.volume.clone(), engine.launch.quorum.is_some());
        if engine.launch.is_broken() {
            self.crash_engine(now, node, member, "this version does not work");
            return;
        }
        let fact = Fact::EngineUp { member: member.clone(), node: node.clone(), life: life.clone(), address };
        self.truth.note(now, fact);
        if self.history(&volume).is_none() {
            self.crash_engine(now, node, member, "there is no data");
            return;
        }
        if quorum {
            self.hold_election(now, node, member);
        }
    }

    /// What an engine says of itself.
    pub fn observe_engine(&self, node: &NodeName, member: &MemberName) -> EngineView {
        let Some(engine) = self.hosts.engine(node, member).filter(|engine| engine.up) else {
            return EngineView::default();
        };
        let history = self.history(&engine.volume);
        let position = history
            .map(|history| Position { timeline: history.timeline, offset: history.writes.len() as u64 });
        let mut view = EngineView { alive: true, position, ..EngineView::default() };
        if engine.launch.quorum.is_some() {
            return self.observe_voter(member, engine, view);
        }
        match engine.doing {
            Doing::Leading => {
                view.role = Role::Primary;
                view.ready = true;
            }
            Doing::Nothing => view.role = Role::Replica,
            Doing::Following(address) => {
                view.role = Role::Replica;
                view.follows = Some(address);
                let upstream = self.engine_at(address).and_then(|(at, of)| {
                    let upstream = self.hosts.engine(&at, &of)?;
                    (upstream.doing == Doing::Leading && self.can_talk(node, &at))
                        .then(|| self.history(&upstream.volume))?
                });
                let own = history.map_or(0, |history| history.writes.len());
                let behind = upstream.map(|upstream| upstream.writes.len().saturating_sub(own));
                view.lag = behind.map(|behind| behind as u64);
                // One that is given everything at once has nothing until it has all of that.
                let filled = own > 0 || engine.filled || !self.profile.engines.joins_empty;
                view.ready = filled && behind.is_some_and(|behind| behind < 100);
            }
        }
        view
    }

    /// Brings an engine into a role. A primary waits for so many confirmations of each write.
    ///
    /// # Errors
    /// `Unavailable` if it does not answer; `Stale`, `follow diverged`, if its history is another one.
    pub fn assume_role(
        &mut self,
        now: Time,
        node: &NodeName,
        member: &MemberName,
        wanted: &WantedRole,
        confirming: usize,
    ) -> Result<()> {
        let Some(engine) = self.hosts.engine(node, member).filter(|engine| engine.up) else {
            return Err(failed(ErrorKind::Unavailable, "assume", member, "it does not answer"));
        };
        match wanted {
            WantedRole::Primary { replicas } => {
                if engine.doing != Doing::Leading {
                    self.lead(now, node, member);
                }
                let counting = replicas.iter().map(|peer| peer.name.clone()).collect();
                if let Some(engine) = self.hosts.engine_mut(node, member) {
                    engine.confirming = (confirming, Some(counting));
                }
                self.confirm(node, member);
            }
            WantedRole::Fenced => {
                self.stop_leading(now, node, member);
                self.set_doing(node, member, Doing::Nothing);
            }
            WantedRole::Follow(peer) => {
                let Some(address) = peer.address else {
                    return Err(failed(ErrorKind::Invalid, "assume", member, "its primary has no address"));
                };
                // One that follows already may have begun to while nobody could tell it what it is to follow.
                let follows = engine.doing == Doing::Following(address);
                let to_follow = if follows { self.upstream(node, member) } else { self.engine_at(address) };
                if let Some((at, of)) = to_follow
                    && !self.is_behind(node, member, &at, &of)
                {
                    self.stop_leading(now, node, member);
                    self.set_doing(node, member, Doing::Nothing);
                    return Err(failed(
                        ErrorKind::Stale,
                        "follow diverged",
                        member,
                        "its history is another one",
                    ));
                }
                self.stop_leading(now, node, member);
                self.set_doing(node, member, Doing::Following(address));
                self.pull(now, node, member);
            }
        }
        Ok(())
    }

    fn set_doing(&mut self, node: &NodeName, member: &MemberName, doing: Doing) {
        if let Some(engine) = self.hosts.engine_mut(node, member) {
            engine.doing = doing;
        }
    }

    /// Whether one engine's log is a beginning of the other's.
    fn is_behind(&self, node: &NodeName, member: &MemberName, at: &NodeName, of: &MemberName) -> bool {
        let log = |node, member| {
            let engine = self.hosts.engine(node, member)?;
            self.history(&engine.volume).map(|history| history.writes.as_slice())
        };
        matches!((log(node, member), log(at, of)), (Some(own), Some(theirs)) if theirs.starts_with(own))
    }

    pub(super) fn lead(&mut self, now: Time, node: &NodeName, member: &MemberName) {
        let Some(engine) = self.hosts.engine_mut(node, member) else { return };
        engine.doing = Doing::Leading;
        engine.confirmed.clear();
        engine.pending.clear();
        let volume = engine.volume.clone();
        if !self.write_to(now, node, member, &volume, |history| history.timeline += 1) {
            self.set_doing(node, member, Doing::Nothing);
            return;
        }
        self.wait_for_voters(node, member);
        self.note_leads(now, node, member, true);
        self.push_out(now, node, member);
    }

    fn note_leads(&mut self, now: Time, node: &NodeName, member: &MemberName, leads: bool) {
        let life = self.hosts.get(node).and_then(|host| host.guards.get(member)).map(|g| g.life().clone());
        if let Some(life) = life {
            self.truth.note(now, Fact::Leads { member: member.clone(), node: node.clone(), life, leads });
        }
    }

    pub(super) fn stop_leading(&mut self, now: Time, node: &NodeName, member: &MemberName) {
        if let Some(engine) = self.hosts.engine_mut(node, member)
            && engine.doing == Doing::Leading
        {
            engine.doing = Doing::Nothing;
            engine.pending.clear();
            self.note_leads(now, node, member, false);
        }
    }

    /// Changes what lies on a volume, if the storage lets it. What cannot write ends.
    pub(super) fn write_to(
        &mut self,
        now: Time,
        node: &NodeName,
        member: &MemberName,
        volume: &VolumeId,
        change: impl FnOnce(&mut History),
    ) -> bool {
        let fact = |member: &MemberName, node: &NodeName| (member.clone(), node.clone(), volume.clone());
        if !self.storage_accepts(volume, node) {
            let (member_, node_, volume) = fact(member, node);
            self.truth.note(now, Fact::WriteRefused { member: member_, node: node_, volume });
            self.crash_engine(now, node, member, "its storage refuses what it writes");
            return false;
        }
        if self.trouble_of(Trouble::Full, volume, now).is_some() {
            return false;
        }
        let epoch = self.hosts.get(node).and_then(|host| host.guards.get(member)).map(|guard| guard.epoch());
        if let Some(history) = self.volumes.disk_mut(volume).and_then(|disk| disk.history.as_mut()) {
            change(history);
            let (member, node, volume) = fact(member, node);
            self.truth.note(now, Fact::Wrote { member, node, epoch: epoch.unwrap_or_default(), volume });
        }
        true
    }

    /// A client's write arrives at an engine.
    ///
    /// # Errors
    /// Why it is not taken.
    pub fn client_write(
        &mut self,
        now: Time,
        node: &NodeName,
        member: &MemberName,
        life: &Incarnation,
        write: u64,
    ) -> Result<(), &'static str> {
        if let Some(host) = self.hosts.get_mut(node)
            && host.paused
        {
            host.inbox.push((member.clone(), life.clone(), write));
            return Ok(());
        }
        let same = self.is_life(node, member, life);
        let engine = self.hosts.engine(node, member).filter(|engine| same && engine.up);
        let engine = engine.ok_or("connection refused")?;
        if engine.doing != Doing::Leading {
            return Err("read only");
        }
        let volume = engine.volume.clone();
        if self.trouble_of(Trouble::Hung, &volume, now).is_some() {
            // Taken, and never written.
            return Ok(());
        }
        if !self.write_to(now, node, member, &volume, |history| history.writes.push(write)) {
            return Err("connection reset");
        }
        let length = self.history(&volume).map_or(0, |history| history.writes.len());
        if let Some(engine) = self.hosts.engine_mut(node, member) {
            engine.pending.push((write, length));
        }
        self.confirm(node, member);
        self.push_out(now, node, member);
        Ok(())
    }

    /// Confirms what enough replicas have.
    pub(super) fn confirm(&mut self, node: &NodeName, member: &MemberName) {
        let Some(engine) = self.hosts.engine_mut(node, member) else { return };
        if engine.doing != Doing::Leading {
            return;
        }
        let ((confirming, counting), confirmed) = (&engine.confirming, &engine.confirmed);
        let counts = |name: &MemberName| counting.as_ref().is_none_or(|counting| counting.contains(name));
        let is_safe = |length: usize| {
            confirmed.iter().filter(|(name, has)| counts(name) && **has >= length).count() >= *confirming
        };
        let (safe, pending): (Vec<_>, Vec<_>) =
            engine.pending.iter().copied().partition(|(_, length)| is_safe(*length));
        engine.pending = pending;
        self.confirmed.extend(safe.into_iter().map(|(write, _)| (write, node.clone())));
    }

    /// Sends what an engine has to everybody who follows it.
    pub(super) fn push_out(&mut self, now: Time, node: &NodeName, member: &MemberName) {
        let Some(engine) = self.hosts.engine(node, member) else { return };
        let (address, service) = (engine.launch.address, engine.launch.service.clone());
        let quorum = engine.launch.quorum.is_some();
        let followers: Vec<(NodeName, MemberName)> = self
            .hosts
            .engines()
            .filter(|(_, name, _, other)| {
                let follows = match other.doing {
                    Doing::Following(from) => Some(from) == address,
                    Doing::Nothing => quorum && *name != member,
                    Doing::Leading => false,
                };
                other.up && follows && other.launch.service == service
            })
            .map(|(at, name, ..)| (at.clone(), name.clone()))
            .collect();
        for (at, name) in followers {
            self.pull(now, &at, &name);
        }
    }

    fn upstream(&self, node: &NodeName, member: &MemberName) -> Option<(NodeName, MemberName)> {
        let engine = self.hosts.engine(node, member)?;
        let (at, of) = match engine.doing {
            Doing::Following(address) => self.engine_at(address)?,
            Doing::Nothing if engine.launch.quorum.is_some() => self.leader_of(&engine.launch.service)?,
            Doing::Nothing | Doing::Leading => return None,
        };
        // One that has stopped taking writes still gives what it has, which is what a handover waits for.
        let gives = |upstream: &Engine| match upstream.doing {
            Doing::Leading => true,
            Doing::Nothing => upstream.up && upstream.launch.quorum.is_none(),
            Doing::Following(_) => false,
        };
        let gives = self.hosts.engine(&at, &of).is_some_and(gives);
        (gives && self.can_talk(node, &at) && !self.is_paused(&at)).then_some((at, of))
    }

    /// Begins to copy what the engine that is followed has now.
    fn pull(&mut self, now: Time, node: &NodeName, member: &MemberName) {
        let Some((at, of)) = self.upstream(node, member) else { return };
        let Some(length) = self
            .hosts
            .engine(&at, &of)
            .and_then(|upstream| self.history(&upstream.volume))
            .map(|history| history.writes.len())
        else {
            return;
        };
        let life = self.hosts.get(node).and_then(|host| host.guards.get(member)).map(|g| g.life().clone());
        let Some(engine) = self.hosts.engine_mut(node, member) else { return };
        if engine.receiving.is_some() {
            return;
        }
        engine.receiving = Some(length);
        let (volume, filled) = (engine.volume.clone(), engine.filled);
        let is_first = !filled && self.history(&volume).is_some_and(|history| history.writes.is_empty());
        let engines = &self.profile.engines;
        let span = if engines.joins_empty && is_first { engines.copy_ms } else { engines.replicate_ms };
        let takes = self.draw(span, member.as_str(), length as u64);
        if let Some(life) = life {
            self.agenda.push(now.plus_millis(takes), Due::Replicated(node.clone(), member.clone(), life));
        }
    }

    pub(super) fn replicated(&mut self, now: Time, node: &NodeName, member: &MemberName, life: &Incarnation) {
        if !self.is_life(node, member, life) {
            return;
        }
        let Some(engine) = self.hosts.engine_mut(node, member) else { return };
        let Some(length) = engine.receiving.take() else { return };
        let volume = engine.volume.clone();
        if self.trouble_of(Trouble::Hung, &volume, now).is_some() {
            return;
        }
        let Some((at, of)) = self.upstream(node, member) else { return };
        if !self.is_behind(node, member, &at, &of) && !self.cut_off(now, node, member, &at, &of) {
            return;
        }
        let upstream = self.hosts.engine(&at, &of).and_then(|upstream| self.history(&upstream.volume));
        let Some(upstream) = upstream else { return };
        let own = self.history(&volume).map_or(0, |history| history.writes.len());
        let timeline = upstream.timeline;
        let new: Vec<u64> = upstream.writes.get(own..length).unwrap_or_default().to_vec();
        let more = upstream.writes.len() > length;
        let differs = self.history(&volume).is_some_and(|history| history.timeline != timeline);
        let wrote = (new.is_empty() && !differs)
            || self.write_to(now, node, member, &volume, |history| {
                history.timeline = timeline;
                history.writes.extend(new);
            });
        if !wrote {
            return;
        }
        let Some(engine) = self.hosts.engine_mut(node, member) else { return };
        engine.filled = true;
        let confirms = !engine.launch.learner;
        if let Some(upstream) = self.hosts.engine_mut(&at, &of).filter(|_| confirms) {
            let has = upstream.confirmed.entry(member.clone()).or_default();
            *has = (*has).max(length);
        }
        self.confirm(&at, &of);
        if more {
            self.pull(now, node, member);
        }
    }
}
