//! The rules of watching.

use std::collections::BTreeSet;

use futures::StreamExt as _;
use futures::stream::BoxStream;

use super::super::{Harness, skip, soon};
use super::{applied, create, delete, key, read, update};
use crate::metadata::{Hint, Key, MetadataDb};

/// The keys that are hinted at, until all of `wanted` are or a reset covers them.
async fn hinted(hints: &mut BoxStream<'static, Hint>, wanted: impl IntoIterator<Item = Key>) {
    let mut missing: BTreeSet<Key> = wanted.into_iter().collect();
    soon("the hint at every change", async {
        while !missing.is_empty() {
            match hints.next().await {
                Some(Hint::Changed(key)) => drop(missing.remove(&key)),
                Some(Hint::Reset) => missing.clear(),
                None => panic!("the watch ended while the backend is there; missing {missing:?}"),
            }
        }
    })
    .await;
}

async fn watch<D: MetadataDb>(rule: &str, db: &D, prefix: &str) -> Option<BoxStream<'static, Hint>> {
    if !db.capabilities().watch {
        skip(rule, db, "does not watch");
        return None;
    }
    Some(db.watch(&key(prefix)).await.expect("a watch on a healthy backend is given"))
}

/// Creation, update and deletion are hinted at, for every watcher.
pub async fn watch_hints_every_acknowledged_change<H: Harness<Backend: MetadataDb>>(harness: &H) {
    let (_guard, db) = harness.open().await;
    let rule = "watch_hints_every_acknowledged_change";
    let Some(mut hints) = watch(rule, &db, "rule").await else { return };
    let Some(mut others) = watch(rule, &db, "rule").await else { return };
    let keys: Vec<Key> = (0..5).map(|n| key(&format!("rule/{n}/deep"))).collect();
    for key in &keys {
        create(&db, key, "first").await;
    }
    hinted(&mut hints, keys.clone()).await;
    hinted(&mut others, keys.clone()).await;
    for key in &keys {
        // Hints may repeat, so only a watch from here on tells the hint at the change from an old one.
        let current = read(&db, key).await.expect("it was created");
        let Some(mut hints) = watch(rule, &db, "rule").await else { return };
        let version = update(&db, key, "second", &current.version).await;
        hinted(&mut hints, [key.clone()]).await;
        let Some(mut hints) = watch(rule, &db, "rule").await else { return };
        applied(delete(&db, key, &version).await);
        hinted(&mut hints, [key.clone()]).await;
    }
}

/// What another process changes is hinted at too.
pub async fn watch_hints_changes_through_other_handles<H: Harness<Backend: MetadataDb>>(harness: &H) {
    let (guard, first) = harness.open().await;
    let second = harness.reopen(&guard).await;
    let rule = "watch_hints_changes_through_other_handles";
    let Some(mut hints) = watch(rule, &first, "rule").await else { return };
    create(&second, &key("rule/a"), "x").await;
    hinted(&mut hints, [key("rule/a")]).await;
}

/// Hints are about keys under the prefix, by whole segments.
pub async fn watch_keeps_to_its_prefix<H: Harness<Backend: MetadataDb>>(harness: &H) {
    let (_guard, db) = harness.open().await;
    let Some(mut hints) = watch("watch_keeps_to_its_prefix", &db, "rule/a").await else { return };
    for name in ["rule/ab/c", "rule/a-b/c", "other/a/b", "rule/a/last"] {
        create(&db, &key(name), "x").await;
    }
    loop {
        match soon("the hint at the last change", hints.next()).await {
            Some(Hint::Changed(changed)) => {
                assert!(changed.is_under(&key("rule/a")), "{changed} is not under rule/a");
                break;
            }
            Some(Hint::Reset) => {}
            None => panic!("the watch ended while the backend is there"),
        }
    }
}

/// Whoever does not listen for a while hears of every change afterwards, or is told to read everything again.
pub async fn a_slow_watcher_is_told_what_it_missed<H: Harness<Backend: MetadataDb>>(harness: &H) {
    let (_guard, db) = harness.open().await;
    let Some(mut hints) = watch("a_slow_watcher_is_told_what_it_missed", &db, "rule").await else { return };
    let keys: Vec<Key> = (0..150).map(|n| key(&format!("rule/{n}"))).collect();
    for key in &keys {
        create(&db, key, "x").await;
    }
    hinted(&mut hints, keys).await;
    create(&db, &key("rule/after"), "x").await;
    hinted(&mut hints, [key("rule/after")]).await;
}

/// A watch does not outlive the backend: its reader learns that nothing more will come.
pub async fn a_watch_ends_with_the_backend<H: Harness<Backend: MetadataDb>>(harness: &H) {
    let (guard, db) = harness.open().await;
    let Some(mut hints) = watch("a_watch_ends_with_the_backend", &db, "rule").await else { return };
    drop(db);
    drop(guard);
    soon("the end of the watch", async { while hints.next().await.is_some() {} }).await;
}
