//! The zookeeper blueprint with real servers.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::fs;

use steadfast_catalog::reason;
use steadfast_core::engine::WantedRole;
use steadfast_core::model::{Durability, Reason, Role};
use support::{Running, World, eventually};
use tokio::process::Command;

/// Runs the engine's own client once.
async fn ask(member: &Running, words: &[&str]) -> Option<String> {
    let output = Command::new("/usr/bin/java")
        .args(["-Xmx64m", "-cp", "/usr/share/java/zookeeper.jar", "org.apache.zookeeper.ZooKeeperMain"])
        .args(["-timeout", "10000", "-server", &format!("{}:2181", member.address())])
        .args(words)
        .kill_on_drop(true)
        .output()
        .await
        .unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    output.status.success().then(|| text(&output.stdout))
}

fn ensemble(world: &World) -> Vec<Running> {
    (0..world.peers.len()).map(|ordinal| world.member(ordinal)).collect()
}

async fn begin(members: &mut [Running]) {
    for (ordinal, member) in members.iter_mut().enumerate() {
        let prepared = if ordinal == 0 {
            member.engine.initialise().await.unwrap()
        } else {
            member.engine.join(None).await.unwrap()
        };
        assert!(prepared.engine_version.starts_with("3."), "{prepared:?}");
        member.engine.reconcile_data(&WantedRole::Fenced).await.unwrap();
        member.spawn();
    }
    for member in members {
        let view = member.until("it has a quorum", |view| view.ready).await;
        assert_eq!((view.role, view.problem), (Role::Voter, None));
    }
}

#[tokio::test]
async fn three_voters_keep_what_was_acknowledged_through_the_kill_of_one() {
    let mut world = World::new("zookeeper", 3, Durability::Strict);
    world.options.insert("heap".to_owned(), "96MiB".into());
    world.options.insert("tick_time".to_owned(), "500ms".into());
    let mut members = ensemble(&world);
    begin(&mut members).await;
    // There is nothing for us to decide.
    members[0].engine.assume(&WantedRole::Fenced).await.unwrap();
    eventually("a node is written", || async { ask(&members[0], &["create", "/kept", "1"]).await }).await;
    let before = members[1]
        .until("it has the write", |view| view.position.is_some_and(|position| position.offset > 0));
    let before = before.await.position.unwrap();

    members[2].kill().await;
    assert!(!members[2].engine.observe().await.alive);
    for member in &members[..2] {
        member.until("two are a quorum", |view| view.ready).await;
    }
    let kept = eventually("the node is read", || async { ask(&members[1], &["get", "/kept"]).await }).await;
    assert_eq!(kept.lines().last(), Some("1"));
    eventually("two take writes", || async { ask(&members[0], &["create", "/later", "2"]).await }).await;

    members[2].start(&WantedRole::Fenced).await;
    let again = members[2].until("it is back", |view| view.ready && view.position > Some(before)).await;
    assert_eq!(again.role, Role::Voter);
    let later = eventually("it has caught up", || async { ask(&members[2], &["get", "/later"]).await }).await;
    assert_eq!(later.lines().last(), Some("2"));

    // One of three is no quorum: it answers, and does not serve.
    members[0].kill().await;
    members[1].kill().await;
    members[2].until("it is alone", |view| view.alive && !view.ready).await;
    members[2].stop().await;
}

#[tokio::test]
async fn a_voter_without_its_data_is_refused_and_one_with_an_empty_tree_does_not_begin_anew() {
    let mut world = World::new("zookeeper", 1, Durability::Strict);
    world.options.insert("heap".to_owned(), "96MiB".into());
    let mut members = ensemble(&world);
    let data = members[0].data().join("zookeeper");
    let error = members[0].engine.reconcile_data(&WantedRole::Fenced).await.unwrap_err();
    assert_eq!(reason(&error), Some(Reason::VoterAmnesia), "{error}");

    begin(&mut members).await;
    assert!(!data.join("initialize").exists(), "the permission is used up");
    assert_eq!(fs::read_to_string(data.join("myid")).unwrap().trim(), "1");
    members[0].stop().await;
    members[0].start(&WantedRole::Fenced).await;
    members[0].until("it serves again", |view| view.ready).await;
    members[0].stop().await;

    // The disk is back, the tree is not.
    fs::remove_dir_all(data.join("version-2")).unwrap();
    let error = members[0].engine.reconcile_data(&WantedRole::Fenced).await.unwrap_err();
    assert_eq!(reason(&error), Some(Reason::VoterAmnesia), "{error}");
    // Making the data again does not bring the permission back either: it is complete by its number.
    members[0].engine.join(None).await.unwrap();
    assert!(!data.join("initialize").exists());
}

/// The member as a learner, or as a voter again.
fn reconfigure(world: &World, member: &mut Running, learner: bool) {
    member.context.learner = learner;
    member.engine = world.definition.engine(member.context.clone(), member.host.clone());
}

/// The disk of a voter is gone. What it had confirmed with one other voter is with that one alone, and no leader may be
/// without it: a learner makes no quorum, and what it has once it has caught up is everything.
///
/// An observer under the voter's own number would be counted: the others go by their own lists.
#[tokio::test]
async fn a_voter_that_has_lost_its_disk_learns_and_is_not_counted_until_it_votes_again() {
    let mut world = World::new("zookeeper", 3, Durability::Strict);
    world.options.insert("heap".to_owned(), "96MiB".into());
    world.options.insert("tick_time".to_owned(), "500ms".into());
    let mut members = ensemble(&world);
    begin(&mut members).await;
    // Written while the first is away: only the second has it besides the third, which is about to lose its disk.
    members[0].stop().await;
    for member in &members[1..] {
        member.until("two are a quorum", |view| view.ready).await;
    }
    eventually("a write", || async { ask(&members[1], &["create", "/kept", "1"]).await }).await;
    members[1].kill().await;
    members[2].kill().await;
    let data = members[2].data().join("zookeeper");
    fs::remove_dir_all(&data).unwrap();

    reconfigure(&world, &mut members[2], true);
    members[2].engine.join(None).await.unwrap();
    assert!(!data.join("initialize").exists(), "it may not begin with an empty tree");
    members[2].start(&WantedRole::Fenced).await;
    members[0].start(&WantedRole::Fenced).await;
    // Much longer than two voters take to elect one of them.
    for _ in 0..50 {
        for member in [&members[0], &members[2]] {
            let view = member.engine.observe().await;
            assert!(!view.ready, "one voter and a learner serve: {view:?}\n{}", member.log());
        }
        tokio::time::sleep(std::time::Duration::from_millis(200)).await;
    }
    assert!(!members[0].log().contains("- LEADING\n"), "{}", members[0].log());

    members[1].start(&WantedRole::Fenced).await;
    let learnt = members[2].until("it has caught up", |view| view.ready).await;
    assert_eq!(learnt.role, Role::Learner);
    members[2].stop().await;
    reconfigure(&world, &mut members[2], false);
    members[2].start(&WantedRole::Fenced).await;
    members[2].until("it votes", |view| view.ready && view.role == Role::Voter).await;
    assert_eq!(fs::read_to_string(data.join("myid")).unwrap().trim(), "3");
    // It is one of two that make a quorum now, and the one that is left has the write from the others.
    members[1].kill().await;
    for member in [&members[0], &members[2]] {
        member.until("two are a quorum again", |view| view.ready).await;
    }
    let kept = eventually("the write is read", || async { ask(&members[2], &["get", "/kept"]).await }).await;
    assert_eq!(kept.lines().last(), Some("1"));
    members[0].stop().await;
    members[2].stop().await;
}

/// A learner that has not caught up has no tree, and is no voter whatever it is told.
#[tokio::test]
async fn a_learner_that_has_learnt_nothing_is_not_started_as_a_voter() {
    let world = World::new("zookeeper", 3, Durability::Strict);
    let mut member = world.member(2);
    reconfigure(&world, &mut member, true);
    member.engine.join(None).await.unwrap();
    member.engine.reconcile_data(&WantedRole::Fenced).await.unwrap();
    let myid = member.data().join("zookeeper/myid");
    assert_eq!(fs::read_to_string(&myid).unwrap().trim(), "103");
    let config = member.engine.config().unwrap().remove(0).content;
    let servers: Vec<&str> = config.lines().filter(|line| line.starts_with("server.")).collect();
    assert!(servers.len() == 3 && servers[2].starts_with("server.103=") && servers[2].ends_with(":observer"));
    assert!(!config.contains("server.3="), "nobody is there twice: {config}");
    reconfigure(&world, &mut member, false);
    let error = member.engine.reconcile_data(&WantedRole::Fenced).await.unwrap_err();
    assert_eq!(reason(&error), Some(Reason::VoterAmnesia), "{error}");
    assert_eq!(fs::read_to_string(&myid).unwrap().trim(), "103");
}

#[tokio::test]
async fn membership_is_the_same_wherever_a_voter_runs() {
    let world = World::new("zookeeper", 3, Durability::Strict);
    let members = ensemble(&world);
    let voters = |member: &Running| -> Vec<String> {
        let files = member.engine.config().unwrap();
        files[0].content.lines().filter(|line| line.starts_with("server.")).map(str::to_owned).collect()
    };
    assert_eq!(voters(&members[0]).len(), 3);
    assert_eq!(voters(&members[0]), voters(&members[2]));
    let moved = {
        let mut context = members[1].context.clone();
        context.node = "node-2".parse().unwrap();
        context.epoch = context.epoch.next();
        world.definition.engine(context, members[1].host.clone())
    };
    assert_eq!(moved.config().unwrap(), members[1].engine.config().unwrap());
}
