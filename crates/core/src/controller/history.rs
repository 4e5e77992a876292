//! Operations that have ended: of each service the newest are kept, so that looking through operations costs what the
//! services that there are cost, not what was ever asked for.

use std::collections::BTreeMap;

use super::shards::Shards;
use crate::error::Result;
use crate::ids::ServiceName;
use crate::metadata::{Versioned, WriteOutcome};
use crate::model::Operation;
use crate::store::Store;

/// How many ended operations of a service are kept at least, the newest; at most twice as many are. The one that made
/// the service is kept with it.
pub const KEPT: usize = 32;

/// Deletes the oldest of `operations` that have ended, of services in this process's share of the work.
///
/// # Errors
/// What the store says. What is gone is gone; the next look sees the rest.
pub(super) async fn forget(
    store: &Store,
    shards: &Shards,
    operations: &[Versioned<Operation>],
) -> Result<()> {
    let mut ended: BTreeMap<&ServiceName, Vec<&Versioned<Operation>>> = BTreeMap::new();
    for found in operations.iter().filter(|found| found.body.state.is_final()) {
        ended.entry(&found.body.service).or_default().push(found);
    }
    for (name, mut of_service) in ended {
        let Some(permit) = shards.permit(name).filter(|_| of_service.len() > 2 * KEPT) else { continue };
        // By the clocks of the servers that recorded them: good enough to say which of so many are old.
        of_service.sort_by(|a, b| (b.body.created_at, &b.body.id).cmp(&(a.body.created_at, &a.body.id)));
        let service = store.service(name).await?.map(|found| found.body);
        for old in of_service.into_iter().skip(KEPT) {
            let id = Some(&old.body.id);
            let needed = service
                .as_ref()
                .is_some_and(|service| service.created_by.as_ref() == id || service.operation.as_ref() == id);
            if needed {
                continue;
            }
            if !permit.is_valid() {
                break;
            }
            // One that was taken up again meanwhile stays.
            let _gone: WriteOutcome =
                store.records().delete(&store.operation_key(&old.body.id)?, &old.version).await?;
        }
    }
    Ok(())
}
