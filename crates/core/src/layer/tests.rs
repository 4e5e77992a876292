//! Each layer by itself, all of them together, and the contracts through all of them.

use std::sync::atomic::Ordering;

use bytes::Bytes;

use super::fault::{Fault, Faults};
use super::*;
use crate::conformance::Harness;
use crate::conformance::ip::IpHarness;
use crate::conformance::orchestrator::OrchestratorHarness;
use crate::conformance::registry::RegistryHarness;
use crate::conformance::volume::VolumeHarness;
use crate::error::{Effect, Error, ErrorKind};
use crate::ip::IpProvider;
use crate::ip::memory::MemoryIps;
use crate::metadata::memory::MemoryDb;
use crate::metadata::{CasOutcome, Key, MetadataDb, Precondition, Version};
use crate::orchestrator::memory::MemoryOrchestrator;
use crate::orchestrator::{Orchestrator, Workload};
use crate::registry::memory::MemoryRegistry;
use crate::registry::{DomainName, RecordSet, Registry, RegistryCapabilities, ServiceTarget};
use crate::snapshot::SnapshotProvider;
use crate::testing::TestEnvironment;
use crate::volume::memory::MemoryVolumes;
use crate::volume::{VolumeProvider, VolumeSpec};

struct Stacked {
    db: Arc<dyn MetadataDb>,
    memory: MemoryDb,
    faults: Faults,
    counters: CallCounters,
    environment: Environment,
}

fn stacked() -> Stacked {
    let (memory, faults, counters) = (MemoryDb::new(), Faults::new(), CallCounters::new());
    let environment = TestEnvironment::new(1).environment;
    let backend: Arc<dyn MetadataDb> = faults.around(Arc::new(memory.clone()));
    let db = stack(backend, StackOptions::default(), &environment, &counters);
    Stacked { db, memory, faults, counters, environment }
}

fn key() -> Key {
    "test/a".parse().unwrap()
}

async fn create(db: &Arc<dyn MetadataDb>) -> Result<CasOutcome> {
    db.put(&key(), Bytes::from_static(b"one"), Precondition::Absent).await
}

fn any(_: &Call<'_>) -> bool {
    true
}

#[track_caller]
fn failed<T: Debug>(result: Result<T>, kind: ErrorKind, effect: Effect) -> Error {
    let error = result.unwrap_err();
    assert_eq!((error.kind(), error.effect()), (kind, effect), "{error:?}");
    error
}

#[tokio::test(start_paused = true)]
async fn a_write_without_effect_is_repeated_until_it_is_done() {
    let Stacked { db, memory, faults, counters, environment } = stacked();
    faults.after(0, 3, any, Fault::Refused(ErrorKind::Throttled));
    assert!(matches!(create(&db).await.unwrap(), CasOutcome::Applied(_)));
    assert_eq!((faults.unfired(), memory.writes()), (0, 1));
    let counter = counters.get("metadata", "put").unwrap();
    assert_eq!(counter.started.load(Ordering::Relaxed), 1, "one call, however many attempts");
    assert_eq!(counter.repeated.load(Ordering::Relaxed), 3);
    // Half to all of 50, 100 and 200 ms.
    let waited = environment.clock().monotonic().since_zero();
    assert!((Duration::from_millis(175)..=Duration::from_millis(351)).contains(&waited), "{waited:?}");
}

#[tokio::test(start_paused = true)]
async fn attempts_come_to_an_end() {
    let Stacked { db, memory, faults, .. } = stacked();
    faults.always(any, Fault::Refused(ErrorKind::Unavailable));
    failed(create(&db).await, ErrorKind::Unavailable, Effect::None);
    assert_eq!((faults.fired(), memory.writes()), (4, 0));
}

#[tokio::test(start_paused = true)]
async fn a_write_that_may_have_happened_is_never_repeated() {
    for (fault, writes) in [(Fault::LostReply, 1), (Fault::LostRequest, 0)] {
        let Stacked { db, memory, faults, .. } = stacked();
        faults.always(any, fault);
        failed(create(&db).await, ErrorKind::Unavailable, Effect::Unknown);
        assert_eq!((faults.fired(), memory.writes()), (1, writes));
    }
}

#[tokio::test(start_paused = true)]
async fn a_read_is_repeated_whatever_is_known() {
    let Stacked { db, faults, .. } = stacked();
    for fault in [Fault::LostReply, Fault::LostRequest, Fault::Swallowed] {
        faults.once(any, fault);
        assert_eq!(db.get(&key()).await.unwrap(), None);
        assert_eq!(faults.unfired(), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn an_answer_about_the_subject_is_not_repeated() {
    let Stacked { db, faults, .. } = stacked();
    for kind in [ErrorKind::Busy, ErrorKind::QuotaExceeded, ErrorKind::Stale, ErrorKind::Denied] {
        faults.once(any, Fault::Refused(kind));
        let before = faults.fired();
        failed(create(&db).await, kind, Effect::None);
        assert_eq!(faults.fired(), before + 1);
    }
}

#[tokio::test(start_paused = true)]
async fn a_backend_that_names_a_wait_gets_it_if_it_is_not_too_long() {
    #[derive(Debug)]
    struct Asks(Duration);
    impl Layer for Asks {
        async fn call<'a, T, F, A>(&'a self, call: Call<'a>, _attempt: F) -> Result<T>
        where
            T: Send + 'a,
            F: Fn() -> A + Copy + Send + Sync + 'a,
            A: Future<Output = Result<T>> + Send + 'a,
        {
            let error =
                Error::new(ErrorKind::Throttled, call.backend, call.operation, call.subject, "slowly");
            Err(error.without_effect().with_retry(crate::error::Retry::After(self.0)))
        }
    }
    for (asked, least, most) in [(1000, 3000, 3151), (2001, 0, 0)] {
        let environment = TestEnvironment::new(1).environment;
        let backend: Arc<dyn MetadataDb> = Arc::new(MemoryDb::new());
        let asking = backend.wrap(Asks(Duration::from_millis(asked)));
        let db = stack(asking, StackOptions::default(), &environment, &CallCounters::new());
        failed(create(&db).await, ErrorKind::Throttled, Effect::None);
        let waited = environment.clock().monotonic().since_zero().as_millis();
        assert!((least..=most).contains(&waited), "asked for {asked} ms, waited {waited} ms");
    }
}

#[tokio::test(start_paused = true)]
async fn a_write_that_timed_out_may_have_happened() {
    for (fault, writes) in [(Fault::Stalled, 1), (Fault::Swallowed, 0)] {
        let Stacked { db, memory, faults, environment, .. } = stacked();
        faults.once(any, fault);
        let error = failed(create(&db).await, ErrorKind::Unavailable, Effect::Unknown);
        assert!(
            error.to_string().contains("memory store: put test/a failed: no answer within 10s"),
            "{error}"
        );
        assert_eq!((faults.unfired(), memory.writes()), (0, writes));
        // Tokio's timers are as fine as a millisecond.
        let waited = environment.clock().monotonic().since_zero();
        assert!((Duration::from_secs(10)..Duration::from_millis(10_002)).contains(&waited), "{waited:?}");
    }
}

#[tokio::test]
async fn what_the_backend_cannot_do_is_refused_before_it_is_asked() {
    let (faults, environment) = (Faults::new(), TestEnvironment::new(1).environment);
    // The backend would answer otherwise, if it were asked.
    faults.always(any, Fault::Refused(ErrorKind::Internal));
    let counters = CallCounters::new();
    let small: Arc<dyn MetadataDb> = faults.around(Arc::new(MemoryDb::with_limits(4, 1)));
    let db = stack(small, StackOptions::default(), &environment, &counters);
    let long = db.put(&key(), Bytes::from_static(b"12345"), Precondition::Absent).await;
    failed(long, ErrorKind::Invalid, Effect::None);

    let bare = RegistryCapabilities { services: false, ttl: Duration::from_secs(5) };
    let bare: Arc<dyn Registry> = faults.around(Arc::new(MemoryRegistry::with_capabilities(bare)));
    let registry = stack(bare, StackOptions::default(), &environment, &counters);
    let name: DomainName = "_store._tcp.orders.demo.internal".parse().unwrap();
    let target = ServiceTarget { priority: 0, weight: 0, port: 7000, target: name.clone() };
    let services = RecordSet::Services([target].into());
    failed(registry.upsert(&name, &services, None).await, ErrorKind::Unsupported, Effect::None);
    let addresses = RecordSet::Addresses(["127.0.0.1".parse().unwrap()].into());
    failed(registry.upsert(&name, &addresses, None).await, ErrorKind::Internal, Effect::None);
}

#[tokio::test(start_paused = true)]
async fn calls_are_counted_by_what_became_of_them() {
    let Stacked { db, faults, counters, environment, .. } = stacked();
    assert!(matches!(create(&db).await.unwrap(), CasOutcome::Applied(_)));
    assert_eq!(create(&db).await.unwrap(), CasOutcome::Conflict, "a lost race is an answer");
    faults.once(any, Fault::Refused(ErrorKind::Denied));
    failed(create(&db).await, ErrorKind::Denied, Effect::None);
    faults.once(any, Fault::LostReply);
    faults.once(any, Fault::Swallowed);
    failed(db.delete(&key(), &Version::new("x")).await, ErrorKind::Unavailable, Effect::Unknown);
    assert_eq!(environment.timeout(Duration::from_secs(1), create(&db)).await.map(drop), None);
    let counts = |operation| {
        let CallCounter {
            started,
            succeeded,
            failed_without_effect,
            failed_unknown,
            abandoned,
            repeated,
            nanoseconds,
        } = counters.get("metadata", operation).unwrap();
        let all =
            [started, succeeded, failed_without_effect, failed_unknown, abandoned, repeated, nanoseconds];
        all.map(|count| count.load(Ordering::Relaxed))
    };
    assert_eq!(counts("put"), [4, 2, 1, 0, 1, 0, 0]);
    assert_eq!(counts("delete"), [1, 0, 0, 1, 0, 0, 0], "the conflict was answered, and the answer was lost");
    assert_eq!(counts("get"), [0; 7]);
}

#[test]
fn every_operation_of_every_contract_has_a_counter() {
    let counters = CallCounters::new();
    let all: Vec<String> =
        counters.iter().map(|(contract, operation, _)| format!("{contract}.{operation}")).collect();
    assert_eq!(all.len(), 34, "{all:?}");
    for some in
        ["ip.allocate", "metadata.watch", "orchestrator.nodes", "registry.upsert", "volume.begin_attach"]
    {
        assert!(all.iter().any(|name| name == some), "{some}");
    }
}

/// A method that went past the layer would reach the backend, and succeed or fail in its own way.
#[tokio::test]
async fn every_call_goes_through_the_layer() {
    let faults = Faults::new();
    faults.always(any, Fault::Refused(ErrorKind::Denied));
    let refused = |result: Result<()>| failed(result, ErrorKind::Denied, Effect::None);
    let node = "node-a".parse().unwrap();

    let db: Arc<dyn MetadataDb> = faults.around(Arc::new(MemoryDb::new()));
    refused(db.get(&key()).await.map(drop));
    refused(create(&db).await.map(drop));
    refused(db.delete(&key(), &Version::new("x")).await.map(drop));
    refused(db.scan(&key(), None, 1).await.map(drop));
    refused(db.watch(&key()).await.map(drop));

    let registry: Arc<dyn Registry> = faults.around(Arc::new(MemoryRegistry::new()));
    let zone: DomainName = "demo.internal".parse().unwrap();
    let set = RecordSet::Addresses(["127.0.0.1".parse().unwrap()].into());
    refused(registry.ensure_zone(&zone).await);
    refused(registry.resolve(&zone, set.kind()).await.map(drop));
    refused(registry.upsert(&zone, &set, None).await.map(drop));
    refused(registry.remove(&zone, &set).await.map(drop));
    refused(registry.records(&zone).await.map(drop));

    let volumes: Arc<dyn VolumeProvider> = faults.around(Arc::new(MemoryVolumes::new()));
    let spec = VolumeSpec {
        cluster: "demo".parse().unwrap(),
        member: "m".parse().unwrap(),
        member_name: "orders-0".parse().unwrap(),
        name: "data".parse().unwrap(),
        size_bytes: 1,
        class: "default".to_owned(),
        zone: None,
    };
    let id = "vol-1".parse().unwrap();
    refused(volumes.ensure(&spec).await.map(drop));
    refused(volumes.describe(&id).await.map(drop));
    refused(volumes.list(&spec.cluster).await.map(drop));
    refused(volumes.begin_attach(&id, &node).await);
    refused(volumes.begin_detach(&id, &node).await);
    refused(volumes.begin_grow(&id, 2).await);
    refused(volumes.delete(&id).await);
    refused(volumes.abandon(&id).await);

    let snapshots: Arc<dyn SnapshotProvider> = faults.around(Arc::new(MemoryVolumes::new()));
    let snapshot = "vol-1:monday".parse().unwrap();
    refused(snapshots.begin_snapshot(&id, &"monday".parse().unwrap()).await.map(drop));
    refused(snapshots.snapshot(&snapshot).await.map(drop));
    refused(snapshots.snapshots(&spec.cluster).await.map(drop));
    refused(snapshots.ensure_from(&spec, &snapshot).await.map(drop));
    refused(snapshots.delete_snapshot(&snapshot).await);

    let address = "10.1.0.4".parse().unwrap();
    let ips: Arc<dyn IpProvider> = faults.around(Arc::new(MemoryIps::new(address, 1).unwrap()));
    refused(ips.allocate(&spec.member, None).await.map(drop));
    refused(ips.status(address).await.map(drop));
    refused(ips.assign(address, &node, None).await.map(drop));
    refused(ips.unassign(address, &node).await.map(drop));
    refused(ips.release(address, &spec.member).await);
    refused(ips.list().await.map(drop));

    let tasks: Arc<dyn Orchestrator> = faults.around(Arc::new(MemoryOrchestrator::new()));
    let workload = Workload { service: "orders".parse().unwrap(), placements: Vec::new() };
    refused(tasks.nodes().await.map(drop));
    refused(tasks.apply(&workload).await);
    refused(tasks.tasks(&workload.service).await.map(drop));
    refused(tasks.remove(&workload.service).await);
    refused(tasks.services().await.map(drop));

    assert_eq!(faults.fired(), CallCounters::new().iter().count() as u64, "no operation was left out");
}

/// The suites again, through every layer: what a layer forgets or mixes up, a rule misses.
struct Through;

macro_rules! through_every_layer {
    ($harness:ident, $contract:ident, $memory:ty, $make:expr) => {
        struct $harness;

        impl Harness for $harness {
            type Backend = Layered<dyn $contract, Trace>;
            type Guard = $memory;

            async fn open(&self) -> ($memory, Self::Backend) {
                let memory: $memory = $make;
                let backend = self.reopen(&memory).await;
                (memory, backend)
            }

            async fn reopen(&self, memory: &$memory) -> Self::Backend {
                Through::around(Arc::new(memory.clone()) as Arc<dyn $contract>)
            }
        }
    };
}

impl Through {
    fn around<B: Contract + ?Sized>(backend: Arc<B>) -> Layered<B, Trace> {
        let (environment, counters) = (Environment::system([1; 32]), CallCounters::new());
        let limits = StackOptions::default();
        // As `stack` does it, but for the outermost, which a suite needs by its type.
        let below = backend.limits();
        let inner = backend
            .wrap(CapabilityCheck::new(below))
            .wrap(Timeout::new(limits.timeout, environment.clone()))
            .wrap(Retry::new(limits.retry, environment.clone(), counters.clone()));
        Layered::new(inner, Trace::new(environment, counters))
    }
}

through_every_layer!(Metadata, MetadataDb, MemoryDb, MemoryDb::with_limits(64 << 10, 16));
through_every_layer!(Names, Registry, MemoryRegistry, MemoryRegistry::new());
through_every_layer!(Volumes, VolumeProvider, MemoryVolumes, MemoryVolumes::that_grow());
through_every_layer!(VolumesOfOneSize, VolumeProvider, MemoryVolumes, MemoryVolumes::new());
through_every_layer!(Ips, IpProvider, MemoryIps, MemoryIps::new("10.1.0.4".parse().unwrap(), 300).unwrap());
through_every_layer!(Tasks, Orchestrator, MemoryOrchestrator, {
    let orchestrator = MemoryOrchestrator::new();
    orchestrator.run_tasks(true);
    for node in OrchestratorHarness::nodes(&Tasks) {
        orchestrator.set_ready(&node, &"zone-a".parse().unwrap(), &"life-1".parse().unwrap());
    }
    orchestrator
});

impl RegistryHarness for Names {}
impl VolumeHarness for Volumes {}
impl VolumeHarness for VolumesOfOneSize {}
impl IpHarness for Ips {
    fn range(&self) -> Option<usize> {
        Some(300)
    }
}
impl OrchestratorHarness for Tasks {}

mod metadata {
    crate::metadata_conformance!(super::Metadata);
}
mod registry {
    crate::registry_conformance!(super::Names);
}
mod volume {
    crate::volume_conformance!(super::Volumes);
}
mod volume_of_one_size {
    crate::volume_conformance!(super::VolumesOfOneSize);
}
mod ip {
    crate::ip_conformance!(super::Ips);
}
mod orchestrator {
    crate::orchestrator_conformance!(super::Tasks);
}
