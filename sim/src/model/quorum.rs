//! Engines that elect their leader themselves.

use steadfast_core::ids::{Incarnation, MemberName, NodeName, ServiceName};

use super::engine::{Doing, Launch};
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
        let Some(size) = launch.quorum else { return };
        let members: Vec<(NodeName, MemberName, Incarnation, usize)> = self
            .hosts
            .engines()
            .filter(|(node, _, _, engine)| {
                engine.up && engine.launch.service == launch.service && !self.is_paused(node)
            })
            .map(|(node, member, guard, engine)| {
                let length = self.history(&engine.volume).map_or(0, |history| history.writes.len());
                (node.clone(), member.clone(), guard.life().clone(), length)
            })
            .collect();
        let majority = members.len() * 2 > size;
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

    pub(super) fn promoted(&mut self, now: Time, node: &NodeName, member: &MemberName, life: &Incarnation) {
        let same = self.is_life(node, member, life);
        let service = self.hosts.engine(node, member).map(|engine| engine.launch.service.clone());
        if same && service.is_some_and(|service| self.leader_of(&service).is_none()) {
            self.lead(now, node, member);
        }
    }
}
