//! Members as services of a Docker Swarm.
//!
//! Swarm starts containers, and nothing else: it gives no identity, no address, and never frees the volume of a dead
//! node. So each member is a service of its own, with one task, on the node that the member is placed on, restarted by
//! nobody but us. Its one mount is the member, a volume of the node's agent, which claims and prepares it before the
//! container starts. What agents are told, and what is known of nodes' leases, is another orchestrator's matter, below
//! this one: Swarm's word on a node is never proof of its death.

mod engine;
mod spec;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bollard::models::{NodeSpecAvailabilityEnum, NodeState, Task, TaskState};
use steadfast_core::error::{Error, ErrorKind, Result};
use steadfast_core::ids::{ClusterName, MemberName, NodeName, ServiceName};
use steadfast_core::orchestrator::{
    NodeReport, Orchestrator, OrchestratorCapabilities, Placement, PlacementBy, Run, TaskReport, Workload,
};
use steadfast_core::runtime::{Environment, Moment};
use steadfast_core::store::Store;

pub use engine::Engine;

/// What the containers of a cluster's members are.
#[derive(Debug, Clone)]
pub struct SwarmOptions {
    /// The cluster.
    pub cluster: ClusterName,
    /// Blueprint → image.
    pub images: BTreeMap<String, String>,
    /// The volume driver that the nodes' agents are.
    pub driver: String,
    /// The folder that has one for each member, on every node.
    pub members: PathBuf,
}

/// How soon a task that has ended is followed by the next one, after the first time.
const PACE: Duration = Duration::from_secs(2);

/// How long Swarm may take to say how its nodes are, while it elects a leader for example. Leases are more urgent.
const ANSWER: Duration = Duration::from_secs(2);

/// Members as services of the swarm that this machine's engine is a manager of.
#[derive(Debug)]
pub struct SwarmOrchestrator {
    env: Environment,
    store: Store,
    engine: Engine,
    options: SwarmOptions,
    /// Tells the agents, and knows their leases.
    agents: Arc<dyn Orchestrator>,
    /// When each member was last given a task anew.
    renewed: Mutex<BTreeMap<MemberName, Moment>>,
}

impl SwarmOrchestrator {
    /// Has `engine` run what `agents` are told.
    pub fn new(
        env: Environment,
        store: Store,
        engine: Engine,
        options: SwarmOptions,
        agents: Arc<dyn Orchestrator>,
    ) -> Self {
        SwarmOrchestrator { env, store, engine, options, agents, renewed: Mutex::default() }
    }

    fn refuse(&self, kind: ErrorKind, subject: impl fmt::Display, message: impl fmt::Display) -> Error {
        Error::new(kind, self, "apply", subject, message).without_effect()
    }

    /// The image of a service's engine, as of the revision that a member runs.
    async fn image(&self, service: &ServiceName, placement: &Placement) -> Result<String> {
        let missing = || self.refuse(ErrorKind::NotFound, service, "its records are not there");
        let found = self.store.service(service).await?.ok_or_else(missing)?;
        let revision = self.store.revision(&found.body.id, placement.revision).await?.ok_or_else(missing)?;
        let blueprint = &revision.blueprint.name;
        self.options.images.get(blueprint.as_str()).cloned().ok_or_else(|| {
            let message = format!("there is no image for {blueprint}: serve --swarm-image {blueprint}=IMAGE");
            self.refuse(ErrorKind::Unsupported, service, message)
        })
    }

    /// The nodes of the swarm, by the host name that is the node's name.
    async fn known_nodes(&self) -> Result<BTreeMap<String, Vec<Known>>> {
        let mut known: BTreeMap<String, Vec<Known>> = BTreeMap::new();
        for node in self.engine.nodes().await? {
            let host = node.description.and_then(|description| description.hostname);
            let state = node.status.and_then(|status| status.state).unwrap_or(NodeState::UNKNOWN);
            let availability = node.spec.and_then(|spec| spec.availability);
            if let (Some(host), Some(id)) = (host, node.id) {
                known.entry(host).or_default().push(Known { id, state, availability });
            }
        }
        Ok(known)
    }

    /// The one node of the swarm that a node of ours is. Of several lives of a machine, the one that is not down.
    async fn node_id(&self, node: &NodeName) -> Result<String> {
        let mut found = self.known_nodes().await?.remove(node.as_str()).unwrap_or_default();
        if found.len() > 1 {
            found.retain(|known| known.state == NodeState::READY);
        }
        match &found[..] {
            [known] => Ok(known.id.clone()),
            [] => Err(self.refuse(ErrorKind::NotFound, node, "the swarm has no node of this host name")),
            _ => Err(self.refuse(ErrorKind::Invalid, node, "the swarm has several nodes of this host name")),
        }
    }

    /// Makes the service of a member what it shall be, with a task that has not ended.
    async fn run(&self, service: &ServiceName, placement: &Placement) -> Result<()> {
        let name = spec::name(&self.options.cluster, &placement.member);
        let image = self.image(service, placement).await?;
        let node = self.node_id(&placement.node).await?;
        let Some(found) = self.engine.service(&name).await? else {
            return self
                .engine
                .create(spec::service(&self.options, service, placement, &image, &node, 0))
                .await;
        };
        let tries = spec::tries(&found);
        let wanted = |tries| spec::service(&self.options, service, placement, &image, &node, tries);
        if !spec::is(&found, &wanted(tries)) {
            return self.engine.update(&found, wanted(tries + 1)).await;
        }
        let tasks = self.engine.tasks("service", &name).await?;
        let current = tasks.iter().filter(|task| spec::tries_of(task) == tries);
        // While there is none of this try, Swarm is about to make it.
        let mut states = current.map(|task| task.status.as_ref().and_then(|status| status.state));
        let ended = states.next().is_some_and(|first| has_ended(first) && states.all(has_ended));
        if ended && self.may_renew(&placement.member) {
            tracing::info!(member = %placement.member, why = last_word(&tasks), "its container has ended; another is made");
            self.engine.update(&found, wanted(tries + 1)).await?;
        }
        Ok(())
    }

    fn may_renew(&self, member: &MemberName) -> bool {
        let now = self.env.clock().monotonic();
        // Nothing that is done under this lock can panic half-way.
        let mut renewed = self.renewed.lock().unwrap_or_else(PoisonError::into_inner);
        if renewed.get(member).is_some_and(|before| now.since(*before) < PACE) {
            return false;
        }
        renewed.insert(member.clone(), now);
        true
    }

    /// Removes the services of `service` but those of these members.
    async fn keep_only(&self, service: &ServiceName, members: &BTreeSet<String>) -> Result<()> {
        for found in self.engine.services(&spec::label_of(&self.options.cluster, service)).await? {
            let name = found.spec.and_then(|spec| spec.name).unwrap_or_default();
            if !members.contains(&name) {
                self.engine.remove(&name).await?;
            }
        }
        Ok(())
    }
}

/// A node, as the swarm knows it.
#[derive(Debug, Clone)]
struct Known {
    id: String,
    state: NodeState,
    availability: Option<NodeSpecAvailabilityEnum>,
}

/// Why Swarm starts nothing on a node, of which it knows these lives; none: it does, or does not know.
fn stalled(lives: &[Known]) -> Option<String> {
    let stall = |known: &Known| match (known.state, known.availability) {
        // A manager that has just begun to lead has not heard of it yet.
        (NodeState::UNKNOWN, _) => None,
        (NodeState::DOWN | NodeState::DISCONNECTED, _) => {
            Some("the swarm does not hear of its engine of Docker".to_owned())
        }
        (NodeState::READY, Some(NodeSpecAvailabilityEnum::DRAIN | NodeSpecAvailabilityEnum::PAUSE)) => {
            Some("the swarm was told to place nothing there: docker node ls".to_owned())
        }
        (NodeState::READY, _) => None,
    };
    let none = || Some("the swarm has no node of this host name".to_owned());
    lives.iter().map(stall).min_by_key(Option::is_some).unwrap_or_else(none)
}

/// Whether a task runs no more, and will not.
fn has_ended(state: Option<TaskState>) -> bool {
    matches!(
        state,
        Some(
            TaskState::COMPLETE
                | TaskState::SHUTDOWN
                | TaskState::FAILED
                | TaskState::REJECTED
                | TaskState::REMOVE
                | TaskState::ORPHANED
        )
    )
}

/// What Swarm says of the task that it knows last.
fn last_word(tasks: &[Task]) -> String {
    let last = tasks.iter().max_by_key(|task| task.version.as_ref().and_then(|version| version.index));
    let status = last.and_then(|task| task.status.clone());
    status.and_then(|status| status.err.or(status.message)).unwrap_or_default()
}

#[async_trait]
impl Orchestrator for SwarmOrchestrator {
    fn capabilities(&self) -> OrchestratorCapabilities {
        OrchestratorCapabilities { placement: PlacementBy::Ours, ..self.agents.capabilities() }
    }

    async fn nodes(&self) -> Result<Vec<NodeReport>> {
        let mut reports = self.agents.nodes().await?;
        // A swarm that does not answer says nothing of its nodes.
        let known = self.env.timeout(ANSWER, self.known_nodes()).await;
        let Some(Ok(known)) = known else { return Ok(reports) };
        for report in &mut reports {
            report.stalled = stalled(known.get(report.node.as_str()).map_or(&[], Vec::as_slice));
        }
        Ok(reports)
    }

    async fn apply(&self, workload: &Workload) -> Result<()> {
        // The agents first: whoever is to be stopped is stopped by them, and a container waits for its member.
        self.agents.apply(workload).await?;
        let started = workload.placements.iter().filter(|placement| placement.run == Run::Started);
        let started: Vec<&Placement> = started.collect();
        let names = started.iter().map(|placement| spec::name(&self.options.cluster, &placement.member));
        self.keep_only(&workload.service, &names.collect()).await?;
        // One that cannot be run holds up no other.
        let mut failed = None;
        for placement in started {
            if let Err(error) = self.run(&workload.service, placement).await {
                failed = Some(error);
            }
        }
        failed.map_or(Ok(()), Err)
    }

    async fn tasks(&self, service: &ServiceName) -> Result<Vec<TaskReport>> {
        let hosts: BTreeMap<String, NodeName> = self
            .known_nodes()
            .await?
            .into_iter()
            .filter_map(|(host, lives)| Some((host.parse().ok()?, lives)))
            .flat_map(|(host, lives): (NodeName, Vec<Known>)| {
                lives.into_iter().map(move |known| (known.id, host.clone()))
            })
            .collect();
        let label = spec::label_of(&self.options.cluster, service);
        let report = |task: Task| {
            let state = task.status.as_ref().and_then(|status| status.state);
            Some(TaskReport {
                member: spec::member_of(&task)?,
                node: hosts.get(task.node_id.as_deref()?)?.clone(),
                incarnation: task.id.as_deref()?.parse().ok()?,
                running: state == Some(TaskState::RUNNING),
            })
        };
        Ok(self.engine.tasks("label", &label).await?.into_iter().filter_map(report).collect())
    }

    async fn remove(&self, service: &ServiceName) -> Result<()> {
        self.agents.remove(service).await?;
        self.keep_only(service, &BTreeSet::new()).await
    }

    async fn services(&self) -> Result<BTreeSet<ServiceName>> {
        let mut services = self.agents.services().await?;
        let label = spec::label(&self.options.cluster);
        let found =
            self.engine.services(&label).await?.into_iter().filter_map(|found| spec::service_of(&found));
        services.extend(found);
        Ok(services)
    }
}

impl fmt::Display for SwarmOrchestrator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("docker swarm")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_stalls_by_what_the_swarm_knows_of_it_and_not_by_what_it_does_not_know() {
        let known = |state, availability| Known { id: "n".to_owned(), state, availability };
        let active = Some(NodeSpecAvailabilityEnum::ACTIVE);
        assert!(stalled(&[]).unwrap().contains("no node"));
        assert!(stalled(&[known(NodeState::DOWN, active)]).unwrap().contains("does not hear"));
        assert!(stalled(&[known(NodeState::DISCONNECTED, active)]).is_some());
        for told in [NodeSpecAvailabilityEnum::DRAIN, NodeSpecAvailabilityEnum::PAUSE] {
            assert!(stalled(&[known(NodeState::READY, Some(told))]).unwrap().contains("was told"));
        }
        assert_eq!(stalled(&[known(NodeState::READY, active)]), None);
        assert_eq!(stalled(&[known(NodeState::UNKNOWN, active)]), None);
        // A machine that has joined anew under its old name.
        let lives = [known(NodeState::DOWN, active), known(NodeState::READY, active)];
        assert_eq!(stalled(&lives), None);
    }
}
