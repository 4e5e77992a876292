//! Locks whose values are whole whoever panics.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Nothing that is done under these locks can panic half-way, so a poisoned one holds a whole value.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
