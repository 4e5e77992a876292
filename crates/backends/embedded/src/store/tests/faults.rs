//! Disks that fill up, fail and lose power.

use std::collections::BTreeMap;
use std::io;

use steadfast_core::Effect;

use super::disk::{Disk, Fault};
use super::*;

#[tokio::test]
async fn writers_at_the_same_time_share_a_flush() {
    let disk = Disk::default();
    let store = disk.open().unwrap();
    let before = disk.state().flushes;
    futures::future::join_all((0..200).map(|n| {
        let store = store.clone();
        async move { applied(&store, &format!("a/{n}"), "x", Precondition::Absent).await }
    }))
    .await;
    let flushes = disk.state().flushes - before;
    assert!((1..=20).contains(&flushes), "{flushes} flushes for 200 writes");
}

#[tokio::test]
async fn a_write_that_loses_needs_no_flush() {
    let disk = Disk::default();
    let store = disk.open().unwrap();
    applied(&store, "a", "x", Precondition::Absent).await;
    let before = disk.state().flushes;
    let lost = store.put(&key("a"), Bytes::new(), Precondition::Absent).await.unwrap();
    assert_eq!(lost, CasOutcome::Conflict);
    assert_eq!(disk.state().flushes, before);
}

/// Whatever write or flush the disk fails at: the error says truly whether it happened, everything acknowledged
/// stays readable, and the store works again by itself once the disk does.
#[tokio::test]
async fn a_disk_that_fails_and_recovers_loses_nothing_and_needs_no_restart() {
    let kinds = [
        (io::ErrorKind::StorageFull, ErrorKind::QuotaExceeded),
        (io::ErrorKind::ReadOnlyFilesystem, ErrorKind::Denied),
        (io::ErrorKind::Other, ErrorKind::Unavailable),
    ];
    let mut seen = BTreeMap::new();
    for round in 0..80_u32 {
        let (kind, expected) = kinds[round as usize % kinds.len()];
        let disk = Disk::default();
        let store = disk.open().unwrap();
        applied(&store, "kept", "kept", Precondition::Absent).await;
        disk.state().fails = Some(Fault { after: round / 2, kind, once: round % 2 == 0 });
        let mut acknowledged = Vec::new();
        let mut uncertain = Vec::new();
        for n in 0..40 {
            let key = key(&format!("a/{n}"));
            match store.put(&key, vec![b'x'; 3000].into(), Precondition::Absent).await {
                Ok(outcome) => {
                    assert!(matches!(outcome, CasOutcome::Applied(_)));
                    acknowledged.push(key);
                }
                Err(error) => {
                    *seen.entry(format!("{:?}", error.effect())).or_insert(0) += 1;
                    assert_eq!(error.kind(), expected, "{error:?}");
                    assert!(error.to_string().contains("/disk/store.redb"), "{error}");
                    uncertain.push((key, error.effect()));
                    break;
                }
            }
        }
        disk.state().fails = None;
        // A read may be what finds the store closed; it asks for it to be opened, and another one finds it open.
        let found = until_it_answers(&store, "kept").await;
        assert_eq!(found.unwrap().value, "kept");
        for key in &acknowledged {
            assert!(store.get(key).await.unwrap().is_some(), "{key} was acknowledged");
        }
        for (key, effect) in uncertain {
            let found = store.get(&key).await.unwrap();
            assert!(found.is_none() || effect == Effect::Unknown, "{key} was said not to have happened");
        }
        applied(&store, "after", "after", Precondition::Absent).await;
    }
    assert!(seen.len() == 2, "both effects were met: {seen:?}");
}

async fn until_it_answers(store: &RedbStore, name: &str) -> Option<Record> {
    let clock = steadfast_core::runtime::SystemClock::new();
    let environment = steadfast_core::Environment::new(Arc::new(clock), entropy(), Default::default());
    let answered = environment.timeout(std::time::Duration::from_secs(30), async {
        loop {
            match store.get(&key(name)).await {
                Ok(found) => return found,
                Err(error) => assert_eq!(error.effect(), Effect::None),
            }
            environment.clock().sleep(std::time::Duration::from_millis(1)).await;
        }
    });
    answered.await.expect("the store opens again once the disk works")
}

#[tokio::test]
async fn a_full_disk_refuses_writes_without_effect_and_goes_on_reading() {
    let disk = Disk::default();
    let store = disk.open().unwrap();
    let version = applied(&store, "a", "x", Precondition::Absent).await;
    disk.state().no_room = true;
    let error = store.delete(&key("a"), &version).await.unwrap_err();
    assert_eq!((error.kind(), error.effect()), (ErrorKind::QuotaExceeded, Effect::None));
    assert_eq!((error.operation(), error.subject()), ("delete", "a"));
    assert!(error.to_string().contains("free space where /disk/store.redb lies"), "{error}");
    assert_eq!(store.get(&key("a")).await.unwrap().unwrap().value, "x");
    disk.state().no_room = false;
    assert_eq!(store.delete(&key("a"), &version).await.unwrap(), CasOutcome::Applied(version));
}

/// Power fails at any write; of what was not flushed any sectors survive. What was acknowledged is there.
#[tokio::test]
async fn a_torn_last_write_loses_nothing_that_was_acknowledged() {
    let mut interrupted = 0;
    for seed in 0..150_u8 {
        let random = Entropy::from_seed([seed; 32]);
        let disk = Disk::default();
        let store = disk.open().unwrap();
        let after = u32::try_from(random.u64() % 120).unwrap();
        disk.state().fails = Some(Fault { after, kind: io::ErrorKind::Other, once: false });
        let mut acknowledged: BTreeMap<Key, Record> = BTreeMap::new();
        let mut begun: Option<(Key, Bytes)> = None;
        for n in 0..60 {
            let key = key(&format!("a/{}", random.u64() % 12));
            let value = Bytes::from(vec![n; usize::try_from(random.u64() % 6000).unwrap()]);
            let expected = match acknowledged.get(&key) {
                Some(record) => Precondition::Version(record.version.clone()),
                None => Precondition::Absent,
            };
            match store.put(&key, value.clone(), expected).await {
                Ok(CasOutcome::Applied(version)) => drop(acknowledged.insert(key, Record { version, value })),
                Ok(CasOutcome::Conflict) => panic!("nobody else writes"),
                Err(_) => {
                    interrupted += 1;
                    begun = Some((key, value));
                    break;
                }
            }
        }
        let disk = disk.after_power_failure(&random);
        drop(store);
        let store = disk.open().unwrap_or_else(|error| panic!("seed {seed}: {error:?}"));
        for (key, record) in &acknowledged {
            let found = store.get(key).await.unwrap().unwrap();
            let in_flight = begun.as_ref().is_some_and(|(k, value)| k == key && *value == found.value);
            assert!(found == *record || in_flight, "seed {seed}: {key} was acknowledged");
        }
        applied(&store, "after", "after", Precondition::Absent).await;
    }
    assert!(interrupted > 50, "{interrupted} interrupted");
}
