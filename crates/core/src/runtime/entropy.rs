//! Randomness from one seed: a keyed counter, so that a run can be repeated from its seed.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use sha2::{Digest, Sha256};

/// A source of randomness. Clones draw from the same stream; [`fork`](Entropy::fork) makes an independent one.
#[derive(Clone)]
pub struct Entropy {
    key: [u8; 32],
    drawn: Arc<AtomicU64>,
}

impl std::fmt::Debug for Entropy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The key is as secret as the secrets drawn from it.
        f.debug_struct("Entropy").finish_non_exhaustive()
    }
}

impl Entropy {
    /// The stream that belongs to `seed`.
    pub fn from_seed(seed: [u8; 32]) -> Self {
        Entropy { key: seed, drawn: Arc::new(AtomicU64::new(0)) }
    }

    /// An independent stream: the same seed and label give the same one, whatever else was drawn.
    #[must_use]
    pub fn fork(&self, label: &str) -> Self {
        let mut hash = Sha256::new();
        hash.update(self.key);
        hash.update(b"fork:");
        hash.update(label.as_bytes());
        Entropy::from_seed(hash.finalize().into())
    }

    /// 32 random bytes.
    pub fn bytes(&self) -> [u8; 32] {
        let count = self.drawn.fetch_add(1, Ordering::Relaxed);
        let mut hash = Sha256::new();
        hash.update(self.key);
        hash.update(count.to_be_bytes());
        hash.finalize().into()
    }

    /// A random number.
    pub fn u64(&self) -> u64 {
        let [a, b, c, d, e, f, g, h, ..] = self.bytes();
        u64::from_be_bytes([a, b, c, d, e, f, g, h])
    }

    /// A random identifier: 20 characters of a-z and 2-7 (100 bits).
    pub fn token(&self) -> String {
        const ALPHABET: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";
        self.bytes().iter().take(20).map(|byte| char::from(ALPHABET[usize::from(byte % 32)])).collect()
    }
}
