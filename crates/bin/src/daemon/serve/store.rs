//! Which store a server keeps the records in: the data folder's own, or one that `--store` names.

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
    /// Where the records are: etcd://HOST:PORT,HOST:PORT/PREFIX, with TLS etcds://, with a user etcds://USER@HOST:PORT
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
        shared::check(wanted)?;
        let elsewhere = match &config.store {
            Some(before) => (!shared::is_same(before, wanted)).then(|| before.clone()),
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
        let db = shared::open(self, &location, data, config, key, environment).await?;
        // Written down once it is known to be right: for the other servers, and for the next time.
        if config.store.as_ref() != Some(&location) {
            DataDir::prepare(Some(data.root()), |config| config.store = Some(location))?;
        }
        Ok((db, None))
    }
}

#[cfg(feature = "etcd")]
mod shared {
    use std::fs;
    use std::path::Path;
    use std::sync::Arc;
    use std::time::Duration;

    use serde::{Deserialize, Serialize};
    use steadfast_backends::embedded::keys::FileKeyProvider;
    use steadfast_backends::etcd::{EtcdDb, EtcdOptions, Identity, Location, Password};
    use steadfast_backends::remote::SwitchDb;
    use steadfast_core::metadata::{Key, MetadataDb, Records};
    use steadfast_core::store::PREFIX;
    use steadfast_core::{Environment, ErrorKind};

    use super::StoreOptions;
    use crate::cli::is_heard_at;
    use crate::config::ClusterConfig;
    use crate::data_dir::{DataDir, read_secret};
    use crate::exit::{Context as _, Exit, Failure, Result};

    /// `folder`: whose cluster it is.
    #[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
    struct FolderRecord {
        /// Which key seals the cluster's secrets: it lies in the folder, and nowhere else.
        key: String,
    }

    /// The file with the newest revision that a server of the folder has seen.
    const REVISION: &str = "store/etcd-revision";
    /// How often it is written: what etcd loses of the time in between is not noticed by a server that starts.
    const REVISION_ROUND: Duration = Duration::from_secs(5);

    fn revision(data: &DataDir) -> Result<i64> {
        let file = data.path(REVISION);
        match fs::read_to_string(&file) {
            Ok(text) => text.trim().parse().context(format!("read {}", file.display())),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(0),
            Err(error) => Err(Failure::new(format!("read {}: {error}", file.display()))),
        }
    }

    /// Keeps the file as far as this server has seen.
    fn keep_revision(data: DataDir, db: EtcdDb, environment: &Environment) {
        let (environment, tasks) = (environment.clone(), environment.tasks().clone());
        let until = tasks.shutdown();
        tasks.spawn("revision", async move {
            while !until.is_requested() {
                let newest = db.revision();
                let kept = revision(&data).and_then(|before| match newest > before {
                    true => data.write(REVISION, &format!("{newest}\n"), 0o600),
                    false => Ok(()),
                });
                if let Err(failure) = kept {
                    tracing::warn!(%failure, "how far etcd has come cannot be written down");
                }
                tokio::select! {
                    () = until.requested() => {}
                    () = environment.clock().sleep(REVISION_ROUND) => {}
                }
            }
        });
    }

    fn parse(text: &str) -> Result<Location> {
        text.parse().map_err(|error| {
            Failure::usage(
                format!("--store: {error}"),
                "write --store etcd://HOST:PORT,HOST:PORT/PREFIX, with TLS etcds://, with a user etcds://USER@HOST:PORT",
            )
        })
    }

    pub(super) fn check(wanted: &str) -> Result<()> {
        parse(wanted).map(drop)
    }

    /// Whether both are the same store: members may have come and gone, the prefix stays.
    pub(super) fn is_same(before: &str, wanted: &str) -> bool {
        match (parse(before), parse(wanted)) {
            (Ok(before), Ok(wanted)) => before.prefix() == wanted.prefix(),
            _ => false,
        }
    }

    pub(super) async fn open(
        options: &StoreOptions,
        location: &str,
        data: &DataDir,
        config: &ClusterConfig,
        key: &FileKeyProvider,
        environment: &Environment,
    ) -> Result<SwitchDb> {
        let location = parse(location)?;
        let etcd = EtcdOptions { at_least: revision(data)?, ..options.etcd(location.clone())? };
        let db = EtcdDb::connect(environment.clone(), etcd).await;
        let db = db.map_err(|error| refused(&location, data, &error))?;
        belongs(Arc::new(db.clone()), data, config, key, environment).await?;
        keep_revision(data.clone(), db.clone(), environment);
        tracing::info!(store = %location, "the records are in etcd");
        Ok(SwitchDb::local(Arc::new(db)))
    }

    fn refused(location: &Location, data: &DataDir, error: &steadfast_core::Error) -> Failure {
        let failure = Failure::new(error.chain());
        match error.kind() {
            ErrorKind::Denied => failure.reason("PermissionDenied").remedy(
                "name the user in --store (etcds://USER@HOST:PORT) and its password's file with --store-password-file",
            ),
            ErrorKind::Corrupt => failure.remedy(format!(
                "give --store the etcd that has the records. To go on with the older ones all the same: stop every server \
                 and agent, remove {}, and start them",
                data.path(REVISION).display()
            )),
            ErrorKind::Unavailable if location.tls() => failure.reason("StoreUnavailable").remedy(
                "check the hosts in --store, the certificates of --store-ca, --store-cert and --store-key, and that a \
                 majority of etcd's members runs",
            ),
            ErrorKind::Unavailable => failure.reason("StoreUnavailable").remedy(
                "check the hosts in --store, and that a majority of etcd's members runs; one that speaks TLS needs \
                 etcds://",
            ),
            _ => failure.remedy("check --store, --store-ca, --store-cert and --store-key"),
        }
    }

    /// Sees to it that the records are those of this folder's cluster: another folder has other volumes, and knows
    /// nothing of what runs here.
    async fn belongs(
        db: Arc<dyn MetadataDb>,
        data: &DataDir,
        config: &ClusterConfig,
        sealing: &FileKeyProvider,
        environment: &Environment,
    ) -> Result<()> {
        let prefix = Key::new([PREFIX, config.cluster.as_str()]).context("name the cluster's records")?;
        let records = Records::new(db, environment.entropy().fork("folder"), prefix);
        let key = records.key(["folder"])?;
        let own = FolderRecord { key: sealing.key_id().to_owned() };
        // Of several servers that begin at once one writes it.
        let _race = records.create(&key, &own).await?;
        match records.get::<FolderRecord>(&key).await? {
            Some(found) if found.body == own => Ok(()),
            _ => Err(Failure::new(format!(
                "{}: cluster {} in it is of another data folder than {}",
                records.db(),
                config.cluster,
                data.root().display()
            ))
            .remedy("give --store another prefix, or --data the folder whose cluster it is")
            .exit(Exit::Conflict)),
        }
    }

    impl StoreOptions {
        fn etcd(&self, location: Location) -> Result<EtcdOptions> {
            let read = |flag: &str, path: &Path| {
                fs::read(path).map_err(|error| {
                    Failure::new(format!("{flag}: read {}: {error}", path.display()))
                        .remedy(format!("give the file in PEM with {flag}"))
                })
            };
            let certificates = self.store_ca.is_some() || self.store_cert.is_some();
            if certificates && !location.tls() {
                return Err(Failure::usage(
                    format!("--store {location} does not speak TLS, and certificates are given"),
                    "write etcds://, or leave out --store-ca, --store-cert and --store-key",
                ));
            }
            let mut etcd = EtcdOptions::new(location.clone());
            etcd.password = self.password(&location)?;
            etcd.authorities = self.store_ca.as_ref().map(|path| read("--store-ca", path)).transpose()?;
            if let (Some(certificate), Some(key)) = (&self.store_cert, &self.store_key) {
                let certificate = read("--store-cert", certificate)?;
                etcd.identity = Some(Identity { certificate, key: read("--store-key", key)? });
            }
            Ok(etcd)
        }

        fn password(&self, location: &Location) -> Result<Option<Password>> {
            let file = match (location.user(), &self.store_password_file) {
                (None, None) => return Ok(None),
                (Some(_), Some(file)) => file,
                (None, Some(_)) => {
                    return Err(Failure::usage(
                        "--store-password-file is given, and no user",
                        "name the user in --store: etcds://USER@HOST:PORT",
                    ));
                }
                (Some(user), None) => {
                    return Err(Failure::usage(
                        format!("--store names the user {user}, and no password is given"),
                        "give the file with it with --store-password-file",
                    ));
                }
            };
            if let Some(host) = location.hosts().iter().find(|host| !location.tls() && is_heard_at(host)) {
                return Err(Failure::usage(
                    format!("--store {location} would carry the password in the clear to {host}"),
                    "write etcds://, or let a tunnel end at 127.0.0.1",
                ));
            }
            let text = read_secret("--store-password-file", file)?;
            Ok(Some(Password::new(text.trim_end_matches(['\r', '\n']))))
        }
    }
}

#[cfg(not(feature = "etcd"))]
mod shared {
    use steadfast_backends::embedded::keys::FileKeyProvider;
    use steadfast_backends::remote::SwitchDb;
    use steadfast_core::Environment;

    use super::StoreOptions;
    use crate::config::ClusterConfig;
    use crate::data_dir::DataDir;
    use crate::exit::{Failure, Result};

    fn missing(wanted: &str) -> Failure {
        Failure::usage(
            format!("--store {wanted}: this build has no stores but the data folder's own"),
            "build it with etcd: cargo build --package steadfast --features etcd",
        )
    }

    pub(super) fn check(wanted: &str) -> Result<()> {
        Err(missing(wanted))
    }

    pub(super) fn is_same(before: &str, wanted: &str) -> bool {
        before == wanted
    }

    pub(super) async fn open(
        _options: &StoreOptions,
        location: &str,
        _data: &DataDir,
        _config: &ClusterConfig,
        _key: &FileKeyProvider,
        _environment: &Environment,
    ) -> Result<SwitchDb> {
        Err(missing(location))
    }
}
