//! Which store a server keeps the records in: the data folder's own, or one that `--store` names.

#[cfg(feature = "dynamodb")]
mod dynamodb;
#[cfg(feature = "etcd")]
mod etcd;
#[cfg(any(feature = "dynamodb", feature = "etcd"))]
mod folder;

use std::path::PathBuf;

use steadfast_backends::embedded::keys::FileKeyProvider;
use steadfast_backends::remote::SwitchDb;
use steadfast_core::Environment;

use super::ownership::Stake;
use crate::config::ClusterConfig;
use crate::data_dir::DataDir;
use crate::exit::{Failure, Result};

/// Where the records are, and who asks for them.
#[derive(Debug, Clone, Default, clap::Args)]
#[command(next_help_heading = "Store options")]
pub(crate) struct StoreOptions {
    /// Where the records are: etcd://HOST:PORT,HOST:PORT/PREFIX, with TLS etcds://, with a user etcds://USER@HOST:PORT;
    /// or dynamodb://REGION/TABLE/PREFIX
    /// [default: that of last time, or the data folder itself]
    #[arg(long, env = "STEADFAST_STORE", value_name = "URL")]
    store: Option<String>,
    /// A file with the password of the store's user
    #[arg(long, env = "STEADFAST_STORE_PASSWORD_FILE", value_name = "FILE")]
    store_password_file: Option<PathBuf>,
    /// Certificates to trust at the store instead of the system's, in PEM
    #[arg(long, env = "STEADFAST_STORE_CA", value_name = "FILE")]
    store_ca: Option<PathBuf>,
    /// The certificate chain to show to the store, in PEM
    #[arg(long, env = "STEADFAST_STORE_CERT", value_name = "FILE", requires = "store_key")]
    store_cert: Option<PathBuf>,
    /// The certificate's key, in PEM
    #[arg(long, env = "STEADFAST_STORE_KEY", value_name = "FILE", requires = "store_cert")]
    store_key: Option<PathBuf>,
}

impl StoreOptions {
    /// Where the records of this folder's cluster shall be: none is the folder itself.
    ///
    /// # Errors
    /// If the records are elsewhere already: they do not move by themselves.
    fn settle(&self, data: &DataDir, config: &ClusterConfig) -> Result<Option<String>> {
        let Some(wanted) = &self.store else { return Ok(config.store.clone()) };
        let found = Shared::parse(wanted)?;
        let elsewhere = match &config.store {
            Some(before) => (!found.is_same(&Shared::parse(before)?)).then(|| before.clone()),
            None => data.has_own_store().then(|| data.path("store").display().to_string()),
        };
        match elsewhere {
            None => Ok(Some(wanted.clone())),
            Some(before) => Err(Failure::usage(
                format!("--store {wanted}: the records of this cluster are in {before}, and do not move"),
                "leave out --store, or give the folder of another cluster with --data DIR",
            )),
        }
    }

    /// Opens it. If it is the data folder's own, which one server owns, that comes with this server's stake in it; one
    /// elsewhere is every server's.
    pub(super) async fn open(
        &self,
        data: &DataDir,
        config: &ClusterConfig,
        key: &FileKeyProvider,
        environment: &Environment,
        stake: impl FnOnce() -> Result<Stake>,
    ) -> Result<(SwitchDb, Option<Stake>)> {
        let Some(location) = self.settle(data, config)? else {
            let stake = stake()?;
            return Ok((stake.first().await?, Some(stake)));
        };
        let db = Shared::parse(&location)?.open(self, data, config, key, environment).await?;
        // Written down once it is known to be right: for the other servers, and for the next time.
        if config.store.as_ref() != Some(&location) {
            DataDir::prepare(Some(data.root()), |config| config.store = Some(location))?;
        }
        Ok((db, None))
    }
}

/// A store that every server speaks to by itself.
enum Shared {
    #[cfg(feature = "etcd")]
    Etcd(etcd::Location),
    #[cfg(feature = "dynamodb")]
    DynamoDb(dynamodb::Location),
}

impl Shared {
    fn parse(text: &str) -> Result<Self> {
        match text.split_once(':').map_or(text, |(scheme, _)| scheme) {
            #[cfg(feature = "etcd")]
            "etcd" | "etcds" => etcd::parse(text).map(Shared::Etcd),
            #[cfg(feature = "dynamodb")]
            "dynamodb" => dynamodb::parse(text).map(Shared::DynamoDb),
            #[cfg(not(feature = "etcd"))]
            "etcd" | "etcds" => Err(missing(text, "etcd")),
            #[cfg(not(feature = "dynamodb"))]
            "dynamodb" => Err(missing(text, "dynamodb")),
            _ => Err(Failure::usage(
                // What is before an @ may be a secret.
                format!("--store {} names no store", text.rsplit('@').next().unwrap_or_default()),
                "write --store etcd://HOST:PORT,HOST:PORT/PREFIX, or dynamodb://REGION/TABLE/PREFIX",
            )),
        }
    }

    /// Whether both are the same store, wherever it is reached.
    #[allow(clippy::match_single_binding, reason = "a build may have no store to compare with")]
    fn is_same(&self, before: &Self) -> bool {
        match (self, before) {
            #[cfg(feature = "etcd")]
            (Shared::Etcd(wanted), Shared::Etcd(before)) => etcd::is_same(before, wanted),
            #[cfg(feature = "dynamodb")]
            (Shared::DynamoDb(wanted), Shared::DynamoDb(before)) => before == wanted,
            #[allow(unreachable_patterns, reason = "with one of the stores there are no others")]
            _ => false,
        }
    }

    #[cfg_attr(
        not(any(feature = "dynamodb", feature = "etcd")),
        allow(unused_variables, reason = "there is no store to open")
    )]
    async fn open(
        self,
        options: &StoreOptions,
        data: &DataDir,
        config: &ClusterConfig,
        key: &FileKeyProvider,
        environment: &Environment,
    ) -> Result<SwitchDb> {
        match self {
            #[cfg(feature = "etcd")]
            Shared::Etcd(location) => etcd::open(options, location, data, config, key, environment).await,
            #[cfg(feature = "dynamodb")]
            Shared::DynamoDb(location) => {
                dynamodb::open(options, location, data, config, key, environment).await
            }
        }
    }
}

#[cfg(not(all(feature = "dynamodb", feature = "etcd")))]
fn missing(wanted: &str, feature: &str) -> Failure {
    Failure::usage(
        format!("{wanted}: this build has no store in {feature}"),
        format!("build it with that: cargo build --package steadfast --features {feature}"),
    )
}

/// What `store create` makes, and with what.
#[derive(Debug, clap::Args)]
pub(crate) struct CreateStore {
    /// Where: dynamodb://REGION/TABLE; a prefix needs nothing made
    #[arg(value_name = "URL")]
    location: String,
    /// Pay for this capacity instead of each request: units of 4 KiB read and of 1 KiB written in a second
    #[arg(long, value_name = "READS:WRITES", value_parser = capacity)]
    provisioned: Option<(u32, u32)>,
}

fn capacity(text: &str) -> Result<(u32, u32), String> {
    let units = |text: &str| text.parse().ok().filter(|units| *units > 0);
    let found = text.split_once(':').and_then(|(reads, writes)| Some((units(reads)?, units(writes)?)));
    found.ok_or_else(|| "write READS:WRITES, as 25:25".to_owned())
}

/// Makes what a store needs before it is used, once.
pub(crate) async fn create(wanted: &CreateStore) -> Result<String> {
    match Shared::parse(&wanted.location)? {
        #[cfg(feature = "etcd")]
        Shared::Etcd(_) => {
            Err(Failure::usage("etcd needs nothing made", "name it with `steadfast serve --store`"))
        }
        #[cfg(feature = "dynamodb")]
        Shared::DynamoDb(location) => dynamodb::create(location, wanted.provisioned).await,
    }
}
