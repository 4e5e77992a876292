//! Watches over the death of the member that serves them, and over compaction.

#![allow(clippy::unwrap_used, reason = "a test ends where something is not as it should be")]

mod members;

use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt as _;
use futures::stream::BoxStream;
use members::Members;
use nix::sys::signal::{Signal, kill};
use steadfast_backend_etcd::{EtcdDb, EtcdOptions};
use steadfast_core::metadata::{CasOutcome, Hint, Key, MetadataDb, Precondition};
use steadfast_core::{Environment, ErrorKind};

async fn connect(hosts: &str) -> EtcdDb {
    let options = EtcdOptions::new(format!("etcd://{hosts}").parse().unwrap());
    EtcdDb::connect(Environment::system([5; 32]), options).await.unwrap()
}

fn key(text: &str) -> Key {
    text.parse().unwrap()
}

/// Creates it, however often that takes: a write may be lost with the leader.
async fn create(db: &EtcdDb, text: &str) {
    let created = async {
        while !matches!(db.get(&key(text)).await, Ok(Some(_))) {
            match db.put(&key(text), Bytes::from("x"), Precondition::Absent).await {
                Ok(CasOutcome::Applied(_) | CasOutcome::Conflict) => {}
                Err(error) => assert_eq!(error.kind(), ErrorKind::Unavailable, "{error:?}"),
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(60), created).await.unwrap();
}

async fn next(hints: &mut BoxStream<'static, Hint>) -> Hint {
    tokio::time::timeout(Duration::from_secs(60), hints.next()).await.unwrap().unwrap()
}

fn changed(text: &str) -> Hint {
    Hint::Changed(key(text))
}

#[tokio::test]
async fn a_watch_goes_on_where_it_broke_and_says_so_where_it_cannot() {
    let mut members = Members::start(3);
    // The watcher knows one member alone, so it is without any while that one is dead.
    let watcher = connect(&members.host(0)).await;
    let others = connect(&format!("{},{}", members.host(1), members.host(2))).await;
    let mut hints = watcher.watch(&key("w")).await.unwrap();
    create(&others, "w/before").await;
    assert_eq!(next(&mut hints).await, changed("w/before"));

    members.kill(0);
    create(&others, "w/meanwhile-1").await;
    create(&others, "w/meanwhile-2").await;
    members.begin(0);
    for text in ["w/meanwhile-1", "w/meanwhile-2"] {
        assert_eq!(next(&mut hints).await, changed(text), "nothing is missed, so nothing is read again");
    }

    members.kill(0);
    create(&others, "w/forgotten").await;
    create(&others, "w/last").await;
    let mut etcd = etcd_client::Client::connect([members.host(1)], None).await.unwrap();
    let now = etcd.get("w/last", None).await.unwrap().header().unwrap().revision();
    etcd.compact(now, None).await.unwrap();
    members.begin(0);
    assert_eq!(next(&mut hints).await, Hint::Reset, "what was missed cannot be told any more");
    create(&others, "w/after").await;
    assert_eq!(next(&mut hints).await, changed("w/after"));
    // What is compacted while a watch is well does not concern it.
    let now = etcd.get("w/after", None).await.unwrap().header().unwrap().revision();
    etcd.compact(now, None).await.unwrap();
    create(&others, "w/at-last").await;
    assert_eq!(next(&mut hints).await, changed("w/at-last"));
}

#[tokio::test]
async fn a_watch_moves_to_another_member_when_its_own_dies() {
    let mut members = Members::start(3);
    // The first is asked first.
    let db = connect(&members.hosts()).await;
    let mut hints = db.watch(&key("w")).await.unwrap();
    create(&db, "w/before").await;
    assert_eq!(next(&mut hints).await, changed("w/before"));
    members.kill(0);
    let others = connect(&format!("{},{}", members.host(1), members.host(2))).await;
    create(&others, "w/after").await;
    assert_eq!(next(&mut hints).await, changed("w/after"));
}

#[tokio::test]
async fn a_watch_follows_the_requests_when_its_member_falls_silent() {
    let members = Members::start(3);
    let mut options = EtcdOptions::new(format!("etcd://{}", members.hosts()).parse().unwrap());
    // That a connection is silent is not noticed by itself before this test has failed.
    options.silence = Duration::from_secs(3600);
    let db = EtcdDb::connect(Environment::system([5; 32]), options).await.unwrap();
    let mut hints = db.watch(&key("w")).await.unwrap();
    create(&db, "w/before").await;
    assert_eq!(next(&mut hints).await, changed("w/before"));
    // It stands still: its connections stay as they are, as those of a machine that is cut off.
    kill(members.process(0), Signal::SIGSTOP).unwrap();
    let others = connect(&format!("{},{}", members.host(1), members.host(2))).await;
    create(&others, "w/meanwhile").await;
    // Requests leave it, and the watch does with them.
    db.get(&key("w/meanwhile")).await.unwrap();
    assert_ne!(db.member(), format!("http://{}", members.host(0)));
    assert_eq!(next(&mut hints).await, changed("w/meanwhile"));
    kill(members.process(0), Signal::SIGCONT).unwrap();
}

#[tokio::test]
async fn the_member_of_this_machine_is_asked_again_once_it_is_back() {
    let mut members = Members::start(3);
    let db = connect(&members.hosts()).await;
    let own = format!("http://{}", members.host(0));
    assert_eq!(db.member(), own);
    let mut hints = db.watch(&key("w")).await.unwrap();
    members.kill(0);
    create(&db, "w/without").await;
    assert_ne!(db.member(), own);
    assert_eq!(next(&mut hints).await, changed("w/without"));
    members.begin(0);
    let back = async {
        while db.member() != own {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), back).await.unwrap();
    // Another one falls silent: the watch is with its own again.
    create(&db, "w/with").await;
    assert_eq!(next(&mut hints).await, changed("w/with"));
    assert_eq!(db.member(), own);
    kill(members.process(1), Signal::SIGSTOP).unwrap();
    create(&db, "w/alone").await;
    assert_eq!(next(&mut hints).await, changed("w/alone"));
    kill(members.process(1), Signal::SIGCONT).unwrap();
}

#[tokio::test]
async fn a_watch_ends_with_the_last_handle_although_etcd_lives() {
    let members = Members::start(1);
    let db = connect(&members.hosts()).await;
    let other = db.clone();
    let mut hints = db.watch(&key("w")).await.unwrap();
    drop(db);
    create(&other, "w/a").await;
    assert_eq!(next(&mut hints).await, changed("w/a"));
    drop(other);
    let end = tokio::time::timeout(Duration::from_secs(60), hints.next()).await.unwrap();
    assert_eq!(end, None);
}
