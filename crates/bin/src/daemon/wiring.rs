//! The embedded backends over one store: the same for servers and agents.

use std::sync::Arc;

use steadfast_backends::embedded::dns::StoreRegistry;
use steadfast_core::Environment;
use steadfast_core::backends::Backends;
use steadfast_core::ids::NodeName;
use steadfast_core::layer::{CallCounters, StackOptions, stack};
use steadfast_core::metadata::{Key, MetadataDb};
use steadfast_core::orchestrator::Orchestrator;
use steadfast_core::registry::Registry;
use steadfast_core::store::{PREFIX, Store};
use steadfast_orchestrators::process::{BlindProver, LockProver, NodeProver, ProcessOrchestrator};

use super::addresses::Addresses;
use super::swarm;
use super::volumes::Volumes;
use crate::config::ClusterConfig;
use crate::data_dir::DataDir;
use crate::exit::{Context as _, Result};

/// How long after the end of its lease a silent node counts as expired, for services that accept that: the longest
/// pause of a process that F1 assumes, on top of the lease.
const MARGIN: std::time::Duration = std::time::Duration::from_secs(2);

/// A cluster's records and backends.
#[derive(Debug, Clone)]
pub(super) struct Wiring {
    pub(super) store: Store,
    pub(super) backends: Backends,
    pub(super) registry: StoreRegistry,
    pub(super) addresses: Addresses,
    pub(super) volumes: Volumes,
    /// What every call of a backend has come to.
    pub(super) counters: CallCounters,
}

impl Wiring {
    /// Everything over `db`; `node` is the one whose agent this is.
    pub(super) fn new(
        data: &DataDir,
        config: &ClusterConfig,
        db: Arc<dyn MetadataDb>,
        node: Option<&NodeName>,
        environment: &Environment,
    ) -> Result<Self> {
        let prefix = Key::new([PREFIX, config.cluster.as_str()]).context("name the cluster's records")?;
        let counters = CallCounters::new();
        let options = StackOptions::default();
        let db = stack(db, options, environment, &counters);
        let registry = StoreRegistry::new(db, environment, prefix)?;
        let entropy = environment.entropy().fork("store");
        // Names that are written through this are answered before the write is acknowledged.
        let store = Store::new(registry.database(), entropy, config.cluster.clone())?;
        let volumes = Volumes::open(data, config, store.records(), node, environment)?;
        let prover: Arc<dyn NodeProver> = if config.has_machines() {
            // The locks of another machine are not ours to see, and a free one of a shared folder proves nothing.
            Arc::new(BlindProver)
        } else {
            Arc::new(LockProver::new(data.path("nodes")))
        };
        let addresses = Addresses::open(config, store.records(), node, environment)?;
        let ips = addresses.provider();
        let names: Arc<dyn Registry> = match &config.names {
            None => Arc::new(registry.clone()),
            Some(names) => Arc::new(names.open(&config.zone, environment)?),
        };
        let orchestrator: Arc<dyn Orchestrator> = Arc::new(
            ProcessOrchestrator::new(environment.clone(), store.clone(), prover).with_lease_death(MARGIN),
        );
        // Agents ask about nodes' leases only, which are no matter of Swarm's.
        let orchestrator = match (&config.swarm, node) {
            (Some(swarm), None) => swarm::over(orchestrator, config, swarm, &store, environment)?,
            _ => orchestrator,
        };
        let backends = Backends {
            volumes: stack(volumes.provider(), options, environment, &counters),
            ips: stack(ips, options, environment, &counters),
            registry: stack(names, options, environment, &counters),
            orchestrator: stack(orchestrator, options, environment, &counters),
            zone: config.zone.clone(),
        };
        Ok(Wiring { store, backends, registry, addresses, volumes, counters })
    }
}
