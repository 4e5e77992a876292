//! The memory backend: the reference, and the state of the simulator.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use async_trait::async_trait;

use super::{
    NodeReport, Orchestrator, OrchestratorCapabilities, Placement, PlacementBy, Run, TaskReport, Workload,
};
use crate::error::Result;
use crate::ids::{Generation, Incarnation, MemberName, NodeName, Revision, ServiceName, ZoneName};
use crate::memory::Shared;
use crate::model::{Evidence, NodeHealth};

/// An orchestrator in memory. Clones are handles on the same one.
///
/// It keeps what was applied and runs nothing, unless [`run_tasks`](Self::run_tasks) says so: then a placement
/// on a node that answers is reported as a running task at once.
#[derive(Debug, Clone)]
pub struct MemoryOrchestrator {
    state: Shared<State>,
    capabilities: OrchestratorCapabilities,
}

#[derive(Debug, Default)]
struct State {
    nodes: BTreeMap<NodeName, NodeReport>,
    services: BTreeMap<ServiceName, Service>,
    run: bool,
    started: u64,
}

#[derive(Debug, Default)]
struct Service {
    /// None after removal, while tasks on nodes that don't answer are left.
    workload: Option<Workload>,
    tasks: BTreeMap<(MemberName, NodeName), Task>,
}

#[derive(Debug, Clone)]
struct Task {
    incarnation: Incarnation,
    generation: Generation,
    revision: Revision,
    running: bool,
}

impl MemoryOrchestrator {
    /// No nodes yet. It places as it is told and proves the death of nodes.
    pub fn new() -> Self {
        Self::with_capabilities(OrchestratorCapabilities {
            placement: PlacementBy::Ours,
            proves_node_death: true,
            restart_member: true,
            health_by_lease: false,
        })
    }

    /// No nodes yet, with these capabilities. (It does as it is told whatever they say.)
    pub fn with_capabilities(capabilities: OrchestratorCapabilities) -> Self {
        MemoryOrchestrator { state: Shared::new(State::default()), capabilities }
    }

    /// Whether placements become running tasks by themselves. Off at first.
    pub fn run_tasks(&self, run: bool) {
        self.state.with(|state| {
            state.run = run;
            state.settle_all();
        });
    }

    /// Adds a node, or says anew what it is.
    pub fn set_node(&self, report: NodeReport) {
        self.state.with(|state| {
            let ended = report.health.is_dead()
                || state.nodes.get(&report.node).is_some_and(|old| old.incarnation != report.incarnation);
            if ended {
                state.end_tasks_on(&report.node);
            }
            state.nodes.insert(report.node.clone(), report);
            state.settle_all();
        });
    }

    /// Adds a node that is ready, in this life.
    pub fn set_ready(&self, node: &NodeName, zone: &ZoneName, incarnation: &Incarnation) {
        self.set_node(NodeReport {
            node: node.clone(),
            zone: zone.clone(),
            incarnation: incarnation.clone(),
            health: NodeHealth::Ready,
            stalled: None,
            labels: BTreeMap::new(),
            engines: BTreeMap::new(),
        });
    }

    /// Changes the health of a node that is there; says whether it is.
    pub fn set_health(&self, node: &NodeName, health: NodeHealth) -> bool {
        let known = self.state.with(|state| state.nodes.get(node).cloned());
        let Some(report) = known else { return false };
        self.set_node(NodeReport { health, ..report });
        true
    }

    /// Nothing is started on a node any more, for the reason given, or again; says whether the node is there.
    pub fn set_stalled(&self, node: &NodeName, stalled: Option<&str>) -> bool {
        let known = self.state.with(|state| state.nodes.get(node).cloned());
        let Some(report) = known else { return false };
        self.set_node(NodeReport { stalled: stalled.map(str::to_owned), ..report });
        true
    }

    /// The node is not heard from; its tasks go on as far as anybody knows.
    pub fn set_suspect(&self, node: &NodeName) -> bool {
        self.set_health(node, NodeHealth::Suspect)
    }

    /// The node is proven dead, in its present life; its tasks have ended.
    pub fn set_dead(&self, node: &NodeName, evidence: Evidence) -> bool {
        self.set_health(node, NodeHealth::Dead(evidence))
    }

    /// Forgets a node.
    pub fn forget_node(&self, node: &NodeName) {
        self.state.with(|state| {
            state.end_tasks_on(node);
            state.nodes.remove(node);
        });
    }

    /// What was applied last for a service.
    pub fn workload(&self, service: &ServiceName) -> Option<Workload> {
        self.state.with(|state| state.services.get(service).and_then(|service| service.workload.clone()))
    }

    /// Every placement of every service, by service and in the order given.
    pub fn placements(&self) -> Vec<Placement> {
        self.state.with(|state| {
            let workloads = state.services.values().filter_map(|service| service.workload.as_ref());
            workloads.flat_map(|workload| workload.placements.iter().cloned()).collect()
        })
    }

    /// Ends the running tasks of a member, as if its engine had exited; says how many there were. They are
    /// started again by the next [`apply`](Orchestrator::apply).
    pub fn end_tasks(&self, member: &MemberName) -> usize {
        self.state.with(|state| {
            let tasks = state.services.values_mut().flat_map(|service| service.tasks.iter_mut());
            let running = tasks.filter(|((name, _), task)| name == member && task.running);
            running.map(|(_, task)| task.running = false).count()
        })
    }
}

impl Default for MemoryOrchestrator {
    fn default() -> Self {
        MemoryOrchestrator::new()
    }
}

impl fmt::Display for MemoryOrchestrator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("memory orchestrator")
    }
}

impl State {
    fn end_tasks_on(&mut self, node: &NodeName) {
        for ((_, place), task) in self.services.values_mut().flat_map(|service| service.tasks.iter_mut()) {
            if place == node {
                task.running = false;
            }
        }
    }

    fn settle_all(&mut self) {
        let State { nodes, services, run, started } = self;
        for service in services.values_mut() {
            service.settle(nodes, *run, started);
        }
    }
}

/// Whether a node does what it is told.
fn answers(nodes: &BTreeMap<NodeName, NodeReport>, node: &NodeName) -> bool {
    nodes.get(node).is_some_and(|report| matches!(report.health, NodeHealth::Ready | NodeHealth::Draining))
}

impl Service {
    /// Stops what shall not run, as far as its node answers, and starts what shall.
    fn settle(&mut self, nodes: &BTreeMap<NodeName, NodeReport>, run: bool, started: &mut u64) {
        let placements = self.workload.iter().flat_map(|workload| &workload.placements);
        let wanted: BTreeMap<(&MemberName, &NodeName), &Placement> = placements
            .filter(|placement| placement.run == Run::Started)
            .map(|placement| ((&placement.member, &placement.node), placement))
            .collect();
        for ((member, node), task) in self.tasks.iter_mut().filter(|(_, task)| task.running) {
            let current = wanted
                .get(&(member, node))
                .is_some_and(|p| p.generation == task.generation && p.revision == task.revision);
            if !current && answers(nodes, node) {
                task.running = false;
            }
        }
        if !run {
            return;
        }
        for ((member, node), placement) in wanted {
            let place = (member.clone(), node.clone());
            let runs = self.tasks.get(&place).is_some_and(|task| task.running);
            if runs || !answers(nodes, node) {
                continue;
            }
            *started += 1;
            let incarnation =
                format!("task-{started}").parse().expect("a word and a number are an incarnation");
            let (generation, revision) = (placement.generation, placement.revision);
            self.tasks.insert(place, Task { incarnation, generation, revision, running: true });
        }
    }
}

#[async_trait]
impl Orchestrator for MemoryOrchestrator {
    fn capabilities(&self) -> OrchestratorCapabilities {
        self.capabilities.clone()
    }

    async fn nodes(&self) -> Result<Vec<NodeReport>> {
        Ok(self.state.with(|state| state.nodes.values().cloned().collect()))
    }

    async fn apply(&self, workload: &Workload) -> Result<()> {
        self.state.with(|state| {
            let State { nodes, services, run, started } = state;
            // A placement on a node that is not known waits for the node.
            let service = services.entry(workload.service.clone()).or_default();
            service.workload = Some(workload.clone());
            service.settle(nodes, *run, started);
        });
        Ok(())
    }

    async fn tasks(&self, service: &ServiceName) -> Result<Vec<TaskReport>> {
        Ok(self.state.with(|state| {
            let tasks = state.services.get(service).into_iter().flat_map(|service| &service.tasks);
            tasks
                .map(|((member, node), task)| TaskReport {
                    member: member.clone(),
                    node: node.clone(),
                    incarnation: task.incarnation.clone(),
                    running: task.running,
                })
                .collect()
        }))
    }

    async fn remove(&self, service: &ServiceName) -> Result<()> {
        self.state.with(|state| {
            let State { nodes, services, run, started } = state;
            let Some(found) = services.get_mut(service) else { return };
            found.workload = None;
            found.settle(nodes, *run, started);
            found.tasks.retain(|_, task| task.running);
            if found.tasks.is_empty() {
                services.remove(service);
            }
        });
        Ok(())
    }

    async fn services(&self) -> Result<BTreeSet<ServiceName>> {
        Ok(self.state.with(|state| {
            let owned = state.services.iter().filter(|(_, service)| service.workload.is_some());
            owned.map(|(name, _)| name.clone()).collect()
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conformance::Harness;
    use crate::conformance::orchestrator::OrchestratorHarness;

    struct Memory;

    impl Harness for Memory {
        type Backend = MemoryOrchestrator;
        type Guard = MemoryOrchestrator;

        async fn open(&self) -> (MemoryOrchestrator, MemoryOrchestrator) {
            let orchestrator = MemoryOrchestrator::new();
            orchestrator.run_tasks(true);
            for node in self.nodes() {
                orchestrator.set_ready(&node, &"zone-a".parse().unwrap(), &"life-1".parse().unwrap());
            }
            (orchestrator.clone(), orchestrator)
        }

        async fn reopen(&self, guard: &MemoryOrchestrator) -> MemoryOrchestrator {
            guard.clone()
        }
    }

    impl OrchestratorHarness for Memory {
        async fn silence(&self, orchestrator: &MemoryOrchestrator, node: &NodeName) -> bool {
            orchestrator.set_suspect(node)
        }

        async fn revive(&self, orchestrator: &MemoryOrchestrator, node: &NodeName) -> bool {
            orchestrator.set_dead(node, Evidence::NodeProvenDead);
            orchestrator.set_ready(node, &"zone-a".parse().unwrap(), &"life-2".parse().unwrap());
            true
        }
    }

    crate::orchestrator_conformance!(Memory);

    fn placed_on(node: &NodeName) -> Workload {
        Workload {
            service: "orders".parse().unwrap(),
            placements: vec![Placement {
                member: "orders-0".parse().unwrap(),
                revision: Revision(1),
                node: node.clone(),
                run: Run::Started,
                generation: Generation(1),
            }],
        }
    }

    async fn running(orchestrator: &MemoryOrchestrator) -> Vec<NodeName> {
        let tasks = orchestrator.tasks(&"orders".parse().unwrap()).await.unwrap();
        tasks.into_iter().filter(|task| task.running).map(|task| task.node).collect()
    }

    #[tokio::test]
    async fn a_task_on_a_silent_node_goes_on_until_the_node_is_proven_dead() {
        let (_guard, orchestrator) = Memory.open().await;
        let [first, second] = Memory.nodes();
        orchestrator.apply(&placed_on(&first)).await.unwrap();
        orchestrator.set_suspect(&first);
        orchestrator.apply(&placed_on(&second)).await.unwrap();
        assert_eq!(running(&orchestrator).await, [first.clone(), second.clone()]);
        orchestrator.set_dead(&first, Evidence::NodeProvenDead);
        assert_eq!(running(&orchestrator).await, [second]);
    }

    #[tokio::test]
    async fn what_is_left_of_a_removed_service_is_its_tasks_on_silent_nodes() {
        let (_guard, orchestrator) = Memory.open().await;
        let [first, _] = Memory.nodes();
        let workload = placed_on(&first);
        orchestrator.apply(&workload).await.unwrap();
        orchestrator.set_suspect(&first);
        orchestrator.remove(&workload.service).await.unwrap();
        assert_eq!(orchestrator.services().await.unwrap(), BTreeSet::new());
        assert_eq!(running(&orchestrator).await, std::slice::from_ref(&first));
        assert!(orchestrator.set_health(&first, NodeHealth::Ready));
        assert_eq!(running(&orchestrator).await, []);
    }

    #[tokio::test]
    async fn nothing_runs_unless_it_is_told_to() {
        let (_guard, orchestrator) = Memory.open().await;
        let [first, _] = Memory.nodes();
        orchestrator.run_tasks(false);
        orchestrator.apply(&placed_on(&first)).await.unwrap();
        assert_eq!(running(&orchestrator).await, []);
        assert_eq!(orchestrator.placements(), placed_on(&first).placements);
        orchestrator.run_tasks(true);
        assert_eq!(running(&orchestrator).await, [first]);
        assert_eq!(orchestrator.end_tasks(&"orders-0".parse().unwrap()), 1);
        assert_eq!(running(&orchestrator).await, []);
    }
}
