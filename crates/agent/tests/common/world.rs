//! A cluster in one process: records in memory, real volumes, real guards, real engines.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};

use serde_json::json;
use steadfast_agent::agent::{self, AgentParts};
use steadfast_agent::config::{AgentConfig, AgentTimers};
use steadfast_agent::guards::ProcessGuards;
use steadfast_agent::host::{LocalHost, Preparer};
use steadfast_agent::node_dir::{NodeDir, NodeHold};
use steadfast_agent::seams::NoSecrets;
use steadfast_backend_embedded::volumes::DirectoryVolumes;
use steadfast_core::Environment;
use steadfast_core::backends::Backends;
use steadfast_core::ids::{
    Epoch, Generation, GroupName, MemberName, NodeName, Revision, RoleTerm, ServiceName,
};
use steadfast_core::ip::memory::MemoryIps;
use steadfast_core::metadata::MetadataDb;
use steadfast_core::metadata::memory::MemoryDb;
use steadfast_core::model::{
    AddressBinding, Blueprint, Desired, EventRing, Group, Leadership, Member, MemberPhase, MemberStatus,
    Reason, RolePhase, RoleState, RollingOrder, Service, ServiceSpec, SpecRevision, StoredPort, Topology,
    VolumeBinding,
};
use steadfast_core::orchestrator::{Placement, Run, Workload};
use steadfast_core::registry::memory::MemoryRegistry;
use steadfast_core::registry::{DomainName, Registry};
use steadfast_core::runtime::{Shutdown, Timestamp};
use steadfast_core::store::Store;
use steadfast_core::volume::{VolumeProvider, VolumeSpec};
use steadfast_orchestrator_process::{LockProver, ProcessOrchestrator};

use super::redis::{RedisSource, ports};
use super::{DEADLINE, program};

/// An agent that runs.
pub struct RunningAgent {
    pub dir: NodeDir,
    env: Environment,
    task: tokio::task::JoinHandle<()>,
    _hold: NodeHold,
}

impl RunningAgent {
    /// Stops the agent; what it has started goes on.
    pub async fn stop(self) {
        self.env.tasks().stop().await;
        self.task.await.unwrap();
    }
}

/// A cluster with one service.
pub struct World {
    pub folder: tempfile::TempDir,
    pub env: Environment,
    pub store: Store,
    pub volumes: Arc<DirectoryVolumes>,
    pub backends: Backends,
    pub timers: AgentTimers,
    pub program: PathBuf,
    nodes: Vec<NodeName>,
}

impl Drop for World {
    fn drop(&mut self) {
        let end = Instant::now() + DEADLINE;
        let guards = self.nodes.iter().map(|node| self.dir(node).guards());
        let locks: Vec<PathBuf> = guards
            .filter_map(|folder| std::fs::read_dir(folder).ok())
            .flat_map(|entries| entries.flatten().map(|entry| entry.path().join("lock")))
            .collect();
        for lock in &locks {
            while steadfast_lock::is_held(lock).unwrap_or(false) && Instant::now() < end {
                drop(steadfast_lock::kill_holders(&[lock]));
                std::thread::sleep(Duration::from_millis(5));
            }
        }
    }
}

/// A network of loopback addresses that no other test of this machine uses right now.
fn network() -> IpAddr {
    static NEXT: AtomicU8 = AtomicU8::new(1);
    let [_, _, high, low] = std::process::id().to_be_bytes();
    IpAddr::V4(Ipv4Addr::new(127, 64 | (high & 0x3f), low, NEXT.fetch_add(8, Ordering::Relaxed)))
}

impl World {
    pub async fn new() -> Self {
        Self::over(Arc::new(MemoryDb::new())).await
    }

    /// A cluster with its records in `db`.
    pub async fn over(db: Arc<dyn MetadataDb>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let env = Environment::system(rand());
        let store = Store::new(db, env.entropy().fork("store"), "test".parse().unwrap()).unwrap();
        let volumes = Arc::new(DirectoryVolumes::open(folder.path(), env.clone()).unwrap());
        let registry = MemoryRegistry::new();
        let zone: DomainName = "test.steadfast.internal".parse().unwrap();
        registry.ensure_zone(&zone).await.unwrap();
        let prover = Arc::new(LockProver::new(folder.path().join("nodes")));
        let orchestrator = ProcessOrchestrator::new(env.clone(), store.clone(), prover);
        let backends = Backends {
            volumes: volumes.clone(),
            ips: Arc::new(MemoryIps::new(network(), 8).unwrap()),
            registry: Arc::new(registry),
            orchestrator: Arc::new(orchestrator),
            zone,
        };
        let timers = AgentTimers {
            lease: Duration::from_secs(1),
            look: Duration::from_millis(100),
            look_closely: Duration::from_millis(20),
            answer: Duration::from_millis(500),
            liveness: Duration::from_secs(2),
            guard_silence: Duration::from_secs(2),
            lock_wait: Duration::from_millis(500),
            first_delay: Duration::from_millis(50),
            longest_delay: Duration::from_millis(400),
            ..AgentTimers::default()
        };
        let program = PathBuf::from("/usr/bin/redis-server");
        World { folder, env, store, volumes, backends, timers, program, nodes: Vec::new() }
    }

    pub fn dir(&self, node: &NodeName) -> NodeDir {
        NodeDir::new(self.folder.path().join("nodes").join(node.as_str()))
    }

    /// Starts an agent on `node`.
    pub fn agent(&mut self, node: &str) -> RunningAgent {
        let node: NodeName = node.parse().unwrap();
        let env = Environment::system(rand());
        let dir = self.dir(&node);
        let hold = dir.hold(env.entropy()).unwrap();
        let engines = Arc::new(RedisSource { program: self.program.clone() });
        let parts = AgentParts {
            config: AgentConfig {
                node: node.clone(),
                zone: "a".parse().unwrap(),
                labels: BTreeMap::new(),
                engines: BTreeMap::new(),
                version: "test".to_owned(),
                logs: self.folder.path().join("logs"),
                timers: self.timers,
                fence_by_lease: false,
            },
            dir: dir.clone(),
            incarnation: hold.incarnation().clone(),
            env: env.clone(),
            store: self.store.clone(),
            backends: self.backends.clone(),
            engines: engines.clone(),
            secrets: Arc::new(NoSecrets),
            guards: Arc::new(ProcessGuards::new(env.clone(), dir.clone(), program())),
            host: Arc::new(LocalHost::new(env.clone(), Preparer::InProcess(engines))),
        };
        if !self.nodes.contains(&node) {
            self.nodes.push(node);
        }
        let shutdown: Shutdown = env.tasks().shutdown();
        let task = tokio::spawn(async move { agent::run(parts, shutdown).await.unwrap() });
        RunningAgent { dir, env, task, _hold: hold }
    }

    /// Records a service of `replicas` members, its volumes and addresses, with the first member as its leader.
    pub async fn create(&self, replicas: u32) {
        let service = ServiceName::service();
        let revision = revision(&service);
        let key = self.store.revision_key(&revision.service_id, Revision(1)).unwrap();
        let written = self.store.records().create(&key, &revision).await.unwrap();
        assert!(matches!(written, steadfast_core::metadata::WriteOutcome::Applied(_)));
        for ordinal in 0..replicas {
            let member = self.member_record(ordinal).await;
            let key = self.store.member_key(&service, &member.name).unwrap();
            drop(self.store.records().create(&key, &member).await.unwrap());
        }
        let leader = RoleState {
            term: RoleTerm(1),
            phase: RolePhase::Bootstrapping,
            leader: Some(name(0)),
            previous: None,
            successor: None,
            failures: 0,
            since: Timestamp::UNIX_EPOCH,
        };
        // As stored, so that fields which are added later take their defaults.
        let record: Service = serde_json::from_value(json!({
            "id": "s1",
            "name": service,
            "revision": 1,
            "desired": Desired::Running,
            "groups": {"main": Group::of(replicas)},
            "roles": {"main": leader},
            "paused": false,
            "operation": null,
            "bootstrapped": false,
            "deleted": false,
            "created_at": Timestamp::UNIX_EPOCH,
            "events": EventRing::default(),
        }))
        .unwrap();
        let key = self.store.service_key(&service).unwrap();
        drop(self.store.records().create(&key, &record).await.unwrap());
    }

    async fn member_record(&self, ordinal: u32) -> Member {
        let id = format!("m{ordinal}").parse().unwrap();
        let spec = VolumeSpec {
            cluster: self.store.cluster().clone(),
            member: id,
            member_name: name(ordinal),
            name: "data".parse().unwrap(),
            size_bytes: 1 << 20,
            class: "default".to_owned(),
            zone: None,
        };
        let volume = self.volumes.ensure(&spec).await.unwrap();
        let address = self.backends.ips.allocate(&spec.member, None).await.unwrap();
        Member {
            id: spec.member,
            name: name(ordinal),
            service_id: "s1".parse().unwrap(),
            service: ServiceName::service(),
            group: GroupName::main(),
            ordinal,
            epoch: Epoch(0),
            phase: MemberPhase::Pending,
            placed_on: None,
            run: true,
            generation: Generation(1),
            revision: Revision(1),
            holder: None,
            unreleased: Vec::new(),
            volumes: vec![VolumeBinding::of(spec.name, volume)],
            address: Some(AddressBinding { address, last_holder: None }),
            initialised: None,
            last_node: None,
            zone: None,
            recloning: false,
            phase_since: Timestamp::UNIX_EPOCH,
            events: EventRing::default(),
            extra: serde_json::Map::new(),
        }
    }

    pub async fn change_member(&self, ordinal: u32, change: impl Fn(&mut Member)) {
        let service = ServiceName::service();
        let key = self.store.member_key(&service, &name(ordinal)).unwrap();
        loop {
            let before = self.store.member(&service, &name(ordinal)).await.unwrap().unwrap();
            let mut after = Member::clone(&before.body);
            change(&mut after);
            let written = self.store.write(&key, &before, &after).await.unwrap();
            if matches!(written, steadfast_core::metadata::WriteOutcome::Applied(_)) {
                return;
            }
        }
    }

    pub async fn change_role(&self, change: impl Fn(&mut RoleState)) {
        let service = ServiceName::service();
        let key = self.store.service_key(&service).unwrap();
        loop {
            let before = self.store.service(&service).await.unwrap().unwrap();
            let mut after = Service::clone(&before.body);
            change(after.roles.get_mut(&GroupName::main()).unwrap());
            let written = self.store.write(&key, &before, &after).await.unwrap();
            if matches!(written, steadfast_core::metadata::WriteOutcome::Applied(_)) {
                return;
            }
        }
    }

    /// Places members on nodes (`None`: nowhere) and tells the orchestrator.
    pub async fn place(&self, places: &[Option<&str>]) {
        let mut placements = Vec::new();
        for (ordinal, place) in places.iter().enumerate() {
            let ordinal = u32::try_from(ordinal).unwrap();
            let node: Option<NodeName> = place.map(|node| node.parse().unwrap());
            self.change_member(ordinal, |member| member.placed_on = node.clone()).await;
            let member = self.member(ordinal).await;
            placements.extend(node.map(|node| Placement {
                member: member.name.clone(),
                revision: member.revision,
                node,
                run: if member.run { Run::Started } else { Run::Stopped },
                generation: member.generation,
            }));
        }
        let workload = Workload { service: ServiceName::service(), placements };
        self.backends.orchestrator.apply(&workload).await.unwrap();
    }

    pub async fn member(&self, ordinal: u32) -> Arc<Member> {
        self.store.member(&ServiceName::service(), &name(ordinal)).await.unwrap().unwrap().body
    }

    pub async fn address(&self, ordinal: u32) -> IpAddr {
        self.member(ordinal).await.address.as_ref().unwrap().address
    }

    pub async fn status(&self, node: &str, ordinal: u32) -> Option<MemberStatus> {
        let status = self.store.node_status(&node.parse().unwrap()).await.unwrap()?;
        status.body.members.get(&name(ordinal)).cloned()
    }

    /// The member's status on a node, once it is as it shall be.
    pub async fn until(
        &self,
        what: &str,
        node: &str,
        ordinal: u32,
        condition: impl Fn(&MemberStatus) -> bool,
    ) -> MemberStatus {
        let end = Instant::now() + DEADLINE;
        loop {
            let status = self.status(node, ordinal).await;
            match status {
                Some(status) if condition(&status) => return status,
                status => assert!(
                    Instant::now() < end,
                    "not in time: {what}; {node} says {status:?}; {:?}; {}",
                    self.member(ordinal).await,
                    self.log(ordinal)
                ),
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Waits until a node's agent has given this many signs of life more.
    pub async fn beats(&self, node: &str, more: u64) {
        let node = node.parse().unwrap();
        let beat = async || self.store.node_status(&node).await.unwrap().map_or(0, |status| status.body.beat);
        let (before, end) = (beat().await, Instant::now() + DEADLINE);
        while beat().await < before + more {
            assert!(Instant::now() < end, "{node} gives no signs of life");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    pub async fn serving(&self, node: &str, ordinal: u32) -> MemberStatus {
        self.until("it serves", node, ordinal, |status| status.ready && status.phase == MemberPhase::Serving)
            .await
    }

    pub async fn blocked(&self, node: &str, ordinal: u32, reason: &Reason) -> String {
        let is = |status: &MemberStatus| status.blocked.as_ref().is_some_and(|(code, _)| code == reason);
        let status = self.until(reason.as_str(), node, ordinal, is).await;
        status.blocked.unwrap().1
    }

    /// Waits until a node has nothing more to do with a member.
    pub async fn until_gone(&self, node: &str, ordinal: u32) {
        let end = Instant::now() + DEADLINE;
        while let Some(status) = self.status(node, ordinal).await {
            assert!(Instant::now() < end, "not in time: {node} forgets {ordinal}; {status:?}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    pub async fn until_member(
        &self,
        what: &str,
        ordinal: u32,
        condition: impl Fn(&Member) -> bool,
    ) -> Arc<Member> {
        let end = Instant::now() + DEADLINE;
        loop {
            let member = self.member(ordinal).await;
            if condition(&member) {
                return member;
            }
            assert!(Instant::now() < end, "not in time: {what}; {member:?}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    pub fn log(&self, ordinal: u32) -> String {
        let path = self.folder.path().join("logs").join(name(ordinal).as_str()).join("current.log");
        std::fs::read_to_string(path).unwrap_or_default()
    }

    pub fn volume(&self, ordinal: u32) -> PathBuf {
        self.folder.path().join("volumes").join(format!("m{ordinal}.data"))
    }
}

/// The service of these tests.
pub trait TheService {
    fn service() -> ServiceName;
}

impl TheService for ServiceName {
    fn service() -> ServiceName {
        "orders".parse().unwrap()
    }
}

pub fn name(ordinal: u32) -> MemberName {
    MemberName::of(&ServiceName::service(), &GroupName::main(), ordinal).unwrap()
}

/// The processes that hold a lock, as long as it is held by the same tree.
pub fn holders(path: &Path) -> std::collections::BTreeSet<i32> {
    steadfast_lock::holders(path).unwrap()
}

fn revision(service: &ServiceName) -> SpecRevision {
    let spec = json!({"apiVersion": "steadfast/v1", "name": service, "blueprint": "redis@7", "replicas": 1});
    SpecRevision {
        service_id: "s1".parse().unwrap(),
        revision: Revision(1),
        spec: ServiceSpec::from_input(spec).unwrap(),
        blueprint: Blueprint {
            name: "redis".parse().unwrap(),
            version: "7".to_owned(),
            digest: "0".to_owned(),
            leadership: Leadership::Steadfast,
            topology: Topology::PrimaryReplicas,
            ports: ports().into_iter().map(|(name, port)| StoredPort { name, port, client: true }).collect(),
            volumes: vec![("data".parse().unwrap(), 1 << 20)],
            confirming_replicas: 0,
            learners: false,
            rolling: RollingOrder::default(),
            start_deadline_ms: 30_000,
        },
        options: BTreeMap::new(),
        created_at: Timestamp::UNIX_EPOCH,
    }
}

fn rand() -> [u8; 32] {
    let mut seed = [0; 32];
    let mut source = std::fs::File::open("/dev/urandom").unwrap();
    std::io::Read::read_exact(&mut source, &mut seed).unwrap();
    seed
}
