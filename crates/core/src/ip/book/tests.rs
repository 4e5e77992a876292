use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use futures::FutureExt as _;

use super::*;
use crate::layer::fault::{Fault, Faults};
use crate::layer::{Call, Contract as _, Layer};
use crate::metadata::MetadataDb;
use crate::metadata::memory::MemoryDb;
use crate::runtime::Entropy;

/// So many addresses from 192.0.2.4 on.
#[derive(Debug, Clone, Copy)]
struct Few(u32);

impl AddressRange for Few {
    const KIND: &'static str = "few addresses";

    fn len(&self) -> u32 {
        self.0
    }

    fn nth(&self, index: u32) -> Ipv4Addr {
        Ipv4Addr::from(u32::from(Ipv4Addr::new(192, 0, 2, 4)) + index)
    }
}

impl Display for Few {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

fn addresses(count: u32) -> AddressBook<Few> {
    on(Arc::new(MemoryDb::new()), count)
}

fn on(db: Arc<dyn MetadataDb>, count: u32) -> AddressBook<Few> {
    let records = Records::new(db, Entropy::from_seed([2; 32]), "steadfast/c1".parse().unwrap());
    AddressBook::new(records, Few(count))
}

fn member(n: u32) -> MemberId {
    format!("m-{n}").parse().unwrap()
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
        let healthy = on(db.clone(), 4);
        let faults = Faults::new();
        let dying = on(faults.around(db), 4);
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
    let addresses = addresses(4);
    let kept = addresses.allocate(&member(0), None).await.unwrap();
    for (address, owner) in [("192.0.2.4", 0), ("192.0.2.5", 0), ("192.0.2.6", 0), ("192.0.2.7", 9)] {
        let key = addresses.address_key(address.parse().unwrap()).unwrap();
        let record = AddressRecord {
            owner: member(owner),
            holder: None,
            link: None,
            condemned: owner == 9,
            extra: Map::new(),
        };
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
        let addresses = on(db, 4);
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
async fn check_records(addresses: &AddressBook<Few>, count: usize) {
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
    async fn call<'a, T, F, A>(&'a self, _call: Call<'a>, attempt: F) -> Result<T>
    where
        T: Send + 'a,
        F: Fn() -> A + Copy + Send + Sync + 'a,
        A: Future<Output = Result<T>> + Send + 'a,
    {
        self.give_way().await;
        let outcome = attempt().await;
        self.give_way().await;
        outcome
    }
}

/// Who comes next knows by the link that it was one of us; a look that names none forgets nothing.
#[tokio::test]
async fn the_last_link_of_an_address_is_kept() {
    let addresses = addresses(4);
    let [first, second]: [NodeName; 2] = ["node-1", "node-2"].map(|name| name.parse().unwrap());
    let address = addresses.allocate(&member(0), None).await.unwrap();
    assert_eq!(addresses.last_link(address).await.unwrap(), None);
    for (link, kept) in [(Some("a"), "a"), (None, "a"), (Some("b"), "b")] {
        let outcome = addresses.assign_at(address, &first, None, link).await.unwrap();
        assert_eq!(outcome, AddressOutcome::Applied);
        assert_eq!(addresses.last_link(address).await.unwrap().as_deref(), Some(kept));
    }
    let stale = addresses.assign_at(address, &second, None, Some("c")).await.unwrap();
    assert_eq!(stale, AddressOutcome::Stale(Some(first.clone())));
    assert_eq!(addresses.unassign(address, &first).await.unwrap(), AddressOutcome::Applied);
    assert_eq!(addresses.last_link(address).await.unwrap().as_deref(), Some("b"));
}

#[cfg(feature = "conformance")]
mod conformance {
    use crate::conformance::Harness;
    use crate::conformance::ip::IpHarness;

    use super::*;

    struct Book;

    impl Harness for Book {
        type Backend = AddressBook<Few>;
        type Guard = AddressBook<Few>;

        async fn open(&self) -> (AddressBook<Few>, AddressBook<Few>) {
            let addresses = addresses(508);
            (addresses.clone(), addresses)
        }

        async fn reopen(&self, guard: &AddressBook<Few>) -> AddressBook<Few> {
            guard.clone()
        }
    }

    impl IpHarness for Book {
        fn range(&self) -> Option<usize> {
            Some(508)
        }
    }

    crate::ip_conformance!(Book);
}
