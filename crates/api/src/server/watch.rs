//! The watch of a cluster: hints as server-sent events, with a short memory for those who come back.
//!
//! One subscription to the control plane feeds a ring of the last changes. Each has a number; a client that comes
//! back with the last one it saw gets what it missed, or a `reset` when that is forgotten or was another server's.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures::StreamExt as _;
use futures::stream::{self, BoxStream};
use steadfast_core::Environment;
use tokio::sync::Notify;

use super::access::CanRead;
use super::extract::{NoQuery, QueryOf};
use super::{Refusal, Shared};
use crate::control::{ControlApi, WatchEvent};
use crate::problem::Problem;

/// The pause before a subscription that failed is tried again.
const PAUSE: Duration = Duration::from_millis(500);

/// Hints about changes of services, members, operations and nodes, as server-sent events: `ready` first, then
/// `changed` with what to read again, or `reset` when everything is to be read again. List after `ready`.
#[utoipa::path(
    get, path = "/v1/clusters/{cluster}/watch", tag = "events", operation_id = "watch",
    params(
        ("cluster" = String, Path, description = "The cluster."),
        ("Last-Event-ID" = Option<String>, Header, description = "The id of the last event seen.")
    ),
    responses(
        (status = 200, body = WatchEvent, content_type = "text/event-stream"),
        (status = "default", body = Problem)
    )
)]
pub(crate) async fn watch(
    _caller: CanRead,
    State(shared): State<Shared>,
    _query: QueryOf<NoQuery>,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    let hub = Arc::clone(&shared.hub);
    let environment = &shared.parts.environment;
    hub.start(&shared.parts.control, environment);
    let seen = headers.get("last-event-id").and_then(|value| value.to_str().ok()).map(str::to_owned);
    let heartbeat = shared.parts.limits.heartbeat;
    // Let in at once: while changes cannot be hinted at there are heartbeats, and `ready` comes when they can.
    let events = events(hub, seen);
    let body = super::streams::with_heartbeats(None, events, b": \n\n", heartbeat, environment.clone());
    let headers = [(header::CONTENT_TYPE, "text/event-stream"), (header::CACHE_CONTROL, "no-store")];
    Ok((headers, Body::from_stream(body)).into_response())
}

/// The changes of late, and those who wait for more.
#[derive(Debug)]
pub(crate) struct Hub {
    /// Tells this server's numbers from another's, and from those before a restart.
    epoch: String,
    history: usize,
    ring: Mutex<Ring>,
    more: Notify,
    started: AtomicBool,
}

#[derive(Debug, Default)]
struct Ring {
    /// The number of the first event that is still here.
    first: u64,
    events: VecDeque<WatchEvent>,
    subscribed: bool,
}

impl Ring {
    fn next(&self) -> u64 {
        self.first + u64::try_from(self.events.len()).unwrap_or(u64::MAX)
    }

    /// The events from number `cursor` on, or none if they are forgotten or were never here.
    fn since(&self, cursor: u64) -> Option<impl Iterator<Item = &WatchEvent>> {
        if cursor > self.next() {
            return None;
        }
        let skip = usize::try_from(cursor.checked_sub(self.first)?).ok()?;
        Some(self.events.iter().skip(skip))
    }
}

impl Hub {
    pub(crate) fn new(environment: &Environment, history: usize) -> Self {
        Hub {
            epoch: environment.entropy().token(),
            history: history.max(1),
            ring: Mutex::default(),
            more: Notify::new(),
            started: AtomicBool::new(false),
        }
    }

    /// Subscribes to the control plane, once, when the first client comes.
    fn start(self: &Arc<Self>, control: &Arc<dyn ControlApi>, environment: &Environment) {
        if self.started.swap(true, Ordering::AcqRel) {
            return;
        }
        let feed = feed(Arc::clone(self), Arc::clone(control), environment.clone());
        environment.tasks().spawn("watch", feed);
    }

    /// Returns once every change from now on will be hinted at.
    async fn subscribed(&self) {
        loop {
            let notified = self.more.notified();
            tokio::pin!(notified);
            notified.as_mut().enable();
            if self.ring().subscribed {
                return;
            }
            notified.await;
        }
    }

    /// The first event for a client that has seen `seen`, and the number to go on with.
    fn enter(&self, seen: Option<&str>) -> (Bytes, u64) {
        let ring = self.ring();
        let next = ring.next();
        let Some(seen) = seen else { return (self.frame("ready", "{}", next), next) };
        let cursor = seen
            .strip_prefix(self.epoch.as_str())
            .and_then(|rest| rest.strip_prefix('-')?.parse::<u64>().ok())
            .filter(|cursor| ring.since(*cursor).is_some());
        match cursor {
            Some(cursor) => (self.frame("ready", "{}", cursor), cursor),
            None => (self.frame("reset", "{}", next), next),
        }
    }

    fn push(&self, event: WatchEvent) {
        let mut ring = self.ring();
        ring.events.push_back(event);
        while ring.events.len() > self.history {
            ring.events.pop_front();
            ring.first += 1;
        }
        drop(ring);
        self.more.notify_waiters();
    }

    fn set_subscribed(&self, subscribed: bool) {
        self.ring().subscribed = subscribed;
        self.more.notify_waiters();
    }

    /// What a client at `cursor` gets next, as soon as there is something.
    async fn next(&self, cursor: u64) -> (Bytes, u64) {
        loop {
            let notified = self.more.notified();
            tokio::pin!(notified);
            // Enabled before the look, so that a change in between is not missed.
            notified.as_mut().enable();
            if let Some(found) = self.frames(cursor) {
                return found;
            }
            notified.await;
        }
    }

    fn frames(&self, cursor: u64) -> Option<(Bytes, u64)> {
        let ring = self.ring();
        let Some(events) = ring.since(cursor) else {
            let next = ring.next();
            return Some((self.frame("reset", "{}", next), next));
        };
        let mut text = Vec::new();
        let mut next = cursor;
        for event in events {
            // The id of an event is where to go on after it.
            next += 1;
            let frame = match event {
                WatchEvent::Changed { .. } => {
                    let data = serde_json::to_string(event).unwrap_or_default();
                    self.frame("changed", &data, next)
                }
                WatchEvent::Reset => self.frame("reset", "{}", next),
            };
            text.extend_from_slice(&frame);
        }
        if next == cursor { None } else { Some((text.into(), next)) }
    }

    fn frame(&self, event: &str, data: &str, next: u64) -> Bytes {
        format!("id: {}-{next}\nevent: {event}\ndata: {data}\n\n", self.epoch).into()
    }

    fn ring(&self) -> MutexGuard<'_, Ring> {
        self.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How far a client is: not in yet, with what it has seen before; or in, with the number to go on with.
enum At {
    Door(Option<String>),
    Number(u64),
}

fn events(hub: Arc<Hub>, seen: Option<String>) -> BoxStream<'static, Bytes> {
    stream::unfold(At::Door(seen), move |at| {
        let hub = Arc::clone(&hub);
        async move {
            let (frames, next) = match at {
                At::Door(seen) => {
                    hub.subscribed().await;
                    hub.enter(seen.as_deref())
                }
                At::Number(cursor) => hub.next(cursor).await,
            };
            Some((frames, At::Number(next)))
        }
    })
    .boxed()
}

/// Feeds the ring for as long as the server runs; a subscription that ends is taken up again, with a reset for what
/// may have been missed.
async fn feed(hub: Arc<Hub>, control: Arc<dyn ControlApi>, environment: Environment) {
    let shutdown = environment.tasks().shutdown();
    let work = async {
        let mut first = true;
        loop {
            match control.watch().await {
                Ok(mut hints) => {
                    if !std::mem::take(&mut first) {
                        hub.push(WatchEvent::Reset);
                    }
                    hub.set_subscribed(true);
                    while let Some(hint) = hints.next().await {
                        hub.push(hint);
                    }
                    hub.set_subscribed(false);
                }
                Err(error) => {
                    tracing::warn!(%error, "the watch cannot be taken up; trying again");
                    environment.clock().sleep(PAUSE).await;
                }
            }
        }
    };
    tokio::select! {
        biased;
        () = shutdown.requested() => {}
        () = work => {}
    }
}
