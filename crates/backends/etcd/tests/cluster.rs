//! Three members of etcd, killed and started again under load: what is acknowledged stays, what is refused never was,
//! and what is neither is said to be open.

#![allow(clippy::unwrap_used, reason = "a test ends where something is not as it should be")]

mod members;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use etcd_client::{Client, EventType, WatchOptions};
use members::Members;
use steadfast_backend_etcd::{EtcdDb, EtcdOptions};
use steadfast_core::metadata::{CasOutcome, Key, MetadataDb, Precondition};
use steadfast_core::{Effect, Environment, ErrorKind};

fn options(members: &Members) -> EtcdOptions {
    EtcdOptions::new(format!("etcd://{}/load", members.hosts()).parse().unwrap())
}

async fn connect(members: &Members) -> EtcdDb {
    EtcdDb::connect(Environment::system([5; 32]), options(members)).await.unwrap()
}

fn key(text: &str) -> Key {
    text.parse().unwrap()
}

/// How an attempt to write ended, as its writer was told.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Told {
    /// Applied, with this version.
    Applied(String),
    /// Certainly not applied.
    Not,
    /// It may have been.
    Open,
}

const WRITERS: usize = 4;

/// Writes over its key again and again, every attempt with a value of its own, and notes what it was told of each.
async fn write(
    db: EtcdDb,
    writer: usize,
    stop: Arc<AtomicBool>,
    acknowledged: Arc<AtomicU64>,
) -> BTreeMap<String, Told> {
    let key = key(&format!("k/{writer}"));
    let mut told = BTreeMap::new();
    for attempt in 0.. {
        if stop.load(Ordering::SeqCst) {
            break;
        }
        // A read may fail for as long as nobody leads.
        let Ok(current) = db.get(&key).await else { continue };
        let expected = current.map_or(Precondition::Absent, |record| Precondition::Version(record.version));
        let value = format!("{writer}:{attempt}");
        let outcome = match db.put(&key, Bytes::from(value.clone()), expected).await {
            Ok(CasOutcome::Applied(version)) => {
                acknowledged.fetch_add(1, Ordering::SeqCst);
                Told::Applied(version.as_str().to_owned())
            }
            Ok(CasOutcome::Conflict) => Told::Not,
            Err(error) if error.effect() == Effect::None => Told::Not,
            Err(_) => Told::Open,
        };
        told.insert(value, outcome);
    }
    told
}

/// Every value that a key of the writers ever had, with the revisions at which it was put: by etcd's own history, which
/// nothing has compacted.
async fn history(members: &Members) -> BTreeMap<String, Vec<i64>> {
    let mut client = Client::connect([members.host(0)], None).await.unwrap();
    // The last change there is.
    let end = client.put("load/k/end", "end", None).await.unwrap().header().unwrap().revision();
    let options = WatchOptions::new().with_prefix().with_start_revision(1);
    let mut stream = client.watch("load/k/", Some(options)).await.unwrap();
    let mut found: BTreeMap<String, Vec<i64>> = BTreeMap::new();
    loop {
        let response = stream.message().await.unwrap().unwrap();
        for event in response.events() {
            let kv = event.kv().unwrap();
            assert_eq!(event.event_type(), EventType::Put);
            if kv.mod_revision() == end {
                return found;
            }
            found.entry(kv.value_str().unwrap().to_owned()).or_default().push(kv.mod_revision());
        }
    }
}

/// The member that leads.
async fn leader(members: &Members, living: &[usize]) -> usize {
    loop {
        for at in living {
            let Ok(mut client) = Client::connect([members.host(*at)], None).await else { continue };
            if let Ok(status) = client.status().await
                && status.leader() != 0
                && status.header().unwrap().member_id() == status.leader()
            {
                return *at;
            }
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn until_acknowledged(acknowledged: &AtomicU64, more: u64) {
    let goal = acknowledged.load(Ordering::SeqCst) + more;
    let reached = async {
        while acknowledged.load(Ordering::SeqCst) < goal {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(120), reached).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_acknowledged_write_is_lost_and_none_is_applied_twice_while_leaders_are_killed() {
    let mut members = Members::start(3);
    let (stop, acknowledged) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let mut writers = Vec::new();
    for writer in 0..WRITERS {
        let db = connect(&members).await;
        writers.push(tokio::spawn(write(db, writer, stop.clone(), acknowledged.clone())));
    }
    until_acknowledged(&acknowledged, 50).await;
    let first = leader(&members, &[0, 1, 2]).await;
    members.kill(first);
    until_acknowledged(&acknowledged, 50).await;
    // It comes back with its data, and is needed at once: without it there is no majority.
    members.begin(first);
    members.until_well();
    let others: Vec<usize> = (0..3).filter(|at| *at != first).collect();
    let second = leader(&members, &others).await;
    members.kill(second);
    until_acknowledged(&acknowledged, 50).await;
    stop.store(true, Ordering::SeqCst);
    let mut told = BTreeMap::new();
    for writer in writers {
        told.extend(writer.await.unwrap());
    }
    members.begin(second);
    members.until_well();

    let history = history(&members).await;
    for (value, told) in &told {
        let found = history.get(value).map(Vec::as_slice).unwrap_or_default();
        match told {
            Told::Applied(version) => {
                let revisions: Vec<String> = found.iter().map(i64::to_string).collect();
                assert_eq!(&revisions, std::slice::from_ref(version), "{value} was acknowledged");
            }
            Told::Not => assert!(found.is_empty(), "{value} was refused, and is there: {found:?}"),
            Told::Open => assert!(found.len() < 2, "{value} was applied twice: {found:?}"),
        }
    }
    assert!(history.keys().all(|value| told.contains_key(value)), "somebody else has written");
    assert!(told.values().filter(|told| matches!(told, Told::Applied(_))).count() >= 150);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_quorum_every_call_ends_and_says_what_to_do_and_with_it_all_goes_on() {
    let mut members = Members::start(3);
    let db = connect(&members).await;
    let a = key("k/a");
    let CasOutcome::Applied(version) = db.put(&a, Bytes::from("1"), Precondition::Absent).await.unwrap()
    else {
        panic!("nobody else writes")
    };
    members.kill(1);
    members.kill(2);
    let failed = db.get(&a).await.unwrap_err();
    assert_eq!((failed.kind(), failed.effect()), (ErrorKind::Unavailable, Effect::None), "{failed:?}");
    let failed = [
        failed,
        db.scan(&key("k"), None, 5).await.unwrap_err(),
        db.put(&a, Bytes::from("2"), Precondition::Version(version.clone())).await.unwrap_err(),
        EtcdDb::connect(Environment::system([6; 32]), options(&members)).await.unwrap_err(),
    ];
    for error in &failed {
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{error:?}");
        let named = error.message().contains("majority") || error.message().contains("cannot connect");
        assert!(named && error.message().contains(&members.address().to_string()), "{error:?}");
    }
    members.begin(1);
    members.begin(2);
    members.until_well();
    let record = db.get(&a).await.unwrap().unwrap();
    // What was open is settled by reading: the write is there or it is not.
    let done = record.version != version;
    assert_eq!(record.value, Bytes::from(if done { "2" } else { "1" }));
    let next = db.put(&a, Bytes::from("3"), Precondition::Version(record.version)).await.unwrap();
    assert!(matches!(next, CasOutcome::Applied(_)), "{next:?}");
}

#[tokio::test]
async fn an_etcd_that_was_put_back_from_an_older_backup_is_refused() {
    let mut members = Members::start(1);
    let db = connect(&members).await;
    let a = key("k/a");
    let CasOutcome::Applied(version) = db.put(&a, Bytes::from("1"), Precondition::Absent).await.unwrap()
    else {
        panic!("nobody else writes")
    };
    members.kill(0);
    let backup = members.folder().join("backup");
    let copy = |from: &std::path::Path, to: &std::path::Path| {
        let copied = std::process::Command::new("cp").arg("-a").arg(from).arg(to).status().unwrap();
        assert!(copied.success());
    };
    copy(&members.data(0), &backup);
    members.begin(0);
    members.until_well();
    // A read finds out that the connection is gone; a write on it would be open.
    assert_eq!(db.get(&a).await.unwrap().unwrap().version, version);
    let done = db.put(&a, Bytes::from("2"), Precondition::Version(version)).await.unwrap();
    assert!(matches!(done, CasOutcome::Applied(_)), "{done:?}");
    let revision = db.revision();

    members.kill(0);
    std::fs::remove_dir_all(members.data(0)).unwrap();
    copy(&backup, &members.data(0));
    members.begin(0);
    members.until_well();
    let again = EtcdOptions { at_least: revision, ..options(&members) };
    for error in [
        db.get(&a).await.unwrap_err(),
        db.put(&a, Bytes::from("3"), Precondition::Absent).await.unwrap_err(),
        EtcdDb::connect(Environment::system([7; 32]), again).await.unwrap_err(),
    ] {
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{error:?}");
        assert!(error.message().contains("older backup"), "{error:?}");
    }
    // Who knows nothing of what was, cannot know that it is gone.
    assert_eq!(connect(&members).await.get(&a).await.unwrap().unwrap().value, Bytes::from("1"));
}
