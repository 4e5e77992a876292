//! Who counts among engines that elect their leader themselves: the agent of the one that leads keeps it in line.

use std::sync::Arc;

use steadfast_core::engine::{EngineView, Peer};
use steadfast_core::model::{Membership, Reason};

use super::data::counting;
use super::observe::ROLE_PATIENCE;
use super::{Known, MemberTask};

impl MemberTask {
    /// Has those vote whom the records want to, and notes who does once the engines have agreed under their term.
    pub(super) async fn keep_voters(
        &mut self,
        known: &Known,
        view: &EngineView,
    ) -> Result<(), (Reason, String)> {
        self.status.membership = None;
        let (Some(voters), Some(group), Some(live)) = (&view.voters, known.group(), &self.live) else {
            return Ok(());
        };
        if live.admitted == Some((group.membership_term, voters.version)) {
            let voters = voters.members.clone();
            self.status.membership = Some(Membership { term: group.membership_term, voters });
            return Ok(());
        }
        let known = self.fresh(known).await?;
        self.meet(&known).await?;
        let (Some(group), Some(live)) = (known.group(), &self.live) else { return Ok(()) };
        let peers: Vec<Peer> = counting(&live.peers, Some(group)).cloned().collect();
        let engine = Arc::clone(&live.engine);
        let done = self.parts().env.timeout(ROLE_PATIENCE, engine.admit(&peers, voters.version)).await;
        let version = done
            .ok_or_else(|| (Reason::EngineUnhealthy, "a change of voters takes too long".to_owned()))?
            .map_err(|error| super::told_of(&error))?;
        if let Some(live) = &mut self.live {
            live.admitted = Some((group.membership_term, version));
        }
        Ok(())
    }
}
