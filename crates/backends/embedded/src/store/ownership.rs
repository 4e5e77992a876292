//! Who owns the store: the process that holds `DIR/store/lock`.
//!
//! The lock is the kernel's, so there is never a stale owner to wait out: it is free at once when its holder dies,
//! however it dies. What the owner says of itself (`owner.json`) is for the others to find it; only the lock decides.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use steadfast_core::Environment;
use steadfast_core::ids::ServerId;
use steadfast_lock::Lock;

use crate::files;

/// Where the owner answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Endpoint {
    /// At this URL.
    Url(String),
    /// At this unix socket.
    Unix(PathBuf),
}

/// What the owner tells the others.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OwnerAdvert {
    /// The server.
    pub server_id: ServerId,
    /// Where it answers.
    pub endpoint: Endpoint,
    /// Its process, for people.
    pub pid: u32,
}

/// Ownership of the store in one folder. Dropping it gives it up.
#[derive(Debug)]
pub struct Ownership {
    folder: PathBuf,
    _lock: Lock,
}

impl Ownership {
    /// Takes the ownership of the store under `dir` if it is free, and tells the others `advert`.
    ///
    /// The owner should answer at its endpoint before it calls this.
    ///
    /// # Errors
    /// If the folder or its files cannot be made; the message names the file.
    pub fn try_acquire(dir: &Path, advert: &OwnerAdvert) -> io::Result<Option<Ownership>> {
        let folder = dir.join("store");
        files::make_folder(&folder, 0o700).map_err(|error| about(&folder, error))?;
        let lock_path = folder.join("lock");
        let Some(lock) = Lock::try_exclusive(&lock_path).map_err(|error| about(&lock_path, error))? else {
            return Ok(None);
        };
        let path = advert_path(dir);
        let content = serde_json::to_vec_pretty(advert)?;
        files::replace(&path, &folder.join("owner.json.new"), &content, 0o600)
            .map_err(|error| about(&path, error))?;
        Ok(Some(Ownership { folder, _lock: lock }))
    }

    /// Takes the ownership as soon as it is free, looking every `every`.
    ///
    /// # Errors
    /// As [`try_acquire`](Self::try_acquire).
    pub async fn acquire(
        dir: &Path,
        advert: &OwnerAdvert,
        environment: &Environment,
        every: Duration,
    ) -> io::Result<Ownership> {
        loop {
            if let Some(ownership) = Ownership::try_acquire(dir, advert)? {
                return Ok(ownership);
            }
            environment.clock().sleep(every).await;
        }
    }

    /// What the last owner told of itself; none if nobody has, or the last one left in order.
    ///
    /// It may be out of date by the time it is used, and is from the moment the owner dies until the next one has
    /// taken over: who does not get through reads it again.
    ///
    /// # Errors
    /// If the file is there and cannot be read; the message names it.
    pub fn read_advert(dir: &Path) -> io::Result<Option<OwnerAdvert>> {
        let path = advert_path(dir);
        match fs::read(&path) {
            Ok(content) => {
                let advert = serde_json::from_slice(&content)
                    .map_err(|error| about(&path, io::Error::new(io::ErrorKind::InvalidData, error)))?;
                Ok(Some(advert))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(about(&path, error)),
        }
    }

    /// Whether some process owns the store under `dir` right now.
    ///
    /// # Errors
    /// If the lock cannot be looked at; the message names it.
    pub fn is_owned(dir: &Path) -> io::Result<bool> {
        let path = dir.join("store/lock");
        steadfast_lock::is_held(&path).map_err(|error| about(&path, error))
    }

    /// The store's file.
    pub fn store_path(&self) -> PathBuf {
        self.folder.join("store.redb")
    }
}

impl Drop for Ownership {
    fn drop(&mut self) {
        // The lock is still held here, so this is our own advert.
        let path = self.folder.join("owner.json");
        if let Err(error) = fs::remove_file(&path)
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(path = %path.display(), %error, "cannot remove the owner's advert");
        }
    }
}

fn advert_path(dir: &Path) -> PathBuf {
    dir.join("store/owner.json")
}

fn about(path: &Path, error: io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}
