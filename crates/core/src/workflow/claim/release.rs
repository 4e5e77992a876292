//! The end of a claim: a node gives back what it holds of a member of which nothing runs there any more.

use std::sync::Arc;

use super::{ClaimProgress, Claimant, set_phase};
use crate::error::Result;
use crate::ids::{MemberName, ServiceName, VolumeId};
use crate::ip::AddressOutcome;
use crate::metadata::Versioned;
use crate::model::{Holder, Member, MemberPhase, Reason};
use crate::planted::{self, Planted};
use crate::volume::{self, Attachment};

impl Claimant {
    /// Gives back what this node holds of `member`. The caller has seen that the whole engine tree is gone from
    /// this node, which makes it evidence `Released`. `in_doubt`: this process has held the member and given nothing
    /// back since, so that something may be on its way here that nobody can see yet.
    ///
    /// # Errors
    /// What a backend says. Calling again is always right.
    pub async fn release(
        &self,
        service: &ServiceName,
        member: &MemberName,
        in_doubt: bool,
    ) -> Result<ClaimProgress> {
        loop {
            let Some(found) = self.store.member(service, member).await? else {
                return Ok(ClaimProgress::Lost(
                    Reason::EpochStale,
                    format!("{member} does not exist any more"),
                ));
            };
            let body = &found.body;
            let ours = |holder: &Holder| holder.node == self.node;
            if !body.unreleased.iter().any(ours) {
                return self.give_back_unrecorded(found, in_doubt).await;
            }
            // Volumes and address first: once we are off the list, the next claimant does not ask us.
            for id in body.volumes.iter().filter_map(|binding| binding.id.as_ref()) {
                if !planted::is(Planted::ReleaseWithoutDetach) && !self.has_given_back(id).await? {
                    return Ok(ClaimProgress::Waiting(
                        Reason::VolumeDetaching,
                        format!("{id} is still in use on {}", self.node),
                    ));
                }
            }
            if let Some(binding) = &body.address {
                // Somebody else holding it already is as good as our having given it back.
                let _given_back: AddressOutcome = self.ips.unassign(binding.address, &self.node).await?;
            }
            let change = |body: &mut Member| {
                body.unreleased.retain(|holder| holder.node != self.node);
                let is_holder = body.holder.as_ref().is_some_and(|holder| holder.node == self.node);
                if is_holder && body.phase != MemberPhase::Removed {
                    set_phase(body, MemberPhase::Stopped, self.env.clock().wall());
                }
            };
            if let Some(after) = self.change(&found, change).await? {
                return Ok(ClaimProgress::Prepared(Box::new(after)));
            }
        }
    }

    /// Gives back what this node has of a member that, by its record, it does not hold: the records are of an older backup
    /// than its claim, or it stood still in the middle of one and was proven dead. Nobody else can know that nothing of
    /// the member runs here any more, or what this node asked for last.
    async fn give_back_unrecorded(
        &self,
        found: Versioned<Arc<Member>>,
        in_doubt: bool,
    ) -> Result<ClaimProgress> {
        let member = &found.body;
        for id in member.volumes.iter().filter_map(|binding| binding.id.as_ref()) {
            let status = self.volumes.describe(id).await?;
            let ours = status.is_some_and(|status| status.attachment.holder() == Some(&self.node));
            if (ours || in_doubt) && !self.has_given_back(id).await? {
                let message = format!("{id} is still in use on {}", self.node);
                return Ok(ClaimProgress::Waiting(Reason::VolumeDetaching, message));
            }
        }
        if let Some(binding) = &member.address {
            let status = self.ips.status(binding.address).await?;
            if in_doubt || status.is_some_and(|status| status.holder.as_ref() == Some(&self.node)) {
                let _given_back: AddressOutcome = self.ips.unassign(binding.address, &self.node).await?;
            }
        }
        Ok(ClaimProgress::Prepared(Box::new(found)))
    }

    /// Gives a volume back, and says whether it is. What is on its way is waited for, and not asked for again.
    async fn has_given_back(&self, id: &VolumeId) -> Result<bool> {
        let mut status = self.volumes.describe(id).await?;
        let leaves =
            |attachment: &Attachment| matches!(attachment, Attachment::Detaching(from) if *from == self.node);
        if !status.as_ref().is_some_and(|status| leaves(&status.attachment)) {
            volume::give_back(&*self.volumes, id, &self.node).await?;
            status = self.volumes.describe(id).await?;
        }
        Ok(status.is_none_or(|status| status.attachment.holder() != Some(&self.node)))
    }
}
