//! Engines that elect their leader themselves.

use std::collections::BTreeSet;

use steadfast_core::engine::{EngineView, Voters};
use steadfast_core::error::{Error, ErrorKind, Result};
use steadfast_core::ids::{Incarnation, MemberName, NodeName, ServiceName};
use steadfast_core::model::Role;

use super::engine::{Doing, Engine, Launch};
use super::{Cloud, Due};
use crate::time::Time;

impl Cloud {
    /// The leader that the members of a quorum have elected.
    pub fn leader_of(&self, service: &ServiceName) -> Option<(NodeName, MemberName)> {
        let mut leaders = self
            .hosts
            .engines()
            .filter(|(.., engine)| &engine.launch.service == service && engine.doing == Doing::Leading);
        leaders.next().map(|(node, member, ..)| (node.clone(), member.clone()))
    }

    /// Members that elect their leader themselves begin to, if nobody leads and a majority is up.
    pub(super) fn hold_election(&mut self, now: Time, node: &NodeName, member: &MemberName) {
        let Some(engine) = self.hosts.engine(node, member) else { return };
        let launch = engine.launch.clone();
        if let Some(members) = launch.quorum.clone() {
            self.quorums.entry(launch.service.clone()).or_insert(Voters { version: 1, members });
        }
        self.after_loss(now, &launch);
        self.push_out_leader(now, &launch.service);
    }

    fn push_out_leader(&mut self, now: Time, service: &ServiceName) {
        if let Some((at, of)) = self.leader_of(service) {
            self.push_out(now, &at, &of);
        }
    }

    /// After the loss or the coming of a member of a quorum: a leader without majority steps down, and without a
    /// leader the one that is farthest takes over.
    pub(super) fn after_loss(&mut self, now: Time, launch: &Launch) {
        let Some(voters) = self.quorums.get(&launch.service).map(|voters| voters.members.clone()) else {
            return;
        };
        let members: Vec<(NodeName, MemberName, Incarnation, usize)> = self
            .hosts
            .engines()
            .filter(|(node, member, _, engine)| {
                voters.contains(*member)
                    && engine.up
                    && !engine.launch.learner
                    && engine.launch.service == launch.service
                    && !self.is_paused(node)
            })
            .map(|(node, member, guard, engine)| {
                let length = self.history(&engine.volume).map_or(0, |history| history.writes.len());
                (node.clone(), member.clone(), guard.life().clone(), length)
            })
            .collect();
        let majority = members.len() * 2 > voters.len();
        match self.leader_of(&launch.service) {
            Some((node, member)) if !majority => self.stop_leading(now, &node, &member),
            Some(_) => {}
            None if majority => {
                let farthest = members.into_iter().rev().max_by_key(|(.., length)| *length);
                if let Some((node, member, life, _)) = farthest {
                    let takes = self.draw(self.profile.engines.elect_ms, member.as_str(), now.micros());
                    self.agenda.push(now.plus_millis(takes), Due::Promoted(node, member, life));
                }
            }
            None => {}
        }
    }

    /// The members on a machine that stood still take part in elections again.
    pub(super) fn vote_again(&mut self, now: Time, node: &NodeName) {
        let there =
            self.hosts.engines().filter(|(at, _, _, engine)| *at == node && engine.launch.quorum.is_some());
        let launches: Vec<Launch> = there.map(|(.., engine)| engine.launch.clone()).collect();
        launches.iter().for_each(|launch| self.after_loss(now, launch));
    }

    pub(super) fn promoted(&mut self, now: Time, node: &NodeName, member: &MemberName, life: &Incarnation) {
        let same = self.is_life(node, member, life);
        let service = self.hosts.engine(node, member).map(|engine| engine.launch.service.clone());
        if same && service.is_some_and(|service| self.leader_of(&service).is_none()) {
            self.lead(now, node, member);
        }
    }

    /// What a member of a quorum says of itself.
    pub(super) fn observe_voter(&self, member: &MemberName, engine: &Engine, view: EngineView) -> EngineView {
        let Some(voters) = self.quorums.get(&engine.launch.service) else { return view };
        let votes = voters.members.contains(member) && !engine.launch.learner;
        let role = if votes { Role::Voter } else { Role::Learner };
        let Some((at, of)) = self.leader_of(&engine.launch.service) else {
            return EngineView { role, ..view };
        };
        if of == *member {
            return EngineView { role, ready: true, voters: Some(voters.clone()), ..view };
        }
        let length = |engine: &Engine| self.history(&engine.volume).map_or(0, |history| history.writes.len());
        let leader = self.hosts.engine(&at, &of);
        let lag = leader.map(|leader| length(leader).saturating_sub(length(engine)) as u64);
        // One without a vote serves once it has been given what its leader had when it came.
        let synced = !engine.launch.learner || engine.has_synced();
        let ready = votes || synced && lag.is_some_and(|lag| lag < 100);
        EngineView { role, ready, lag, follows: leader.and_then(|leader| leader.launch.address), ..view }
    }

    /// A leader waits for the word of a majority of those who vote, its own included.
    pub(super) fn wait_for_voters(&mut self, node: &NodeName, member: &MemberName) {
        let Some(service) = self.hosts.engine(node, member).map(|engine| engine.launch.service.clone())
        else {
            return;
        };
        let Some(voters) = self.quorums.get(&service) else { return };
        let mut others = voters.members.clone();
        others.remove(member);
        let confirming = (voters.members.len() / 2, Some(others));
        if let Some(engine) = self.hosts.engine_mut(node, member) {
            engine.confirming = confirming;
        }
    }

    /// Throws away what a member of a quorum has beyond what its leader has too, as all of them do by themselves: it was
    /// sent by an earlier leader, and a majority never had it. Whether it does.
    pub(super) fn cut_off(
        &mut self,
        now: Time,
        node: &NodeName,
        member: &MemberName,
        at: &NodeName,
        of: &MemberName,
    ) -> bool {
        let Some(engine) = self.hosts.engine(node, member).filter(|engine| engine.launch.quorum.is_some())
        else {
            return false;
        };
        let volume = engine.volume.clone();
        let leader = self.hosts.engine(at, of).and_then(|leader| self.history(&leader.volume));
        let (Some(own), Some(leader)) = (self.history(&volume), leader) else { return false };
        let common = own.writes.iter().zip(&leader.writes).take_while(|(own, its)| own == its).count();
        self.write_to(now, node, member, &volume, |history| history.writes.truncate(common))
    }

    /// Has the members of a quorum agree on who votes.
    ///
    /// # Errors
    /// `Stale` if this one does not lead, or the version is another one; `Unavailable` without a majority.
    pub fn admit(
        &mut self,
        node: &NodeName,
        member: &MemberName,
        wanted: BTreeSet<MemberName>,
        version: u64,
    ) -> Result<u64> {
        let failed = |kind, text: &str| Error::new(kind, "simulated engine", "admit", member, text);
        let service = match self.hosts.engine(node, member) {
            Some(engine) if engine.up && engine.doing == Doing::Leading => engine.launch.service.clone(),
            _ => return Err(failed(ErrorKind::Stale, "it does not lead")),
        };
        let heard: BTreeSet<MemberName> = self
            .hosts
            .engines()
            .filter(|(at, _, _, engine)| {
                engine.up
                    && !engine.launch.learner
                    && engine.launch.service == service
                    && self.can_talk(node, at)
                    && !self.is_paused(at)
            })
            .map(|(_, name, ..)| name.clone())
            .collect();
        let majority = |voters: &BTreeSet<MemberName>| voters.intersection(&heard).count() * 2 > voters.len();
        let Some(voters) = self.quorums.get_mut(&service) else {
            return Err(failed(ErrorKind::Stale, "nobody votes"));
        };
        if voters.version != version {
            return Err(failed(ErrorKind::Stale, "who votes has been changed meanwhile"));
        }
        if !majority(&voters.members) || !majority(&wanted) || !wanted.contains(member) {
            return Err(failed(ErrorKind::Unavailable, "no majority agrees"));
        }
        *voters = Voters { version: version + 1, members: wanted };
        let version = voters.version;
        self.wait_for_voters(node, member);
        self.confirm(node, member);
        Ok(version)
    }
}
