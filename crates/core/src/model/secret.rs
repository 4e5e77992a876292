//! Secrets at rest: sealed by a key provider, opened only for the node that holds the member.

use serde::{Deserialize, Serialize};

/// A sealed secret (`secrets/SERVICE/NAME`). What it is sealed with never lies in the store.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SealedSecret {
    /// Which key sealed it.
    pub key_id: String,
    /// Ciphertext and nonce, as the key provider wants them, in base64.
    pub sealed: String,
}

impl std::fmt::Debug for SealedSecret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SealedSecret").field("key_id", &self.key_id).finish_non_exhaustive()
    }
}
