//! Looks at disks that hold nobody up but themselves.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

/// Runs looks at disks on threads that may block, one at a time for each place.
///
/// A disk that hangs (a network's, or one that is dying) keeps whoever looks at it for as long as it likes. Here that
/// is one thread, however often it is asked for, while the agent renews its lease and tends its other members.
#[derive(Debug, Default)]
pub(super) struct Apart {
    busy: Arc<Mutex<BTreeSet<PathBuf>>>,
}

/// A place that is being looked at, until this is dropped.
struct Busy {
    place: PathBuf,
    all: Arc<Mutex<BTreeSet<PathBuf>>>,
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.all.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.place);
    }
}

impl Apart {
    /// What `look` finds; none if an earlier look at this place has not come back, or its thread has panicked.
    ///
    /// # Behavior
    /// - Dropping the future does not end the look: the place stays busy until it comes back.
    pub(super) async fn look<T: Send + 'static>(
        &self,
        place: &Path,
        look: impl FnOnce() -> T + Send + 'static,
    ) -> Option<T> {
        let fresh = self.busy.lock().unwrap_or_else(PoisonError::into_inner).insert(place.to_owned());
        if !fresh {
            return None;
        }
        let busy = Busy { place: place.to_owned(), all: Arc::clone(&self.busy) };
        let looked = tokio::task::spawn_blocking(move || {
            let found = look();
            drop(busy);
            found
        });
        looked.await.ok()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[tokio::test]
    async fn a_look_that_hangs_keeps_one_thread_and_is_over_when_it_comes_back() {
        let apart = Apart::default();
        let place = Path::new("/disk");
        let (answer, hanging) = mpsc::channel();
        let mut first = Box::pin(apart.look(place, move || hanging.recv().unwrap()));
        assert!(futures::poll!(first.as_mut()).is_pending(), "the disk hangs");
        drop(first);
        assert_eq!(apart.look(place, || "another").await, None, "nobody else is sent there");
        assert_eq!(apart.look(Path::new("/else"), || "there").await, Some("there"));
        answer.send("late").unwrap();
        loop {
            match apart.look(place, || "again").await {
                Some(found) => return assert_eq!(found, "again"),
                None => tokio::task::yield_now().await,
            }
        }
    }
}
