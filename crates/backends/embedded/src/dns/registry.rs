//! A registry that keeps its names in the metadata store.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use steadfast_core::metadata::{Key, MetadataDb, Records, Versioned, WriteOutcome};
use steadfast_core::registry::{
    DomainName, NameOutcome, RecordKind, RecordSet, Registry, RegistryCapabilities,
};
use steadfast_core::{Environment, Error, ErrorKind, Result};

use super::table::can_be_zone;
use super::zones::{WriteThrough, ZoneRecord, Zones};
use super::{BACKEND, TTL};

/// Zones and names in a [`MetadataDb`], each its own record:
///
/// | key (under the prefix) | record |
/// |---|---|
/// | `dns/zones/ZONE` | a zone |
/// | `dns/names/NAME/addresses`, `dns/names/NAME/services` | what the name holds of one kind |
///
/// A name belongs to the most specific zone it lies in. Clones are handles on the same registry.
#[derive(Debug, Clone)]
pub struct StoreRegistry {
    records: Records,
    zones: Arc<Zones>,
    /// Zones that are known to exist. None is ever removed, so what is here need not be asked for again.
    known: Arc<Mutex<BTreeSet<DomainName>>>,
}

impl StoreRegistry {
    /// The registry under `prefix`, which is the cluster's.
    ///
    /// # Errors
    /// `Invalid` if the prefix leaves no room for keys.
    pub fn new(db: Arc<dyn MetadataDb>, environment: &Environment, prefix: Key) -> Result<Self> {
        let entropy = environment.entropy().clone();
        let below = Records::new(db.clone(), entropy.clone(), prefix.clone());
        let zones = Arc::new(Zones::new(below, environment.clone())?);
        let through = Arc::new(WriteThrough { db, zones: zones.clone() });
        Ok(StoreRegistry {
            records: Records::new(through, entropy, prefix),
            zones,
            known: Arc::new(Mutex::new(BTreeSet::new())),
        })
    }

    /// The store, with this promise added: a name written through this handle is in the answers of this
    /// registry's servers before the write is acknowledged. It is what the store's owner serves to others.
    pub fn database(&self) -> Arc<dyn MetadataDb> {
        self.records.db().clone()
    }

    pub(super) fn zones(&self) -> &Arc<Zones> {
        &self.zones
    }

    async fn current(&self, key: &Key) -> Result<Option<Versioned<RecordSet>>> {
        self.records.get(key).await
    }

    /// Whether the name lies in a zone. The store is asked only if none of the known zones has it.
    async fn is_ours(&self, name: &DomainName) -> Result<bool> {
        let known = |zones: &BTreeSet<DomainName>| zones.iter().any(|zone| name.is_within(zone));
        if known(&self.known.lock().unwrap_or_else(PoisonError::into_inner)) {
            return Ok(true);
        }
        let found = self.records.list::<ZoneRecord>(&self.records.key(["dns", "zones"])?).await?;
        let mut zones = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        zones.extend(found.into_iter().filter_map(|(key, _)| self.zones.subject_zone(&key)));
        Ok(known(&zones))
    }

    /// Makes sure that the servers of this process answer with what was just found or made so, even where
    /// the write that made it so was somebody else's, or was only settled by reading again.
    async fn applied(
        &self,
        name: &DomainName,
        kind: RecordKind,
        set: Option<&RecordSet>,
    ) -> Result<NameOutcome> {
        if self.zones.holds(name, kind).as_ref() != set {
            let key = self.zones.name_key(name, kind)?;
            if let Err(error) = self.zones.refresh(&key).await {
                tracing::warn!(%key, error = error.chain(), "a changed name is not served yet");
            }
        }
        Ok(NameOutcome::Applied)
    }

    fn invalid(operation: &'static str, subject: &DomainName, message: &str) -> Error {
        Error::new(ErrorKind::Invalid, BACKEND, operation, subject, message).without_effect()
    }

    fn contended(operation: &'static str, name: &DomainName) -> Error {
        Error::new(
            ErrorKind::Busy,
            BACKEND,
            operation,
            name,
            format_args!("lost {ATTEMPTS} races for the name in a row"),
        )
        .without_effect()
    }
}

/// How many lost races in a row end a change. Each means that somebody else got through.
const ATTEMPTS: u32 = 32;

impl fmt::Display for StoreRegistry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{BACKEND} on {}", self.records.db())
    }
}

#[async_trait]
impl Registry for StoreRegistry {
    fn capabilities(&self) -> RegistryCapabilities {
        RegistryCapabilities { services: true, ttl: Duration::from_secs(u64::from(TTL)) }
    }

    async fn ensure_zone(&self, zone: &DomainName) -> Result<()> {
        if !can_be_zone(zone) {
            return Err(StoreRegistry::invalid(
                "ensure zone",
                zone,
                "the name leaves no room for those of its name server and its mailbox",
            ));
        }
        let key = self.zones.zone_key(zone)?;
        if self.records.get::<ZoneRecord>(&key).await?.is_none() {
            // Losing this race means that the zone exists.
            match self.records.create(&key, &ZoneRecord {}).await? {
                WriteOutcome::Applied(_) | WriteOutcome::Conflict => {}
            }
        }
        self.known.lock().unwrap_or_else(PoisonError::into_inner).insert(zone.clone());
        Ok(())
    }

    async fn resolve(&self, name: &DomainName, kind: RecordKind) -> Result<Option<RecordSet>> {
        let key = self.zones.name_key(name, kind)?;
        Ok(self.current(&key).await?.map(|record| record.body))
    }

    async fn upsert(
        &self,
        name: &DomainName,
        set: &RecordSet,
        expected: Option<&RecordSet>,
    ) -> Result<NameOutcome> {
        if set.is_empty() {
            return Err(StoreRegistry::invalid("upsert", name, "a name holds at least one value"));
        }
        if !self.is_ours(name).await? {
            return Err(StoreRegistry::invalid("upsert", name, "it lies in no zone of this registry"));
        }
        let key = self.zones.name_key(name, set.kind())?;
        for _ in 0..ATTEMPTS {
            let current = self.current(&key).await?;
            let held = current.as_ref().map(|record| &record.body);
            if held == Some(set) {
                return self.applied(name, set.kind(), Some(set)).await;
            }
            if held != expected {
                return Ok(NameOutcome::Stale(current.map(|record| record.body)));
            }
            let outcome = match &current {
                None => self.records.create(&key, set).await?,
                Some(record) => self.records.update(&key, set, &record.version).await?,
            };
            match outcome {
                WriteOutcome::Applied(_) => return self.applied(name, set.kind(), Some(set)).await,
                WriteOutcome::Conflict => {}
            }
        }
        Err(StoreRegistry::contended("upsert", name))
    }

    async fn remove(&self, name: &DomainName, expected: &RecordSet) -> Result<NameOutcome> {
        let key = self.zones.name_key(name, expected.kind())?;
        for _ in 0..ATTEMPTS {
            let Some(current) = self.current(&key).await? else {
                return self.applied(name, expected.kind(), None).await;
            };
            if current.body != *expected {
                return Ok(NameOutcome::Stale(Some(current.body)));
            }
            match self.records.delete(&key, &current.version).await? {
                WriteOutcome::Applied(_) => return self.applied(name, expected.kind(), None).await,
                WriteOutcome::Conflict => {}
            }
        }
        Err(StoreRegistry::contended("remove", name))
    }

    async fn records(&self, zone: &DomainName) -> Result<Vec<(DomainName, RecordSet)>> {
        let all = self.records.list::<RecordSet>(&self.records.key(["dns", "names"])?).await?;
        let mut named: Vec<_> = all
            .into_iter()
            .filter_map(|(key, record)| {
                let name = self.zones.subject_name(&key)?;
                name.is_within(zone).then_some((name, record.body))
            })
            .collect();
        // Keys are in another order: there `a-b` comes before `a`.
        named.sort_by(|(a, _), (b, _)| a.cmp(b));
        Ok(named)
    }
}

#[cfg(test)]
mod tests;
