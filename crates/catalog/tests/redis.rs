//! The redis blueprint with real servers.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use steadfast_catalog::reason;
use steadfast_core::engine::WantedRole;
use steadfast_core::model::{Durability, Reason, Role};
use support::{Running, World};

const PRIMARY: WantedRole = WantedRole::Primary { replicas: Vec::new() };

/// Runs the engine's own client as an ordinary client.
async fn ask(member: &Running, words: &[&str]) -> String {
    member.redis_cli("password", words).await
}

#[tokio::test]
async fn a_member_takes_no_writes_until_it_is_made_primary_and_keeps_them_through_kill_9() {
    let world = World::new("redis", 1, Durability::Strict);
    let mut member = world.member(0);
    let prepared = member.engine.initialise().await.unwrap();
    assert!(prepared.engine_version.starts_with("7."), "{prepared:?}");
    member.start(&WantedRole::Fenced).await;
    assert!(ask(&member, &["SET", "a", "1"]).await.starts_with("READONLY"));
    let view = member.engine.observe().await;
    assert_eq!((view.role, view.follows, view.ready), (Role::Replica, None, false));

    member.assume(&PRIMARY).await;
    let view = member.engine.observe().await;
    assert_eq!((view.role, view.ready), (Role::Primary, true));
    assert_eq!(view.position.unwrap().timeline, 1);
    assert_eq!(ask(&member, &["SET", "a", "1"]).await, "OK");
    member.assume(&PRIMARY).await;
    assert_eq!(member.engine.observe().await.position.unwrap().timeline, 1, "already there: no effect");

    member.kill().await;
    assert!(!member.engine.observe().await.alive);
    member.start(&WantedRole::Fenced).await;
    assert!(ask(&member, &["SET", "a", "2"]).await.starts_with("READONLY"));
    assert_eq!(member.engine.observe().await.position, None, "it does not know how far it is");
    member.assume(&PRIMARY).await;
    assert_eq!(member.engine.observe().await.position.unwrap().timeline, 2);
    assert_eq!(ask(&member, &["GET", "a"]).await, "1");
    member.stop().await;
}

#[tokio::test]
async fn a_replica_follows_and_takes_over_and_the_old_primary_comes_back_behind_it() {
    let world = World::new("redis", 3, Durability::Available);
    let mut members: Vec<Running> = (0..3).map(|ordinal| world.member(ordinal)).collect();
    members[0].engine.initialise().await.unwrap();
    members[0].start(&WantedRole::Fenced).await;
    members[0].assume(&PRIMARY).await;
    ask(&members[0], &["SET", "before", "1"]).await;

    let first = members[0].peer();
    for member in &mut members[1..] {
        let follow = WantedRole::Follow(first.clone());
        member.engine.join(Some(&first)).await.unwrap();
        member.start(&follow).await;
        member.assume(&follow).await;
        let view = member.until("it follows", |view| view.ready).await;
        assert_eq!((view.role, view.follows), (Role::Replica, first.address));
        assert_eq!(ask(member, &["GET", "before"]).await, "1");
    }
    ask(&members[0], &["SET", "confirmed", "1"]).await;
    assert_eq!(ask(&members[0], &["WAIT", "2", "30000"]).await, "2");
    let reached = members[0].engine.observe().await.position.unwrap();
    for member in &members[1..] {
        member.until("it has caught up", |view| view.position >= Some(reached)).await;
        assert!(ask(member, &["SET", "x", "1"]).await.starts_with("READONLY"));
    }

    members[0].kill().await;
    for member in &members[1..] {
        member.assume(&WantedRole::Fenced).await;
        let view = member.engine.observe().await;
        assert_eq!((view.role, view.follows, view.ready), (Role::Replica, None, false));
        assert!(view.position.unwrap() >= reached, "a fenced survivor tells how far it is: {view:?}");
    }
    members[1].assume(&PRIMARY).await;
    assert_eq!(ask(&members[1], &["GET", "confirmed"]).await, "1");
    ask(&members[1], &["SET", "after", "1"]).await;
    let second = members[1].peer();
    members[2].assume(&WantedRole::Follow(second.clone())).await;
    members[2].until("it follows the new primary", |view| view.ready).await;
    let ahead = members[2].until("it is on the new lineage", |view| view.position > Some(reached)).await;
    assert!(ahead.position.unwrap().timeline > reached.timeline);

    // The old primary comes back: it takes no writes, and becomes a copy of the new one.
    members[0].start(&WantedRole::Follow(second.clone())).await;
    assert!(ask(&members[0], &["SET", "stray", "1"]).await.starts_with("READONLY"));
    members[0].assume(&WantedRole::Follow(second)).await;
    members[0].until("the old primary follows", |view| view.ready).await;
    assert_eq!(ask(&members[0], &["GET", "after"]).await, "1");
}

#[tokio::test]
async fn a_replica_that_restarted_alone_is_behind_one_that_has_synchronised() {
    let mut world = World::new("redis", 2, Durability::Available);
    world.options.insert("maxmemory".to_owned(), "4MiB".into());
    let (mut primary, mut replica) = (world.member(0), world.member(1));
    primary.engine.initialise().await.unwrap();
    primary.start(&WantedRole::Fenced).await;
    primary.assume(&PRIMARY).await;
    let follow = WantedRole::Follow(primary.peer());
    replica.engine.join(Some(&primary.peer())).await.unwrap();
    replica.start(&follow).await;
    replica.assume(&follow).await;
    replica.until("it follows", |view| view.ready).await;
    let old = replica.until("it has a position", |view| view.position.is_some()).await.position.unwrap();
    // The append-only file is rewritten after a full copy; until then a kill takes the replica back to before.
    support::eventually("the copy is in the replica's append-only file", || async {
        let info = ask(&replica, &["INFO", "persistence"]).await;
        let rewritten = !info.contains("aof_last_rewrite_time_sec:-1")
            && info.contains("aof_rewrite_in_progress:0")
            && info.contains("aof_rewrite_scheduled:0");
        rewritten.then_some(())
    })
    .await;
    replica.kill().await;
    replica.start(&WantedRole::Fenced).await;
    let restarted = replica.engine.observe().await.position.unwrap();
    assert_eq!((restarted.timeline, restarted.offset), (old.timeline, 0), "the least it can be");

    // A primary that restarts begins a new lineage, even when its memory is full.
    primary.kill().await;
    primary.start(&WantedRole::Fenced).await;
    let filler = "x".repeat(100_000);
    primary.assume(&PRIMARY).await;
    for index in 0..100 {
        ask(&primary, &["SET", &format!("key{index}"), &filler]).await;
    }
    assert!(ask(&primary, &["SET", "one-more", &filler]).await.starts_with("OOM"));
    primary.kill().await;
    primary.start(&WantedRole::Fenced).await;
    primary.assume(&PRIMARY).await;
    let again = primary.engine.observe().await.position.unwrap();
    assert!(again.timeline >= old.timeline + 2, "{again} after {old}");
    assert_eq!(ask(&primary, &["GET", "key0"]).await.len(), filler.len());
}

#[tokio::test]
async fn clients_cannot_change_roles_settings_or_users() {
    let world = World::new("redis", 1, Durability::Strict);
    let mut member = world.member(0);
    member.engine.initialise().await.unwrap();
    member.start(&WantedRole::Fenced).await;
    for words in [
        &["REPLICAOF", "NO", "ONE"][..],
        &["CONFIG", "SET", "appendfsync", "no"],
        &["CONFIG", "GET", "masterauth"],
        &["DEBUG", "SLEEP", "0"],
        &["ACL", "LIST"],
        &["SHUTDOWN", "NOSAVE"],
        &["FLUSHALL"],
        &["FUNCTION", "FLUSH"],
    ] {
        let answer = ask(&member, words).await;
        assert!(
            answer.starts_with("NOPERM") || answer.contains("DEBUG command not allowed"),
            "{words:?}: {answer}"
        );
    }
    assert!(ask(&member, &["ROLE"]).await.starts_with("slave"));
    member.stop().await;
}

#[tokio::test]
async fn a_missing_or_other_program_is_told() {
    let world = World::new("redis", 1, Durability::Strict);
    let mut member = world.member(0);
    member.host.programs.insert("redis-server".to_owned(), "/nowhere/redis-server".into());
    let engine = world.definition.engine(member.context.clone(), member.host.clone());
    for error in [engine.version().await.unwrap_err(), engine.start_command().unwrap_err()] {
        assert_eq!(reason(&error), Some(Reason::EngineMissing), "{error}");
        assert!(error.to_string().contains("/nowhere/redis-server"), "{error}");
    }
    let other = member.home.join("redis-server");
    std::fs::write(&other, "#!/bin/sh\necho 'Redis server v=6.2.1 sha=0'\n").unwrap();
    std::os::unix::fs::chown(&other, Some(65534), None).ok();
    std::fs::set_permissions(&other, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    member.host.programs.insert("redis-server".to_owned(), other);
    let error = world.definition.engine(member.context.clone(), member.host).version().await.unwrap_err();
    assert_eq!(reason(&error), Some(Reason::EngineMismatch), "{error}");
    assert!(error.to_string().contains("6.2.1"), "{error}");
}

#[tokio::test]
async fn no_secret_is_in_the_arguments_or_the_environment() {
    let world = World::new("redis", 1, Durability::Strict);
    let member = world.member(0);
    let start = member.engine.start_command().unwrap();
    let shown = format!("{start:?}");
    for secret in member.context.secrets.values() {
        assert!(!shown.contains(secret.as_str()));
    }
    for file in member.engine.config().unwrap() {
        assert_eq!(file.mode & 0o077, 0, "{file:?}");
    }
}

#[tokio::test]
async fn data_that_should_be_there_and_is_not_is_refused() {
    let world = World::new("redis", 1, Durability::Strict);
    let member = world.member(0);
    let error = member.engine.reconcile_data(&WantedRole::Fenced).await.unwrap_err();
    assert_eq!(reason(&error), Some(Reason::VolumeUnexpectedlyEmpty), "{error}");
    // Somebody's files are not taken for half-made data.
    std::fs::create_dir(member.data().join("redis")).unwrap();
    std::fs::write(member.data().join("redis/precious"), "x").unwrap();
    let error = member.engine.initialise().await.unwrap_err();
    assert_eq!(reason(&error), Some(Reason::VolumeCorrupt), "{error}");
    assert!(member.data().join("redis/precious").exists());
}
