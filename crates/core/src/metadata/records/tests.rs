//! Settling: what a write says when the store below does not know.

use serde_json::json;

use super::*;
use crate::error::Retry;
use crate::layer::Call;
use crate::layer::fault::{Fault, Faults};
use crate::metadata::memory::MemoryDb;

/// Records over a memory store whose calls go wrong as told; and the store without faults.
fn faulty() -> (Records, Faults, MemoryDb) {
    let (db, faults) = (MemoryDb::new(), Faults::new());
    let around: Arc<dyn MetadataDb> = faults.around(Arc::new(db.clone()));
    let records = Records::new(around, Entropy::from_seed([1; 32]), "test".parse().unwrap());
    (records, faults, db)
}

fn key() -> Key {
    "test/a".parse().unwrap()
}

fn puts(call: &Call<'_>) -> bool {
    call.operation == "put"
}

fn gets(call: &Call<'_>) -> bool {
    call.operation == "get"
}

async fn body(records: &Records) -> Option<String> {
    records.get(&key()).await.unwrap().map(|found| found.body)
}

#[track_caller]
fn applied(outcome: Result<WriteOutcome>) -> Version {
    match outcome.unwrap() {
        WriteOutcome::Applied(version) => version,
        WriteOutcome::Conflict => panic!("nobody else wrote"),
    }
}

#[tokio::test]
async fn a_record_comes_back_with_its_version() {
    let (records, _, db) = faulty();
    assert_eq!(body(&records).await, None);
    let first = applied(records.create(&key(), &"one").await);
    let second = applied(records.update(&key(), &"two", &first).await);
    let found: Versioned<String> = records.get(&key()).await.unwrap().unwrap();
    assert_eq!(found, Versioned { version: second.clone(), body: "two".to_owned() });
    assert_eq!(records.update(&key(), &"three", &first).await.unwrap(), WriteOutcome::Conflict);
    assert_eq!(records.create(&key(), &"three").await.unwrap(), WriteOutcome::Conflict);
    assert_eq!(applied(records.delete(&key(), &second).await), second);
    assert_eq!(db.get(&key()).await.unwrap(), None);
}

#[tokio::test]
async fn a_lost_reply_is_settled_as_applied() {
    let (records, faults, db) = faulty();
    faults.once(puts, Fault::LostReply);
    let version = applied(records.create(&key(), &"one").await);
    assert_eq!((faults.unfired(), db.writes()), (0, 1), "it was not written again");
    faults.once(puts, Fault::LostReply);
    let version = applied(records.update(&key(), &"two", &version).await);
    assert_eq!((faults.unfired(), db.writes()), (0, 2), "it was not written again");
    assert_eq!(db.get(&key()).await.unwrap().map(|record| record.version), Some(version));
}

#[tokio::test]
async fn a_lost_request_is_made_again() {
    let (records, faults, db) = faulty();
    faults.once(puts, Fault::LostRequest);
    applied(records.create(&key(), &"one").await);
    assert_eq!((faults.unfired(), db.writes()), (0, 1));
    assert_eq!(body(&records).await, Some("one".to_owned()));
}

#[tokio::test]
async fn a_conflict_with_oneself_is_applied() {
    let (records, faults, db) = faulty();
    faults.once(puts, Fault::Repeated);
    let version = applied(records.create(&key(), &"one").await);
    assert_eq!((faults.unfired(), db.writes()), (0, 1));
    faults.once(puts, Fault::Repeated);
    applied(records.update(&key(), &"two", &version).await);
    assert_eq!((faults.unfired(), db.writes()), (0, 2));
}

#[tokio::test]
async fn somebody_elses_write_is_a_conflict_also_after_an_unknown_outcome() {
    for fault in [Fault::LostRequest, Fault::LostReply] {
        let (records, faults, db) = faulty();
        let others = Records::new(Arc::new(db), Entropy::from_seed([2; 32]), "test".parse().unwrap());
        applied(others.create(&key(), &"theirs").await);
        faults.once(puts, fault);
        assert_eq!(records.create(&key(), &"ours").await.unwrap(), WriteOutcome::Conflict);
        assert_eq!(faults.unfired(), 0);
        assert_eq!(body(&records).await, Some("theirs".to_owned()));
    }
}

#[tokio::test]
async fn the_same_content_by_somebody_else_is_a_conflict() {
    let (records, _, db) = faulty();
    let others = Records::new(Arc::new(db), Entropy::from_seed([2; 32]), "test".parse().unwrap());
    applied(others.create(&key(), &"same").await);
    assert_eq!(records.create(&key(), &"same").await.unwrap(), WriteOutcome::Conflict);
}

#[tokio::test]
async fn a_refusal_is_passed_on_as_without_effect() {
    let (records, faults, db) = faulty();
    faults.once(puts, Fault::Refused(ErrorKind::Throttled));
    let error = records.create(&key(), &"one").await.unwrap_err();
    assert_eq!((error.kind(), error.effect()), (ErrorKind::Throttled, Effect::None));
    assert_eq!(error.retry(), Retry::Backoff);
    assert_eq!(db.writes(), 0);
}

/// The first attempt may be on its way still, so the refusal of the second says nothing about the whole.
#[tokio::test]
async fn a_refusal_after_an_unknown_outcome_leaves_it_unknown() {
    let (records, faults, _) = faulty();
    faults.once(puts, Fault::LostRequest);
    faults.once(puts, Fault::Refused(ErrorKind::Throttled));
    let error = records.create(&key(), &"one").await.unwrap_err();
    assert_eq!(faults.unfired(), 0);
    assert_eq!((error.kind(), error.effect()), (ErrorKind::Throttled, Effect::Unknown));
}

#[tokio::test]
async fn what_reading_again_cannot_settle_stays_unknown() {
    for fault in [Fault::LostReply, Fault::LostRequest, Fault::Repeated] {
        let (records, faults, _) = faulty();
        faults.once(puts, fault);
        // A read that is known to have had no effect says nothing about the write before it.
        faults.once(gets, Fault::Refused(ErrorKind::Unavailable));
        let error = records.create(&key(), &"one").await.unwrap_err();
        assert_eq!(faults.unfired(), 0);
        assert_eq!((error.kind(), error.effect()), (ErrorKind::Unavailable, Effect::Unknown), "{fault:?}");
    }
}

#[tokio::test]
async fn a_store_that_never_answers_is_given_up() {
    let (records, faults, db) = faulty();
    faults.always(puts, Fault::LostRequest);
    let error = records.create(&key(), &"one").await.unwrap_err();
    assert_eq!((error.kind(), error.effect()), (ErrorKind::Unavailable, Effect::Unknown));
    assert_eq!((faults.fired(), db.writes()), (3, 0));
}

#[tokio::test]
async fn a_record_of_a_newer_format_is_corrupt_with_the_remedy() {
    // A newer format need not have what this one has.
    for newer in [json!({"schema": SCHEMA + 1, "write_id": "w", "body": "x"}), json!({"schema": SCHEMA + 1})]
    {
        let (records, faults, db) = faulty();
        let value = Bytes::from(newer.to_string());
        let outcome = db.put(&key(), value, Precondition::Absent).await.unwrap();
        assert!(matches!(outcome, CasOutcome::Applied(_)));
        let error = records.get::<String>(&key()).await.unwrap_err();
        assert_eq!((error.kind(), error.effect()), (ErrorKind::Corrupt, Effect::None));
        assert!(error.message().contains("run the newer version"), "{error}");
        let error = records.list::<String>(&"test".parse().unwrap()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt);
        // Somebody newer is at work on the key: whether our write was before theirs is not known.
        faults.once(puts, Fault::LostReply);
        let error = records.create(&key(), &"one").await.unwrap_err();
        assert_eq!((error.kind(), error.effect()), (ErrorKind::Corrupt, Effect::Unknown));
    }
}

#[tokio::test]
async fn bytes_that_do_not_decode_are_corrupt_and_name_the_key() {
    for bytes in ["", "not json", "{}", r#"{"schema":1,"write_id":"w","body":7}"#, "\u{0}"] {
        let (records, _, db) = faulty();
        let outcome = db.put(&key(), Bytes::from(bytes), Precondition::Absent).await.unwrap();
        assert!(matches!(outcome, CasOutcome::Applied(_)));
        let error = records.get::<String>(&key()).await.unwrap_err();
        assert_eq!((error.kind(), error.subject()), (ErrorKind::Corrupt, "test/a"), "{bytes:?}");
    }
}

#[tokio::test]
async fn deleting_what_is_gone_is_done_and_what_has_changed_is_a_conflict() {
    let (records, faults, _) = faulty();
    let first = applied(records.create(&key(), &"one").await);
    let second = applied(records.update(&key(), &"two", &first).await);
    assert_eq!(records.delete(&key(), &first).await.unwrap(), WriteOutcome::Conflict);
    faults.once(|call| call.operation == "delete", Fault::LostReply);
    let error = records.delete(&key(), &second).await.unwrap_err();
    assert_eq!(error.effect(), Effect::Unknown);
    assert_eq!(applied(records.delete(&key(), &second).await), second);
}

#[tokio::test]
async fn a_list_goes_on_past_the_first_page() {
    let (records, _, _) = faulty();
    let keys: Vec<Key> = (0..1203).map(|n| records.key(["many", &format!("{n:04}")]).unwrap()).collect();
    for key in &keys {
        applied(records.create(key, &key.as_str()).await);
    }
    let found = records.list::<String>(&records.key(["many"]).unwrap()).await.unwrap();
    assert!(found.iter().all(|(key, record)| key.as_str() == record.body));
    assert_eq!(found.into_iter().map(|(key, _)| key).collect::<Vec<_>>(), keys);
}
