//! An orchestrator that does nothing for a while, a swarm without a leader for example: what does not need it goes on,
//! and what does is tried again at a pace that the reason allows.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

mod kit;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use kit::{MINUTE, name, placed};
use steadfast_core::control::{Control, Guard};
use steadfast_core::error::ErrorKind;
use steadfast_core::layer::Call;
use steadfast_core::layer::fault::{Fault, Faults};
use steadfast_core::orchestrator::Orchestrator;
use steadfast_core::testing::TestEnvironment;
use steadfast_core::volume::VolumeProvider;
use steadfast_core::world::{World, service_file};

/// A world of four nodes; a server, what it hears of orchestrator and volumes, and how often it has had a workload
/// applied.
async fn away() -> (World, Control, Faults, Arc<AtomicU64>) {
    let world = World::new(TestEnvironment::new(7).environment, 4).await.unwrap();
    let (faults, applied) = (Faults::new(), Arc::new(AtomicU64::new(0)));
    let counter = Faults::new();
    let counted = Arc::clone(&applied);
    let count = move |call: &Call<'_>| {
        counted.fetch_add(u64::from(call.operation == "apply"), Ordering::Relaxed);
        false
    };
    counter.always(count, Fault::Swallowed);
    let mut backends = world.backends().unwrap();
    backends.orchestrator = faults.around::<dyn Orchestrator>(backends.orchestrator);
    backends.orchestrator = counter.around::<dyn Orchestrator>(backends.orchestrator);
    backends.volumes = faults.around::<dyn VolumeProvider>(backends.volumes);
    let server = world.server("server-1", Arc::new(world.db.clone()), backends).unwrap();
    (world, server, faults, applied)
}

/// One that promotes another member long before the old one is back.
async fn create(world: &mut World, server: &Control, replicas: u32) {
    let mut file = service_file("orders", replicas);
    file["failover"] = serde_json::json!({"promote_after": "1s"});
    let created = server.apply(file, Guard::default()).await.unwrap();
    world.finish(server, &created.id).await.unwrap();
}

/// A service of one member whose workload nobody can apply any more, for this reason, under a server that works by
/// itself; and how often it has tried.
async fn applies_nothing(reason: ErrorKind) -> (World, Control, Arc<AtomicU64>) {
    let (mut world, server, faults, applied) = away().await;
    create(&mut world, &server, 1).await;
    faults.always(|call| call.operation == "apply", Fault::Refused(reason));
    server.controller().start();
    (world, server, applied)
}

/// A quarter of a second of everybody; passes that fail are made again with the next.
async fn round(world: &mut World, server: &Control) {
    world.step_nodes().await.unwrap();
    let controller = server.controller();
    controller.shards().round().await.unwrap();
    controller.observer().refresh_nodes().await.unwrap();
    drop(controller.reconcile(&name("orders")).await);
    world.env.clock().sleep(Duration::from_millis(250)).await;
}

/// Promotes without what fails like this.
async fn promotes_without(fails: fn(&Call<'_>) -> bool) {
    let (mut world, server, faults, _) = away().await;
    create(&mut world, &server, 3).await;
    let before = server.service(&name("orders")).await.unwrap();
    let old = before.primary.clone().unwrap();
    faults.always(fails, Fault::Refused(ErrorKind::Unavailable));
    world.kill(&placed(&world, old.as_str()).await);
    for _ in 0..40 {
        round(&mut world, &server).await;
    }
    assert!(faults.fired() > 0);
    let after = server.service(&name("orders")).await.unwrap();
    let new = after.primary.clone();
    assert!(new.as_ref().is_some_and(|new| *new != old), "nobody leads but {old}: {after:?}");
    let led = server.controller().observer().snapshot(&name("orders")).await.unwrap().unwrap();
    let primary = led.facts.names.iter().find(|((name, _), _)| name.to_string().starts_with("primary."));
    let address = led.facts.members[&new.unwrap()].record.address.as_ref().unwrap().address;
    let (_, holds) = primary.expect("the primary has a name");
    assert!(format!("{holds:?}").contains(&address.to_string()), "{holds:?} {address}");
}

/// The swarm's leader is lost with the node of a primary: two survivors that answer have every acknowledged write, and
/// no container is needed to let one of them lead.
#[tokio::test(start_paused = true)]
async fn another_member_is_promoted_and_named_while_the_orchestrator_does_nothing() {
    promotes_without(|call| call.operation == "apply").await;
}

/// Tried again every 3.2 s at most: what waits for it is a member that is down.
#[tokio::test(start_paused = true)]
async fn a_pass_is_made_again_within_seconds_once_the_orchestrator_is_back() {
    let (world, server, applied) = applies_nothing(ErrorKind::Unavailable).await;
    server.controller().wake(&name("orders"));
    world.env.clock().sleep(MINUTE).await;
    for _ in 0..5 {
        let before = applied.load(Ordering::Relaxed);
        world.env.clock().sleep(Duration::from_millis(3_300)).await;
        assert!(applied.load(Ordering::Relaxed) > before, "no pass for 3.3 s");
    }
    world.env.tasks().request_stop();
}

/// Each change is a reason for a pass; none is one for passes for ever.
#[tokio::test(start_paused = true)]
async fn many_hints_while_passes_fail_do_not_make_many_passes_later() {
    let (world, server, applied) = applies_nothing(ErrorKind::Unavailable).await;
    for _ in 0..50 {
        server.controller().wake(&name("orders"));
        world.env.clock().sleep(Duration::from_millis(100)).await;
    }
    let before = applied.load(Ordering::Relaxed);
    world.env.clock().sleep(MINUTE).await;
    let passes = applied.load(Ordering::Relaxed) - before;
    assert!((15..=25).contains(&passes), "{passes} passes in a minute");
    world.env.tasks().request_stop();
}

/// An orchestrator that is asked too often is left alone for longer.
#[tokio::test(start_paused = true)]
async fn an_orchestrator_that_refuses_for_the_rate_is_asked_less_often() {
    let (world, server, applied) = applies_nothing(ErrorKind::Throttled).await;
    server.controller().wake(&name("orders"));
    world.env.clock().sleep(MINUTE).await;
    let before = applied.load(Ordering::Relaxed);
    world.env.clock().sleep(MINUTE).await;
    let passes = applied.load(Ordering::Relaxed) - before;
    assert!((4..=8).contains(&passes), "{passes} passes in a minute");
    world.env.tasks().request_stop();
}

/// What is made for members to come holds up nobody who is there.
#[tokio::test(start_paused = true)]
async fn a_primary_is_moved_while_the_volumes_of_others_cannot_be_made() {
    let (mut world, server, faults, _) = away().await;
    create(&mut world, &server, 3).await;
    let old = server.service(&name("orders")).await.unwrap().primary.unwrap();
    faults.always(|call| call.operation == "ensure", Fault::Refused(ErrorKind::QuotaExceeded));
    server.scale(&name("orders"), None, 4, Guard::default()).await.unwrap();
    for _ in 0..4 {
        round(&mut world, &server).await;
    }
    assert!(faults.fired() > 0, "a volume is to be made");
    let dead = placed(&world, old.as_str()).await;
    world.kill(&dead);
    for _ in 0..40 {
        round(&mut world, &server).await;
    }
    let after = server.service(&name("orders")).await.unwrap();
    assert_ne!(placed(&world, old.as_str()).await, dead);
    assert_eq!(after.serving, 3, "{after:?}");
    let primary = after.members.iter().find(|member| Some(&member.name) == after.primary.as_ref());
    assert!(
        primary.is_some_and(|primary| primary.ready && primary.node.as_ref() != Some(&dead)),
        "{after:?}"
    );
}
