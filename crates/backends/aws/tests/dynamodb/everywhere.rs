//! Each fault at each request of what servers do with their records: they come out as without it.

use std::collections::BTreeMap;
use std::sync::Arc;

use steadfast_core::Environment;
use steadfast_core::layer::{CallCounters, StackOptions, stack};
use steadfast_core::metadata::{Key, MetadataDb, Records, WriteOutcome};

use crate::emulator::Emulator;
use crate::emulator::door::Befall;
use crate::{connect, key, store};

/// The records as servers use them: through the layers that repeat what did no harm.
async fn records(emulator: &Emulator, run: usize) -> Records {
    let environment = Environment::system([u8::try_from(run % 251).unwrap(); 32]);
    let db: Arc<dyn MetadataDb> = Arc::new(connect(emulator).await);
    let db = stack(db, StackOptions::default(), &environment, &CallCounters::new());
    Records::new(db, environment.entropy().fork("records"), key(&format!("run-{run}")))
}

/// Makes a record what it shall be, as a workflow does: looks, decides, and looks again if that went wrong.
async fn make(records: &Records, key: &Key, wanted: Option<&str>) {
    for _ in 0..20 {
        let Ok(found) = records.get::<String>(key).await else { continue };
        let done = match (&found, wanted) {
            (Some(found), Some(wanted)) if found.body == wanted => return,
            (None, None) => return,
            (Some(found), Some(wanted)) => records.update(key, &wanted, &found.version).await,
            (None, Some(wanted)) => records.create(key, &wanted).await,
            (Some(found), None) => records.delete(key, &found.version).await,
        };
        if let Ok(WriteOutcome::Applied(_)) = done {
            return;
        }
    }
    panic!("{key} is not {wanted:?} after 20 attempts");
}

async fn carry(records: &Records) {
    let at = |name: &str| records.key([name]).unwrap();
    make(records, &at("a"), Some("1")).await;
    make(records, &at("b"), Some("1")).await;
    make(records, &at("a"), Some("2")).await;
    make(records, &at("b"), None).await;
    make(records, &at("a"), Some("3")).await;
    let prefix = at("x").as_str().strip_suffix("/x").unwrap().parse().unwrap();
    let mut listed = Err(String::new());
    for _ in 0..5 {
        match records.list::<String>(&prefix).await {
            Ok(found) => {
                listed = Ok(found.into_iter().map(|(key, found)| (key, found.body)).collect::<Vec<_>>());
                break;
            }
            Err(error) => listed = Err(error.chain()),
        }
    }
    assert_eq!(listed, Ok(vec![(at("a"), "3".to_owned())]));
}

#[tokio::test]
async fn each_fault_at_each_request_leaves_the_records_as_without_it() {
    let (emulator, _db) = store().await;
    let door = emulator.door();
    let calm = records(&emulator, 0).await;
    let before = door.counts();
    carry(&calm).await;
    let made: BTreeMap<String, u64> = door
        .counts()
        .into_iter()
        .map(|(operation, count)| {
            let earlier = before.get(&operation).copied().unwrap_or_default();
            (operation, count - earlier)
        })
        .filter(|(_, count)| *count > 0)
        .collect();
    let operations: Vec<&str> = made.keys().map(String::as_str).collect();
    assert_eq!(operations, ["DeleteItem", "GetItem", "PutItem", "Query"], "{made:?}");
    let faults = [
        Befall::LoseAnswer,
        Befall::LoseRequest,
        Befall::Twice,
        Befall::FailAfter(500, "InternalServerError", "internal"),
        Befall::Refuse(500, "InternalServerError", "internal"),
        Befall::Refuse(503, "ServiceUnavailable", "later"),
        Befall::Refuse(400, "ProvisionedThroughputExceededException", "slower"),
        Befall::Refuse(400, "TransactionConflictException", "somebody was faster"),
    ];
    let mut run = 0;
    for (operation, count) in &made {
        for at in 0..usize::try_from(*count).unwrap() {
            for fault in &faults {
                run += 1;
                let records = records(&emulator, run).await;
                door.befall(operation, at, fault.clone());
                carry(&records).await;
                assert!(door.is_done(), "{fault:?} at {operation} {at} befell nothing");
            }
        }
    }
    assert!(run >= 80, "{run} runs: {made:?}");
}
