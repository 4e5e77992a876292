//! The end of a claim: a node gives back what it holds of a member of which nothing runs there any more.

use std::net::IpAddr;

use super::{ClaimProgress, Claimant, set_phase};
use crate::error::Result;
use crate::ids::{MemberName, ServiceName, VolumeId};
use crate::ip::AddressOutcome;
use crate::model::{Member, MemberPhase, Reason};
use crate::planted::{self, Planted};
use crate::volume::{self, Attachment};

impl Claimant {
    /// Gives back what this node holds of `member`. The caller has seen that the whole engine tree is gone from
    /// this node, which makes it evidence `Released`. What it does not hold by the records is given back if it is seen here, or if the node is
    /// `in_doubt`: this process has held the member and given nothing back since, so that something may be on its way
    /// here that nobody can see yet.
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
            let recorded = body.unreleased.iter().any(|holder| holder.node == self.node);
            let unseen = recorded || in_doubt;
            // Volumes and address first: once we are off the list, the next claimant does not ask us.
            for id in body.volumes.iter().filter_map(|binding| binding.id.as_ref()) {
                if !planted::is(Planted::ReleaseWithoutDetach) && !self.has_given_back(id, unseen).await? {
                    return Ok(ClaimProgress::Waiting(
                        Reason::VolumeDetaching,
                        format!("{id} is still in use on {}", self.node),
                    ));
                }
            }
            if let Some(binding) = &body.address {
                self.give_back_address(binding.address, unseen).await?;
            }
            if !recorded {
                // The records are of an older backup than this node's claim, or it stood still in the middle of one and
                // was proven dead. Nobody else can know that nothing of the member runs here any more.
                return Ok(ClaimProgress::Prepared(Box::new(found)));
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

    /// Gives a volume back, and says whether it is. What is on its way is waited for, and not asked for again. `unseen`:
    /// also one that is not seen to be here.
    async fn has_given_back(&self, id: &VolumeId, unseen: bool) -> Result<bool> {
        let attachment = async || -> Result<Option<Attachment>> {
            Ok(self.volumes.describe(id).await?.map(|status| status.attachment))
        };
        let is_here =
            |seen: &Option<Attachment>| seen.as_ref().and_then(Attachment::holder) == Some(&self.node);
        let before = attachment().await?;
        let leaves = matches!(&before, Some(Attachment::Detaching(from)) if *from == self.node);
        if leaves || !(unseen || is_here(&before)) {
            return Ok(!leaves);
        }
        volume::give_back(&*self.volumes, id, &self.node).await?;
        Ok(!is_here(&attachment().await?))
    }

    /// Takes the member's address off this node. `unseen`: also if it is not seen to be here.
    async fn give_back_address(&self, address: IpAddr, unseen: bool) -> Result<()> {
        let is_here = async || -> Result<bool> {
            Ok(self
                .ips
                .status(address)
                .await?
                .is_some_and(|status| status.holder.as_ref() == Some(&self.node)))
        };
        if unseen || is_here().await? {
            // Somebody else holding it already is as good as our having given it back.
            let _given_back: AddressOutcome = self.ips.unassign(address, &self.node).await?;
        }
        Ok(())
    }
}
