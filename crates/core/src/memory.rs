//! What the memory backends share: state behind a lock that is never held across an await.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

/// State that several handles share. Clones are handles on the same state.
pub(crate) struct Shared<T>(Arc<Mutex<T>>);

impl<T> Shared<T> {
    pub(crate) fn new(state: T) -> Self {
        Shared(Arc::new(Mutex::new(state)))
    }

    /// One atomic step. The closure is synchronous, so no lock outlives it.
    pub(crate) fn with<R>(&self, step: impl FnOnce(&mut T) -> R) -> R {
        // A panic in a step is a failed test; what it left is still worth looking at.
        step(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl<T> Clone for Shared<T> {
    fn clone(&self) -> Self {
        Shared(Arc::clone(&self.0))
    }
}

impl<T> fmt::Debug for Shared<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Shared")
    }
}
