//! The registry over a server's zones.

use std::collections::BTreeSet;
use std::fmt;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use hickory_proto::rr::{RData, RecordType};
use steadfast_core::registry::{
    DomainName, NameOutcome, RecordKind, RecordSet, Registry, RegistryCapabilities,
};
use steadfast_core::{Environment, Error, ErrorKind, Result};

use crate::exchange::{Connection, Server};
use crate::failure::Failure;
use crate::message::{Found, is_unexpected, name_of, question, types_of, update};
use crate::{TTL, TsigKey};

/// Where names are kept, and how to get at them.
#[derive(Debug, Clone)]
pub struct DynamicOptions {
    /// The primary of the zones.
    pub server: SocketAddr,
    /// What every message is signed with.
    pub key: TsigKey,
    /// The zones that may be written. [`Registry::ensure_zone`] adds others that the server has.
    pub zones: BTreeSet<DomainName>,
}

/// Names in an existing DNS server. Clones are handles on the same registry.
#[derive(Debug, Clone)]
pub struct DynamicRegistry {
    server: Server,
    zones: Arc<Mutex<BTreeSet<DomainName>>>,
}

impl DynamicRegistry {
    /// A registry over the server's zones. Nothing is asked yet: [`Registry::ensure_zone`] does.
    pub fn new(environment: Environment, options: DynamicOptions) -> Self {
        let DynamicOptions { server, key, zones } = options;
        DynamicRegistry {
            server: Server { environment, address: server, key },
            zones: Arc::new(Mutex::new(zones)),
        }
    }

    fn zones(&self) -> MutexGuard<'_, BTreeSet<DomainName>> {
        // Nothing in here can panic half-way, so a poisoned lock holds a whole value.
        self.zones.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The most specific zone that a name lies in.
    fn zone_of(&self, name: &DomainName) -> Option<DomainName> {
        let zones = self.zones();
        let over = zones.iter().filter(|zone| name.is_within(zone));
        over.max_by_key(|zone| zone.as_str().len()).cloned()
    }

    /// What a name holds, type by type: of a change in between, one family may be seen and the other not yet. Whoever
    /// expects such a value is told that it is stale.
    async fn look(
        &self,
        connection: &mut Connection<'_>,
        name: &DomainName,
        kind: RecordKind,
    ) -> Result<Option<RecordSet>, Failure> {
        let mut found = Found::default();
        for of in types_of(kind) {
            let answer = connection.ask(question(self.server.id(), name_of(name)?, *of)).await?;
            // Without authority it is what somebody else said some time ago.
            if !answer.metadata.authoritative {
                return Err(Failure::no_primary());
            }
            answer.answers.iter().for_each(|record| found.add(record));
        }
        Ok(found.take(name, kind))
    }

    /// One change, and how it ended; `Err`: what the name holds instead.
    async fn change(
        &self,
        name: &DomainName,
        kind: RecordKind,
        expected: Option<&RecordSet>,
        set: Option<&RecordSet>,
    ) -> Result<std::result::Result<(), Option<RecordSet>>, Failure> {
        let Some(zone) = self.zone_of(name) else { return Err(Failure::no_zone()) };
        let request = update(self.server.id(), name_of(&zone)?, &name_of(name)?, kind, expected, set)?;
        let mut connection = self.server.connect().await?;
        let answer = connection.ask(request).await?;
        if !is_unexpected(answer.metadata.response_code) {
            return Ok(Ok(()));
        }
        // Refused as a whole: what follows only looks.
        let current = self.look(&mut connection, name, kind).await.map_err(Failure::before)?;
        Ok(Err(current))
    }

    fn told(&self, operation: &'static str, subject: &DomainName) -> impl FnOnce(Failure) -> Error {
        move |failure| failure.error(self, operation, subject)
    }
}

#[async_trait]
impl Registry for DynamicRegistry {
    fn capabilities(&self) -> RegistryCapabilities {
        RegistryCapabilities { services: true, ttl: Duration::from_secs(u64::from(TTL)) }
    }

    /// No zone can be made by updates: it has to be there.
    async fn ensure_zone(&self, zone: &DomainName) -> Result<()> {
        let looked = async {
            let mut connection = self.server.connect().await?;
            let asked = question(self.server.id(), name_of(zone)?, RecordType::SOA);
            let answer = connection.ask(asked).await?;
            let is_its_own = name_of(zone).is_ok_and(|name| {
                answer
                    .answers
                    .iter()
                    .any(|record| record.name == name && matches!(record.data, RData::SOA(_)))
            });
            if answer.metadata.authoritative && is_its_own { Ok(()) } else { Err(Failure::no_primary()) }
        };
        looked.await.map_err(self.told("ensure zone", zone))?;
        self.zones().insert(zone.clone());
        Ok(())
    }

    async fn resolve(&self, name: &DomainName, kind: RecordKind) -> Result<Option<RecordSet>> {
        if self.zone_of(name).is_none() {
            return Ok(None);
        }
        let looked = async {
            let mut connection = self.server.connect().await?;
            self.look(&mut connection, name, kind).await
        };
        looked.await.map_err(Failure::before).map_err(self.told("resolve", name))
    }

    async fn upsert(
        &self,
        name: &DomainName,
        set: &RecordSet,
        expected: Option<&RecordSet>,
    ) -> Result<NameOutcome> {
        let told = self.told("upsert", name);
        if set.is_empty() {
            let error =
                Error::new(ErrorKind::Invalid, self, "upsert", name, "a name holds at least one value");
            return Err(error.without_effect());
        }
        match self.change(name, set.kind(), expected, Some(set)).await.map_err(told)? {
            Ok(()) => Ok(NameOutcome::Applied),
            Err(current) if current.as_ref() == Some(set) => Ok(NameOutcome::Applied),
            Err(current) => Ok(NameOutcome::Stale(current)),
        }
    }

    async fn remove(&self, name: &DomainName, expected: &RecordSet) -> Result<NameOutcome> {
        let told = self.told("remove", name);
        match self.change(name, expected.kind(), Some(expected), None).await.map_err(told)? {
            Ok(()) | Err(None) => Ok(NameOutcome::Applied),
            Err(current) => Ok(NameOutcome::Stale(current)),
        }
    }

    async fn records(&self, zone: &DomainName) -> Result<Vec<(DomainName, RecordSet)>> {
        let transferred = async {
            let mut connection = self.server.connect().await?;
            connection.transfer(question(self.server.id(), name_of(zone)?, RecordType::AXFR)).await
        };
        let records = transferred.await.map_err(Failure::before).map_err(self.told("list", zone))?;
        let mut found = Found::default();
        records.iter().for_each(|record| found.add(record));
        Ok(found.all())
    }
}

impl fmt::Display for DynamicRegistry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "dns server {}", self.server.address)
    }
}
