//! Hints to watchers: etcd's own watch, taken up again where it broke.
//!
//! etcd keeps what has changed until it is compacted, so a watch that breaks goes on at the revision it had come to and
//! misses nothing. Only if that revision is compacted by then it goes on from now, with a [`Hint::Reset`].

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use etcd_client::{Client, WatchOptions, WatchResponse, WatchStream};
use futures::StreamExt as _;
use futures::stream::{self, BoxStream};
use steadfast_core::Result;
use steadfast_core::metadata::{Hint, Key};
use tokio::sync::broadcast::Receiver;
use tokio::sync::watch;

use crate::db::Keys;
use crate::endpoints::{Access, Endpoints};

/// The pauses between attempts to take a broken watch up again.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// What is watched.
#[derive(Debug, Clone)]
pub(crate) struct Range {
    keys: Keys,
    prefix: Key,
    first: String,
    end: String,
}

impl Range {
    pub(crate) fn new(keys: Keys, prefix: Key, (first, end): (String, String)) -> Self {
        Range { keys, prefix, first, end }
    }
}

/// One watch, over as many streams as it takes.
struct Watch {
    endpoints: Arc<Endpoints>,
    range: Range,
    stream: Option<WatchStream>,
    /// The revision to go on at; none: at whatever is now, since what was before is gone.
    next: Option<i64>,
    ready: VecDeque<Hint>,
    /// Who is asked. One that is cut off says nothing on a watch, for as long as a connection may be silent; requests
    /// notice sooner.
    asked: watch::Receiver<usize>,
}

/// The hints about what lies in `range`, until nobody sends on `closed` any more.
pub(crate) async fn stream(
    endpoints: Arc<Endpoints>,
    range: Range,
    closed: Receiver<Infallible>,
) -> Result<BoxStream<'static, Hint>> {
    let asked = endpoints.follow();
    let mut watch = Watch { endpoints, range, stream: None, next: None, ready: VecDeque::new(), asked };
    watch.open().await?;
    Ok(stream::unfold((watch, closed), |(mut watch, mut closed)| async move {
        let hint = tokio::select! {
            biased;
            _ = closed.recv() => None,
            hint = watch.hint() => Some(hint),
        };
        hint.map(|hint| (hint, (watch, closed)))
    })
    .boxed())
}

impl Watch {
    async fn hint(&mut self) -> Hint {
        loop {
            if let Some(hint) = self.ready.pop_front() {
                return hint;
            }
            match &mut self.stream {
                None => self.open_again().await,
                Some(stream) => {
                    let told = tokio::select! {
                        biased;
                        message = stream.message() => message,
                        Ok(()) = self.asked.changed() => {
                            self.stream = None;
                            continue;
                        }
                    };
                    match told {
                        Ok(Some(response)) => self.take(&response),
                        ended => {
                            let prefix = &self.range.prefix;
                            tracing::debug!(%prefix, ?ended, "a watch broke; it is taken up again");
                            self.stream = None;
                        }
                    }
                }
            }
        }
    }

    fn take(&mut self, response: &WatchResponse) {
        if response.canceled() {
            self.stream = None;
            if response.compact_revision() > 0 {
                tracing::debug!(prefix = %self.range.prefix, "what was missed is compacted: everything is read again");
                self.next = None;
            }
            return;
        }
        for event in response.events() {
            let Some(changed) = event.kv() else { continue };
            // Not the header's: there may be more up to that revision, in another response.
            self.next = Some(changed.mod_revision() + 1);
            if let Some(key) = self.range.keys.of(changed.key())
                && self.ready.back() != Some(&Hint::Changed(key.clone()))
            {
                self.ready.push_back(Hint::Changed(key));
            }
        }
        // A sign of progress: nothing is missing up to there.
        if let (true, Some(header)) = (response.events().is_empty(), response.header()) {
            self.next = self.next.max(Some(header.revision() + 1));
        }
    }

    /// Opens a stream at `next`. What is acknowledged after this returns comes by it.
    async fn open(&mut self) -> Result<()> {
        // Whoever is asked instead, from here on, is followed.
        self.asked.mark_unchanged();
        let Range { prefix, first, end, .. } = &self.range;
        let mut options = WatchOptions::new().with_range(end.as_str()).with_progress_notify();
        if let Some(next) = self.next {
            options = options.with_start_revision(next);
        }
        let ask = |mut client: Client| {
            let (first, options) = (first.clone(), options.clone());
            async move {
                let mut stream = client.watch(first, Some(options)).await?;
                match stream.message().await? {
                    Some(response) if response.compact_revision() > 0 => Ok((stream, response)),
                    Some(response) if response.canceled() => {
                        Err(etcd_client::Error::WatchError(response.cancel_reason().to_owned()))
                    }
                    Some(response) => Ok((stream, response)),
                    None => Err(etcd_client::Error::WatchError("the watch ended at once".to_owned())),
                }
            }
        };
        let (stream, response) = self.endpoints.call(Access::Read, "watch", prefix, ask).await?;
        self.stream = Some(stream);
        if self.next.is_some() {
            // The first response of a stream that begins in the past says nothing of what lies between.
            if response.canceled() {
                self.take(&response);
            }
        } else {
            self.next = response.header().map(|header| header.revision() + 1);
        }
        Ok(())
    }

    /// Opens a stream as soon as it can be. Where it cannot go on it tells so, after it watches again.
    async fn open_again(&mut self) {
        let whole = self.next.is_none();
        let mut pause = FIRST_PAUSE;
        while let Err(error) = self.open().await {
            tracing::debug!(prefix = %self.range.prefix, error = error.chain(), "the watch cannot be taken up yet");
            self.endpoints.environment().clock().sleep(pause).await;
            pause = pause.saturating_mul(2).min(LONGEST_PAUSE);
        }
        if whole {
            self.ready.push_back(Hint::Reset);
        }
    }
}
