//! Leadership goes on while something else takes long, or fails: it rests on records and names alone. An orchestrator that
//! does nothing keeps no member from being promoted, and neither does a volume that cannot be made.

use std::future::Future;
use std::time::Duration;

use super::shards::Permit;
use super::{Controller, Executor, Progress};
use crate::error::Result;
use crate::ids::ServiceName;
use crate::plan::{Action, plan};

/// How often leadership is looked at meanwhile.
const PACE: Duration = Duration::from_millis(500);

/// Whether an action is one that leadership needs. What it was decided on is expected by it, so it needs none of the
/// actions before it.
pub(super) fn needs(action: &Action) -> bool {
    matches!(action, Action::ChangeRole(_) | Action::SetName { .. } | Action::RemoveName { .. })
}

impl Controller {
    /// What an action gives; leadership goes on for as long as it takes, and once more if it has failed.
    pub(super) async fn beside(
        &self,
        permit: &Permit,
        service: &ServiceName,
        action: impl Future<Output = Result<Progress>>,
    ) -> Result<Progress> {
        tokio::pin!(action);
        let executed = loop {
            tokio::select! {
                biased;
                executed = &mut action => break executed,
                () = self.env.clock().sleep(PACE) => self.lead(permit, service).await,
            }
        };
        if executed.is_err() {
            self.lead(permit, service).await;
        }
        executed
    }

    /// A pass over who leads a service and what its names say. What fails is left to the pass that this one is beside.
    async fn lead(&self, permit: &Permit, service: &ServiceName) {
        if let Err(error) = Box::pin(self.try_to_lead(permit, service)).await {
            tracing::warn!(%service, error = %error.chain(), "leadership could not be looked after");
        }
    }

    async fn try_to_lead(&self, permit: &Permit, service: &ServiceName) -> Result<()> {
        let Some(mut snapshot) = self.observer.snapshot(service).await? else { return Ok(()) };
        let planned = plan(&snapshot.facts);
        let executor = Executor::new(&self.env, &self.store, &self.backends, self.shards.server());
        for action in planned.actions.iter().filter(|action| needs(action)) {
            if !permit.is_valid() || executor.execute(&mut snapshot, action).await? == Progress::Stale {
                break;
            }
        }
        Ok(())
    }
}
