//! The agent, with real guards, real volumes and a real Redis; the records are in memory.

mod common;

use std::fs;
use std::sync::Arc;
use std::time::{Duration, Instant};

use common::redis::ask;
use common::world::{World, holders};
use common::{runs, signal};
use nix::sys::signal::Signal;
use steadfast_core::error::ErrorKind;
use steadfast_core::ids::{Epoch, RoleTerm};
use steadfast_core::layer::Call;
use steadfast_core::layer::fault::{Fault, Faults};
use steadfast_core::metadata::MetadataDb;
use steadfast_core::metadata::memory::MemoryDb;
use steadfast_core::model::{MemberPhase, Reason, Role, RolePhase};
use steadfast_core::volume::VolumeProvider as _;

/// The member's engine on a node.
fn engine_of(world: &World, ordinal: u32, not: Option<i32>) -> i32 {
    let volume = world.volume(ordinal).join("lock");
    let found = holders(&volume).into_iter().find(|pid| {
        Some(*pid) != not
            && fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|comm| comm.starts_with("redis"))
    });
    found.expect("redis runs")
}

fn guard_of(world: &World, ordinal: u32) -> i32 {
    holders(&world.volume(ordinal).join("lock"))
        .into_iter()
        .find(|pid| {
            fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|comm| comm.starts_with("steadfast"))
        })
        .expect("a guard runs")
}

#[tokio::test]
async fn an_assigned_member_is_claimed_initialised_started_and_led() {
    let mut world = World::new().await;
    world.create(1).await;
    let agent = world.agent("node-1");
    world.place(&[Some("node-1")]).await;
    let status = world.serving("node-1", 0).await;
    assert_eq!((status.role, status.role_term, status.epoch), (Role::Primary, RoleTerm(1), Epoch(1)));
    let member = world.until_member("it is recorded", 0, |member| member.phase == MemberPhase::Serving).await;
    assert_eq!(member.initialised.as_ref().unwrap().engine_version, "7.0.15");
    assert_eq!(ask(world.address(0).await, &["SET", "k", "v"]).await.unwrap(), "+OK\r\n+OK\r\n");
    let identity = fs::read_to_string(world.volume(0).join("identity.json")).unwrap();
    assert!(identity.contains("\"m0\"") && identity.contains("\"initialised\": true"), "{identity}");
    agent.stop().await;
}

#[tokio::test]
async fn another_agent_takes_over_without_touching_the_engine() {
    let mut world = World::new().await;
    world.create(1).await;
    let agent = world.agent("node-1");
    world.place(&[Some("node-1")]).await;
    let before = world.serving("node-1", 0).await;
    let (engine, guard) = (engine_of(&world, 0, None), guard_of(&world, 0));
    agent.stop().await;
    assert!(runs(engine) && runs(guard));

    let agent = world.agent("node-1");
    world.beats("node-1", 2).await;
    let after = world.serving("node-1", 0).await;
    assert_eq!((after.incarnation, after.epoch), (before.incarnation, before.epoch));
    assert_eq!((engine_of(&world, 0, None), guard_of(&world, 0)), (engine, guard));
    assert_eq!(after.role_term, RoleTerm(1), "the role is confirmed anew");
    agent.stop().await;
}

#[tokio::test]
async fn a_killed_engine_or_guard_is_started_again_here_with_its_data() {
    let mut world = World::new().await;
    world.create(1).await;
    let agent = world.agent("node-1");
    world.place(&[Some("node-1")]).await;
    let mut before = world.serving("node-1", 0).await;
    let address = world.address(0).await;
    ask(address, &["SET", "k", "v"]).await.unwrap();
    for kill_guard in [false, true] {
        let victim = if kill_guard { guard_of(&world, 0) } else { engine_of(&world, 0, None) };
        signal(victim, Signal::SIGKILL);
        let after = world
            .until("a new life serves", "node-1", 0, |status| {
                status.ready && status.incarnation.is_some() && status.incarnation != before.incarnation
            })
            .await;
        assert_eq!(after.epoch, before.epoch, "it did not move");
        assert!(after.restarts > before.restarts);
        assert!(ask(address, &["GET", "k"]).await.unwrap().contains("\r\nv\r\n"));
        before = after;
    }
    let member = world.member(0).await;
    let ends = member.events.iter().filter(|event| event.reason == Reason::EngineExited);
    let told: Vec<&str> = ends.map(|event| event.message.as_str()).collect();
    assert!(told.len() == 2 && told[1].contains("the guard of"), "{told:?}");
    agent.stop().await;
}

#[tokio::test]
async fn a_stopped_process_is_killed_and_started_anew() {
    let mut world = World::new().await;
    world.create(1).await;
    let agent = world.agent("node-1");
    world.place(&[Some("node-1")]).await;
    let mut before = world.serving("node-1", 0).await;
    for stop_guard in [false, true] {
        let victim = if stop_guard { guard_of(&world, 0) } else { engine_of(&world, 0, None) };
        signal(victim, Signal::SIGSTOP);
        let after = world
            .until("a new life serves", "node-1", 0, |status| {
                status.ready && status.incarnation != before.incarnation
            })
            .await;
        assert!(!runs(victim));
        before = after;
    }
    let member = world.member(0).await;
    assert!(member.events.iter().any(|event| event.reason == Reason::EngineUnhealthy), "{:?}", member.events);
    agent.stop().await;
}

#[tokio::test]
async fn a_member_moves_with_its_data_and_its_address() {
    let mut world = World::new().await;
    world.create(1).await;
    let (one, two) = (world.agent("node-1"), world.agent("node-2"));
    world.place(&[Some("node-1")]).await;
    world.serving("node-1", 0).await;
    let address = world.address(0).await;
    ask(address, &["SET", "k", "v"]).await.unwrap();
    let engine = engine_of(&world, 0, None);
    world.place(&[Some("node-2")]).await;
    let status = world.serving("node-2", 0).await;
    assert_eq!(status.epoch, Epoch(2));
    assert!(!runs(engine));
    assert_eq!(world.address(0).await, address);
    assert!(ask(address, &["GET", "k"]).await.unwrap().contains("\r\nv\r\n"));
    let member = world.member(0).await;
    assert_eq!(member.unreleased.len(), 1, "{:?}", member.unreleased);
    world.until_gone("node-1", 0).await;
    assert!(!one.dir.guard(&common::world::name(0)).exists(), "nothing is left of it");
    assert!(world.log(0).matches("orders-0 on node-").count() == 2, "one log across the move");
    one.stop().await;
    two.stop().await;
}

#[tokio::test]
async fn a_restart_a_stop_and_a_start_are_done_in_order() {
    let mut world = World::new().await;
    world.create(1).await;
    let agent = world.agent("node-1");
    world.place(&[Some("node-1")]).await;
    let first = world.serving("node-1", 0).await;
    world.change_member(0, |member| member.generation = member.generation.next()).await;
    world.place(&[Some("node-1")]).await;
    let second =
        world.until("it was restarted", "node-1", 0, |s| s.ready && s.generation > first.generation).await;
    assert_ne!(second.incarnation, first.incarnation);
    assert_eq!((second.epoch, second.restarts), (first.epoch, 0));

    world.change_member(0, |member| member.run = false).await;
    world.place(&[Some("node-1")]).await;
    let stopped = world.until_member("it is released", 0, |member| member.unreleased.is_empty()).await;
    assert_eq!(stopped.phase, MemberPhase::Stopped);
    assert!(!steadfast_lock::is_held(&world.volume(0).join("lock")).unwrap());
    world.until("it says so", "node-1", 0, |status| status.phase == MemberPhase::Stopped).await;

    world.change_member(0, |member| member.run = true).await;
    world.place(&[Some("node-1")]).await;
    assert!(world.serving("node-1", 0).await.epoch > first.epoch);
    agent.stop().await;
}

#[tokio::test]
async fn a_volume_that_is_not_what_it_must_be_is_refused_and_left_alone() {
    let mut world = World::new().await;
    world.create(1).await;
    let foreign = world.volume(0).join("data/somebody");
    fs::write(&foreign, "else").unwrap();
    let agent = world.agent("node-1");
    world.place(&[Some("node-1")]).await;
    world.blocked("node-1", 0, &Reason::VolumeForeign).await;
    assert_eq!(fs::read_to_string(&foreign).unwrap(), "else");
    fs::remove_file(&foreign).unwrap();
    world.serving("node-1", 0).await;

    world.change_member(0, |member| member.run = false).await;
    world.place(&[Some("node-1")]).await;
    world.until_member("it is released", 0, |member| member.unreleased.is_empty()).await;
    fs::remove_dir_all(world.volume(0).join("data")).unwrap();
    fs::create_dir(world.volume(0).join("data")).unwrap();
    world.change_member(0, |member| member.run = true).await;
    world.place(&[Some("node-1")]).await;
    world.blocked("node-1", 0, &Reason::VolumeUnexpectedlyEmpty).await;
    assert_eq!(fs::read_dir(world.volume(0).join("data")).unwrap().count(), 0, "nothing was made");
    agent.stop().await;
}

#[tokio::test]
async fn an_engine_that_ends_again_and_again_is_a_crash_loop_and_stays() {
    let mut world = World::new().await;
    world.program = "/bin/false".into();
    world.create(1).await;
    let agent = world.agent("node-1");
    world.place(&[Some("node-1")]).await;
    let text = world.blocked("node-1", 0, &Reason::CrashLoop).await;
    assert!(text.contains("steadfast logs orders-0"), "{text}");
    assert_eq!(world.member(0).await.epoch, Epoch(1), "it does not move, and is not claimed anew");
    agent.stop().await;
}

#[tokio::test]
async fn a_missing_engine_and_a_taken_port_are_said() {
    let mut world = World::new().await;
    world.create(1).await;
    let address = world.address(0).await;
    let listener = std::net::TcpListener::bind((address, common::redis::PORT)).unwrap();
    let agent = world.agent("node-1");
    world.place(&[Some("node-1")]).await;
    let text = world.blocked("node-1", 0, &Reason::PortInUse).await;
    assert!(text.contains("6379"), "{text}");
    drop(listener);
    world.serving("node-1", 0).await;
    agent.stop().await;

    let mut world = World::new().await;
    world.program = "/no/such/redis".into();
    world.create(1).await;
    let agent = world.agent("node-1");
    world.place(&[Some("node-1")]).await;
    world.blocked("node-1", 0, &Reason::EngineMissing).await;
    agent.stop().await;
}

#[tokio::test]
async fn replicas_wait_for_the_first_and_follow_whoever_leads() {
    let mut world = World::new().await;
    world.create(2).await;
    let agent = world.agent("node-1");
    world.place(&[Some("node-1"), Some("node-1")]).await;
    world.blocked("node-1", 1, &Reason::BootstrapRunning).await;
    world.serving("node-1", 0).await;
    assert!(world.member(1).await.initialised.is_none(), "it waits until the first is confirmed");
    world.change_role(|role| role.phase = RolePhase::Led).await;
    let replica = world.serving("node-1", 1).await;
    assert_eq!(replica.role, Role::Replica);
    assert_eq!(replica.follows, Some(common::world::name(0)));

    // An election: survivors follow nobody and take no writes, under the new term.
    world
        .change_role(|role| {
            role.term = RoleTerm(2);
            role.phase = RolePhase::Electing;
            role.previous = role.leader.take();
        })
        .await;
    for ordinal in [0, 1] {
        world
            .until("it is fenced", "node-1", ordinal, |status| {
                status.role_term == RoleTerm(2) && !status.ready && status.position.is_some()
            })
            .await;
        let refused = ask(world.address(ordinal).await, &["SET", "k", "v"]).await.unwrap();
        assert!(refused.starts_with('-'), "{refused}");
    }
    world
        .change_role(|role| {
            role.phase = RolePhase::Led;
            role.leader = Some(common::world::name(1));
        })
        .await;
    let leads = |status: &steadfast_core::model::MemberStatus| status.ready && status.role == Role::Primary;
    world.until("the second leads", "node-1", 1, leads).await;
    let old = world.until("the first follows", "node-1", 0, |s| s.ready && s.role == Role::Replica).await;
    assert_eq!(old.follows, Some(common::world::name(1)));
    agent.stop().await;
}

#[tokio::test]
async fn volumes_that_cannot_be_listed_are_looked_at_with_the_next_resync_and_hold_nothing_up() {
    let mut world = World::new().await;
    world.timers.resync = Duration::from_secs(3600);
    let faults = Faults::new();
    faults.always(|call| call.operation == "list", Fault::Refused(ErrorKind::Unavailable));
    world.backends.volumes = faults.around(world.backends.volumes.clone());
    world.create(1).await;
    let agent = world.agent("node-1");
    world.place(&[Some("node-1")]).await;
    world.serving("node-1", 0).await;
    world.beats("node-1", 20).await;
    assert_eq!(faults.fired(), 1, "the volumes are listed once");
    agent.stop().await;
}

#[tokio::test]
async fn what_is_attached_against_the_records_is_found_once_volumes_can_be_listed() {
    let mut world = World::new().await;
    world.timers.resync = Duration::from_millis(200);
    world.create(1).await;
    let id = world.member(0).await.volumes[0].id.clone().unwrap();
    let node = "node-1".parse().unwrap();
    world.volumes.begin_attach(&id, &node).await.unwrap();
    let faults = Faults::new();
    faults.after(0, 2, |call| call.operation == "list", Fault::Refused(ErrorKind::Unavailable));
    world.backends.volumes = faults.around(world.backends.volumes.clone());
    let agent = world.agent("node-1");
    let end = Instant::now() + common::DEADLINE;
    while world.volumes.describe(&id).await.unwrap().unwrap().attachment.holder() == Some(&node) {
        assert!(Instant::now() < end, "it is given back; {} lists failed", faults.fired());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(faults.unfired(), 0);
    agent.stop().await;
}

#[tokio::test]
async fn an_engine_that_ends_while_its_task_waits_for_the_store_is_not_said_to_serve() {
    let faults = Faults::new();
    let db: Arc<dyn MetadataDb> = Arc::new(MemoryDb::new());
    let mut world = World::over(faults.around(db)).await;
    world.create(1).await;
    let agent = world.agent("node-1");
    world.place(&[Some("node-1")]).await;
    world.serving("node-1", 0).await;
    // Told that the service has changed, the task reads its records, and hears nothing any more.
    let reads_member =
        |call: &Call<'_>| call.operation == "get" && call.subject.to_string().contains("members");
    faults.once(reads_member, Fault::Swallowed);
    world.change_role(|role| role.failures += 1).await;
    let end = Instant::now() + common::DEADLINE;
    while faults.unfired() > 0 {
        assert!(Instant::now() < end, "the task reads the member's record");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    // Its engine ends with it.
    signal(guard_of(&world, 0), Signal::SIGKILL);
    while world.status("node-1", 0).await.is_some_and(|status| status.ready) {
        assert!(Instant::now() < end, "it is said to serve, and nobody has looked");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    world.beats("node-1", 2).await;
    agent.stop().await;
}
