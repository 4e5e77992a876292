//! The metadata contract over etcd.

use std::convert::Infallible;
use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use etcd_client::{Client, Compare, CompareOp, GetOptions, GetResponse, KeyValue, Txn, TxnOp};
use futures::stream::BoxStream;
use steadfast_core::metadata::{
    CasOutcome, Hint, Key, MetadataCapabilities, MetadataDb, Page, Precondition, Record, Version,
};
use steadfast_core::{Environment, Error, ErrorKind, Result};
use tokio::sync::broadcast;

use crate::endpoints::{Access, Endpoints};
use crate::failure::is_too_long;
use crate::history::{History, Rewound};
use crate::options::EtcdOptions;
use crate::watch;

/// The longest value the store takes: 1 MiB, as the embedded one. With key and conditions it is below the 1.5 MiB that
/// etcd takes in one request unless it is told otherwise (`--max-request-bytes`).
pub const MAX_VALUE_BYTES: usize = 1024 * 1024;

/// The longest answer that is taken. A page that does not fit in is asked for with fewer keys.
const LONGEST_ANSWER: usize = 16 * MAX_VALUE_BYTES;
/// The most keys of one page.
const LONGEST_PAGE: usize = 1_000;

/// Metadata in an etcd cluster. Clones share its connections; watches end with the last of them.
///
/// A version is the revision of the key's last change, which etcd never uses again. A write that was sent and not
/// answered, or answered with a failure that etcd gives before it knows, may have happened and is not sent again.
/// A request ends within 10 s.
#[derive(Clone)]
pub struct EtcdDb {
    inner: Arc<Inner>,
}

struct Inner {
    endpoints: Arc<Endpoints>,
    keys: Keys,
    history: History,
    /// Never sent on: watches end when it is dropped.
    alive: broadcast::Sender<Infallible>,
}

/// Where keys lie in etcd.
#[derive(Debug, Clone)]
pub(crate) struct Keys {
    /// What every key begins with: nothing, or the prefix and a slash.
    root: String,
}

impl Keys {
    fn at(&self, key: &Key) -> String {
        format!("{}{key}", self.root)
    }

    /// The range of what lies under `prefix`: '0' follows '/'.
    fn under(&self, prefix: &Key) -> (String, String) {
        (format!("{}{prefix}/", self.root), format!("{}{prefix}0", self.root))
    }

    /// The key at a place in etcd; none if it is nobody's of ours.
    pub(crate) fn of(&self, place: &[u8]) -> Option<Key> {
        std::str::from_utf8(place).ok()?.strip_prefix(&self.root)?.parse().ok()
    }
}

impl EtcdDb {
    /// The store at the options' location, which has to answer: so that a wrong name, password or certificate is told
    /// now.
    ///
    /// # Errors
    /// `Unavailable` if no member answers, or those that do have no quorum; `Denied` if the user is refused, or lacks
    /// the permission to read; `Invalid` if certificates do not read. The message says what to do.
    pub async fn connect(environment: Environment, options: EtcdOptions) -> Result<Self> {
        let root = options.location.prefix().map(|prefix| format!("{prefix}/")).unwrap_or_default();
        let (alive, _) = broadcast::channel(1);
        let history = History::new(options.at_least);
        let endpoints = Arc::new(Endpoints::new(environment, options));
        let db = EtcdDb { inner: Arc::new(Inner { endpoints, keys: Keys { root }, history, alive }) };
        // What nobody writes, in the range that the user must be able to read.
        db.range("connect", &"the store", format!("{}steadfast/", db.inner.keys.root), None, 1).await?;
        Ok(db)
    }

    /// The newest revision that this handle has seen, for [`EtcdOptions::at_least`] of the next one.
    pub fn revision(&self) -> i64 {
        self.inner.history.newest()
    }

    /// The URL of the member that is asked next: of this machine's own for as long as that answers.
    pub fn member(&self) -> &str {
        self.inner.endpoints.member()
    }

    /// The records of a range, or of one key, as they are at one revision.
    async fn range(
        &self,
        operation: &'static str,
        subject: &(dyn fmt::Display + Sync),
        from: String,
        end: Option<String>,
        limit: usize,
    ) -> Result<GetResponse> {
        let mut limit = limit.clamp(1, LONGEST_PAGE);
        loop {
            let mut options = GetOptions::new().with_limit(i64::try_from(limit).unwrap_or(i64::MAX));
            if let Some(end) = &end {
                options = options.with_range(end.as_str());
            }
            let ask = |client: Client| {
                let (from, options) = (from.clone(), options.clone());
                async move {
                    let mut kv = client.kv_client().max_decoding_message_size(LONGEST_ANSWER);
                    match kv.get(from, Some(options)).await {
                        Err(error) if limit > 1 && is_too_long(&error) => Ok(None),
                        answer => answer.map(Some),
                    }
                }
            };
            let before = self.inner.history.newest();
            match self.inner.endpoints.call(Access::Read, operation, subject, ask).await? {
                Some(answer) => {
                    let seen = self.inner.history.see(before, answer.header());
                    seen.map_err(|why| self.rewound(why, operation, subject).without_effect())?;
                    return Ok(answer);
                }
                None => limit = (limit / 4).max(1),
            }
        }
    }

    /// Carries out `change` if the key was changed last at `revision`; 0: if it is absent. Gives the revision of the
    /// change.
    async fn swap(
        &self,
        operation: &'static str,
        key: &Key,
        revision: i64,
        change: impl Fn(String) -> TxnOp,
    ) -> Result<Option<i64>> {
        let place = self.inner.keys.at(key);
        let ask = |mut client: Client| {
            let condition = Compare::mod_revision(place.as_str(), CompareOp::Equal, revision);
            let txn = Txn::new().when([condition]).and_then([change(place.clone())]);
            async move { client.txn(txn).await }
        };
        let before = self.inner.history.newest();
        let answer = self.inner.endpoints.call(Access::Write, operation, key, ask).await?;
        self.inner.history.see(before, answer.header()).map_err(|why| self.rewound(why, operation, key))?;
        if !answer.succeeded() {
            return Ok(None);
        }
        let revision = answer.header().map(etcd_client::ResponseHeader::revision);
        revision.map(Some).ok_or_else(|| {
            Error::new(ErrorKind::Internal, self, operation, key, "an answer without a revision")
        })
    }

    fn rewound(&self, why: Rewound, operation: &'static str, subject: &(dyn fmt::Display + Sync)) -> Error {
        Error::new(ErrorKind::Corrupt, self, operation, subject, why)
    }

    fn record(value: &KeyValue) -> Record {
        Record { version: version(value.mod_revision()), value: Bytes::copy_from_slice(value.value()) }
    }
}

fn version(revision: i64) -> Version {
    Version::new(revision.to_string())
}

/// The revision that a version stands for; none if it is not one of etcd's, and nothing can have it.
fn revision(version: &Version) -> Option<i64> {
    let revision: i64 = version.as_str().parse().ok()?;
    (revision > 0 && revision.to_string() == version.as_str()).then_some(revision)
}

#[async_trait]
impl MetadataDb for EtcdDb {
    fn capabilities(&self) -> MetadataCapabilities {
        MetadataCapabilities { max_value_bytes: MAX_VALUE_BYTES, watch: true, durable: true }
    }

    async fn get(&self, key: &Key) -> Result<Option<Record>> {
        let answer = self.range("get", key, self.inner.keys.at(key), None, 1).await?;
        Ok(answer.kvs().first().map(EtcdDb::record))
    }

    async fn put(&self, key: &Key, value: Bytes, precondition: Precondition) -> Result<CasOutcome> {
        if value.len() > MAX_VALUE_BYTES {
            let message =
                format!("the value has {} bytes, and the store takes {MAX_VALUE_BYTES}", value.len());
            return Err(Error::new(ErrorKind::Invalid, self, "put", key, message).without_effect());
        }
        let expected = match &precondition {
            Precondition::Absent => Some(0),
            Precondition::Version(version) => revision(version),
        };
        let Some(expected) = expected else { return Ok(CasOutcome::Conflict) };
        let done = self.swap("put", key, expected, |place| TxnOp::put(place, value.as_ref(), None)).await?;
        Ok(done.map_or(CasOutcome::Conflict, |revision| CasOutcome::Applied(version(revision))))
    }

    async fn delete(&self, key: &Key, version: &Version) -> Result<CasOutcome> {
        let Some(expected) = revision(version) else { return Ok(CasOutcome::Conflict) };
        let done = self.swap("delete", key, expected, |place| TxnOp::delete(place, None)).await?;
        Ok(done.map_or(CasOutcome::Conflict, |_| CasOutcome::Applied(version.clone())))
    }

    async fn scan(&self, prefix: &Key, after: Option<&Key>, limit: usize) -> Result<Page> {
        let (first, end) = self.inner.keys.under(prefix);
        // Nothing lies between a key and the key with a zero behind it.
        let after = after.map(|after| format!("{}\0", self.inner.keys.at(after)));
        let start = after.filter(|after| *after > first).unwrap_or(first);
        if start >= end {
            return Ok(Page::default());
        }
        let answer = self.range("scan", prefix, start, Some(end), limit).await?;
        let mut items = Vec::with_capacity(answer.kvs().len());
        for found in answer.kvs() {
            let key = self.inner.keys.of(found.key()).ok_or_else(|| {
                let place = String::from_utf8_lossy(found.key());
                let message =
                    format!("{place:?} is not a key of ours: something else writes below the prefix");
                Error::new(ErrorKind::Corrupt, self, "scan", prefix, message).without_effect()
            })?;
            items.push((key, EtcdDb::record(found)));
        }
        let more = answer.more() || items.len() > limit;
        items.truncate(limit);
        Ok(Page { items, more })
    }

    async fn watch(&self, prefix: &Key) -> Result<BoxStream<'static, Hint>> {
        let Inner { endpoints, keys, alive, .. } = &*self.inner;
        let watched = watch::Range::new(keys.clone(), prefix.clone(), keys.under(prefix));
        watch::stream(Arc::clone(endpoints), watched, alive.subscribe()).await
    }
}

impl fmt::Display for EtcdDb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.endpoints.fmt(f)
    }
}

impl fmt::Debug for EtcdDb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EtcdDb").field("endpoints", &self.inner.endpoints).finish_non_exhaustive()
    }
}
