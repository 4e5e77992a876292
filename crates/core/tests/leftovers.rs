//! What somebody who died, or was slow, leaves behind is found and put in order by whoever comes next.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use serde_json::json;
use steadfast_core::backends::Backends;
use steadfast_core::control::{ControlError, Guard};
use steadfast_core::error::Result;
use steadfast_core::ids::{NodeName, ServiceName};
use steadfast_core::ip::{AddressOutcome, IpProvider};
use steadfast_core::layer::fault::{Fault, Faults};
use steadfast_core::model::OperationState;
use steadfast_core::registry::memory::MemoryRegistry;
use steadfast_core::registry::{
    DomainName, NameOutcome, RecordKind, RecordSet, Registry, RegistryCapabilities,
};
use steadfast_core::testing::TestEnvironment;
use steadfast_core::world::{World, service_file};

/// Names of which one has answers that are old, if it is so: from before it was made.
#[derive(Debug)]
struct OldAnswers {
    names: MemoryRegistry,
    of: DomainName,
    are_old: AtomicBool,
}

impl fmt::Display for OldAnswers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.names.fmt(f)
    }
}

#[async_trait]
impl Registry for OldAnswers {
    fn capabilities(&self) -> RegistryCapabilities {
        self.names.capabilities()
    }

    async fn ensure_zone(&self, zone: &DomainName) -> Result<()> {
        self.names.ensure_zone(zone).await
    }

    async fn resolve(&self, name: &DomainName, kind: RecordKind) -> Result<Option<RecordSet>> {
        let is_old = *name == self.of && self.are_old.load(Ordering::Relaxed);
        if is_old { Ok(None) } else { self.names.resolve(name, kind).await }
    }

    async fn upsert(
        &self,
        name: &DomainName,
        set: &RecordSet,
        expected: Option<&RecordSet>,
    ) -> Result<NameOutcome> {
        self.names.upsert(name, set, expected).await
    }

    async fn remove(&self, name: &DomainName, expected: &RecordSet) -> Result<NameOutcome> {
        self.names.remove(name, expected).await
    }

    async fn records(&self, zone: &DomainName) -> Result<Vec<(DomainName, RecordSet)>> {
        self.names.records(zone).await
    }
}

/// A name that stays behind leads to an address that may be somebody else's soon. What is there is found by asking for a
/// change, which is answered by what is: every name is gone before its service counts as deleted.
#[tokio::test(start_paused = true)]
async fn a_name_that_an_old_answer_hides_is_taken_away_with_its_service() {
    let mut world = World::new(TestEnvironment::new(7).environment, 3).await.unwrap();
    let plain = world.backends().unwrap();
    let zone = plain.zone.clone();
    let of = zone.child("orders").unwrap();
    let names = world.registry.clone();
    let registry = Arc::new(OldAnswers { names, of, are_old: AtomicBool::new(false) });
    let backends = Backends { registry: registry.clone(), ..plain };
    let server = world.server("server-1", Arc::new(world.db.clone()), backends).unwrap();
    world.create(&server, "orders", 3).await.unwrap();
    assert_ne!(world.registry.records(&zone).await.unwrap(), []);
    let delete = server.delete(&service(), Guard::default()).await.unwrap();
    registry.are_old.store(true, Ordering::Relaxed);
    world.until(&server, Duration::from_secs(10), |_| false).await.unwrap();
    registry.are_old.store(false, Ordering::Relaxed);
    world.finish(&server, &delete.id).await.unwrap();
    assert_eq!(world.registry.records(&zone).await.unwrap(), []);
}

fn service() -> ServiceName {
    "orders".parse().unwrap()
}

/// A claim that was refused everything else may still have been given the address, after its successor gave it back.
#[tokio::test(start_paused = true)]
async fn an_address_that_a_slow_claim_took_does_not_keep_a_service_from_being_deleted() {
    let mut world = World::new(TestEnvironment::new(7).environment, 3).await.unwrap();
    let server = world.plain_server("server-1").unwrap();
    world.create(&server, "orders", 3).await.unwrap();
    let stop = server.stop(&service(), Guard::default()).await.unwrap();
    world.finish(&server, &stop.id).await.unwrap();
    let members = server.store().members(&service()).await.unwrap();
    let address = members[0].body.address.as_ref().unwrap().address;
    let slow: NodeName = "node-2".parse().unwrap();
    assert_eq!(world.ips.assign(address, &slow, None).await.unwrap(), AddressOutcome::Applied);
    let delete = server.delete(&service(), Guard::default()).await.unwrap();
    world.finish(&server, &delete.id).await.unwrap();
    assert_eq!(world.ips.list().await.unwrap(), []);
}

/// Volumes are made, whoever made them ends before that is written down, and then the service is deleted.
#[tokio::test(start_paused = true)]
async fn a_volume_that_was_made_and_never_recorded_is_deleted_with_its_service_or_listed_as_kept() {
    for (on_delete, left) in [("delete", 0), ("keep", 1)] {
        let mut world = World::new(TestEnvironment::new(7).environment, 3).await.unwrap();
        let faults = Faults::new();
        faults.after(0, 3, |call| call.operation == "ensure", Fault::LostReply);
        let plain = world.backends().unwrap();
        let backends = Backends { volumes: faults.around(plain.volumes.clone()), ..plain };
        let doomed = world.server("server-1", Arc::new(world.db.clone()), backends).unwrap();
        let mut file = service_file("orders", 1);
        file["volumes"] = json!([{"name": "data", "on_delete": on_delete}]);
        doomed.apply(file, Guard::default()).await.unwrap();
        for _ in 0..3 {
            drop(world.round(&doomed).await);
        }
        assert_eq!((faults.unfired(), world.volumes.all().len()), (0, 1));
        let server = world.plain_server("server-2").unwrap();
        let delete = server.delete(&service(), Guard::default()).await.unwrap();
        assert_eq!(world.finish(&server, &delete.id).await.unwrap().state, OperationState::Succeeded);
        let listed = server.service(&service()).await.unwrap().volumes.len();
        assert_eq!((world.volumes.all().len(), listed), (left, left), "{on_delete}");
    }
}

/// Whoever applies a deleted service's file gets an empty database, and cannot have the old one back.
#[tokio::test(start_paused = true)]
async fn a_plan_under_a_deleted_services_name_says_what_becomes_of_its_volumes() {
    let mut world = World::new(TestEnvironment::new(7).environment, 3).await.unwrap();
    let server = world.plain_server("server-1").unwrap();
    world.create(&server, "orders", 3).await.unwrap();
    let delete = server.delete(&service(), Guard::default()).await.unwrap();
    world.finish(&server, &delete.id).await.unwrap();
    let report = server.plan(service_file("orders", 3)).await.unwrap();
    let told = |text: &str| report.warnings.iter().any(|warning| warning.contains(text));
    assert!(told("has kept 3 volumes") && told("steadfast undelete orders"), "{:?}", report.warnings);
}

/// Its names lead nowhere, and its secrets are kept for when it is brought back.
#[tokio::test(start_paused = true)]
async fn nobody_is_told_how_to_reach_a_deleted_service() {
    let mut world = World::new(TestEnvironment::new(7).environment, 3).await.unwrap();
    let server = world.plain_server("server-1").unwrap();
    world.create(&server, "orders", 3).await.unwrap();
    server.connect(&service()).await.unwrap();
    let delete = server.delete(&service(), Guard::default()).await.unwrap();
    world.finish(&server, &delete.id).await.unwrap();
    let error = server.connect(&service()).await.unwrap_err();
    assert!(matches!(error, ControlError::NotFound { kind: "service", .. }), "{error}");
}
