//! The rules of [`Orchestrator`].

use std::collections::BTreeSet;
use std::future::Future;

use super::{Harness, id, pause, skip, soon};
use crate::ids::{Generation, Incarnation, NodeName, Revision, ServiceName};
use crate::model::NodeHealth;
use crate::orchestrator::{Orchestrator, Placement, Run, TaskReport, Workload};

/// How an orchestrator under test is opened, and what it has to be told.
pub trait OrchestratorHarness: Harness<Backend: Orchestrator> {
    /// Two nodes of a fresh namespace that are ready.
    fn nodes(&self) -> [NodeName; 2] {
        [id("node-a"), id("node-b")]
    }

    /// Whether what is applied comes to run here. Without, tasks are not waited for.
    fn runs(&self) -> bool {
        true
    }

    /// Called while tasks are waited for: for orchestrators that go on only when told to.
    fn advance(&self, orchestrator: &Self::Backend) -> impl Future<Output = ()> {
        let _ = orchestrator;
        async {}
    }

    /// Makes a node fall silent, without proof of its death. Says whether this harness can.
    fn silence(&self, orchestrator: &Self::Backend, node: &NodeName) -> impl Future<Output = bool> {
        let _ = (orchestrator, node);
        async { false }
    }

    /// Has a node die, with proof, and come back in a new life. Says whether this harness can.
    fn revive(&self, orchestrator: &Self::Backend, node: &NodeName) -> impl Future<Output = bool> {
        let _ = (orchestrator, node);
        async { false }
    }
}

/// Makes a test of each rule of [`Orchestrator`]; see [`conformance`](crate::conformance).
#[macro_export]
macro_rules! orchestrator_conformance {
    (#[$attribute:meta] $harness:expr) => {
        $crate::__conformance_tests! {
            #[$attribute] orchestrator, $harness,
            the_nodes_are_ready
            silence_is_not_proof_of_death
            death_is_of_one_incarnation
            an_applied_service_is_listed
            an_unknown_service_has_no_tasks
            an_applied_member_comes_to_run
            applying_again_restarts_nothing
            a_stopped_member_ends
            a_member_left_out_ends
            a_member_placed_elsewhere_is_stopped_where_it_was
            a_higher_generation_starts_anew
            services_are_apart
            removal_ends_every_task
            removing_an_absent_service_is_success
            a_second_handle_sees_every_change
        }
    };
    ($harness:expr) => {
        $crate::orchestrator_conformance!(
            #[::tokio::test]
            $harness
        );
    };
}

fn orders() -> ServiceName {
    id("orders")
}

fn placement(member: &str, node: &NodeName) -> Placement {
    Placement {
        member: id(member),
        revision: Revision(1),
        node: node.clone(),
        run: Run::Started,
        generation: Generation(1),
    }
}

async fn apply(orchestrator: &impl Orchestrator, placements: impl Into<Vec<Placement>>) {
    let workload = Workload { service: orders(), placements: placements.into() };
    orchestrator.apply(&workload).await.expect("a healthy backend takes a workload");
}

async fn services(orchestrator: &impl Orchestrator) -> BTreeSet<ServiceName> {
    orchestrator.services().await.expect("a healthy backend lists")
}

async fn tasks(orchestrator: &impl Orchestrator, service: &ServiceName) -> Vec<TaskReport> {
    orchestrator.tasks(service).await.expect("a healthy backend lists")
}

/// What runs, as `(member, node)`, and each one's life.
async fn running(orchestrator: &impl Orchestrator) -> Vec<((String, NodeName), Incarnation)> {
    let mut found: Vec<_> = tasks(orchestrator, &orders())
        .await
        .into_iter()
        .filter(|task| task.running)
        .map(|task| ((task.member.to_string(), task.node), task.incarnation))
        .collect();
    found.sort();
    found
}

/// Waits until exactly this runs; gives the lives.
async fn reach<H: OrchestratorHarness>(
    harness: &H,
    orchestrator: &H::Backend,
    wanted: &[(&str, &NodeName)],
) -> Vec<Incarnation> {
    let wanted: Vec<(String, NodeName)> =
        wanted.iter().map(|(member, node)| ((*member).to_owned(), (*node).clone())).collect();
    soon(&format!("running {wanted:?}"), async {
        loop {
            let (found, lives): (Vec<_>, Vec<_>) = running(orchestrator).await.into_iter().unzip();
            if found == wanted {
                return lives;
            }
            harness.advance(orchestrator).await;
            pause().await;
        }
    })
    .await
}

/// Waits until a removed service is no longer listed.
async fn gone<H: OrchestratorHarness>(harness: &H, orchestrator: &H::Backend, service: &ServiceName) {
    soon("the end of the service", async {
        while services(orchestrator).await.contains(service) {
            harness.advance(orchestrator).await;
            pause().await;
        }
    })
    .await;
}

fn skips<H: OrchestratorHarness>(rule: &str, harness: &H, orchestrator: &H::Backend) -> bool {
    if !harness.runs() {
        skip(rule, orchestrator, "starts nothing by itself");
    }
    !harness.runs()
}

async fn health<H: OrchestratorHarness>(
    orchestrator: &H::Backend,
    node: &NodeName,
) -> (Incarnation, NodeHealth) {
    let nodes = orchestrator.nodes().await.expect("a healthy backend lists");
    let mut found = nodes.into_iter().filter(|report| &report.node == node);
    let report = found.next().expect("the harness has named it");
    assert_eq!(found.next(), None, "a node is listed once");
    (report.incarnation, report.health)
}

/// Every node is told, once, and ready if it is.
pub async fn the_nodes_are_ready<H: OrchestratorHarness>(harness: &H) {
    let (_guard, orchestrator) = harness.open().await;
    for node in harness.nodes() {
        assert_eq!(health::<H>(&orchestrator, &node).await.1, NodeHealth::Ready, "{node}");
    }
}

/// A node that is merely not heard from is never told dead.
pub async fn silence_is_not_proof_of_death<H: OrchestratorHarness>(harness: &H) {
    let (_guard, orchestrator) = harness.open().await;
    let [silent, other] = harness.nodes();
    if !harness.silence(&orchestrator, &silent).await {
        return skip("silence_is_not_proof_of_death", &orchestrator, "has no node the harness can silence");
    }
    soon("the notice of the silence", async {
        while health::<H>(&orchestrator, &silent).await.1 == NodeHealth::Ready {
            harness.advance(&orchestrator).await;
            pause().await;
        }
    })
    .await;
    for _ in 0..5 {
        assert!(!health::<H>(&orchestrator, &silent).await.1.is_dead());
        pause().await;
    }
    assert_eq!(health::<H>(&orchestrator, &other).await.1, NodeHealth::Ready);
}

/// The death of one life of a node says nothing of the next.
pub async fn death_is_of_one_incarnation<H: OrchestratorHarness>(harness: &H) {
    let (_guard, orchestrator) = harness.open().await;
    let [node, _] = harness.nodes();
    let (before, _) = health::<H>(&orchestrator, &node).await;
    if !harness.revive(&orchestrator, &node).await {
        return skip("death_is_of_one_incarnation", &orchestrator, "has no node the harness can revive");
    }
    soon("the new life", async {
        loop {
            match health::<H>(&orchestrator, &node).await {
                (now, NodeHealth::Ready) if now != before => break,
                (now, health) => assert!(now == before || !health.is_dead(), "the new life is not dead"),
            }
            pause().await;
        }
    })
    .await;
}

/// A service with a workload is listed until it is removed.
pub async fn an_applied_service_is_listed<H: OrchestratorHarness>(harness: &H) {
    let (_guard, orchestrator) = harness.open().await;
    let [node, _] = harness.nodes();
    assert_eq!(services(&orchestrator).await, BTreeSet::new());
    for _ in 0..2 {
        apply(&orchestrator, [placement("orders-0", &node)]).await;
        assert_eq!(services(&orchestrator).await, BTreeSet::from([orders()]));
    }
    orchestrator.remove(&orders()).await.expect("a healthy backend removes");
    gone(harness, &orchestrator, &orders()).await;
}

/// What was never applied has no tasks, and is no error.
pub async fn an_unknown_service_has_no_tasks<H: OrchestratorHarness>(harness: &H) {
    let (_guard, orchestrator) = harness.open().await;
    assert_eq!(tasks(&orchestrator, &orders()).await, []);
}

/// A member runs where it is placed, once.
pub async fn an_applied_member_comes_to_run<H: OrchestratorHarness>(harness: &H) {
    let (_guard, orchestrator) = harness.open().await;
    let [first, second] = harness.nodes();
    if skips("an_applied_member_comes_to_run", harness, &orchestrator) {
        return;
    }
    apply(&orchestrator, [placement("orders-0", &first), placement("orders-1", &second)]).await;
    let lives = reach(harness, &orchestrator, &[("orders-0", &first), ("orders-1", &second)]).await;
    assert_ne!(lives[0], lives[1], "each task has a life of its own");
}

/// Applying what runs already changes nothing.
pub async fn applying_again_restarts_nothing<H: OrchestratorHarness>(harness: &H) {
    let (_guard, orchestrator) = harness.open().await;
    let [first, second] = harness.nodes();
    if skips("applying_again_restarts_nothing", harness, &orchestrator) {
        return;
    }
    let wanted = [("orders-0", &first), ("orders-1", &second)];
    let placements = wanted.map(|(member, node)| placement(member, node));
    apply(&orchestrator, placements.clone()).await;
    let lives = reach(harness, &orchestrator, &wanted).await;
    for _ in 0..3 {
        apply(&orchestrator, placements.clone()).await;
        harness.advance(&orchestrator).await;
        assert_eq!(reach(harness, &orchestrator, &wanted).await, lives);
    }
}

/// A member that shall be stopped ends, and the others go on.
pub async fn a_stopped_member_ends<H: OrchestratorHarness>(harness: &H) {
    let stopped = |node: &NodeName| Some(Placement { run: Run::Stopped, ..placement("orders-0", node) });
    ends("a_stopped_member_ends", harness, stopped).await;
}

/// A member that is no longer in the workload runs nowhere, and the others go on.
pub async fn a_member_left_out_ends<H: OrchestratorHarness>(harness: &H) {
    ends("a_member_left_out_ends", harness, |_| None).await;
}

async fn ends<H: OrchestratorHarness>(
    rule: &str,
    harness: &H,
    instead: impl Fn(&NodeName) -> Option<Placement>,
) {
    let (_guard, orchestrator) = harness.open().await;
    let [first, second] = harness.nodes();
    if skips(rule, harness, &orchestrator) {
        return;
    }
    let other = placement("orders-1", &second);
    apply(&orchestrator, [placement("orders-0", &first), other.clone()]).await;
    let lives = reach(harness, &orchestrator, &[("orders-0", &first), ("orders-1", &second)]).await;
    apply(&orchestrator, instead(&first).into_iter().chain([other]).collect::<Vec<_>>()).await;
    assert_eq!(reach(harness, &orchestrator, &[("orders-1", &second)]).await, lives[1..]);
}

/// A member runs where it was placed last, and no longer where it was before.
pub async fn a_member_placed_elsewhere_is_stopped_where_it_was<H: OrchestratorHarness>(harness: &H) {
    let (_guard, orchestrator) = harness.open().await;
    let [first, second] = harness.nodes();
    if skips("a_member_placed_elsewhere_is_stopped_where_it_was", harness, &orchestrator) {
        return;
    }
    for node in [&first, &second, &first] {
        apply(&orchestrator, [placement("orders-0", node)]).await;
        reach(harness, &orchestrator, &[("orders-0", node)]).await;
    }
}

/// A task of an earlier generation is stopped and started anew, and the others go on.
pub async fn a_higher_generation_starts_anew<H: OrchestratorHarness>(harness: &H) {
    let (_guard, orchestrator) = harness.open().await;
    let [first, second] = harness.nodes();
    if skips("a_higher_generation_starts_anew", harness, &orchestrator) {
        return;
    }
    let wanted = [("orders-0", &first), ("orders-1", &second)];
    let [begun, other] = wanted.map(|(member, node)| placement(member, node));
    apply(&orchestrator, [begun.clone(), other.clone()]).await;
    let before = reach(harness, &orchestrator, &wanted).await;
    apply(&orchestrator, [Placement { generation: begun.generation.next(), ..begun }, other]).await;
    soon("the new life", async {
        loop {
            let now = reach(harness, &orchestrator, &wanted).await;
            assert_eq!(now[1], before[1], "the other member goes on");
            if now[0] != before[0] {
                break;
            }
            harness.advance(&orchestrator).await;
            pause().await;
        }
    })
    .await;
}

/// Applying or removing one service does nothing to another.
pub async fn services_are_apart<H: OrchestratorHarness>(harness: &H) {
    let (_guard, orchestrator) = harness.open().await;
    let [node, _] = harness.nodes();
    apply(&orchestrator, [placement("orders-0", &node)]).await;
    let other = Workload { service: id("cache"), placements: vec![placement("cache-0", &node)] };
    orchestrator.apply(&other).await.expect("a healthy backend takes a workload");
    assert_eq!(services(&orchestrator).await, BTreeSet::from([orders(), other.service.clone()]));
    if harness.runs() {
        reach(harness, &orchestrator, &[("orders-0", &node)]).await;
    }
    orchestrator.remove(&other.service).await.expect("a healthy backend removes");
    gone(harness, &orchestrator, &other.service).await;
    assert_eq!(services(&orchestrator).await, BTreeSet::from([orders()]));
    if harness.runs() {
        reach(harness, &orchestrator, &[("orders-0", &node)]).await;
    }
}

/// After its removal nothing of a service runs.
pub async fn removal_ends_every_task<H: OrchestratorHarness>(harness: &H) {
    let (_guard, orchestrator) = harness.open().await;
    let [first, second] = harness.nodes();
    if skips("removal_ends_every_task", harness, &orchestrator) {
        return;
    }
    apply(&orchestrator, [placement("orders-0", &first), placement("orders-1", &second)]).await;
    reach(harness, &orchestrator, &[("orders-0", &first), ("orders-1", &second)]).await;
    orchestrator.remove(&orders()).await.expect("a healthy backend removes");
    reach(harness, &orchestrator, &[]).await;
}

/// Removing what is not there is success, and can be repeated.
pub async fn removing_an_absent_service_is_success<H: OrchestratorHarness>(harness: &H) {
    let (_guard, orchestrator) = harness.open().await;
    let [node, _] = harness.nodes();
    orchestrator.remove(&orders()).await.expect("there is nothing to remove");
    apply(&orchestrator, [placement("orders-0", &node)]).await;
    for _ in 0..2 {
        orchestrator.remove(&orders()).await.expect("removing again is success");
    }
}

/// What one process applies, every other sees.
pub async fn a_second_handle_sees_every_change<H: OrchestratorHarness>(harness: &H) {
    let (guard, first) = harness.open().await;
    let second = harness.reopen(&guard).await;
    let [node, _] = harness.nodes();
    apply(&first, [placement("orders-0", &node)]).await;
    assert_eq!(services(&second).await, BTreeSet::from([orders()]));
    if harness.runs() {
        reach(harness, &second, &[("orders-0", &node)]).await;
    }
    second.remove(&orders()).await.expect("a healthy backend removes");
    gone(harness, &first, &orders()).await;
}
