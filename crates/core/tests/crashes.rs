//! Crash tests, written once and applied to every workflow: whoever carries it out is killed before and after every
//! single thing it does to a backend, another finishes, and the end is the same as without the crash.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use steadfast_core::backends::Backends;
use steadfast_core::control::{Control, ControlResult, Guard};
use steadfast_core::controller::ORPHAN_GRACE;
use steadfast_core::error::ErrorKind;
use steadfast_core::ids::{MemberName, Revision, ServiceName};
use steadfast_core::ip::IpProvider;
use steadfast_core::layer::fault::{Fault, Faults};
use steadfast_core::layer::{Access, Call};
use steadfast_core::metadata::MetadataDb;
use steadfast_core::model::{Operation, OperationState, ServiceState};
use steadfast_core::orchestrator::Orchestrator;
use steadfast_core::registry::Registry;
use steadfast_core::testing::TestEnvironment;
use steadfast_core::volume::Attachment;
use steadfast_core::volume::memory::MemoryVolumes;
use steadfast_core::world::{World, service_file};

/// What is asked for, or what happens.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Workflow {
    Create,
    Restart,
    Stop,
    Start,
    Delete,
    Undelete,
    Move,
    Promote,
    Switchover,
    Upgrade,
    RollBack,
    ScaleOut,
    ScaleIn,
    Grow,
    /// A member whose volumes are on a node's own disk, when that node begins another life.
    ReturnToDisk,
    /// A replica's disk is gone, and its data is had again from the primary.
    Rebuild,
    /// A voter's disk is gone; it learns from the others, and votes again.
    Relearn,
}

/// Who is killed.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Victim {
    Server,
    Agents,
}

const MINUTE: Duration = Duration::from_secs(60);

fn service() -> ServiceName {
    "orders".parse().unwrap()
}

fn file() -> serde_json::Value {
    let mut file = service_file("orders", 3);
    file["failover"] = serde_json::json!({"promote_after": "1s"});
    file
}

fn voters() -> serde_json::Value {
    let mut file = file();
    file["blueprint"] = "quorum".into();
    file["options"] = serde_json::json!({"learners": true});
    file
}

fn another_version() -> serde_json::Value {
    let mut file = file();
    file["blueprint"] = "plain@2".into();
    file
}

fn larger_volumes() -> serde_json::Value {
    let mut file = file();
    file["volumes"] = serde_json::json!([{"name": "data", "size": "2GiB"}]);
    file
}

fn member(ordinal: u32) -> MemberName {
    format!("orders-{ordinal}").parse().unwrap()
}

impl Workflow {
    /// The world that it happens in.
    async fn world(self) -> World {
        let volumes = match self {
            Workflow::ReturnToDisk | Workflow::Rebuild | Workflow::Relearn => MemoryVolumes::pinned(),
            _ => MemoryVolumes::that_grow(),
        };
        World::with_volumes(TestEnvironment::new(3).environment, 4, volumes).await.unwrap()
    }

    fn end(self) -> ServiceState {
        match self {
            Workflow::Stop => ServiceState::Stopped,
            Workflow::Delete => ServiceState::Deleted,
            _ => ServiceState::Healthy,
        }
    }

    /// What must have happened before.
    async fn prepare(self, world: &mut World, server: &Control) {
        if self == Workflow::Create {
            return;
        }
        let file = if self == Workflow::Relearn { voters() } else { file() };
        let created = server.apply(file, Guard::default()).await.unwrap();
        world.finish(server, &created.id).await.unwrap();
        let before = match self {
            Workflow::Start => server.stop(&service(), Guard::default()).await.unwrap(),
            Workflow::Undelete => server.delete(&service(), Guard::default()).await.unwrap(),
            Workflow::RollBack => {
                // Half-way: one member has gone over.
                let begun = Workflow::Upgrade.ask(server, Guard::default()).await.unwrap();
                while !world.nodes.values().any(|node| node.revision_of(&member(1)) == Some(Revision(2))) {
                    world.round(server).await.unwrap();
                    world.env.clock().sleep(Duration::from_millis(250)).await;
                }
                return drop(begun);
            }
            _ => return,
        };
        world.finish(server, &before.id).await.unwrap();
    }

    /// Asked of a server that stays: what is asked is recorded before it is answered.
    async fn begin(self, world: &mut World, server: &Control) {
        match self {
            Workflow::Move => {
                let node = world.holder(&service(), &member(0)).await.unwrap().unwrap();
                world.kill(&node);
            }
            Workflow::Promote => {
                for node in world.nodes.values_mut() {
                    node.broken.insert(member(0));
                }
            }
            Workflow::ReturnToDisk => {
                let node = world.holder(&service(), &member(0)).await.unwrap().unwrap();
                world.kill(&node);
                world.revive(&node).unwrap();
            }
            Workflow::Rebuild | Workflow::Relearn => {
                let node = world.holder(&service(), &member(2)).await.unwrap().unwrap();
                world.kill(&node);
                // The word is taken only once the death is known.
                while server.rebuild(&member(2), &node).await.is_err() {
                    world.round(server).await.unwrap();
                    world.env.clock().sleep(Duration::from_millis(250)).await;
                }
            }
            _ => drop(self.ask(server, Guard::default()).await.unwrap()),
        }
    }

    /// Asks for it, where it is something that users ask for.
    async fn ask(self, server: &Control, guard: Guard) -> ControlResult<Operation> {
        match self {
            Workflow::Create => server.apply(file(), guard).await,
            Workflow::Restart => server.restart(&service(), guard).await,
            Workflow::Stop => server.stop(&service(), guard).await,
            Workflow::Start => server.start(&service(), guard).await,
            Workflow::Delete => server.delete(&service(), guard).await,
            Workflow::Undelete => server.undelete(&service(), guard).await,
            Workflow::Upgrade => server.upgrade(&service(), another_version(), guard).await,
            Workflow::RollBack => server.roll_back(&service(), Revision(1), guard).await,
            Workflow::ScaleOut => server.scale(&service(), None, 4, guard).await,
            Workflow::ScaleIn => server.scale(&service(), None, 2, guard).await,
            Workflow::Switchover => server.switchover(&service(), None, None, guard).await,
            Workflow::Grow => server.apply(larger_volumes(), guard).await,
            Workflow::Move
            | Workflow::Promote
            | Workflow::ReturnToDisk
            | Workflow::Rebuild
            | Workflow::Relearn => {
                panic!("{self:?} is nothing that is asked for")
            }
        }
    }

    async fn is_done(self, world: &World, server: &Control) -> bool {
        let Ok(view) = server.service(&service()).await else { return false };
        // One that was rebuilt serves before it is on record that it has caught up.
        let store = world.store(Arc::new(world.db.clone())).unwrap();
        if store.members(&service()).await.unwrap().iter().any(|member| member.body.recloning) {
            return false;
        }
        if self == Workflow::Promote {
            return view.primary.is_some_and(|primary| primary != member(0));
        }
        view.state == self.end() && view.operation.is_none()
    }
}

/// Everything a run leaves behind that another run must leave the same.
#[derive(Debug, PartialEq)]
struct End {
    volumes: usize,
    sizes: Vec<u64>,
    attached: usize,
    addresses: usize,
    names: BTreeSet<String>,
    workloads: usize,
    unreleased: Vec<usize>,
    generations: Vec<u64>,
    /// Who has not caught up.
    recloning: Vec<bool>,
    /// Whose engine runs with a vote.
    votes: Vec<bool>,
    revisions: Vec<u64>,
}

async fn end(world: &World) -> End {
    let store = world.store(Arc::new(world.db.clone())).unwrap();
    let members = store.members(&service()).await.unwrap();
    let zone = "world.steadfast.internal".parse().unwrap();
    let volumes = world.volumes.all();
    End {
        volumes: volumes.len(),
        sizes: volumes.iter().map(|volume| volume.spec.size_bytes).collect(),
        attached: volumes.iter().filter(|volume| volume.attachment != Attachment::Free).count(),
        addresses: world.ips.list().await.unwrap().len(),
        names: world
            .registry
            .records(&zone)
            .await
            .unwrap()
            .iter()
            .map(|(name, _)| name.to_string())
            .collect(),
        workloads: world.orchestrator.services().await.unwrap().len(),
        unreleased: members.iter().map(|member| member.body.unreleased.len()).collect(),
        generations: members.iter().map(|member| member.body.generation.0).collect(),
        recloning: members.iter().map(|member| member.body.recloning).collect(),
        votes: members
            .iter()
            .map(|member| world.nodes.values().any(|node| node.votes(&member.body.name)))
            .collect(),
        revisions: members.iter().map(|member| member.body.revision.0).collect(),
    }
}

/// The servers' leases are left out: they are renewed all the time, and their loss is tested by silence.
fn is_write(call: &Call<'_>) -> bool {
    let subject = call.subject.to_string();
    let heartbeat = ["/leases/", "/servers/"].iter().any(|part| subject.contains(part));
    call.access == Access::Write && !heartbeat
}

/// Backends that answer `writes` changes and then nothing ever again: their user is dead.
fn mortal(world: &World, faults: &Faults, writes: u32) -> (Arc<dyn MetadataDb>, Backends) {
    let made = AtomicU32::new(0);
    faults.always(
        move |call| {
            let dead = made.load(Ordering::Relaxed) >= writes;
            if !dead && is_write(call) {
                made.fetch_add(1, Ordering::Relaxed);
            }
            dead
        },
        Fault::Refused(ErrorKind::Unavailable),
    );
    around(world, faults)
}

fn around(world: &World, faults: &Faults) -> (Arc<dyn MetadataDb>, Backends) {
    let plain = world.backends().unwrap();
    let backends = Backends {
        volumes: faults.around(plain.volumes),
        ips: faults.around(plain.ips),
        registry: faults.around(plain.registry),
        orchestrator: faults.around(plain.orchestrator),
        zone: plain.zone,
    };
    (faults.around(Arc::new(world.db.clone()) as Arc<dyn MetadataDb>), backends)
}

/// One run in which the victim does `writes` things and dies. `None`: the workflow was done before.
async fn run(workflow: Workflow, victim: Victim, writes: u32) -> Option<End> {
    let mut world = workflow.world().await;
    let first = world.plain_server("server-1").unwrap();
    workflow.prepare(&mut world, &first).await;
    workflow.begin(&mut world, &first).await;
    let faults = Faults::new();
    match victim {
        Victim::Server => {
            let (db, backends) = mortal(&world, &faults, writes);
            let doomed = world.server("server-1", db, backends).unwrap();
            run_until_dead(workflow, &mut world, &doomed, &faults).await;
        }
        Victim::Agents => {
            let (db, backends) = mortal(&world, &faults, writes);
            restart_agents(&mut world, db, &backends);
            run_until_dead(workflow, &mut world, &first, &faults).await;
            let plain = world.backends().unwrap();
            let db = Arc::new(world.db.clone());
            restart_agents(&mut world, db, &plain);
        }
    }
    if faults.fired() == 0 {
        return None;
    }
    let second = world.plain_server("server-2").unwrap();
    let begun = world.env.clock().monotonic();
    while !workflow.is_done(&world, &second).await {
        world.round(&second).await.unwrap();
        assert_at_most_one_writer(&world);
        let waited = world.env.clock().monotonic().since(begun);
        assert!(
            waited < MINUTE * 5,
            "{workflow:?} is stuck after {writes} writes of {victim:?}: {:?}",
            second.service(&service()).await
        );
        world.env.clock().sleep(Duration::from_millis(250)).await;
    }
    for _ in 0..8 {
        world.round(&second).await.unwrap();
    }
    assert_operations_ended(&second).await;
    Some(end(&world).await)
}

/// Every operation on record has ended, or is its service's.
async fn assert_operations_ended(server: &Control) {
    let running = match server.store().service(&service()).await.unwrap() {
        Some(found) => found.body.operation.clone(),
        None => None,
    };
    for operation in server.operations(None).await.unwrap() {
        assert!(
            operation.state.is_final() || running.as_ref() == Some(&operation.id),
            "nobody will ever end {operation:?}"
        );
    }
}

/// Rounds for as long as a server takes to end what no service refers to.
async fn tidy(world: &mut World, server: &Control) {
    for _ in 0..2 {
        world.round(server).await.unwrap();
        server.controller().tidy_operations().await.unwrap();
        for _ in 0..8 {
            world.env.clock().sleep(ORPHAN_GRACE / 8).await;
            world.round(server).await.unwrap();
        }
    }
    server.controller().tidy_operations().await.unwrap();
}

fn asked_as(key: &str) -> Guard {
    Guard { idempotency_key: Some(key.to_owned()), ..Guard::default() }
}

/// When a user whose server died asks again.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Again {
    AtOnce,
    AfterTheGrace,
}

/// A server dies after `writes` writes of the request itself; the user asks another one again, under the same key.
/// `None`: the request was answered before.
async fn ask_twice(workflow: Workflow, writes: u32, again: Again) -> Option<End> {
    let mut world = workflow.world().await;
    let first = world.plain_server("server-1").unwrap();
    workflow.prepare(&mut world, &first).await;
    let faults = Faults::new();
    let (db, backends) = mortal(&world, &faults, writes);
    let doomed = world.server("server-1", db, backends).unwrap();
    let answer = workflow.ask(&doomed, asked_as("again")).await;
    if faults.fired() == 0 {
        answer.unwrap();
        return None;
    }
    let second = world.plain_server("server-2").unwrap();
    if again == Again::AfterTheGrace {
        tidy(&mut world, &second).await;
        assert_operations_ended(&second).await;
        let operations = operations_asked_for(&second, workflow).await;
        let members = second.store().members(&service()).await.unwrap();
        let done = match workflow {
            Workflow::Restart => members.iter().all(|member| member.body.generation.0 > 1),
            _ => workflow.is_done(&world, &second).await,
        };
        for operation in &operations {
            assert_eq!(operation.state == OperationState::Succeeded, done, "{operation:?}");
            assert_eq!(operation.is_unbegun(), !done, "{operation:?}");
        }
    }
    let asked = workflow.ask(&second, asked_as("again")).await.unwrap();
    let ended = world.finish(&second, &asked.id).await.unwrap();
    assert_eq!(ended.state, OperationState::Succeeded, "{workflow:?} after {writes} writes: {ended:?}");
    assert_eq!(ended.failure, None);
    for _ in 0..8 {
        world.round(&second).await.unwrap();
    }
    tidy(&mut world, &second).await;
    assert_operations_ended(&second).await;
    assert_eq!(
        operations_asked_for(&second, workflow).await.len(),
        1,
        "what is asked twice is one operation"
    );
    Some(end(&world).await)
}

/// The operations that the request under test has made.
async fn operations_asked_for(server: &Control, workflow: Workflow) -> Vec<Operation> {
    let mut all = server.operations(None).await.unwrap();
    all.retain(|operation| operation.idempotency_key.is_some());
    assert!(all.len() <= 1, "{workflow:?}: {all:?}");
    all
}

async fn every_crash_of_the_request(workflow: Workflow) {
    let calm = calm(workflow, None).await;
    for again in [Again::AtOnce, Again::AfterTheGrace] {
        for writes in 0.. {
            match ask_twice(workflow, writes, again).await {
                Some(end) => {
                    assert_eq!(end, calm, "{workflow:?} asked again {again:?} after {writes} writes")
                }
                None => {
                    assert!(writes > 1, "nothing was ever killed: the test tests nothing");
                    break;
                }
            }
        }
    }
}

/// A stop overtakes a restart; its server dies at every point, also before it has said that the restart is over.
#[tokio::test(start_paused = true)]
async fn what_was_overtaken_ends_whenever_the_server_that_did_it_is_killed() {
    for writes in 0.. {
        let mut world = World::new(TestEnvironment::new(3).environment, 4).await.unwrap();
        let first = world.plain_server("server-1").unwrap();
        Workflow::Stop.prepare(&mut world, &first).await;
        let restart = first.restart(&service(), Guard::default()).await.unwrap();
        let faults = Faults::new();
        let (db, backends) = mortal(&world, &faults, writes);
        let doomed = world.server("server-1", db, backends).unwrap();
        let answer = doomed.stop(&service(), Guard::default()).await;
        let second = world.plain_server("server-2").unwrap();
        tidy(&mut world, &second).await;
        assert_operations_ended(&second).await;
        let overtaken = second.service(&service()).await.unwrap().state == ServiceState::Stopped;
        let expected = if overtaken { OperationState::Superseded } else { OperationState::Succeeded };
        assert_eq!(second.operation(&restart.id).await.unwrap().state, expected, "after {writes} writes");
        if faults.fired() == 0 {
            answer.unwrap();
            assert!(writes > 2, "nothing was ever killed: the test tests nothing");
            return;
        }
    }
}

fn restart_agents(world: &mut World, db: Arc<dyn MetadataDb>, backends: &Backends) {
    let store = world.store(db).unwrap();
    for node in world.nodes.values_mut() {
        node.restart_agent(store.clone(), backends.clone());
    }
}

async fn run_until_dead(workflow: Workflow, world: &mut World, server: &Control, faults: &Faults) {
    let begun = world.env.clock().monotonic();
    while faults.fired() == 0 && world.env.clock().monotonic().since(begun) < MINUTE {
        // A dying server fails its round; that is the point.
        drop(world.round(server).await);
        assert_at_most_one_writer(world);
        if faults.fired() == 0 && workflow.is_done(world, server).await {
            return;
        }
        world.env.clock().sleep(Duration::from_millis(250)).await;
    }
}

fn assert_at_most_one_writer(world: &World) {
    for ordinal in 0..4 {
        let running = world.nodes.values().filter(|node| node.runs(&member(ordinal))).count();
        assert!(running <= 1, "{} runs {running} times", member(ordinal));
    }
    let writers = (0..4)
        .map(|ordinal| world.nodes.values().filter(|node| node.is_writable(&member(ordinal))).count())
        .sum::<usize>();
    assert!(writers <= 1, "{writers} members take writes");
}

/// A run of every length until one in which nobody had to die.
async fn every_crash(workflow: Workflow, victim: Victim) {
    let calm = calm(workflow, None).await;
    for writes in 0.. {
        assert!(writes < 2_000, "the workflow does not end");
        match run(workflow, victim, writes).await {
            Some(end) => assert_eq!(end, calm, "{workflow:?}: {victim:?} killed after {writes} writes"),
            None => {
                assert!(writes > 1, "nothing was ever killed: the test tests nothing");
                return;
            }
        }
    }
}

/// A run in which nobody dies, with a fault for every write of everybody.
async fn calm(workflow: Workflow, fault: Option<Fault>) -> End {
    let mut world = workflow.world().await;
    let first = world.plain_server("server-1").unwrap();
    workflow.prepare(&mut world, &first).await;
    workflow.begin(&mut world, &first).await;
    let faults = Faults::new();
    if let Some(fault) = fault {
        faults.always(is_write, fault);
    }
    let (db, backends) = around(&world, &faults);
    restart_agents(&mut world, Arc::clone(&db), &backends);
    let server = world.server("server-1", db, backends).unwrap();
    let begun = world.env.clock().monotonic();
    while !workflow.is_done(&world, &server).await {
        world.round(&server).await.unwrap();
        assert_at_most_one_writer(&world);
        assert!(world.env.clock().monotonic().since(begun) < MINUTE * 5, "{workflow:?} is stuck");
        world.env.clock().sleep(Duration::from_millis(250)).await;
    }
    for _ in 0..8 {
        world.round(&server).await.unwrap();
    }
    assert_eq!(faults.fired() > 0, fault.is_some());
    end(&world).await
}

macro_rules! for_every_request {
    ($($name:ident: $workflow:ident),+ $(,)?) => {
        mod asked_again {
            use super::*;

            $(
                #[tokio::test(start_paused = true)]
                async fn $name() {
                    every_crash_of_the_request(Workflow::$workflow).await;
                }
            )+
        }
    };
}

for_every_request! {
    create: Create,
    restart: Restart,
    stop: Stop,
    start: Start,
    delete: Delete,
    undelete: Undelete,
}

macro_rules! for_every_workflow {
    ($($name:ident: $workflow:ident),+ $(,)?) => {
        $(
            mod $name {
                use super::*;

                #[tokio::test(start_paused = true)]
                async fn is_finished_when_its_server_is_killed_at_any_point() {
                    every_crash(Workflow::$workflow, Victim::Server).await;
                }

                #[tokio::test(start_paused = true)]
                async fn is_finished_when_the_agents_are_killed_at_any_point() {
                    every_crash(Workflow::$workflow, Victim::Agents).await;
                }

                #[tokio::test(start_paused = true)]
                async fn ends_the_same_when_everything_is_done_twice() {
                    let once = calm(Workflow::$workflow, None).await;
                    assert_eq!(calm(Workflow::$workflow, Some(Fault::Repeated)).await, once);
                }
            }
        )+
    };
}

for_every_workflow! {
    create: Create,
    restart: Restart,
    stop: Stop,
    start: Start,
    delete: Delete,
    undelete: Undelete,
    moving: Move,
    promotion: Promote,
    switchover: Switchover,
    upgrade: Upgrade,
    roll_back: RollBack,
    scale_out: ScaleOut,
    scale_in: ScaleIn,
    growth: Grow,
    return_to_disk: ReturnToDisk,
    rebuild: Rebuild,
    relearning: Relearn,
}
