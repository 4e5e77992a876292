//! What happened, compact: formatted only when somebody wants to read it.

use crate::fault::Telling;
use crate::hash::Hasher;
use crate::key::Key;
use crate::key::Site;
use crate::time::Time;

/// How far a call had come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// It was made.
    Asked,
    /// It took effect, or was refused; the digest is that of the answer.
    Effect,
    /// Its caller heard the answer.
    Heard,
}

/// One thing that happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    /// When.
    pub at: Time,
    /// Which call site; [`FACT`] for a fact.
    pub site: u32,
    /// Which of its calls; the index of the fact for a fact.
    pub nth: u32,
    /// How far it was.
    pub stage: Stage,
    /// The digest of the answer, or of the fact.
    pub digest: u64,
    /// Which faults would have made another answer of it. Not in the hash: it is no part of what happened.
    pub telling: Telling,
}

impl Entry {
    /// A call that was made, or a fact.
    pub fn new(at: Time, site: u32, nth: u32, stage: Stage, digest: u64) -> Self {
        Entry { at, site, nth, stage, digest, telling: Telling::default() }
    }
}

/// Marks an entry that is about a fact, not a call.
pub const FACT: u32 = u32::MAX;

/// The trace of a run.
#[derive(Debug, Default)]
pub struct Trace {
    entries: Vec<Entry>,
    hash: Hasher,
    checkpoints: Vec<u64>,
}

impl Trace {
    /// So many entries lie between two checkpoints.
    pub const CHECKPOINT: usize = 1000;

    /// Adds an entry. `label` stands for the site in the hash: indices depend on the order of first calls.
    pub fn push(&mut self, entry: Entry, label: u64) {
        self.hash.word(entry.at.micros());
        self.hash.word(label);
        self.hash.word(u64::from(entry.nth) << 2 | entry.stage as u64);
        self.hash.word(entry.digest);
        self.entries.push(entry);
        if self.entries.len().is_multiple_of(Trace::CHECKPOINT) {
            self.checkpoints.push(self.hash.finish());
        }
    }

    /// The hash of everything so far.
    pub fn hash(&self) -> u64 {
        self.hash.finish()
    }

    /// The hashes after each thousand entries: two runs are the same up to the last one that is equal.
    pub fn checkpoints(&self) -> &[u64] {
        &self.checkpoints
    }

    /// The hash, the checkpoints and the entries, for who keeps them.
    pub fn take(&mut self) -> (u64, Vec<u64>, Vec<Entry>) {
        let hash = self.hash.finish();
        (hash, std::mem::take(&mut self.checkpoints), std::mem::take(&mut self.entries))
    }

    /// The entries, in order.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// An entry that is about a call, for people.
    pub fn describe(entry: &Entry, sites: &[Site]) -> String {
        match sites.get(entry.site as usize) {
            Some(site) => {
                let key: Key = site.key(entry.nth);
                format!("{} {:?} {key} = {:016x}", entry.at, entry.stage, entry.digest)
            }
            None => format!("{} fact {}", entry.at, entry.nth),
        }
    }
}
