//! The memory backend: the reference, and the state of the simulator.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Bound;

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt as _;
use futures::stream::{self, BoxStream};
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;

use super::{CasOutcome, Hint, Key, MetadataCapabilities, MetadataDb, Page, Precondition, Record, Version};
use crate::error::{Error, ErrorKind, Result};
use crate::memory::Shared;

/// A store in memory. Clones are handles on the same store, which is gone with the last of them.
///
/// Versions are the numbers of a counter that only grows, so none is ever reused.
#[derive(Debug, Clone)]
pub struct MemoryDb {
    store: Shared<Store>,
    max_value_bytes: usize,
}

#[derive(Debug)]
struct Store {
    records: BTreeMap<Key, Record>,
    writes: u64,
    changes: broadcast::Sender<Key>,
}

impl MemoryDb {
    /// The longest value it takes unless told otherwise.
    pub const MAX_VALUE_BYTES: usize = 1 << 20;
    /// How many hints a watcher may be behind before it is told to read everything again.
    pub const WATCH_BUFFER: usize = 1024;

    /// An empty store.
    pub fn new() -> Self {
        Self::with_limits(Self::MAX_VALUE_BYTES, Self::WATCH_BUFFER)
    }

    /// An empty store with limits of its own: the longest value in bytes, and the hints a watcher may be
    /// behind (at least 1).
    pub fn with_limits(max_value_bytes: usize, watch_buffer: usize) -> Self {
        let (changes, _) = broadcast::channel(watch_buffer.max(1));
        let store = Store { records: BTreeMap::new(), writes: 0, changes };
        MemoryDb { store: Shared::new(store), max_value_bytes }
    }

    /// How many writes and deletes it has applied: two equal numbers say that nothing changed in between.
    pub fn writes(&self) -> u64 {
        self.store.with(|store| store.writes)
    }
}

impl Default for MemoryDb {
    fn default() -> Self {
        MemoryDb::new()
    }
}

impl fmt::Display for MemoryDb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("memory store")
    }
}

impl Store {
    fn holds(&self, key: &Key, precondition: &Precondition) -> bool {
        match (self.records.get(key), precondition) {
            (None, Precondition::Absent) => true,
            (Some(record), Precondition::Version(version)) => &record.version == version,
            (None, Precondition::Version(_)) | (Some(_), Precondition::Absent) => false,
        }
    }

    /// Counts a change and hints at it, under the same lock as the change itself: no watcher that was there
    /// before the acknowledgement can miss it.
    fn changed(&mut self, key: &Key) {
        self.writes += 1;
        if self.changes.receiver_count() > 0 {
            // It fails only if the last watcher left in between.
            self.changes.send(key.clone()).ok();
        }
    }
}

#[async_trait]
impl MetadataDb for MemoryDb {
    fn capabilities(&self) -> MetadataCapabilities {
        MetadataCapabilities { max_value_bytes: self.max_value_bytes, watch: true, durable: false }
    }

    async fn get(&self, key: &Key) -> Result<Option<Record>> {
        Ok(self.store.with(|store| store.records.get(key).cloned()))
    }

    async fn put(&self, key: &Key, value: Bytes, precondition: Precondition) -> Result<CasOutcome> {
        if value.len() > self.max_value_bytes {
            let message =
                format!("the value has {} bytes, and the most is {}", value.len(), self.max_value_bytes);
            return Err(Error::new(ErrorKind::Invalid, self, "put", key, message).without_effect());
        }
        Ok(self.store.with(|store| {
            if !store.holds(key, &precondition) {
                return CasOutcome::Conflict;
            }
            store.changed(key);
            let version = Version::new(store.writes.to_string());
            store.records.insert(key.clone(), Record { version: version.clone(), value });
            CasOutcome::Applied(version)
        }))
    }

    async fn delete(&self, key: &Key, version: &Version) -> Result<CasOutcome> {
        Ok(self.store.with(|store| {
            if !store.records.get(key).is_some_and(|record| &record.version == version) {
                return CasOutcome::Conflict;
            }
            store.records.remove(key);
            store.changed(key);
            CasOutcome::Applied(version.clone())
        }))
    }

    async fn scan(&self, prefix: &Key, after: Option<&Key>, limit: usize) -> Result<Page> {
        // Keys under a prefix are one run of the order: those that begin with it and a slash.
        let first = format!("{prefix}/");
        let begin = match after {
            Some(after) if after.as_str() >= first.as_str() => Bound::Excluded(after.as_str()),
            _ => Bound::Included(first.as_str()),
        };
        Ok(self.store.with(|store| {
            let mut under = store
                .records
                .range::<str, _>((begin, Bound::Unbounded))
                .take_while(|(key, _)| key.is_under(prefix));
            let items =
                under.by_ref().take(limit).map(|(key, record)| (key.clone(), record.clone())).collect();
            Page { items, more: under.next().is_some() }
        }))
    }

    async fn watch(&self, prefix: &Key) -> Result<BoxStream<'static, Hint>> {
        let receiver = self.store.with(|store| store.changes.subscribe());
        let hints = stream::unfold((receiver, prefix.clone()), |(mut receiver, prefix)| async move {
            loop {
                let hint = match receiver.recv().await {
                    Ok(key) if key.is_under(&prefix) => Hint::Changed(key),
                    Ok(_) => continue,
                    Err(RecvError::Lagged(_)) => Hint::Reset,
                    Err(RecvError::Closed) => return None,
                };
                return Some((hint, (receiver, prefix)));
            }
        });
        Ok(hints.boxed())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conformance::Harness;

    struct Memory;

    impl Harness for Memory {
        type Backend = MemoryDb;
        type Guard = MemoryDb;

        async fn open(&self) -> (MemoryDb, MemoryDb) {
            // A short buffer, so that the suite gets to see a watcher that is left behind.
            let db = MemoryDb::with_limits(64 << 10, 16);
            (db.clone(), db)
        }

        async fn reopen(&self, guard: &MemoryDb) -> MemoryDb {
            guard.clone()
        }
    }

    crate::metadata_conformance!(Memory);

    #[test]
    fn it_watches_and_is_not_durable() {
        let declared = MetadataCapabilities { max_value_bytes: 1 << 20, watch: true, durable: false };
        assert_eq!(MemoryDb::new().capabilities(), declared);
    }
}
