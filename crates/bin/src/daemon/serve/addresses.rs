//! What the death of others has left of addresses, put right by whoever owns the store.

use steadfast_backends::remote::SwitchDb;
use steadfast_core::Environment;

use super::OWNERSHIP_ROUND;
use crate::daemon::addresses::Addresses;

/// Gives back, once this server owns the store, the addresses that belong to nobody: requests that died half-way may
/// have died with the owner before.
pub(super) fn repair_as_owner(environment: &Environment, db: SwitchDb, addresses: Addresses) {
    let environment = environment.clone();
    let tasks = environment.tasks().clone();
    let until = tasks.shutdown();
    tasks.spawn("addresses", async move {
        let mut told = false;
        while !until.is_requested() {
            if db.is_owner() {
                match addresses.repair().await {
                    Ok(0) => return,
                    Ok(removed) => return tracing::info!(removed, "addresses of nobody are given back"),
                    Err(error) if !told => {
                        tracing::warn!(error = %error.chain(), "addresses cannot be looked through; it is tried again");
                        told = true;
                    }
                    Err(_) => {}
                }
            }
            tokio::select! {
                () = until.requested() => {}
                () = environment.clock().sleep(OWNERSHIP_ROUND) => {}
            }
        }
    });
}
