//! `steadfast serve`: a controller, the API and, where the store is, the DNS server.
//!
//! Any number of servers share a data folder. Where the store lies in it, the one that holds the store's lock owns the
//! store; the others send what concerns it on to the owner, and one of them takes the lock over when the owner dies,
//! however it dies. Where the store is elsewhere (`--store`) each of them speaks to it, and all are owners.

mod addresses;
mod clients;
pub(in crate::daemon) mod listen;
mod logs;
mod machines;
mod metrics;
mod ownership;
mod ready;
mod store;
mod tokens;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use steadfast_api::control::OfControl;
use steadfast_api::server::{Limits, Parts};
use steadfast_backends::embedded::dns::{DnsOptions, DnsServer, StoreRegistry};
use steadfast_backends::embedded::keys::FileKeyProvider;
use steadfast_backends::remote::SwitchDb;
use steadfast_backends::rfc2136::DynamicRegistry;
use steadfast_catalog::Catalog;
use steadfast_core::Environment;
use steadfast_core::control::Control;
use steadfast_core::controller::{Controller, ControllerConfig};
use steadfast_core::error::Retry;
use steadfast_core::ids::ServerId;
use steadfast_core::registry::Registry as _;
use steadfast_lock::Lock;

use self::clients::StoredClients;
use self::logs::KeptLogs;
pub(crate) use self::store::{CreateStore, create as create_store};
use self::tokens::TokenFiles;
use super::addresses::Addresses;
use super::wiring::Wiring;
use super::{Signals, logging, tasks};
use crate::cli::Global;
use crate::config::ClusterConfig;
use crate::data_dir::{DataDir, Endpoint};
use crate::exit::{Context as _, Exit, Failure, Result};

/// How a server runs.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct ServeOptions {
    /// The server's name: one process of it at a time
    #[arg(long, default_value = "server-1")]
    id: ServerId,
    /// Where the API listens: ADDRESS:PORT or unix:PATH. Any address but a loopback one needs TLS and --tokens
    #[arg(long, default_value = "127.0.0.1:7070", value_name = "ADDRESS")]
    listen: listen::Listen,
    /// The certificate chain, in PEM
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    tls_cert: Option<PathBuf>,
    /// The certificate's key, in PEM
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    tls_key: Option<PathBuf>,
    /// The URL that the other servers reach this one by [default: where it listens]
    #[arg(long, value_name = "URL")]
    advertise: Option<String>,
    /// Who may do what: lines of `admin|reader|server|node:NAME SHA256`, instead of the data folder's own tokens
    #[arg(long, value_name = "FILE")]
    tokens: Option<PathBuf>,
    #[command(flatten)]
    store: store::StoreOptions,
    #[command(flatten)]
    machines: machines::MachineOptions,
    #[command(flatten)]
    logging: logging::LogOptions,
}

/// How often a server that does not own the store looks whether it can.
const OWNERSHIP_ROUND: Duration = Duration::from_millis(100);
/// How often the DNS address is tried while somebody else has it.
const DNS_ROUND: Duration = Duration::from_millis(50);
/// How long requests may take to end at a shutdown. Streams are cut.
const DRAIN: Duration = Duration::from_secs(2);

/// Runs a server until it is told to stop.
pub(crate) async fn serve(global: &Global, options: ServeOptions) -> Result<Exit> {
    options.logging.start();
    options.listen.check(options.tls_cert.is_some(), options.tokens.is_some())?;
    let authorities = global.remote.authorities()?;
    let (data, config) = options.machines.settle(global.data.as_deref())?;
    data.make(Path::new("servers").join(options.id.as_str()))?;
    let _only = only_one(&data, &options.id)?;
    // What an earlier process of this server has told is over.
    let told = data.server(&options.id).join("endpoint.json");
    match std::fs::remove_file(&told) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(Failure::new(format!("remove {}: {error}", told.display())));
        }
        _ => {}
    }
    let acceptor = listen::tls(options.tls_cert.as_deref(), options.tls_key.as_deref())?;
    let listener = options.listen.bind(acceptor).await?;
    let (environment, mut panics) = tasks::environment()?;
    let principals = Arc::new(TokenFiles::new(&data, options.tokens.as_deref(), &environment)?);

    let url = options.advertise.clone().unwrap_or_else(|| listener.url().to_owned());
    let stake = || ownership::Stake::new(&data, &config, &options.id, &url, authorities, environment.clone());
    let key = data.sealing_key(&config)?;
    let (db, stake) = options.store.open(&data, &config, &key, &environment, stake).await?;
    let server = Server::new(&data, &config, &options.id, &environment, &db, key)?;
    if let Some(stake) = stake {
        stake.watch(db.clone());
    }
    let readiness = ready::Readiness::watch(&environment, &server.registry, &config.zone);
    server.controller.start();
    match &config.names {
        None => server.answer_names(&config, db.clone()),
        Some(names) => look_at(&names.open(&config.zone, &environment)?, &config).await?,
    }
    addresses::repair_as_owner(&environment, db.clone(), server.addresses.clone());
    Arc::clone(&principals).follow();

    let parts = server.parts(&config, &db, principals, readiness);
    let router = steadfast_api::server::router(parts);
    announce(&data, &options.id, &url)?;
    tracing::info!(id = %options.id, url, owner = db.is_owner(), cluster = %config.cluster, "serving");
    let mut signals = Signals::new()?;
    let shutdown = environment.tasks().shutdown();
    let api = listen::run(listener, router, async move { shutdown.requested().await });
    tokio::pin!(api);
    tokio::select! {
        ended = &mut api => ended.context("serve the API")?,
        failure = panics.first() => return Err(failure),
        () = signals.any() => {
            tracing::info!("stopping");
            environment.tasks().request_stop();
            if let Ok(ended) = tokio::time::timeout(DRAIN, &mut api).await {
                ended.context("serve the API")?;
            }
        }
    }
    if tokio::time::timeout(DRAIN, environment.tasks().stop()).await.is_err() {
        tracing::warn!("some tasks did not end in time; what they did is finished by another server");
    }
    Ok(Exit::Done)
}

fn only_one(data: &DataDir, id: &ServerId) -> Result<Lock> {
    let path = data.server(id).join("lock");
    Lock::try_exclusive(&path).context(format!("take {}", path.display()))?.ok_or_else(|| {
        Failure::new(format!("server {id} runs already on {}", data.root().display()))
            .remedy("give another name with --id")
            .exit(Exit::Conflict)
    })
}

fn announce(data: &DataDir, id: &ServerId, url: &str) -> Result<()> {
    let endpoint = Endpoint {
        url: url.to_owned(),
        pid: std::process::id(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
    };
    let text = serde_json::to_string_pretty(&endpoint).context("write the endpoint")?;
    data.write(Path::new("servers").join(id.as_str()).join("endpoint.json"), &format!("{text}\n"), 0o600)
}

/// Makes sure that an existing DNS server has the zone and knows the key. One that cannot be reached may be back when a
/// name changes.
async fn look_at(names: &DynamicRegistry, config: &ClusterConfig) -> Result<()> {
    match names.records(&config.zone).await {
        Ok(records) => {
            tracing::info!(%names, zone = %config.zone, records = records.len(), "names are kept there");
            Ok(())
        }
        Err(error) if error.retry() == Retry::Backoff => {
            tracing::warn!(error = %error.chain(), "names cannot be changed yet; each change is tried again");
            Ok(())
        }
        Err(error) => Err(Failure::new(error.to_string())
            .remedy("docs/names.md shows how the server, its zone and the key belong together")),
    }
}

/// What a server is made of, wired.
struct Server {
    controller: Controller,
    control: Arc<OfControl>,
    registry: StoreRegistry,
    addresses: Addresses,
    metrics: Arc<metrics::Metrics>,
    environment: Environment,
}

impl Server {
    fn new(
        data: &DataDir,
        config: &ClusterConfig,
        id: &ServerId,
        environment: &Environment,
        db: &SwitchDb,
        key: FileKeyProvider,
    ) -> Result<Self> {
        let Wiring { store, backends, registry, addresses, counters, .. } =
            Wiring::new(data, config, Arc::new(db.clone()), None, environment)?;
        let settings =
            ControllerConfig { lease: Duration::from_millis(config.server_lease_ms), ..Default::default() };
        let controller = Controller::new(environment.clone(), store.clone(), backends, id.clone(), settings);
        let catalog = Arc::new(Catalog::embedded());
        let control = Control::new(
            environment.clone(),
            store,
            controller.clone(),
            catalog.clone(),
            Arc::new(StoredClients),
            Arc::new(key),
        );
        let metrics =
            Arc::new(metrics::Metrics::new(config.cluster.clone(), control.clone(), db.clone(), counters));
        Ok(Server {
            control: Arc::new(OfControl::new(control, catalog, Arc::new(KeptLogs(data.clone())))),
            controller,
            registry,
            addresses,
            metrics,
            environment: environment.clone(),
        })
    }

    fn parts(
        &self,
        config: &ClusterConfig,
        db: &SwitchDb,
        principals: Arc<TokenFiles>,
        readiness: ready::Readiness,
    ) -> Parts {
        let (owner, metrics) = (db.clone(), Arc::clone(&self.metrics));
        let shards = Arc::clone(self.controller.shards());
        Parts {
            cluster: config.cluster.clone(),
            control: self.control.clone(),
            // A name that is written through this is answered before the write is acknowledged.
            store: self.registry.database(),
            owns_store: Arc::new(move || owner.is_owner()),
            node_secrets: self.control.clone(),
            principals,
            environment: self.environment.clone(),
            metrics: Arc::new(move || metrics.text()),
            ready: Arc::new(move || {
                readiness.check().and_then(|()| shards.store_trouble().map_or(Ok(()), Err))
            }),
            limits: Limits::default(),
        }
    }

    /// Answers questions about names for as long as this server owns the store: there every change is seen before
    /// it is acknowledged. The next owner takes the address over.
    fn answer_names(&self, config: &ClusterConfig, db: SwitchDb) {
        let (environment, registry, address) = (self.environment.clone(), self.registry.clone(), config.dns);
        let tasks = environment.tasks().clone();
        let until = tasks.shutdown();
        tasks.spawn("dns", async move {
            let mut told = false;
            while !until.is_requested() {
                if db.is_owner() {
                    match DnsServer::start(&environment, &registry, DnsOptions::new(address)).await {
                        Ok(server) => return tracing::info!(address = %server.address(), "answering names"),
                        Err(error) if !told => {
                            tracing::warn!(%address, %error, "cannot answer names yet; it is tried again");
                            told = true;
                        }
                        Err(_) => {}
                    }
                }
                tokio::select! {
                    () = until.requested() => {}
                    () = environment.clock().sleep(DNS_ROUND) => {}
                }
            }
        });
    }
}
