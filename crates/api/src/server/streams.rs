//! Bodies that go on: they end when the server shuts down, so that it can.

use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt as _;
use futures::stream::{self, BoxStream};
use steadfast_core::Environment;

/// The same stream, ended when the server shuts down.
pub(crate) fn until_shutdown<T: Send + 'static>(
    inner: BoxStream<'static, T>,
    environment: &Environment,
) -> BoxStream<'static, T> {
    let shutdown = environment.tasks().shutdown();
    stream::unfold(inner, move |mut inner| {
        let shutdown = shutdown.clone();
        async move {
            tokio::select! {
                biased;
                () = shutdown.requested() => None,
                item = inner.next() => item.map(|item| (item, inner)),
            }
        }
    })
    .boxed()
}

/// A body of `first`, if there is one, and the chunks that follow, with `heartbeat` whenever it has been silent for `silence`.
pub(crate) fn with_heartbeats(
    first: Option<Bytes>,
    chunks: BoxStream<'static, Bytes>,
    heartbeat: &'static [u8],
    silence: Duration,
    environment: Environment,
) -> BoxStream<'static, std::io::Result<Bytes>> {
    let chunks = until_shutdown(chunks, &environment);
    let state = (first, chunks);
    stream::unfold(state, move |(first, mut chunks)| {
        let environment = environment.clone();
        async move {
            if let Some(first) = first {
                return Some((Ok(first), (None, chunks)));
            }
            let chunk = match environment.timeout(silence, chunks.next()).await {
                Some(chunk) => chunk?,
                None => Bytes::from_static(heartbeat),
            };
            Some((Ok(chunk), (None, chunks)))
        }
    })
    .boxed()
}
