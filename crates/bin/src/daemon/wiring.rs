//! The embedded backends over one store: the same for servers and agents.

use std::sync::Arc;

use nix::unistd::geteuid;
use steadfast_backends::embedded::addresses::LoopbackAddresses;
use steadfast_backends::embedded::dns::StoreRegistry;
use steadfast_backends::embedded::volumes::{DataOwner, DirectoryVolumes};
use steadfast_core::Environment;
use steadfast_core::backends::Backends;
use steadfast_core::ip::IpProvider;
use steadfast_core::layer::{CallCounters, StackOptions, stack};
use steadfast_core::metadata::{Key, MetadataDb};
use steadfast_core::orchestrator::Orchestrator;
use steadfast_core::registry::Registry;
use steadfast_core::store::{PREFIX, Store};
use steadfast_core::volume::VolumeProvider;
use steadfast_orchestrators::process::{LockProver, ProcessOrchestrator};

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
    /// What every call of a backend has come to.
    pub(super) counters: CallCounters,
}

impl Wiring {
    /// Everything over `db`.
    pub(super) fn new(
        data: &DataDir,
        config: &ClusterConfig,
        db: Arc<dyn MetadataDb>,
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
        // Engines that refuse to run as root have to pass through the folders above their data.
        let owner = geteuid().is_root().then_some(DataOwner { uid: 0, gid: 0 });
        let prover = Arc::new(LockProver::new(data.path("nodes")));
        let volumes: Arc<dyn VolumeProvider> =
            Arc::new(DirectoryVolumes::open_for(data.root(), environment.clone(), owner)?);
        let ips: Arc<dyn IpProvider> =
            Arc::new(LoopbackAddresses::new(store.records().clone(), config.loopback));
        let names: Arc<dyn Registry> = match &config.names {
            None => Arc::new(registry.clone()),
            Some(names) => Arc::new(names.open(&config.zone, environment)?),
        };
        let orchestrator: Arc<dyn Orchestrator> = Arc::new(
            ProcessOrchestrator::new(environment.clone(), store.clone(), prover).with_lease_death(MARGIN),
        );
        let backends = Backends {
            volumes: stack(volumes, options, environment, &counters),
            ips: stack(ips, options, environment, &counters),
            registry: stack(names, options, environment, &counters),
            orchestrator: stack(orchestrator, options, environment, &counters),
            zone: config.zone.clone(),
        };
        Ok(Wiring { store, backends, registry, counters })
    }
}
