//! The rules of the contract, with agents that do as they are told and run nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use steadfast_core::conformance::Harness;
use steadfast_core::conformance::orchestrator::OrchestratorHarness;
use steadfast_core::ids::{Epoch, NodeName, RoleTerm};
use steadfast_core::metadata::WriteOutcome;
use steadfast_core::metadata::memory::MemoryDb;
use steadfast_core::model::{MemberPhase, MemberStatus, NodeRecord, NodeStatus, Role};
use steadfast_core::orchestrator::{Assignment, Orchestrator, Placement, Run, Workload};
use steadfast_core::runtime::{Environment, Timestamp};
use steadfast_core::store::Store;

use crate::{BlindProver, ProcessOrchestrator};

/// The nodes that say nothing.
#[derive(Debug, Default)]
struct Agents {
    silent: Mutex<BTreeSet<NodeName>>,
}

/// Long enough that a node which is beaten for stays ready, short enough to wait for.
const LEASE_MS: u64 = 1_500;

fn store() -> Store {
    let entropy = Environment::system([3; 32]).entropy().clone();
    Store::new(Arc::new(MemoryDb::new()), entropy, "test".parse().unwrap()).unwrap()
}

async fn open_on(store: &Store) -> ProcessOrchestrator {
    let env = Environment::system([4; 32]);
    let orchestrator = ProcessOrchestrator::new(env, store.clone(), Arc::new(BlindProver));
    // A server that has been there before its nodes: what appears from here on has just spoken.
    orchestrator.nodes().await.unwrap();
    orchestrator
}

impl Agents {
    /// Every node that is not silent takes in its assignments and renews its lease.
    async fn beat(&self, store: &Store) {
        let silent = self.silent.lock().unwrap().clone();
        for (record, status) in store.nodes().await.unwrap() {
            if !silent.contains(&record.node) {
                report(store, &record, status).await;
            }
        }
    }
}

async fn report(store: &Store, record: &NodeRecord, before: Option<Arc<NodeStatus>>) {
    let assignments = store.assignments(&record.node).await.unwrap();
    let members = assignments
        .into_iter()
        .map(|found| found.body.placement)
        .filter(|placement| placement.run == Run::Started)
        .map(|placement| (placement.member.clone(), running(&placement, record)))
        .collect();
    let status = NodeStatus {
        node: record.node.clone(),
        incarnation: record.incarnation.clone(),
        beat: before.map_or(0, |before| before.beat) + 1,
        lease_ms: LEASE_MS,
        members,
        stalled: None,
        version: "test".to_owned(),
    };
    let key = store.node_status_key(&record.node).unwrap();
    let written = match store.node_status(&record.node).await.unwrap() {
        Some(before) => store.records().update(&key, &status, &before.version).await.unwrap(),
        None => store.records().create(&key, &status).await.unwrap(),
    };
    assert_ne!(written, WriteOutcome::Conflict);
}

fn running(placement: &Placement, record: &NodeRecord) -> MemberStatus {
    let life = format!("{}.{}.{}", placement.member, record.incarnation, placement.generation);
    MemberStatus {
        epoch: Epoch(1),
        generation: placement.generation,
        revision: placement.revision,
        incarnation: Some(life.parse().unwrap()),
        phase: MemberPhase::Serving,
        role: Role::Unknown,
        role_term: RoleTerm(0),
        follows: None,
        membership: None,
        ready: true,
        position: None,
        lag: None,
        restarts: 0,
        blocked: None,
    }
}

async fn register(store: &Store, node: &NodeName, incarnation: &str) {
    let record = NodeRecord {
        node: node.clone(),
        zone: "a".parse().unwrap(),
        incarnation: incarnation.parse().unwrap(),
        labels: BTreeMap::new(),
        engines: BTreeMap::new(),
        registered_at: Timestamp::UNIX_EPOCH,
        confirmed_dead: None,
        draining: false,
    };
    let key = store.node_record_key(node).unwrap();
    let written = match store.node_record(node).await.unwrap() {
        Some(before) => store.write(&key, &before, &record).await.unwrap(),
        None => store.records().create(&key, &record).await.unwrap(),
    };
    assert_ne!(written, WriteOutcome::Conflict);
    report(store, &record, None).await;
}

impl Harness for Agents {
    type Backend = ProcessOrchestrator;
    type Guard = Store;

    async fn open(&self) -> (Store, ProcessOrchestrator) {
        let store = store();
        let orchestrator = open_on(&store).await;
        for node in self.nodes() {
            register(&store, &node, "i1").await;
        }
        (store, orchestrator)
    }

    async fn reopen(&self, store: &Store) -> ProcessOrchestrator {
        open_on(store).await
    }
}

impl OrchestratorHarness for Agents {
    async fn advance(&self, orchestrator: &ProcessOrchestrator) {
        self.beat(&orchestrator.store).await;
    }

    async fn silence(&self, _orchestrator: &ProcessOrchestrator, node: &NodeName) -> bool {
        self.silent.lock().unwrap().insert(node.clone());
        true
    }

    async fn revive(&self, orchestrator: &ProcessOrchestrator, node: &NodeName) -> bool {
        let record = orchestrator.store.node_record(node).await.unwrap().unwrap();
        let key = orchestrator.store.node_record_key(node).unwrap();
        let dead =
            NodeRecord { confirmed_dead: Some(record.body.incarnation.clone()), ..record.body.clone() };
        let written = orchestrator.store.write(&key, &record, &dead).await.unwrap();
        assert_ne!(written, WriteOutcome::Conflict);
        let reports = orchestrator.nodes().await.unwrap();
        assert!(reports.iter().any(|report| &report.node == node && report.health.is_dead()));
        register(&orchestrator.store, node, "i2").await;
        true
    }
}

steadfast_core::orchestrator_conformance!(Agents::default());

#[tokio::test]
async fn only_differences_are_written() {
    let store = store();
    let orchestrator = open_on(&store).await;
    let node: NodeName = "node-a".parse().unwrap();
    let placement = Placement {
        member: "orders-0".parse().unwrap(),
        revision: steadfast_core::ids::Revision(1),
        node: node.clone(),
        run: Run::Started,
        generation: steadfast_core::ids::Generation(1),
    };
    let workload = Workload { service: "orders".parse().unwrap(), placements: vec![placement.clone()] };
    orchestrator.apply(&workload).await.unwrap();
    let first = store.assignments(&node).await.unwrap();
    let expected = Assignment { service: workload.service.clone(), placement };
    assert_eq!(first[0].body, expected);
    orchestrator.apply(&workload).await.unwrap();
    assert_eq!(store.assignments(&node).await.unwrap(), first, "the same version");
}

#[test]
fn what_is_declared_is_pinned() {
    let env = Environment::system([4; 32]);
    let blind = ProcessOrchestrator::new(env.clone(), store(), Arc::new(BlindProver)).capabilities();
    assert!(!blind.proves_node_death && blind.restart_member);
    let seeing = ProcessOrchestrator::new(env, store(), Arc::new(crate::LockProver::new("/nowhere")));
    assert!(seeing.capabilities().proves_node_death);
}
