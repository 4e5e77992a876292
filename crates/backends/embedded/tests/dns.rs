//! The DNS server as others see it: asked by `dig` over real sockets.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use steadfast_backend_embedded::dns::{DnsOptions, DnsServer, StoreRegistry};
use steadfast_core::Environment;
use steadfast_core::metadata::memory::MemoryDb;
use steadfast_core::metadata::{Key, MetadataDb};
use steadfast_core::registry::{DomainName, NameOutcome, RecordSet, Registry, ServiceTarget};
use tokio::io::AsyncWriteExt as _;

const ZONE: &str = "demo.steadfast.internal";

/// A server of its own per test, with the names of a three-member service.
struct World {
    environment: Environment,
    db: Arc<dyn MetadataDb>,
    registry: StoreRegistry,
    server: DnsServer,
}

impl World {
    async fn new() -> World {
        let environment = Environment::system([7; 32]);
        let db: Arc<dyn MetadataDb> = Arc::new(MemoryDb::new());
        let registry = registry(&db, &environment);
        registry.ensure_zone(&name(ZONE)).await.unwrap();
        let options = DnsOptions::new("127.0.0.1:0".parse().unwrap());
        let server = DnsServer::start(&environment, &registry, options).await.unwrap();
        let world = World { environment, db, registry, server };
        for (owner, values) in [
            ("orders-0", &["127.8.0.10"][..]),
            ("orders-1", &["127.8.0.11", "fd00::11"]),
            ("orders-2", &["127.8.0.12"]),
            ("orders", &["127.8.0.10", "127.8.0.11", "127.8.0.12"]),
            ("primary.orders", &["127.8.0.10"]),
            ("replicas.orders", &["127.8.0.11", "127.8.0.12"]),
            ("primary.ledger", &["127.8.0.20"]),
        ] {
            world.put(owner, values).await;
        }
        let targets = ["orders-0", "orders-1"].map(|target| ServiceTarget {
            priority: 10,
            weight: 5,
            port: 5432,
            target: name(&format!("{target}.{ZONE}")),
        });
        let services = RecordSet::Services(BTreeSet::from(targets));
        let owner = name(&format!("_postgresql._tcp.orders.{ZONE}"));
        assert_eq!(world.registry.upsert(&owner, &services, None).await.unwrap(), NameOutcome::Applied);
        world
    }

    async fn put(&self, owner: &str, values: &[&str]) {
        let owner = name(&format!("{owner}.{ZONE}"));
        let set = addresses(values);
        let held = self.registry.resolve(&owner, set.kind()).await.unwrap();
        let outcome = self.registry.upsert(&owner, &set, held.as_ref()).await.unwrap();
        assert_eq!(outcome, NameOutcome::Applied);
    }

    async fn dig(&self, arguments: &[&str]) -> Reply {
        dig(self.server.address(), arguments).await
    }

    async fn stop(self) {
        self.environment.tasks().stop().await;
    }
}

fn registry(db: &Arc<dyn MetadataDb>, environment: &Environment) -> StoreRegistry {
    StoreRegistry::new(db.clone(), environment, "steadfast/demo".parse::<Key>().unwrap()).unwrap()
}

fn name(text: &str) -> DomainName {
    text.parse().unwrap()
}

fn addresses(values: &[&str]) -> RecordSet {
    RecordSet::Addresses(values.iter().map(|value| value.parse().unwrap()).collect())
}

/// What `dig` printed.
#[derive(Debug)]
struct Reply {
    text: String,
}

impl Reply {
    fn status(&self) -> &str {
        self.between("status: ", ",")
    }

    /// The header's flags: `qr aa rd`.
    fn flags(&self) -> Vec<&str> {
        self.between(";; flags: ", ";").split(' ').collect()
    }

    /// The data of a section's records of one type, sorted.
    fn data(&self, section: &str, kind: &str) -> Vec<String> {
        let mut found: Vec<String> = self
            .section(section)
            .filter_map(|line| {
                let fields: Vec<&str> = line.split_whitespace().collect();
                match fields[..] {
                    [_, "5", "IN", found, ..] if found == kind => Some(fields[4..].join(" ")),
                    _ => None,
                }
            })
            .collect();
        found.sort();
        found
    }

    fn section(&self, section: &str) -> impl Iterator<Item = &str> {
        let head = format!(";; {section} SECTION:");
        self.text.lines().skip_while(move |line| *line != head).skip(1).take_while(|line| !line.is_empty())
    }

    fn count(&self, section: &str) -> usize {
        self.section(section).count()
    }

    fn serial(&self) -> u32 {
        let soa = [self.data("ANSWER", "SOA"), self.data("AUTHORITY", "SOA")].concat();
        soa[0].split(' ').nth(2).unwrap().parse().unwrap()
    }

    fn between(&self, start: &str, end: &str) -> &str {
        let rest = self.text.split(start).nth(1).unwrap_or_else(|| panic!("no {start:?} in {}", self.text));
        rest.split(end).next().unwrap()
    }
}

async fn dig(server: SocketAddr, arguments: &[&str]) -> Reply {
    let output = tokio::process::Command::new("dig")
        .arg(format!("@{}", server.ip()))
        .args(["-p", &server.port().to_string(), "+tries=1", "+time=20", "-r"])
        .args(arguments)
        .output()
        .await
        .expect("dig runs (package bind9-dnsutils)");
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "dig {arguments:?}: {text}");
    assert!(!text.contains("WARNING"), "dig {arguments:?}: {text}");
    Reply { text }
}

#[tokio::test]
async fn the_apex_has_its_authority_and_its_name_server() {
    let world = World::new().await;
    let soa = world.dig(&["+norecurse", ZONE, "SOA"]).await;
    assert_eq!(soa.status(), "NOERROR");
    assert_eq!(soa.flags(), ["qr", "aa"]);
    let [data] = &soa.data("ANSWER", "SOA")[..] else { panic!("{soa:?}") };
    assert!(data.starts_with(&format!("ns.{ZONE}. hostmaster.{ZONE}. ")), "{data}");
    assert!(data.ends_with(" 5"), "the minimum is 5 s: {data}");

    let ns = world.dig(&["+norecurse", ZONE, "NS"]).await;
    assert_eq!(ns.data("ANSWER", "NS"), [format!("ns.{ZONE}.")]);
    assert_eq!(ns.data("ADDITIONAL", "A"), ["127.0.0.1"]);
    let glue = world.dig(&["+norecurse", &format!("ns.{ZONE}"), "A"]).await;
    assert_eq!(glue.data("ANSWER", "A"), ["127.0.0.1"]);
    world.stop().await;
}

#[tokio::test]
async fn names_resolve_by_udp_and_tcp() {
    let world = World::new().await;
    for transport in ["+notcp", "+tcp"] {
        let member = world.dig(&["+norecurse", transport, &format!("orders-1.{ZONE}"), "A"]).await;
        assert_eq!(member.status(), "NOERROR");
        assert_eq!(member.flags(), ["qr", "aa"]);
        assert_eq!(member.data("ANSWER", "A"), ["127.8.0.11"]);
        let v6 = world.dig(&["+norecurse", transport, &format!("orders-1.{ZONE}"), "AAAA"]).await;
        assert_eq!(v6.data("ANSWER", "AAAA"), ["fd00::11"]);
        let all = world.dig(&["+norecurse", transport, &format!("orders.{ZONE}"), "A"]).await;
        assert_eq!(all.data("ANSWER", "A"), ["127.8.0.10", "127.8.0.11", "127.8.0.12"]);
        let primary = world.dig(&["+norecurse", transport, &format!("primary.orders.{ZONE}"), "A"]).await;
        assert_eq!(primary.data("ANSWER", "A"), ["127.8.0.10"]);
        let replicas = world.dig(&["+norecurse", transport, &format!("replicas.orders.{ZONE}"), "A"]).await;
        assert_eq!(replicas.data("ANSWER", "A"), ["127.8.0.11", "127.8.0.12"]);
    }
    world.stop().await;
}

#[tokio::test]
async fn the_first_of_several_addresses_varies() {
    let world = World::new().await;
    let mut first = BTreeSet::new();
    // Ids are random: 64 questions that all began with one of three would be a chance of 1 in 3^63.
    for _ in 0..64 {
        let all = world.dig(&["+noall", "+answer", &format!("orders.{ZONE}"), "A"]).await;
        first.insert(all.text.split_whitespace().nth(4).unwrap().to_owned());
        if first.len() > 1 {
            break;
        }
    }
    assert!(first.len() > 1, "{first:?}");
    world.stop().await;
}

#[tokio::test]
async fn a_service_comes_with_the_addresses_of_its_targets() {
    let world = World::new().await;
    let reply = world.dig(&["+norecurse", &format!("_postgresql._tcp.orders.{ZONE}"), "SRV"]).await;
    let targets = ["orders-0", "orders-1"].map(|target| format!("10 5 5432 {target}.{ZONE}."));
    assert_eq!(reply.data("ANSWER", "SRV"), targets);
    assert_eq!(reply.data("ADDITIONAL", "A"), ["127.8.0.10", "127.8.0.11"]);
    assert_eq!(reply.data("ADDITIONAL", "AAAA"), ["fd00::11"]);
    world.stop().await;
}

#[tokio::test]
async fn an_address_is_called_by_its_member() {
    let world = World::new().await;
    let member = world.dig(&["+norecurse", "-x", "127.8.0.10"]).await;
    assert_eq!(member.flags(), ["qr", "aa"]);
    assert_eq!(member.data("ANSWER", "PTR"), [format!("orders-0.{ZONE}.")], "not by its role");
    let unknown = world.dig(&["+norecurse", "-x", "127.8.0.99"]).await;
    assert_eq!(unknown.status(), "NXDOMAIN");
    assert_eq!(unknown.count("AUTHORITY"), 1);
    let between = world.dig(&["+norecurse", "0.8.127.in-addr.arpa", "PTR"]).await;
    assert_eq!(between.status(), "NOERROR", "there are names below");
    assert_eq!(between.count("ANSWER"), 0);
    let apex = world.dig(&["+norecurse", "127.in-addr.arpa", "SOA"]).await;
    assert_eq!(apex.count("ANSWER"), 1);
    let outside = world.dig(&["+norecurse", "-x", "10.0.0.1"]).await;
    assert_eq!(outside.status(), "REFUSED");
    world.stop().await;
}

#[tokio::test]
async fn what_is_not_there_is_told_apart_from_what_has_no_such_record() {
    let world = World::new().await;
    let cases = [
        ("nobody", "A", "NXDOMAIN"),
        ("orders-9", "AAAA", "NXDOMAIN"),
        ("below.orders-0", "A", "NXDOMAIN"),
        ("orders-0", "AAAA", "NOERROR"),
        ("orders-0", "MX", "NOERROR"),
        ("orders-0", "TYPE4711", "NOERROR"),
        // Only `primary.ledger` exists, so `ledger` does too, with nothing in it.
        ("ledger", "A", "NOERROR"),
        ("_tcp.orders", "SRV", "NOERROR"),
        ("ns", "AAAA", "NOERROR"),
    ];
    for (owner, kind, status) in cases {
        let reply = world.dig(&["+norecurse", &format!("{owner}.{ZONE}"), kind]).await;
        assert_eq!(reply.status(), status, "{owner} {kind}");
        assert_eq!(reply.flags(), ["qr", "aa"], "{owner} {kind}");
        assert_eq!(reply.count("ANSWER"), 0, "{owner} {kind}");
        assert_eq!(reply.data("AUTHORITY", "SOA").len(), 1, "{owner} {kind}");
    }
    world.stop().await;
}

#[tokio::test]
async fn what_is_not_ours_is_refused() {
    let world = World::new().await;
    let cases: [&[&str]; 6] = [
        &["example.com", "A"],
        &["steadfast.internal", "SOA"],
        &[".", "NS"],
        &["version.bind", "TXT", "CH"],
        &[ZONE, "AXFR", "+tcp"],
        &["xdemo.steadfast.internal", "A"],
    ];
    for case in cases {
        let reply = world.dig(&[case, &["+norecurse"]].concat()).await;
        if case.contains(&"AXFR") {
            assert!(reply.text.contains("; Transfer failed."), "{reply:?}");
            continue;
        }
        assert_eq!(reply.status(), "REFUSED", "{case:?}");
        assert_eq!(reply.flags(), ["qr"], "{case:?}");
        assert_eq!(reply.count("ANSWER") + reply.count("AUTHORITY"), 0, "{case:?}");
    }
    world.stop().await;
}

#[tokio::test]
async fn recursion_is_not_available() {
    let world = World::new().await;
    let owner = format!("orders-0.{ZONE}");
    let output = tokio::process::Command::new("dig")
        .args(["@127.0.0.1", "-p", &world.server.address().port().to_string(), "-r", "+recurse", &owner])
        .output()
        .await
        .unwrap();
    let reply = Reply { text: String::from_utf8(output.stdout).unwrap() };
    assert_eq!(reply.flags(), ["qr", "aa", "rd"]);
    assert!(reply.text.contains("recursion requested but not available"));
    world.stop().await;
}

#[tokio::test]
async fn any_gets_one_set_of_records() {
    let world = World::new().await;
    let apex = world.dig(&["+norecurse", "+notcp", ZONE, "ANY"]).await;
    assert_eq!(apex.data("ANSWER", "SOA").len(), 1);
    assert_eq!(apex.count("ANSWER"), 1);
    let member = world.dig(&["+norecurse", "+notcp", &format!("orders-1.{ZONE}"), "ANY"]).await;
    assert_eq!(member.data("ANSWER", "A"), ["127.8.0.11"]);
    assert_eq!(member.count("ANSWER"), 1);
    world.stop().await;
}

#[tokio::test]
async fn case_is_ignored_and_given_back() {
    let world = World::new().await;
    let reply = world.dig(&["+norecurse", "OrDeRs-0.DeMo.Steadfast.INTERNAL", "A"]).await;
    assert_eq!(reply.data("ANSWER", "A"), ["127.8.0.10"]);
    let question = reply.section("QUESTION").next().unwrap();
    assert!(question.starts_with(";OrDeRs-0.DeMo.Steadfast.INTERNAL."), "{question}");
    world.stop().await;
}

#[tokio::test]
async fn edns_is_answered_in_kind() {
    let world = World::new().await;
    let owner = format!("orders-0.{ZONE}");
    let with = world.dig(&["+norecurse", "+edns=0", "+dnssec", "+bufsize=4096", &owner]).await;
    assert!(with.text.contains("; EDNS: version: 0, flags: do; udp: 1232"), "{with:?}");
    let without = world.dig(&["+norecurse", "+noedns", &owner]).await;
    assert!(!without.text.contains("EDNS"), "{without:?}");
    assert_eq!(without.data("ANSWER", "A"), ["127.8.0.10"]);
    let newer = world.dig(&["+norecurse", "+edns=1", "+noednsnegotiation", &owner]).await;
    assert_eq!(newer.status(), "BADVERS");
    assert_eq!(newer.count("ANSWER"), 0);
    world.stop().await;
}

#[tokio::test]
async fn a_long_answer_is_cut_short_and_had_by_tcp() {
    let world = World::new().await;
    let many: Vec<String> = (1..=100).map(|n| format!("127.9.0.{n}")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    world.put("many", &many).await;
    let owner = format!("many.{ZONE}");

    for size in ["+noedns", "+bufsize=512", "+bufsize=4096"] {
        let cut = world.dig(&["+norecurse", "+ignore", "+notcp", size, &owner]).await;
        assert_eq!(cut.flags(), ["qr", "aa", "tc"], "{size}");
        assert_eq!(cut.count("ANSWER"), 0, "{size}");
        assert_eq!(cut.text.contains("EDNS: version: 0"), size != "+noedns", "{size}");
    }
    let whole = world.dig(&["+norecurse", &owner]).await;
    assert!(whole.text.contains("Truncated, retrying in TCP mode"), "{whole:?}");
    assert!(!whole.flags().contains(&"tc"));
    assert_eq!(whole.data("ANSWER", "A").len(), 100);

    // More than 512 bytes, less than 1232: with EDNS it fits.
    world.put("some", &many[..50]).await;
    let owner = format!("some.{ZONE}");
    let fits = world.dig(&["+norecurse", "+ignore", "+notcp", &owner]).await;
    assert_eq!(fits.flags(), ["qr", "aa"]);
    assert_eq!(fits.count("ANSWER"), 50);
    let cut = world.dig(&["+norecurse", "+ignore", "+notcp", "+noedns", &owner]).await;
    assert_eq!(cut.flags(), ["qr", "aa", "tc"]);
    world.stop().await;
}

#[tokio::test]
async fn an_acknowledged_change_is_answered_at_once() {
    let world = World::new().await;
    let before = world.dig(&["+norecurse", ZONE, "SOA"]).await.serial();
    let owner = format!("primary.orders.{ZONE}");
    for address in ["127.8.0.11", "127.8.0.12", "127.8.0.10"] {
        world.put("primary.orders", &[address]).await;
        assert_eq!(world.dig(&["+norecurse", &owner]).await.data("ANSWER", "A"), [address]);
    }
    let after = world.dig(&["+norecurse", ZONE, "SOA"]).await.serial();
    assert!(after >= before + 3, "{before} to {after}");

    let removed = world.registry.remove(&name(&owner), &addresses(&["127.8.0.10"])).await.unwrap();
    assert_eq!(removed, NameOutcome::Applied);
    assert_eq!(world.dig(&["+norecurse", &owner]).await.status(), "NXDOMAIN");
    world.stop().await;
}

#[tokio::test]
async fn a_change_through_the_served_store_is_answered_at_once() {
    let world = World::new().await;
    // As an agent does it: its own registry, on the store as this process serves it.
    let agent = registry(&world.registry.database(), &Environment::system([8; 32]));
    for n in 1..=10 {
        let owner = format!("invoices-{n}.{ZONE}");
        let address = format!("127.10.0.{n}");
        let outcome = agent.upsert(&name(&owner), &addresses(&[&address]), None).await.unwrap();
        assert_eq!(outcome, NameOutcome::Applied);
        assert_eq!(world.dig(&["+norecurse", &owner]).await.data("ANSWER", "A"), [address]);
    }
    world.stop().await;
}

#[tokio::test]
async fn a_change_made_elsewhere_is_answered_soon() {
    let world = World::new().await;
    let elsewhere = registry(&world.db, &Environment::system([9; 32]));
    let owner = format!("invoices-0.{ZONE}");
    let outcome = elsewhere.upsert(&name(&owner), &addresses(&["127.10.0.1"]), None).await.unwrap();
    assert_eq!(outcome, NameOutcome::Applied);
    let asking =
        async { while world.dig(&["+norecurse", &owner]).await.data("ANSWER", "A") != ["127.10.0.1"] {} };
    tokio::time::timeout(Duration::from_secs(60), asking).await.expect("the watch tells of it");
    world.stop().await;
}

#[tokio::test]
async fn garbage_harms_nobody() {
    let world = World::new().await;
    let address = world.server.address();
    let socket = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
    for length in [0, 1, 11, 12, 13, 511, 1500, 9000] {
        for byte in [0x00, 0x5a, 0xc0, 0xff] {
            socket.send_to(&vec![byte; length], address).await.unwrap();
        }
    }
    // Frames of nothing, of rubbish, and one that never comes whole.
    for frame in [&[0, 0][..], &[0, 12, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12], &[0xff, 0xff, 1]] {
        let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
        stream.write_all(frame).await.unwrap();
    }
    for transport in ["+notcp", "+tcp"] {
        let reply = world.dig(&["+norecurse", transport, &format!("orders-0.{ZONE}")]).await;
        assert_eq!(reply.data("ANSWER", "A"), ["127.8.0.10"]);
    }
    world.stop().await;
}

#[tokio::test]
async fn one_connection_takes_several_questions() {
    let world = World::new().await;
    let (first, second) = (format!("orders-0.{ZONE}"), format!("orders-2.{ZONE}"));
    let reply = world.dig(&["+norecurse", "+tcp", "+keepopen", "+short", &first, "A", &second, "A"]).await;
    assert_eq!(reply.text.lines().collect::<Vec<_>>(), ["127.8.0.10", "127.8.0.12"]);
    world.stop().await;
}

#[tokio::test]
async fn an_idle_connection_makes_room_for_the_next() {
    let environment = Environment::system([7; 32]);
    let registry = registry(&(Arc::new(MemoryDb::new()) as Arc<dyn MetadataDb>), &environment);
    registry.ensure_zone(&name(ZONE)).await.unwrap();
    let mut options = DnsOptions::new("127.0.0.1:0".parse().unwrap());
    (options.connections, options.idle) = (1, Duration::from_millis(200));
    let server = DnsServer::start(&environment, &registry, options).await.unwrap();
    let _idle = tokio::net::TcpStream::connect(server.address()).await.unwrap();
    let reply = dig(server.address(), &["+norecurse", "+tcp", ZONE, "SOA"]).await;
    assert_eq!(reply.count("ANSWER"), 1);
    environment.tasks().stop().await;
}

#[tokio::test]
async fn a_port_in_use_is_told() {
    let world = World::new().await;
    let options = DnsOptions::new(world.server.address());
    let error = DnsServer::start(&world.environment, &world.registry, options).await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::AddrInUse);
    world.stop().await;
}

#[tokio::test]
async fn shutdown_frees_the_port() {
    let world = World::new().await;
    let address = world.server.address();
    // An open connection does not hold the server back.
    let _open = tokio::net::TcpStream::connect(address).await.unwrap();
    world.stop().await;
    drop(tokio::net::UdpSocket::bind(address).await.expect("the UDP port is free"));
    drop(tokio::net::TcpListener::bind(address).await.expect("the TCP port is free"));
}

/// The rules of the contract, for a registry that is served.
mod conformance {
    use steadfast_core::conformance::Harness;
    use steadfast_core::conformance::registry::RegistryHarness;

    use super::*;

    struct Served;

    impl Harness for Served {
        type Backend = StoreRegistry;
        type Guard = (Arc<dyn MetadataDb>, DnsServer);

        async fn open(&self) -> (Self::Guard, StoreRegistry) {
            let environment = Environment::system([7; 32]);
            let db: Arc<dyn MetadataDb> = Arc::new(MemoryDb::new());
            let registry = registry(&db, &environment);
            let options = DnsOptions::new("127.0.0.1:0".parse().unwrap());
            let server = DnsServer::start(&environment, &registry, options).await.unwrap();
            ((db, server), registry)
        }

        async fn reopen(&self, (db, _): &Self::Guard) -> StoreRegistry {
            registry(db, &Environment::system([8; 32]))
        }
    }

    impl RegistryHarness for Served {}

    steadfast_core::registry_conformance!(Served);
}
