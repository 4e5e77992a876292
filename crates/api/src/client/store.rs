//! The calls of agents and servers on the store.

use axum::http::Method;
use bytes::{Bytes, BytesMut};
use futures::StreamExt as _;
use futures::stream::BoxStream;
use steadfast_core::Effect;
use steadfast_core::metadata::{CasOutcome, Key, Page, Precondition, Record, Version};

use super::transport::Call;
use super::{Client, ClientError, ClientResult};
use crate::wire::{Blob, CapabilitiesAnswer, GetAnswer, PutBody, ScanAnswer, WatchLine};

impl Client {
    /// What the store can do.
    ///
    /// # Errors
    /// As every call: see [`ClientError`].
    pub async fn store_capabilities(&self) -> ClientResult<CapabilitiesAnswer> {
        self.transport.json(Call::new(Method::GET, self.transport.path("store")), self.timeout).await
    }

    /// The record of a key.
    ///
    /// # Errors
    /// As every call: see [`ClientError`].
    pub async fn store_get(&self, key: &Key) -> ClientResult<Option<Record>> {
        let call = self.record(Method::GET, key);
        let GetAnswer { record } = self.transport.json(call, self.timeout).await?;
        Ok(record.map(Record::from))
    }

    /// Writes a key if the precondition holds.
    ///
    /// # Errors
    /// As every call: see [`ClientError`]. [`Effect::Unknown`] if the answer was lost.
    pub async fn store_put(
        &self,
        key: &Key,
        value: Bytes,
        precondition: Precondition,
    ) -> ClientResult<CasOutcome> {
        let call = self.record(Method::PUT, key).json(&PutBody { value: Blob(value), precondition })?;
        self.transport.json(call, self.timeout).await
    }

    /// Deletes a key if it has this version.
    ///
    /// # Errors
    /// As every call: see [`ClientError`]. [`Effect::Unknown`] if the answer was lost.
    pub async fn store_delete(&self, key: &Key, version: &Version) -> ClientResult<CasOutcome> {
        let call = self.record(Method::DELETE, key).query("version", Some(version.as_str()));
        self.transport.json(call, self.timeout).await
    }

    /// A page of the keys under a prefix. `limit` beyond what the server gives at once is lowered to that.
    ///
    /// # Errors
    /// As every call: see [`ClientError`].
    pub async fn store_scan(&self, prefix: &Key, after: Option<&Key>, limit: usize) -> ClientResult<Page> {
        let call = Call::new(Method::GET, self.transport.path("store/scan"))
            .query("prefix", Some(prefix))
            .query("after", after)
            .query("limit", Some(limit.min(1000)));
        let ScanAnswer { items, more } = self.transport.json(call, self.timeout).await?;
        Ok(Page { items: items.into_iter().map(|item| (item.key, item.record.into())).collect(), more })
    }

    /// Hints about changes under a prefix, from the return of the call on. The stream ends when the connection
    /// does: who goes on must ask anew and read everything again.
    ///
    /// # Errors
    /// As every call: see [`ClientError`].
    pub async fn store_watch(&self, prefix: &Key) -> ClientResult<BoxStream<'static, WatchLine>> {
        let call = Call::new(Method::GET, self.transport.path("store/watch")).query("prefix", Some(prefix));
        let response = self.transport.stream(call, self.timeout).await?;
        let environment = self.transport.environment().clone();
        let silence = self.transport.silence;
        let chunks = response.into_body();
        let mut lines = futures::stream::unfold((chunks, BytesMut::new()), move |(mut chunks, mut rest)| {
            let environment = environment.clone();
            async move {
                loop {
                    if let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
                        let line = rest.split_to(end + 1);
                        let line = serde_json::from_slice::<WatchLine>(&line).ok()?;
                        return Some((line, (chunks, rest)));
                    }
                    let chunk = environment.timeout(silence, chunks.next()).await??.ok()?;
                    rest.extend_from_slice(&chunk);
                }
            }
        })
        .boxed();
        let environment = self.transport.environment();
        match environment.timeout(self.timeout, lines.next()).await.flatten() {
            Some(WatchLine::Ready) => Ok(lines),
            other => Err(ClientError::Answer {
                server: self.server().to_owned(),
                effect: Effect::None,
                message: format!("the watch begins with {other:?}"),
            }),
        }
    }

    /// A call on one key.
    fn record(&self, method: Method, key: &Key) -> Call {
        Call::new(method, self.transport.path("store/record")).query("key", Some(key))
    }
}
