//! A whole cluster in memory: the shipped controllers and claims over memory backends, and nodes that behave.
//!
//! For tests, benchmarks and examples. Time is tokio's, so under a paused clock a minute passes at once. The nodes
//! stand in for agents and engines: they claim what is placed on them with the shipped [`Claimant`](crate::workflow::claim::Claimant), and "run"
//! engines that take the role they are told. A node can be killed, silenced and brought back.

mod node;
mod quorum;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};

pub use node::WorldNode;

use crate::backends::Backends;
use crate::control::{
    Blueprints, Clients, ConnectRequest, ConnectView, Control, ControlResult, Guard, KeyProvider, Resolved,
    ServiceView,
};
use crate::controller::{Controller, ControllerConfig};
use crate::error::{Error, ErrorKind, Result};
use crate::ids::{GroupName, MemberName, NodeName, OperationId, ServiceId, ServiceName, ZoneName};
use crate::ip::memory::MemoryIps;
use crate::metadata::MetadataDb;
use crate::metadata::memory::MemoryDb;
use crate::model::{
    Blueprint, Durability, Evidence, GroupSpec, Leadership, Operation, OperationState, RollingOrder,
    SealedSecret, ServiceSpec, SpecError, StoredPort, Topology,
};
use crate::orchestrator::memory::MemoryOrchestrator;
use crate::registry::Registry;
use crate::registry::memory::MemoryRegistry;
use crate::runtime::Environment;
use crate::store::Store;
use crate::volume::memory::MemoryVolumes;

/// A cluster in memory.
#[derive(Debug)]
pub struct World {
    /// Time, randomness and tasks.
    pub env: Environment,
    /// The store all share.
    pub db: MemoryDb,
    /// The volumes.
    pub volumes: MemoryVolumes,
    /// The addresses.
    pub ips: MemoryIps,
    /// The names.
    pub registry: MemoryRegistry,
    /// The orchestrator, which knows the nodes' health.
    pub orchestrator: MemoryOrchestrator,
    /// What engines that lead themselves agree on.
    quorums: quorum::Quorums,
    /// The nodes.
    pub nodes: BTreeMap<NodeName, WorldNode>,
}

impl World {
    /// A cluster with `nodes` nodes over three zones.
    ///
    /// # Errors
    /// Never, but for a broken memory backend.
    pub async fn new(env: Environment, nodes: u32) -> Result<Self> {
        Self::with_volumes(env, nodes, MemoryVolumes::that_grow()).await
    }

    /// A cluster as [`new`](Self::new) makes it, with these volumes.
    ///
    /// # Errors
    /// Never, but for a broken memory backend.
    pub async fn with_volumes(env: Environment, nodes: u32, volumes: MemoryVolumes) -> Result<Self> {
        let registry = MemoryRegistry::new();
        let zone = dns_zone()?;
        registry.ensure_zone(&zone).await?;
        let mut world = World {
            env,
            db: MemoryDb::new(),
            volumes,
            ips: MemoryIps::new(IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1)), 60_000)?,
            registry,
            orchestrator: MemoryOrchestrator::new(),
            quorums: quorum::Quorums::default(),
            nodes: BTreeMap::new(),
        };
        for index in 0..nodes {
            let name: NodeName = parsed(&format!("node-{}", index + 1))?;
            let zone: ZoneName = parsed(["a", "b", "c"][index as usize % 3])?;
            let node = WorldNode::new(&world, name.clone(), zone)?;
            world.nodes.insert(name, node);
        }
        Ok(world)
    }

    /// The backends as they are.
    ///
    /// # Errors
    /// Never.
    pub fn backends(&self) -> Result<Backends> {
        Ok(Backends {
            volumes: Arc::new(self.volumes.clone()),
            ips: Arc::new(self.ips.clone()),
            registry: Arc::new(self.registry.clone()),
            orchestrator: Arc::new(self.orchestrator.clone()),
            zone: dns_zone()?,
        })
    }

    /// The records of the cluster in `db`, which may be the store with something in front of it.
    ///
    /// # Errors
    /// Never.
    pub fn store(&self, db: Arc<dyn MetadataDb>) -> Result<Store> {
        Store::new(db, self.env.entropy().clone(), parsed("world")?)
    }

    /// A server on these backends.
    ///
    /// # Errors
    /// Never.
    pub fn server(&self, name: &str, db: Arc<dyn MetadataDb>, backends: Backends) -> Result<Control> {
        let store = self.store(db)?;
        let config = ControllerConfig::default();
        let controller = Controller::new(self.env.clone(), store.clone(), backends, parsed(name)?, config);
        Ok(Control::new(
            self.env.clone(),
            store,
            controller,
            Arc::new(PlainBlueprints),
            Arc::new(PlainBlueprints),
            Arc::new(PlainBlueprints),
        ))
    }

    /// A server right on the memory backends.
    ///
    /// # Errors
    /// Never.
    pub fn plain_server(&self, name: &str) -> Result<Control> {
        self.server(name, Arc::new(self.db.clone()), self.backends()?)
    }

    /// One round of everybody: the server's shares and nodes, the nodes' agents, then a pass over each service.
    ///
    /// # Errors
    /// What a backend says: with faults in front of them, that is how a server ends.
    pub async fn round(&mut self, server: &Control) -> Result<()> {
        self.step_nodes().await?;
        let controller = server.controller();
        controller.shards().round().await?;
        controller.observer().refresh_nodes().await?;
        for service in server.store().services().await? {
            controller.reconcile(&service.body.name).await?;
        }
        Ok(())
    }

    /// One step of every node's agent. All of them take it, whatever becomes of one.
    ///
    /// # Errors
    /// What a backend says to the first of them that fails.
    pub async fn step_nodes(&mut self) -> Result<()> {
        let mut outcome = Ok(());
        for node in self.nodes.values_mut() {
            outcome = outcome.and(node.step().await);
        }
        outcome
    }

    /// Rounds, a quarter of a second apart, until `done` says so. `false`: not within `limit` of simulated time.
    ///
    /// # Errors
    /// What a backend says.
    pub async fn until(
        &mut self,
        server: &Control,
        limit: Duration,
        mut done: impl FnMut(&[ServiceView]) -> bool,
    ) -> ControlResult<bool> {
        let begun = self.env.clock().monotonic();
        loop {
            self.round(server).await?;
            if done(&server.services(None, usize::MAX).await?) {
                return Ok(true);
            }
            if self.env.clock().monotonic().since(begun) > limit {
                return Ok(false);
            }
            self.env.clock().sleep(Duration::from_millis(250)).await;
        }
    }

    /// Rounds until an operation has ended.
    ///
    /// # Errors
    /// What a backend says, or `Unavailable` if it has not ended within ten minutes of simulated time.
    pub async fn finish(&mut self, server: &Control, id: &OperationId) -> ControlResult<Operation> {
        let begun = self.env.clock().monotonic();
        loop {
            self.round(server).await?;
            let operation = server.operation(id).await?;
            if operation.state.is_final() {
                return Ok(operation);
            }
            if self.env.clock().monotonic().since(begun) > Duration::from_secs(600) {
                let text = format!("{operation:?}");
                return Err(Error::new(ErrorKind::Unavailable, "world", "finish", id, text).into());
            }
            self.env.clock().sleep(Duration::from_millis(250)).await;
        }
    }

    /// Creates a service and runs until that has succeeded.
    ///
    /// # Errors
    /// What the control plane says.
    pub async fn create(&mut self, server: &Control, name: &str, replicas: u32) -> ControlResult<Operation> {
        let operation = server.apply(service_file(name, replicas), Guard::default()).await?;
        let done = self.finish(server, &operation.id).await?;
        debug_assert_eq!(done.state, OperationState::Succeeded, "a create in a calm world succeeds");
        Ok(done)
    }

    /// Kills a node: everything on it ends at once, and the orchestrator has the proof.
    pub fn kill(&mut self, node: &NodeName) {
        if let Some(found) = self.nodes.get_mut(node) {
            found.kill(&self.volumes);
            self.orchestrator.set_dead(node, Evidence::NodeProvenDead);
        }
    }

    /// Silences a node: what runs on it runs on, and nothing is heard of it.
    pub fn silence(&mut self, node: &NodeName, silent: bool) {
        if let Some(found) = self.nodes.get_mut(node) {
            found.silent = silent;
            let health =
                if silent { crate::model::NodeHealth::Suspect } else { crate::model::NodeHealth::Ready };
            self.orchestrator.set_health(node, health);
        }
    }

    /// Brings a killed node back, in a new life.
    ///
    /// # Errors
    /// Never.
    pub fn revive(&mut self, node: &NodeName) -> Result<()> {
        if let Some(found) = self.nodes.get_mut(node) {
            found.begin_life(&self.orchestrator)?;
        }
        Ok(())
    }

    /// The node that a member is placed on and claimed by.
    ///
    /// # Errors
    /// What the store says.
    pub async fn holder(&self, service: &ServiceName, member: &MemberName) -> Result<Option<NodeName>> {
        let found = self.store(Arc::new(self.db.clone()))?.member(service, member).await?;
        Ok(found.and_then(|found| found.body.holder.as_ref().map(|holder| holder.node.clone())))
    }
}

/// The service file of a plain primary-and-replicas service, strict, one of whose replicas confirms each write.
pub fn service_file(name: &str, replicas: u32) -> Value {
    json!({"apiVersion": "steadfast/v1", "name": name, "blueprint": "plain", "replicas": replicas})
}

fn dns_zone() -> Result<crate::registry::DomainName> {
    parsed("world.steadfast.internal")
}

pub(crate) fn parsed<T: std::str::FromStr>(text: &str) -> Result<T>
where
    T::Err: std::fmt::Display,
{
    text.parse()
        .map_err(|error| Error::new(ErrorKind::Invalid, "world", "parse", text, error).without_effect())
}

/// The catalog of the world: `plain` has a primary and replicas led by Steadfast, `quorum` leads itself, and has learners
/// with the option `learners`. Secrets are not sealed at all.
#[derive(Debug)]
pub struct PlainBlueprints;

impl Blueprints for PlainBlueprints {
    fn resolve(&self, spec: &ServiceSpec) -> Result<Resolved, Vec<SpecError>> {
        let (name, version) = spec.blueprint_and_version();
        let version = version.unwrap_or("1");
        let (leadership, topology) = match name {
            "plain" => (Leadership::Steadfast, Topology::PrimaryReplicas),
            "quorum" => (Leadership::Engine, Topology::Quorum),
            _ => {
                let error =
                    SpecError::new("blueprint", format!("{name} is not known"), "use plain or quorum");
                return Err(vec![error]);
            }
        };
        let replicas = spec.replicas.unwrap_or(3);
        if topology == Topology::Quorum && replicas.is_multiple_of(2) {
            let error = SpecError::new("replicas", format!("{replicas} is even"), "give an odd number");
            return Err(vec![error]);
        }
        let strict = spec.durability == Durability::Strict && leadership == Leadership::Steadfast;
        let invalid = |error: crate::ids::InvalidId| vec![SpecError::new("blueprint", error.to_string(), "")];
        Ok(Resolved {
            blueprint: Blueprint {
                name: name.parse().map_err(invalid)?,
                version: version.to_owned(),
                digest: format!("{name}-{version}"),
                leadership,
                topology,
                ports: vec![StoredPort { name: name.to_owned(), port: 7000, client: true }],
                volumes: vec![("data".parse().map_err(invalid)?, 1 << 30)],
                confirming_replicas: u32::from(strict && replicas > 1),
                learners: spec.options.get("learners").is_some_and(|learners| learners == true),
                rolling: match spec.options.get("rolling") {
                    Some(order) if order == "in_place" => RollingOrder::InPlace,
                    _ => RollingOrder::ReplicasFirst,
                },
                start_deadline_ms: 30_000,
            },
            groups: vec![GroupSpec { name: GroupName::main(), replicas }],
            options: spec.options.clone(),
            secrets: vec!["password".to_owned()],
            stored: json!({}),
            warnings: Vec::new(),
        })
    }

    fn list(&self) -> Vec<(String, String)> {
        vec![
            ("plain@1".to_owned(), "a primary and replicas".to_owned()),
            ("quorum@1".to_owned(), String::new()),
        ]
    }
}

impl Clients for PlainBlueprints {
    fn connect(&self, request: &ConnectRequest) -> Result<ConnectView> {
        Ok(ConnectView {
            uri: format!("plain://{}", request.host),
            env: BTreeMap::new(),
            client: Vec::new(),
            hosts: Vec::new(),
        })
    }
}

impl KeyProvider for PlainBlueprints {
    fn seal(&self, _service: &ServiceId, _name: &str, plain: &str) -> Result<SealedSecret> {
        Ok(SealedSecret { key_id: "none".to_owned(), sealed: plain.to_owned() })
    }

    fn open(&self, _service: &ServiceId, _name: &str, sealed: &SealedSecret) -> Result<String> {
        Ok(sealed.sealed.clone())
    }
}
