//! A linearizable store of small values, with hints.

use std::collections::BTreeMap;
use std::ops::Bound;

use bytes::Bytes;
use steadfast_core::error::{Error, ErrorKind, Result};
use steadfast_core::metadata::{CasOutcome, Key, Page, Precondition, Record, Version};

/// The longest value, in bytes.
pub const MAX_VALUE_BYTES: usize = 1 << 20;

/// The store.
#[derive(Debug, Default)]
pub struct StoreModel {
    records: BTreeMap<Key, Record>,
    writes: u64,
    /// Keys whose change was not hinted at yet. Taken by whoever delivers hints.
    pub(crate) changed: Vec<Key>,
}

impl StoreModel {
    /// The record of a key.
    pub fn get(&self, key: &Key) -> Option<Record> {
        self.records.get(key).cloned()
    }

    /// Writes, if the precondition holds.
    ///
    /// # Errors
    /// `Invalid` for a value that is too long.
    pub fn put(&mut self, key: &Key, value: &Bytes, precondition: &Precondition) -> Result<CasOutcome> {
        if value.len() > MAX_VALUE_BYTES {
            let error =
                Error::new(ErrorKind::Invalid, "simulated store", "put", key, "the value is too long");
            return Err(error.without_effect());
        }
        let holds = match (self.records.get(key), precondition) {
            (None, Precondition::Absent) => true,
            (Some(record), Precondition::Version(version)) => &record.version == version,
            (None, Precondition::Version(_)) | (Some(_), Precondition::Absent) => false,
        };
        if !holds {
            return Ok(CasOutcome::Conflict);
        }
        let version = self.change(key);
        self.records.insert(key.clone(), Record { version: version.clone(), value: value.clone() });
        Ok(CasOutcome::Applied(version))
    }

    /// Deletes, if the version is this.
    pub fn delete(&mut self, key: &Key, version: &Version) -> CasOutcome {
        if self.records.get(key).is_none_or(|record| &record.version != version) {
            return CasOutcome::Conflict;
        }
        self.records.remove(key);
        self.change(key);
        CasOutcome::Applied(version.clone())
    }

    /// A page of the keys under `prefix`.
    pub fn scan(&self, prefix: &Key, after: Option<&Key>, limit: usize) -> Page {
        let first = format!("{prefix}/");
        let begin = match after {
            Some(after) if after.as_str() >= first.as_str() => Bound::Excluded(after.as_str()),
            _ => Bound::Included(first.as_str()),
        };
        let mut under = self
            .records
            .range::<str, _>((begin, Bound::Unbounded))
            .take_while(|(key, _)| key.is_under(prefix));
        let items = under.by_ref().take(limit).map(|(key, record)| (key.clone(), record.clone())).collect();
        Page { items, more: under.next().is_some() }
    }

    /// How often anything was changed.
    pub fn changes(&self) -> u64 {
        self.writes
    }

    /// Every record, for judges.
    pub fn all(&self) -> &BTreeMap<Key, Record> {
        &self.records
    }

    /// Writes past every rule, as a broken program or person would.
    pub fn poison(&mut self, key: &Key, value: Bytes) {
        let version = self.change(key);
        self.records.insert(key.clone(), Record { version, value });
    }

    fn change(&mut self, key: &Key) -> Version {
        self.writes += 1;
        self.changed.push(key.clone());
        Version::new(self.writes.to_string())
    }
}
