//! A store that can be exchanged while it is in use.

use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt as _;
use futures::stream::{self, BoxStream};
use steadfast_core::Result;
use steadfast_core::metadata::{
    CasOutcome, Hint, Key, MetadataCapabilities, MetadataDb, Page, Precondition, Record, Version,
};
use tokio::sync::Notify;

/// A handle on the store of the moment. Clones are handles on the same switch.
///
/// A call goes to the store that is in place when it begins, and ends there. Watches of a store that is exchanged
/// get a last [`Hint::Reset`] and end: whoever goes on asks again, and so gets the new one.
#[derive(Debug, Clone)]
pub struct SwitchDb {
    place: Arc<RwLock<Place>>,
}

#[derive(Debug, Clone)]
struct Place {
    db: Arc<dyn MetadataDb>,
    local: bool,
    /// Woken when `db` is exchanged. One for each store in place, so that no wake-up of an earlier exchange counts.
    exchanged: Arc<Exchange>,
}

#[derive(Debug, Default)]
struct Exchange {
    done: std::sync::atomic::AtomicBool,
    wake: Notify,
}

impl Exchange {
    fn happened(&self) {
        self.done.store(true, std::sync::atomic::Ordering::Release);
        self.wake.notify_waiters();
    }

    async fn wait(&self) {
        let notified = self.wake.notified();
        tokio::pin!(notified);
        // Enabled before the look, so that an exchange in between is not missed.
        notified.as_mut().enable();
        if !self.done.load(std::sync::atomic::Ordering::Acquire) {
            notified.await;
        }
    }
}

impl SwitchDb {
    /// A switch at this server's own store.
    pub fn local(db: Arc<dyn MetadataDb>) -> Self {
        SwitchDb::at(db, true)
    }

    /// A switch at another server's store.
    pub fn remote(db: Arc<dyn MetadataDb>) -> Self {
        SwitchDb::at(db, false)
    }

    fn at(db: Arc<dyn MetadataDb>, local: bool) -> Self {
        let place = Place { db, local, exchanged: Arc::default() };
        SwitchDb { place: Arc::new(RwLock::new(place)) }
    }

    /// Puts this server's own store in place: it has become the owner.
    pub fn become_owner(&self, db: Arc<dyn MetadataDb>) {
        self.swap(db, true);
    }

    /// Puts another server's store in place.
    pub fn follow(&self, db: Arc<dyn MetadataDb>) {
        self.swap(db, false);
    }

    /// Whether the store in place is this server's own.
    pub fn is_owner(&self) -> bool {
        self.current().local
    }

    fn swap(&self, db: Arc<dyn MetadataDb>, local: bool) {
        let next = Place { db, local, exchanged: Arc::default() };
        let before =
            std::mem::replace(&mut *self.place.write().unwrap_or_else(PoisonError::into_inner), next);
        before.exchanged.happened();
    }

    fn current(&self) -> Place {
        self.place.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl fmt::Display for SwitchDb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.current().db.fmt(f)
    }
}

#[async_trait]
impl MetadataDb for SwitchDb {
    fn capabilities(&self) -> MetadataCapabilities {
        self.current().db.capabilities()
    }

    async fn get(&self, key: &Key) -> Result<Option<Record>> {
        self.current().db.get(key).await
    }

    async fn put(&self, key: &Key, value: Bytes, precondition: Precondition) -> Result<CasOutcome> {
        self.current().db.put(key, value, precondition).await
    }

    async fn delete(&self, key: &Key, version: &Version) -> Result<CasOutcome> {
        self.current().db.delete(key, version).await
    }

    async fn scan(&self, prefix: &Key, after: Option<&Key>, limit: usize) -> Result<Page> {
        self.current().db.scan(prefix, after, limit).await
    }

    async fn watch(&self, prefix: &Key) -> Result<BoxStream<'static, Hint>> {
        let place = self.current();
        let hints = place.db.watch(prefix).await?;
        let exchanged = place.exchanged;
        Ok(stream::unfold(Some(hints), move |hints| {
            let exchanged = Arc::clone(&exchanged);
            async move {
                let mut hints = hints?;
                tokio::select! {
                    biased;
                    () = exchanged.wait() => Some((Hint::Reset, None)),
                    hint = hints.next() => hint.map(|hint| (hint, Some(hints))),
                }
            }
        })
        .boxed())
    }
}
