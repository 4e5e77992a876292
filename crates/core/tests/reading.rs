//! What looking costs: lists are read page by page, and services that nothing happens to cost nothing between resyncs.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use steadfast_core::backends::Backends;
use steadfast_core::control::{Control, Guard};
use steadfast_core::layer::{CallCounters, StackOptions, stack};
use steadfast_core::metadata::MetadataDb;
use steadfast_core::model::ServiceState;
use steadfast_core::testing::TestEnvironment;
use steadfast_core::world::{World, service_file};

const MINUTE: Duration = Duration::from_secs(60);

#[tokio::test(start_paused = true)]
async fn a_list_is_the_same_in_pages_of_any_size() {
    let mut world = World::new(TestEnvironment::new(3).environment, 3).await.unwrap();
    let server = world.plain_server("server-1").unwrap();
    // A dash sorts before the slash that ends a service's name in its members' keys.
    let names = ["a", "a-b", "a-b-c", "a-z", "ab", "b", "b-gone", "c"];
    for name in names {
        world.create(&server, name, 3).await.unwrap();
    }
    let gone = server.delete(&"b-gone".parse().unwrap(), Guard::default()).await.unwrap();
    world.finish(&server, &gone.id).await.unwrap();
    for limit in 1..=names.len() {
        let mut found = Vec::new();
        loop {
            let after: Option<String> = found.last().cloned();
            let page = server.services(after.as_deref(), limit).await.unwrap();
            assert!(page.len() <= limit);
            let last = page.len() < limit;
            for view in page {
                let members: Vec<String> = view.members.iter().map(|m| m.name.to_string()).collect();
                assert_eq!(members, [0, 1, 2].map(|ordinal| format!("{}-{ordinal}", view.name)));
                assert_eq!(view.state, ServiceState::Healthy, "{}", view.name);
                found.push(view.name.to_string());
            }
            if last {
                break;
            }
        }
        assert_eq!(found, ["a", "a-b", "a-b-c", "a-z", "ab", "b", "c"], "in pages of {limit}");
    }
    assert_eq!(
        server.services(Some("a b/c"), 1).await.unwrap()[0].name.as_str(),
        "a-b",
        "any text is a cursor"
    );
}

/// A server whose every backend call is counted.
fn counted(world: &World) -> (Control, CallCounters) {
    let (counters, options) = (CallCounters::new(), StackOptions::default());
    let Backends { volumes, ips, registry, orchestrator, zone } = world.backends().unwrap();
    let db: Arc<dyn MetadataDb> = Arc::new(world.db.clone());
    let env = &world.env;
    let backends = Backends {
        volumes: stack(volumes, options, env, &counters),
        ips: stack(ips, options, env, &counters),
        registry: stack(registry, options, env, &counters),
        orchestrator: stack(orchestrator, options, env, &counters),
        zone,
    };
    let server = world.server("server-1", stack(db, options, env, &counters), backends).unwrap();
    (server, counters)
}

/// The backend calls of a server in ten idle seconds with this many services, none of them a resync.
async fn calls_while_idle(services: usize) -> u64 {
    let mut world = World::new(TestEnvironment::new(5).environment, 3).await.unwrap();
    let (server, counters) = counted(&world);
    for number in 0..services {
        let file = service_file(&format!("service{number}x"), 3);
        server.apply(file, Guard::default()).await.unwrap();
    }
    let healthy = |view: &steadfast_core::control::ServiceView| {
        view.state == ServiceState::Healthy && view.operation.is_none()
    };
    let settled = world.until(&server, MINUTE, |views| views.iter().all(healthy)).await.unwrap();
    assert!(settled, "everything serves");
    server.controller().start();
    let calls =
        || counters.iter().map(|(_, _, counter)| counter.started.load(Ordering::Relaxed)).sum::<u64>();
    // The first resync looks at everything, right away; the second comes after half a minute.
    run(&mut world, Duration::from_secs(5)).await;
    let before = calls();
    run(&mut world, Duration::from_secs(10)).await;
    let made = calls() - before;
    world.env.tasks().stop().await;
    made
}

/// Lets the agents report, twice a second.
async fn run(world: &mut World, duration: Duration) {
    let begun = world.env.clock().monotonic();
    while world.env.clock().monotonic().since(begun) < duration {
        world.step_nodes().await.unwrap();
        world.env.clock().sleep(Duration::from_millis(500)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn idle_services_cost_no_backend_calls_between_resyncs() {
    let few = calls_while_idle(1).await;
    let many = calls_while_idle(10).await;
    assert!(few > 0, "the nodes are looked at all the time");
    assert_eq!(few, many, "and nothing else is, however many services there are");
}
