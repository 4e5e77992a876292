//! The records that tell agents what to run.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use steadfast_core::error::{Error, ErrorKind, Result};
use steadfast_core::ids::ServiceName;
use steadfast_core::metadata::{Key, Versioned, WriteOutcome};
use steadfast_core::orchestrator::{Assignment, Workload};
use steadfast_core::runtime::Moment;
use steadfast_core::store::Store;

/// How often a lost race is run again before the caller is asked to come back. Each loss means that another
/// server wrote the same service's assignments meanwhile.
const ATTEMPTS: u32 = 5;

/// How long a workload that was applied is taken for applied without looking. Only a server that has lost its share
/// of the work could have changed it meanwhile, and what it did is put right after this.
const TRUSTED: Duration = Duration::from_secs(20);

/// The workloads this process has applied of late: a pass over a service in which nothing has changed costs the
/// store nothing, however many services there are.
#[derive(Debug, Default)]
pub(crate) struct Applied(Mutex<BTreeMap<ServiceName, (Workload, Moment)>>);

impl Applied {
    /// Whether exactly this was applied a moment ago.
    pub(crate) fn holds(&self, workload: &Workload, now: Moment) -> bool {
        let applied = self.lock();
        applied.get(&workload.service).is_some_and(|(old, at)| old == workload && now.since(*at) < TRUSTED)
    }

    /// Notes that this has been applied.
    pub(crate) fn note(&self, workload: &Workload, now: Moment) {
        self.lock().insert(workload.service.clone(), (workload.clone(), now));
    }

    /// Notes that nothing is known of a service's assignments.
    pub(crate) fn forget(&self, service: &ServiceName) {
        self.lock().remove(service);
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<ServiceName, (Workload, Moment)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Every assignment of the cluster.
pub(crate) async fn all(store: &Store) -> Result<Vec<(Key, Versioned<Assignment>)>> {
    store.records().list(&store.records().key(["tasks"])?).await
}

/// Makes the assignments of a service those of `workload`. What is as it shall be is not written.
///
/// What shall no longer run is withdrawn first: a member that moves is never assigned twice for longer than the
/// store takes, and the claim keeps even that harmless.
pub(crate) async fn apply(store: &Store, workload: &Workload) -> Result<()> {
    let mut wanted: BTreeMap<Key, Assignment> = BTreeMap::new();
    for placement in &workload.placements {
        let assignment = Assignment { service: workload.service.clone(), placement: placement.clone() };
        wanted.insert(store.assignment_key(&placement.node, &placement.member)?, assignment);
    }
    for _ in 0..ATTEMPTS {
        if attempt(store, workload, &wanted).await? {
            return Ok(());
        }
    }
    Err(Error::new(
        ErrorKind::Busy,
        "process orchestrator",
        "apply",
        &workload.service,
        "its assignments keep being changed by somebody else",
    ))
}

/// One pass; `false`: somebody else wrote in between.
async fn attempt(store: &Store, workload: &Workload, wanted: &BTreeMap<Key, Assignment>) -> Result<bool> {
    let records = store.records();
    let found: BTreeMap<Key, Versioned<Assignment>> = all(store)
        .await?
        .into_iter()
        .filter(|(key, assignment)| assignment.body.service == workload.service || wanted.contains_key(key))
        .collect();
    let mut clean = true;
    for (key, assignment) in &found {
        if !wanted.contains_key(key) {
            clean &= records.delete(key, &assignment.version).await? != WriteOutcome::Conflict;
        }
    }
    for (key, assignment) in wanted {
        let written = match found.get(key) {
            Some(before) => store.write(key, before, assignment).await?,
            None => records.create(key, assignment).await?,
        };
        clean &= written != WriteOutcome::Conflict;
    }
    Ok(clean)
}
