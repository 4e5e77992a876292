use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use futures::FutureExt as _;
use futures::future::BoxFuture;
use steadfast_core::layer::fault::{Fault, Faults};
use steadfast_core::layer::{Call, Contract as _, Layer};
use steadfast_core::metadata::MetadataDb;
use steadfast_core::metadata::memory::MemoryDb;
use steadfast_core::runtime::Entropy;

use super::*;

fn addresses(range: &str) -> LoopbackAddresses {
    on(Arc::new(MemoryDb::new()), range)
}

fn on(db: Arc<dyn MetadataDb>, range: &str) -> LoopbackAddresses {
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
    assert_eq!((error.kind(), error.effect()), (ErrorKind::QuotaExceeded, steadfast_core::Effect::None));
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

/// The process dies at any of its calls of the store, the call done or not done. The owner finds its address again,
/// nobody else gets it, and nothing leaks.
#[tokio::test]
async fn a_crash_between_the_records_leaks_nothing() {
    const MEMBERS: u32 = 3;
    let mut crashed = 0;
    for round in 0..MEMBERS * 12 * 2 {
        let (who, step, fault) =
            (round % MEMBERS, round / MEMBERS / 2, [Fault::Stalled, Fault::Swallowed][round as usize % 2]);
        let db: Arc<dyn MetadataDb> = Arc::new(MemoryDb::new());
        let healthy = on(db.clone(), "127.3.3.4/30");
        let faults = Faults::new();
        let dying = on(faults.around(db), "127.3.3.4/30");
        // Others are in the way, so that the owner may have to try more than one address.
        healthy.allocate(&member(10), None).await.unwrap();
        faults.after(step, 1, |_| true, fault);
        if dying.allocate(&member(who), None).now_or_never().is_none() {
            crashed += 1;
        }
        for n in 0..MEMBERS {
            healthy.allocate(&member(n), None).await.unwrap();
        }
        let before = healthy.allocate(&member(who), None).await.unwrap();
        check_records(&healthy, 4).await;

        faults.clear();
        faults.after(step, 1, |_| true, fault);
        let released = dying.release(before, &member(who)).now_or_never();
        crashed += u32::from(released.is_none());
        healthy.release(before, &member(who)).await.unwrap();
        check_records(&healthy, 3).await;
        assert_eq!(healthy.allocate(&member(11), None).await.unwrap(), before, "the only one left");
    }
    assert!(crashed > 20, "{crashed}");
}

/// What two requests of one owner can leave behind if both die at the wrong moment.
#[tokio::test]
async fn a_repair_removes_what_is_nobodys_and_nothing_else() {
    let addresses = addresses("127.3.3.4/30");
    let kept = addresses.allocate(&member(0), None).await.unwrap();
    for (address, owner) in [("127.3.3.4", 0), ("127.3.3.5", 0), ("127.3.3.6", 0), ("127.3.3.7", 9)] {
        let key = addresses.address_key(address.parse().unwrap()).unwrap();
        let record =
            AddressRecord { owner: member(owner), holder: None, condemned: owner == 9, extra: Map::new() };
        match addresses.records.create(&key, &record).await.unwrap() {
            WriteOutcome::Applied(_) => {}
            WriteOutcome::Conflict => assert_eq!(kept.to_string(), address),
        }
    }
    assert_eq!(addresses.list().await.unwrap().len(), 4);
    assert_eq!(addresses.repair().await.unwrap(), 3);
    assert_eq!(addresses.repair().await.unwrap(), 0);
    assert_eq!(addresses.allocate(&member(0), None).await.unwrap(), kept);
    for n in 1..4 {
        addresses.allocate(&member(n), None).await.unwrap();
    }
    check_records(&addresses, 4).await;
}

/// Requests from several processes, interleaved in every way that chance finds, with repairs and other owners' releases
/// in between, on a range where everybody is in everybody's way: an owner who gives nothing back gets one address,
/// however often and from wherever it asks.
#[tokio::test]
async fn racing_requests_repairs_and_releases_never_share_an_address() {
    for seed in 0..200_u16 {
        let random = Entropy::from_seed(std::array::from_fn(|n| seed.to_be_bytes()[n % 2]));
        let db = Yields(random.fork("yields")).around(Arc::new(MemoryDb::new()));
        let addresses = on(db, "127.3.3.4/30");
        let given: Mutex<BTreeMap<MemberId, IpAddr>> = Mutex::default();
        let ask = |n: u32| {
            let (addresses, random, given) = (addresses.clone(), random.fork(&n.to_string()), &given);
            async move {
                for _ in 0..6 {
                    let number = u32::try_from(random.u64() % 4).unwrap();
                    let (owner, keeps) = (member(u32::from(seed) * 4 + number), number < 2);
                    let address = match addresses.allocate(&owner, None).await {
                        Ok(address) => address,
                        // An address that is being given up still counts, and there is one for each owner.
                        Err(error) if error.kind() == ErrorKind::QuotaExceeded => continue,
                        Err(error) => panic!("seed {seed}: {error}"),
                    };
                    if keeps {
                        let first = *given.lock().unwrap().entry(owner.clone()).or_insert(address);
                        assert_eq!(address, first, "seed {seed}: {owner} has two");
                        let status = addresses.status(address).await.unwrap().expect("it was given");
                        assert_eq!(status.owner, owner, "seed {seed}");
                    } else if let Err(error) = addresses.release(address, &owner).await {
                        // Another task may have given it back for this owner, and somebody else has it by now.
                        assert_eq!(error.kind(), ErrorKind::Stale, "seed {seed}: {error}");
                    }
                }
            }
        };
        let repair = async {
            for _ in 0..4 {
                addresses.repair().await.unwrap();
            }
        };
        futures::future::join(futures::future::join_all((0..4).map(ask)), repair).await;
        check_records(&addresses, addresses.list().await.unwrap().len()).await;
    }
}

/// Each address belongs to an owner who is meant to have it, and each intent has its address.
async fn check_records(addresses: &LoopbackAddresses, count: usize) {
    let all = addresses.list().await.unwrap();
    let owners: BTreeSet<_> = all.iter().map(|status| status.owner.clone()).collect();
    assert_eq!((all.len(), owners.len()), (count, count), "{all:?}");
    for status in &all {
        let meant = addresses.owner(&status.owner).await.unwrap().expect("its owner is meant to have it");
        assert_eq!(IpAddr::V4(meant.body.address), status.address);
    }
    let key = addresses.records.key(["ip-owners"]).unwrap();
    let intents = addresses.records.list::<OwnerRecord>(&key).await.unwrap();
    assert_eq!(intents.len(), count, "an intent without an address is left");
}

/// Gives way to the other tasks before and after each call, now and then.
#[derive(Debug, Clone)]
struct Yields(Entropy);

impl Yields {
    fn around(&self, db: Arc<dyn MetadataDb>) -> Arc<dyn MetadataDb> {
        db.wrap(self.clone())
    }

    async fn give_way(&self) {
        for _ in 0..self.0.u64() % 4 {
            tokio::task::yield_now().await;
        }
    }
}

impl Layer for Yields {
    async fn call<'a, T, F>(&'a self, _call: Call<'a>, attempt: F) -> Result<T>
    where
        T: Send + 'a,
        F: Fn() -> BoxFuture<'a, Result<T>> + Send + Sync + 'a,
    {
        self.give_way().await;
        let outcome = attempt().await;
        self.give_way().await;
        outcome
    }
}

mod conformance {
    use steadfast_core::conformance::Harness;
    use steadfast_core::conformance::ip::IpHarness;

    use super::*;

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
}
