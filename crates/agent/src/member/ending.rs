//! The end of a member's engine: by itself, by force, or because it is wanted elsewhere.

use std::sync::Arc;
use std::time::Duration;

use steadfast_core::ids::{Incarnation, RoleTerm};
use steadfast_core::model::{MemberPhase, MemberStatus, Reason, Role};
use steadfast_core::workflow::claim::ClaimProgress;

use super::{MemberTask, Records};
use crate::guard::{Ending, GuardExit};

impl MemberTask {
    /// Nothing runs.
    pub(super) fn gone(&mut self) {
        self.live = None;
        self.unhealthy = None;
        self.restarts.not_well();
        self.status = MemberStatus {
            incarnation: None,
            ready: false,
            role: Role::Unknown,
            role_term: RoleTerm::default(),
            follows: None,
            membership: None,
            lag: None,
            ..self.status.clone()
        };
    }

    pub(super) async fn note_exit(&mut self, exit: &GuardExit) {
        let now = self.now();
        let timers = self.parts().config.timers;
        let text = exit.ending.to_string();
        let event = match &exit.ending {
            _ if exit.requested => return,
            Ending::Exited(_) | Ending::Signalled(_) => Some(Reason::EngineExited),
            Ending::SelfFenced => Some(Reason::SelfFenced),
            // The guard has waited already.
            Ending::VolumeBusy { .. } => {
                self.status.blocked = Some((Reason::VolumeBusy, text));
                return;
            }
            Ending::EpochStale { .. } => {
                self.status.blocked = Some((Reason::EpochStale, text.clone()));
                self.stale = true;
                None
            }
            Ending::NotStarted { reason, .. } => {
                self.status.blocked = Some((reason.clone(), text.clone()));
                None
            }
        };
        self.restarts.ended(now, &timers);
        if let Some(reason) = event {
            self.record(MemberPhase::Starting, Some((reason, text))).await;
        }
    }

    /// A guard that lived has left no word of its end: it was killed, and its engine with it.
    pub(super) async fn note_untold_end(&mut self, lived: &Incarnation) {
        let now = self.now();
        let timers = self.parts().config.timers;
        self.restarts.ended(now, &timers);
        let text = format!("the guard of {lived} was killed, and its engine with it");
        self.record(MemberPhase::Starting, Some((Reason::EngineExited, text))).await;
    }

    /// Kills guard and engine; gives how long to wait before the next pass.
    pub(super) async fn kill(&mut self, why: String, engine_failed: bool) -> Duration {
        let now = self.now();
        let timers = self.parts().config.timers;
        tracing::warn!(member = %self.name, %why, "guard and engine are killed");
        match self.parts().guards.kill(&self.name).await {
            Ok(()) => {
                self.gone();
                if engine_failed {
                    self.restarts.ended(now, &timers);
                }
                self.record(MemberPhase::Starting, Some((Reason::EngineUnhealthy, why))).await;
                Duration::ZERO
            }
            Err(error) => {
                // A process in a system call that does not end, for example: whatever it is, it does not serve.
                self.status.ready = false;
                self.block_on(&error);
                timers.look
            }
        }
    }

    /// Forgets the member, which is no longer this node's business; gives when to try again, or `None` when it is done.
    pub(super) async fn forget(&mut self) -> Option<Duration> {
        let (guards, host) = (Arc::clone(&self.parts().guards), Arc::clone(&self.parts().host));
        if let Err(blocked) = host.unmount(&self.name).await {
            self.status.blocked = Some(blocked);
            return Some(self.parts().config.timers.look);
        }
        // By the records there is nothing to be given back. They may be older than its claim, or it was taken back by others
        // while this node stood still in the middle of it.
        match self.node.claimant.release(&self.inbox.service, &self.name, self.in_doubt).await {
            Ok(ClaimProgress::Prepared(_) | ClaimProgress::Lost(..)) => {}
            Ok(ClaimProgress::Waiting(reason, message)) => {
                self.status.blocked = Some((reason, message));
                return Some(self.growing_pause());
            }
            Err(error) => {
                self.block_on(&error);
                return Some(self.growing_pause());
            }
        }
        if let Err(error) = guards.forget(&self.name).await {
            self.block_on(&error);
        } else {
            return None;
        }
        Some(self.parts().config.timers.look)
    }

    pub(super) async fn release(&mut self) -> Duration {
        // What is given back is given back for good: a container that comes up late starts nothing.
        if let Err(error) = self.parts().guards.withdraw(&self.name).await {
            self.block_on(&error);
            return self.growing_pause();
        }
        // A volume that is mounted here is not given back yet.
        if let Err(blocked) = self.parts().host.unmount(&self.name).await {
            self.status.blocked = Some(blocked);
            return self.growing_pause();
        }
        match self.node.claimant.release(&self.inbox.service, &self.name, self.in_doubt).await {
            Ok(ClaimProgress::Prepared(member)) => {
                self.in_doubt = false;
                if let Records::Known(known) = &mut self.records {
                    Arc::make_mut(known).member = member.body;
                }
                self.status.phase = MemberPhase::Stopped;
                self.status.blocked = None;
                self.stale = true;
                Duration::ZERO
            }
            Ok(ClaimProgress::Waiting(reason, message)) => {
                self.status.blocked = Some((reason, message));
                self.growing_pause()
            }
            Ok(ClaimProgress::Lost(..)) => {
                self.records = Records::Gone;
                Duration::ZERO
            }
            Err(error) => {
                self.block_on(&error);
                self.growing_pause()
            }
        }
    }
}
