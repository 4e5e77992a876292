//! Names: an authority that changes them conditionally.

use std::collections::{BTreeMap, BTreeSet};

use steadfast_core::error::{Error, ErrorKind, Result};
use steadfast_core::registry::{DomainName, NameOutcome, RecordKind, RecordSet};

use super::{Cloud, Due, Fact};
use crate::time::Time;

/// The names of every zone.
#[derive(Debug, Default)]
pub struct DnsModel {
    zones: BTreeSet<DomainName>,
    records: BTreeMap<(DomainName, RecordKind), RecordSet>,
    /// How often each was changed.
    changes: BTreeMap<(DomainName, RecordKind), u64>,
    /// What those who ask are told, which changes a while after the records.
    served: BTreeMap<(DomainName, RecordKind), RecordSet>,
}

impl DnsModel {
    /// Makes sure that a zone exists.
    pub fn ensure_zone(&mut self, zone: &DomainName) {
        self.zones.insert(zone.clone());
    }

    /// What a name holds.
    pub fn resolve(&self, name: &DomainName, kind: RecordKind) -> Option<RecordSet> {
        self.records.get(&(name.clone(), kind)).cloned()
    }

    /// How often a name was changed.
    pub fn changes(&self, name: &DomainName, kind: RecordKind) -> u64 {
        self.changes.get(&(name.clone(), kind)).copied().unwrap_or(0)
    }

    /// What clients are told of a name.
    pub fn served(&self, name: &DomainName, kind: RecordKind) -> Option<RecordSet> {
        self.served.get(&(name.clone(), kind)).cloned()
    }

    /// A change has come to those who ask.
    pub(super) fn settle(&mut self, name: &DomainName, kind: RecordKind) {
        let key = (name.clone(), kind);
        match self.records.get(&key).cloned() {
            Some(set) => self.served.insert(key, set),
            None => self.served.remove(&key),
        };
    }

    /// Every name and what it holds, for judges.
    pub fn all(&self) -> impl Iterator<Item = (&DomainName, &RecordSet)> {
        self.records.iter().map(|((name, _), set)| (name, set))
    }

    /// Every name of a zone.
    pub fn records(&self, zone: &DomainName) -> Vec<(DomainName, RecordSet)> {
        let within = self.records.iter().filter(|((name, _), _)| name.is_within(zone));
        within.map(|((name, _), set)| (name.clone(), set.clone())).collect()
    }
}

impl Cloud {
    /// Gives a name a value, if it holds what is expected. `changes_before` is how often the name had been changed
    /// when this was asked for, which is told to judges only: registries compare values.
    ///
    /// # Errors
    /// `Invalid` for an empty value or a name outside every zone.
    pub fn upsert_name(
        &mut self,
        now: Time,
        name: &DomainName,
        set: &RecordSet,
        expected: Option<&RecordSet>,
        changes_before: u64,
    ) -> Result<NameOutcome> {
        if set.is_empty() || !self.dns.zones.iter().any(|zone| name.is_within(zone)) {
            let message = "an empty value, or a name outside every zone";
            let error = Error::new(ErrorKind::Invalid, "simulated names", "upsert", name, message);
            return Err(error.without_effect());
        }
        let key = (name.clone(), set.kind());
        let holds = self.dns.records.get(&key);
        if holds == Some(set) {
            return Ok(NameOutcome::Applied);
        }
        if holds != expected {
            return Ok(NameOutcome::Stale(holds.cloned()));
        }
        self.dns.records.insert(key, set.clone());
        let returned = self.dns.changes(name, set.kind()) != changes_before;
        self.truth.note(now, Fact::NameSet { name: name.clone(), set: set.clone(), returned });
        self.spread(now, name, set.kind());
        Ok(NameOutcome::Applied)
    }

    /// Removes a name's value, if it is what is expected.
    pub fn remove_name(&mut self, now: Time, name: &DomainName, expected: &RecordSet) -> NameOutcome {
        let key = (name.clone(), expected.kind());
        match self.dns.records.get(&key) {
            None => NameOutcome::Applied,
            Some(holds) if holds != expected => NameOutcome::Stale(Some(holds.clone())),
            Some(_) => {
                self.dns.records.remove(&key);
                self.truth.note(now, Fact::NameRemoved { name: name.clone() });
                self.spread(now, name, expected.kind());
                NameOutcome::Applied
            }
        }
    }

    fn spread(&mut self, now: Time, name: &DomainName, kind: RecordKind) {
        *self.dns.changes.entry((name.clone(), kind)).or_default() += 1;
        let takes = self.draw(self.profile.name_ms, name.as_str(), now.micros());
        if takes == 0 {
            self.dns.settle(name, kind);
        } else {
            self.agenda.push(now.plus_millis(takes), Due::Name(name.clone(), kind));
        }
    }
}
