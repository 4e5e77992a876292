//! The records that one process has decoded lately, each version once.
//!
//! A record is read from the store every time, so nothing old is ever taken for new. What is saved is its decoding,
//! which takes longer than the reading: a pass over a service whose one member has changed decodes that member.

use std::any::Any;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use serde::de::DeserializeOwned;

use crate::error::Result;
use crate::metadata::{Key, Record, Records, Version, Versioned};

/// So many records are kept, and as many of those before: those of what is going on, not those of a whole cluster.
const MOST: usize = 256;

type Known = (Version, Arc<dyn Any + Send + Sync>);

/// What is known, through any clone of a store. The newest records push out those that were not asked for since the
/// newest were as many before.
#[derive(Default)]
pub(super) struct Decoded(Mutex<Generations>);

#[derive(Default)]
struct Generations {
    new: BTreeMap<Key, Known>,
    old: BTreeMap<Key, Known>,
}

impl Decoded {
    /// The record that was read, decoded unless this version was before.
    ///
    /// # Errors
    /// As [`Records::decode`].
    pub(super) fn of<T>(&self, records: &Records, key: &Key, read: Record) -> Result<Versioned<Arc<T>>>
    where
        T: DeserializeOwned + Send + Sync + 'static,
    {
        let Record { version, value } = read;
        if let Some(body) = self.known(key, &version) {
            return Ok(Versioned { version, body });
        }
        let body: Arc<T> = Arc::new(records.decode(key, &value)?);
        self.with(|generations| generations.keep(key.clone(), (version.clone(), Arc::clone(&body) as _)));
        Ok(Versioned { version, body })
    }

    fn known<T: Send + Sync + 'static>(&self, key: &Key, version: &Version) -> Option<Arc<T>> {
        self.with(|generations| {
            let known = match generations.new.get(key) {
                Some(known) => known.clone(),
                None => generations
                    .old
                    .remove(key)
                    .inspect(|known| generations.keep(key.clone(), known.clone()))?,
            };
            (known.0 == *version).then(|| known.1.downcast().ok()).flatten()
        })
    }

    fn with<R>(&self, step: impl FnOnce(&mut Generations) -> R) -> R {
        // Nothing panics under this lock, so a poisoned one holds whole values.
        step(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Generations {
    fn keep(&mut self, key: Key, known: Known) {
        if self.new.len() >= MOST {
            self.old = std::mem::take(&mut self.new);
        }
        self.new.insert(key, known);
    }
}

impl fmt::Debug for Decoded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Decoded")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metadata::memory::MemoryDb;
    use crate::metadata::{MetadataDb, WriteOutcome};
    use crate::testing::TestEnvironment;

    fn records() -> Records {
        let db: Arc<dyn MetadataDb> = Arc::new(MemoryDb::new());
        let entropy = TestEnvironment::new(7).environment.entropy().clone();
        Records::new(db, entropy, "test".parse().unwrap())
    }

    async fn read(decoded: &Decoded, records: &Records, key: &Key) -> Arc<u64> {
        let record = records.db().get(key).await.unwrap().unwrap();
        decoded.of::<u64>(records, key, record).unwrap().body
    }

    #[tokio::test]
    async fn a_version_is_decoded_once_and_another_one_anew() {
        let (decoded, records) = (Decoded::default(), records());
        let key = records.key(["a"]).unwrap();
        let WriteOutcome::Applied(version) = records.create(&key, &1_u64).await.unwrap() else { panic!() };
        let first = read(&decoded, &records, &key).await;
        assert!(Arc::ptr_eq(&first, &read(&decoded, &records, &key).await));
        assert_ne!(records.update(&key, &2_u64, &version).await.unwrap(), WriteOutcome::Conflict);
        assert_eq!((*first, *read(&decoded, &records, &key).await), (1, 2));
    }

    #[tokio::test]
    async fn what_was_not_asked_for_lately_is_forgotten_and_what_was_is_kept() {
        let (decoded, records) = (Decoded::default(), records());
        let mut keys = Vec::new();
        for number in 0..3 * MOST {
            let key = records.key([format!("{number}")]).unwrap();
            assert_ne!(records.create(&key, &(number as u64)).await.unwrap(), WriteOutcome::Conflict);
            keys.push(key);
        }
        let first = read(&decoded, &records, &keys[0]).await;
        let second = read(&decoded, &records, &keys[1]).await;
        for key in &keys {
            read(&decoded, &records, key).await;
            assert!(Arc::ptr_eq(&first, &read(&decoded, &records, &keys[0]).await));
        }
        assert!(!Arc::ptr_eq(&second, &read(&decoded, &records, &keys[1]).await));
        let kept = decoded.with(|generations| generations.new.len() + generations.old.len());
        assert!(kept <= 2 * MOST, "{kept}");
    }

    #[tokio::test]
    async fn a_record_that_does_not_decode_is_an_error_each_time() {
        let (decoded, records) = (Decoded::default(), records());
        let key = records.key(["a"]).unwrap();
        assert_ne!(records.create(&key, &"text").await.unwrap(), WriteOutcome::Conflict);
        for _ in 0..2 {
            let record = records.db().get(&key).await.unwrap().unwrap();
            let error = decoded.of::<u64>(&records, &key, record).unwrap_err();
            assert_eq!(error.kind(), crate::ErrorKind::Corrupt);
        }
    }
}
