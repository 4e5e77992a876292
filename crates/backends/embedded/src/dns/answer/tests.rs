use std::collections::BTreeSet;
use std::str::FromStr as _;
use std::sync::LazyLock;

use hickory_proto::rr::rdata::opt::{EdnsCode, EdnsOption};
use proptest::prelude::*;
use steadfast_core::registry::{RecordKind, RecordSet, ServiceTarget};

use super::*;

const SERVER: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(127, 0, 0, 153));

fn name(text: &str) -> DomainName {
    text.parse().unwrap()
}

fn table() -> ZoneTable {
    let mut table = ZoneTable::new();
    table.add_zone(&name("demo.internal"), 100);
    for (owner, values) in [
        ("orders-0.demo.internal", vec!["127.0.0.10".to_owned()]),
        ("orders.demo.internal", vec!["127.0.0.10".to_owned(), "127.0.0.11".to_owned()]),
        ("a.b.c.demo.internal", vec!["10.0.0.1".to_owned(), "fd00::1".to_owned()]),
        ("many.demo.internal", (1..=40).map(|n| format!("127.1.0.{n}")).collect()),
        (
            "most.demo.internal",
            (0..=20).flat_map(|a| (0..=255).map(move |b| format!("127.2.{a}.{b}"))).collect(),
        ),
    ] {
        let set = RecordSet::Addresses(values.iter().map(|value| value.parse().unwrap()).collect());
        table.set(&name(owner), RecordKind::Addresses, Some(&set), 0);
    }
    let targets = (0..8).map(|n| ServiceTarget {
        priority: 1,
        weight: 1,
        port: 6379,
        target: name(&format!("target-{n}-{}.demo.internal", "x".repeat(30))),
    });
    let targets: BTreeSet<ServiceTarget> = targets.collect();
    for target in &targets {
        let set = RecordSet::Addresses((1..=5).map(|n| format!("fd00::{n}").parse().unwrap()).collect());
        table.set(&target.target, RecordKind::Addresses, Some(&set), 0);
    }
    let owner = name("_redis._tcp.orders.demo.internal");
    table.set(&owner, RecordKind::Services, Some(&RecordSet::Services(targets)), 0);
    table
}

fn question(owner: &str, kind: RecordType) -> Message {
    let mut message = Message::new(4711, MessageType::Query, OpCode::Query);
    message.queries.push(Query::query(Name::from_str(owner).unwrap(), kind));
    message
}

fn ask_by(message: &Message, transport: Transport) -> Message {
    let bytes = answer(Some(&table()), Some(SERVER), &message.to_vec().unwrap(), transport).unwrap();
    Message::from_vec(&bytes).unwrap()
}

fn ask(owner: &str, kind: RecordType) -> Message {
    ask_by(&question(owner, kind), Transport::Udp)
}

fn code(reply: &Message) -> ResponseCode {
    reply.metadata.response_code
}

fn flags(bytes: &[u8]) -> (u8, u8) {
    (bytes[2], bytes[3])
}

#[test]
fn silence_for_answers_and_fragments_of_a_header() {
    let mut message = question("orders-0.demo.internal.", RecordType::A);
    message.metadata.message_type = MessageType::Response;
    let table = table();
    let bytes = message.to_vec().unwrap();
    assert_eq!(answer(Some(&table), None, &bytes, Transport::Udp), None);
    for length in 0..12 {
        assert_eq!(answer(Some(&table), None, &vec![0; length], Transport::Udp), None);
    }
}

#[test]
fn a_question_that_does_not_parse_is_a_format_error() {
    let table = table();
    let whole = question("orders-0.demo.internal.", RecordType::A).to_vec().unwrap();
    for length in 12..whole.len() {
        let bytes = answer(Some(&table), None, &whole[..length], Transport::Udp).unwrap();
        let reply = Message::from_vec(&bytes).unwrap();
        assert_eq!((reply.metadata.id, code(&reply)), (4711, ResponseCode::FormErr), "cut at {length}");
    }
    // A name that points at itself.
    let mut looping = whole[..12].to_vec();
    looping.extend([0xc0, 12, 0, 1, 0, 1]);
    let reply = answer(Some(&table), None, &looping, Transport::Udp).unwrap();
    assert_eq!(code(&Message::from_vec(&reply).unwrap()), ResponseCode::FormErr);
}

#[test]
fn there_is_one_question_in_a_question() {
    let mut two = question("orders-0.demo.internal.", RecordType::A);
    two.queries.push(two.queries[0].clone());
    assert_eq!(code(&ask_by(&two, Transport::Udp)), ResponseCode::FormErr);
    let mut none = two.clone();
    none.queries.clear();
    assert_eq!(code(&ask_by(&none, Transport::Udp)), ResponseCode::FormErr);
    // A header that claims as many as it can is answered without making room for them.
    let mut claims = two.to_vec().unwrap();
    claims[4..6].copy_from_slice(&[0xff, 0xff]);
    let reply = answer(Some(&table()), None, &claims, Transport::Udp).unwrap();
    assert_eq!(code(&Message::from_vec(&reply).unwrap()), ResponseCode::FormErr);
}

#[test]
fn only_questions_are_implemented() {
    for op in [OpCode::Update, OpCode::Notify, OpCode::Status, OpCode::Unknown(9)] {
        let mut message = question("demo.internal.", RecordType::SOA);
        message.metadata.op_code = op;
        let reply = ask_by(&message, Transport::Tcp);
        assert_eq!((code(&reply), reply.metadata.op_code), (ResponseCode::NotImp, op));
    }
}

#[test]
fn types_that_are_no_data_are_not_looked_up() {
    for (kind, expected) in [
        (RecordType::AXFR, ResponseCode::Refused),
        (RecordType::IXFR, ResponseCode::Refused),
        (RecordType::OPT, ResponseCode::FormErr),
        (RecordType::Unknown(254), ResponseCode::NotImp),
        (RecordType::Unknown(253), ResponseCode::NotImp),
        (RecordType::TSIG, ResponseCode::FormErr),
        (RecordType::Unknown(200), ResponseCode::FormErr),
        (RecordType::Unknown(256), ResponseCode::NoError),
    ] {
        for transport in [Transport::Udp, Transport::Tcp] {
            let reply = ask_by(&question("demo.internal.", kind), transport);
            assert_eq!(code(&reply), expected, "{kind}");
            assert!(reply.answers.is_empty(), "{kind}");
        }
    }
    for class in [DNSClass::CH, DNSClass::HS, DNSClass::ANY, DNSClass::NONE, DNSClass::Unknown(77)] {
        let mut message = question("demo.internal.", RecordType::SOA);
        message.queries[0].query_class = class;
        assert_eq!(code(&ask_by(&message, Transport::Udp)), ResponseCode::Refused, "{class}");
    }
}

#[test]
fn before_anything_was_loaded_nothing_is_denied() {
    let bytes = question("orders-0.demo.internal.", RecordType::A).to_vec().unwrap();
    let reply = answer(None, Some(SERVER), &bytes, Transport::Udp).unwrap();
    let reply = Message::from_vec(&reply).unwrap();
    assert_eq!(code(&reply), ResponseCode::ServFail);
    assert!(!reply.metadata.authoritative);
}

#[test]
fn existence_is_told_by_the_code() {
    for (owner, kind, expected) in [
        ("orders-0.demo.internal.", RecordType::A, ResponseCode::NoError),
        ("orders-0.demo.internal.", RecordType::TXT, ResponseCode::NoError),
        ("c.demo.internal.", RecordType::A, ResponseCode::NoError),
        ("b.c.demo.internal.", RecordType::ANY, ResponseCode::NoError),
        ("_tcp.orders.demo.internal.", RecordType::SRV, ResponseCode::NoError),
        ("a.b.c.demo.internal.", RecordType::AAAA, ResponseCode::NoError),
        ("x.a.b.c.demo.internal.", RecordType::A, ResponseCode::NXDomain),
        ("bb.c.demo.internal.", RecordType::A, ResponseCode::NXDomain),
        ("*.demo.internal.", RecordType::A, ResponseCode::NXDomain),
        // One label that contains a dot is not two labels.
        ("b\\.c.demo.internal.", RecordType::A, ResponseCode::NXDomain),
        ("orders-0\\.demo.internal.", RecordType::A, ResponseCode::Refused),
        ("internal.", RecordType::A, ResponseCode::Refused),
        (".", RecordType::NS, ResponseCode::Refused),
    ] {
        let reply = ask(owner, kind);
        assert_eq!(code(&reply), expected, "{owner} {kind}");
        let ours = expected != ResponseCode::Refused;
        assert_eq!(reply.metadata.authoritative, ours, "{owner} {kind}");
        let negative = ours && reply.answers.is_empty();
        let soas = reply.authorities.iter().filter(|record| record.record_type() == RecordType::SOA).count();
        assert_eq!(soas, usize::from(negative), "{owner} {kind}");
        assert_eq!(reply.authorities.len(), soas, "{owner} {kind}");
    }
}

#[test]
fn a_label_of_any_bytes_is_a_name_that_is_not_there() {
    let mut message = question("x.demo.internal.", RecordType::A);
    message.queries[0].name = Name::from_labels([&b"\0\xff?."[..], b"demo", b"internal"]).unwrap();
    let reply = ask_by(&message, Transport::Udp);
    assert_eq!(code(&reply), ResponseCode::NXDomain);
    assert_eq!(reply.queries, message.queries);
}

#[test]
fn flags_are_those_of_an_authority_without_recursion() {
    let mut message = question("orders-0.demo.internal.", RecordType::A);
    message.metadata.recursion_desired = true;
    message.metadata.authentic_data = true;
    let bytes = message.to_vec().unwrap();
    let reply = answer(Some(&table()), None, &bytes, Transport::Udp).unwrap();
    assert_eq!(flags(&reply), (0b1000_0101, 0), "QR, AA, RD; not RA, not AD");
}

#[test]
fn the_name_of_the_server_has_its_address_unless_a_service_took_it() {
    let ns = ask("ns.demo.internal.", RecordType::A);
    assert_eq!(ns.answers[0].data, RData::A(A(std::net::Ipv4Addr::new(127, 0, 0, 153))));

    let mut table = table();
    let set = RecordSet::Addresses(BTreeSet::from(["127.3.0.1".parse().unwrap()]));
    table.set(&name("ns.demo.internal"), RecordKind::Addresses, Some(&set), 0);
    let bytes = question("ns.demo.internal.", RecordType::A).to_vec().unwrap();
    let reply = answer(Some(&table), Some(SERVER), &bytes, Transport::Udp).unwrap();
    let reply = Message::from_vec(&reply).unwrap();
    assert_eq!(reply.answers.len(), 1);
    assert_eq!(reply.answers[0].data, RData::A(A(std::net::Ipv4Addr::new(127, 3, 0, 1))));
}

#[test]
fn the_order_of_addresses_turns_with_the_id() {
    let first = |id: u16| {
        let mut message = question("orders.demo.internal.", RecordType::A);
        message.metadata.id = id;
        ask_by(&message, Transport::Udp).answers[0].data.clone()
    };
    assert_ne!(first(0), first(1));
    assert_eq!(first(0), first(2));
}

#[test]
fn what_is_merely_helpful_goes_first_and_the_edns_record_stays() {
    let mut message = question("_redis._tcp.orders.demo.internal.", RecordType::SRV);
    let mut edns = Edns::new();
    edns.set_max_payload(1232);
    edns.options_mut().insert(EdnsOption::Unknown(u16::from(EdnsCode::Cookie), vec![1; 8]));
    message.edns = Some(edns);
    let whole = ask_by(&message, Transport::Tcp);
    assert_eq!((whole.answers.len(), whole.additionals.len()), (8, 40));

    let less = ask_by(&message, Transport::Udp);
    assert_eq!((less.answers.len(), less.additionals.len()), (8, 0));
    assert!(!less.metadata.truncation, "the answer itself is whole");
    assert_eq!(less.edns.unwrap().max_payload(), UDP_PAYLOAD);

    message.edns.as_mut().unwrap().set_max_payload(0);
    let cut = ask_by(&message, Transport::Udp);
    assert!(cut.metadata.truncation, "less than 512 is taken for 512");
    assert_eq!((cut.queries.len(), cut.answers.len(), cut.additionals.len()), (1, 0, 0));
    assert!(cut.edns.is_some());
}

#[test]
fn what_not_even_tcp_can_carry_is_cut_short() {
    let reply = ask_by(&question("most.demo.internal.", RecordType::A), Transport::Tcp);
    assert!(reply.metadata.truncation);
    assert_eq!(code(&reply), ResponseCode::NoError);
}

#[test]
fn an_unknown_version_of_edns_is_told_so() {
    let mut message = question("orders-0.demo.internal.", RecordType::A);
    let mut edns = Edns::new();
    edns.set_version(1);
    message.edns = Some(edns);
    let reply = ask_by(&message, Transport::Udp);
    assert_eq!(u16::from(code(&reply)), 16, "BADVERS");
    assert_eq!(reply.edns.unwrap().version(), 0);
    assert!(reply.answers.is_empty());
}

/// Whatever comes in: no panic, and what goes out is an answer to it, within the bounds of its transport.
fn check_any(bytes: &[u8]) {
    static TABLE: LazyLock<ZoneTable> = LazyLock::new(table);
    for (transport, limit) in [(Transport::Udp, 1232), (Transport::Tcp, 65_535)] {
        let Some(reply) = answer(Some(&*TABLE), Some(SERVER), bytes, transport) else { continue };
        assert!(reply.len() <= limit, "{} bytes by {transport:?}", reply.len());
        assert_eq!(reply[..2], bytes[..2], "the id");
        let parsed = Message::from_vec(&reply).unwrap();
        assert_eq!(parsed.metadata.message_type, MessageType::Response);
        assert!(!parsed.metadata.recursion_available);
    }
}

proptest! {
    #[test]
    fn any_bytes_are_survived(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        check_any(&bytes);
    }

    #[test]
    fn any_damage_to_a_question_is_survived(
        owner in prop::sample::select(vec![
            "orders.demo.internal.", "many.demo.internal.", "10.0.0.127.in-addr.arpa.",
            "_redis._tcp.orders.demo.internal.", "x.example.",
        ]),
        kind in any::<u16>(),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
        tail in prop::collection::vec(any::<u8>(), 0..40),
    ) {
        let mut message = question(owner, RecordType::from(kind));
        message.edns = Some(Edns::new());
        let mut bytes = message.to_vec().unwrap();
        for (at, value) in damage {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        bytes.extend(tail);
        check_any(&bytes);
    }
}
