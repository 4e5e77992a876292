//! The agent: one per node. It runs a task for each member that this node has to do with, and keeps the node's
//! lease.
//!
//! Agents come and go: what runs is the guards', and the next agent finds it again. An agent that cannot reach the
//! store stops nothing.

mod lease;
mod watch;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use steadfast_core::backends::Backends;
use steadfast_core::error::{Error, ErrorKind, Result};
use steadfast_core::ids::{Incarnation, MemberName, ServiceName};
use steadfast_core::metadata::WriteOutcome;
use steadfast_core::model::{MemberStatus, NodeRecord};
use steadfast_core::orchestrator::Assignment;
use steadfast_core::runtime::{Environment, Moment, Shutdown};
use steadfast_core::store::Store;
use steadfast_core::workflow::claim::Claimant;
use tokio::sync::Notify;

use crate::config::{AgentConfig, AgentTimers};
use crate::guards::Guards;
use crate::host::NodeHost;
use crate::member::MemberTask;
use crate::node_dir::NodeDir;
use crate::seams::{EngineSource, SecretSource};
use crate::sync::lock;

/// What an agent works with.
#[derive(Debug, Clone)]
pub struct AgentParts {
    /// How it behaves.
    pub config: AgentConfig,
    /// The node's files.
    pub dir: NodeDir,
    /// The node's present life ([`NodeHold::incarnation`](crate::node_dir::NodeHold::incarnation)).
    pub incarnation: Incarnation,
    /// Time, randomness and tasks.
    pub env: Environment,
    /// The records.
    pub store: Store,
    /// The cluster's backends.
    pub backends: Backends,
    /// The engines.
    pub engines: Arc<dyn EngineSource>,
    /// The secrets.
    pub secrets: Arc<dyn SecretSource>,
    /// The guards.
    pub guards: Arc<dyn Guards>,
    /// The node.
    pub host: Arc<dyn NodeHost>,
}

/// What an agent's tasks share.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) parts: AgentParts,
    pub(crate) claimant: Claimant,
    shutdown: Shutdown,
    /// What each member's task says. Never held across a wait.
    statuses: Mutex<BTreeMap<MemberName, Said>>,
    /// When the lease was last renewed: the time before it was asked for.
    renewed: Mutex<Option<Moment>>,
    /// Told when a status has changed in a way that matters, or the node's own record.
    news: Notify,
    /// Whether the node's own record may have changed since it was last read: operators write there.
    record_news: AtomicBool,
    /// The tasks, by member.
    tasks: Mutex<BTreeMap<MemberName, Arc<Inbox>>>,
    /// Told when a task has ended.
    ended: Notify,
    /// Whether this life of the node is over, whatever runs.
    over: AtomicBool,
    /// Told when it is.
    over_news: Notify,
}

/// What a member's task says.
#[derive(Debug)]
struct Said {
    status: MemberStatus,
    /// When it last began to look at the engine; none: it has not.
    seen: Option<Moment>,
}

impl Said {
    /// Whether it is still worth telling: that an engine serves is not, once it was not looked at for half a lease, or
    /// three looks where those are longer. Its task may be waiting for a store or a disk that does not answer.
    fn holds(&self, now: Moment, timers: &AgentTimers) -> bool {
        let worth = (timers.lease / 2).max(timers.look * 3);
        !self.status.ready || self.seen.is_some_and(|seen| now.since(seen) < worth)
    }
}

/// What a member's task is told.
#[derive(Debug)]
pub(crate) struct Inbox {
    pub(crate) service: ServiceName,
    told: Mutex<Told>,
    pub(crate) wake: Notify,
    /// Whether the member's guard may have a lease, which is to be extended.
    pub(crate) leased: AtomicBool,
}

#[derive(Debug, Clone, Default)]
pub(crate) struct Told {
    /// What shall run; none: nothing. Meaningless until `known`.
    pub(crate) assignment: Option<Arc<Assignment>>,
    /// Whether the assignments could be read since the agent started.
    pub(crate) known: bool,
    /// Whether the records may have changed.
    pub(crate) stale: bool,
}

impl Inbox {
    fn new(service: ServiceName) -> Self {
        Inbox { service, told: Mutex::default(), wake: Notify::new(), leased: AtomicBool::new(true) }
    }

    /// What is told now; the news of changed records is taken.
    pub(crate) fn take(&self) -> Told {
        let mut told = lock(&self.told);
        let taken = told.clone();
        told.stale = false;
        taken
    }

    fn tell(&self, change: impl FnOnce(&mut Told)) {
        change(&mut lock(&self.told));
        self.wake.notify_one();
    }
}

/// Runs the agent until `shutdown`. The engines go on.
///
/// The caller holds the node ([`NodeDir::hold`]) for as long as this runs.
///
/// # Errors
/// `Stale` if an operator has confirmed this life of the node dead: its engines have been killed then, and only a
/// new life may go on.
pub async fn run(parts: AgentParts, shutdown: Shutdown) -> Result<()> {
    let claimant = Claimant {
        env: parts.env.clone(),
        store: parts.store.clone(),
        volumes: Arc::clone(&parts.backends.volumes),
        ips: Arc::clone(&parts.backends.ips),
        registry: Arc::clone(&parts.backends.registry),
        orchestrator: Arc::clone(&parts.backends.orchestrator),
        zone: parts.backends.zone.clone(),
        node: parts.config.node.clone(),
        incarnation: parts.incarnation.clone(),
    };
    let node = Arc::new(Node {
        parts,
        claimant,
        shutdown: shutdown.clone(),
        statuses: Mutex::default(),
        renewed: Mutex::default(),
        news: Notify::new(),
        record_news: AtomicBool::new(true),
        tasks: Mutex::default(),
        ended: Notify::new(),
        over: AtomicBool::new(false),
        over_news: Notify::new(),
    });
    tokio::select! {
        biased;
        () = shutdown.requested() => {}
        result = node.serve() => result?,
    }
    node.all_ended().await;
    Ok(())
}

impl Node {
    async fn serve(self: &Arc<Self>) -> Result<()> {
        for (member, service) in self.parts.guards.list().await? {
            self.task(&member, &service);
        }
        self.register().await?;
        tokio::try_join!(self.keep_lease(), self.watch_assignments()).map(drop)
    }

    /// Writes the node's own record, as soon as the store can be reached.
    async fn register(&self) -> Result<()> {
        loop {
            match self.try_register().await {
                Ok(true) => return Ok(()),
                Ok(false) => {}
                Err(error) if error.kind() == ErrorKind::Stale => return Err(error),
                Err(error) => {
                    tracing::warn!(error = %error.chain(), "the node cannot be registered; trying again");
                    self.parts.env.clock().sleep(Duration::from_millis(500)).await;
                }
            }
        }
    }

    /// `false`: somebody else wrote the record at the same time.
    async fn try_register(&self) -> Result<bool> {
        let AgentParts { config, store, incarnation, env, .. } = &self.parts;
        let key = store.node_record_key(&config.node)?;
        let before = store.node_record(&config.node).await?;
        let old = before.as_ref().map(|record| &record.body);
        let confirmed_dead = old.and_then(|record| record.confirmed_dead.clone());
        if confirmed_dead.as_ref() == Some(incarnation) {
            return Err(self.confirmed_dead().await);
        }
        let registered_at = match old {
            Some(record) if &record.incarnation == incarnation => record.registered_at,
            _ => env.clock().wall(),
        };
        let record = NodeRecord {
            node: config.node.clone(),
            zone: config.zone.clone(),
            incarnation: incarnation.clone(),
            labels: config.labels.clone(),
            engines: config.engines.clone(),
            registered_at,
            confirmed_dead,
            draining: old.is_some_and(|record| record.draining),
        };
        let written = match &before {
            Some(before) => store.write(&key, before, &record).await?,
            None => store.records().create(&key, &record).await?,
        };
        Ok(written != WriteOutcome::Conflict)
    }

    /// An operator has said that this life is over, and others act on that: it must be.
    pub(crate) async fn confirmed_dead(&self) -> Error {
        self.over.store(true, Ordering::Release);
        self.over_news.notify_waiters();
        self.all_ended().await;
        let guards = &self.parts.guards;
        for (member, _) in guards.list().await.unwrap_or_default() {
            if let Err(error) = guards.kill(&member).await {
                tracing::error!(%member, error = %error.chain(), "an engine of a life that is confirmed dead lives on");
            }
        }
        let node = &self.parts.config.node;
        let message = "an operator has confirmed this life of the node dead; start the agent anew";
        Error::new(ErrorKind::Stale, "agent", "run", node, message)
    }

    /// Returns when the tasks have to end: the agent stops, or the node's life is over.
    pub(crate) async fn tasks_must_end(&self) {
        let over = self.over_news.notified();
        tokio::pin!(over);
        // Counted among those to be told before the flag is read, so that nothing is missed.
        over.as_mut().enable();
        if self.over.load(Ordering::Acquire) {
            return;
        }
        tokio::select! {
            biased;
            () = self.shutdown.requested() => {}
            () = over => {}
        }
    }

    /// The inbox of a member's task, which is started if there is none.
    pub(crate) fn task(self: &Arc<Self>, member: &MemberName, service: &ServiceName) -> Arc<Inbox> {
        let mut tasks = lock(&self.tasks);
        if let Some(inbox) = tasks.get(member) {
            return Arc::clone(inbox);
        }
        let inbox = Arc::new(Inbox::new(service.clone()));
        tasks.insert(member.clone(), Arc::clone(&inbox));
        let (node, name, own) = (Arc::clone(self), member.clone(), Arc::clone(&inbox));
        self.parts.env.tasks().spawn("member", async move {
            MemberTask::new(Arc::clone(&node), name.clone(), own).run().await;
            lock(&node.tasks).remove(&name);
            lock(&node.statuses).remove(&name);
            node.news.notify_one();
            node.ended.notify_waiters();
        });
        inbox
    }

    /// Takes what a member's task says, having begun to look at its engine at `seen`.
    pub(crate) fn publish(&self, member: &MemberName, status: &MemberStatus, seen: Option<Moment>) {
        let said = Said { status: status.clone(), seen };
        let old = lock(&self.statuses).insert(member.clone(), said);
        if !old.is_some_and(|old| old.status.means_the_same(status)) {
            self.news.notify_one();
        }
    }

    async fn all_ended(&self) {
        loop {
            let ended = self.ended.notified();
            if lock(&self.tasks).is_empty() {
                return;
            }
            // Told between the look and the wait, or looked at again soon.
            tokio::select! {
                biased;
                () = ended => {}
                () = self.parts.env.clock().sleep(Duration::from_millis(50)) => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use steadfast_core::ids::{Epoch, RoleTerm};
    use steadfast_core::model::{MemberPhase, Role};

    use super::*;

    fn at(millis: u64) -> Moment {
        Moment::from_zero(Duration::from_millis(millis))
    }

    fn said(ready: bool, seen: Option<Moment>) -> Said {
        let status = MemberStatus {
            epoch: Epoch(1),
            generation: Default::default(),
            revision: Default::default(),
            incarnation: Some("e1".parse().unwrap()),
            phase: MemberPhase::Serving,
            role: Role::Replica,
            role_term: RoleTerm(1),
            follows: None,
            membership: None,
            ready,
            position: None,
            lag: None,
            restarts: 0,
            blocked: None,
        };
        Said { status, seen }
    }

    /// A member's task that waits for the store sees nothing of the engine's end, and the lease is renewed all the same.
    #[test]
    fn that_an_engine_serves_is_told_only_while_it_is_looked_at() {
        let timers = AgentTimers { lease: Duration::from_secs(8), ..AgentTimers::default() };
        let serves = said(true, Some(at(10_000)));
        assert!(serves.holds(at(13_999), &timers));
        assert!(!serves.holds(at(14_000), &timers));
        assert!(!said(true, None).holds(at(0), &timers), "nobody has looked");
        assert!(said(false, None).holds(at(99_000), &timers), "that it does not serve is no promise");
        // A short lease does not ask for more looks than there are.
        let short = AgentTimers { lease: Duration::from_secs(3), ..timers };
        assert!(serves.holds(at(12_999), &short));
        assert!(!serves.holds(at(13_000), &short));
    }
}
