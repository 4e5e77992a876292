//! The messages: what is asked, and what the answers hold. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use hickory_proto::op::{Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::SRV;
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType};
use steadfast_core::registry::{DomainName, RecordKind, RecordSet, ServiceTarget};

use crate::TTL;
use crate::failure::Failure;

/// A name as the library has it.
pub(crate) fn name_of(name: &DomainName) -> Result<Name, Failure> {
    let mut parsed = Name::from_ascii(name.as_str()).map_err(Failure::request)?;
    parsed.set_fqdn(true);
    Ok(parsed)
}

/// The types that a kind is made of.
pub(crate) fn types_of(kind: RecordKind) -> &'static [RecordType] {
    match kind {
        RecordKind::Addresses => &[RecordType::A, RecordType::AAAA],
        RecordKind::Services => &[RecordType::SRV],
    }
}

/// A question of one name and type.
pub(crate) fn question(id: u16, name: Name, of: RecordType) -> Message {
    let mut query = Query::new();
    query.set_name(name).set_query_type(of).set_query_class(DNSClass::IN);
    let mut message = Message::new(id, MessageType::Query, OpCode::Query);
    message.add_query(query);
    message
}

/// A change of the records of one name and kind from `expected` to `set` (RFC 2136 §2.4, §2.5): nothing happens unless
/// they are exactly `expected`.
pub(crate) fn update(
    id: u16,
    zone: Name,
    name: &Name,
    kind: RecordKind,
    expected: Option<&RecordSet>,
    set: Option<&RecordSet>,
) -> Result<Message, Failure> {
    let mut message = Message::new(id, MessageType::Query, OpCode::Update);
    let mut of = Query::new();
    of.set_name(zone).set_query_type(RecordType::SOA).set_query_class(DNSClass::IN);
    message.add_query(of);
    let expected = expected.map(values).transpose()?.unwrap_or_default();
    let set = set.map(values).transpose()?.unwrap_or_default();
    for of in types_of(kind) {
        let of_type = |value: &&RData| value.record_type() == *of;
        let is = expected.iter().filter(of_type).cloned();
        let is: Vec<Record> = is.map(|value| Record::from_rdata(name.clone(), 0, value)).collect();
        if is.is_empty() {
            message.add_answer(nothing(name, *of, DNSClass::NONE));
        } else {
            message.add_answers(is);
        }
        message.add_authority(nothing(name, *of, DNSClass::ANY));
        let shall = set.iter().filter(of_type).cloned();
        message.add_authorities(shall.map(|value| Record::from_rdata(name.clone(), TTL, value)));
    }
    Ok(message)
}

/// A record without a value, which stands for the whole set of its type.
fn nothing(name: &Name, of: RecordType, class: DNSClass) -> Record {
    let mut record = Record::update0(name.clone(), 0, of);
    record.dns_class = class;
    record
}

fn values(set: &RecordSet) -> Result<Vec<RData>, Failure> {
    match set {
        RecordSet::Addresses(addresses) => {
            Ok(addresses.iter().map(|address| RData::from(*address)).collect())
        }
        RecordSet::Services(targets) => targets
            .iter()
            .map(|of| Ok(RData::SRV(SRV::new(of.priority, of.weight, of.port, name_of(&of.target)?))))
            .collect(),
    }
}

/// Whether an update was not made because a prerequisite does not hold.
pub(crate) fn is_unexpected(code: ResponseCode) -> bool {
    matches!(
        code,
        ResponseCode::YXDomain | ResponseCode::YXRRSet | ResponseCode::NXRRSet | ResponseCode::NXDomain
    )
}

/// Records by name and kind, without those of other types and classes, and those whose names are not ours to give.
#[derive(Debug, Default)]
pub(crate) struct Found(BTreeMap<(DomainName, RecordKind), RecordSet>);

impl Found {
    pub(crate) fn add(&mut self, record: &Record) {
        let Some(name) = domain_of(&record.name) else { return };
        match &record.data {
            RData::A(address) => self.address(name, IpAddr::V4(address.0)),
            RData::AAAA(address) => self.address(name, IpAddr::V6(address.0)),
            RData::SRV(service) => {
                let Some(target) = domain_of(&service.target) else { return };
                let SRV { priority, weight, port, .. } = *service;
                let target = ServiceTarget { priority, weight, port, target };
                let none = || RecordSet::Services(BTreeSet::new());
                let set = self.0.entry((name, RecordKind::Services)).or_insert_with(none);
                if let RecordSet::Services(targets) = set {
                    targets.insert(target);
                }
            }
            _ => {}
        }
    }

    fn address(&mut self, name: DomainName, address: IpAddr) {
        let none = || RecordSet::Addresses(BTreeSet::new());
        let set = self.0.entry((name, RecordKind::Addresses)).or_insert_with(none);
        if let RecordSet::Addresses(addresses) = set {
            addresses.insert(address);
        }
    }

    /// What one name holds of one kind.
    pub(crate) fn take(mut self, name: &DomainName, kind: RecordKind) -> Option<RecordSet> {
        self.0.remove(&(name.clone(), kind))
    }

    /// Everything, by name.
    pub(crate) fn all(self) -> Vec<(DomainName, RecordSet)> {
        self.0.into_iter().map(|((name, _), set)| (name, set)).collect()
    }
}

fn domain_of(name: &Name) -> Option<DomainName> {
    name.to_ascii().parse().ok()
}
