use futures::StreamExt as _;

use super::*;

fn entropy() -> Entropy {
    // The same seed for every store: versions must not be given twice even so.
    Entropy::from_seed([7; 32])
}

fn key(text: &str) -> Key {
    text.parse().unwrap()
}

async fn applied(store: &RedbStore, name: &str, value: &str, precondition: Precondition) -> Version {
    match store.put(&key(name), Bytes::copy_from_slice(value.as_bytes()), precondition).await.unwrap() {
        CasOutcome::Applied(version) => version,
        CasOutcome::Conflict => panic!("conflict on {name}"),
    }
}

#[tokio::test]
async fn a_write_survives_closing_and_a_version_is_never_given_twice() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store.redb");
    let mut seen = std::collections::BTreeSet::new();
    for round in 0..3 {
        let store = RedbStore::open_file(&path, entropy()).unwrap();
        if round > 0 {
            let found = store.get(&key("a")).await.unwrap().unwrap();
            assert_eq!(found.value, format!("round {}", round - 1).as_bytes());
            let CasOutcome::Applied(_) = store.delete(&key("a"), &found.version).await.unwrap() else {
                panic!("conflict")
            };
        }
        let version = applied(&store, "a", &format!("round {round}"), Precondition::Absent).await;
        assert!(seen.insert(version.as_str().to_owned()), "given twice: {version:?}");
    }
}

#[tokio::test]
async fn a_scan_keeps_to_whole_segments_and_to_its_limit() {
    let folder = tempfile::tempdir().unwrap();
    let store = RedbStore::open_file(&folder.path().join("store.redb"), entropy()).unwrap();
    for name in ["a", "a-b/x", "a/1", "a/2/x", "a/3", "a0/x", "ab/x", "b"] {
        applied(&store, name, name, Precondition::Absent).await;
    }
    let names = |page: &Page| page.items.iter().map(|(key, _)| key.to_string()).collect::<Vec<_>>();
    let all = store.scan(&key("a"), None, 10).await.unwrap();
    assert_eq!(names(&all), ["a/1", "a/2/x", "a/3"]);
    assert!(!all.more);
    let first = store.scan(&key("a"), None, 2).await.unwrap();
    assert_eq!(names(&first), ["a/1", "a/2/x"]);
    assert!(first.more);
    let rest = store.scan(&key("a"), Some(&key("a/2/x")), 2).await.unwrap();
    assert_eq!(names(&rest), ["a/3"]);
    assert!(!rest.more);
    assert!(store.scan(&key("a"), Some(&key("b")), 2).await.unwrap().items.is_empty());
    assert_eq!(store.scan(&key("a"), Some(&key("a")), 9).await.unwrap().items.len(), 3);
}

#[tokio::test]
async fn a_slow_watcher_is_told_to_read_again_and_the_stream_ends_with_the_store() {
    let folder = tempfile::tempdir().unwrap();
    let store = RedbStore::open_file(&folder.path().join("store.redb"), entropy()).unwrap();
    let mut hints = store.watch(&key("a")).await.unwrap();
    applied(&store, "b", "", Precondition::Absent).await;
    applied(&store, "a/1", "", Precondition::Absent).await;
    assert_eq!(hints.next().await, Some(Hint::Changed(key("a/1"))));
    let writes = (0..HINTS + 10).map(|n| {
        let store = store.clone();
        async move {
            applied(&store, &format!("a/{}", n + 2), "", Precondition::Absent).await;
        }
    });
    futures::future::join_all(writes).await;
    assert_eq!(hints.next().await, Some(Hint::Reset));
    drop(store);
    assert_eq!(hints.map(|hint| assert_ne!(hint, Hint::Reset)).count().await, HINTS);
}

#[tokio::test]
async fn a_version_of_another_store_is_a_conflict_and_a_long_value_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let store = RedbStore::open_file(&folder.path().join("store.redb"), entropy()).unwrap();
    applied(&store, "a", "x", Precondition::Absent).await;
    for foreign in ["", "7", "zz", "+0000000000000010000000000000000", "00000000000000000000000000000000"] {
        let version = Version::new(foreign);
        let put = store.put(&key("a"), Bytes::new(), Precondition::Version(version.clone())).await.unwrap();
        assert_eq!(put, CasOutcome::Conflict, "{foreign}");
        assert_eq!(store.delete(&key("a"), &version).await.unwrap(), CasOutcome::Conflict, "{foreign}");
    }
    let longest = Bytes::from(vec![1; MAX_VALUE_BYTES]);
    let CasOutcome::Applied(_) = store.put(&key("b"), longest.clone(), Precondition::Absent).await.unwrap()
    else {
        panic!("conflict")
    };
    assert_eq!(store.get(&key("b")).await.unwrap().unwrap().value, longest);
    let error =
        store.put(&key("c"), vec![1; MAX_VALUE_BYTES + 1].into(), Precondition::Absent).await.unwrap_err();
    assert_eq!((error.kind(), error.effect()), (ErrorKind::Invalid, steadfast_core::Effect::None));
}

mod conformance {
    use std::sync::{Mutex, Weak};

    use steadfast_core::conformance::Harness;
    use tempfile::TempDir;

    use super::*;

    struct Redb;

    /// The folder, and the store for as long as somebody has it open: one process opens the file once.
    struct Guard {
        folder: TempDir,
        open: Mutex<Weak<Handle>>,
    }

    impl Harness for Redb {
        type Backend = RedbStore;
        type Guard = Guard;

        async fn open(&self) -> (Guard, RedbStore) {
            let guard = Guard { folder: tempfile::tempdir().unwrap(), open: Mutex::default() };
            let store = self.reopen(&guard).await;
            (guard, store)
        }

        async fn reopen(&self, guard: &Guard) -> RedbStore {
            let mut open = guard.open.lock().unwrap();
            if let Some(handle) = open.upgrade() {
                return RedbStore { handle };
            }
            let store = RedbStore::open_file(&guard.folder.path().join("store.redb"), entropy()).unwrap();
            *open = Arc::downgrade(&store.handle);
            store
        }
    }

    steadfast_core::metadata_conformance!(Redb);

    #[tokio::test]
    async fn the_declared_capabilities() {
        let (_guard, store) = Redb.open().await;
        let declared = MetadataCapabilities { max_value_bytes: 1 << 20, watch: true, durable: true };
        assert_eq!(store.capabilities(), declared);
    }
}

mod damage;
mod disk;
mod faults;
