//! The rules of [`MetadataDb`].

use std::future::poll_fn;
use std::task::Poll;

use bytes::Bytes;
use futures::future::join_all;

use super::{Harness, id, refused, skip, soon};
use crate::error::ErrorKind;
use crate::metadata::{CasOutcome, Key, MetadataDb, Precondition, Record, Version};

mod model;
mod watch;

pub use model::operations_agree_with_a_map;
pub use watch::*;

/// Makes a test of each rule of [`MetadataDb`]; see [`conformance`](crate::conformance).
#[macro_export]
macro_rules! metadata_conformance {
    (#[$attribute:meta] $harness:expr) => {
        $crate::__conformance_tests! {
            #[$attribute] metadata, $harness,
            an_absent_key_has_no_record
            create_is_exclusive
            a_version_does_not_create
            stale_version_conflicts
            every_write_has_its_own_version
            recreated_key_never_reuses_a_version
            delete_needs_the_current_version
            values_come_back_as_they_were_put
            keys_that_look_alike_are_apart
            an_overlong_value_is_invalid
            a_second_handle_sees_every_acknowledged_write
            acknowledged_writes_survive_reopening
            scan_is_ordered_and_prefix_exact
            scan_pages_meet_without_gap_or_repeat
            scanned_versions_are_current
            racing_creates_have_one_winner
            racing_updates_have_one_winner
            a_counter_counts_every_acknowledged_increment
            a_dropped_put_is_all_or_nothing
            watch_hints_every_acknowledged_change
            watch_hints_changes_through_other_handles
            watch_keeps_to_its_prefix
            a_slow_watcher_is_told_what_it_missed
            a_watch_ends_with_the_backend
            operations_agree_with_a_map
        }
    };
    ($harness:expr) => {
        $crate::metadata_conformance!(
            #[::tokio::test]
            $harness
        );
    };
}

fn key(text: &str) -> Key {
    id(text)
}

fn text(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

async fn put(
    db: &impl MetadataDb,
    key: &Key,
    value: impl Into<Bytes>,
    precondition: Precondition,
) -> CasOutcome {
    db.put(key, value.into(), precondition).await.expect("a put on a healthy backend is answered")
}

async fn read(db: &impl MetadataDb, key: &Key) -> Option<Record> {
    db.get(key).await.expect("a get on a healthy backend is answered")
}

#[track_caller]
fn applied(outcome: CasOutcome) -> Version {
    match outcome {
        CasOutcome::Applied(version) => version,
        CasOutcome::Conflict => panic!("nobody else wrote, so there is no conflict"),
    }
}

async fn create(db: &impl MetadataDb, key: &Key, value: &str) -> Version {
    applied(put(db, key, text(value), Precondition::Absent).await)
}

async fn update(db: &impl MetadataDb, key: &Key, value: &str, version: &Version) -> Version {
    applied(put(db, key, text(value), Precondition::Version(version.clone())).await)
}

async fn delete(db: &impl MetadataDb, key: &Key, version: &Version) -> CasOutcome {
    db.delete(key, version).await.expect("a delete on a healthy backend is answered")
}

/// A key that was never written has no record, and is no error.
pub async fn an_absent_key_has_no_record<H: Harness<Backend: MetadataDb>>(harness: &H) {
    let (_guard, db) = harness.open().await;
    create(&db, &key("rule/a/b"), "below").await;
    assert_eq!(read(&db, &key("rule/a")).await, None);
    assert_eq!(read(&db, &key("rule/a/b/c")).await, None);
}

/// Of two creations of one key the second is a conflict and changes nothing.
pub async fn create_is_exclusive<H: Harness<Backend: MetadataDb>>(harness: &H) {
    let (_guard, db) = harness.open().await;
    let version = create(&db, &key("rule/a"), "first").await;
    assert_eq!(put(&db, &key("rule/a"), "second", Precondition::Absent).await, CasOutcome::Conflict);
    assert_eq!(read(&db, &key("rule/a")).await, Some(Record { version, value: text("first") }));
}

/// A put that expects a version never makes a key that is absent.
pub async fn a_version_does_not_create<H: Harness<Backend: MetadataDb>>(harness: &H) {
    let (_guard, db) = harness.open().await;
    let version = create(&db, &key("rule/a"), "other").await;
    let outcome = put(&db, &key("rule/b"), "new", Precondition::Version(version)).await;
    assert_eq!(outcome, CasOutcome::Conflict);
    assert_eq!(read(&db, &key("rule/b")).await, None);
}

/// A put that expects an earlier version is a conflict and changes nothing.
pub async fn stale_version_conflicts<H: Harness<Backend: MetadataDb>>(harness: &H) {
    let (_guard, db) = harness.open().await;
    let first = create(&db, &key("rule/a"), "first").await;
    let second = update(&db, &key("rule/a"), "second", &first).await;
    let outcome = put(&db, &key("rule/a"), "third", Precondition::Version(first)).await;
    assert_eq!(outcome, CasOutcome::Conflict);
    assert_eq!(read(&db, &key("rule/a")).await, Some(Record { version: second, value: text("second") }));
}

/// Writing the same bytes again is a write: the version changes.
pub async fn every_write_has_its_own_version<H: Harness<Backend: MetadataDb>>(harness: &H) {
    let (_guard, db) = harness.open().await;
    let first = create(&db, &key("rule/a"), "same").await;
    let second = update(&db, &key("rule/a"), "same", &first).await;
    let third = update(&db, &key("rule/a"), "same", &second).await;
    assert!(first != second && second != third && first != third, "{first:?} {second:?} {third:?}");
}

/// A version from before a deletion never matches what was made after it.
pub async fn recreated_key_never_reuses_a_version<H: Harness<Backend: MetadataDb>>(harness: &H) {
    let (_guard, db) = harness.open().await;
    let mut seen: Vec<Version> = Vec::new();
    for _ in 0..4 {
        let version = create(&db, &key("rule/a"), "same").await;
        assert!(!seen.contains(&version), "{version:?} was used before");
        for old in &seen {
            let outcome = put(&db, &key("rule/a"), "late", Precondition::Version(old.clone())).await;
            assert_eq!(outcome, CasOutcome::Conflict);
        }
        seen.push(version.clone());
        applied(delete(&db, &key("rule/a"), &version).await);
    }
}

/// Only the version that is there can be deleted; what is absent, or another version, is a conflict.
pub async fn delete_needs_the_current_version<H: Harness<Backend: MetadataDb>>(harness: &H) {
    let (_guard, db) = harness.open().await;
    let first = create(&db, &key("rule/a"), "first").await;
    assert_eq!(delete(&db, &key("rule/b"), &first).await, CasOutcome::Conflict);
    let second = update(&db, &key("rule/a"), "second", &first).await;
    assert_eq!(delete(&db, &key("rule/a"), &first).await, CasOutcome::Conflict);
    assert!(read(&db, &key("rule/a")).await.is_some(), "a conflict deletes nothing");
    assert_eq!(delete(&db, &key("rule/a"), &second).await, CasOutcome::Applied(second.clone()));
    assert_eq!(read(&db, &key("rule/a")).await, None);
    assert_eq!(delete(&db, &key("rule/a"), &second).await, CasOutcome::Conflict);
}

/// Any bytes are kept as they are: none, zeros, what is no text, and as many as the backend says it takes.
pub async fn values_come_back_as_they_were_put<H: Harness<Backend: MetadataDb>>(harness: &H) {
    let (_guard, db) = harness.open().await;
    let most = db.capabilities().max_value_bytes.min(1 << 20);
    let long: Vec<u8> = (0..most).map(|n| (n % 251) as u8).collect();
    let all: Vec<u8> = (0..=u8::MAX).collect();
    for (name, value) in [("none", vec![]), ("zeros", vec![0; 9]), ("all", all), ("long", long)] {
        let key = key(&format!("rule/{name}"));
        applied(put(&db, &key, value.clone(), Precondition::Absent).await);
        let found = read(&db, &key).await.expect("it was put");
        assert!(found.value == value, "{name}: {} bytes became {}", value.len(), found.value.len());
    }
}

/// Keys that differ in case or punctuation only are different keys, and the longest key is taken.
pub async fn keys_that_look_alike_are_apart<H: Harness<Backend: MetadataDb>>(harness: &H) {
    let (_guard, db) = harness.open().await;
    let longest = format!("rule/{}", "x".repeat(512 - "rule/".len()));
    let names = [
        "rule/a", "rule/A", "rule/a.b", "rule/a-b", "rule/a_b", "rule/a:b", "rule/a@b", "rule/a/b", &longest,
    ];
    for name in names {
        create(&db, &key(name), name).await;
    }
    for name in names {
        let found = read(&db, &key(name)).await.expect("it was created");
        assert_eq!(found.value, text(name));
    }
}

/// A value longer than the backend says it takes is refused, and nothing happens.
pub async fn an_overlong_value_is_invalid<H: Harness<Backend: MetadataDb>>(harness: &H) {
    let (_guard, db) = harness.open().await;
    let most = db.capabilities().max_value_bytes;
    if most > 64 << 20 {
        return skip("an_overlong_value_is_invalid", &db, "takes values too long to try");
    }
    let version = create(&db, &key("rule/a"), "short").await;
    let long = Bytes::from(vec![b'x'; most + 1]);
    let update = Precondition::Version(version.clone());
    refused(db.put(&key("rule/a"), long.clone(), update).await, ErrorKind::Invalid);
    refused(db.put(&key("rule/b"), long, Precondition::Absent).await, ErrorKind::Invalid);
    assert_eq!(read(&db, &key("rule/a")).await, Some(Record { version, value: text("short") }));
    assert_eq!(read(&db, &key("rule/b")).await, None);
}

/// Whatever handle a write was acknowledged through, the next read through any other sees it.
pub async fn a_second_handle_sees_every_acknowledged_write<H: Harness<Backend: MetadataDb>>(harness: &H) {
    let (guard, first) = harness.open().await;
    let second = harness.reopen(&guard).await;
    let mut version = create(&first, &key("rule/a"), "0").await;
    for round in 1..20 {
        let (writer, reader) = if round % 2 == 0 { (&first, &second) } else { (&second, &first) };
        version = update(writer, &key("rule/a"), &round.to_string(), &version).await;
        let expected = Record { version: version.clone(), value: text(&round.to_string()) };
        assert_eq!(read(reader, &key("rule/a")).await.as_ref(), Some(&expected));
        let page = reader.scan(&key("rule"), None, 10).await.expect("a scan is answered");
        assert_eq!(page.items, [(key("rule/a"), expected)]);
    }
    applied(delete(&second, &key("rule/a"), &version).await);
    assert_eq!(read(&first, &key("rule/a")).await, None);
}

/// What a durable backend has acknowledged is there after every handle was closed.
pub async fn acknowledged_writes_survive_reopening<H: Harness<Backend: MetadataDb>>(harness: &H) {
    let (guard, db) = harness.open().await;
    if !db.capabilities().durable {
        return skip("acknowledged_writes_survive_reopening", &db, "is not durable");
    }
    let kept = create(&db, &key("rule/kept"), "kept").await;
    let gone = create(&db, &key("rule/gone"), "gone").await;
    applied(delete(&db, &key("rule/gone"), &gone).await);
    drop(db);
    let db = harness.reopen(&guard).await;
    assert_eq!(read(&db, &key("rule/kept")).await, Some(Record { version: kept, value: text("kept") }));
    assert_eq!(read(&db, &key("rule/gone")).await, None);
    let again = create(&db, &key("rule/gone"), "again").await;
    assert_ne!(again, gone, "a version is not reused after a restart either");
}

/// A scan has what lies under the prefix by whole segments, without the prefix itself, in key order.
pub async fn scan_is_ordered_and_prefix_exact<H: Harness<Backend: MetadataDb>>(harness: &H) {
    let (_guard, db) = harness.open().await;
    let names = [
        "members/a/b",
        "members/a",
        "members/ab",
        "members/a-b/c",
        "members/a/c/d",
        "members/b",
        "memb/a",
        "members/a/B",
        "members/a/b-1",
        "members/a/b.1",
        "members/A/b",
        "members",
    ];
    for name in names {
        create(&db, &key(name), name).await;
    }
    let scanned = |prefix: &'static str| {
        let db = &db;
        async move {
            let page = db.scan(&key(prefix), None, 100).await.expect("a scan is answered");
            assert!(!page.more);
            for (key, record) in &page.items {
                assert_eq!(record.value, text(key.as_str()));
            }
            page.items.into_iter().map(|(key, _)| key.as_str().to_owned()).collect::<Vec<_>>()
        }
    };
    let under_a = ["members/a/B", "members/a/b", "members/a/b-1", "members/a/b.1", "members/a/c/d"];
    assert_eq!(scanned("members/a").await, under_a);
    let mut all: Vec<&str> = names.into_iter().filter(|name| name.starts_with("members/")).collect();
    all.sort_unstable();
    assert_eq!(scanned("members").await, all);
    assert_eq!(scanned("members/b").await, [""; 0]);
    assert_eq!(scanned("nothing").await, [""; 0]);
}

/// Pages of any size follow one another without gap or repeat; `more` is right to the last; a page may begin
/// after a key that is not there.
pub async fn scan_pages_meet_without_gap_or_repeat<H: Harness<Backend: MetadataDb>>(harness: &H) {
    let (_guard, db) = harness.open().await;
    let all: Vec<Key> = (0..12).map(|n| key(&format!("rule/p/{n:02}"))).collect();
    for key in &all {
        create(&db, key, "x").await;
    }
    create(&db, &key("rule/q"), "behind the prefix").await;
    for limit in [1, 5, 6, 11, 12, 13] {
        let mut found = Vec::new();
        let mut more = true;
        while more {
            let page = db.scan(&key("rule/p"), found.last(), limit).await.expect("a scan is answered");
            assert!(page.items.len() <= limit, "at most {limit}");
            assert!(!page.items.is_empty(), "more was announced");
            found.extend(page.items.into_iter().map(|(key, _)| key));
            more = page.more;
            assert_eq!(more, found.len() < all.len(), "limit {limit}, {} found", found.len());
        }
        assert_eq!(found, all);
    }
    let page = db.scan(&key("rule/p"), Some(&key("rule/p/04x")), 2).await.expect("a scan is answered");
    let found: Vec<&Key> = page.items.iter().map(|(key, _)| key).collect();
    assert_eq!(found, [&all[5], &all[6]]);
    let page = db.scan(&key("rule/p"), Some(&key("rule/a")), 1).await.expect("a scan is answered");
    assert_eq!(page.items[0].0, all[0], "a key before the prefix leaves nothing out");
    let page = db.scan(&key("rule/p"), Some(&key("rule/q")), 1).await.expect("a scan is answered");
    assert!(page.items.is_empty() && !page.more, "a key behind the prefix leaves nothing");
}

/// The versions in a page are those to expect when writing.
pub async fn scanned_versions_are_current<H: Harness<Backend: MetadataDb>>(harness: &H) {
    let (_guard, db) = harness.open().await;
    let version = create(&db, &key("rule/a"), "first").await;
    update(&db, &key("rule/a"), "second", &version).await;
    let page = db.scan(&key("rule"), None, 10).await.expect("a scan is answered");
    let (key, record) = &page.items[0];
    assert_eq!(read(&db, key).await.as_ref(), Some(record));
    update(&db, key, "third", &record.version).await;
}

/// Of many who create one key at once, one succeeds, and the value is that one's.
pub async fn racing_creates_have_one_winner<H: Harness<Backend: MetadataDb>>(harness: &H) {
    let (guard, first) = harness.open().await;
    let second = harness.reopen(&guard).await;
    for round in 0..10 {
        race(&first, &second, &key(&format!("rule/{round}")), &Precondition::Absent).await;
    }
}

/// Of many who write over one version at once, one succeeds, and the value is that one's.
pub async fn racing_updates_have_one_winner<H: Harness<Backend: MetadataDb>>(harness: &H) {
    let (guard, first) = harness.open().await;
    let second = harness.reopen(&guard).await;
    let mut version = create(&first, &key("rule/a"), "begin").await;
    for _ in 0..10 {
        version = race(&first, &second, &key("rule/a"), &Precondition::Version(version)).await;
    }
}

async fn race<D: MetadataDb>(first: &D, second: &D, key: &Key, precondition: &Precondition) -> Version {
    let racers = (0..8).map(|n| async move {
        let db = if n % 2 == 0 { first } else { second };
        (n, put(db, key, n.to_string(), precondition.clone()).await)
    });
    let outcomes = join_all(racers).await;
    let mut winners = outcomes.into_iter().filter_map(|(n, outcome)| match outcome {
        CasOutcome::Applied(version) => Some((n, version)),
        CasOutcome::Conflict => None,
    });
    let (n, version) = winners.next().expect("one of them wins");
    assert_eq!(winners.next(), None, "only one of them wins");
    let value = text(&n.to_string());
    assert_eq!(read(first, key).await, Some(Record { version: version.clone(), value }));
    version
}

/// Many increment one counter by compare-and-swap at once: its end is the number of acknowledged increments.
pub async fn a_counter_counts_every_acknowledged_increment<H: Harness<Backend: MetadataDb>>(harness: &H) {
    const TASKS: u64 = 6;
    const EACH: u64 = 8;
    let (guard, first) = harness.open().await;
    let second = harness.reopen(&guard).await;
    let counter = key("rule/counter");
    create(&first, &counter, "0").await;
    let number = |record: &Record| -> u64 {
        std::str::from_utf8(&record.value)
            .ok()
            .and_then(|text| text.parse().ok())
            .expect("only numbers are put")
    };
    let tasks = (0..TASKS).map(|task| {
        let db = if task % 2 == 0 { &first } else { &second };
        let counter = &counter;
        async move {
            let mut done = 0;
            while done < EACH {
                let record = read(db, counter).await.expect("nobody deletes it");
                let next = (number(&record) + 1).to_string();
                match put(db, counter, next, Precondition::Version(record.version)).await {
                    CasOutcome::Applied(_) => done += 1,
                    CasOutcome::Conflict => {}
                }
            }
        }
    });
    soon("the end of all increments", join_all(tasks)).await;
    let end = read(&second, &counter).await.expect("nobody deletes it");
    assert_eq!(number(&end), TASKS * EACH);
}

/// A put whose future is dropped half-way is done or not done, never half, and cannot overwrite what is
/// acknowledged afterwards.
pub async fn a_dropped_put_is_all_or_nothing<H: Harness<Backend: MetadataDb>>(harness: &H) {
    let (_guard, db) = harness.open().await;
    let (old, new) = (Bytes::from(vec![b'o'; 3000]), Bytes::from(vec![b'n'; 5000]));
    for polls in 0..6 {
        let key = key(&format!("rule/{polls}"));
        let version = applied(put(&db, &key, old.clone(), Precondition::Absent).await);
        let mut begun = db.put(&key, new.clone(), Precondition::Version(version));
        for _ in 0..polls {
            let ready = poll_fn(|context| Poll::Ready(begun.as_mut().poll(context).is_ready())).await;
            if ready {
                break;
            }
            tokio::task::yield_now().await;
        }
        drop(begun);
        let overwrite = async {
            loop {
                let seen = read(&db, &key).await.expect("it was created and nobody deletes it");
                assert!(seen.value == old || seen.value == new, "half a put was seen");
                match put(&db, &key, "last", Precondition::Version(seen.version)).await {
                    CasOutcome::Applied(_) => break,
                    CasOutcome::Conflict => {} // The dropped put has come in between.
                }
            }
        };
        soon("the write after the dropped one", overwrite).await;
        for _ in 0..3 {
            tokio::task::yield_now().await;
            assert_eq!(read(&db, &key).await.map(|record| record.value), Some(text("last")));
        }
    }
}
