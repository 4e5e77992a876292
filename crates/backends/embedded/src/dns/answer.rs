//! From the bytes of a question to the bytes of its answer: no socket, no clock, no state of its own.
//!
//! What it keeps to: RFC 1035 and 2181 (answers, truncation), 2308 (negative answers), 6891 (EDNS), 8020 (a name
//! with something below it exists), 8482 (ANY gets one set of records). It never recurses, transfers no zone
//! and takes no update.

use std::net::IpAddr;
use std::time::Duration;

use hickory_proto::op::{Edns, Header, Message, MessageType, Metadata, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::opt::EdnsOption;
use hickory_proto::rr::rdata::{A, AAAA, NS, PTR, SOA, SRV};
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType};
use hickory_proto::serialize::binary::{BinDecodable, BinDecoder};
use steadfast_core::registry::DomainName;

use super::table::{Sets, Zone, ZoneTable, path_of};
use super::{EXPIRE, TTL};

/// What there is to answer from. A table alone is one that is in step with the store.
#[derive(Debug, Clone, Copy)]
pub struct Known<'a> {
    /// The names; none: they were never read, or so long ago that nobody is told them any more.
    pub table: Option<&'a ZoneTable>,
    /// For how long the names could not be read, if they cannot be.
    pub unread: Option<Duration>,
}

impl<'a> From<Option<&'a ZoneTable>> for Known<'a> {
    fn from(table: Option<&'a ZoneTable>) -> Self {
        Known { table, unread: None }
    }
}

/// How a question came, which bounds the answer's size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// At most 512 bytes, or what the asker says it can take, but never more than goes unfragmented.
    Udp,
    /// At most 65,535 bytes.
    Tcp,
}

/// The largest UDP answer: what passes everywhere without being fragmented.
const UDP_PAYLOAD: u16 = 1232;
/// The largest UDP answer to somebody who does not say what they can take.
const UDP_PAYLOAD_PLAIN: u16 = 512;
/// MAILB, MAILA: the types of questions that were given up long ago.
const MAILB: u16 = 253;
const MAILA: u16 = 254;

/// The answer to `request`, or `None` where silence is the answer: to what is too short to have a header, and
/// to what is itself an answer (else two servers could keep each other busy).
///
/// Without a table every question gets SERVFAIL. That, and an answer that may be out of date, is explained to whoever
/// speaks EDNS (RFC 8914). `server` is the address that the name server's own name resolves to.
pub fn answer<'a>(
    known: impl Into<Known<'a>>,
    server: Option<IpAddr>,
    request: &[u8],
    transport: Transport,
) -> Option<Vec<u8>> {
    let header = Header::read(&mut BinDecoder::new(request)).ok()?;
    if header.metadata.message_type == MessageType::Response {
        return None;
    }
    // Checked before the rest is parsed, which makes room for as many questions as the header says there are.
    let early = match (header.metadata.op_code, header.counts.queries) {
        (OpCode::Query, 1) => None,
        (OpCode::Query, _) => Some(ResponseCode::FormErr),
        _ => Some(ResponseCode::NotImp),
    };
    if let Some(code) = early {
        return encode(&failure(&header.metadata, code));
    }
    let Ok(request) = Message::from_vec(request) else {
        return encode(&failure(&header.metadata, ResponseCode::FormErr));
    };
    let limit = match (transport, &request.edns) {
        (Transport::Tcp, _) => u16::MAX,
        (Transport::Udp, None) => UDP_PAYLOAD_PLAIN,
        (Transport::Udp, Some(edns)) => edns.max_payload().clamp(UDP_PAYLOAD_PLAIN, UDP_PAYLOAD),
    };
    fit(respond(known.into(), server, &request), usize::from(limit))
}

fn failure(request: &Metadata, code: ResponseCode) -> Message {
    let mut reply = Message::response(request.id, request.op_code);
    reply.metadata = Metadata::response_from_request(request);
    reply.metadata.response_code = code;
    reply
}

fn respond(known: Known<'_>, server: Option<IpAddr>, request: &Message) -> Message {
    let mut reply = failure(&request.metadata, ResponseCode::NoError);
    reply.queries.clone_from(&request.queries);
    reply.edns = request.edns.as_ref().map(|theirs| {
        let mut ours = Edns::new();
        ours.set_max_payload(UDP_PAYLOAD).set_version(0).set_dnssec_ok(theirs.flags().dnssec_ok);
        ours
    });
    if request.edns.as_ref().is_some_and(|edns| edns.version() > 0) {
        reply.metadata.response_code = ResponseCode::BADVERS;
        return reply;
    }
    if let (Some(edns), Some(why)) = (&mut reply.edns, explanation(known)) {
        edns.options_mut().insert(why);
    }
    reply.metadata.response_code = match (request.queries.first(), known.table) {
        (None, _) => ResponseCode::FormErr,
        (Some(query), _) if let Some(refusal) = refusal(query) => refusal,
        (Some(_), None) => ResponseCode::ServFail,
        (Some(query), Some(table)) => match Lookup::new(table, server, query) {
            Some(lookup) => lookup.fill(&mut reply),
            None => ResponseCode::Refused,
        },
    };
    reply
}

/// What is wrong with our knowledge, as an extended error (RFC 8914 §4.4, §4.15).
fn explanation(known: Known<'_>) -> Option<EdnsOption> {
    const EXTENDED_ERROR: u16 = 15;
    const STALE_ANSWER: u16 = 3;
    const NOT_READY: u16 = 14;
    let (code, text) = match (known.table, known.unread) {
        (Some(_), None) => return None,
        (Some(_), Some(unread)) => (STALE_ANSWER, format!("names as of {} s ago", unread.as_secs())),
        (None, Some(unread)) => {
            (NOT_READY, format!("the names could not be read for {} s", unread.as_secs()))
        }
        (None, None) => (NOT_READY, "the names were not read yet".to_owned()),
    };
    Some(EdnsOption::Unknown(EXTENDED_ERROR, [&code.to_be_bytes()[..], text.as_bytes()].concat()))
}

/// What is not even looked up.
fn refusal(query: &Query) -> Option<ResponseCode> {
    if query.query_class() != DNSClass::IN {
        return Some(ResponseCode::Refused);
    }
    match query.query_type() {
        RecordType::ANY => None,
        RecordType::AXFR | RecordType::IXFR => Some(ResponseCode::Refused),
        RecordType::OPT => Some(ResponseCode::FormErr),
        other => match u16::from(other) {
            MAILA | MAILB => Some(ResponseCode::NotImp),
            // The range of types that only occur in questions or in the machinery (RFC 6895 §3.1).
            128..=255 => Some(ResponseCode::FormErr),
            _ => None,
        },
    }
}

/// A question within one of our zones.
struct Lookup<'a> {
    table: &'a ZoneTable,
    server: Option<IpAddr>,
    zone: &'a Zone,
    query: &'a Query,
    path: String,
    turn: usize,
}

impl<'a> Lookup<'a> {
    fn new(table: &'a ZoneTable, server: Option<IpAddr>, query: &'a Query) -> Option<Self> {
        let path = path_of_query(query.name());
        let zone = table.zone(&path)?;
        Some(Lookup { table, server, zone, query, path, turn: 0 })
    }

    fn fill(mut self, reply: &mut Message) -> ResponseCode {
        reply.metadata.authoritative = true;
        // Which of several addresses comes first differs from question to question, since most clients take
        // the first: by the question's id, which is random already.
        self.turn = usize::from(reply.metadata.id);
        // The owner is spelt as in the question, as clients that check the spelling expect.
        let owner = self.query.name().clone();
        reply.answers = self.matching().into_iter().map(|data| record(owner.clone(), data)).collect();
        if reply.answers.is_empty() {
            reply.authorities.push(record(wire(&self.zone.origin), self.soa()));
            return if self.exists() { ResponseCode::NoError } else { ResponseCode::NXDomain };
        }
        reply.additionals = self.companions(&reply.answers);
        ResponseCode::NoError
    }

    fn matching(&self) -> Vec<RData> {
        match self.query.query_type() {
            RecordType::ANY => {
                [RecordType::SOA, RecordType::A, RecordType::AAAA, RecordType::SRV, RecordType::PTR]
                    .into_iter()
                    .map(|kind| self.of(kind))
                    .find(|found| !found.is_empty())
                    .unwrap_or_default()
            }
            kind => self.of(kind),
        }
    }

    fn of(&self, kind: RecordType) -> Vec<RData> {
        let sets = self.table.sets(&self.path);
        match kind {
            RecordType::SOA if self.is_apex() => vec![self.soa()],
            RecordType::NS if self.is_apex() => vec![RData::NS(NS(wire(&self.zone.server)))],
            RecordType::A | RecordType::AAAA => {
                let mut found = addresses(sets, self.own_address(&self.path), kind);
                if !found.is_empty() {
                    let turn = self.turn % found.len();
                    found.rotate_left(turn);
                }
                found
            }
            RecordType::SRV => sets
                .iter()
                .flat_map(|sets| &sets.services)
                .map(|to| RData::SRV(SRV::new(to.priority, to.weight, to.port, wire(&to.target))))
                .collect(),
            RecordType::PTR => sets
                .and_then(|sets| sets.pointer.as_ref())
                .map(|name| RData::PTR(PTR(wire(name))))
                .into_iter()
                .collect(),
            _ => Vec::new(),
        }
    }

    /// The addresses of the hosts that the answers name, as far as they are ours.
    fn companions(&self, answers: &[Record]) -> Vec<Record> {
        let mut hosts: Vec<&Name> = Vec::new();
        for answer in answers {
            let host = match &answer.data {
                RData::SRV(service) => &service.target,
                RData::NS(server) => &server.0,
                _ => continue,
            };
            if !hosts.contains(&host) {
                hosts.push(host);
            }
        }
        let mut records = Vec::new();
        for host in hosts {
            let path = path_of_query(host);
            if self.table.zone(&path).is_some() {
                let sets = self.table.sets(&path);
                for kind in [RecordType::A, RecordType::AAAA] {
                    let found = addresses(sets, self.own_address(&path), kind);
                    records.extend(found.into_iter().map(|data| record(host.clone(), data)));
                }
            }
        }
        records
    }

    fn exists(&self) -> bool {
        self.is_apex()
            || self.table.sets(&self.path).is_some()
            || self.own_address(&self.path).is_some()
            || self.table.has_below(&self.path)
    }

    fn is_apex(&self) -> bool {
        self.path == path_of(&self.zone.origin)
    }

    /// The server's own address, if `path` is what its zone calls it.
    fn own_address(&self, path: &str) -> Option<IpAddr> {
        let zone = self.table.zone(path)?;
        self.server.filter(|_| path == path_of(&zone.server))
    }

    fn soa(&self) -> RData {
        // Nobody copies the zone, so the two intervals for those who do are customary values.
        const REFRESH: i32 = 3600;
        const RETRY: i32 = 600;
        RData::SOA(SOA::new(
            wire(&self.zone.server),
            wire(&self.zone.contact),
            self.zone.serial,
            REFRESH,
            RETRY,
            i32::try_from(EXPIRE.as_secs()).unwrap_or(i32::MAX),
            TTL,
        ))
    }
}

/// The addresses of one kind; a name without any of its own has the `fallback`.
fn addresses(sets: Option<&Sets>, fallback: Option<IpAddr>, kind: RecordType) -> Vec<RData> {
    let held = sets.map(|sets| &sets.addresses).filter(|held| !held.is_empty());
    let all = held.into_iter().flatten().chain(fallback.as_ref().filter(|_| held.is_none()));
    all.filter_map(|address| match address {
        IpAddr::V4(address) if kind == RecordType::A => Some(RData::A(A(*address))),
        IpAddr::V6(address) if kind == RecordType::AAAA => Some(RData::AAAA(AAAA(*address))),
        _ => None,
    })
    .collect()
}

fn record(owner: Name, data: RData) -> Record {
    Record::from_rdata(owner, TTL, data)
}

fn wire(name: &DomainName) -> Name {
    Name::from_ascii(format!("{name}.")).expect("every domain name of ours is a name on the wire")
}

/// As [`path_of`]. A label that no name of ours can have becomes `?`, which matches none.
fn path_of_query(name: &Name) -> String {
    let mut path = String::with_capacity(name.len() + 1);
    for label in name.iter().rev() {
        match std::str::from_utf8(label) {
            Ok(label) if label.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_')) => {
                path.push_str(&label.to_ascii_lowercase());
            }
            _ => path.push('?'),
        }
        path.push('.');
    }
    path
}

/// Encodes the reply in at most `limit` bytes: first without what is merely helpful, then as the bare question
/// with the truncation bit, which sends the asker to TCP. The EDNS record stays in either case.
fn fit(mut reply: Message, limit: usize) -> Option<Vec<u8>> {
    let whole = encode(&reply)?;
    if whole.len() <= limit && !is_truncated(&whole) {
        return Some(whole);
    }
    if !reply.additionals.is_empty() {
        reply.additionals.clear();
        let shorter = encode(&reply)?;
        if shorter.len() <= limit && !is_truncated(&shorter) {
            return Some(shorter);
        }
    }
    reply.answers.clear();
    reply.authorities.clear();
    reply.metadata.truncation = true;
    encode(&reply)
}

/// Whether the encoder itself left something out, as it does at 65,535 bytes.
fn is_truncated(message: &[u8]) -> bool {
    const TRUNCATION: u8 = 0b0000_0010;
    message.get(2).is_some_and(|flags| flags & TRUNCATION != 0)
}

fn encode(reply: &Message) -> Option<Vec<u8>> {
    reply
        .to_vec()
        .or_else(|error| {
            tracing::error!(%error, "an answer does not encode");
            failure(&reply.metadata, ResponseCode::ServFail).to_vec()
        })
        .ok()
}

#[cfg(test)]
mod tests;
