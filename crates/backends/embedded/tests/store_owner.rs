//! The store's owner is killed, and the next one takes over: with real processes.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]
#![expect(clippy::print_stdout, reason = "the child tells its parent what was acknowledged")]

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use steadfast_backend_embedded::store::{Endpoint, OwnerAdvert, Ownership, RedbStore};
use steadfast_core::metadata::{CasOutcome, Key, MetadataDb as _, Precondition};
use steadfast_core::{Environment, ErrorKind};

/// Names the folder in the environment of a child, which is this program again, running the same test.
const CHILD: &str = "STEADFAST_TEST_STORE_OWNER";
const WRITERS: u64 = 8;

fn environment() -> Environment {
    Environment::system([u8::try_from(std::process::id() % 256).unwrap(); 32])
}

fn advert() -> OwnerAdvert {
    OwnerAdvert {
        server_id: format!("server-{}", std::process::id()).parse().unwrap(),
        endpoint: Endpoint::Unix(PathBuf::from("/run/example.sock")),
        pid: std::process::id(),
    }
}

fn child(test: &str, dir: &Path) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture", "--test-threads=1"])
        .env(CHILD, dir)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

fn counter(writer: u64) -> Key {
    format!("counters/{writer}").parse().unwrap()
}

/// Counts up for ever, and tells each acknowledged number.
async fn count(store: &RedbStore, writer: u64) {
    let key = counter(writer);
    loop {
        let (expected, number) = match store.get(&key).await.unwrap() {
            None => (Precondition::Absent, 1),
            Some(record) => {
                let number: u64 = std::str::from_utf8(&record.value).unwrap().parse().unwrap();
                (Precondition::Version(record.version), number + 1)
            }
        };
        match store.put(&key, number.to_string().into(), expected).await.unwrap() {
            CasOutcome::Applied(_) => println!("acknowledged {writer} {number}"),
            CasOutcome::Conflict => panic!("each counter has one writer"),
        }
    }
}

async fn own_and_count(dir: &Path) {
    let environment = environment();
    let ownership = Ownership::acquire(dir, &advert(), &environment, Duration::from_millis(5)).await.unwrap();
    let store = RedbStore::open(ownership, environment.entropy().clone()).unwrap();
    futures::future::join_all((0..WRITERS).map(|writer| count(&store, writer))).await;
}

fn acknowledgement(line: &str) -> Option<(u64, u64)> {
    // What the test runner prints may stand before it on the same line.
    let (_, rest) = line.split_once("acknowledged ")?;
    let (writer, number) = rest.split_once(' ')?;
    Some((writer.parse().ok()?, number.parse().ok()?))
}

#[tokio::test]
async fn killing_the_owner_loses_no_acknowledged_write_and_frees_the_store_at_once() {
    if let Some(dir) = std::env::var_os(CHILD) {
        return own_and_count(Path::new(&dir)).await;
    }
    let dir = tempfile::tempdir().unwrap();
    let mut acknowledged: BTreeMap<u64, u64> = BTreeMap::new();
    for round in 1..=4_u64 {
        let mut owner =
            child("killing_the_owner_loses_no_acknowledged_write_and_frees_the_store_at_once", dir.path());
        let mut lines = BufReader::new(owner.stdout.take().unwrap()).lines();
        let mut seen = 0;
        while seen < 40 * round {
            let line = lines.next().expect("the owner counts on").unwrap();
            if let Some((writer, number)) = acknowledgement(&line) {
                acknowledged.insert(writer, number);
                seen += 1;
            }
        }
        let told = Ownership::read_advert(dir.path()).unwrap().unwrap();
        assert_eq!(told.pid, owner.id());
        assert!(Ownership::is_owned(dir.path()).unwrap());
        assert!(Ownership::try_acquire(dir.path(), &advert()).unwrap().is_none());
        check_that_a_bypass_is_refused(dir.path(), owner.id());

        owner.kill().unwrap();
        owner.wait().unwrap();
        // What it had told before it died counts as well; the last line may be cut.
        acknowledged.extend(lines.map_while(Result::ok).filter_map(|line| acknowledgement(&line)));

        let ownership = Ownership::try_acquire(dir.path(), &advert()).unwrap();
        let ownership = ownership.expect("the kernel has freed the lock with the process");
        assert_eq!(Ownership::read_advert(dir.path()).unwrap().unwrap().pid, std::process::id());
        let store = RedbStore::open(ownership, environment().entropy().clone()).unwrap();
        for (writer, number) in &acknowledged {
            let record = store.get(&counter(*writer)).await.unwrap().unwrap();
            let found: u64 = std::str::from_utf8(&record.value).unwrap().parse().unwrap();
            assert!(
                found == *number || found == number + 1,
                "writer {writer}: {number} was acknowledged, {found} is there"
            );
        }
        drop(store);
        assert!(!Ownership::is_owned(dir.path()).unwrap());
        assert_eq!(Ownership::read_advert(dir.path()).unwrap(), None, "left in order");
    }
    assert_eq!(acknowledged.len() as u64, WRITERS);
}

/// A program that does not ask for ownership meets the lock on the file itself, and is told whose it is.
fn check_that_a_bypass_is_refused(dir: &Path, owner: u32) {
    let path = dir.join("store/store.redb");
    let error = RedbStore::open_file(&path, environment().entropy().clone()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Busy);
    let text = error.to_string();
    assert!(text.contains(path.to_str().unwrap()) && text.contains(&format!("process {owner}")), "{text}");
}

#[tokio::test]
async fn whoever_waits_takes_over_when_the_owner_is_killed() {
    if let Some(dir) = std::env::var_os(CHILD) {
        return own_and_count(Path::new(&dir)).await;
    }
    let dir = tempfile::tempdir().unwrap();
    let mut owner = child("whoever_waits_takes_over_when_the_owner_is_killed", dir.path());
    let mut lines = BufReader::new(owner.stdout.take().unwrap()).lines();
    let first = lines.find_map(|line| acknowledgement(&line.unwrap()));
    assert!(first.is_some(), "the owner counts");

    let environment = environment();
    let advert = advert();
    let waiting = Ownership::acquire(dir.path(), &advert, &environment, Duration::from_millis(5));
    tokio::pin!(waiting);
    let early = environment.timeout(Duration::from_millis(50), &mut waiting).await;
    assert!(early.is_none(), "the owner lives");
    owner.kill().unwrap();
    owner.wait().unwrap();
    let ownership = environment.timeout(Duration::from_secs(30), waiting).await;
    let ownership = ownership.expect("the lock is free").unwrap();
    let store = RedbStore::open(ownership, environment.entropy().clone()).unwrap();
    assert!(store.get(&counter(0)).await.unwrap().is_some());
}
