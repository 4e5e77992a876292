//! Services with their members, as their records were read: whoever knows what they say need not decode them.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::de::DeserializeOwned;

use super::{PAGE, Store};
use crate::error::Result;
use crate::ids::ServiceName;
use crate::metadata::{Key, Record, Version, Versioned};
use crate::model::{Member, Service};

/// A service's own record and those of its members, in the order of their keys.
#[derive(Debug, Clone)]
pub struct ServiceRecords {
    service: (Key, Record),
    members: Vec<(Key, Record)>,
    /// Whether they were read for themselves: then what is decoded of them is worth keeping.
    alone: bool,
}

impl ServiceRecords {
    /// The service's name, as its key has it.
    pub fn name(&self) -> &str {
        last(&self.service.0)
    }

    /// The version of the service's record.
    pub fn version(&self) -> &Version {
        &self.service.1.version
    }

    /// The members' names, as their keys have them, with the versions of their records.
    pub fn members(&self) -> impl ExactSizeIterator<Item = (&str, &Version)> {
        self.members.iter().map(|(key, record)| (last(key), &record.version))
    }
}

/// A service, and its members by name.
pub type WithMembers = (Versioned<Arc<Service>>, Vec<Versioned<Arc<Member>>>);

fn last(key: &Key) -> &str {
    key.as_str().rsplit('/').next().unwrap_or_default()
}

impl Store {
    /// The records of a service.
    ///
    /// # Errors
    /// What the store says.
    pub async fn service_records(&self, name: &ServiceName) -> Result<Option<ServiceRecords>> {
        let key = self.service_key(name)?;
        let Some(record) = self.records.db().get(&key).await? else { return Ok(None) };
        let mut members = Vec::new();
        let prefix = self.records.key(["members", name.as_str()])?;
        self.records
            .each(&prefix, |key, record| {
                members.push((key, record));
                Ok(())
            })
            .await?;
        Ok(Some(ServiceRecords { service: (key, record), members, alone: true }))
    }

    /// The records of the services after `after` by name that are not deleted, at most `limit`. The services that
    /// `is_live` vouches for, by name and version, are not decoded to see that.
    ///
    /// # Errors
    /// What the store says; `Corrupt` if a service does not decode.
    pub async fn live_service_records(
        &self,
        after: Option<&str>,
        limit: usize,
        is_live: impl Fn(&str, &Version) -> bool + Send,
    ) -> Result<Vec<ServiceRecords>> {
        let prefix = self.records.key(["services"])?;
        // A text that cannot be a name is after some names all the same.
        let mut from = after.and_then(|after| self.records.key(["services", after]).ok());
        let mut live = Vec::new();
        loop {
            let wanted = (limit - live.len()).clamp(1, PAGE);
            let page = self.records.db().scan(&prefix, from.as_ref(), wanted).await?;
            from = page.items.last().map(|(key, _)| key.clone());
            for (key, record) in page.items {
                if after.is_some_and(|after| last(&key) <= after) {
                    continue;
                }
                if is_live(last(&key), &record.version)
                    || !self.records.decode::<Service>(&key, &record.value)?.deleted
                {
                    live.push(ServiceRecords { service: (key, record), members: Vec::new(), alone: false });
                }
            }
            if live.len() >= limit || !page.more || from.is_none() {
                live.truncate(limit);
                break;
            }
        }
        self.read_members(&mut live).await?;
        Ok(live)
    }

    /// The members of these services, from one scan over the keys that they lie among.
    async fn read_members(&self, services: &mut [ServiceRecords]) -> Result<()> {
        let mut of: BTreeMap<&str, &mut Vec<(Key, Record)>> =
            services.iter_mut().map(|read| (last(&read.service.0), &mut read.members)).collect();
        // In the order of their members' keys, where `a-b/` comes before `a/`.
        let last = of.keys().map(|service| format!("{service}/")).max();
        let first = of.keys().copied().min_by_key(|service| format!("{service}/"));
        let (Some(first), Some(last)) = (first, last) else { return Ok(()) };
        let prefix = self.records.key(["members"])?;
        let last = format!("{prefix}/{last}");
        let mut from = self.records.key(["members", first])?;
        loop {
            let page = self.records.db().scan(&prefix, Some(&from), PAGE).await?;
            let next = page.items.last().map(|(key, _)| key.clone());
            for (key, record) in page.items {
                if key.as_str() > last.as_str() && !key.as_str().starts_with(&last) {
                    return Ok(());
                }
                let service = key.as_str()[prefix.as_str().len() + 1..].split('/').next().unwrap_or_default();
                if let Some(members) = of.get_mut(service) {
                    members.push((key, record));
                }
            }
            match next {
                Some(next) if page.more => from = next,
                _ => return Ok(()),
            }
        }
    }

    /// What the records say.
    ///
    /// # Errors
    /// `Corrupt` if one does not decode.
    pub fn decode_service(&self, read: ServiceRecords) -> Result<WithMembers> {
        let ServiceRecords { service: (key, record), members, alone } = read;
        let service = self.decode_one(&key, record, alone)?;
        let members = members
            .into_iter()
            .map(|(key, record)| self.decode_one(&key, record, alone))
            .collect::<Result<_>>();
        Ok((service, members?))
    }

    fn decode_one<T>(&self, key: &Key, record: Record, keep: bool) -> Result<Versioned<Arc<T>>>
    where
        T: DeserializeOwned + Send + Sync + 'static,
    {
        if keep {
            return self.decoded.of(&self.records, key, record);
        }
        let body = Arc::new(self.records.decode(key, &record.value)?);
        Ok(Versioned { version: record.version, body })
    }
}
