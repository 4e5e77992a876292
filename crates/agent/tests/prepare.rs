//! Preparing data in a process of its own: what makes data holds the volume, whoever dies.
//!
//! This file has its own `main`, since the process under test is this program again.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test with a main of its own")]

mod common;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use async_trait::async_trait;
use common::{Bench, number_in, runs};
use serde_json::Value;
use steadfast_agent::guard::GuardedVolume;
use steadfast_agent::guards::{GuardState, Guards};
use steadfast_agent::host::{FirstData, LocalHost, MountedVolume, NodeHost, PrepareJob, Preparer};
use steadfast_agent::seams::{EngineSource, MadeEngine};
use steadfast_core::Environment;
use steadfast_core::engine::{
    Command, ConfigFile, Engine, EngineContext, EngineView, Peer, Prepared, StopSignal, WantedRole,
};
use steadfast_core::error::{ErrorKind, Result};
use steadfast_core::ids::{Epoch, GroupName};
use steadfast_core::model::{Durability, Reason, SpecRevision};
use steadfast_lock::{holders, is_held};

const NAME: &str = "what_prepares_data_holds_the_volume";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    if arguments.first().is_some_and(|first| first == "prepare") {
        let code = runtime.block_on(steadfast_agent::prepare::run(&Environment::system([1; 32]), &Source));
        return ExitCode::from(u8::try_from(code).unwrap_or(1));
    }
    // What test runners ask before they run anything.
    if arguments.iter().any(|argument| argument == "--list") {
        if !arguments.iter().any(|argument| argument == "--ignored") {
            println!("{NAME}: test");
        }
        return ExitCode::SUCCESS;
    }
    runtime.block_on(async {
        data_is_made_and_signed().await;
        a_volume_of_a_higher_epoch_is_left_alone().await;
        what_outlives_a_dead_agent_keeps_the_volume_locked().await;
    });
    println!("{NAME}: ok");
    ExitCode::SUCCESS
}

#[derive(Debug)]
struct Source;

#[async_trait]
impl EngineSource for Source {
    async fn definition(&self, _revision: &SpecRevision) -> Result<Value> {
        Ok(Value::Null)
    }

    fn engine(&self, definition: &Value, context: EngineContext) -> Result<MadeEngine> {
        let slow = definition == "slow";
        Ok(MadeEngine { engine: Arc::new(Shell { slow, context }), run_as: None })
    }
}

/// An engine whose data is made by a shell.
#[derive(Debug)]
struct Shell {
    slow: bool,
    context: EngineContext,
}

impl Shell {
    fn data(&self) -> PathBuf {
        self.context.volumes.values().next().unwrap().clone()
    }
}

#[async_trait]
impl Engine for Shell {
    fn config(&self) -> Result<Vec<ConfigFile>> {
        let path = self.context.run_dir.join("config");
        Ok(vec![ConfigFile { path, content: self.context.secrets["password"].clone(), mode: 0o600 }])
    }

    fn start_command(&self) -> Result<Command> {
        Ok(Command::default())
    }

    async fn version(&self) -> Result<String> {
        Ok("1.2".to_owned())
    }

    async fn initialise(&self) -> Result<Prepared> {
        let script = if self.slow { "echo $$ > making; exec sleep 600" } else { "echo made > data" };
        let status = tokio::process::Command::new("/bin/sh")
            .args(["-c", script])
            .current_dir(self.data())
            .status()
            .await
            .unwrap();
        assert!(status.success());
        Ok(Prepared { engine_version: "1.2".to_owned(), remarks: Vec::new() })
    }

    async fn join(&self, _from: Option<&Peer>) -> Result<Prepared> {
        self.initialise().await
    }

    async fn reconcile_data(&self, _wanted: &WantedRole) -> Result<Vec<(Reason, String)>> {
        Ok(vec![(Reason::Rewound, "for the test".to_owned())])
    }

    async fn observe(&self) -> EngineView {
        EngineView::default()
    }

    async fn assume(&self, _wanted: &WantedRole) -> Result<()> {
        Ok(())
    }

    fn stop(&self) -> (StopSignal, u64) {
        (StopSignal::Term, 1_000)
    }
}

fn host(bench: &Bench) -> LocalHost {
    let program = std::env::current_exe().unwrap();
    LocalHost::new(bench.env.clone(), Preparer::Program(program, vec!["prepare".to_owned()]))
}

fn job(bench: &Bench, definition: &str) -> PrepareJob {
    let volume = MountedVolume::new("data".parse().unwrap(), bench.volume(), None);
    let me = Peer { name: bench.member.clone(), ordinal: 0, host: "orders-0.test".to_owned(), address: None };
    let context = EngineContext {
        cluster: "test".parse().unwrap(),
        service: "orders".parse().unwrap(),
        group: GroupName::main(),
        member: me.clone(),
        peers: vec![me],
        node: "node-1".parse().unwrap(),
        zone: "a".parse().unwrap(),
        epoch: Epoch(4),
        learner: false,
        durability: Durability::Strict,
        options: BTreeMap::new(),
        ports: BTreeMap::new(),
        volumes: BTreeMap::from([(volume.name.clone(), volume.data())]),
        run_dir: bench.dir.run(&bench.member),
        secrets: BTreeMap::from([("password".to_owned(), "geheim".to_owned())]),
    };
    PrepareJob {
        definition: Value::from(definition),
        context,
        member: "m0".parse().unwrap(),
        service: "s1".parse().unwrap(),
        volumes: vec![volume],
        guard_lock: bench.dir.guard_lock(&bench.member),
        lock_wait_ms: 100,
        first: Some(FirstData::Initialise),
        wanted: WantedRole::Fenced,
    }
}

async fn data_is_made_and_signed() {
    let bench = Bench::new();
    let (host, job) = (host(&bench), job(&bench, "quick"));
    let outcome = host.prepare(&job).await.unwrap();
    assert_eq!(outcome.engine_version, "1.2");
    assert_eq!(outcome.remarks, [(Reason::Rewound, "for the test".to_owned())]);
    let facts = host.volume(&job.volumes[0]).await.unwrap();
    let identity = facts.identity.unwrap();
    assert!(identity.initialised && !facts.empty);
    assert_eq!((identity.epoch, identity.engine_version.as_deref()), (Epoch(4), Some("1.2")));
    assert_eq!(std::fs::read_to_string(bench.volume().join("epoch")).unwrap(), "4\n");
    let config = bench.dir.run(&bench.member).join("config");
    assert_eq!(std::fs::read_to_string(&config).unwrap(), "geheim");
    let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&config).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o600);
    assert!(!is_held(&bench.volume_lock()).unwrap(), "all locks are free again");
}

async fn a_volume_of_a_higher_epoch_is_left_alone() {
    let bench = Bench::new();
    std::fs::write(bench.volume().join("epoch"), "5\n").unwrap();
    let refused = host(&bench).prepare(&job(&bench, "quick")).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Stale);
    assert!(refused.message().starts_with("EpochStale: "), "{refused}");
    assert!(!bench.volume().join("identity.json").exists());
}

async fn what_outlives_a_dead_agent_keeps_the_volume_locked() {
    let bench = Bench::new();
    let (host, job) = (host(&bench), job(&bench, "slow"));
    let making = bench.volume().join("data/making");
    let maker = {
        let work = host.prepare(&job);
        tokio::pin!(work);
        bench
            .eventually("data is being made", async || {
                tokio::select! {
                    biased;
                    done = &mut work => panic!("it must not end: {done:?}"),
                    () = tokio::time::sleep(std::time::Duration::from_millis(5)) => number_in(&making),
                }
            })
            .await
        // Dropped here, as when the agent dies: the process that prepares is killed.
    };
    let GuardedVolume { lock, .. } = job.volumes[0].guarded();
    assert!(runs(maker), "what it had started goes on");
    assert!(holders(&lock).unwrap().contains(&maker), "and holds the volume");
    assert_eq!(bench.guards.find(&bench.member).await.unwrap(), GuardState::Orphans);
    let busy = host.prepare(&job).await.unwrap_err();
    assert!(busy.message().starts_with("VolumeBusy: "), "{busy}");
    bench.guards.kill(&bench.member).await.unwrap();
    assert!(!runs(maker) && !is_held(&lock).unwrap());
}
