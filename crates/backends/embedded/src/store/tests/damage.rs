//! Files that are damaged, newer than this build, or open elsewhere.

use std::fs;

use redb::ReadableDatabase as _;
use steadfast_core::Effect;

use super::super::database::{FORMAT, META, builder};
use super::*;

async fn filled(path: &Path) -> Vec<(Key, Record)> {
    let store = RedbStore::open_file(path, entropy()).unwrap();
    for n in 0..60 {
        applied(&store, &format!("a/{n}"), &"x".repeat(n * 37), Precondition::Absent).await;
    }
    store.scan(&key("a"), None, 100).await.unwrap().items
}

#[track_caller]
fn assert_corrupt(error: &Error, path: &Path) {
    assert_eq!((error.kind(), error.effect()), (ErrorKind::Corrupt, Effect::None), "{error:?}");
    let text = error.to_string();
    assert!(text.contains(path.to_str().unwrap()), "{text}");
    assert!(text.contains("put back a copy") || text.contains("newer"), "{text}");
}

/// Wherever a file was cut or overwritten: it opens with all that was in it, or is refused by name. It is never
/// opened with something else in it, and never made anew.
#[tokio::test]
async fn a_damaged_file_opens_whole_or_is_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let good = folder.path().join("good.redb");
    let expected = filled(&good).await;
    let bytes = fs::read(&good).unwrap();
    let damaged = folder.path().join("damaged.redb");
    let random = Entropy::from_seed([9; 32]);
    let (mut refused, mut opened) = (0, 0);
    for round in 0..120 {
        let mut copy = bytes.clone();
        let at = usize::try_from(random.u64()).unwrap() % copy.len();
        match round % 3 {
            0 => copy.truncate(at),
            1 => copy.iter_mut().skip(at / 512 * 512).take(512).for_each(|byte| *byte ^= 0xa5),
            // The head, which says where everything is.
            _ => copy.iter_mut().skip(at % 400).take(8).for_each(|byte| *byte ^= 0xff),
        }
        fs::write(&damaged, &copy).unwrap();
        match RedbStore::open_file(&damaged, entropy()) {
            Err(error) => {
                assert_corrupt(&error, &damaged);
                refused += 1;
            }
            Ok(store) => {
                let found = store.scan(&key("a"), None, 100).await.unwrap().items;
                assert_eq!(found, expected, "round {round}, at {at}");
                opened += 1;
            }
        }
    }
    assert!(refused > 20 && opened > 5, "{refused} refused, {opened} opened");
    for content in [&b""[..], b"x", &[0; 4096], b"this is no database at all"] {
        fs::write(&damaged, content).unwrap();
        assert_corrupt(&RedbStore::open_file(&damaged, entropy()).unwrap_err(), &damaged);
        assert_eq!(fs::read(&damaged).unwrap(), content, "it is left as it is");
    }
}

#[tokio::test]
async fn a_file_of_a_newer_format_is_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store.redb");
    filled(&path).await;
    set_format(&path, Some(FORMAT + 1));
    let error = RedbStore::open_file(&path, entropy()).unwrap_err();
    assert_corrupt(&error, &path);
    assert!(error.to_string().contains("run the version that wrote it, or a newer one"), "{error}");
    set_format(&path, None);
    assert_corrupt(&RedbStore::open_file(&path, entropy()).unwrap_err(), &path);
    set_format(&path, Some(FORMAT));
    let store = RedbStore::open_file(&path, entropy()).unwrap();
    assert!(store.get(&key("a/3")).await.unwrap().is_some());
}

fn set_format(path: &Path, format: Option<u64>) {
    let database = builder().open(path).unwrap();
    let transaction = database.begin_write().unwrap();
    {
        let mut meta = transaction.open_table(META).unwrap();
        match format {
            Some(format) => drop(meta.insert("format", format).unwrap()),
            None => drop(meta.remove("format").unwrap()),
        }
    }
    transaction.commit().unwrap();
    assert!(database.begin_read().is_ok());
}

#[tokio::test]
async fn a_second_open_is_refused_and_told_who_has_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store.redb");
    let store = RedbStore::open_file(&path, entropy()).unwrap();
    applied(&store, "a", "x", Precondition::Absent).await;
    let error = RedbStore::open_file(&path, entropy()).unwrap_err();
    assert_eq!((error.kind(), error.effect()), (ErrorKind::Busy, Effect::None));
    assert!(error.to_string().contains(path.to_str().unwrap()), "{error}");
    assert!(error.to_string().contains("reach the store through the server that owns it"), "{error}");
    assert_eq!(store.get(&key("a")).await.unwrap().unwrap().value, "x", "the first is not disturbed");
    drop(store);
    RedbStore::open_file(&path, entropy()).unwrap();
    let left: Vec<_> = fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, ["store.redb"], "no temporary file is left");
}
