//! Typed access to the store: the envelope, and the settling of unknown outcomes.

use std::sync::Arc;

use bytes::Bytes;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::{CasOutcome, Key, MetadataDb, Precondition, Record, Version};
use crate::error::{Effect, Error, ErrorKind, Result};
use crate::ids::WriteId;
use crate::planted::{self, Planted};
use crate::runtime::Entropy;

/// The newest format of stored records that this build writes and reads.
pub const SCHEMA: u32 = 1;

#[derive(Debug, Serialize, Deserialize)]
struct Envelope<T> {
    schema: u32,
    write_id: WriteId,
    body: T,
}

#[derive(Debug, Deserialize)]
struct EnvelopeHead {
    schema: u32,
    /// A newer format need not have it.
    #[serde(default)]
    write_id: Option<WriteId>,
}

/// A decoded record and its version.
#[derive(Debug, Clone, PartialEq)]
pub struct Versioned<T> {
    /// The version to expect when writing again.
    pub version: Version,
    /// The record.
    pub body: T,
}

/// How a typed write ended.
#[must_use]
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WriteOutcome {
    /// It is there, under this version.
    Applied(Version),
    /// Somebody else wrote first: read again and decide again.
    Conflict,
}

/// The typed face of a [`MetadataDb`], under one cluster's key prefix.
#[derive(Debug, Clone)]
pub struct Records {
    db: Arc<dyn MetadataDb>,
    entropy: Entropy,
    prefix: Key,
}

impl Records {
    /// The records under `prefix`. Write ids come from `entropy`.
    pub fn new(db: Arc<dyn MetadataDb>, entropy: Entropy, prefix: Key) -> Self {
        Records { db, entropy, prefix }
    }

    /// The store below.
    pub fn db(&self) -> &Arc<dyn MetadataDb> {
        &self.db
    }

    /// What every key begins with.
    pub fn prefix(&self) -> &Key {
        &self.prefix
    }

    /// The full key of `parts` under the prefix.
    ///
    /// # Errors
    /// `Invalid` if a part is no key segment.
    pub fn key<S: AsRef<str>>(&self, parts: impl IntoIterator<Item = S>) -> Result<Key> {
        self.prefix.below(parts).map_err(|error| {
            Error::new(ErrorKind::Invalid, &self.db, "key", &self.prefix, error).without_effect()
        })
    }

    /// The record at `key`.
    ///
    /// # Errors
    /// `Corrupt` if it does not decode or is of a newer format; else what the store says.
    pub async fn get<T: DeserializeOwned>(&self, key: &Key) -> Result<Option<Versioned<T>>> {
        match self.db.get(key).await? {
            Some(record) => {
                let body = self.decode(key, &record.value)?;
                Ok(Some(Versioned { version: record.version, body }))
            }
            None => Ok(None),
        }
    }

    /// Every record under `prefix`, in key order.
    ///
    /// # Errors
    /// As [`get`](Self::get): one record that does not decode fails the whole.
    pub async fn list<T: DeserializeOwned>(&self, prefix: &Key) -> Result<Vec<(Key, Versioned<T>)>> {
        let mut all = Vec::new();
        self.each(prefix, |key, record| {
            let body = self.decode(&key, &record.value)?;
            all.push((key, Versioned { version: record.version, body }));
            Ok(())
        })
        .await?;
        Ok(all)
    }

    /// Gives `take` every record under `prefix`, in key order, for prefixes whose records are of several types.
    ///
    /// # Errors
    /// What the store says, or `take`: then the rest is left.
    pub async fn each(&self, prefix: &Key, mut take: impl FnMut(Key, Record) -> Result<()>) -> Result<()> {
        const PAGE: usize = 500;
        let mut after: Option<Key> = None;
        loop {
            let page = self.db.scan(prefix, after.as_ref(), PAGE).await?;
            after = page.items.last().map(|(key, _)| key.clone());
            for (key, record) in page.items {
                take(key, record)?;
            }
            if !page.more || after.is_none() || planted::is(Planted::FirstPageIsAll) {
                return Ok(());
            }
        }
    }

    /// Writes a record that must not exist yet.
    ///
    /// # Errors
    /// As [`write`](Self::update).
    pub async fn create<T: Serialize + Sync>(&self, key: &Key, body: &T) -> Result<WriteOutcome> {
        self.write(key, body, Precondition::Absent).await
    }

    /// Writes a record over the version that was read.
    ///
    /// # Errors
    /// What the store says, with [`Effect::Unknown`] only if even reading again could not settle it.
    pub async fn update<T: Serialize + Sync>(
        &self,
        key: &Key,
        body: &T,
        version: &Version,
    ) -> Result<WriteOutcome> {
        self.write(key, body, Precondition::Version(version.clone())).await
    }

    /// Deletes a record of the version that was read. Gone already counts as done.
    ///
    /// # Errors
    /// What the store says.
    pub async fn delete(&self, key: &Key, version: &Version) -> Result<WriteOutcome> {
        match self.db.delete(key, version).await {
            Ok(CasOutcome::Applied(version)) => Ok(WriteOutcome::Applied(version)),
            Ok(CasOutcome::Conflict) => match self.db.get(key).await? {
                None => Ok(WriteOutcome::Applied(version.clone())),
                Some(_) => Ok(WriteOutcome::Conflict),
            },
            Err(error) => Err(error),
        }
    }

    /// One write, settled: after an unknown outcome or a conflict (which may be with ourselves, after a hidden
    /// repetition below) the record is read again. Our write id there: applied. The expected version still
    /// there: not applied yet, so the identical write is repeated, of which at most one can win. Anything
    /// else: somebody moved on.
    async fn write<T: Serialize + Sync>(
        &self,
        key: &Key,
        body: &T,
        precondition: Precondition,
    ) -> Result<WriteOutcome> {
        const ATTEMPTS: u32 = 3;
        let write_id: WriteId = self.entropy.token().parse().map_err(|error| {
            Error::new(ErrorKind::Internal, &self.db, "write", key, error).without_effect()
        })?;
        let envelope = Envelope { schema: SCHEMA, write_id: write_id.clone(), body };
        let value: Bytes = serde_json::to_vec(&envelope)
            .map_err(|error| {
                Error::new(ErrorKind::Internal, &self.db, "encode", key, error).without_effect()
            })?
            .into();
        let mut attempt = 1;
        loop {
            let failure = match self.db.put(key, value.clone(), precondition.clone()).await {
                Ok(CasOutcome::Applied(version)) => return Ok(WriteOutcome::Applied(version)),
                Ok(CasOutcome::Conflict) => None,
                Err(error) if error.effect() == Effect::None && attempt == 1 => return Err(error),
                // An earlier attempt may be on its way still.
                Err(error) if error.effect() == Effect::None => return Err(error.with_unknown_effect()),
                Err(error) => Some(error),
            };
            // From here on a failure leaves it open whether the write happened, whatever it says of itself.
            let seen = match (self.db.get(key).await, failure.as_ref()) {
                (Ok(seen), _) => seen,
                (Err(_), Some(failure)) => return Err(failure.clone()),
                (Err(error), None) => return Err(error.with_unknown_effect()),
            };
            let still_expected = match (&seen, &precondition) {
                (None, Precondition::Absent) => true,
                (Some(record), Precondition::Version(version)) => &record.version == version,
                (None, Precondition::Version(_)) | (Some(_), Precondition::Absent) => false,
            };
            if let Some(record) = &seen
                && self.head(key, &record.value).map_err(Error::with_unknown_effect)?.write_id.as_ref()
                    == Some(&write_id)
            {
                return Ok(WriteOutcome::Applied(record.version.clone()));
            }
            if !still_expected {
                return Ok(WriteOutcome::Conflict);
            }
            attempt += 1;
            if attempt > ATTEMPTS {
                return Err(failure.unwrap_or_else(|| {
                    Error::new(
                        ErrorKind::Internal,
                        &self.db,
                        "write",
                        key,
                        "conflicts although the version holds",
                    )
                }));
            }
        }
    }

    fn head(&self, key: &Key, value: &[u8]) -> Result<EnvelopeHead> {
        let head: EnvelopeHead =
            serde_json::from_slice(value).map_err(|error| self.corrupt(key, error.to_string()))?;
        if head.schema > SCHEMA {
            return Err(self.corrupt(
                key,
                format!(
                    "it has format {}, and this build reads up to {SCHEMA}: run the newer version",
                    head.schema
                ),
            ));
        }
        Ok(head)
    }

    /// The record in the bytes that `key` holds: for readers that scan, and go on past one that does not decode.
    ///
    /// # Errors
    /// `Corrupt` if it does not decode or is of a newer format.
    pub fn decode<T: DeserializeOwned>(&self, key: &Key, value: &[u8]) -> Result<T> {
        // Looked through once for what is no text, not string by string.
        let envelope = match std::str::from_utf8(value) {
            Ok(text) => serde_json::from_str::<Envelope<T>>(text),
            Err(_) => serde_json::from_slice(value),
        };
        match envelope {
            Ok(envelope) if envelope.schema <= SCHEMA => Ok(envelope.body),
            Ok(_) => Err(self.head(key, value).err().unwrap_or_else(|| self.corrupt(key, String::new()))),
            // A newer format that lacks what we look for is told as that, not as damage.
            Err(error) => {
                Err(self.head(key, value).err().unwrap_or_else(|| self.corrupt(key, error.to_string())))
            }
        }
    }

    fn corrupt(&self, key: &Key, message: String) -> Error {
        Error::new(ErrorKind::Corrupt, &self.db, "decode", key, message).without_effect()
    }
}

#[cfg(test)]
mod tests;
