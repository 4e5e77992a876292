//! The records in etcd.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use steadfast_backends::embedded::keys::FileKeyProvider;
use steadfast_backends::etcd::{EtcdDb, EtcdOptions, Identity, Password};
use steadfast_backends::remote::SwitchDb;
use steadfast_core::{Environment, ErrorKind};

pub(super) use steadfast_backends::etcd::Location;

use super::StoreOptions;
use super::folder::belongs;
use crate::cli::is_heard_at;
use crate::config::ClusterConfig;
use crate::data_dir::{DataDir, read_secret};
use crate::exit::{Context as _, Failure, Result};

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

pub(super) fn parse(text: &str) -> Result<Location> {
    text.parse().map_err(|error| {
        Failure::usage(
            format!("--store: {error}"),
            "write --store etcd://HOST:PORT,HOST:PORT/PREFIX, with TLS etcds://, with a user etcds://USER@HOST:PORT",
        )
    })
}

/// Whether both are the same store: members may have come and gone, the prefix stays.
pub(super) fn is_same(before: &Location, wanted: &Location) -> bool {
    before.prefix() == wanted.prefix()
}

pub(super) async fn open(
    options: &StoreOptions,
    location: Location,
    data: &DataDir,
    config: &ClusterConfig,
    key: &FileKeyProvider,
    environment: &Environment,
) -> Result<SwitchDb> {
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
