//! What travels between servers and agents besides the views of core: the store's records, and failures.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use steadfast_core::ids::{Incarnation, NodeName};
use steadfast_core::metadata::{Hint, Key, MetadataCapabilities, Precondition, Record, Version};
use steadfast_core::{Effect, Error, ErrorKind, Retry};
use utoipa::ToSchema;

/// The header by which a server that looks for the owner of the store asks not to be sent on to a third.
pub const DIRECT: &str = "x-steadfast-direct";
/// The header with the request's id, given by the caller or by the server.
pub const REQUEST_ID: &str = "x-request-id";
/// The header that makes asking twice one operation.
pub const IDEMPOTENCY_KEY: &str = "idempotency-key";

/// Bytes, as base64.
#[derive(Clone, PartialEq, Eq, Default, ToSchema)]
#[schema(value_type = String, format = Byte)]
pub struct Blob(pub Bytes);

impl std::fmt::Debug for Blob {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Records may hold what does not belong in a log.
        write!(f, "Blob({} bytes)", self.0.len())
    }
}

impl Serialize for Blob {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&STANDARD.encode(&self.0))
    }
}

impl<'de> Deserialize<'de> for Blob {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        STANDARD.decode(text).map(|bytes| Blob(bytes.into())).map_err(serde::de::Error::custom)
    }
}

/// A stored value and its version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct WireRecord {
    /// The version to expect when writing again.
    pub version: Version,
    /// The value.
    pub value: Blob,
}

impl From<Record> for WireRecord {
    fn from(record: Record) -> Self {
        WireRecord { version: record.version, value: Blob(record.value) }
    }
}

impl From<WireRecord> for Record {
    fn from(record: WireRecord) -> Self {
        Record { version: record.version, value: record.value.0 }
    }
}

/// The answer to reading one key. Absence is an answer, not a 404: that would be a wrong address.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct GetAnswer {
    /// The record, if there is one.
    pub record: Option<WireRecord>,
}

/// A conditional write.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PutBody {
    /// The new value.
    pub value: Blob,
    /// What must hold for it to be written.
    pub precondition: Precondition,
}

/// One record of a scan.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ScanItem {
    /// Its key.
    pub key: Key,
    /// The record.
    #[serde(flatten)]
    pub record: WireRecord,
}

/// A page of a scan.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ScanAnswer {
    /// Records in key order.
    pub items: Vec<ScanItem>,
    /// Whether there is more after the last.
    pub more: bool,
}

/// What the store can do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CapabilitiesAnswer {
    /// The longest value it takes, in bytes.
    pub max_value_bytes: u64,
    /// Whether it delivers hints.
    pub watch: bool,
    /// Whether an acknowledged write survives the death of every process.
    pub durable: bool,
    /// Whether the server that answers owns the store itself.
    pub owner: bool,
}

impl CapabilitiesAnswer {
    /// The capabilities as core has them.
    pub fn capabilities(&self) -> MetadataCapabilities {
        MetadataCapabilities {
            max_value_bytes: usize::try_from(self.max_value_bytes).unwrap_or(usize::MAX),
            watch: self.watch,
            durable: self.durable,
        }
    }
}

/// Which life of a node is over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ConfirmDead {
    /// The incarnation, as the list of nodes shows it: a later one is not meant.
    pub incarnation: Incarnation,
}

/// Whose disk is gone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct LostDisk {
    /// The node that had the member's volumes on its disk: should they be on another one by now, nothing is done.
    pub lost_disk: NodeName,
}

/// That a server answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Health {
    /// Always true: anything else is a problem.
    pub ok: bool,
}

/// One line of the store's watch, as JSON.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum WatchLine {
    /// The first line: from now on every change is hinted at.
    Ready,
    /// Nothing happened; the connection lives.
    Heartbeat,
    /// This key was written or deleted.
    Changed(Key),
    /// Hints may have been lost: read everything again.
    Reset,
}

impl From<Hint> for WatchLine {
    fn from(hint: Hint) -> Self {
        match hint {
            Hint::Changed(key) => WatchLine::Changed(key),
            Hint::Reset => WatchLine::Reset,
        }
    }
}

/// A failure of a backend, with all that a caller must know of it. Its causes stay behind, in the log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct WireError {
    /// What it means.
    pub kind: ErrorKind,
    /// Whether it may have happened.
    pub effect: Effect,
    /// Whether to try again: `"Never"`, `"Backoff"` or `{"After": {"secs": …, "nanos": …}}`.
    #[schema(value_type = serde_json::Value)]
    pub retry: Retry,
    /// The backend that failed.
    pub backend: String,
    /// The operation that failed.
    pub operation: String,
    /// What it was tried on.
    pub subject: String,
    /// What went wrong.
    pub message: String,
}

impl From<&Error> for WireError {
    fn from(error: &Error) -> Self {
        WireError {
            kind: error.kind(),
            effect: error.effect(),
            retry: error.retry(),
            backend: error.backend().to_owned(),
            operation: error.operation().to_owned(),
            subject: error.subject().to_owned(),
            message: error.message().to_owned(),
        }
    }
}

impl WireError {
    /// The failure again, on this side. `operation` is what was called here.
    pub fn into_error(self, operation: &'static str) -> Error {
        let error =
            Error::new(self.kind, self.backend, operation, self.subject, self.message).with_retry(self.retry);
        match self.effect {
            Effect::None => error.without_effect(),
            Effect::Unknown => error,
        }
    }
}
