//! The servers' shares of the work: one lease per shard, with an epoch. It is renewed by its holder's presence.

use serde::{Deserialize, Serialize};

use crate::ids::{Epoch, ServerId};

/// Who works on a shard of the services (`leases/SHARD`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    /// The server; none while it is given up in order.
    pub holder: Option<ServerId>,
    /// Raised whenever the holder changes.
    pub epoch: Epoch,
    /// Raised with every change.
    pub beat: u64,
    /// How long the lease is, in milliseconds.
    pub ttl_ms: u64,
}
