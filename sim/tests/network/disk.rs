//! The disk under a store: it outlives the host, and remembers what was written to it.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use steadfast_core::Result;
use steadfast_core::metadata::memory::MemoryDb;
use steadfast_core::metadata::{
    CasOutcome, Hint, Key, MetadataCapabilities, MetadataDb, Page, Precondition, Record, Version,
};

/// A store that outlives its host. Clones are handles on the same one.
#[derive(Debug, Clone, Default)]
pub(crate) struct Disk {
    db: MemoryDb,
    applied: Arc<Mutex<Vec<Bytes>>>,
}

impl Disk {
    /// How often this value was written, whoever was told.
    pub(crate) fn times_applied(&self, value: &str) -> usize {
        let applied = self.applied.lock().unwrap_or_else(PoisonError::into_inner);
        applied.iter().filter(|found| *found == value).count()
    }
}

impl fmt::Display for Disk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("disk")
    }
}

#[async_trait]
impl MetadataDb for Disk {
    fn capabilities(&self) -> MetadataCapabilities {
        self.db.capabilities()
    }

    async fn get(&self, key: &Key) -> Result<Option<Record>> {
        self.db.get(key).await
    }

    async fn put(&self, key: &Key, value: Bytes, precondition: Precondition) -> Result<CasOutcome> {
        let outcome = self.db.put(key, value.clone(), precondition).await?;
        if matches!(outcome, CasOutcome::Applied(_)) {
            self.applied.lock().unwrap_or_else(PoisonError::into_inner).push(value);
        }
        Ok(outcome)
    }

    async fn delete(&self, key: &Key, version: &Version) -> Result<CasOutcome> {
        self.db.delete(key, version).await
    }

    async fn scan(&self, prefix: &Key, after: Option<&Key>, limit: usize) -> Result<Page> {
        self.db.scan(prefix, after, limit).await
    }

    async fn watch(&self, prefix: &Key) -> Result<BoxStream<'static, Hint>> {
        self.db.watch(prefix).await
    }
}
