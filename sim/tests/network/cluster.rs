//! A cluster over the network: the store's owner, servers that work over it, and nodes.
//!
//! Each is a host that speaks HTTP to the store. Volumes, addresses, names and engines are in memory and never fail:
//! what they do under faults is the other tiers' matter.

use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use steadfast_api::control::OfControl;
use steadfast_api::server::Parts;
use steadfast_api::testing::{self, ADMIN, NoLogs};
use steadfast_core::Environment;
use steadfast_core::backends::Backends;
use steadfast_core::control::Control;
use steadfast_core::controller::{Controller, ControllerConfig};
use steadfast_core::ids::ServerId;
use steadfast_core::layer::{CallCounters, StackOptions, stack};
use steadfast_core::metadata::MetadataDb;
use steadfast_core::store::Store;
use steadfast_core::world::{PlainBlueprints, World};
use turmoil::Sim;

use crate::disk::Disk;
use crate::net::{self, Lives};
use crate::store::{owner, remote};

/// The servers that users ask.
pub(crate) const SERVERS: [&str; 2] = ["s1", "s2"];
/// How long users wait for an answer.
pub(crate) const PATIENCE: Duration = Duration::from_secs(5);

/// What outlives every host.
#[derive(Debug, Clone)]
pub(crate) struct Cluster {
    pub(crate) disk: Disk,
    pub(crate) lives: Lives,
    backends: Backends,
    world: Arc<futures::lock::Mutex<World>>,
}

impl Cluster {
    /// The owner of the store, two servers and a host with three nodes.
    pub(crate) fn start(sim: &mut Sim<'_>) -> Cluster {
        let lives = Lives::default();
        let world = World::new(lives.next(), 3)
            .now_or_never()
            .expect("memory does not wait")
            .expect("it does not fail");
        let backends = world.backends().expect("memory does not fail");
        let world = Arc::new(futures::lock::Mutex::new(world));
        let cluster = Cluster { disk: Disk::default(), lives, backends, world };
        owner(sim, "store", &cluster.disk, &cluster.lives);
        for name in SERVERS {
            let cluster = cluster.clone();
            sim.host(name, move || cluster.clone().server(name));
        }
        let nodes = cluster.clone();
        sim.host("nodes", move || nodes.clone().nodes());
        cluster
    }

    /// A user, who asks these servers in turn.
    pub(crate) fn user(&self, hosts: &[&str]) -> (Environment, steadfast_api::client::Client) {
        let environment = self.lives.next();
        let client = net::client(environment.clone(), ADMIN, hosts, PATIENCE);
        (environment, client)
    }

    /// The records as they are.
    pub(crate) fn store(&self) -> Store {
        let entropy = self.lives.next().entropy().clone();
        Store::new(Arc::new(self.disk.clone()), entropy, testing::cluster()).expect("the name is one")
    }

    fn remote_store(&self, environment: &Environment) -> (Arc<dyn MetadataDb>, Store) {
        let db: Arc<dyn MetadataDb> = Arc::new(remote(environment, PATIENCE));
        let db = stack(db, StackOptions::default(), environment, &CallCounters::new());
        let store = Store::new(Arc::clone(&db), environment.entropy().fork("store"), testing::cluster());
        (db, store.expect("the name is one"))
    }

    /// A server over the store of another: its controller, and its API.
    async fn server(self, name: &'static str) -> turmoil::Result {
        let environment = self.lives.next();
        let (db, store) = self.remote_store(&environment);
        let life: ServerId =
            format!("{name}-{}", environment.clock().monotonic().since_zero().as_millis()).parse()?;
        let config = ControllerConfig::default();
        let controller =
            Controller::new(environment.clone(), store.clone(), self.backends.clone(), life, config);
        let plain = Arc::new(PlainBlueprints);
        let control = Control::new(
            environment.clone(),
            store,
            controller.clone(),
            plain.clone(),
            plain.clone(),
            plain.clone(),
        );
        controller.start();
        let control = OfControl::new(control, plain, Arc::new(NoLogs));
        let parts = testing::parts(environment, db);
        net::serve(Parts { control: Arc::new(control), owns_store: Arc::new(|| false), ..parts }).await
    }

    /// Three nodes, whose agents look four times a second.
    async fn nodes(self) -> turmoil::Result {
        let environment = self.lives.next();
        let (_, store) = self.remote_store(&environment);
        let mut world = self.world.lock().await;
        for node in world.nodes.values_mut() {
            node.restart_agent(store.clone(), self.backends.clone());
        }
        loop {
            if let Err(error) = world.step_nodes().await {
                tracing::debug!(%error, "an agent will look again");
            }
            environment.clock().sleep(Duration::from_millis(250)).await;
        }
    }
}
