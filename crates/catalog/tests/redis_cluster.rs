//! The redis-cluster blueprint with real servers.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::collections::BTreeMap;
use std::fs;

use steadfast_core::engine::WantedRole;
use steadfast_core::model::{Durability, Role};
use support::{Running, World, eventually};

/// A key in each third of the slots: of `a`, `b` and `d`.
const KEYS: [(&str, u16); 3] = [("b", 3300), ("d", 11298), ("a", 15495)];

/// Runs the engine's own client as an ordinary client that goes where it is sent.
async fn ask(member: &Running, words: &[&str]) -> String {
    member.redis_cli("password", &[&["-c"], words].concat()).await
}

/// Runs it as Steadfast, on this member.
async fn inquire(member: &Running, words: &[&str]) -> String {
    member.redis_cli("admin_password", &[&["--user", "steadfast"], words].concat()).await
}

/// What a member knows of the whole: of each member by its address, its number, role, primary and slots.
async fn picture(member: &Running) -> BTreeMap<String, String> {
    let nodes = inquire(member, &["CLUSTER", "NODES"]).await;
    let of = |line: &str| {
        let words: Vec<&str> = line.split(' ').collect();
        let address = words[1].split(':').next().unwrap().to_owned();
        let role = words[2].trim_start_matches("myself,").to_owned();
        (address, format!("{} {role} {} {}", words[0], words[3], words[8..].join(" ")))
    };
    nodes.lines().map(of).collect()
}

/// Makes every member's data, and starts them all.
async fn begin(world: &World) -> Vec<Running> {
    let mut members: Vec<Running> = (0..world.peers.len()).map(|ordinal| world.member(ordinal)).collect();
    for (ordinal, member) in members.iter_mut().enumerate() {
        if ordinal == 0 {
            member.engine.initialise().await.unwrap();
        } else {
            member.engine.join(None).await.unwrap();
        }
        member.engine.reconcile_data(&WantedRole::Fenced).await.unwrap();
        member.spawn();
    }
    for member in &members {
        member.until("it serves in the cluster", |view| view.ready).await;
    }
    members
}

fn world(replicas: u32, durability: Durability) -> World {
    let mut world = World::new("redis-cluster", replicas, durability);
    world.options.insert("node_timeout".to_owned(), "1s".into());
    world
}

#[tokio::test]
async fn members_are_a_cluster_from_their_first_start_and_slots_survive_a_move() {
    let world = world(3, Durability::Strict);
    let mut members = begin(&world).await;
    let whole = picture(&members[0]).await;
    let slots: Vec<&str> =
        members.iter().map(|member| whole[&member.address()].rsplit(' ').next().unwrap()).collect();
    assert_eq!(slots, ["0-5460", "5461-10921", "10922-16383"]);
    for member in &members {
        assert_eq!(picture(member).await, whole);
        assert_eq!(member.engine.observe().await.role, Role::Primary);
        assert!(inquire(member, &["CLUSTER", "INFO"]).await.contains("cluster_slots_ok:16384"));
    }
    for (key, slot) in KEYS {
        assert_eq!(ask(&members[0], &["CLUSTER", "KEYSLOT", key]).await, slot.to_string());
        assert_eq!(ask(&members[0], &["SET", key, "1"]).await, "OK");
    }
    let number = whole[&members[1].address()].split(' ').next().unwrap();
    let refused = ask(&members[0], &["CLUSTER", "FORGET", number]).await;
    assert!(refused.starts_with("NOPERM"), "clients do not change the cluster");

    // Its node dies, and it comes back elsewhere with its address and its data.
    members[1].kill().await;
    members[0].until("a shard is missed", |view| view.alive && !view.ready).await;
    let refused = ask(&members[0], &["GET", KEYS[0].0]).await;
    assert!(refused.starts_with("CLUSTERDOWN"), "{refused}");
    members[1].context.node = "node-2".parse().unwrap();
    members[1].context.epoch = members[1].context.epoch.next();
    members[1].engine = world.definition.engine(members[1].context.clone(), members[1].host.clone());
    members[1].start(&WantedRole::Fenced).await;
    for member in &members {
        member.until("the cluster is whole", |view| view.ready).await;
        assert_eq!(picture(member).await, whole, "the same numbers, addresses and slots");
    }
    for (key, _) in KEYS {
        assert_eq!(ask(&members[2], &["GET", key]).await, "1");
    }

    // All at once, as after a power cut: nobody is left who could tell them who they are.
    for member in &mut members {
        member.kill().await;
    }
    for member in &mut members {
        member.start(&WantedRole::Fenced).await;
    }
    for member in &members {
        member.until("the cluster is whole again", |view| view.ready).await;
        assert_eq!(picture(member).await, whole);
    }
    for member in &mut members {
        member.stop().await;
    }
}

#[tokio::test]
async fn replicas_follow_and_are_promoted_only_where_acknowledged_writes_may_be_lost() {
    for (durability, promoted) in [(Durability::Strict, false), (Durability::Available, true)] {
        let world = world(6, durability);
        let mut members = begin(&world).await;
        for (ordinal, shard) in [(3, 1), (4, 2), (5, 0)] {
            let view = members[ordinal].engine.observe().await;
            assert_eq!((view.role, view.follows), (Role::Replica, members[shard].peer().address));
        }
        let (key, _) = KEYS[0];
        assert_eq!(ask(&members[4], &["SET", key, "1"]).await, "OK");
        eventually("the replica has it", || async {
            (inquire(&members[5], &["DBSIZE"]).await == "1").then_some(())
        })
        .await;

        members[0].kill().await;
        members[1].until("the shard is missed", |view| view.alive && !view.ready).await;
        if promoted {
            members[5].until("the replica leads", |view| view.role == Role::Primary && view.ready).await;
            // Whom a client asks may hear of that a moment later.
            eventually("the new primary takes writes", || async {
                (ask(&members[1], &["SET", key, "2"]).await == "OK").then_some(())
            })
            .await;
        } else {
            let info = inquire(&members[5], &["CONFIG", "GET", "cluster-replica-no-failover"]).await;
            assert!(info.ends_with("yes"), "{info}");
        }
        // The old primary comes back: in strict to lead with what it has, otherwise behind the new one.
        members[0].start(&WantedRole::Fenced).await;
        for member in &members {
            member.until("the cluster is whole", |view| view.ready).await;
        }
        let (leads, value) = if promoted { (Role::Replica, "2") } else { (Role::Primary, "1") };
        members[0].until("it has its role", |view| view.role == leads).await;
        eventually("it is read", || async { (ask(&members[3], &["GET", key]).await == value).then_some(()) })
            .await;
        // A server that writes its first append-only file refuses to end in order; agents kill it after a while.
        for member in &mut members {
            member.kill().await;
        }
    }
}

#[tokio::test]
async fn every_member_has_the_same_picture_and_shards_are_dealt_out_whole() {
    for (replicas, per_shard, shards) in
        [(3, 1, 3), (4, 1, 3), (6, 1, 3), (7, 0, 7), (8, 1, 4), (9, 2, 3), (50, 0, 50)]
    {
        let mut world = world(replicas, Durability::Strict);
        world.options.insert("replicas_per_shard".to_owned(), per_shard.into());
        let mut pictures = Vec::new();
        for ordinal in [0, replicas as usize - 1] {
            let member = world.member(ordinal);
            member.engine.join(None).await.unwrap();
            let text = fs::read_to_string(member.data().join("redis/nodes.conf")).unwrap();
            assert_eq!(text.matches("myself,").count(), 1, "{text}");
            pictures.push(text.replace("myself,", ""));
        }
        assert_eq!(pictures[0], pictures[1]);
        let lines: Vec<Vec<&str>> = pictures[0].lines().map(|line| line.split(' ').collect()).collect();
        let (vars, nodes) = lines.split_last().unwrap();
        assert_eq!(vars, &["vars", "currentEpoch", &shards.to_string(), "lastVoteEpoch", "0"]);
        let ids: std::collections::BTreeSet<&str> = nodes.iter().map(|words| words[0]).collect();
        assert_eq!((ids.len(), nodes.len()), (replicas as usize, replicas as usize));
        let mut next = 0;
        for (ordinal, words) in nodes.iter().enumerate() {
            if ordinal < shards {
                let (first, last) = words[8].split_once('-').unwrap();
                assert_eq!((words[2], first.parse::<u32>().unwrap()), ("master", next));
                next = last.parse::<u32>().unwrap() + 1;
            } else {
                let leader = nodes.iter().position(|other| other[0] == words[3]).unwrap();
                assert!(words[2] == "slave" && leader < shards && words.len() == 8, "{words:?}");
                // Members placed in turn on as many nodes as there are shards have a shard's copies apart.
                assert_ne!(leader, ordinal % shards);
            }
        }
        assert_eq!(next, 16384, "every slot is somebody's");
    }
}
