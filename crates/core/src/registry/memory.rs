//! The memory backend: the reference, and the state of the simulator.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

use async_trait::async_trait;

use super::{DomainName, NameOutcome, RecordKind, RecordSet, Registry, RegistryCapabilities};
use crate::error::{Error, ErrorKind, Result};
use crate::memory::Shared;

/// A DNS service in memory. Clones are handles on the same one.
#[derive(Debug, Clone)]
pub struct MemoryRegistry {
    names: Shared<Names>,
    capabilities: RegistryCapabilities,
}

#[derive(Debug, Default)]
struct Names {
    zones: BTreeSet<DomainName>,
    records: BTreeMap<(DomainName, RecordKind), RecordSet>,
}

impl MemoryRegistry {
    /// No zones yet; keeps SRV records, with a time to live of 5 s.
    pub fn new() -> Self {
        Self::with_capabilities(RegistryCapabilities { services: true, ttl: Duration::from_secs(5) })
    }

    /// No zones yet, with these capabilities.
    pub fn with_capabilities(capabilities: RegistryCapabilities) -> Self {
        MemoryRegistry { names: Shared::new(Names::default()), capabilities }
    }

    fn refuse(&self, kind: ErrorKind, operation: &'static str, name: &DomainName, message: &str) -> Error {
        Error::new(kind, self, operation, name, message).without_effect()
    }
}

impl Default for MemoryRegistry {
    fn default() -> Self {
        MemoryRegistry::new()
    }
}

impl fmt::Display for MemoryRegistry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("memory registry")
    }
}

#[async_trait]
impl Registry for MemoryRegistry {
    fn capabilities(&self) -> RegistryCapabilities {
        self.capabilities
    }

    async fn ensure_zone(&self, zone: &DomainName) -> Result<()> {
        self.names.with(|names| names.zones.insert(zone.clone()));
        Ok(())
    }

    async fn resolve(&self, name: &DomainName, kind: RecordKind) -> Result<Option<RecordSet>> {
        Ok(self.names.with(|names| names.records.get(&(name.clone(), kind)).cloned()))
    }

    async fn upsert(
        &self,
        name: &DomainName,
        set: &RecordSet,
        expected: Option<&RecordSet>,
    ) -> Result<NameOutcome> {
        if set.is_empty() {
            return Err(self.refuse(
                ErrorKind::Invalid,
                "upsert",
                name,
                "the set is empty: remove it instead",
            ));
        }
        if set.kind() == RecordKind::Services && !self.capabilities.services {
            return Err(self.refuse(ErrorKind::Unsupported, "upsert", name, "it keeps no SRV records"));
        }
        self.names.with(|names| {
            if !names.zones.iter().any(|zone| name.is_within(zone)) {
                return Err(self.refuse(ErrorKind::Invalid, "upsert", name, "it lies in no zone"));
            }
            let slot = (name.clone(), set.kind());
            let current = names.records.get(&slot);
            if current != Some(set) && current != expected {
                return Ok(NameOutcome::Stale(current.cloned()));
            }
            names.records.insert(slot, set.clone());
            Ok(NameOutcome::Applied)
        })
    }

    async fn remove(&self, name: &DomainName, expected: &RecordSet) -> Result<NameOutcome> {
        Ok(self.names.with(|names| {
            let slot = (name.clone(), expected.kind());
            match names.records.get(&slot) {
                Some(current) if current != expected => NameOutcome::Stale(Some(current.clone())),
                _ => {
                    names.records.remove(&slot);
                    NameOutcome::Applied
                }
            }
        }))
    }

    async fn records(&self, zone: &DomainName) -> Result<Vec<(DomainName, RecordSet)>> {
        Ok(self.names.with(|names| {
            let within = names.records.iter().filter(|((name, _), _)| name.is_within(zone));
            within.map(|((name, _), set)| (name.clone(), set.clone())).collect()
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conformance::Harness;
    use crate::conformance::registry::RegistryHarness;

    struct Memory;

    impl Harness for Memory {
        type Backend = MemoryRegistry;
        type Guard = MemoryRegistry;

        async fn open(&self) -> (MemoryRegistry, MemoryRegistry) {
            let registry = MemoryRegistry::new();
            (registry.clone(), registry)
        }

        async fn reopen(&self, guard: &MemoryRegistry) -> MemoryRegistry {
            guard.clone()
        }
    }

    impl RegistryHarness for Memory {}

    crate::registry_conformance!(Memory);

    #[test]
    fn it_keeps_srv_records_for_five_seconds() {
        let declared = RegistryCapabilities { services: true, ttl: Duration::from_secs(5) };
        assert_eq!(MemoryRegistry::new().capabilities(), declared);
    }
}
