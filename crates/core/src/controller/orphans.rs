//! Operations that no service refers to: recorded by a server that died before it had the service, or overtaken by
//! another whose server died before it could say so. They end here, so that nobody waits for them for ever.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use super::shards::Shards;
use crate::error::Result;
use crate::ids::OperationId;
use crate::metadata::{Version, Versioned, WriteOutcome};
use crate::model::{Operation, OperationState, Reason, Service};
use crate::runtime::{Environment, Moment};
use crate::store::Store;

/// How long an operation may be without its service before it is ended. A server writes one right after the other;
/// what a slower one begins all the same is taken up again ([`Operation::is_unbegun`]).
pub const GRACE: Duration = Duration::from_secs(60);

/// The operations without a service, each as it was when this process first saw it so.
#[derive(Debug, Default)]
pub(super) struct Orphans(Mutex<BTreeMap<OperationId, (Version, Moment)>>);

impl Orphans {
    /// Looks at all `operations`; ends those that this process has seen without their service, and unchanged, for
    /// longer than the grace, if the service falls in its share of the work.
    ///
    /// # Errors
    /// What the store says. What is ended is ended; the next look sees the rest.
    pub(super) async fn look(
        &self,
        env: &Environment,
        store: &Store,
        shards: &Shards,
        operations: &[Versioned<Operation>],
    ) -> Result<()> {
        let mut still = BTreeMap::new();
        for found in operations {
            let operation = &found.body;
            if operation.state.is_final() {
                continue;
            }
            // Read after the operation: if it has been begun and has ended in between, its record has changed too.
            let service = store.service(&operation.service).await?;
            if service.as_ref().is_some_and(|service| service.body.operation.as_ref() == Some(&operation.id))
            {
                continue;
            }
            let now = env.clock().monotonic();
            let since = self.since(found, now);
            let due = now.since(since) >= GRACE;
            if due && let Some(permit) = shards.permit(&operation.service) {
                let ended = ended(operation, service.as_ref().map(|service| &*service.body), env);
                let key = store.operation_key(&operation.id)?;
                if permit.is_valid()
                    && let WriteOutcome::Applied(_) =
                        store.records().update(&key, &ended, &found.version).await?
                {
                    tracing::info!(operation = %ended.id, kind = %ended.kind, service = %ended.service,
                        state = %ended.state, "an operation without its service is ended");
                }
                continue;
            }
            still.insert(operation.id.clone(), (found.version.clone(), since));
        }
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = still;
        Ok(())
    }

    /// Since when this process has seen the operation as it is.
    fn since(&self, found: &Versioned<Operation>, now: Moment) -> Moment {
        let seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        seen.get(&found.body.id)
            .filter(|(version, _)| *version == found.version)
            .map_or(now, |(_, since)| *since)
    }
}

/// Whether the service had the operation once.
fn tells_of(service: &Service, operation: &Operation) -> bool {
    let begun = operation.begun_message();
    service.events.iter().any(|event| event.message == begun)
}

/// How an operation without its service ends.
fn ended(operation: &Operation, service: Option<&Service>, env: &Environment) -> Operation {
    let begun = operation.state != OperationState::Pending
        || service.is_some_and(|service| {
            service.created_by.as_ref() == Some(&operation.id) || tells_of(service, operation)
        });
    let (state, failure) = if begun {
        (OperationState::Superseded, None)
    } else {
        let text =
            "never begun: the server that recorded it came no further; nothing of it was done, ask again";
        (OperationState::Cancelled, Some((Reason::DriftRepaired, text.to_owned())))
    };
    Operation { state, failure, waiting: None, updated_at: env.clock().wall(), ..operation.clone() }
}
