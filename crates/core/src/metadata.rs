//! Durable metadata: one key at a time, by compare-and-swap.
//!
//! [`MetadataDb`] is the byte-level contract a backend implements. Everything above it goes through
//! [`Records`], which owns the envelope `{schema, write_id, body}`, settles unknown outcomes by re-reading
//! the write id, and knows the keys.

mod key;
pub mod memory;
mod records;

use std::fmt::{Debug, Display};

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;

pub use key::{InvalidKey, Key};
pub use records::{Records, SCHEMA, Versioned, WriteOutcome};

use crate::error::Result;

/// A version of one key's value: opaque, without order, and never reused, not even after delete and re-create.
#[derive(Debug, Clone, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(transparent)]
pub struct Version(String);

impl Version {
    /// A version from what the backend uses to tell two writes apart.
    pub fn new(text: impl Into<String>) -> Self {
        Version(text.into())
    }

    /// The version as text, for entity tags.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

#[cfg(feature = "schema")]
crate::schema::text!(Version, "Opaque; never reused.");

/// A stored value and its version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// The version to expect when writing again.
    pub version: Version,
    /// The bytes as they were put.
    pub value: Bytes,
}

/// What must hold for a write to be applied. There is no unconditional write.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub enum Precondition {
    /// The key has no value.
    Absent,
    /// The key's value has this version.
    Version(Version),
}

/// How a conditional write ended. Losing a race is not an error.
#[must_use]
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub enum CasOutcome {
    /// Applied; the new version (for a delete, the version that was deleted).
    Applied(Version),
    /// The precondition did not hold; nothing changed.
    Conflict,
}

/// A page of a scan, in key order.
#[derive(Debug, Clone, Default)]
pub struct Page {
    /// Keys with their records.
    pub items: Vec<(Key, Record)>,
    /// Whether there is more after the last item. A short page without this is the whole.
    pub more: bool,
}

/// A hint that something changed. The reader reads again; content never travels in a hint.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum Hint {
    /// This key was written or deleted.
    Changed(Key),
    /// Hints may have been lost: read everything again.
    Reset,
}

/// What a metadata backend can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct MetadataCapabilities {
    /// The longest value it takes, in bytes.
    pub max_value_bytes: usize,
    /// Whether [`MetadataDb::watch`] delivers hints; without, the reader falls back to its resync.
    pub watch: bool,
    /// Whether an acknowledged write survives the death of every process of ours.
    pub durable: bool,
}

/// A linearizable store of small values.
#[async_trait]
pub trait MetadataDb: Debug + Display + Send + Sync + 'static {
    /// What this backend can do.
    fn capabilities(&self) -> MetadataCapabilities;

    /// The current record of `key`.
    ///
    /// # Behavior
    /// - Linearizable: sees every write acknowledged before the call, through whatever handle.
    async fn get(&self, key: &Key) -> Result<Option<Record>>;

    /// Writes `value` if `precondition` holds.
    ///
    /// # Behavior
    /// - Atomic and, when it returns `Applied`, durable as far as the capability says.
    /// - A lost race is `Conflict`, never an error.
    /// - Dropping the future leaves the write done or not done, never half.
    /// - Refuses a value longer than `max_value_bytes` with `Invalid` and no effect.
    async fn put(&self, key: &Key, value: Bytes, precondition: Precondition) -> Result<CasOutcome>;

    /// Deletes `key` if it has this version.
    ///
    /// # Behavior
    /// - A key that is absent, or has another version, is `Conflict`.
    async fn delete(&self, key: &Key, version: &Version) -> Result<CasOutcome>;

    /// A page of the keys that begin with `prefix`, in key order, beginning after `after`.
    ///
    /// # Behavior
    /// - `prefix` matches whole path segments only: `members/a` has `members/a/b`, not `members/ab`,
    ///   and not `members/a` itself.
    /// - Each record is current at some moment during the call; the page is not a snapshot.
    /// - At most `limit` items, and it may be fewer although there are more, but then at least one: `more` says whether
    ///   the prefix has further ones.
    async fn scan(&self, prefix: &Key, after: Option<&Key>, limit: usize) -> Result<Page>;

    /// Hints about changes under `prefix`, from the call on.
    ///
    /// # Behavior
    /// - Every change that is acknowledged after the stream was returned is hinted at, or covered by `Reset`.
    /// - Hints are about keys that a scan of `prefix` could have.
    /// - Hints may repeat and may come early or late; the stream ends when the backend goes away.
    async fn watch(&self, prefix: &Key) -> Result<BoxStream<'static, Hint>>;
}
