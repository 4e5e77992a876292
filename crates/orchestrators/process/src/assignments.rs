//! The records that tell agents what to run.

use std::collections::BTreeMap;

use steadfast_core::error::{Error, ErrorKind, Result};
use steadfast_core::metadata::{Key, Versioned, WriteOutcome};
use steadfast_core::orchestrator::{Assignment, Workload};
use steadfast_core::store::Store;

/// How often a lost race is run again before the caller is asked to come back. Each loss means that another
/// server wrote the same service's assignments meanwhile.
const ATTEMPTS: u32 = 5;

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
