//! What a server fails at again and again: everybody who asks is told, and it holds up nothing else.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

mod kit;

use std::sync::Arc;
use std::time::Duration;

use kit::{MINUTE, member, name, placed};
use steadfast_core::control::{Control, Guard, ServiceView};
use steadfast_core::error::ErrorKind;
use steadfast_core::ip::IpProvider;
use steadfast_core::layer::fault::{Fault, Faults};
use steadfast_core::model::{ConditionKind, Reason, ServiceState, Truth};
use steadfast_core::orchestrator::Orchestrator;
use steadfast_core::testing::TestEnvironment;
use steadfast_core::world::{World, service_file};

/// A world of four nodes, a server that works by itself, what fails for it, and a server beside it that only answers.
async fn troubled() -> (World, Control, Faults, Control) {
    let world = World::new(TestEnvironment::new(7).environment, 4).await.unwrap();
    let faults = Faults::new();
    let mut backends = world.backends().unwrap();
    backends.orchestrator = faults.around::<dyn Orchestrator>(backends.orchestrator);
    backends.ips = faults.around::<dyn IpProvider>(backends.ips);
    let server = world.server("server-1", Arc::new(world.db.clone()), backends).unwrap();
    let other = world.plain_server("server-2").unwrap();
    (world, server, faults, other)
}

/// Everybody's work for so long.
async fn pass(world: &mut World, time: Duration) {
    let end = world.env.clock().monotonic().plus(time);
    while world.env.clock().monotonic() < end {
        world.step_nodes().await.unwrap();
        world.env.clock().sleep(Duration::from_millis(250)).await;
    }
}

async fn view(server: &Control) -> ServiceView {
    server.controller().observer().refresh_nodes().await.unwrap();
    server.service(&name("orders")).await.unwrap()
}

fn blocked(view: &ServiceView) -> (Truth, Option<Reason>, String) {
    let condition =
        view.conditions.iter().find(|condition| condition.kind == ConditionKind::Blocked).unwrap();
    (condition.status, condition.reason.clone(), condition.message.clone())
}

#[tokio::test(start_paused = true)]
async fn what_a_server_fails_at_is_told_by_every_server_and_no_more_once_it_is_over() {
    let (mut world, server, faults, other) = troubled().await;
    faults.always(|call| call.operation == "allocate", Fault::Refused(ErrorKind::QuotaExceeded));
    server.controller().start();
    server.apply(service_file("orders", 3), Guard::default()).await.unwrap();
    pass(&mut world, MINUTE).await;

    for server in [&server, &other] {
        let seen = view(server).await;
        let (status, reason, message) = blocked(&seen);
        assert_eq!((status, reason), (Truth::True, Some(Reason::QuotaReached)), "{seen:?}");
        assert!(message.contains("allocate"), "{message}");
        let why = server.why(&member("orders-0")).await.unwrap();
        assert_eq!(why.lines[0].reason, Some(Reason::QuotaReached), "{why:?}");
        assert!(why.lines[0].text.contains("allocate"), "{why:?}");
    }
    let record = server.store().service(&name("orders")).await.unwrap().unwrap();
    let told = |record: &steadfast_core::model::Service| {
        record.events.iter().filter(|event| event.reason == Reason::QuotaReached).count()
    };
    assert_eq!(told(&record.body), 1, "once, however often it fails: {record:?}");
    pass(&mut world, MINUTE).await;
    let later = server.store().service(&name("orders")).await.unwrap().unwrap();
    assert_eq!(later.version, record.version, "nothing is written while nothing changes");

    faults.clear();
    pass(&mut world, MINUTE).await;
    for server in [&server, &other] {
        let seen = view(server).await;
        assert_eq!((blocked(&seen).0, seen.state), (Truth::False, ServiceState::Healthy), "{seen:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_over_soon_is_not_told_and_what_cannot_be_helped_is_told_at_once() {
    let (mut world, server, faults, _) = troubled().await;
    server.controller().start();
    faults.always(|call| call.operation == "apply", Fault::Refused(ErrorKind::Unavailable));
    server.apply(service_file("orders", 1), Guard::default()).await.unwrap();
    pass(&mut world, Duration::from_secs(1)).await;
    assert!(faults.fired() > 1);
    assert_eq!(blocked(&view(&server).await).1, None, "that may be chance");
    pass(&mut world, Duration::from_secs(5)).await;
    assert_eq!(blocked(&view(&server).await).1, Some(Reason::OrchestratorUnavailable));
    faults.clear();
    pass(&mut world, MINUTE).await;
    assert_eq!(view(&server).await.state, ServiceState::Healthy);
    assert_eq!(blocked(&view(&server).await).0, Truth::False);

    faults.always(|call| call.operation == "apply", Fault::Refused(ErrorKind::Unsupported));
    server.restart(&name("orders"), Guard::default()).await.unwrap();
    pass(&mut world, Duration::from_millis(500)).await;
    assert_eq!(blocked(&view(&server).await).1, Some(Reason::CapabilityMissing));
}

/// A pool of addresses that is empty, for example, when a member is added.
#[tokio::test(start_paused = true)]
async fn a_member_that_cannot_be_provisioned_holds_up_no_other() {
    let (mut world, server, faults, _) = troubled().await;
    world.create(&server, "orders", 3).await.unwrap();
    server.controller().start();
    faults.always(|call| call.operation == "allocate", Fault::Refused(ErrorKind::QuotaExceeded));
    server.scale(&name("orders"), None, 4, Guard::default()).await.unwrap();
    pass(&mut world, Duration::from_secs(10)).await;
    assert_eq!(blocked(&view(&server).await).1, Some(Reason::QuotaReached));

    let node = placed(&world, "orders-1").await;
    world.kill(&node);
    pass(&mut world, MINUTE * 2).await;
    assert_ne!(placed(&world, "orders-1").await, node);
    let seen = view(&server).await;
    assert!(seen.members.iter().filter(|member| member.ready).count() >= 3, "{seen:?}");
}
