//! An operator's word that a disk is gone.

use super::change::no_service;
use super::{Control, ControlError, ControlResult, ServiceView};
use crate::ids::{MemberName, NodeName};
use crate::metadata::WriteOutcome;
use crate::model::{Leadership, Member, MemberPhase, Reason};
use crate::plan::{NoRebuild, Source, may_rebuild};
use crate::planted::{self, Planted};
use crate::workflow::claim::{push_event, set_phase};

impl Control {
    /// An operator's word that the disk of `node`, with the volumes of `name` on it, is gone for good: the member gets
    /// empty volumes on another node, and its data from its primary; a voter comes back as a learner, and votes again once
    /// it has caught up. Said twice is said once.
    ///
    /// # Errors
    /// `NotFound`; `Conflict` where its data is not known to be had from others, where its last holder is not proven dead,
    /// or where its volumes are not on that disk.
    pub async fn rebuild(&self, name: &MemberName, node: &NodeName) -> ControlResult<ServiceView> {
        loop {
            let service = self.find_member(name).await?.service.clone();
            let Some(snapshot) = self.controller.observer().glance(&service).await? else {
                return Err(no_service(&service));
            };
            let (Some(found), Some(version)) =
                (snapshot.facts.members.get(name), snapshot.member_versions.get(name))
            else {
                return Err(no_service(&service));
            };
            let given_up = found.record.recloning || found.record.volumes.iter().any(|binding| binding.lost);
            if given_up && found.record.disk() != Some(node) {
                return self.service(&service).await;
            }
            let source = may_rebuild(&snapshot.facts, name, found, node).map_err(refused)?;
            let text = match source {
                Source::Primary(leader) => format!("its data is copied anew from {leader}"),
                Source::Voters => "it learns from the others, and votes once it has caught up".to_owned(),
                Source::Nobody => "it never had any data".to_owned(),
            };
            let leadership = snapshot.facts.revision.blueprint.leadership;
            let mut record = Member::clone(&found.record);
            for binding in &mut record.volumes {
                binding.lost = true;
                binding.last_holder = None;
            }
            // Whoever held it is proven dead, and stays on the list: it may still have the member's address, which the next
            // claim takes from nobody else.
            if planted::is(Planted::RebuiltBeside) {
                record.unreleased.clear();
            }
            record.holder = None;
            record.placed_on = None;
            record.last_node = None;
            record.initialised = None;
            // A voter that never had any data has forgotten nothing.
            record.recloning = source != Source::Nobody || leadership == Leadership::Steadfast;
            let now = self.env.clock().wall();
            set_phase(&mut record, MemberPhase::Pending, now);
            let text = format!("by an operator's word the disk of {node} is gone: {text}");
            push_event(&mut record, now, Reason::OperatorOverride, text);
            let key = self.store.member_key(&service, name)?;
            let written = self.store.write_over(&key, version, &*found.record, &record).await?;
            if let WriteOutcome::Applied(_) = written {
                self.controller.wake(&service);
                return self.service(&service).await;
            }
        }
    }
}

fn refused(why: NoRebuild) -> ControlError {
    let NoRebuild { reason, message, remedy } = why;
    ControlError::Conflict { reason, message, remedy }
}
