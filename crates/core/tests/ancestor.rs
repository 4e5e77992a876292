//! The weaknesses of the ancestor, each with a test named after it that shows we survive it. The whole list, with those
//! that cannot arise here, is the table in `docs/architecture.md`.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use steadfast_core::backends::Backends;
use steadfast_core::control::{Control, ControlError, Guard, INDEX_STALE};
use steadfast_core::ids::{MemberName, NodeName, ServiceName};
use steadfast_core::ip::IpProvider;
use steadfast_core::ip::memory::MemoryIps;
use steadfast_core::layer::fault::{Fault, Faults};
use steadfast_core::layer::{Call, Contract as _, Layer};
use steadfast_core::metadata::{MetadataDb, WriteOutcome};
use steadfast_core::model::{Member, OperationState, Reason, SealedSecret, ServiceSpec, ServiceState};
use steadfast_core::registry::{RecordKind, Registry};
use steadfast_core::testing::TestEnvironment;
use steadfast_core::volume::{Attachment, VolumeProvider};
use steadfast_core::workflow::claim::{ClaimProgress, Claimant, address_set};
use steadfast_core::world::{World, service_file};
use steadfast_core::{ErrorKind, Result};
use tokio::sync::Notify;

const MINUTE: Duration = Duration::from_secs(60);

async fn world(nodes: u32) -> (World, Control) {
    let world = World::new(TestEnvironment::new(11).environment, nodes).await.unwrap();
    let server = world.plain_server("server-1").unwrap();
    (world, server)
}

fn service() -> ServiceName {
    "orders".parse().unwrap()
}

fn member(ordinal: u32) -> MemberName {
    format!("orders-{ordinal}").parse().unwrap()
}

async fn record(world: &World, ordinal: u32) -> Member {
    let store = world.store(Arc::new(world.db.clone())).unwrap();
    Member::clone(&store.member(&service(), &member(ordinal)).await.unwrap().unwrap().body)
}

async fn healthy(world: &mut World, server: &Control) {
    let came =
        world.until(server, MINUTE * 2, |views| views[0].state == ServiceState::Healthy).await.unwrap();
    assert!(came, "{:?}", server.service(&service()).await);
}

/// Everything a user has of a service: identity, addresses, volumes, secrets.
async fn identity(
    world: &World,
    server: &Control,
) -> (Vec<(String, String, IpAddr)>, Vec<String>, SealedSecret) {
    let view = server.service(&service()).await.unwrap();
    let mut members = Vec::new();
    for ordinal in 0..3 {
        let record = record(world, ordinal).await;
        let volume = record.volumes[0].id.clone().unwrap();
        members.push((record.id.to_string(), volume.to_string(), record.address.unwrap().address));
    }
    let store = world.store(Arc::new(world.db.clone())).unwrap();
    let key = store.secret_key(&record(world, 0).await.service_id, "password").unwrap();
    let secret = store.records().get(&key).await.unwrap().unwrap().body;
    (members, view.volumes.iter().map(ToString::to_string).collect(), secret)
}

/// Stops the first call that matches before it is made, until it is let go.
#[derive(Debug, Clone)]
struct Checkpoint {
    operation: &'static str,
    subject: &'static str,
    passed: Arc<AtomicBool>,
    reached: Arc<Notify>,
    go: Arc<Notify>,
}

impl Checkpoint {
    fn before(operation: &'static str, subject: &'static str) -> Self {
        Checkpoint {
            operation,
            subject,
            passed: Arc::default(),
            reached: Arc::new(Notify::new()),
            go: Arc::new(Notify::new()),
        }
    }
}

impl Layer for Checkpoint {
    async fn call<'a, T, F, A>(&'a self, call: Call<'a>, attempt: F) -> Result<T>
    where
        T: Send + 'a,
        F: Fn() -> A + Copy + Send + Sync + 'a,
        A: Future<Output = Result<T>> + Send + 'a,
    {
        let here = call.operation == self.operation && call.subject.to_string().contains(self.subject);
        if here && !self.passed.swap(true, Ordering::Relaxed) {
            self.reached.notify_one();
            self.go.notified().await;
        }
        attempt().await
    }
}

/// A claimant on `node` as its agent has it, over this store and these backends.
async fn claimant(world: &World, node: &NodeName, db: Arc<dyn MetadataDb>, backends: Backends) -> Claimant {
    let mut health = backends.orchestrator.nodes().await.unwrap();
    health.retain(|report| &report.node == node);
    Claimant {
        env: world.env.clone(),
        store: world.store(db).unwrap(),
        volumes: backends.volumes,
        ips: backends.ips,
        registry: backends.registry,
        orchestrator: backends.orchestrator,
        zone: backends.zone,
        node: node.clone(),
        incarnation: health.remove(0).incarnation,
    }
}

async fn plain_claimant(world: &World, node: &NodeName) -> Claimant {
    claimant(world, node, Arc::new(world.db.clone()), world.backends().unwrap()).await
}

/// Places a member by hand, as a controller would.
async fn place(world: &World, ordinal: u32, node: &NodeName) {
    let store = world.store(Arc::new(world.db.clone())).unwrap();
    let found = store.member(&service(), &member(ordinal)).await.unwrap().unwrap();
    let mut changed = Member::clone(&found.body);
    changed.placed_on = Some(node.clone());
    let key = store.member_key(&service(), &member(ordinal)).unwrap();
    assert!(matches!(store.write(&key, &found, &changed).await.unwrap(), WriteOutcome::Applied(_)));
}

/// A service whose member 0 has lost its node, and two other nodes on which nothing of it runs.
async fn orphaned() -> (World, NodeName, NodeName) {
    let (mut world, server) = world(5).await;
    world.create(&server, "orders", 3).await.unwrap();
    let old = world.holder(&service(), &member(0)).await.unwrap().unwrap();
    let mut used = BTreeSet::new();
    for ordinal in 0..3 {
        used.insert(world.holder(&service(), &member(ordinal)).await.unwrap().unwrap());
    }
    let free: Vec<NodeName> = world.nodes.keys().filter(|node| !used.contains(*node)).cloned().collect();
    world.kill(&old);
    let [second, third] = free.try_into().unwrap();
    (world, second, third)
}

async fn attached_to(world: &World, ordinal: u32) -> Attachment {
    let id = record(world, ordinal).await.volumes[0].id.clone().unwrap();
    world.volumes.describe(&id).await.unwrap().unwrap().attachment
}

/// Asking again after any failure is the way out of it: nothing random is decided twice.
#[tokio::test(start_paused = true)]
async fn w01_a_create_that_was_cut_short_is_finished_by_asking_again() {
    for writes in 0..9 {
        let (mut world, server) = world(3).await;
        let faults = Faults::new();
        faults.after(writes, 1, |call| call.operation == "put", Fault::LostRequest);
        let db = faults.around(Arc::new(world.db.clone()) as Arc<dyn MetadataDb>);
        let doomed = world.server("server-0", db, world.backends().unwrap()).unwrap();
        // Cut short or not: whoever asked does not know, and asks again.
        drop(doomed.apply(service_file("orders", 3), Guard::default()).await);
        let first = server.apply(service_file("orders", 3), Guard::default()).await.unwrap();
        assert_eq!(world.finish(&server, &first.id).await.unwrap().state, OperationState::Succeeded);
        let before = identity(&world, &server).await;
        let again = server.apply(service_file("orders", 3), Guard::default()).await.unwrap();
        assert_eq!(again.id, first.id, "after {writes} writes");
        assert_eq!(identity(&world, &server).await, before);
    }
}

#[tokio::test(start_paused = true)]
async fn w02_a_create_that_is_refused_has_written_nothing() {
    let (mut world, server) = world(3).await;
    world.create(&server, "orders", 3).await.unwrap();
    world.round(&server).await.unwrap();
    let before = world.db.writes();
    let mut other = service_file("orders", 3);
    other["options"] = serde_json::json!({"max_connections": 9});
    let error = server.apply(other, Guard::default()).await.unwrap_err();
    assert!(matches!(error, ControlError::Refused { reason: Reason::ChangeUnsupported, .. }), "{error}");
    assert_eq!(world.db.writes(), before, "a refused request leaves no trace in the store");
}

#[tokio::test(start_paused = true)]
async fn w03_a_volume_whose_record_was_not_written_is_found_again() {
    let (mut world, server) = world(3).await;
    let faults = Faults::new();
    // Volumes are made, and whoever made them dies before it can write that down; three times over.
    faults.after(0, 3, |call| call.operation == "ensure", Fault::LostReply);
    let plain = world.backends().unwrap();
    let backends = Backends { volumes: faults.around(plain.volumes.clone()), ..plain };
    let doomed = world.server("server-1", Arc::new(world.db.clone()), backends).unwrap();
    let operation = server.apply(service_file("orders", 3), Guard::default()).await.unwrap();
    for _ in 0..3 {
        drop(world.round(&doomed).await);
    }
    assert_eq!(faults.unfired(), 0);
    world.finish(&server, &operation.id).await.unwrap();
    let recorded = server.service(&service()).await.unwrap().volumes;
    assert_eq!((world.volumes.all().len(), recorded.len()), (3, 3), "as many are recorded as exist");
}

#[tokio::test(start_paused = true)]
async fn w04_a_service_that_never_came_about_is_deleted_without_rest() {
    for rounds in 0..4 {
        let (mut world, server) = world(3).await;
        server.apply(service_file("orders", 3), Guard::default()).await.unwrap();
        for _ in 0..rounds {
            world.round(&server).await.unwrap();
        }
        let operation = server.delete(&service(), Guard::default()).await.unwrap();
        let done = world.finish(&server, &operation.id).await.unwrap();
        assert_eq!(done.state, OperationState::Succeeded, "after {rounds} rounds");
        assert!(world.ips.list().await.unwrap().is_empty());
        assert!(world.orchestrator.placements().is_empty());
        let zone = "world.steadfast.internal".parse().unwrap();
        assert!(world.registry.records(&zone).await.unwrap().is_empty());
    }
}

#[tokio::test(start_paused = true)]
async fn w05_a_missing_member_in_the_middle_is_made_again_with_its_own_volume() {
    let (mut world, server) = world(3).await;
    world.create(&server, "orders", 3).await.unwrap();
    let before = identity(&world, &server).await;
    let store = world.store(Arc::new(world.db.clone())).unwrap();
    let found = store.member(&service(), &member(1)).await.unwrap().unwrap();
    let key = store.member_key(&service(), &member(1)).unwrap();
    let gone = store.records().delete(&key, &found.version).await.unwrap();
    assert!(matches!(gone, WriteOutcome::Applied(_)));
    world
        .until(&server, MINUTE, |views| views[0].members.len() == 3 && views[0].members[1].address.is_some())
        .await
        .unwrap();
    let after = identity(&world, &server).await;
    assert_eq!(before, after, "the same three members, and no fourth");
    assert_eq!(world.volumes.all().len(), 3);
}

#[test]
fn w07_a_name_is_a_name_from_end_to_end() {
    for name in
        ["!!bad name_/..", "orders/..", "orders\n", " orders", "Orders", "-orders", "orders-", "ordérs", ""]
    {
        let problems = ServiceSpec::from_input(service_file(name, 3)).unwrap_err();
        assert!(problems[0].problem.contains("name"), "{name:?}: {problems:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn w08_a_delete_that_is_cut_short_still_lists_every_volume() {
    for writes in [0, 1, 2, 3, 5, 8, 13, 21] {
        let (mut world, server) = world(3).await;
        world.create(&server, "orders", 3).await.unwrap();
        let before = server.service(&service()).await.unwrap().volumes;
        let operation = server.delete(&service(), Guard::default()).await.unwrap();
        let faults = Faults::new();
        faults.after(
            writes,
            u32::MAX,
            |call| call.operation == "put",
            Fault::Refused(ErrorKind::Unavailable),
        );
        let db = faults.around(Arc::new(world.db.clone()) as Arc<dyn MetadataDb>);
        let doomed = world.server("server-1", db, world.backends().unwrap()).unwrap();
        for _ in 0..8 {
            drop(world.round(&doomed).await);
            assert_eq!(server.service(&service()).await.unwrap().volumes, before, "after {writes} writes");
        }
        world.finish(&server, &operation.id).await.unwrap();
        assert_eq!(server.service(&service()).await.unwrap().volumes, before);
    }
}

#[tokio::test(start_paused = true)]
async fn w09_a_delete_is_on_record_before_anything_stops_and_excludes_the_rest() {
    let (mut world, server) = world(3).await;
    world.create(&server, "orders", 3).await.unwrap();
    server.delete(&service(), Guard::default()).await.unwrap();
    assert_eq!(server.service(&service()).await.unwrap().state, ServiceState::Deleting);
    assert!(world.nodes.values().any(|node| node.runs(&member(0))), "nothing has stopped yet");
    for refused in [
        server.start(&service(), Guard::default()).await,
        server.restart(&service(), Guard::default()).await,
        server.undelete(&service(), Guard::default()).await,
    ] {
        assert!(matches!(refused, Err(ControlError::Conflict { .. })), "{refused:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn w10_no_address_is_left_behind_and_none_is_taken_that_is_not_ours() {
    let (mut world, server) = world(3).await;
    let stranger = world.ips.allocate(&"somebody-else".parse().unwrap(), None).await.unwrap();
    let faults = Faults::new();
    faults.after(0, 2, |call| call.operation == "allocate", Fault::LostReply);
    let plain = world.backends().unwrap();
    let backends = Backends { ips: faults.around(plain.ips.clone()), ..plain };
    let doomed = world.server("server-1", Arc::new(world.db.clone()), backends).unwrap();
    let operation = server.apply(service_file("orders", 3), Guard::default()).await.unwrap();
    for _ in 0..2 {
        drop(world.round(&doomed).await);
    }
    world.finish(&server, &operation.id).await.unwrap();
    assert_eq!(world.ips.list().await.unwrap().len(), 4, "three of ours and the stranger's");
    for ordinal in 0..3 {
        assert_ne!(record(&world, ordinal).await.address.unwrap().address, stranger);
    }
    let operation = server.delete(&service(), Guard::default()).await.unwrap();
    world.finish(&server, &operation.id).await.unwrap();
    let left = world.ips.list().await.unwrap();
    assert_eq!(left.iter().map(|status| status.address).collect::<Vec<_>>(), [stranger]);
}

/// The ancestor's restart ran past the end of its list. Here a record too many stops the line, by name, and the line
/// can be given up.
#[tokio::test(start_paused = true)]
async fn w11_a_member_beyond_the_declared_number_is_named_and_not_stumbled_over() {
    let (mut world, server) = world(3).await;
    world.create(&server, "orders", 3).await.unwrap();
    let store = world.store(Arc::new(world.db.clone())).unwrap();
    let stray =
        Member { name: member(7), id: "stray".parse().unwrap(), ordinal: 7, ..record(&world, 2).await };
    let stray = Member { volumes: Vec::new(), address: None, unreleased: Vec::new(), holder: None, ..stray };
    let stray = Member { placed_on: None, run: false, ..stray };
    let key = store.member_key(&service(), &member(7)).unwrap();
    assert!(matches!(store.records().create(&key, &stray).await.unwrap(), WriteOutcome::Applied(_)));
    let operation = server.restart(&service(), Guard::default()).await.unwrap();
    for _ in 0..20 {
        world.round(&server).await.unwrap();
    }
    let waiting = server.operation(&operation.id).await.unwrap();
    assert!(!waiting.state.is_final(), "{waiting:?}");
    assert!(waiting.waiting.unwrap().1.contains("orders-7"));
    let cancelled = server.cancel(&operation.id).await.unwrap();
    assert_eq!(cancelled.state, OperationState::Cancelled);
    assert_eq!(server.service(&service()).await.unwrap().serving, 3, "who serves, serves on");
}

#[tokio::test(start_paused = true)]
async fn w12_a_stop_is_on_record_and_everybody_keeps_to_it() {
    let (mut world, server) = world(3).await;
    world.create(&server, "orders", 3).await.unwrap();
    let operation = server.stop(&service(), Guard::default()).await.unwrap();
    world.finish(&server, &operation.id).await.unwrap();
    // Another server, later, with every node brought back: nothing starts by itself.
    drop(server);
    let second = world.plain_server("server-2").unwrap();
    for node in world.nodes.keys().cloned().collect::<Vec<_>>() {
        world.kill(&node);
        world.revive(&node).unwrap();
    }
    let started =
        world.until(&second, MINUTE * 2, |views| views[0].state != ServiceState::Stopped).await.unwrap();
    assert!(!started);
    let refused = second.restart(&service(), Guard::default()).await;
    assert!(matches!(refused, Err(ControlError::Conflict { .. })), "{refused:?}");
    let operation = second.start(&service(), Guard::default()).await.unwrap();
    world.finish(&second, &operation.id).await.unwrap();
    healthy(&mut world, &second).await;
}

#[tokio::test(start_paused = true)]
async fn w15_of_two_who_change_what_they_have_read_one_is_told() {
    let (mut world, server) = world(3).await;
    world.create(&server, "orders", 3).await.unwrap();
    world.round(&server).await.unwrap();
    let index = server.service(&service()).await.unwrap().index;
    let guard = || Guard { if_index: Some(index.clone()), ..Guard::default() };
    server.stop(&service(), guard()).await.unwrap();
    let second = server.restart(&service(), guard()).await.unwrap_err();
    let ControlError::Conflict { reason, .. } = second else { panic!("{second}") };
    assert_eq!(reason, Reason::Other(INDEX_STALE.to_owned()));
}

#[tokio::test(start_paused = true)]
async fn w16_claiming_again_adds_nothing() {
    let (world, second, _) = orphaned().await;
    place(&world, 0, &second).await;
    let claimant = plain_claimant(&world, &second).await;
    let first = claimant.advance(&service(), &member(0)).await.unwrap();
    assert!(matches!(first, ClaimProgress::Prepared(_)), "{first:?}");
    let (once, writes) = (record(&world, 0).await, world.db.writes());
    for _ in 0..3 {
        let again = claimant.advance(&service(), &member(0)).await.unwrap();
        assert!(matches!(again, ClaimProgress::Prepared(_)), "{again:?}");
    }
    assert_eq!((record(&world, 0).await, world.db.writes()), (once.clone(), writes));
    let host = "orders-0.world.steadfast.internal".parse().unwrap();
    let holds = world.registry.resolve(&host, RecordKind::Addresses).await.unwrap();
    assert_eq!(holds, Some(address_set(once.address.unwrap().address)), "one address, and once");
}

/// The ancestor's race: a claimant that was paused after it had read takes the volume from the one that won.
#[tokio::test(start_paused = true)]
async fn w20_a_claimant_that_lost_detaches_nothing() {
    let (world, second, third) = orphaned().await;
    place(&world, 0, &second).await;
    let pause = Checkpoint::before("put", "members/orders/orders-0");
    let db = (Arc::new(world.db.clone()) as Arc<dyn MetadataDb>).wrap(pause.clone());
    let late = claimant(&world, &second, db, world.backends().unwrap()).await;
    let (name, of) = (member(0), service());
    let race = async {
        pause.reached.notified().await;
        // It has read, and is about to raise the epoch. Meanwhile the member is placed elsewhere and claimed.
        place(&world, 0, &third).await;
        let won = plain_claimant(&world, &third).await.advance(&of, &name).await.unwrap();
        assert!(matches!(won, ClaimProgress::Prepared(_)), "{won:?}");
        pause.go.notify_one();
    };
    let (lost, ()) = tokio::join!(late.advance(&of, &name), race);
    assert!(matches!(lost.unwrap(), ClaimProgress::Lost(..)));
    assert_eq!(attached_to(&world, 0).await, Attachment::Attached(third.clone()));
    assert_eq!(record(&world, 0).await.holder.unwrap().node, third);
}

#[tokio::test(start_paused = true)]
async fn w21_members_that_share_a_node_share_nothing_else() {
    let (mut world, server) = world(1).await;
    world.create(&server, "orders", 3).await.unwrap();
    let (members, ..) = identity(&world, &server).await;
    let volumes: BTreeSet<&str> = members.iter().map(|(_, volume, _)| volume.as_str()).collect();
    let addresses: BTreeSet<IpAddr> = members.iter().map(|(.., address)| *address).collect();
    assert_eq!((volumes.len(), addresses.len()), (3, 3));
    let devices: BTreeSet<_> = world.volumes.all().into_iter().map(|volume| volume.id).collect();
    assert_eq!(devices.len(), 3);
}

/// A former owner that was paused right before its change of the name does not overwrite the new owner's.
#[tokio::test(start_paused = true)]
async fn w22_a_name_is_changed_last_and_only_from_what_was_expected() {
    let (world, second, third) = orphaned().await;
    place(&world, 0, &second).await;
    let host = "orders-0.world.steadfast.internal".parse().unwrap();
    let holds = world.registry.resolve(&host, RecordKind::Addresses).await.unwrap().unwrap();
    // Somebody has taken the name away meanwhile, so both claimants want to set it.
    assert_eq!(
        world.registry.remove(&host, &holds).await.unwrap(),
        steadfast_core::registry::NameOutcome::Applied
    );
    let pause = Checkpoint::before("upsert", "orders-0");
    let plain = world.backends().unwrap();
    let backends = Backends { registry: plain.registry.clone().wrap(pause.clone()), ..plain };
    let late = claimant(&world, &second, Arc::new(world.db.clone()), backends).await;
    let (name, of) = (member(0), service());
    let race = async {
        pause.reached.notified().await;
        assert_eq!(
            attached_to(&world, 0).await,
            Attachment::Attached(second.clone()),
            "the volume comes first"
        );
        place(&world, 0, &third).await;
        let won = plain_claimant(&world, &third).await.advance(&of, &name).await.unwrap();
        assert!(matches!(won, ClaimProgress::Prepared(_)), "{won:?}");
        // And the new owner moves on: the name holds what the late one has never seen.
        let moved = address_set("10.9.9.9".parse().unwrap());
        let changed = world.registry.upsert(&host, &moved, Some(&holds)).await.unwrap();
        assert_eq!(changed, steadfast_core::registry::NameOutcome::Applied);
        pause.go.notify_one();
    };
    let (late, ()) = tokio::join!(late.advance(&of, &name), race);
    let late = late.unwrap();
    assert!(
        matches!(late, ClaimProgress::Waiting(Reason::NamePending, _) | ClaimProgress::Lost(..)),
        "{late:?}"
    );
    let now = world.registry.resolve(&host, RecordKind::Addresses).await.unwrap();
    assert_eq!(now, Some(address_set("10.9.9.9".parse().unwrap())));
}

#[tokio::test(start_paused = true)]
async fn w24_a_claim_that_waits_keeps_nobody_else_waiting() {
    let (world, second, _) = orphaned().await;
    world.volumes.hold_transitions(true);
    place(&world, 0, &second).await;
    let claimant = plain_claimant(&world, &second).await;
    let before = world.env.clock().monotonic();
    let waiting = claimant.advance(&service(), &member(0)).await.unwrap();
    assert!(matches!(waiting, ClaimProgress::Waiting(..)), "{waiting:?}");
    assert_eq!(
        world.env.clock().monotonic().since(before),
        Duration::ZERO,
        "it says so, and returns at once"
    );
}

#[tokio::test(start_paused = true)]
async fn w25_what_a_failed_claim_took_is_taken_over_by_the_next() {
    let (mut world, second, third) = orphaned().await;
    place(&world, 0, &second).await;
    let faults = Faults::new();
    faults.always(|call| call.operation == "assign", Fault::Refused(ErrorKind::Unavailable));
    let plain = world.backends().unwrap();
    let backends = Backends { ips: faults.around(plain.ips.clone()), ..plain };
    let failing = claimant(&world, &second, Arc::new(world.db.clone()), backends).await;
    failing.advance(&service(), &member(0)).await.unwrap_err();
    assert_eq!(attached_to(&world, 0).await, Attachment::Attached(second.clone()), "half-way");
    world.kill(&second);
    place(&world, 0, &third).await;
    let taken = plain_claimant(&world, &third).await.advance(&service(), &member(0)).await.unwrap();
    assert!(matches!(taken, ClaimProgress::Prepared(_)), "{taken:?}");
    assert_eq!(attached_to(&world, 0).await, Attachment::Attached(third.clone()));
    let after = record(&world, 0).await;
    assert_eq!(
        after.unreleased.len(),
        1,
        "nobody is forgotten, and nobody is left over: {:?}",
        after.unreleased
    );
    let address = after.address.unwrap().address;
    assert_eq!(world.ips.status(address).await.unwrap().unwrap().holder, Some(third));
}

#[tokio::test]
async fn w28_an_address_is_the_whole_address() {
    let ips = MemoryIps::new("10.0.0.4".parse().unwrap(), 100).unwrap();
    let owners: Vec<_> = (0..60).map(|n| format!("m-{n}").parse().unwrap()).collect();
    let node: NodeName = "node-1".parse().unwrap();
    for owner in &owners {
        let address = ips.allocate(owner, None).await.unwrap();
        let assigned = ips.assign(address, &node, None).await.unwrap();
        assert_eq!(assigned, steadfast_core::ip::AddressOutcome::Applied);
        // An address that is there already is no failure.
        let again = ips.assign(address, &node, None).await.unwrap();
        assert_eq!(again, steadfast_core::ip::AddressOutcome::Applied);
    }
    let four: IpAddr = "10.0.0.4".parse().unwrap();
    assert_eq!(ips.status(four).await.unwrap().unwrap().owner, owners[0]);
    assert_eq!(ips.unassign(four, &node).await.unwrap(), steadfast_core::ip::AddressOutcome::Applied);
    ips.release(four, &owners[0]).await.unwrap();
    let left: BTreeSet<IpAddr> = ips.list().await.unwrap().into_iter().map(|status| status.address).collect();
    assert_eq!(left.len(), 59);
    for other in ["10.0.0.40", "10.0.0.41", "10.0.0.5"] {
        assert!(left.contains(&other.parse().unwrap()), "{other} only begins like it");
    }
}
