//! One change of a thing at a time, and no thing waits for another one.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Mutex as Turn;

/// The turns of each thing, within this process. Clones are handles on the same ones.
#[derive(Debug, Clone)]
pub(crate) struct Turns<K>(Arc<Mutex<BTreeMap<K, Arc<Turn<()>>>>>);

impl<K: Ord> Turns<K> {
    /// The turn of a thing: to be locked for as long as it is worked on.
    pub(crate) fn of(&self, thing: K) -> Arc<Turn<()>> {
        // Nothing in here can panic half-way, so a poisoned lock holds a whole value.
        let mut turns = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(turns.entry(thing).or_default())
    }
}

impl<K> Default for Turns<K> {
    fn default() -> Self {
        Turns(Arc::default())
    }
}
