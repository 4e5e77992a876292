//! Answers that are lost, late or wrong: each says whether the write may have happened, and what can be known is known.

use bytes::Bytes;
use steadfast_core::error::Retry;
use steadfast_core::metadata::{CasOutcome, MetadataDb as _, Precondition};
use steadfast_core::{Effect, ErrorKind};

use crate::emulator::door::Befall;
use crate::{applied, key, store};

#[tokio::test]
async fn a_write_that_was_applied_and_not_answered_is_found_by_its_version() {
    let (emulator, db) = store().await;
    let failed = Befall::FailAfter(500, "InternalServerError", "internal");
    for (name, befall) in [("k/lost", Befall::LoseAnswer), ("k/failed", failed), ("k/twice", Befall::Twice)] {
        emulator.door().befall("PutItem", 0, befall.clone());
        let first = applied(db.put(&key(name), Bytes::from("1"), Precondition::Absent).await.unwrap());
        emulator.door().befall("PutItem", 0, befall);
        let update = Precondition::Version(first.clone());
        let second = applied(db.put(&key(name), Bytes::from("2"), update).await.unwrap());
        let found = db.get(&key(name)).await.unwrap().unwrap();
        assert_eq!((&found.version, &found.value), (&second, &Bytes::from("2")));
        assert_ne!(first, second);
    }
    assert!(emulator.door().is_done());
}

#[tokio::test]
async fn a_write_that_may_come_yet_is_told_so_and_comes_too_late_for_another() {
    let (emulator, db) = store().await;
    for befall in [Befall::LoseRequest, Befall::Late] {
        emulator.door().befall("PutItem", 0, befall);
        let error = db.put(&key("k/a"), Bytes::from("mine"), Precondition::Absent).await.unwrap_err();
        assert_eq!((error.kind(), error.effect()), (ErrorKind::Unavailable, Effect::Unknown), "{error:?}");
        assert_eq!(db.get(&key("k/a")).await.unwrap(), None);
    }
    let version = applied(db.put(&key("k/a"), Bytes::from("theirs"), Precondition::Absent).await.unwrap());
    assert_eq!(emulator.door().release(&emulator), [400], "its condition holds no more");
    let found = db.get(&key("k/a")).await.unwrap().unwrap();
    assert_eq!((found.version, found.value), (version, Bytes::from("theirs")));
}

#[tokio::test]
async fn a_deletion_that_is_not_answered_is_open_and_can_be_asked_again() {
    let (emulator, db) = store().await;
    for (befall, then) in [(Befall::LoseAnswer, false), (Befall::LoseRequest, true)] {
        let version = applied(db.put(&key("k/a"), Bytes::from("1"), Precondition::Absent).await.unwrap());
        emulator.door().befall("DeleteItem", 0, befall);
        let error = db.delete(&key("k/a"), &version).await.unwrap_err();
        assert_eq!((error.kind(), error.effect()), (ErrorKind::Unavailable, Effect::Unknown), "{error:?}");
        let expected = if then { CasOutcome::Applied(version.clone()) } else { CasOutcome::Conflict };
        assert_eq!(db.delete(&key("k/a"), &version).await.unwrap(), expected);
        assert_eq!(db.get(&key("k/a")).await.unwrap(), None);
    }
}

/// The SDK would repeat these by itself: then nobody above knew how often something was asked.
#[tokio::test]
async fn throttling_had_no_effect_and_is_repeated_by_nobody_below() {
    let (emulator, db) = store().await;
    let codes = ["ProvisionedThroughputExceededException", "ThrottlingException", "RequestLimitExceeded"];
    for code in codes {
        let refuse = || Befall::Refuse(400, code, "slower");
        let before = emulator.door().counts();
        for operation in ["PutItem", "GetItem", "Query", "DeleteItem"] {
            emulator.door().befall(operation, 0, refuse());
        }
        let (a, version) = (key("k/a"), steadfast_core::metadata::Version::new("v"));
        for error in [
            db.put(&a, Bytes::from("1"), Precondition::Absent).await.unwrap_err(),
            db.get(&a).await.unwrap_err(),
            db.scan(&key("k"), None, 5).await.unwrap_err(),
            db.delete(&a, &version).await.unwrap_err(),
        ] {
            assert_eq!(
                (error.kind(), error.effect(), error.retry()),
                (ErrorKind::Throttled, Effect::None, Retry::Backoff),
                "{error:?}"
            );
            assert!(error.message().contains(code), "{error:?}");
        }
        let after = emulator.door().counts();
        let asked = |operation: &str| after[operation] - before.get(operation).copied().unwrap_or_default();
        assert_eq!(["PutItem", "GetItem", "Query", "DeleteItem"].map(asked), [1; 4], "{code}");
    }
    assert_eq!(db.get(&key("k/a")).await.unwrap(), None);
}

/// A page of a query ends after 1 MiB, whatever was asked for.
#[tokio::test]
async fn long_values_come_in_pages_without_gap_or_repeat() {
    let (_emulator, db) = store().await;
    let all: Vec<_> = (0..7).map(|n| key(&format!("long/{n}"))).collect();
    for key in &all {
        applied(db.put(key, Bytes::from(vec![b'x'; 390 * 1024]), Precondition::Absent).await.unwrap());
    }
    let (mut found, mut pages) = (Vec::new(), 0);
    loop {
        let page = db.scan(&key("long"), found.last(), 100).await.unwrap();
        found.extend(page.items.into_iter().map(|(key, _)| key));
        pages += 1;
        assert_eq!(page.more, found.len() < all.len());
        if !page.more {
            break;
        }
    }
    assert_eq!(found, all);
    assert!(pages > 2, "{pages}");
}
