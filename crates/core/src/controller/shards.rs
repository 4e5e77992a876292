//! Shares of the work: each server holds some shards by lease, and works on the services that fall in them.
//!
//! A lease counts for its holder from *before* the renewal was sent, and for everybody else from the last change
//! they *saw*; no wall clock is compared. Two servers may believe to hold one shard only if a clock runs wrong:
//! then both work, and every step still is a compare-and-swap.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tokio::sync::Notify;

use crate::error::Result;
use crate::ids::{Epoch, ServerId, ServiceName};
use crate::lease::Lease;
use crate::metadata::{Key, Record, Version, Versioned, WriteOutcome};
use crate::runtime::{Environment, Moment, Shutdown};
use crate::store::Store;

/// How many shards there are. Fixed by the store's format.
pub const SHARDS: u8 = 4;

/// A server that is there (`servers/ID`), so that shares can be even.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Presence {
    server: ServerId,
    beat: u64,
}

/// The shares of one server.
#[derive(Debug)]
pub struct Shards {
    env: Environment,
    store: Store,
    server: ServerId,
    ttl: Duration,
    state: Arc<Mutex<State>>,
    taken: Notify,
}

#[derive(Debug, Default)]
struct State {
    held: BTreeMap<u8, Held>,
    seen: BTreeMap<u8, (Lease, Moment)>,
    servers: BTreeMap<ServerId, (u64, Moment)>,
    beat: u64,
    /// The version of this server's presence, as last written.
    presence: Option<Version>,
}

#[derive(Debug, Clone, Copy)]
struct Held {
    epoch: Epoch,
    valid_until: Moment,
}

/// The right to work on a service, for as long as it is valid.
#[derive(Debug, Clone)]
pub struct Permit {
    env: Environment,
    state: Arc<Mutex<State>>,
    shard: u8,
    epoch: Epoch,
}

impl Permit {
    /// Whether the lease it rests on still runs.
    pub fn is_valid(&self) -> bool {
        let now = self.env.clock().monotonic();
        lock(&self.state)
            .held
            .get(&self.shard)
            .is_some_and(|held| held.epoch == self.epoch && now < held.valid_until)
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The shard a service falls in.
pub fn shard_of(service: &ServiceName) -> u8 {
    let digest = Sha256::digest(service.as_str().as_bytes());
    digest.first().copied().unwrap_or_default() % SHARDS
}

impl Shards {
    /// No shares yet.
    pub fn new(env: Environment, store: Store, server: ServerId, ttl: Duration) -> Self {
        Shards { env, store, server, ttl, state: Arc::default(), taken: Notify::new() }
    }

    /// How long a share is its holder's without renewal.
    pub fn ttl(&self) -> Duration {
        self.ttl
    }

    /// Waits until a share has become this server's that was not before: what its last holder was at is to be gone on
    /// with. Told once, however many shares there are, and kept for who asks late.
    pub async fn taken(&self) {
        self.taken.notified().await;
    }

    /// This server.
    pub fn server(&self) -> &ServerId {
        &self.server
    }

    /// The right to work on `service`, if its shard is held.
    pub fn permit(&self, service: &ServiceName) -> Option<Permit> {
        let shard = shard_of(service);
        let epoch = lock(&self.state).held.get(&shard)?.epoch;
        let permit = Permit { env: self.env.clone(), state: Arc::clone(&self.state), shard, epoch };
        permit.is_valid().then_some(permit)
    }

    /// The shards held now, with their epochs.
    pub fn held(&self) -> BTreeMap<u8, Epoch> {
        let now = self.env.clock().monotonic();
        let state = lock(&self.state);
        state
            .held
            .iter()
            .filter(|(_, held)| now < held.valid_until)
            .map(|(s, held)| (*s, held.epoch))
            .collect()
    }

    /// Renews and takes shares until told to stop, then gives them up in order.
    pub async fn run(&self, until: Shutdown) {
        while !until.is_requested() {
            if let Err(error) = self.round().await {
                tracing::warn!(error = %error.chain(), "shares could not be renewed; they lapse by themselves");
            }
            tokio::select! {
                biased;
                () = until.requested() => {}
                () = self.env.clock().sleep(self.ttl / 4) => {}
            }
        }
        if let Err(error) = self.give_up_all().await {
            tracing::debug!(error = %error.chain(), "shares were not given up; they lapse by themselves");
        }
    }

    /// One round: renew what is held, take what is free, give up what is more than an even share.
    ///
    /// # Errors
    /// What the store says.
    pub async fn round(&self) -> Result<()> {
        let fair = self.fair_share().await?;
        let records = self.store.records();
        let mut leases: BTreeMap<Key, Record> = BTreeMap::new();
        records
            .each(&records.key(["leases"])?, |key, found| {
                leases.insert(key, found);
                Ok(())
            })
            .await?;
        let now = self.env.clock().monotonic();
        for shard in 0..SHARDS {
            let key = records.key(["leases", &shard.to_string()])?;
            let found: Option<Versioned<Lease>> = match leases.remove(&key) {
                Some(Record { version, value }) => {
                    Some(Versioned { version, body: records.decode(&key, &value)? })
                }
                None => None,
            };
            let wanted = match &found {
                None => self.first(fair),
                Some(found) => self.next(shard, &found.body, fair, now),
            };
            let Some(lease) = wanted else { continue };
            let sent_at = self.env.clock().monotonic();
            let outcome = match &found {
                None => records.create(&key, &lease).await,
                Some(found) => records.update(&key, &lease, &found.version).await,
            };
            let mut state = lock(&self.state);
            match outcome {
                Ok(WriteOutcome::Applied(_)) if lease.holder.as_ref() == Some(&self.server) => {
                    let valid_until = sent_at.plus(self.ttl);
                    let before = state.held.insert(shard, Held { epoch: lease.epoch, valid_until });
                    if before.is_none_or(|before| before.epoch != lease.epoch) {
                        self.taken.notify_one();
                    }
                }
                Ok(WriteOutcome::Applied(_) | WriteOutcome::Conflict) => {
                    state.held.remove(&shard);
                }
                // Unknown: what is held runs on to its own end, and no further.
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn first(&self, fair: usize) -> Option<Lease> {
        (lock(&self.state).held.len() < fair).then(|| self.lease(Epoch(1), 1))
    }

    fn lease(&self, epoch: Epoch, beat: u64) -> Lease {
        let ttl_ms = u64::try_from(self.ttl.as_millis()).unwrap_or(u64::MAX);
        Lease { holder: Some(self.server.clone()), epoch, beat, ttl_ms }
    }

    /// What to write over a lease that was read; `None`: leave it.
    fn next(&self, shard: u8, found: &Lease, fair: usize, now: Moment) -> Option<Lease> {
        let mut state = lock(&self.state);
        let held = state.held.get(&shard).copied();
        let seen_at = match state.seen.get(&shard) {
            Some((seen, at)) if seen == found => *at,
            _ => {
                state.seen.insert(shard, (found.clone(), now));
                now
            }
        };
        let beat = found.beat.saturating_add(1);
        match &found.holder {
            Some(holder) if holder == &self.server => {
                let ours = held.is_some_and(|held| held.epoch == found.epoch);
                if ours && state.held.len() > fair {
                    return Some(Lease {
                        holder: None,
                        epoch: found.epoch.next(),
                        beat,
                        ttl_ms: found.ttl_ms,
                    });
                }
                // An earlier life of ours by the same name: taken like anybody's, with a new epoch.
                Some(self.lease(if ours { found.epoch } else { found.epoch.next() }, beat))
            }
            holder => {
                state.held.remove(&shard);
                let lapsed = now.since(seen_at) > Duration::from_millis(found.ttl_ms);
                let free = holder.is_none() || lapsed;
                (free && state.held.len() < fair).then(|| self.lease(found.epoch.next(), beat))
            }
        }
    }

    /// An even share of the shards among the servers that are there.
    async fn fair_share(&self) -> Result<usize> {
        self.show_presence().await?;
        let present: Vec<(_, Versioned<Presence>)> =
            self.store.records().list(&self.store.records().key(["servers"])?).await?;
        let now = self.env.clock().monotonic();
        let mut live = BTreeSet::from([self.server.clone()]);
        let mut gone = Vec::new();
        {
            let mut state = lock(&self.state);
            for (key, Versioned { version, body }) in present {
                let entry = state.servers.entry(body.server.clone()).or_insert((body.beat, now));
                if entry.0 != body.beat {
                    *entry = (body.beat, now);
                }
                let silent = now.since(entry.1);
                if silent <= self.ttl {
                    live.insert(body.server);
                } else if silent > self.ttl * 20 && body.server != self.server {
                    gone.push((key, version));
                }
            }
        }
        for (key, version) in gone {
            // A conflict means that it is there after all.
            let _outcome: WriteOutcome = self.store.records().delete(&key, &version).await?;
        }
        Ok(usize::from(SHARDS).div_ceil(live.len()))
    }

    /// Says that this server is there.
    async fn show_presence(&self) -> Result<()> {
        let records = self.store.records();
        let key = records.key(["servers", self.server.as_str()])?;
        let (beat, known) = {
            let mut state = lock(&self.state);
            state.beat += 1;
            (state.beat, state.presence.take())
        };
        let mine = Presence { server: self.server.clone(), beat };
        let mut written = match &known {
            Some(version) => records.update(&key, &mine, version).await?,
            None => WriteOutcome::Conflict,
        };
        if written == WriteOutcome::Conflict {
            // Not written yet, or cleared away by others during a long silence of ours.
            let found: Option<Versioned<Presence>> = records.get(&key).await?;
            written = match &found {
                None => records.create(&key, &mine).await?,
                Some(found) => records.update(&key, &mine, &found.version).await?,
            };
        }
        match written {
            WriteOutcome::Applied(version) => lock(&self.state).presence = Some(version),
            WriteOutcome::Conflict => {
                tracing::warn!(server = %self.server, "another process uses this server's id");
            }
        }
        Ok(())
    }

    async fn give_up_all(&self) -> Result<()> {
        let held = lock(&self.state).held.clone();
        lock(&self.state).held.clear();
        for (shard, held) in held {
            let key = self.store.records().key(["leases", &shard.to_string()])?;
            let found: Option<Versioned<Lease>> = self.store.records().get(&key).await?;
            if let Some(found) = found
                && found.body.holder.as_ref() == Some(&self.server)
                && found.body.epoch == held.epoch
            {
                let free = Lease { holder: None, epoch: held.epoch.next(), ..found.body };
                // Whoever wrote in between has it now, which is as good.
                let _outcome: WriteOutcome = self.store.records().update(&key, &free, &found.version).await?;
            }
        }
        Ok(())
    }
}
