//! Owning the store, or following whoever does.

use std::sync::Arc;
use std::time::Duration;

use steadfast_api::auth::Token;
use steadfast_api::client::{Client, ClientConfig};
use steadfast_backends::embedded::store::{Endpoint, MAX_VALUE_BYTES, OwnerAdvert, Ownership, RedbStore};
use steadfast_backends::remote::{RemoteDb, SwitchDb};
use steadfast_core::Environment;
use steadfast_core::ids::{ClusterName, ServerId};
use steadfast_core::metadata::MetadataCapabilities;

use super::OWNERSHIP_ROUND;
use crate::cli::read_token;
use crate::config::ClusterConfig;
use crate::data_dir::DataDir;
use crate::exit::{Context as _, Failure, Result};

/// A server's part in the ownership of the store.
#[derive(Debug, Clone)]
pub(super) struct Stake {
    data: DataDir,
    cluster: ClusterName,
    token: Token,
    advert: OwnerAdvert,
    /// Whose certificates to trust, if not the system's.
    authorities: Option<Vec<u8>>,
    environment: Environment,
}

/// How long a server waits in silence for the owner to tell where it is.
const SILENCE: Duration = Duration::from_secs(5);

fn tell(last: &mut Option<String>, failure: &Failure, what: &str) {
    let text = failure.to_string();
    if last.as_ref() != Some(&text) {
        tracing::error!(failure = text, "{what}; it is tried again");
        *last = Some(text);
    }
}

/// What became of an attempt.
enum Turn {
    Owner(RedbStore),
    Follower(OwnerAdvert),
    /// Nobody has told yet who owns it.
    Nobody,
}

impl Stake {
    pub(super) fn new(
        data: &DataDir,
        config: &ClusterConfig,
        id: &ServerId,
        url: &str,
        authorities: Option<Vec<u8>>,
        environment: Environment,
    ) -> Result<Self> {
        let advert = OwnerAdvert {
            server_id: id.clone(),
            endpoint: Endpoint::Url(url.to_owned()),
            pid: std::process::id(),
        };
        let token = read_token(&data.path("server-token"))?;
        let (data, cluster) = (data.clone(), config.cluster.clone());
        Ok(Stake { data, cluster, token, advert, authorities, environment })
    }

    /// The store to begin with: this server's own if it is free, else the owner's.
    pub(super) async fn first(&self) -> Result<SwitchDb> {
        let begun = self.environment.clock().monotonic();
        let mut told = false;
        loop {
            match self.turn()? {
                Turn::Owner(store) => return Ok(SwitchDb::local(Arc::new(store))),
                Turn::Follower(owner) => return Ok(SwitchDb::remote(Arc::new(self.follow(&owner)?))),
                // The owner is about to tell, or about to be gone.
                Turn::Nobody => {
                    let clock = self.environment.clock();
                    if !told && clock.monotonic().since(begun) > SILENCE {
                        let folder = self.data.root().display();
                        tracing::warn!(%folder, "a process holds the store and does not tell where it listens");
                        told = true;
                    }
                    clock.sleep(OWNERSHIP_ROUND).await;
                }
            }
        }
    }

    /// Keeps `db` at the owner, and takes the ownership over as soon as it is free.
    pub(super) fn watch(self, db: SwitchDb) {
        if db.is_owner() {
            // For as long as this process lives.
            return;
        }
        let tasks = self.environment.tasks().clone();
        let until = tasks.shutdown();
        tasks.spawn("ownership", async move {
            let mut followed = None;
            // Said once: there are ten rounds a second.
            let mut failed = None;
            while !until.is_requested() {
                match self.turn() {
                    Ok(Turn::Owner(store)) => {
                        db.become_owner(Arc::new(store));
                        tracing::info!("this server owns the store now");
                        return;
                    }
                    Ok(Turn::Follower(owner)) if followed.as_ref() != Some(&owner) => {
                        match self.follow(&owner) {
                            Ok(remote) => {
                                db.follow(Arc::new(remote));
                                tracing::info!(owner = %owner.server_id, "the store is at another server");
                                followed = Some(owner);
                            }
                            Err(failure) => tell(&mut failed, &failure, "cannot follow the store's owner"),
                        }
                    }
                    Ok(Turn::Follower(_) | Turn::Nobody) => failed = None,
                    Err(failure) => tell(&mut failed, &failure, "cannot take the store over"),
                }
                tokio::select! {
                    () = until.requested() => {}
                    () = self.environment.clock().sleep(OWNERSHIP_ROUND) => {}
                }
            }
        });
    }

    fn turn(&self) -> Result<Turn> {
        let root = self.data.root();
        let about = || format!("look for the owner of the store in {}", root.display());
        if let Some(ownership) = Ownership::try_acquire(root, &self.advert).context(about())? {
            let entropy = self.environment.entropy().fork("versions");
            return RedbStore::open(ownership, entropy).map(Turn::Owner).map_err(Failure::from);
        }
        match Ownership::read_advert(root).context(about())? {
            Some(advert) if advert != self.advert => Ok(Turn::Follower(advert)),
            Some(_) | None => Ok(Turn::Nobody),
        }
    }

    fn follow(&self, owner: &OwnerAdvert) -> Result<RemoteDb> {
        let server = match &owner.endpoint {
            Endpoint::Url(url) => url.clone(),
            Endpoint::Unix(path) => format!("unix://{}", path.display()),
        };
        let mut config = ClientConfig::new([server], self.cluster.clone(), Some(self.token.clone()));
        config.direct = true;
        config.authorities = self.authorities.clone();
        let client = Client::new(self.environment.clone(), config).context("speak to the store's owner")?;
        // Every owner is of this build's kind: asking it could only fail.
        let capabilities =
            MetadataCapabilities { max_value_bytes: MAX_VALUE_BYTES, watch: true, durable: true };
        Ok(RemoteDb::new(self.environment.clone(), client, capabilities))
    }
}
