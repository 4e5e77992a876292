use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use steadfast_core::conformance::Harness;
use steadfast_core::conformance::ip::IpHarness;
use steadfast_core::ids::MemberId;
use steadfast_core::ip::IpProvider as _;
use steadfast_core::metadata::Records;
use steadfast_core::metadata::memory::MemoryDb;
use steadfast_core::runtime::Entropy;
use steadfast_core::{Effect, ErrorKind};

use super::*;

fn addresses(range: &str) -> LoopbackAddresses {
    let db = Arc::new(MemoryDb::new());
    let records = Records::new(db, Entropy::from_seed([2; 32]), "steadfast/c1".parse().unwrap());
    LoopbackAddresses::new(records, range.parse().unwrap())
}

fn member(n: u32) -> MemberId {
    format!("m-{n}").parse().unwrap()
}

/// W-29: the ancestor reached 251 of the 1019 addresses of a /22.
#[tokio::test]
async fn every_address_of_the_range_is_given_out_once() {
    let addresses = addresses("127.0.0.0/22");
    assert_eq!(addresses.range().len(), 508);
    let mut given = BTreeSet::new();
    for n in 0..508 {
        let address = addresses.allocate(&member(n), None).await.unwrap();
        let IpAddr::V4(v4) = address else { panic!("{address}") };
        assert!(addresses.range().contains(v4), "{v4}");
        assert!(given.insert(address), "{address} was given twice");
        assert_eq!(addresses.allocate(&member(n), None).await.unwrap(), address);
    }
    let error = addresses.allocate(&member(508), None).await.unwrap_err();
    assert_eq!((error.kind(), error.effect()), (ErrorKind::QuotaExceeded, Effect::None));
    let freed = addresses.allocate(&member(100), None).await.unwrap();
    addresses.release(freed, &member(100)).await.unwrap();
    assert_eq!(addresses.allocate(&member(508), None).await.unwrap(), freed);
}

#[test]
fn a_range_is_checked_and_the_problem_named() {
    for (text, count) in [
        ("127.77.0.0/16", 65_024),
        ("127.0.0.0/8", 65_536 * 254 - 508),
        ("127.0.1.0/24", 0),
        ("127.0.2.0/24", 254),
        ("127.5.5.0/30", 3),
        ("127.5.5.252/30", 3),
        ("127.5.5.7/32", 1),
    ] {
        match text.parse::<LoopbackRange>() {
            Ok(range) => {
                assert_eq!(range.len(), count, "{text}");
                for index in [0, range.len() / 2, range.len() - 1] {
                    assert!(range.contains(range.nth(index)), "{text}: {}", range.nth(index));
                }
            }
            Err(error) => assert_eq!(count, 0, "{error}"),
        }
    }
    for (text, problem) in [
        ("127.0.0.0", "prefix"),
        ("::1/128", "not an IPv4 address"),
        ("127.1.0.0/7", "from 8 to 32"),
        ("127.1.0.0/x", "from 8 to 32"),
        ("10.0.0.0/8", "127.0.0.0/8"),
        ("127.1.0.1/16", "write 127.1.0.0/16"),
        ("127.0.0.0/24", "no address"),
        ("127.9.9.0/32", "no address"),
    ] {
        let error = text.parse::<LoopbackRange>().unwrap_err().to_string();
        assert!(error.contains(problem) && error.contains(text), "{error}");
    }
}

struct Loopback;

impl Harness for Loopback {
    type Backend = LoopbackAddresses;
    type Guard = LoopbackAddresses;

    async fn open(&self) -> (LoopbackAddresses, LoopbackAddresses) {
        let addresses = addresses("127.9.0.0/23");
        (addresses.clone(), addresses)
    }

    async fn reopen(&self, guard: &LoopbackAddresses) -> LoopbackAddresses {
        guard.clone()
    }
}

impl IpHarness for Loopback {
    fn range(&self) -> Option<usize> {
        Some(508)
    }
}

steadfast_core::ip_conformance!(Loopback);
