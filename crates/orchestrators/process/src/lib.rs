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

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use steadfast_core::error::Result;
use steadfast_core::ids::{NodeName, ServiceName};
use steadfast_core::orchestrator::{
    NodeReport, Orchestrator, OrchestratorCapabilities, PlacementBy, TaskReport, Workload,
};
use steadfast_core::planted::{self, Planted};
use steadfast_core::runtime::{Environment, Moment};
use steadfast_core::store::Store;

use nodes::{Node, Sightings};
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

impl ProcessOrchestrator {
    fn now(&self) -> Moment {
        if planted::is(Planted::WallClockLease) {
            let since = self.env.clock().wall().as_millisecond();
            return Moment::from_zero(Duration::from_millis(u64::try_from(since).unwrap_or_default()));
        }
        self.env.clock().monotonic()
    }

    async fn look(&self) -> Result<Vec<Node>> {
        let begun = self.now();
        let nodes = self.store.nodes().await.inspect_err(|_| self.sightings.fail())?;
        Ok(self.sightings.look(begun, self.now(), nodes))
    }

    /// What can be proven about each node. Nobody is asked about lives that are known to be over, and about those that
    /// were just heard only who is asked for nothing.
    async fn prove(&self, nodes: &[Node]) -> Vec<Proof> {
        let asks =
            |node: &&Node| self.prover.proves() && !node.dead && (self.prover.is_cheap() || node.is_missed());
        let asked: Vec<&Node> = nodes.iter().filter(asks).collect();
        let lives: Vec<_> = asked.iter().map(|node| (&node.record.node, &node.record.incarnation)).collect();
        let answers = if lives.is_empty() { Vec::new() } else { self.prover.prove(&lives).await };
        let mut answers: BTreeMap<_, _> = lives.iter().map(|(node, _)| *node).zip(answers).collect();
        let mut proofs = Vec::new();
        for node in nodes {
            let proof = match answers.remove(&node.record.node) {
                _ if node.dead => Proof::Dead,
                Some(Proof::Unknown) if planted::is(Planted::NoAnswerIsDeath) => Proof::Dead,
                Some(proof) => proof,
                None => Proof::Unknown,
            };
            if proof == Proof::Dead {
                self.sightings.note_dead(&node.record);
            }
            proofs.push(proof);
        }
        proofs
    }
}

#[async_trait]
impl Orchestrator for ProcessOrchestrator {
    fn capabilities(&self) -> OrchestratorCapabilities {
        OrchestratorCapabilities {
            placement: PlacementBy::Ours,
            proves_node_death: self.prover.proves(),
            restart_member: true,
            health_by_lease: !self.prover.proves() || !self.prover.is_cheap(),
        }
    }

    async fn nodes(&self) -> Result<Vec<NodeReport>> {
        let mut nodes = self.look().await?;
        let missed = nodes.iter().filter(|node| node.is_missed()).map(|node| node.record.node.clone());
        let missed: Vec<NodeName> = missed.collect();
        // A silence may be that of hints.
        if !missed.is_empty() && self.store.doubt_nodes(missed) {
            nodes = self.look().await?;
        }
        let proofs = self.prove(&nodes).await;
        let report = |(node, proof): (Node, Proof)| {
            let health = nodes::health(&node.record, node.lease, proof, self.lease_death_after);
            let record = &node.record;
            NodeReport {
                health,
                stalled: None,
                node: record.node.clone(),
                zone: record.zone.clone(),
                incarnation: record.incarnation.clone(),
                labels: record.labels.clone(),
                engines: record.engines.clone(),
            }
        };
        Ok(nodes.into_iter().zip(proofs).map(report).collect())
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
            self.store.members(service).await?.into_iter().map(|member| member.body.name.clone()).collect();
        let assigned = assignments::all(&self.store).await?.into_iter().map(|(_, found)| found.body);
        members
            .extend(assigned.filter(|found| found.service == *service).map(|found| found.placement.member));
        let mut tasks = Vec::new();
        for (record, status) in self.store.nodes().await? {
            // What an earlier life of the node has said is over.
            let Some(status) = status.filter(|status| status.incarnation == record.incarnation) else {
                continue;
            };
            for (member, status) in &status.members {
                if let Some(incarnation) = status.incarnation.clone()
                    && members.contains(member)
                {
                    let (member, node) = (member.clone(), record.node.clone());
                    tasks.push(TaskReport { member, node, incarnation, running: true });
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
