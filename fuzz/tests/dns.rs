//! Questions to the DNS server: whatever a socket brings.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

use std::net::IpAddr;

use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query};
use hickory_proto::rr::{Name, RecordType};
use steadfast_backend_embedded::dns::{Transport, ZoneTable, answer};
use steadfast_core::registry::{DomainName, RecordKind, RecordSet, ServiceTarget};
use steadfast_fuzz::{Material, fuzz};

fn domain(text: &str) -> DomainName {
    text.parse().unwrap()
}

fn table() -> ZoneTable {
    let mut table = ZoneTable::new();
    let now = 1_000_000;
    table.add_zone(&domain("demo.steadfast.internal"), now);
    table.add_zone(&domain("steadfast.internal"), now);
    let addresses = |last: std::ops::Range<u8>| {
        RecordSet::Addresses(last.map(|last| IpAddr::from([127, 70, 0, last])).collect())
    };
    let hosts = [
        ("orders-0", 1..2),
        ("orders-1", 2..3),
        ("orders", 1..3),
        ("primary.orders", 1..2),
        ("many", 1..250),
    ];
    for (host, range) in hosts {
        let name = domain(&format!("{host}.demo.steadfast.internal"));
        table.set(&name, RecordKind::Addresses, Some(&addresses(range)), now);
    }
    let six = domain("six.demo.steadfast.internal");
    let both = RecordSet::Addresses(["::1".parse().unwrap(), "127.70.1.1".parse().unwrap()].into());
    table.set(&six, RecordKind::Addresses, Some(&both), now);
    let targets = (0..60).map(|port| ServiceTarget {
        priority: 0,
        weight: 1,
        port: 6379 + port,
        target: domain(if port % 2 == 0 {
            "orders-0.demo.steadfast.internal"
        } else {
            "many.demo.steadfast.internal"
        }),
    });
    let services = RecordSet::Services(targets.collect());
    table.set(
        &domain("_redis._tcp.orders.demo.steadfast.internal"),
        RecordKind::Services,
        Some(&services),
        now,
    );
    table
}

fn seeds() -> Vec<Vec<u8>> {
    let names = [
        "orders-0.demo.steadfast.internal.",
        "ORDERS.demo.steadfast.internal.",
        "many.demo.steadfast.internal.",
        "_redis._tcp.orders.demo.steadfast.internal.",
        "demo.steadfast.internal.",
        "1.0.70.127.in-addr.arpa.",
        "nobody.demo.steadfast.internal.",
        "example.org.",
        ".",
    ];
    let kinds = [
        RecordType::A,
        RecordType::AAAA,
        RecordType::SRV,
        RecordType::SOA,
        RecordType::NS,
        RecordType::PTR,
        RecordType::ANY,
    ];
    let mut seeds = Vec::new();
    for (index, name) in names.iter().enumerate() {
        for kind in kinds {
            let mut message =
                Message::new(u16::try_from(index).unwrap() * 7 + 1, MessageType::Query, OpCode::Query);
            message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
            if index % 2 == 0 {
                let mut edns = Edns::new();
                edns.set_max_payload(4096);
                message.edns = Some(edns);
            }
            seeds.push(message.to_vec().unwrap());
        }
    }
    seeds
}

/// Parts of messages: pointers of names, odd labels, types, classes, option records, counts.
const WORDS: &[&[u8]] = &[
    b"\xc0\x0c",
    b"\xc0\x00",
    b"\xff\xff",
    b"\x00",
    b"\x3f",
    b"\x40",
    b"\x80",
    b"\x06orders",
    b"\x04demo",
    b"\x09steadfast\x08internal\x00",
    b"\x00\x01\x00\x01",
    b"\x00\xff\x00\xff",
    b"\x00\x29\x10\x00\x00\x00\x00\x00\x00\x00",
    b"\x00\x29\x00\x00\x00\xff\x00\x00\xff\xff",
    b"\x00\xfa",
    b"\x00\xfb",
    b"\x00\xfc",
    b"\x00\x21",
    b"\x00\x0c",
    b"\xff\xff\xff\xff\xff\xff\xff\xff",
    b"\x01a",
    b"\x02\x00\x2e",
    b"\x00\x01\x00\x00\x00\x00\x00\x00",
];

#[test]
fn any_packet_gets_silence_or_an_answer_that_parses() {
    let table = table();
    let server = Some(IpAddr::from([127, 0, 0, 153]));
    let material = Material { seeds: seeds(), words: WORDS.iter().map(|word| word.to_vec()).collect() };
    fuzz("dns", &material, 6_000, |bytes| {
        for (transport, most) in [(Transport::Udp, 1232), (Transport::Tcp, 65_535)] {
            for table in [Some(&table), None] {
                let Some(reply) = answer(table, server, bytes, transport) else { continue };
                assert!(reply.len() <= most, "{} bytes by {transport:?}", reply.len());
                assert_eq!(reply[..2], bytes[..2], "the id");
                let parsed = Message::from_vec(&reply).unwrap();
                assert_eq!(parsed.metadata.message_type, MessageType::Response);
                assert!(!parsed.metadata.recursion_available, "nobody is recursed for");
                // Nobody can be hit hard by a forged question: a plain one gets at most 512 bytes.
                if transport == Transport::Udp && parsed.edns.is_none() {
                    assert!(
                        reply.len() <= 512,
                        "{} bytes to somebody who did not say what they take",
                        reply.len()
                    );
                }
            }
        }
    });
}
