//! What a server answers from: zones, names and, derived from them, who an address belongs to.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::ops::Bound;

use steadfast_core::registry::{DomainName, RecordKind, RecordSet, ServiceTarget};

/// The zone of the reverse names of 127/8, which members of the embedded default get their addresses from.
const REVERSE: &str = "127.in-addr.arpa";

/// Zones and names, as they were last seen in the store.
///
/// Changed one name at a time; a change that changes nothing leaves the serials alone.
#[derive(Debug, Clone, Default)]
pub struct ZoneTable {
    zones: BTreeMap<String, Zone>,
    names: BTreeMap<String, Sets>,
    /// Which names hold this address and no other IPv4 address.
    holders: BTreeMap<Ipv4Addr, BTreeSet<DomainName>>,
}

/// A zone that is answered for.
#[derive(Debug, Clone)]
pub(super) struct Zone {
    pub(super) origin: DomainName,
    /// Its name server, which is this one.
    pub(super) server: DomainName,
    /// The mailbox of its SOA.
    pub(super) contact: DomainName,
    pub(super) serial: u32,
}

/// What one name holds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Sets {
    pub(super) addresses: BTreeSet<IpAddr>,
    pub(super) services: BTreeSet<ServiceTarget>,
    pub(super) pointer: Option<DomainName>,
}

impl Sets {
    fn is_empty(&self) -> bool {
        self.addresses.is_empty() && self.services.is_empty() && self.pointer.is_none()
    }
}

impl ZoneTable {
    /// A table without zones: everything is refused.
    pub fn new() -> Self {
        ZoneTable::default()
    }

    /// Answers for `zone` from now on. `now` is the wall clock in seconds, from which serials are drawn.
    ///
    /// A zone whose name leaves no room for its name server is passed over; no registry creates one.
    pub fn add_zone(&mut self, zone: &DomainName, now: u32) {
        if let Some(zone) = Zone::new(zone, now) {
            if let Ok(reverse) = REVERSE.parse::<DomainName>() {
                self.zones
                    .entry(path_of(&reverse))
                    .or_insert_with(|| Zone { origin: reverse, ..zone.clone() });
            }
            let path = path_of(&zone.origin);
            if self.zones.get(&path).is_none_or(|known| known.origin.as_str() == REVERSE) {
                self.zones.insert(path, zone);
            }
        }
    }

    /// Sets what `name` holds of one kind; `None` removes it. Says whether that changed anything.
    pub fn set(&mut self, name: &DomainName, kind: RecordKind, set: Option<&RecordSet>, now: u32) -> bool {
        let path = path_of(name);
        let before = self.names.get(&path).cloned().unwrap_or_default();
        let mut after = before.clone();
        match (kind, set) {
            (RecordKind::Addresses, Some(RecordSet::Addresses(values))) => {
                after.addresses.clone_from(values);
            }
            (RecordKind::Addresses, _) => after.addresses.clear(),
            (RecordKind::Services, Some(RecordSet::Services(values))) => after.services.clone_from(values),
            (RecordKind::Services, _) => after.services.clear(),
        }
        if after == before {
            return false;
        }
        let (lost, won) = (only_loopback(&before.addresses), only_loopback(&after.addresses));
        self.store(path, after, now);
        if lost != won {
            if let Some(address) = lost {
                let holders = self.holders.entry(address).or_default();
                holders.remove(name);
                self.point(address, now);
            }
            if let Some(address) = won {
                self.holders.entry(address).or_default().insert(name.clone());
                self.point(address, now);
            }
        }
        true
    }

    /// What `name` holds of one kind.
    pub fn get(&self, name: &DomainName, kind: RecordKind) -> Option<RecordSet> {
        let sets = self.names.get(&path_of(name))?;
        let set = match kind {
            RecordKind::Addresses => RecordSet::Addresses(sets.addresses.clone()),
            RecordKind::Services => RecordSet::Services(sets.services.clone()),
        };
        (!set.is_empty()).then_some(set)
    }

    /// Every name and kind that came from the store.
    pub(super) fn stored(&self) -> impl Iterator<Item = (DomainName, RecordKind)> + '_ {
        self.names.iter().flat_map(|(path, sets)| {
            let kinds = [
                (!sets.addresses.is_empty()).then_some(RecordKind::Addresses),
                (!sets.services.is_empty()).then_some(RecordKind::Services),
            ];
            let name = name_of(path);
            kinds.into_iter().flatten().filter_map(move |kind| Some((name.clone()?, kind)))
        })
    }

    /// The most specific zone that `path` lies in.
    pub(super) fn zone(&self, path: &str) -> Option<&Zone> {
        let mut end = path.len();
        while end > 0 {
            if let Some(zone) = self.zones.get(&path[..end]) {
                return Some(zone);
            }
            end = path[..end - 1].rfind('.').map_or(0, |dot| dot + 1);
        }
        None
    }

    /// What is held at `path`.
    pub(super) fn sets(&self, path: &str) -> Option<&Sets> {
        self.names.get(path)
    }

    /// Whether there is a name below `path`, which makes `path` itself exist, if only as an empty one.
    pub(super) fn has_below(&self, path: &str) -> bool {
        let below = (Bound::Excluded(path), Bound::Unbounded);
        self.names.range::<str, _>(below).next().is_some_and(|(next, _)| next.starts_with(path))
            || self.zones.range::<str, _>(below).next().is_some_and(|(next, _)| next.starts_with(path))
    }

    fn store(&mut self, path: String, sets: Sets, now: u32) {
        if let Some(zone) = self.zone(&path).map(|zone| path_of(&zone.origin))
            && let Some(zone) = self.zones.get_mut(&zone)
        {
            zone.serial = zone.serial.wrapping_add(1).max(now);
        }
        if sets.is_empty() {
            self.names.remove(&path);
        } else {
            self.names.insert(path, sets);
        }
    }

    /// Renews the reverse name of `address` after its holders changed.
    fn point(&mut self, address: Ipv4Addr, now: u32) {
        let best = self.holders.get(&address).and_then(|holders| {
            holders.iter().min_by_key(|name| (!is_member(name), name.as_str().split('.').count())).cloned()
        });
        if best.is_none() {
            self.holders.remove(&address);
        }
        let path = reverse_path(address);
        let before = self.names.get(&path).cloned().unwrap_or_default();
        let after = Sets { pointer: best, ..before.clone() };
        if after != before {
            self.store(path, after, now);
        }
    }
}

impl Zone {
    fn new(origin: &DomainName, now: u32) -> Option<Zone> {
        Some(Zone {
            origin: origin.clone(),
            server: origin.child("ns").ok()?,
            contact: origin.child("hostmaster").ok()?,
            serial: now,
        })
    }
}

/// Whether there is room for what a zone needs: the names of its server and its mailbox.
pub(super) fn can_be_zone(zone: &DomainName) -> bool {
    Zone::new(zone, 0).is_some()
}

/// A name as its labels from the root down, each followed by a dot: what lies under a name begins with its
/// path, and nothing else does.
pub(super) fn path_of(name: &DomainName) -> String {
    let mut path = String::with_capacity(name.as_str().len() + 1);
    for label in name.as_str().rsplit('.') {
        path.push_str(label);
        path.push('.');
    }
    path
}

fn name_of(path: &str) -> Option<DomainName> {
    let labels: Vec<&str> = path.trim_end_matches('.').rsplit('.').collect();
    labels.join(".").parse().ok()
}

fn reverse_path(address: Ipv4Addr) -> String {
    let [a, b, c, d] = address.octets();
    format!("arpa.in-addr.{a}.{b}.{c}.{d}.")
}

/// The one IPv4 address of a set, if it is a loopback address: only a name that holds a single address can be
/// what the address is called.
fn only_loopback(addresses: &BTreeSet<IpAddr>) -> Option<Ipv4Addr> {
    let mut all = addresses.iter().filter_map(|address| match address {
        IpAddr::V4(address) => Some(*address),
        IpAddr::V6(_) => None,
    });
    let first = all.next()?;
    (all.next().is_none() && first.is_loopback()).then_some(first)
}

/// Whether the first label is a member's: `orders-0`.
fn is_member(name: &DomainName) -> bool {
    let label = name.as_str().split('.').next().unwrap_or_default();
    label.rsplit_once('-').is_some_and(|(service, ordinal)| {
        !service.is_empty() && !ordinal.is_empty() && ordinal.bytes().all(|b| b.is_ascii_digit())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> DomainName {
        text.parse().unwrap()
    }

    fn addresses(values: &[&str]) -> RecordSet {
        RecordSet::Addresses(values.iter().map(|value| value.parse().unwrap()).collect())
    }

    fn put(table: &mut ZoneTable, owner: &str, values: &[&str]) -> bool {
        table.set(&name(owner), RecordKind::Addresses, Some(&addresses(values)), 0)
    }

    fn serial(table: &ZoneTable, zone: &str) -> u32 {
        table.zone(&path_of(&name(zone))).unwrap().serial
    }

    fn pointer(table: &ZoneTable, address: &str) -> Option<String> {
        let path = reverse_path(address.parse().unwrap());
        table.sets(&path)?.pointer.as_ref().map(ToString::to_string)
    }

    #[test]
    fn the_most_specific_zone_answers() {
        let mut table = ZoneTable::new();
        table.add_zone(&name("demo.internal"), 7);
        table.add_zone(&name("sub.demo.internal"), 7);
        let zone = |text: &str| table.zone(&path_of(&name(text))).map(|zone| zone.origin.to_string());
        assert_eq!(zone("a.demo.internal").as_deref(), Some("demo.internal"));
        assert_eq!(zone("a.sub.demo.internal").as_deref(), Some("sub.demo.internal"));
        assert_eq!(zone("ademo.internal"), None);
        assert_eq!(zone("internal"), None);
        assert_eq!(zone("9.0.0.127.in-addr.arpa").as_deref(), Some(REVERSE));
    }

    #[test]
    fn the_serial_grows_with_every_change_and_only_then() {
        let mut table = ZoneTable::new();
        table.add_zone(&name("demo.internal"), 100);
        assert!(put(&mut table, "a.demo.internal", &["10.0.0.1"]));
        assert_eq!(serial(&table, "demo.internal"), 101);
        assert!(!put(&mut table, "a.demo.internal", &["10.0.0.1"]));
        assert_eq!(serial(&table, "demo.internal"), 101);
        assert!(table.set(&name("a.demo.internal"), RecordKind::Addresses, None, 500));
        assert_eq!(serial(&table, "demo.internal"), 500);
        assert!(!table.has_below(&path_of(&name("demo.internal"))), "an emptied name is gone");
    }

    #[test]
    fn an_address_is_called_by_its_member() {
        let mut table = ZoneTable::new();
        table.add_zone(&name("demo.internal"), 0);
        put(&mut table, "primary.orders.demo.internal", &["127.0.0.9"]);
        assert_eq!(pointer(&table, "127.0.0.9").as_deref(), Some("primary.orders.demo.internal"));
        put(&mut table, "orders-0.demo.internal", &["127.0.0.9"]);
        put(&mut table, "orders.demo.internal", &["127.0.0.9", "127.0.0.10"]);
        assert_eq!(pointer(&table, "127.0.0.9").as_deref(), Some("orders-0.demo.internal"));
        assert_eq!(pointer(&table, "127.0.0.10"), None, "a name with two addresses names neither");
        put(&mut table, "orders-0.demo.internal", &["127.0.0.11"]);
        assert_eq!(pointer(&table, "127.0.0.9").as_deref(), Some("primary.orders.demo.internal"));
        assert_eq!(pointer(&table, "127.0.0.11").as_deref(), Some("orders-0.demo.internal"));
    }

    #[test]
    fn what_is_stored_leaves_out_what_is_derived() {
        let mut table = ZoneTable::new();
        table.add_zone(&name("demo.internal"), 0);
        put(&mut table, "orders-0.demo.internal", &["127.0.0.9"]);
        let stored: Vec<_> = table.stored().collect();
        assert_eq!(stored, [(name("orders-0.demo.internal"), RecordKind::Addresses)]);
    }
}
