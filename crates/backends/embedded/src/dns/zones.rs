//! The names as this process serves them, kept in step with the store.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt as _;
use futures::stream::BoxStream;
use serde::{Deserialize, Serialize};
use steadfast_core::metadata::{
    CasOutcome, Hint, Key, MetadataCapabilities, MetadataDb, Page, Precondition, Record, Records, Version,
};
use steadfast_core::registry::{DomainName, RecordKind, RecordSet};
use steadfast_core::runtime::Moment;
use steadfast_core::{Effect, Environment, Error, ErrorKind, Result};

use super::BACKEND;
use super::table::ZoneTable;

/// The record of a zone. Its name is in the key.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct ZoneRecord {}

/// The names under one prefix of a store, and the table that is served from them.
#[derive(Debug)]
pub(super) struct Zones {
    /// Reads go past [`WriteThrough`]: they change nothing.
    records: Records,
    root: Key,
    environment: Environment,
    table: RwLock<Option<ZoneTable>>,
    /// When the whole store was last read, on the clock of this process.
    read_at: Mutex<Option<Moment>>,
    /// Whether anybody is served from the table. Until then nothing is kept in step.
    served: AtomicBool,
    /// Keys whose records do not decode, and that were told of.
    corrupt: Mutex<BTreeSet<Key>>,
    /// Held from reading the store to changing the table, so that an older read never overwrites a newer one.
    step: tokio::sync::Mutex<()>,
}

/// What a key under the root stands for.
enum Subject {
    Zone(DomainName),
    Name(DomainName, RecordKind),
}

impl Zones {
    pub(super) fn new(records: Records, environment: Environment) -> Result<Self> {
        Ok(Zones {
            root: records.key(["dns"])?,
            records,
            environment,
            table: RwLock::new(None),
            read_at: Mutex::new(None),
            served: AtomicBool::new(false),
            corrupt: Mutex::new(BTreeSet::new()),
            step: tokio::sync::Mutex::new(()),
        })
    }

    /// Reads the table. `None` in it says that nothing was ever loaded.
    pub(super) fn with<T>(&self, read: impl FnOnce(Option<&ZoneTable>) -> T) -> T {
        read(self.table.read().unwrap_or_else(PoisonError::into_inner).as_ref())
    }

    /// How long ago what is in the table was the whole truth; none: it was never read.
    pub(super) fn age(&self) -> Option<Duration> {
        let read_at = *self.read_at.lock().unwrap_or_else(PoisonError::into_inner);
        read_at.map(|read_at| self.environment.clock().monotonic().since(read_at))
    }

    /// Brings the table in step with one key, if the table is served.
    pub(super) async fn refresh(&self, key: &Key) -> Result<()> {
        if !self.served.load(Ordering::SeqCst) {
            return Ok(());
        }
        let Some(subject) = self.subject(key) else { return Ok(()) };
        let _step = self.step.lock().await;
        match subject {
            Subject::Zone(zone) => {
                if self.records.get::<ZoneRecord>(key).await?.is_some() {
                    self.change(|table, now| table.add_zone(&zone, now));
                }
            }
            Subject::Name(name, kind) => {
                let set = match self.records.get::<RecordSet>(key).await {
                    Ok(record) => record.map(|record| record.body),
                    // The last good value stays.
                    Err(error) if error.kind() == ErrorKind::Corrupt => {
                        self.tell_corrupt(&BTreeMap::from([(key.clone(), error)]));
                        return Ok(());
                    }
                    Err(error) => return Err(error),
                };
                self.change(|table, now| table.set(&name, kind, set.as_ref(), now));
            }
        }
        Ok(())
    }

    /// Brings the table in step with the whole store. A record that does not decode keeps its last value here.
    pub(super) async fn reload(&self) -> Result<()> {
        const PAGE: usize = 500;
        // From here on every writer of this process brings its change in step itself: those before are read.
        self.served.store(true, Ordering::SeqCst);
        let _step = self.step.lock().await;
        let begun = self.environment.clock().monotonic();
        let mut zones = BTreeSet::new();
        let mut present = BTreeSet::new();
        let mut corrupt = BTreeMap::new();
        let mut changes: Vec<(DomainName, RecordKind, Option<RecordSet>)> = Vec::new();
        let mut after: Option<Key> = None;
        loop {
            let page = self.records.db().scan(&self.root, after.as_ref(), PAGE).await?;
            after = page.items.last().map(|(key, _)| key.clone());
            for (key, record) in page.items {
                match self.subject(&key) {
                    Some(Subject::Zone(zone)) => drop(zones.insert(zone)),
                    Some(Subject::Name(name, kind)) => {
                        match self.records.decode::<RecordSet>(&key, &record.value) {
                            Ok(set) if self.holds(&name, kind).as_ref() == Some(&set) => {}
                            Ok(set) => changes.push((name.clone(), kind, Some(set))),
                            Err(error) => drop(corrupt.insert(key, error)),
                        }
                        present.insert((name, kind));
                    }
                    None => tracing::warn!(%key, "not a key of the registry"),
                }
            }
            if !page.more || after.is_none() {
                break;
            }
        }
        self.with(|table| {
            let stored = table.into_iter().flat_map(ZoneTable::stored);
            let gone = stored.filter(|name| !present.contains(name));
            changes.extend(gone.map(|(name, kind)| (name, kind, None)));
        });
        self.replace(&zones, &changes);
        *self.read_at.lock().unwrap_or_else(PoisonError::into_inner) = Some(begun);
        self.tell_corrupt(&corrupt);
        self.corrupt.lock().unwrap_or_else(PoisonError::into_inner).retain(|key| corrupt.contains_key(key));
        Ok(())
    }

    /// Logs each record that does not decode once, not at every resync.
    fn tell_corrupt(&self, found: &BTreeMap<Key, Error>) {
        let mut told = self.corrupt.lock().unwrap_or_else(PoisonError::into_inner);
        for (key, error) in found {
            if told.insert(key.clone()) {
                tracing::error!(%key, error = error.chain(), "a name does not decode; serving what it was");
            }
        }
    }

    /// Follows the store until shutdown: by its watch, and whole every `resync`.
    pub(super) async fn follow(&self, resync: Duration) {
        let shutdown = self.environment.tasks().shutdown();
        let mut well = true;
        while !shutdown.is_requested() {
            tokio::select! {
                biased;
                () = shutdown.requested() => return,
                result = self.follow_one_watch(resync, &mut well) => {
                    if let Err(error) = result
                        && std::mem::replace(&mut well, false)
                    {
                        tracing::warn!(error = error.chain(), "names cannot be read; serving those last read");
                    }
                },
            }
            // The watch ended or the store failed: not again at once.
            tokio::select! {
                biased;
                () = shutdown.requested() => return,
                () = self.environment.clock().sleep(RETRY.min(resync)) => {}
            }
        }
    }

    /// Returns when the watch ends, or with what went wrong.
    async fn follow_one_watch(&self, resync: Duration, well: &mut bool) -> Result<()> {
        let clock = self.environment.clock();
        // Watching begins before reading, so that no change falls between them.
        let mut hints = self.within_limit(self.records.db().watch(&self.root)).await?;
        loop {
            self.within_limit(self.reload()).await?;
            if !std::mem::replace(well, true) {
                tracing::info!("names can be read again");
            }
            let due = clock.sleep(resync);
            tokio::pin!(due);
            loop {
                let hint = tokio::select! {
                    biased;
                    () = &mut due => break,
                    hint = hints.next() => hint,
                };
                match hint {
                    Some(Hint::Changed(key)) => self.within_limit(self.refresh(&key)).await?,
                    Some(Hint::Reset) => break,
                    None => return Ok(()),
                }
            }
        }
    }

    async fn within_limit<T>(&self, call: impl Future<Output = Result<T>>) -> Result<T> {
        match self.environment.timeout(LIMIT, call).await {
            Some(result) => result,
            None => Err(Error::new(
                ErrorKind::Unavailable,
                BACKEND,
                "follow",
                &self.root,
                format_args!("no answer within {LIMIT:?}"),
            )
            .without_effect()),
        }
    }

    pub(super) fn zone_key(&self, zone: &DomainName) -> Result<Key> {
        self.records.key(["dns", "zones", zone.as_str()])
    }

    pub(super) fn name_key(&self, name: &DomainName, kind: RecordKind) -> Result<Key> {
        let kind = match kind {
            RecordKind::Addresses => ADDRESSES,
            RecordKind::Services => SERVICES,
        };
        self.records.key(["dns", "names", name.as_str(), kind])
    }

    pub(super) fn subject_zone(&self, key: &Key) -> Option<DomainName> {
        match self.subject(key)? {
            Subject::Zone(zone) => Some(zone),
            Subject::Name(..) => None,
        }
    }

    pub(super) fn subject_name(&self, key: &Key) -> Option<DomainName> {
        match self.subject(key)? {
            Subject::Name(name, _) => Some(name),
            Subject::Zone(_) => None,
        }
    }

    fn subject(&self, key: &Key) -> Option<Subject> {
        let rest = key.as_str().strip_prefix(self.root.as_str())?.strip_prefix('/')?;
        match *rest.split('/').collect::<Vec<_>>() {
            ["zones", zone] => Some(Subject::Zone(zone.parse().ok()?)),
            ["names", name, ADDRESSES] => Some(Subject::Name(name.parse().ok()?, RecordKind::Addresses)),
            ["names", name, SERVICES] => Some(Subject::Name(name.parse().ok()?, RecordKind::Services)),
            _ => None,
        }
    }

    /// What is served for a name.
    pub(super) fn holds(&self, name: &DomainName, kind: RecordKind) -> Option<RecordSet> {
        self.with(|table| table.and_then(|table| table.get(name, kind)))
    }

    fn change<T>(&self, change: impl FnOnce(&mut ZoneTable, u32) -> T) {
        let now = self.now();
        let mut table = self.table.write().unwrap_or_else(PoisonError::into_inner);
        // A table that was never loaded stays so: the load that is to come reads this change too.
        if let Some(table) = table.as_mut() {
            change(table, now);
        }
    }

    fn replace(&self, zones: &BTreeSet<DomainName>, changes: &[(DomainName, RecordKind, Option<RecordSet>)]) {
        let now = self.now();
        let mut table = self.table.write().unwrap_or_else(PoisonError::into_inner);
        let table = table.get_or_insert_default();
        for zone in zones {
            table.add_zone(zone, now);
        }
        for (name, kind, set) in changes {
            table.set(name, *kind, set.as_ref(), now);
        }
    }

    /// Seconds of the wall clock: serials that grow from one run of the process to the next.
    fn now(&self) -> u32 {
        u32::try_from(self.environment.clock().wall().as_second()).unwrap_or_default()
    }
}

const ADDRESSES: &str = "addresses";
const SERVICES: &str = "services";
/// The longest one step of following may take before it counts as failed.
const LIMIT: Duration = Duration::from_secs(10);
/// The pause after a failure.
const RETRY: Duration = Duration::from_secs(1);

/// The store, with this promise added: what is acknowledged through it is served already.
#[derive(Debug)]
pub(super) struct WriteThrough {
    pub(super) db: Arc<dyn MetadataDb>,
    pub(super) zones: Arc<Zones>,
}

impl WriteThrough {
    /// After anything but a certain failure the name is read again. If that fails the write stands all the
    /// same: whoever follows the store will see it.
    async fn settle(&self, key: &Key, outcome: &Result<CasOutcome>) {
        let certain_failure = outcome.as_ref().is_err_and(|error| error.effect() == Effect::None);
        if certain_failure || !key.is_under(&self.zones.root) {
            return;
        }
        if let Err(error) = self.zones.refresh(key).await {
            tracing::warn!(%key, error = error.chain(), "a written name is not served yet");
        }
    }
}

impl fmt::Display for WriteThrough {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.db.fmt(f)
    }
}

#[async_trait]
impl MetadataDb for WriteThrough {
    fn capabilities(&self) -> MetadataCapabilities {
        self.db.capabilities()
    }

    async fn get(&self, key: &Key) -> Result<Option<Record>> {
        self.db.get(key).await
    }

    async fn put(&self, key: &Key, value: Bytes, precondition: Precondition) -> Result<CasOutcome> {
        let outcome = self.db.put(key, value, precondition).await;
        self.settle(key, &outcome).await;
        outcome
    }

    async fn delete(&self, key: &Key, version: &Version) -> Result<CasOutcome> {
        let outcome = self.db.delete(key, version).await;
        self.settle(key, &outcome).await;
        outcome
    }

    async fn scan(&self, prefix: &Key, after: Option<&Key>, limit: usize) -> Result<Page> {
        self.db.scan(prefix, after, limit).await
    }

    async fn watch(&self, prefix: &Key) -> Result<BoxStream<'static, Hint>> {
        self.db.watch(prefix).await
    }
}
