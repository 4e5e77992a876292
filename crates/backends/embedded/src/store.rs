//! The metadata store of one machine: a [redb] file, owned by one process at a time.
//!
//! - [`RedbStore`]: the [`MetadataDb`]. Reads run on snapshots in the calling task; writes go to one thread, which
//!   puts everything that waits into one transaction and one flush (group commit).
//! - [`Ownership`]: who may open the file. The lock is the kernel's, so it is free as soon as its holder is gone,
//!   and the next process takes over; the others reach the store through the owner.
//!
//! An acknowledged write has been flushed (`fdatasync`) and survives kill -9 and a torn last write. It is one disk:
//! the store is lost with it.

mod database;
mod ownership;
mod watch;
mod writer;

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use steadfast_core::metadata::{
    CasOutcome, Hint, Key, MetadataCapabilities, MetadataDb, Page, Precondition, Record, Version,
};
use steadfast_core::runtime::Entropy;
use steadfast_core::{Error, ErrorKind, Result};
use tokio::sync::{broadcast, mpsc, oneshot};

pub use ownership::{Endpoint, OwnerAdvert, Ownership};

use database::{Medium, Shared, Stamp};
use writer::{Change, Command, Write};

/// The longest value the store takes: 1 MiB.
pub const MAX_VALUE_BYTES: usize = 1024 * 1024;

/// How many hints a watcher may be behind before it is told to read everything again.
const HINTS: usize = 4096;

/// How many writes may wait for the writer; further callers wait for room.
const WAITING: usize = 4096;

/// Metadata in one redb file. Clones share it; dropping the last one waits for the write in progress and closes
/// the file.
#[derive(Clone)]
pub struct RedbStore {
    handle: Arc<Handle>,
}

struct Handle {
    shared: Arc<Shared>,
    commands: Option<mpsc::Sender<Command>>,
    writer: Option<JoinHandle<()>>,
    /// Last, so that the lock is free only when the file is closed.
    _ownership: Option<Ownership>,
}

impl RedbStore {
    /// Opens the store of `ownership`, which it keeps until it is closed, and makes it if it does not exist.
    /// Part of every version comes from `entropy`.
    ///
    /// # Errors
    /// `Busy` if a program that did not ask for ownership has the file open; `Corrupt` if it does not read, or was
    /// written by a newer version; `Denied` and `QuotaExceeded` for a read-only or full disk. Each names the file
    /// and the remedy.
    pub fn open(ownership: Ownership, entropy: Entropy) -> Result<Self> {
        let path = ownership.store_path();
        let medium = database::FileMedium::new(path);
        Self::start(Box::new(medium), entropy, Some(ownership))
    }

    /// Opens or makes a store at `path` without ownership: for tests and tools. Only redb's own lock on the file
    /// then keeps a second process out.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn open_file(path: &Path, entropy: Entropy) -> Result<Self> {
        Self::start(Box::new(database::FileMedium::new(path.to_owned())), entropy, None)
    }

    /// The file.
    pub fn path(&self) -> PathBuf {
        self.handle.shared.path().to_owned()
    }

    fn start(medium: Box<dyn Medium>, entropy: Entropy, ownership: Option<Ownership>) -> Result<Self> {
        let (hints, _) = broadcast::channel(HINTS);
        let shared = Arc::new(Shared::open(medium, hints)?);
        let (commands, receiver) = mpsc::channel(WAITING);
        let writer = writer::spawn(Arc::clone(&shared), receiver, entropy)?;
        Ok(RedbStore {
            handle: Arc::new(Handle {
                shared,
                commands: Some(commands),
                writer: Some(writer),
                _ownership: ownership,
            }),
        })
    }

    async fn write(&self, operation: &'static str, key: &Key, change: Change) -> Result<CasOutcome> {
        let shared = &self.handle.shared;
        let gone = || {
            let message = "the store's writer has ended: restart this process";
            Error::new(ErrorKind::Internal, shared, operation, key, message)
        };
        let Some(commands) = &self.handle.commands else { return Err(gone().without_effect()) };
        let (reply, answer) = oneshot::channel();
        let write = Write { operation, key: key.clone(), change, reply };
        // Until here a dropped future has done nothing; from here on the writer does all of it or nothing.
        commands.send(Command::Write(write)).await.map_err(|_| gone().without_effect())?;
        answer.await.map_err(|_| gone())?
    }

    /// Runs a read on a snapshot. A store that failed is opened anew by the writer: the read asks for that.
    fn read<T>(
        &self,
        operation: &'static str,
        subject: &Key,
        look: impl FnOnce(
            &redb::ReadOnlyTable<&'static str, (u128, &'static [u8])>,
        ) -> Result<T, redb::StorageError>,
    ) -> Result<T> {
        self.handle.shared.read(operation, subject, look).inspect_err(|error| {
            if let (ErrorKind::Unavailable, Some(commands)) = (error.kind(), &self.handle.commands)
                && commands.try_send(Command::Check).is_err()
            {
                tracing::debug!("the writer is busy and will meet the failure itself");
            }
        })
    }
}

#[async_trait]
impl MetadataDb for RedbStore {
    fn capabilities(&self) -> MetadataCapabilities {
        MetadataCapabilities { max_value_bytes: MAX_VALUE_BYTES, watch: true, durable: true }
    }

    async fn get(&self, key: &Key) -> Result<Option<Record>> {
        self.read("get", key, |table| Ok(table.get(key.as_str())?.map(|found| record(found.value()))))
    }

    async fn put(&self, key: &Key, value: Bytes, precondition: Precondition) -> Result<CasOutcome> {
        if value.len() > MAX_VALUE_BYTES {
            let message =
                format!("the value has {} bytes, and the store takes {MAX_VALUE_BYTES}", value.len());
            return Err(Error::new(ErrorKind::Invalid, self, "put", key, message).without_effect());
        }
        let expected = match precondition {
            Precondition::Absent => None,
            Precondition::Version(version) => match Stamp::parse(&version) {
                Some(stamp) => Some(stamp),
                // Not a version of this store: nothing can have it.
                None => return Ok(CasOutcome::Conflict),
            },
        };
        self.write("put", key, Change::Put { value, expected }).await
    }

    async fn delete(&self, key: &Key, version: &Version) -> Result<CasOutcome> {
        match Stamp::parse(version) {
            Some(expected) => self.write("delete", key, Change::Delete { expected }).await,
            None => Ok(CasOutcome::Conflict),
        }
    }

    async fn scan(&self, prefix: &Key, after: Option<&Key>, limit: usize) -> Result<Page> {
        // '0' follows '/', so this is the range of the keys that begin with `prefix/`.
        let (first, end) = (format!("{prefix}/"), format!("{prefix}0"));
        let start = match after {
            Some(after) if after.as_str() >= end.as_str() => return Ok(Page::default()),
            Some(after) if after.as_str() >= first.as_str() => std::ops::Bound::Excluded(after.as_str()),
            _ => std::ops::Bound::Included(first.as_str()),
        };
        let range = (start, std::ops::Bound::Excluded(end.as_str()));
        let (found, more) = self.read("scan", prefix, |table| {
            let mut found = Vec::new();
            for entry in table.range::<&str>(range)? {
                if found.len() == limit {
                    return Ok((found, true));
                }
                let (key, value) = entry?;
                found.push((key.value().to_owned(), record(value.value())));
            }
            Ok((found, false))
        })?;
        let mut items = Vec::with_capacity(found.len());
        for (key, record) in found {
            let key = key.parse().map_err(|error| {
                Error::new(ErrorKind::Corrupt, self, "scan", prefix, error).without_effect()
            })?;
            items.push((key, record));
        }
        Ok(Page { items, more })
    }

    async fn watch(&self, prefix: &Key) -> Result<BoxStream<'static, Hint>> {
        Ok(watch::stream(self.handle.shared.subscribe(), prefix.clone()))
    }
}

impl fmt::Display for RedbStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.handle.shared.fmt(f)
    }
}

impl fmt::Debug for RedbStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedbStore").field("path", &self.handle.shared.path()).finish_non_exhaustive()
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        // The writer ends once nobody can send to it.
        self.commands = None;
        if let Some(writer) = self.writer.take()
            && writer.join().is_err()
        {
            tracing::error!(path = %self.shared.path().display(), "the store's writer had panicked");
        }
    }
}

fn record((stamp, value): (u128, &[u8])) -> Record {
    Record { version: Stamp(stamp).version(), value: Bytes::copy_from_slice(value) }
}

#[cfg(test)]
mod tests;
