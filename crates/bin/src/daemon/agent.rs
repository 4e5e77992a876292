//! `steadfast agent`: one node. Members outlive it; the next agent finds them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use steadfast_agent::agent::{self, AgentParts};
use steadfast_agent::config::{AgentConfig, AgentTimers};
use steadfast_agent::guards::{GuardProgram, Guards, ProcessGuards};
use steadfast_agent::host::{LocalHost, Preparer};
use steadfast_agent::node_dir::NodeDir;
use steadfast_agent::seams::SecretSource;
use steadfast_api::client::{Client, ClientConfig};
use steadfast_backends::embedded::store::MAX_VALUE_BYTES;
use steadfast_backends::remote::RemoteDb;
use steadfast_core::Environment;
use steadfast_core::backends::Backends;
use steadfast_core::ids::{MemberName, NodeName, ServiceId, ZoneName};
use steadfast_core::metadata::MetadataCapabilities;

use super::swarm;
use super::volume_plugin::{self, Containers};
use super::wiring::Wiring;
use super::{Signals, engine_source, logging, tasks};
use crate::cli::{Global, check_secrecy, read_token};
use crate::data_dir::DataDir;
use crate::exit::{Context as _, Exit, Failure, Result};

/// The verb of the process that prepares a member's data.
pub(crate) const PREPARE: &str = "prepare-data";

/// How a node's agent runs.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct AgentOptions {
    /// The node's name
    #[arg(long)]
    node: NodeName,
    /// The node's zone [default, where engines run in a Docker Swarm: the label `zone` of its node there]
    #[arg(long)]
    zone: Option<ZoneName>,
    /// The servers [default: those that have run on the data folder]
    #[arg(long, value_delimiter = ',', value_name = "URL,...")]
    servers: Vec<String>,
    /// A label, for placement
    #[arg(long, value_name = "NAME=VALUE", value_parser = label)]
    label: Vec<(String, String)>,
    /// Engines run in containers: answer the engine of Docker, which asks for their volumes on this socket
    #[arg(long, value_name = "SOCKET", num_args = 0..=1, default_missing_value = volume_plugin::SOCKET)]
    volume_plugin: Option<PathBuf>,
    #[command(flatten)]
    logging: logging::LogOptions,
}

fn label(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("write NAME=VALUE")?;
    Ok((name.to_owned(), value.to_owned()))
}

/// How long what is under way may take to end at a shutdown.
const DRAIN: Duration = Duration::from_secs(5);

/// Runs a node's agent until it is told to stop. The engines go on.
pub(crate) async fn agent(global: &Global, options: AgentOptions) -> Result<Exit> {
    options.logging.start();
    let data = DataDir::locate(global.data.as_deref())?;
    let config = data.config()?;
    let (environment, mut panics) = tasks::environment()?;
    let folder = PathBuf::from("nodes").join(options.node.as_str());
    data.check_passable()?;
    data.make_passable(&folder)?;
    data.make_passable(folder.join("run"))?;
    let plain = NodeDir::new(data.node(&options.node));
    if config.swarm.is_some() && options.volume_plugin.is_none() {
        return Err(Failure::usage(
            "the engines of this cluster run in a Docker Swarm",
            "give --volume-plugin",
        ));
    }
    let zone = match (&options.zone, &config.swarm) {
        (Some(zone), _) => zone.clone(),
        (None, Some(swarm)) => swarm::zone(swarm, &environment, &data.path(folder.join("zone"))).await?,
        (None, None) => {
            return Err(Failure::usage("--zone: the node's zone is not known", "give --zone ZONE"));
        }
    };
    let containers = options
        .volume_plugin
        .as_ref()
        .map(|socket| Containers::new(plain.clone(), &config.cluster, data.path("logs"), socket.clone()));
    let containers = containers.transpose()?;
    let dir = containers.as_ref().map_or(plain, |containers| containers.dir.clone());
    let hold = dir.hold(environment.entropy()).map_err(|error| {
        let failure = Failure::new(format!("become the agent of {}: {error}", options.node));
        match error.kind() {
            std::io::ErrorKind::AddrInUse => failure.exit(Exit::Conflict),
            _ => failure,
        }
    })?;
    let strays = dir.kill_strays().context("end what an earlier agent has left")?;
    if strays > 0 {
        tracing::warn!(strays, "killed what an earlier agent had left");
    }
    let client = client(global, &data, &config.cluster, &options, &environment)?;
    let capabilities = MetadataCapabilities { max_value_bytes: MAX_VALUE_BYTES, watch: true, durable: true };
    let db = RemoteDb::new(environment.clone(), client.clone(), capabilities);
    let Wiring { store, backends, addresses, volumes, .. } =
        Wiring::new(&data, &config, Arc::new(db), Some(&options.node), &environment)?;
    addresses.keep()?;
    volumes.keep();
    if config.has_machines() {
        watch_nodes(&environment, &backends, Duration::from_millis(config.node_lease_ms));
    }
    let guards: Arc<dyn Guards> = match &containers {
        Some(containers) => Arc::new(containers.guards(&environment)),
        None => Arc::new(ProcessGuards::new(environment.clone(), dir.clone(), guard_program()?)),
    };
    let preparer = Preparer::Program(PathBuf::from("/proc/self/exe"), vec![PREPARE.to_owned()]);
    let mut host = LocalHost::new(environment.clone(), preparer);
    if let Some(containers) = containers {
        host = containers.host(host);
        containers.answer(&environment, store.clone(), options.node.clone()).await?;
        if let Some(swarm) = &config.swarm {
            host = host.with_starter(swarm::advertise(swarm, &environment)?);
        }
    }
    let parts = AgentParts {
        config: AgentConfig {
            node: options.node.clone(),
            zone,
            labels: options.label.into_iter().collect(),
            engines: engine_source::found(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            logs: data.path("logs"),
            timers: AgentTimers {
                lease: Duration::from_millis(config.node_lease_ms),
                ..AgentTimers::default()
            },
            // The volume's lock is the kernel's: nothing has to be killed for a store that does not answer.
            fence_by_lease: false,
        },
        incarnation: hold.incarnation().clone(),
        env: environment.clone(),
        engines: Arc::new(engine_source::StoredEngines::new(environment.clone(), store.clone())),
        secrets: Arc::new(ApiSecrets { client, node: options.node.clone() }),
        guards,
        host: Arc::new(host),
        dir,
        store,
        backends,
    };
    tracing::info!(node = %options.node, incarnation = %hold.incarnation(), "the node lives");
    let tasks = environment.tasks().clone();
    let run = agent::run(parts, tasks.shutdown());
    tokio::pin!(run);
    let mut signals = Signals::new()?;
    tokio::select! {
        ended = &mut run => ended?,
        failure = panics.first() => return Err(failure),
        () = signals.any() => {
            tracing::info!("stopping; the engines go on");
            tasks.request_stop();
            if let Ok(ended) = tokio::time::timeout(DRAIN, &mut run).await {
                ended?;
            }
        }
    }
    Ok(Exit::Done)
}

/// The guard alone if it is there, else this program.
fn guard_program() -> Result<GuardProgram> {
    let this = std::env::current_exe().context("find this program")?;
    Ok(match GuardProgram::beside(&this) {
        Ok(Some(alone)) => alone,
        Ok(None) => GuardProgram::this(),
        Err(error) => {
            tracing::warn!(%error, "steadfast-guard is not used; this program does what it does");
            GuardProgram::this()
        }
    })
}

/// Looks at the nodes for as long as the agent runs. A silence counts from when it was first noticed: a claim that would
/// only then begin to look had to wait for a whole lease more.
fn watch_nodes(environment: &Environment, backends: &Backends, lease: Duration) {
    let (environment, orchestrator) = (environment.clone(), Arc::clone(&backends.orchestrator));
    let tasks = environment.tasks().clone();
    let until = tasks.shutdown();
    tasks.spawn("nodes", async move {
        let mut nodes = 0;
        while !until.is_requested() {
            match orchestrator.nodes().await {
                Ok(found) => nodes = found.len(),
                Err(error) => tracing::debug!(error = %error.chain(), "the nodes cannot be looked at"),
            }
            tokio::select! {
                () = until.requested() => {}
                () = environment.clock().sleep(pause_between_looks(lease, nodes)) => {}
            }
        }
    });
}

/// The time between two looks at the nodes is how much later than it was a last sign of life may be taken to be, and so how
/// much longer a move may take. Each look reads them all, and so do the other nodes: the more there are, the rarer.
fn pause_between_looks(lease: Duration, nodes: usize) -> Duration {
    const PER_NODE: Duration = Duration::from_millis(20);
    let nodes = u32::try_from(nodes).unwrap_or(u32::MAX);
    PER_NODE.saturating_mul(nodes).clamp(lease / 20, lease / 6)
}

/// Prepares a member's data, as the agent asks on standard input. Gives the exit code.
pub(crate) fn prepare() -> Result<i32> {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().context("start the runtime")?;
    let environment = Environment::system(crate::data_dir::random()?);
    let engines = engine_source::StoredEngines::without_store(environment.clone());
    Ok(runtime.block_on(steadfast_agent::prepare::run(&environment, &engines)))
}

/// A client of every server: those that are named, else those of the folder.
fn client(
    global: &Global,
    data: &DataDir,
    cluster: &steadfast_core::ids::ClusterName,
    options: &AgentOptions,
    environment: &Environment,
) -> Result<Client> {
    let mut servers = options.servers.clone();
    if servers.is_empty() {
        servers = data.endpoints()?.into_iter().map(|(_, endpoint)| endpoint.url).collect();
    }
    let file = match &global.remote.token_file {
        Some(file) => file.clone(),
        None => {
            let own = Path::new("tokens").join(options.node.as_str());
            // Whoever may read a server's token may also make one that this server takes.
            if data.path("server-token").exists() {
                data.token_file(&own.to_string_lossy())?;
            }
            data.path(own)
        }
    };
    let token = read_token(&file).map_err(|failure| match global.remote.token_file {
        Some(_) => failure,
        None => failure.remedy(
            "`steadfast up` makes a token for each of its nodes; give another file with --token-file",
        ),
    })?;
    check_secrecy(&servers)?;
    let mut config = ClientConfig::new(servers, cluster.clone(), Some(token));
    config.authorities = global.remote.authorities()?;
    Client::new(environment.clone(), config).map_err(crate::cli::refused)
}

/// Secrets over the API, for the members that this node holds.
#[derive(Debug)]
struct ApiSecrets {
    client: Client,
    node: NodeName,
}

#[async_trait]
impl SecretSource for ApiSecrets {
    async fn secrets(
        &self,
        _service: &ServiceId,
        member: &MemberName,
    ) -> steadfast_core::Result<BTreeMap<String, String>> {
        self.client
            .member_secrets(&self.node, member)
            .await
            .map(|found| found.secrets)
            .map_err(|error| error.into_error("api", "read the secrets of", member))
    }
}
