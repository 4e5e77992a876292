//! Shares of the work: each server holds some shards by lease, and works on the services that fall in them.
//!
//! A server's presence (`servers/ID`) renews every lease it holds: one write, however many shards there are. It counts
//! for the server from *before* it was sent, and for everybody else from the last change they *saw*; no wall clock is
//! compared. A renewal that is answered after the lease was over renews nothing: the lease is taken anew, under a new
//! epoch, if nobody else has taken it. Two servers may believe to hold one shard only if a clock runs wrong: then both
//! work, and every step still is a compare-and-swap.
//!
//! A server whose orchestrator has refused or ignored it for as long as a lease lasts says so with its presence, and gives
//! its shares up to those that can have something done: its orchestrator may be reached through its own machine alone.
//! If no server can, nobody's word helps, and each keeps its share.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tokio::sync::Notify;

use crate::error::{ErrorKind, Result};
use crate::ids::{Epoch, ServerId, ServiceName};
use crate::lease::Lease;
use crate::metadata::{Key, Version, Versioned, WriteOutcome};
use crate::orchestrator::Orchestrator;
use crate::runtime::{Environment, Moment, Shutdown};
use crate::store::Store;

/// How many shards there are. Fixed by the store's format.
pub const SHARDS: u8 = 4;

/// Leases that have been in order for so many rounds are looked at again when a server comes or goes, …
const SETTLED: u32 = 3;
/// … and with every so-manyth round.
const LOOK_AGAIN: u64 = 8;

/// A server that is there (`servers/ID`): renews its leases, and shares can be even.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Presence {
    server: ServerId,
    beat: u64,
    /// How long it counts, in milliseconds.
    #[serde(default)]
    ttl_ms: u64,
    /// Whether the orchestrator does nothing for it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    powerless: bool,
}

/// The servers that are there.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct Servers {
    /// All of them: what they hold is theirs.
    present: BTreeSet<ServerId>,
    /// Those that share the work.
    sharing: BTreeSet<ServerId>,
}

impl Servers {
    /// How many shards `server` shall have at most.
    fn fair(&self, server: &ServerId) -> usize {
        if self.sharing.contains(server) { usize::from(SHARDS).div_ceil(self.sharing.len()) } else { 0 }
    }
}

/// The shares of one server.
#[derive(Debug)]
pub struct Shards {
    env: Environment,
    store: Store,
    orchestrator: Arc<dyn Orchestrator>,
    server: ServerId,
    ttl: Duration,
    state: Arc<Mutex<State>>,
    taken: Notify,
}

#[derive(Debug, Default)]
struct State {
    held: BTreeMap<u8, Held>,
    /// The others' presence: the last change that was seen, and when.
    servers: BTreeMap<ServerId, (u64, Moment)>,
    /// The servers that were there at the last look at the leases.
    live: Servers,
    /// For how many looks in a row every lease has been a living server's, and nothing was to be changed.
    settled: u32,
    rounds: u64,
    beat: u64,
    /// The version of this server's presence, as last written.
    presence: Option<Version>,
    /// Until when that presence counts.
    present_until: Moment,
    /// Since when it could not be written, and what the store has said last.
    refused: Option<(Moment, String)>,
    /// Since when the orchestrator has done nothing for this server.
    failing: Option<Moment>,
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
    pub fn new(
        env: Environment,
        store: Store,
        orchestrator: Arc<dyn Orchestrator>,
        server: ServerId,
        ttl: Duration,
    ) -> Self {
        Shards { env, store, orchestrator, server, ttl, state: Arc::default(), taken: Notify::new() }
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

    /// What is the matter with the store, in words for people, if this server could not write its presence: nothing can
    /// be recorded then, so nothing is moved, and what was recorded last looks old.
    pub fn store_trouble(&self) -> Option<String> {
        let state = lock(&self.state);
        let (since, why) = state.refused.as_ref()?;
        let seconds = self.env.clock().monotonic().since(*since).as_secs();
        Some(format!("{} has written nothing for {seconds} s: {why}", self.server))
    }

    /// Takes in how the orchestrator has answered this server. What it refuses for a reason of the request's own says
    /// nothing of what it does with others.
    pub fn note_answer<T>(&self, answer: &Result<T>) {
        let now = self.env.clock().monotonic();
        let mut state = lock(&self.state);
        state.failing = match answer {
            Err(error) if error.kind() == ErrorKind::Unavailable => Some(state.failing.unwrap_or(now)),
            Ok(_) | Err(_) => None,
        };
    }

    /// Whether the orchestrator has done nothing for this server for as long as a lease lasts. Asked again, since a
    /// server without shares has nothing done.
    async fn is_powerless(&self) -> bool {
        let begun = self.env.clock().monotonic();
        let lasting = |state: &State| state.failing.is_some_and(|since| begun.since(since) >= self.ttl);
        if !lasting(&lock(&self.state)) {
            return false;
        }
        // The lease goes on meanwhile.
        let answer = self.env.timeout(self.ttl / 4, self.orchestrator.services()).await;
        if let Some(answer) = answer {
            self.note_answer(&answer);
        }
        lasting(&lock(&self.state))
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
        let powerless = self.is_powerless().await;
        let shown = self.show_presence(powerless).await;
        self.note_shown(&shown);
        shown?;
        let live = self.live_servers(powerless).await?;
        let Some(settled) = self.begin_look(&live) else { return Ok(()) };
        let fair = live.fair(&self.server);
        let records = self.store.records();
        let mut leases: BTreeMap<Key, Versioned<Lease>> =
            records.list(&records.key(["leases"])?).await?.into_iter().collect();
        let mut in_order = true;
        for shard in 0..SHARDS {
            let key = records.key(["leases", &shard.to_string()])?;
            let found = leases.remove(&key);
            let (wanted, free) = match &found {
                None => (self.first(fair), true),
                Some(found) => self.next(shard, &found.body, fair, &live),
            };
            in_order &= wanted.is_none() && !free;
            if let Some(lease) = wanted {
                self.change(shard, &key, found.as_ref(), &lease).await?;
            }
        }
        let mut state = lock(&self.state);
        state.settled = if in_order && state.live == live { settled.saturating_add(1) } else { 0 };
        state.live = live;
        Ok(())
    }

    fn note_shown(&self, shown: &Result<()>) {
        let now = self.env.clock().monotonic();
        let mut state = lock(&self.state);
        let since = state.refused.as_ref().map_or(now, |(since, _)| *since);
        state.refused = shown.as_ref().err().map(|error| (since, error.chain()));
    }

    /// For how many looks the leases have been in order, if it is time for another; none: not in this round.
    fn begin_look(&self, live: &Servers) -> Option<u32> {
        let mut state = lock(&self.state);
        state.rounds += 1;
        let due = state.settled < SETTLED || state.live != *live || state.rounds.is_multiple_of(LOOK_AGAIN);
        // A look that fails half-way is followed by another.
        due.then(|| std::mem::take(&mut state.settled))
    }

    async fn change(
        &self,
        shard: u8,
        key: &Key,
        found: Option<&Versioned<Lease>>,
        lease: &Lease,
    ) -> Result<()> {
        let records = self.store.records();
        let sent_at = self.env.clock().monotonic();
        let outcome = match found {
            None => records.create(key, lease).await,
            Some(found) => records.update(key, lease, &found.version).await,
        };
        let mut state = lock(&self.state);
        match outcome {
            Ok(WriteOutcome::Applied(_)) if lease.holder.as_ref() == Some(&self.server) => {
                // Others count from our last presence, which is older than this.
                let valid_until = state.present_until.min(sent_at.plus(self.ttl));
                state.held.insert(shard, Held { epoch: lease.epoch, valid_until });
                self.taken.notify_one();
            }
            Ok(WriteOutcome::Applied(_) | WriteOutcome::Conflict) => {
                state.held.remove(&shard);
            }
            // Unknown: what is held runs on to its own end, and no further.
            Err(error) => return Err(error),
        }
        Ok(())
    }

    fn first(&self, fair: usize) -> Option<Lease> {
        (lock(&self.state).held.len() < fair).then(|| self.lease(Epoch(1), 1))
    }

    fn lease(&self, epoch: Epoch, beat: u64) -> Lease {
        Lease { holder: Some(self.server.clone()), epoch, beat, ttl_ms: self.ttl_ms() }
    }

    fn ttl_ms(&self) -> u64 {
        u64::try_from(self.ttl.as_millis()).unwrap_or(u64::MAX)
    }

    /// What to write over a lease that was read (none: leave it), and whether it is nobody's.
    fn next(&self, shard: u8, found: &Lease, fair: usize, live: &Servers) -> (Option<Lease>, bool) {
        let mut state = lock(&self.state);
        let ours = state.held.get(&shard).is_some_and(|held| held.epoch == found.epoch);
        let beat = found.beat.saturating_add(1);
        match &found.holder {
            Some(holder) if holder == &self.server && ours => {
                let free = Lease { holder: None, epoch: found.epoch.next(), beat, ttl_ms: found.ttl_ms };
                ((state.held.len() > fair).then_some(free), false)
            }
            // An earlier life of ours by the same name, or we were silent for too long: taken like anybody's.
            Some(holder) if holder == &self.server && fair > 0 => {
                (Some(self.lease(found.epoch.next(), beat)), true)
            }
            Some(holder) if holder == &self.server => {
                let free = Lease { holder: None, epoch: found.epoch.next(), beat, ttl_ms: found.ttl_ms };
                (Some(free), true)
            }
            holder => {
                state.held.remove(&shard);
                let free = holder.as_ref().is_none_or(|holder| !live.present.contains(holder));
                let wanted = free && state.held.len() < fair;
                (wanted.then(|| self.lease(found.epoch.next(), beat)), free)
            }
        }
    }

    /// The servers that are there.
    async fn live_servers(&self, powerless: bool) -> Result<Servers> {
        let present: Vec<(_, Versioned<Presence>)> =
            self.store.records().list(&self.store.records().key(["servers"])?).await?;
        let now = self.env.clock().monotonic();
        let mut live = Servers { present: BTreeSet::from([self.server.clone()]), ..Servers::default() };
        if !powerless {
            live.sharing.insert(self.server.clone());
        }
        let mut gone = Vec::new();
        {
            let mut state = lock(&self.state);
            for (key, Versioned { version, body }) in present {
                let entry = state.servers.entry(body.server.clone()).or_insert((body.beat, now));
                if entry.0 != body.beat {
                    *entry = (body.beat, now);
                }
                let silent = now.since(entry.1);
                if silent <= self.ttl.max(Duration::from_millis(body.ttl_ms)) {
                    // What this server says of itself is known here first.
                    if !body.powerless && body.server != self.server {
                        live.sharing.insert(body.server.clone());
                    }
                    live.present.insert(body.server);
                } else if silent > self.ttl * 20 && body.server != self.server {
                    gone.push((key, version));
                }
            }
        }
        for (key, version) in gone {
            // A conflict means that it is there after all.
            let _outcome: WriteOutcome = self.store.records().delete(&key, &version).await?;
        }
        if live.sharing.is_empty() {
            live.sharing.clone_from(&live.present);
        }
        Ok(live)
    }

    /// Says that this server is there, which renews what it holds.
    async fn show_presence(&self, powerless: bool) -> Result<()> {
        let records = self.store.records();
        let key = records.key(["servers", self.server.as_str()])?;
        let (beat, known) = {
            let mut state = lock(&self.state);
            state.beat += 1;
            (state.beat, state.presence.take())
        };
        let mine = Presence { server: self.server.clone(), beat, ttl_ms: self.ttl_ms(), powerless };
        let sent_at = self.env.clock().monotonic();
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
            WriteOutcome::Applied(version) => self.present(version, sent_at),
            WriteOutcome::Conflict => {
                tracing::warn!(server = %self.server, "another process uses this server's id");
            }
        }
        Ok(())
    }

    /// The presence that was sent then is written.
    fn present(&self, version: Version, sent_at: Moment) {
        let now = self.env.clock().monotonic();
        let mut state = lock(&self.state);
        state.presence = Some(version);
        state.present_until = sent_at.plus(self.ttl);
        let (until, held) = (state.present_until, state.held.len());
        // Before the end, nobody can have taken what is held.
        state.held.retain(|_, held| now < held.valid_until);
        for held in state.held.values_mut() {
            held.valid_until = until;
        }
        if state.held.len() < held {
            state.settled = 0;
        }
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
        let presence = lock(&self.state).presence.take();
        if let Some(version) = presence {
            // Others share the work among themselves at once.
            let key = self.store.records().key(["servers", self.server.as_str()])?;
            let _outcome: WriteOutcome = self.store.records().delete(&key, &version).await?;
        }
        Ok(())
    }
}
