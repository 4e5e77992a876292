//! What a server refuses, loses or garbles, and what a registry says of it.
#![allow(clippy::unwrap_used, reason = "tests: a failure is a panic")]

mod handle;
mod named;

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::process::Command;

use handle::registry;
use named::{KEY, Named, POOR, ZONES};
use steadfast_core::error::Effect;
use steadfast_core::registry::{
    DomainName, NameOutcome, RecordKind, RecordSet, Registry as _, ServiceTarget,
};
use steadfast_core::{Error, ErrorKind};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

fn set(addresses: &[&str]) -> RecordSet {
    RecordSet::Addresses(addresses.iter().map(|address| address.parse::<IpAddr>().unwrap()).collect())
}

fn name(label: &str) -> DomainName {
    format!("{label}.{}", ZONES[0]).parse().unwrap()
}

fn says(error: &Error, kind: ErrorKind, effect: Effect, text: &str) {
    assert_eq!((error.kind(), error.effect()), (kind, effect), "{error}");
    assert!(error.message().contains(text), "{error}");
}

async fn dig(named: &Named, arguments: &[&str]) -> String {
    let server = named.address();
    let output = Command::new("dig")
        .args([&format!("@{}", server.ip()), "-p", &server.port().to_string(), "+short"])
        .args(arguments)
        .output()
        .unwrap_or_else(|error| panic!("dig: {error}: scripts/install-packages dig"));
    String::from_utf8(output.stdout).unwrap().trim().replace('\n', " ")
}

#[tokio::test]
async fn what_was_acknowledged_is_in_the_answers_of_the_server() {
    let named = Named::start();
    let names = registry(named.address(), KEY);
    let target = ServiceTarget { priority: 10, weight: 1, port: 6379, target: name("orders-0") };
    let services = RecordSet::Services(BTreeSet::from([target]));
    let both = set(&["10.0.0.1", "fd00::1"]);
    assert_eq!(names.upsert(&name("orders-0"), &both, None).await.unwrap(), NameOutcome::Applied);
    assert_eq!(dig(&named, &["A", name("orders-0").as_str()]).await, "10.0.0.1");
    assert_eq!(dig(&named, &["+tcp", "AAAA", name("orders-0").as_str()]).await, "fd00::1");
    assert_eq!(
        names.upsert(&name("_redis._tcp.orders"), &services, None).await.unwrap(),
        NameOutcome::Applied
    );
    let found = dig(&named, &["SRV", name("_redis._tcp.orders").as_str()]).await;
    assert_eq!(found, format!("10 1 6379 {}.", name("orders-0")));
    let other = set(&["10.0.0.2"]);
    assert_eq!(names.upsert(&name("orders-0"), &other, Some(&both)).await.unwrap(), NameOutcome::Applied);
    assert_eq!(dig(&named, &["A", name("orders-0").as_str()]).await, "10.0.0.2");
    assert_eq!(
        dig(&named, &["AAAA", name("orders-0").as_str()]).await,
        "",
        "the other family is gone with it"
    );
    assert_eq!(names.remove(&name("orders-0"), &other).await.unwrap(), NameOutcome::Applied);
    assert_eq!(dig(&named, &["A", name("orders-0").as_str()]).await, "");
}

#[tokio::test]
async fn a_server_that_dies_keeps_what_was_acknowledged() {
    let mut named = Named::start();
    let names = registry(named.address(), KEY);
    for number in 0..20 {
        let made = names.upsert(&name(&format!("orders-{number}")), &set(&["10.0.0.1"]), None).await.unwrap();
        assert_eq!(made, NameOutcome::Applied);
    }
    named.kill();
    let refused = names.upsert(&name("orders-0"), &set(&["10.0.0.2"]), None).await.unwrap_err();
    says(&refused, ErrorKind::Unavailable, Effect::None, "refused");
    named.begin();
    for number in 0..20 {
        let found = names.resolve(&name(&format!("orders-{number}")), RecordKind::Addresses).await.unwrap();
        assert_eq!(found, Some(set(&["10.0.0.1"])), "orders-{number}");
    }
}

#[tokio::test]
async fn a_zone_of_many_messages_is_read_whole() {
    let named = Named::start();
    let names = registry(named.address(), KEY);
    // 2,000 names take more than the 65,535 bytes of one message.
    let many = |number: u32| format!("a-name-that-is-rather-long-for-a-member-{number:04}");
    let mut expected = Vec::new();
    for number in 0..2_000 {
        let made = names.upsert(&name(&many(number)), &set(&["10.0.0.1"]), None).await.unwrap();
        assert_eq!(made, NameOutcome::Applied);
        expected.push((name(&many(number)), set(&["10.0.0.1"])));
    }
    assert_eq!(names.records(&ZONES[0].parse().unwrap()).await.unwrap(), expected);
}

#[tokio::test]
async fn a_key_that_is_unknown_or_another_or_may_nothing_is_told_apart() {
    let named = Named::start();
    let try_with = async |key: &str| {
        registry(named.address(), key).upsert(&name("orders-0"), &set(&["10.0.0.1"]), None).await.unwrap_err()
    };
    // What refuses these cannot sign, so it may be anybody.
    let unknown = try_with(&KEY.replace("\"steadfast\"", "\"stranger\"")).await;
    says(&unknown, ErrorKind::Denied, Effect::Unknown, "does not know the key");
    let another = try_with(&KEY.replace("pRP5", "pRP6")).await;
    says(&another, ErrorKind::Denied, Effect::Unknown, "another secret");
    says(&try_with(POOR).await, ErrorKind::Denied, Effect::None, "update-policy");
    let listed = registry(named.address(), POOR).records(&ZONES[0].parse().unwrap()).await.unwrap_err();
    says(&listed, ErrorKind::Denied, Effect::None, "allow-transfer");
    let found =
        registry(named.address(), KEY).resolve(&name("orders-0"), RecordKind::Addresses).await.unwrap();
    assert_eq!(found, None, "none of them has done anything");
}

#[tokio::test]
async fn a_zone_that_the_server_has_not_is_refused() {
    let named = Named::start();
    let names = registry(named.address(), KEY);
    for zone in ["nowhere.internal", "below.conformance.steadfast.internal"] {
        let refused = names.ensure_zone(&zone.parse().unwrap()).await.unwrap_err();
        assert_eq!(refused.effect(), Effect::None, "{refused}");
    }
    let below =
        names.ensure_zone(&"below.conformance.steadfast.internal".parse().unwrap()).await.unwrap_err();
    says(&below, ErrorKind::Invalid, Effect::None, "make the zone there");
}

/// A server that takes the request and hangs up, or answers with what it was asked.
async fn impostor(answers: bool) -> std::net::SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut bytes = vec![0; usize::from(stream.read_u16().await.unwrap())];
            stream.read_exact(&mut bytes).await.unwrap();
            if answers {
                // The request as an answer without an error: its signature is that of a question.
                bytes[2] |= 0x80;
                stream.write_u16(u16::try_from(bytes.len()).unwrap()).await.unwrap();
                stream.write_all(&bytes).await.unwrap();
            }
        }
    });
    address
}

#[tokio::test]
async fn an_answer_that_is_lost_or_not_the_servers_leaves_it_open_what_has_happened() {
    for (answers, text) in [(false, ""), (true, "not the server's answer")] {
        let names = registry(impostor(answers).await, KEY);
        let failed = names.upsert(&name("orders-0"), &set(&["10.0.0.1"]), None).await.unwrap_err();
        says(&failed, ErrorKind::Unavailable, Effect::Unknown, text);
        let failed = names.resolve(&name("orders-0"), RecordKind::Addresses).await.unwrap_err();
        says(&failed, ErrorKind::Unavailable, Effect::None, text);
    }
}
