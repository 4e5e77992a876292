//! Hints to watchers.

use futures::StreamExt as _;
use futures::stream::{self, BoxStream};
use steadfast_core::metadata::{Hint, Key};
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;

/// The hints about what lies under `prefix`. A watcher that fell behind is told to read everything again.
pub(super) fn stream(hints: Receiver<Key>, prefix: Key) -> BoxStream<'static, Hint> {
    stream::unfold((hints, prefix), |(mut hints, prefix)| async move {
        loop {
            match hints.recv().await {
                Ok(key) if key.is_under(&prefix) => {
                    return Some((Hint::Changed(key), (hints, prefix)));
                }
                Ok(_) => {}
                Err(RecvError::Lagged(_)) => return Some((Hint::Reset, (hints, prefix))),
                Err(RecvError::Closed) => return None,
            }
        }
    })
    .boxed()
}
