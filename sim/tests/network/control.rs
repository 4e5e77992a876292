//! What users are promised over the network: asked twice is done once, and what was accepted is finished.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::FutureExt as _;
use steadfast_api::client::{Client, ClientResult};
use steadfast_core::control::Guard;
use steadfast_core::ids::OperationId;
use steadfast_core::model::{Operation, OperationKind, OperationState, ServiceState};
use steadfast_core::world::service_file;
use steadfast_core::{Effect, Environment};

use crate::cluster::{Cluster, SERVERS};
use crate::storm::{Trouble, network, run, storm};

const STORM: Duration = Duration::from_secs(30);

fn keyed(key: &str) -> Guard {
    Guard { idempotency_key: Some(key.to_owned()), if_index: None }
}

/// What users were told: the operations of their creates, and how often they were left in doubt.
#[derive(Debug, Default)]
struct Told {
    operations: BTreeSet<OperationId>,
    heard: usize,
    doubts: usize,
}

fn note(told: &Mutex<Told>, answer: &ClientResult<Operation>) {
    let mut told = told.lock().unwrap_or_else(PoisonError::into_inner);
    match answer {
        Ok(operation) => {
            told.heard += 1;
            told.operations.insert(operation.id.clone());
        }
        Err(error) => told.doubts += usize::from(error.effect() == Effect::Unknown),
    }
}

/// Asks for the same under the same key, again and again, whatever was answered.
async fn ask_again_and_again(
    environment: Environment,
    client: Client,
    told: Arc<Mutex<Told>>,
) -> turmoil::Result {
    let clock = environment.clock();
    while clock.monotonic().since_zero() < STORM {
        let answer = client.apply(&service_file("orders", 3), &keyed("once")).await;
        note(&told, &answer);
        clock.sleep(Duration::from_millis(700)).await;
    }
    // When nothing goes wrong any more, it has to end well.
    loop {
        if let Ok(operation) = client.apply(&service_file("orders", 3), &keyed("once")).await
            && operation.state.is_final()
        {
            assert_eq!(operation.state, OperationState::Succeeded, "{operation:?}");
            return Ok(());
        }
        clock.sleep(Duration::from_secs(1)).await;
    }
}

#[test]
fn a_create_that_is_asked_for_again_under_its_key_happens_once() {
    let mut doubts = 0;
    for seed in 0..3 {
        let mut sim = network(seed);
        let cluster = Cluster::start(&mut sim);
        let told: Arc<Mutex<Told>> = Arc::default();
        let mut troubles = Trouble::of_link("s1", "store").to_vec();
        troubles.extend([Trouble::Crash("s1"), Trouble::Crash("s2"), Trouble::Crash("store")]);
        for (user, servers) in [("u1", ["s1", "s2"]), ("u2", ["s2", "s1"])] {
            let (environment, client) = cluster.user(&servers);
            sim.client(user, ask_again_and_again(environment, client, Arc::clone(&told)));
            troubles.extend(Trouble::of_link(user, servers[0]));
        }
        run(sim, &storm(seed, &troubles, STORM), |_| {}).unwrap();
        let told = told.lock().unwrap();
        assert_eq!(told.operations.len(), 1, "seed {seed}: {told:?}");
        assert!(told.heard > 2, "seed {seed}: {told:?}");
        doubts += told.doubts;
        let operations = cluster.store().operations().now_or_never().unwrap().unwrap();
        let creates = operations.iter().filter(|found| found.body.kind == OperationKind::Create);
        let ids: BTreeSet<OperationId> = creates.map(|found| found.body.id.clone()).collect();
        assert_eq!(ids, told.operations, "seed {seed}");
    }
    assert!(doubts > 0, "nobody was ever left in doubt, so nothing was tested");
}

#[test]
fn an_operation_that_was_accepted_is_finished_by_another_server_when_its_own_is_gone() {
    for seed in 0..2 {
        let mut sim = network(seed);
        let cluster = Cluster::start(&mut sim);
        let accepted = Arc::new(AtomicBool::new(false));
        let (environment, first) = cluster.user(&SERVERS[..1]);
        let (_, second) = cluster.user(&SERVERS[1..]);
        let tell = Arc::clone(&accepted);
        sim.client("user", async move {
            let clock = environment.clock();
            let operation = loop {
                match first.apply(&service_file("orders", 3), &keyed("k")).await {
                    Ok(operation) => break operation,
                    Err(_) => clock.sleep(Duration::from_millis(100)).await,
                }
            };
            assert!(!operation.state.is_final(), "it is accepted, and not done: {operation:?}");
            tell.store(true, Ordering::SeqCst);
            let done = loop {
                if let Ok(found) = second.operation(&operation.id).await
                    && found.state.is_final()
                {
                    break found;
                }
                clock.sleep(Duration::from_millis(500)).await;
            };
            assert_eq!(done.state, OperationState::Succeeded, "{done:?}");
            let service = second.service(&"orders".parse()?).await?;
            assert_eq!(service.state, ServiceState::Healthy, "{service:?}");
            assert!(first.operation(&operation.id).await.is_err(), "its own server is gone");
            Ok(())
        });
        let mut crashed = false;
        run(sim, &[], |sim| {
            if !crashed && accepted.load(Ordering::SeqCst) {
                crashed = true;
                sim.crash("s1");
            }
        })
        .unwrap();
        assert!(crashed);
    }
}
