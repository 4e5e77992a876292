//! Hashes that are the same on every machine and in every process: for randomness by meaning, and for traces.

use std::fmt;

/// A rolling 64-bit hash (FNV-1a over words and bytes, finished by a mixer). Not cryptographic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hasher(u64);

impl Default for Hasher {
    fn default() -> Self {
        Hasher(0xcbf2_9ce4_8422_2325)
    }
}

impl Hasher {
    /// Takes in bytes.
    pub fn bytes(&mut self, bytes: &[u8]) {
        let mut chunks = bytes.chunks_exact(8);
        for chunk in &mut chunks {
            if let Ok(word) = chunk.try_into() {
                self.word(u64::from_le_bytes(word));
            }
        }
        for byte in chunks.remainder() {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
        self.word(bytes.len() as u64);
    }

    /// Takes in a number.
    pub fn word(&mut self, word: u64) {
        self.0 = mix(self.0 ^ word).wrapping_mul(0x0100_0000_01b3);
    }

    /// The hash of what was taken in.
    pub fn finish(self) -> u64 {
        mix(self.0)
    }
}

/// Whatever can be printed can be hashed, without a copy.
impl fmt::Write for Hasher {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.bytes(text.as_bytes());
        Ok(())
    }
}

/// The hash of a text.
pub fn of_text(text: &str) -> u64 {
    let mut hasher = Hasher::default();
    hasher.bytes(text.as_bytes());
    hasher.finish()
}

/// The hash of how something prints for debugging.
pub fn of_debug(value: &impl fmt::Debug) -> u64 {
    let mut hasher = Hasher::default();
    // A hasher takes everything.
    if fmt::Write::write_fmt(&mut hasher, format_args!("{value:?}")).is_err() {
        return 0;
    }
    hasher.finish()
}

/// Random by meaning: the same seed, label and number give the same, whatever else was drawn before.
pub fn draw(seed: u64, label: u64, nth: u64) -> u64 {
    mix(mix(seed ^ 0x9e37_79b9_7f4a_7c15).wrapping_add(label) ^ nth.wrapping_mul(0xd6e8_feb8_6659_fd93))
}

/// A number of `range` (both ends included), random by meaning.
pub fn draw_in(range: (u64, u64), seed: u64, label: u64, nth: u64) -> u64 {
    let (low, high) = range;
    let span = high.saturating_sub(low).saturating_add(1);
    low + draw(seed, label, nth) % span.max(1)
}

/// The finaliser of SplitMix64.
fn mix(mut word: u64) -> u64 {
    word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ (word >> 31)
}
