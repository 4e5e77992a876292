//! The controller: keeps every service as it is wanted, together with any number of replicas of itself.
//!
//! Level-triggered: a hint only says *which* service to look at. A pass observes, plans ([`crate::plan`]) and
//! carries out; the plan of the next pass sees what came of it. Passes for one service never overlap within a
//! process; between processes, shares of the work are held by lease ([`shards`]), checked before every action,
//! and what a stale holder still does is refused by the compare-and-swap it rests on.

mod execute;
mod history;
mod leadership;
mod nodes;
mod observe;
mod orphans;
mod queue;
pub mod shards;
mod trouble;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::stream::{self, BoxStream};
use futures::{FutureExt, StreamExt, future};
use tokio::sync::Notify;

pub use execute::{Executor, Progress};
pub use history::KEPT as OPERATIONS_KEPT;
pub use nodes::{NodeTable, SeenNode, Whereabouts};
pub use observe::{Observer, Sight, Snapshot};
pub use orphans::GRACE as ORPHAN_GRACE;
pub use queue::{Failures, Queue};

use crate::backends::Backends;
use crate::error::Result;
use crate::ids::{ServerId, ServiceName};
use crate::metadata::Hint;
use crate::model::ServiceState;
use crate::plan::{Action, Timers, plan};
use crate::runtime::Environment;
use crate::store::Store;
use orphans::Orphans;
use shards::Shards;
use trouble::Failure;

/// How often the controller looks, and how much it does at once.
#[derive(Debug, Clone, Copy)]
pub struct ControllerConfig {
    /// How often the nodes are looked at, unless hints tell when there is something to see. One look is a few backend
    /// calls, however many services there are.
    pub sweep: Duration,
    /// How often every service is looked at, hint or no hint.
    pub resync: Duration,
    /// How many services are worked on at once.
    pub workers: usize,
    /// How long a server's share of the work is its own without renewal.
    pub lease: Duration,
    /// Timers of the plan.
    pub timers: Timers,
}

impl Default for ControllerConfig {
    fn default() -> Self {
        ControllerConfig {
            sweep: Duration::from_millis(250),
            resync: Duration::from_secs(30),
            workers: 8,
            lease: Duration::from_secs(4),
            timers: Timers::default(),
        }
    }
}

/// A replica of the controller. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Controller {
    env: Environment,
    store: Store,
    backends: Backends,
    observer: Arc<Observer>,
    shards: Arc<Shards>,
    queue: Arc<Queue>,
    orphans: Arc<Orphans>,
    /// Told when a node has said something.
    nodes_news: Arc<Notify>,
    config: ControllerConfig,
}

/// The most passes in a row for one service before others get their turn.
const PASSES: usize = 64;

impl Controller {
    /// A controller for one cluster.
    pub fn new(
        env: Environment,
        store: Store,
        backends: Backends,
        server: ServerId,
        config: ControllerConfig,
    ) -> Self {
        let observer = Arc::new(Observer::new(env.clone(), store.clone(), backends.clone(), config.timers));
        let orchestrator = Arc::clone(&backends.orchestrator);
        let shards = Shards::new(env.clone(), store.clone(), orchestrator, server, config.lease);
        let shards = Arc::new(shards);
        let (queue, orphans, nodes_news) = (Arc::default(), Arc::default(), Arc::default());
        Controller { env, store, backends, observer, shards, queue, orphans, nodes_news, config }
    }

    /// What this replica sees, for those who answer users.
    pub fn observer(&self) -> &Arc<Observer> {
        &self.observer
    }

    /// This replica's shares of the work.
    pub fn shards(&self) -> &Arc<Shards> {
        &self.shards
    }

    /// How many services wait for a pass.
    pub fn backlog(&self) -> usize {
        self.queue.len()
    }

    /// The services in this replica's share of the work, with their state at the last pass.
    pub fn states(&self) -> BTreeMap<ServiceName, ServiceState> {
        self.observer.states()
    }

    /// Asks for a pass over a service soon.
    pub fn wake(&self, service: &ServiceName) {
        self.queue.push(service.clone());
    }

    /// Starts working, until the environment's tasks are told to stop.
    pub fn start(&self) {
        let tasks = self.env.tasks().clone();
        let stop = || tasks.shutdown();
        let (me, until) = (self.clone(), stop());
        tasks.spawn("shards", async move { me.shards.run(until).await });
        let (me, until) = (self.clone(), stop());
        tasks.spawn("sweep", async move {
            while !until.is_requested() {
                me.sweep().await;
                // However many nodes speak at once, they are looked at once.
                me.pause(me.config.sweep / 5, &until).await;
                let quiet = me.quiet_for().saturating_sub(me.config.sweep / 5);
                tokio::select! {
                    biased;
                    () = me.nodes_news.notified() => {}
                    () = me.pause(quiet, &until) => {}
                }
            }
        });
        let (me, until) = (self.clone(), stop());
        tasks.spawn("resync", async move {
            while !until.is_requested() {
                me.resync().await;
                tokio::select! {
                    biased;
                    () = me.pause(me.config.resync, &until) => {}
                    () = me.shards.taken() => {}
                }
            }
        });
        let (me, until) = (self.clone(), stop());
        tasks.spawn("orphans", async move {
            while !until.is_requested() {
                if let Err(error) = me.tidy_operations().await {
                    tracing::warn!(error = %error.chain(), "operations could not be looked through");
                }
                me.pause(ORPHAN_GRACE, &until).await;
            }
        });
        let (me, until) = (self.clone(), stop());
        tasks.spawn("hints", async move {
            while !until.is_requested() {
                me.follow_hints(&until).await;
                me.pause(Duration::from_millis(500), &until).await;
            }
        });
        for _ in 0..self.config.workers {
            let (me, until) = (self.clone(), stop());
            tasks.spawn("worker", async move {
                loop {
                    tokio::select! {
                        biased;
                        () = until.requested() => return,
                        service = me.queue.next() => me.work(&service).await,
                    }
                }
            });
        }
    }

    /// How long nothing is to be seen of the nodes that hints do not tell.
    fn quiet_for(&self) -> Duration {
        let sweep = self.config.sweep;
        if !self.store.follows_nodes() || !self.backends.orchestrator.capabilities().health_by_lease {
            return sweep;
        }
        let settled = self.observer.nodes().settled_for(self.env.clock().monotonic());
        settled.clamp(sweep, self.config.resync.max(sweep))
    }

    async fn pause(&self, duration: Duration, until: &crate::runtime::Shutdown) {
        tokio::select! {
            biased;
            () = until.requested() => {}
            () = self.env.clock().sleep(duration) => {}
        }
    }

    /// Looks at the nodes, and at the services that a change there concerns.
    pub async fn sweep(&self) {
        match self.observer.refresh_nodes().await {
            Ok(concerned) => concerned.into_iter().for_each(|service| self.queue.push(service)),
            Err(error) => tracing::warn!(error = %error.chain(), "nodes could not be looked at"),
        }
    }

    /// Ends the operations that this process has seen without their service for [`ORPHAN_GRACE`]: `Cancelled` if they
    /// were never begun, `Superseded` if they were. Of those that have ended, a service's newest [`OPERATIONS_KEPT`]
    /// stay, and the one that made it.
    ///
    /// # Errors
    /// What the store says.
    pub async fn tidy_operations(&self) -> Result<()> {
        let operations = self.store.operations().await?;
        self.orphans.look(&self.env, &self.store, &self.shards, &operations).await?;
        history::forget(&self.store, &self.shards, &operations).await
    }

    async fn resync(&self) {
        self.store.doubt_all_nodes();
        match self.store.services().await {
            Ok(services) => {
                let there = services.into_iter().map(|service| service.body);
                let living: BTreeMap<_, _> = there
                    .filter(|service| !service.deleted || service.operation.is_some())
                    .map(|service| (service.name, service.id))
                    .collect();
                self.observer.keep_only(&living);
                living.into_keys().for_each(|service| self.queue.push(service));
            }
            Err(error) => tracing::warn!(error = %error.chain(), "services could not be listed"),
        }
    }

    async fn follow_hints(&self, until: &crate::runtime::Shutdown) {
        let mut hints = match self.watch().await {
            Ok(hints) => hints,
            Err(error) => {
                tracing::debug!(error = %error.chain(), "no hints; the resync goes on");
                return;
            }
        };
        self.store.follow_nodes();
        loop {
            let mut hint = tokio::select! {
                biased;
                () = until.requested() => None,
                hint = hints.next() => hint,
            };
            // However many say so at once, everything is read anew once.
            let mut reset = false;
            loop {
                match hint {
                    None => return self.store.unfollow_nodes(),
                    Some(Hint::Reset) => reset = true,
                    Some(changed @ Hint::Changed(_)) => self.take_hint(&changed),
                }
                match hints.next().now_or_never() {
                    Some(another) => hint = another,
                    None => break,
                }
            }
            if reset {
                self.store.follow_nodes();
                self.nodes_news.notify_one();
                self.resync().await;
            }
        }
    }

    /// Hints about what a controller goes by; what servers and operations write beside that is no news here.
    async fn watch(&self) -> Result<BoxStream<'static, Hint>> {
        let records = self.store.records();
        let mut streams = Vec::new();
        for kind in ["services", "members", "nodes"] {
            streams.push(records.db().watch(&records.key([kind])?).await?);
        }
        // One that has ended leaves changes untold.
        let ended = |hints: BoxStream<'static, Hint>| hints.map(Some).chain(stream::iter([None]));
        let all = stream::select_all(streams.into_iter().map(ended));
        Ok(all.take_while(|hint| future::ready(hint.is_some())).filter_map(future::ready).boxed())
    }

    fn take_hint(&self, hint: &Hint) {
        let Hint::Changed(key) = hint else { return };
        let mut parts = key.segments().skip(2);
        match (parts.next(), parts.next()) {
            (Some("services" | "members"), Some(name)) => {
                if let Ok(name) = name.parse() {
                    self.queue.push(name);
                }
            }
            (Some("nodes"), _) => {
                self.store.hint_of_node(hint);
                // The status may say that a member has changed: the sweep finds out which.
                self.nodes_news.notify_one();
            }
            _ => {}
        }
    }

    async fn work(&self, service: &ServiceName) {
        match self.pass(service).await {
            Ok(()) => {
                self.queue.succeeded(service);
                self.queue.over(service);
            }
            Err(failure) => {
                let error = &failure.error;
                tracing::warn!(%service, error = %error.chain(), "a pass failed; it is repeated");
                let failures = self.queue.failed(service, self.env.clock().monotonic());
                self.note_failure(service, &failure, failures).await;
                self.queue.over(service);
                self.requeue(service, Some(queue::delay(error, failures.count)));
            }
        }
    }

    /// Passes over one service until nothing more can be done now. Does nothing for another server's share.
    ///
    /// A pass plans on what was read and on what the passes before it wrote; once something turns out to have been
    /// changed by somebody else, everything is read anew.
    ///
    /// # Errors
    /// What a backend says: nothing is lost, the next pass plans anew.
    pub async fn reconcile(&self, service: &ServiceName) -> Result<()> {
        self.pass(service).await.map_err(|failure| failure.error)
    }

    async fn pass(&self, service: &ServiceName) -> Result<(), Failure> {
        let executor = Executor::new(&self.env, &self.store, &self.backends, self.shards.server());
        let mut previous: Vec<Action> = Vec::new();
        let mut carried: Option<Snapshot> = None;
        for _ in 0..PASSES {
            let Some(permit) = self.shards.permit(service) else {
                self.observer.forget_state(service);
                return Ok(());
            };
            let mut snapshot = match carried.take() {
                Some(snapshot) => snapshot,
                None => match self.observer.snapshot(service).await? {
                    Some(snapshot) => snapshot,
                    None => return Ok(()),
                },
            };
            let planned = plan(&snapshot.facts);
            self.observer.note_state(&snapshot.facts, &planned);
            let recheck = snapshot.recheck_after(&planned);
            let idle = changes(&planned.actions).next().is_none();
            if !idle && changes(&planned.actions).eq(changes(&previous)) {
                // The same again: what it waits for has not come yet, or somebody else is at it.
                executor.end_trouble(&mut snapshot).await?;
                self.requeue(service, Some(Duration::from_millis(500)));
                return Ok(());
            }
            let (mut stale, mut failed) = (false, None);
            for action in &planned.actions {
                if !permit.is_valid() {
                    return Ok(());
                }
                let executed = if leadership::needs(action) {
                    executor.execute(&mut snapshot, action).await
                } else {
                    self.beside(&permit, service, executor.execute(&mut snapshot, action)).await
                };
                if matches!(action, Action::Apply(_)) {
                    self.shards.note_answer(&executed);
                }
                match executed.map_err(|error| Failure::of(action, error)) {
                    Ok(Progress::Done) => {}
                    Ok(Progress::Stale) => {
                        stale = true;
                        break;
                    }
                    Err(failure) if matches!(action, Action::Provision { .. }) => {
                        failed.get_or_insert(failure);
                    }
                    Err(failure) => return Err(failure),
                }
            }
            if let Some(failure) = failed {
                return Err(failure);
            }
            if idle {
                executor.end_trouble(&mut snapshot).await?;
                self.requeue(service, recheck);
                return Ok(());
            }
            previous = planned.actions;
            carried = (!stale).then_some(snapshot);
        }
        self.requeue(service, Some(Duration::from_millis(100)));
        Ok(())
    }

    fn requeue(&self, service: &ServiceName, after: Option<Duration>) {
        let Some(after) = after else { return };
        let due = self.env.clock().monotonic().plus(after);
        if !self.queue.schedule(service, due) {
            return;
        }
        let (queue, env, service) = (Arc::clone(&self.queue), self.env.clone(), service.clone());
        self.env.tasks().spawn("recheck", async move {
            let until = env.tasks().shutdown();
            tokio::select! {
                biased;
                () = until.requested() => {}
                () = env.clock().sleep(after) => queue.is_due(&service, due),
            }
        });
    }
}

/// The actions that change something: telling the orchestrator the same again does not.
fn changes(actions: &[Action]) -> impl Iterator<Item = &Action> {
    actions.iter().filter(|action| !matches!(action, Action::Apply(_)))
}
