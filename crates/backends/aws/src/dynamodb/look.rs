//! Hints to watchers: what this handle writes at once, and what others write by looking again and again.
//!
//! Why not DynamoDB Streams: a shard may be read by two at a time, and each server and tool would be one more; its
//! records come by asking for them, too. So one look for all watches of a handle reads which keys there are, in which
//! version, and compares: a change is not missed by coming late, since a version never comes again.
//!
//! A look costs by the size of the store, so it is made the less often the larger the store is: [`BUDGET`].

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex as SyncMutex, PoisonError};
use std::time::Duration;

use aws_sdk_dynamodb::types::{AttributeValue, ReturnConsumedCapacity};
use futures::StreamExt as _;
use futures::stream::{self, BoxStream};
use steadfast_core::metadata::{CasOutcome, Hint, Key};
use steadfast_core::{Effect, Result};
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{Mutex, broadcast};

use super::requests::{KEY, Requests, STORE, VERSION, text};

/// The pause between two looks at a store of up to some 300 KiB.
const PAUSE: Duration = Duration::from_secs(2);
/// How many read units looks may take in a second, on average: a unit is 8 KiB here, since a look need not see the last
/// write.
const BUDGET: f64 = 20.0;
/// How many hints may wait for a watcher. One that is further behind reads everything again.
const WAITING: usize = 1_024;

/// The versions of all keys, as one look has found them.
type Seen = BTreeMap<Key, String>;

/// Looks for all watches of one handle.
pub(crate) struct Looks {
    shared: Arc<Shared>,
    /// Which sends nothing, and is closed when the handle is gone.
    alive: broadcast::WeakSender<Infallible>,
}

struct Shared {
    requests: Arc<Requests>,
    partition: String,
    hints: broadcast::Sender<Hint>,
    /// Whether somebody looks.
    looking: Mutex<bool>,
    /// What this handle has told of since the last look: the version that it wrote, or that it deleted the key.
    told: SyncMutex<BTreeMap<Key, Option<String>>>,
}

/// What a write of this handle does to its key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Change {
    Put,
    Delete,
}

impl Looks {
    pub(crate) fn new(
        requests: Arc<Requests>,
        partition: String,
        alive: &broadcast::Sender<Infallible>,
    ) -> Self {
        let (hints, _) = broadcast::channel(WAITING);
        let (looking, told) = (Mutex::new(false), SyncMutex::default());
        Looks {
            shared: Arc::new(Shared { requests, partition, hints, looking, told }),
            alive: alive.downgrade(),
        }
    }

    /// Tells watchers of a write that this handle has made, or may have made.
    pub(crate) fn tell(&self, key: &Key, change: Change, outcome: &Result<CasOutcome>) {
        let Shared { hints, told, .. } = &*self.shared;
        if hints.receiver_count() == 0 {
            return;
        }
        match outcome {
            Ok(CasOutcome::Conflict) => return,
            Ok(CasOutcome::Applied(version)) => {
                let mut told = told.lock().unwrap_or_else(PoisonError::into_inner);
                told.insert(key.clone(), (change == Change::Put).then(|| version.as_str().to_owned()));
            }
            Err(error) if error.effect() == Effect::None => return,
            Err(_) => {}
        }
        // Nobody watches any more.
        hints.send(Hint::Changed(key.clone())).ok();
    }

    /// Hints about what lies under `prefix`.
    pub(crate) async fn watch(&self, prefix: &Key) -> Result<BoxStream<'static, Hint>> {
        let closed = self.alive.upgrade().map(|alive| alive.subscribe());
        let Some(closed) = closed else { return Ok(stream::empty().boxed()) };
        let mut looking = self.shared.looking.lock().await;
        let hints = self.shared.hints.subscribe();
        if !*looking {
            // What is acknowledged from now on differs from this.
            let (seen, units) = self.shared.look().await?;
            *looking = true;
            let (shared, closed) = (Arc::clone(&self.shared), closed.resubscribe());
            let tasks = self.shared.requests.environment().tasks();
            tasks.spawn("dynamodb-watch", keep_looking(shared, seen, units, closed));
        }
        drop(looking);
        Ok(under(prefix.clone(), hints, closed))
    }
}

/// The hints about `prefix`, until nobody sends on `closed` any more.
fn under(
    prefix: Key,
    hints: broadcast::Receiver<Hint>,
    closed: broadcast::Receiver<Infallible>,
) -> BoxStream<'static, Hint> {
    stream::unfold((prefix, hints, closed), |(prefix, mut hints, mut closed)| async move {
        loop {
            let hint = tokio::select! {
                biased;
                _ = closed.recv() => return None,
                hint = hints.recv() => hint,
            };
            let hint = match hint {
                Ok(Hint::Changed(key)) if !key.is_under(&prefix) => continue,
                Ok(hint) => hint,
                Err(RecvError::Lagged(_)) => Hint::Reset,
                Err(RecvError::Closed) => return None,
            };
            return Some((hint, (prefix, hints, closed)));
        }
    })
    .boxed()
}

/// Looks for as long as somebody watches.
async fn keep_looking(
    shared: Arc<Shared>,
    mut seen: Seen,
    mut units: f64,
    mut closed: broadcast::Receiver<Infallible>,
) {
    let environment = shared.requests.environment().clone();
    let until = environment.tasks().shutdown();
    loop {
        let pause = Duration::from_secs_f64(units / BUDGET).max(PAUSE);
        tokio::select! {
            biased;
            _ = closed.recv() => return,
            () = until.requested() => return,
            () = environment.clock().sleep(pause) => {}
        }
        {
            let mut looking = shared.looking.lock().await;
            if shared.hints.receiver_count() == 0 {
                *looking = false;
                return;
            }
        }
        let look = tokio::select! {
            biased;
            _ = closed.recv() => return,
            look = shared.look() => look,
        };
        match look {
            Ok((now, cost)) => {
                shared.compare(&seen, &now);
                (seen, units) = (now, cost);
            }
            // What was missed differs from what was seen at the next look, too.
            Err(error) => tracing::debug!(error = error.chain(), "changes by others cannot be seen yet"),
        }
    }
}

impl Shared {
    /// The version of every key, and how many units it has cost to read them.
    async fn look(&self) -> Result<(Seen, f64)> {
        // What is written while this look is under way, it may see or not: the next one does.
        let (mut seen, mut units, mut start) = (Seen::new(), 0.0, None);
        loop {
            let request = self
                .requests
                .client()
                .query()
                .table_name(self.requests.location().table())
                .key_condition_expression("#store = :store")
                .projection_expression("#key, #version")
                .expression_attribute_names("#store", STORE)
                .expression_attribute_names("#key", KEY)
                .expression_attribute_names("#version", VERSION)
                .expression_attribute_values(":store", text(&self.partition))
                .return_consumed_capacity(ReturnConsumedCapacity::Total)
                .set_exclusive_start_key(start);
            let answer = self.requests.read("watch", &"the store", request.send()).await?;
            units += answer.consumed_capacity.and_then(|cost| cost.capacity_units).unwrap_or_default();
            for mut item in answer.items.unwrap_or_default() {
                // What is no record of ours is told by who reads it.
                if let (Some(AttributeValue::S(key)), Some(AttributeValue::S(version))) =
                    (item.remove(KEY), item.remove(VERSION))
                    && let Ok(key) = key.parse()
                {
                    seen.insert(key, version);
                }
            }
            start = answer.last_evaluated_key.filter(|start| !start.is_empty());
            if start.is_none() {
                return Ok((seen, units));
            }
        }
    }

    /// Tells watchers of what has changed from one look to the next, unless they know already.
    fn compare(&self, before: &Seen, now: &Seen) {
        let told = std::mem::take(&mut *self.told.lock().unwrap_or_else(PoisonError::into_inner));
        for key in differing(before, now) {
            // Exactly this was told of already; what came after it was not.
            if told.get(key).is_some_and(|left| left.as_ref() == now.get(key)) {
                continue;
            }
            // Nobody watches any more.
            self.hints.send(Hint::Changed(key.clone())).ok();
        }
    }
}

/// Every key that has another version in one than in the other, or is in one of them only.
fn differing<'a>(before: &'a Seen, now: &'a Seen) -> impl Iterator<Item = &'a Key> {
    let new = now.iter().filter(|(key, version)| before.get(*key) != Some(version));
    let gone = before.iter().filter(|(key, _)| !now.contains_key(*key));
    new.chain(gone).map(|(key, _)| key)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_differs_if_it_is_new_or_gone_or_has_another_version() {
        let seen = |keys: &[(&str, &str)]| -> Seen {
            keys.iter().map(|(key, version)| (key.parse().unwrap(), (*version).to_owned())).collect()
        };
        let before = seen(&[("gone", "1"), ("same", "2"), ("written", "3")]);
        let now = seen(&[("new", "4"), ("same", "2"), ("written", "5")]);
        let found: Vec<&str> = differing(&before, &now).map(Key::as_str).collect();
        assert_eq!(found, ["new", "written", "gone"]);
        assert_eq!(differing(&now, &now).count(), 0);
    }
}
