//! The metadata contract over the API.

use std::fmt;
use std::sync::{Arc, Weak};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt as _;
use futures::stream::{self, BoxStream};
use steadfast_api::client::{Client, ClientError};
use steadfast_api::wire::WatchLine;
use steadfast_core::metadata::{
    CasOutcome, Hint, Key, MetadataCapabilities, MetadataDb, Page, Precondition, Record, Version,
};
use steadfast_core::{Environment, Error, ErrorKind, Result};

/// The pauses between attempts to take a broken watch up again.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// The store of whichever server of a [`Client`] answers.
///
/// A failure before anything was sent has no effect; one after that may have had, unless it was a read or the
/// server says so. A watch that breaks is taken up again, with a [`Hint::Reset`] for what may have been missed, for
/// as long as somebody has a handle on the store; a broken watch of a store that nobody has any more ends.
#[derive(Debug, Clone)]
pub struct RemoteDb {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    client: Client,
    environment: Environment,
    capabilities: MetadataCapabilities,
}

impl RemoteDb {
    /// The store behind `client`, with the capabilities that its server tells.
    ///
    /// # Errors
    /// What the call says if no server answers.
    pub async fn connect(environment: Environment, client: Client) -> Result<Self> {
        let capabilities = client
            .store_capabilities()
            .await
            .map_err(|error| error.into_error(name(&client), "capabilities", "the store"))?
            .capabilities();
        Ok(RemoteDb::new(environment, client, capabilities))
    }

    /// The store behind `client`, known to have these capabilities: asks nobody.
    pub fn new(environment: Environment, client: Client, capabilities: MetadataCapabilities) -> Self {
        RemoteDb { inner: Arc::new(Inner { client, environment, capabilities }) }
    }

    /// The client.
    pub fn client(&self) -> &Client {
        &self.inner.client
    }

    fn failed(&self, error: ClientError, operation: &'static str, subject: &Key) -> Error {
        error.into_error(self, operation, subject)
    }
}

/// Tries until the watch is there again. One step of the stream, so it ends with whoever drops that.
async fn watch_again(store: &Weak<Inner>, prefix: &Key) -> Option<BoxStream<'static, WatchLine>> {
    let mut pause = FIRST_PAUSE;
    loop {
        // The handle is given back before the pause: nobody's interest but the caller's keeps the store.
        let environment = {
            let store = store.upgrade()?;
            match store.client.store_watch(prefix).await {
                Ok(lines) => return Some(lines),
                Err(error) => tracing::debug!(%prefix, %error, "the watch cannot be taken up yet"),
            }
            store.environment.clone()
        };
        environment.clock().sleep(pause).await;
        pause = pause.saturating_mul(2).min(LONGEST_PAUSE);
    }
}

fn name(client: &Client) -> String {
    format!("store at {}", client.server())
}

impl fmt::Display for RemoteDb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&name(&self.inner.client))
    }
}

#[async_trait]
impl MetadataDb for RemoteDb {
    fn capabilities(&self) -> MetadataCapabilities {
        self.inner.capabilities
    }

    async fn get(&self, key: &Key) -> Result<Option<Record>> {
        self.inner.client.store_get(key).await.map_err(|error| self.failed(error, "get", key))
    }

    async fn put(&self, key: &Key, value: Bytes, precondition: Precondition) -> Result<CasOutcome> {
        let longest = self.inner.capabilities.max_value_bytes;
        if value.len() > longest {
            let message = format!("the value has {} bytes, and the store takes {longest}", value.len());
            return Err(Error::new(ErrorKind::Invalid, self, "put", key, message).without_effect());
        }
        self.inner
            .client
            .store_put(key, value, precondition)
            .await
            .map_err(|error| self.failed(error, "put", key))
    }

    async fn delete(&self, key: &Key, version: &Version) -> Result<CasOutcome> {
        self.inner.client.store_delete(key, version).await.map_err(|error| self.failed(error, "delete", key))
    }

    async fn scan(&self, prefix: &Key, after: Option<&Key>, limit: usize) -> Result<Page> {
        self.inner
            .client
            .store_scan(prefix, after, limit)
            .await
            .map_err(|error| self.failed(error, "scan", prefix))
    }

    async fn watch(&self, prefix: &Key) -> Result<BoxStream<'static, Hint>> {
        let lines = self
            .inner
            .client
            .store_watch(prefix)
            .await
            .map_err(|error| self.failed(error, "watch", prefix))?;
        let store = Arc::downgrade(&self.inner);
        let prefix = prefix.clone();
        Ok(stream::unfold(lines, move |mut lines| {
            let store = store.clone();
            let prefix = prefix.clone();
            async move {
                loop {
                    match lines.next().await {
                        Some(WatchLine::Changed(key)) => return Some((Hint::Changed(key), lines)),
                        Some(WatchLine::Reset) => return Some((Hint::Reset, lines)),
                        Some(WatchLine::Ready | WatchLine::Heartbeat) => {}
                        None => {
                            lines = watch_again(&store, &prefix).await?;
                            return Some((Hint::Reset, lines));
                        }
                    }
                }
            }
        })
        .boxed())
    }
}
