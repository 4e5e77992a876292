//! Full and read-only disks, real ones: a small file system in memory, in a mount namespace of the test's own.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]
#![expect(clippy::print_stdout, reason = "what was left out is told")]

use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::process::Command;

use steadfast_backend_embedded::keys::FileKeyProvider;
use steadfast_backend_embedded::store::RedbStore;
use steadfast_backend_embedded::volumes::DirectoryVolumes;
use steadfast_core::metadata::{CasOutcome, Key, MetadataDb as _, Precondition};
use steadfast_core::volume::{VolumeProvider as _, VolumeSpec};
use steadfast_core::{Effect, Environment, Error, ErrorKind};

/// Names the mounted folder in the environment of the child that runs inside the namespace.
const INSIDE: &str = "STEADFAST_TEST_SICK_DISK";

/// Runs `test` of this program again where a file system of 8 MiB is mounted. False if the machine does not permit it.
fn inside(test: &str) -> bool {
    let dir = tempfile::tempdir().unwrap();
    let script = "mount -t tmpfs -o size=8m steadfast-test \"$1\" || exit 77
        export STEADFAST_TEST_SICK_DISK=\"$1\"
        exec \"$2\" --exact \"$3\" --nocapture --test-threads=1";
    let output = Command::new("unshare")
        .args(["--user", "--map-root-user", "--mount", "sh", "-c", script, "sh"])
        .arg(dir.path())
        .arg(std::env::current_exe().unwrap())
        .arg(test)
        .output()
        .expect("unshare is part of every Linux");
    let text = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    let unshared = !errors.contains("unshare:") && output.status.code() != Some(77);
    if !unshared {
        assert!(std::env::var_os("CI").is_none(), "CI must permit user namespaces: {errors}");
        println!("left out: {test}: this machine permits no user namespace: {errors}");
        return false;
    }
    assert!(output.status.success() && text.contains("1 passed"), "{text}\n{errors}");
    true
}

fn environment() -> Environment {
    Environment::system([5; 32])
}

fn open(dir: &Path) -> Result<RedbStore, Error> {
    RedbStore::open_file(&dir.join("store.redb"), environment().entropy().clone())
}

fn key(text: &str) -> Key {
    text.parse().unwrap()
}

fn spec() -> VolumeSpec {
    VolumeSpec {
        cluster: "c1".parse().unwrap(),
        member: "m1".parse().unwrap(),
        member_name: "orders-0".parse().unwrap(),
        name: "data".parse().unwrap(),
        size_bytes: 1 << 20,
        class: "default".to_owned(),
        zone: None,
    }
}

/// Takes all the space there is but for `leave` bytes.
fn fill(dir: &Path, leave: u64) {
    let mut file = fs::File::create(dir.join("filler")).unwrap();
    let block = [1_u8; 4096];
    while file.write_all(&block).is_ok() {}
    let written = file.metadata().unwrap().len();
    file.set_len(written.saturating_sub(leave)).unwrap();
}

#[track_caller]
fn assert_sick(error: &Error, kind: ErrorKind, path: &Path) {
    assert_eq!(error.kind(), kind, "{error:?}");
    assert!(error.to_string().contains(path.to_str().unwrap()), "{error}");
}

#[tokio::test]
async fn a_full_disk_is_named_and_reading_goes_on() {
    let Some(dir) = std::env::var_os(INSIDE) else {
        inside("a_full_disk_is_named_and_reading_goes_on");
        return;
    };
    let dir = Path::new(&dir);
    let store = open(dir).unwrap();
    let created = store.put(&key("a"), "kept".into(), Precondition::Absent).await.unwrap();
    assert!(matches!(created, CasOutcome::Applied(_)));
    let volumes = DirectoryVolumes::open(dir, environment()).unwrap();

    fill(dir, 0);
    let error = store.put(&key("b"), "lost".into(), Precondition::Absent).await.unwrap_err();
    assert_sick(&error, ErrorKind::QuotaExceeded, &dir.join("store.redb"));
    assert_eq!(error.effect(), Effect::None);
    assert_eq!(store.get(&key("a")).await.unwrap().unwrap().value, "kept");
    let error = volumes.ensure(&spec()).await.unwrap_err();
    assert_sick(&error, ErrorKind::QuotaExceeded, dir);
    assert_eq!(error.effect(), Effect::None);
    assert!(volumes.list(&spec().cluster).await.unwrap().is_empty(), "nothing half-made is seen");
    let error = FileKeyProvider::open_or_create(&dir.join("key")).unwrap_err();
    assert_sick(&error, ErrorKind::QuotaExceeded, &dir.join("key"));

    fs::remove_file(dir.join("filler")).unwrap();
    let created = store.put(&key("b"), "there".into(), Precondition::Absent).await.unwrap();
    assert!(matches!(created, CasOutcome::Applied(_)));
    volumes.ensure(&spec()).await.unwrap();
    FileKeyProvider::open_or_create(&dir.join("key")).unwrap();
    drop(store);
    assert_eq!(open(dir).unwrap().get(&key("b")).await.unwrap().unwrap().value, "there");
}

/// The store itself takes all the space: every write ends acknowledged or refused without effect, and at the end all
/// that was acknowledged is there.
#[tokio::test]
async fn a_store_that_fills_its_disk_loses_nothing() {
    let Some(dir) = std::env::var_os(INSIDE) else {
        inside("a_store_that_fills_its_disk_loses_nothing");
        return;
    };
    let dir = Path::new(&dir);
    let store = open(dir).unwrap();
    let mut acknowledged = 0;
    let error = loop {
        let key = key(&format!("a/{acknowledged:05}"));
        match store.put(&key, vec![7; 50_000].into(), Precondition::Absent).await {
            Ok(CasOutcome::Applied(_)) => acknowledged += 1,
            Ok(CasOutcome::Conflict) => panic!("nobody else writes"),
            Err(error) => break error,
        }
        assert!(acknowledged < 1000, "8 MiB are full by then");
    };
    assert!(acknowledged > 20, "{acknowledged} writes");
    assert_sick(&error, ErrorKind::QuotaExceeded, &dir.join("store.redb"));
    assert_eq!(error.effect(), Effect::None);
    drop(store);
    let store = open(dir).unwrap();
    let page = store.scan(&key("a"), None, 2000).await.unwrap();
    assert_eq!(page.items.len(), acknowledged);
    let (first, record) = &page.items[0];
    let made_room = store.delete(first, &record.version).await;
    assert!(made_room.is_ok() || made_room.unwrap_err().kind() == ErrorKind::QuotaExceeded);
}

#[tokio::test]
async fn a_read_only_disk_is_named_with_the_remedy() {
    let Some(dir) = std::env::var_os(INSIDE) else {
        inside("a_read_only_disk_is_named_with_the_remedy");
        return;
    };
    let dir = Path::new(&dir);
    drop(open(dir).unwrap());
    let volumes = DirectoryVolumes::open(dir, environment()).unwrap();
    let id = volumes.ensure(&spec()).await.unwrap();
    let remounted = Command::new("mount").args(["-o", "remount,ro"]).arg(dir).status().unwrap();
    assert!(remounted.success());
    let error = open(dir).unwrap_err();
    assert_sick(&error, ErrorKind::Denied, &dir.join("store.redb"));
    assert!(error.to_string().contains("mount it writable"), "{error}");
    let node = "node-1".parse().unwrap();
    let error = volumes.begin_attach(&id, &node).await.unwrap_err();
    assert_sick(&error, ErrorKind::Denied, &volumes.folder(&id));
    let error = FileKeyProvider::open_or_create(&dir.join("key")).unwrap_err();
    assert_sick(&error, ErrorKind::Denied, &dir.join("key"));
}
