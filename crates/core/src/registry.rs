//! Names: the zones and records of a DNS service, changed only against the value that was expected.

pub mod memory;

use std::collections::BTreeSet;
use std::fmt::{self, Debug, Display, Write as _};
use std::net::IpAddr;
use std::sync::Arc;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::error::Result;

/// A fully qualified domain name in lower case, without the final dot.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DomainName(Arc<str>);

crate::text::is_text!(DomainName);

/// A text that is not a domain name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is not a domain name: use labels of 1 to 63 characters of a-z, 0-9, '-' and '_', joined by '.', \
     at most 253 in all; '.local' belongs to multicast DNS"
)]
pub struct InvalidDomainName(String);

impl DomainName {
    /// The name as text, without the final dot.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// `label` under this name.
    ///
    /// # Errors
    /// If the label is none, or the whole is too long.
    pub fn child(&self, label: impl Display) -> Result<DomainName, InvalidDomainName> {
        let mut text = String::with_capacity(self.0.len() + 64);
        // Writing to a string does not fail.
        if write!(text, "{label}").is_err() || text.len() + 1 + self.0.len() > LONGEST {
            return Err(InvalidDomainName::of(&format!("{label}.{self}")));
        }
        text.make_ascii_lowercase();
        // The rest is a name already, and not `local`.
        if !text.split('.').all(is_label) {
            return Err(InvalidDomainName::of(&format!("{label}.{self}")));
        }
        text.push('.');
        text.push_str(&self.0);
        Ok(DomainName(text.into()))
    }

    /// Whether this is `zone` or a name under it.
    pub fn is_within(&self, zone: &DomainName) -> bool {
        self.0 == zone.0 || self.0.strip_suffix(&*zone.0).is_some_and(|rest| rest.ends_with('.'))
    }
}

impl std::str::FromStr for DomainName {
    type Err = InvalidDomainName;
    fn from_str(text: &str) -> Result<Self, InvalidDomainName> {
        let name = text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase();
        let good = name.len() <= LONGEST
            && name.split('.').all(is_label)
            && name != "local"
            && !name.ends_with(".local");
        if good { Ok(DomainName(name.into())) } else { Err(InvalidDomainName::of(text)) }
    }
}

/// The longest name, in bytes.
const LONGEST: usize = 253;

fn is_label(label: &str) -> bool {
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'_');
    (1..=63).contains(&label.len())
        && label.bytes().all(plain)
        && !label.starts_with('-')
        && !label.ends_with('-')
}

impl InvalidDomainName {
    fn of(text: &str) -> Self {
        InvalidDomainName(text.chars().take(80).collect())
    }
}

impl Display for DomainName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Debug for DomainName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.0)
    }
}

/// The values of one name and one type. Never empty: no value means no record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RecordSet {
    /// Addresses, of IPv4 (A) and IPv6 (AAAA).
    Addresses(BTreeSet<IpAddr>),
    /// Where a service of a protocol is to be had (SRV).
    Services(BTreeSet<ServiceTarget>),
}

/// One target of an SRV record.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ServiceTarget {
    /// Lower is tried first.
    pub priority: u16,
    /// The share among those of one priority.
    pub weight: u16,
    /// The port.
    pub port: u16,
    /// The host.
    pub target: DomainName,
}

/// The types a registry keeps apart under one name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RecordKind {
    /// A and AAAA.
    Addresses,
    /// SRV.
    Services,
}

impl RecordSet {
    /// Its type.
    pub fn kind(&self) -> RecordKind {
        match self {
            RecordSet::Addresses(_) => RecordKind::Addresses,
            RecordSet::Services(_) => RecordKind::Services,
        }
    }

    /// Whether it has no value (which no registry stores).
    pub fn is_empty(&self) -> bool {
        match self {
            RecordSet::Addresses(values) => values.is_empty(),
            RecordSet::Services(values) => values.is_empty(),
        }
    }
}

/// How a conditional change of a name ended.
#[must_use]
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NameOutcome {
    /// The name now has the value (or had it already).
    Applied,
    /// The name has another value than was expected; nothing changed.
    Stale(Option<RecordSet>),
}

/// What a registry can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RegistryCapabilities {
    /// Whether it keeps SRV records.
    pub services: bool,
    /// The time to live of every record.
    pub ttl: std::time::Duration,
}

/// A DNS service. A name has one [`RecordSet`] per [`RecordKind`].
#[async_trait]
pub trait Registry: Debug + Display + Send + Sync + 'static {
    /// What this backend can do.
    fn capabilities(&self) -> RegistryCapabilities;

    /// Makes sure that `zone` exists.
    ///
    /// # Behavior
    /// - Idempotent; an existing zone keeps its records.
    async fn ensure_zone(&self, zone: &DomainName) -> Result<()>;

    /// What `name` holds, at the authority (not in any cache).
    ///
    /// # Behavior
    /// - It may be some seconds old: what is done because of it names the expected value.
    async fn resolve(&self, name: &DomainName, kind: RecordKind) -> Result<Option<RecordSet>>;

    /// Gives `name` the value `set` if it now holds `expected`.
    ///
    /// # Behavior
    /// - Compare and change are one step: of two racing changes with the same expectation one is applied.
    /// - Values are compared, not versions: if `name` has held something else in between, and `expected` again by now,
    ///   the change is applied. Whoever changes names looks again.
    /// - A name that holds `set` already is `Applied`, whatever was expected: repeating is safe.
    /// - Refuses an empty set, and a name outside every zone, with `Invalid` and no effect.
    async fn upsert(
        &self,
        name: &DomainName,
        set: &RecordSet,
        expected: Option<&RecordSet>,
    ) -> Result<NameOutcome>;

    /// Removes `name`'s records of one kind if it now holds `expected`.
    ///
    /// # Behavior
    /// - A name that holds nothing is `Applied`: repeating is safe.
    async fn remove(&self, name: &DomainName, expected: &RecordSet) -> Result<NameOutcome>;

    /// Every name of a zone with its records, in order.
    async fn records(&self, zone: &DomainName) -> Result<Vec<(DomainName, RecordSet)>>;
}
