//! Hints about what others write, and what they cost.

use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt as _;
use steadfast_core::Environment;
use steadfast_core::metadata::{Hint, MetadataDb as _, Precondition};

use crate::emulator::door::Befall;
use crate::{applied, connect, key, store};

async fn soon<F: Future>(what: &str, future: F) -> F::Output {
    let limit = Duration::from_secs(180);
    match Environment::system([0; 32]).timeout(limit, future).await {
        Some(output) => output,
        None => panic!("{what}: not within {limit:?}"),
    }
}

#[tokio::test]
async fn what_a_look_missed_is_seen_by_the_next_one() {
    let (emulator, db) = store().await;
    let other = connect(&emulator).await;
    let mut hints = db.watch(&key("w")).await.unwrap();
    let version = applied(other.put(&key("w/a"), Bytes::from("1"), Precondition::Absent).await.unwrap());
    emulator.door().befall("Query", 0, Befall::Refuse(400, "ThrottlingException", "slower"));
    assert_eq!(soon("a new key", hints.next()).await, Some(Hint::Changed(key("w/a"))));
    assert!(emulator.door().is_done());
    applied(other.put(&key("w/a"), Bytes::from("1"), Precondition::Version(version)).await.unwrap());
    assert_eq!(soon("a new version", hints.next()).await, Some(Hint::Changed(key("w/a"))));
    let version = other.get(&key("w/a")).await.unwrap().unwrap().version;
    applied(other.delete(&key("w/a"), &version).await.unwrap());
    assert_eq!(soon("a deletion", hints.next()).await, Some(Hint::Changed(key("w/a"))));
}

/// A server has a dozen watches, and agents have theirs through it.
#[tokio::test]
async fn many_watches_cost_one_look_and_none_costs_nothing() {
    let (emulator, db) = store().await;
    let looks = || emulator.door().counts().get("Query").copied().unwrap_or_default();
    let mut watches = Vec::new();
    for n in 0..20 {
        watches.push(db.watch(&key(&format!("w/{n}"))).await.unwrap());
    }
    assert_eq!(looks(), 1, "the first one has to know what there is");
    // What this handle writes is told without a look, and once: its watchers know it by the time of the look.
    applied(db.put(&key("w/3/a"), Bytes::from("1"), Precondition::Absent).await.unwrap());
    assert_eq!(soon("its own write", watches[3].next()).await, Some(Hint::Changed(key("w/3/a"))));
    assert_eq!(looks(), 1);
    let clock = Environment::system([0; 32]);
    let begun = clock.clock().monotonic();
    soon("two looks", async {
        while looks() < 3 {
            clock.clock().sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    assert!(
        clock.clock().monotonic().since(begun) > Duration::from_secs(3),
        "one look in 2 s for all of them"
    );
    let told_again = futures::FutureExt::now_or_never(watches[3].next());
    assert_eq!(told_again, None, "nobody else has written");
    drop(watches);
    let before = looks();
    clock.clock().sleep(Duration::from_secs(5)).await;
    assert!(looks() <= before + 1, "nobody watches");
}
