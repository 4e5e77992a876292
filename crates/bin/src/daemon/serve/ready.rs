//! `/readyz`: whether this server can do its work, which needs the store and the cluster's zone.
//!
//! Making sure that the zone exists is one read of the store, wherever the store is, so doing that again and again
//! answers both questions.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use steadfast_backends::embedded::dns::StoreRegistry;
use steadfast_core::Environment;
use steadfast_core::registry::{DomainName, Registry as _};
use steadfast_core::runtime::Moment;

/// The pause between two looks: short until the first has succeeded, since others wait for that.
const ROUND: Duration = Duration::from_secs(1);
const EAGER_ROUND: Duration = Duration::from_millis(50);
/// How long one look may take.
const PATIENCE: Duration = Duration::from_secs(2);
/// What was found out longer ago than this says nothing about now.
const FRESH: Duration = Duration::from_secs(5);

/// What the last look has found.
#[derive(Debug, Clone)]
pub(super) struct Readiness {
    environment: Environment,
    last: Arc<Mutex<Option<Look>>>,
}

#[derive(Debug)]
struct Look {
    at: Moment,
    found: Result<(), String>,
}

impl Readiness {
    /// Begins to look, and makes the zone as soon as the store can be reached.
    pub(super) fn watch(environment: &Environment, registry: &StoreRegistry, zone: &DomainName) -> Self {
        let me = Readiness { environment: environment.clone(), last: Arc::default() };
        let tasks = environment.tasks();
        let (looking, registry, zone, until) = (me.clone(), registry.clone(), zone.clone(), tasks.shutdown());
        tasks.spawn("readiness", async move {
            while !until.is_requested() {
                let clock = looking.environment.clock();
                let found = match looking.environment.timeout(PATIENCE, registry.ensure_zone(&zone)).await {
                    Some(Ok(())) => Ok(()),
                    Some(Err(error)) => Err(format!("the store cannot be used: {}", error.chain())),
                    None => Err(format!("the store has not answered within {PATIENCE:?}")),
                };
                let pause = if found.is_ok() { ROUND } else { EAGER_ROUND };
                looking.note(clock.monotonic(), found, &zone);
                tokio::select! {
                    () = until.requested() => {}
                    () = clock.sleep(pause) => {}
                }
            }
        });
        me
    }

    /// Whether the server can do its work, or why not.
    pub(super) fn check(&self) -> Result<(), String> {
        match &*self.last.lock().unwrap_or_else(PoisonError::into_inner) {
            None => Err("the store has not been looked at yet".to_owned()),
            Some(look) if self.environment.clock().monotonic().since(look.at) > FRESH => {
                Err(format!("the store was looked at last more than {FRESH:?} ago"))
            }
            Some(look) => look.found.clone(),
        }
    }

    /// Told once whenever it changes: nobody wants twenty lines a second.
    fn note(&self, at: Moment, found: Result<(), String>, zone: &DomainName) {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let before = last.as_ref().map(|look| &look.found);
        match &found {
            Ok(()) if before != Some(&found) => tracing::info!(%zone, "ready"),
            Err(why) if before.is_none_or(Result::is_ok) => tracing::warn!(why, "not ready"),
            Ok(()) | Err(_) => {}
        }
        *last = Some(Look { at, found });
    }
}
