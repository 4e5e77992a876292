//! Members as operating-system processes.
//!
//! There is no orchestrator besides us here: [`ProcessOrchestrator`] writes down which member shall run on which
//! node (`tasks/NODE/MEMBER`), the nodes' agents do it, and what runs is read from the nodes' status. A node's
//! death is proven by whoever can ([`NodeProver`]): on one machine by the kernel, which frees the node's lock
//! with the last of its processes ([`LockProver`]).

mod assignments;
#[cfg(test)]
mod conformance_tests;
pub mod node_dir;
mod nodes;
mod prover;

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use steadfast_core::error::Result;
use steadfast_core::ids::ServiceName;
use steadfast_core::orchestrator::{
    NodeReport, Orchestrator, OrchestratorCapabilities, PlacementBy, TaskReport, Workload,
};
use steadfast_core::planted::{self, Planted};
use steadfast_core::runtime::{Environment, Moment};
use steadfast_core::store::Store;

use nodes::Sightings;
pub use prover::{BlindProver, LockProver, NodeProver, Proof};

/// Members as processes under the agents of one cluster.
#[derive(Debug)]
pub struct ProcessOrchestrator {
    env: Environment,
    store: Store,
    prover: Arc<dyn NodeProver>,
    lease_death_after: Option<Duration>,
    sightings: Sightings,
    applied: assignments::Applied,
}

impl ProcessOrchestrator {
    /// The processes of the cluster in `store`. Silence alone makes a node `Suspect`, however long it lasts.
    pub fn new(env: Environment, store: Store, prover: Arc<dyn NodeProver>) -> Self {
        ProcessOrchestrator {
            env,
            store,
            prover,
            lease_death_after: None,
            sightings: Sightings::default(),
            applied: assignments::Applied::default(),
        }
    }

    /// Also calls a node `Dead(LeaseExpired)` that nothing was heard of for its lease and `margin` more, unless it
    /// is seen to be alive. Holds only if every guard of the cluster has a lease, and if no process is paused
    /// for longer than `margin` (F1).
    #[must_use]
    pub fn with_lease_death(mut self, margin: Duration) -> Self {
        self.lease_death_after = Some(margin);
        self
    }
}

#[async_trait]
impl Orchestrator for ProcessOrchestrator {
    fn capabilities(&self) -> OrchestratorCapabilities {
        OrchestratorCapabilities {
            placement: PlacementBy::Ours,
            proves_node_death: self.prover.proves(),
            restart_member: true,
        }
    }

    async fn nodes(&self) -> Result<Vec<NodeReport>> {
        let nodes = self.store.nodes().await?;
        let now = if planted::is(Planted::WallClockLease) {
            let since = self.env.clock().wall().as_millisecond();
            Moment::from_zero(Duration::from_millis(u64::try_from(since).unwrap_or_default()))
        } else {
            self.env.clock().monotonic()
        };
        let mut reports = Vec::new();
        for (record, status) in self.sightings.look(now, nodes) {
            let silent = || status.is_none_or(nodes::Lease::is_half_over);
            let proof = if self.prover.proves() && (self.prover.is_cheap() || silent()) {
                self.prover.prove(&record.node, &record.incarnation).await
            } else {
                Proof::Unknown
            };
            let health = nodes::health(&record, status, proof, self.lease_death_after);
            reports.push(NodeReport {
                health,
                node: record.node,
                zone: record.zone,
                incarnation: record.incarnation,
                labels: record.labels,
                engines: record.engines,
            });
        }
        Ok(reports)
    }

    async fn apply(&self, workload: &Workload) -> Result<()> {
        let now = self.env.clock().monotonic();
        if self.applied.holds(workload, now) {
            return Ok(());
        }
        // Failed half-way, it is not what was applied before either.
        self.applied.forget(&workload.service);
        assignments::apply(&self.store, workload).await?;
        self.applied.note(workload, now);
        Ok(())
    }

    async fn tasks(&self, service: &ServiceName) -> Result<Vec<TaskReport>> {
        // A node says which members it runs, not of which service: those with a record, and those assigned.
        let mut members: BTreeSet<_> =
            self.store.members(service).await?.into_iter().map(|member| member.body.name).collect();
        let assigned = assignments::all(&self.store).await?.into_iter().map(|(_, found)| found.body);
        members
            .extend(assigned.filter(|found| found.service == *service).map(|found| found.placement.member));
        let mut tasks = Vec::new();
        for (record, status) in self.store.nodes().await? {
            // What an earlier life of the node has said is over.
            let Some(status) = status.filter(|status| status.incarnation == record.incarnation) else {
                continue;
            };
            for (member, status) in status.members {
                if let Some(incarnation) = status.incarnation
                    && members.contains(&member)
                {
                    tasks.push(TaskReport { member, node: record.node.clone(), incarnation, running: true });
                }
            }
        }
        Ok(tasks)
    }

    async fn remove(&self, service: &ServiceName) -> Result<()> {
        self.applied.forget(service);
        let nothing = Workload { service: service.clone(), placements: Vec::new() };
        assignments::apply(&self.store, &nothing).await
    }

    async fn services(&self) -> Result<BTreeSet<ServiceName>> {
        let all = assignments::all(&self.store).await?;
        Ok(all.into_iter().map(|(_, assignment)| assignment.body.service).collect())
    }
}

impl fmt::Display for ProcessOrchestrator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("process orchestrator")
    }
}
