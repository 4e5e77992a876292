//! Who looks after a service, when the orchestrator does nothing for the server that did.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

use std::sync::Arc;
use std::time::Duration;

use steadfast_core::control::Control;
use steadfast_core::error::ErrorKind;
use steadfast_core::layer::Call;
use steadfast_core::layer::fault::{Fault, Faults};
use steadfast_core::orchestrator::Orchestrator;
use steadfast_core::testing::TestEnvironment;
use steadfast_core::world::World;

/// A server, and what it hears of the orchestrator.
fn server(world: &World, name: &str) -> (Control, Faults) {
    let faults = Faults::new();
    let mut backends = world.backends().unwrap();
    backends.orchestrator = faults.around::<dyn Orchestrator>(backends.orchestrator);
    (world.server(name, Arc::new(world.db.clone()), backends).unwrap(), faults)
}

/// How nodes are is known from elsewhere.
fn unheard(call: &Call<'_>) -> bool {
    call.operation != "nodes"
}

/// So many seconds of both servers' rounds, and of a pass over the service each second.
async fn pass(world: &World, servers: [&Control; 2], seconds: u32) {
    for _ in 0..seconds {
        for server in servers {
            server.controller().shards().round().await.unwrap();
            server.controller().observer().refresh_nodes().await.unwrap();
            // A server that is not heard fails, and tries again.
            drop(server.controller().reconcile(&"orders".parse().unwrap()).await);
        }
        world.env.clock().sleep(Duration::from_secs(1)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_server_that_the_orchestrator_does_nothing_for_gives_its_shares_to_one_that_it_answers() {
    let mut world = World::new(TestEnvironment::new(7).environment, 3).await.unwrap();
    let (one, deaf_one) = server(&world, "server-1");
    let (two, deaf_two) = server(&world, "server-2");
    world.create(&one, "orders", 3).await.unwrap();
    pass(&world, [&one, &two], 20).await;
    let held = |server: &Control| server.controller().shards().held().len();
    assert_eq!((held(&one), held(&two)), (2, 2));
    let holds = |server: &Control| server.controller().shards().permit(&"orders".parse().unwrap()).is_some();
    let (owner, deaf, other, deaf_other) =
        if holds(&one) { (&one, deaf_one, &two, deaf_two) } else { (&two, deaf_two, &one, deaf_one) };

    let refused = || Fault::Refused(ErrorKind::Unavailable);
    // A blow is no reason.
    deaf.always(unheard, refused());
    pass(&world, [owner, other], 2).await;
    deaf.clear();
    pass(&world, [owner, other], 20).await;
    assert!(holds(owner));

    deaf.always(unheard, refused());
    pass(&world, [owner, other], 12).await;
    assert_eq!((held(owner), held(other)), (0, 4));
    assert!(holds(other));

    // If it answers nobody, all keep what they have; then it answers again, and the work is shared again.
    deaf_other.always(unheard, refused());
    pass(&world, [owner, other], 30).await;
    assert_eq!(held(owner) + held(other), 4);
    deaf.clear();
    deaf_other.clear();
    pass(&world, [owner, other], 30).await;
    assert_eq!((held(owner), held(other)), (2, 2));
}
