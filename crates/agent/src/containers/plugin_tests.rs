//! The calls of the engine, in any order and number, answered in time that passes only when everybody waits.

use futures::future::join_all;
use steadfast_core::metadata::memory::MemoryDb;
use steadfast_core::testing::TestEnvironment;
use steadfast_lock::Lock;

use super::super::gate::tests::make_ready;
use super::*;

struct Bench {
    env: Environment,
    plugin: VolumePlugin,
    gate: Arc<Gate>,
    dir: NodeDir,
    folder: tempfile::TempDir,
}

impl Bench {
    fn new() -> Bench {
        Bench::of(tempfile::tempdir().unwrap())
    }

    fn of(folder: tempfile::TempDir) -> Bench {
        let env = TestEnvironment::new(1).environment;
        let dir = NodeDir::new(folder.path()).with_containers(folder.path().join("members"));
        let gate = Arc::new(Gate::new(dir.clone()));
        let entropy = env.entropy().fork("store");
        let store = Store::new(Arc::new(MemoryDb::new()), entropy, "test".parse().unwrap()).unwrap();
        let node = "node-1".parse().unwrap();
        let plugin = VolumePlugin::new(env.clone(), store, node, dir.clone(), Arc::clone(&gate));
        Bench { env, plugin, gate, dir, folder }
    }

    async fn ask(&self, call: &str, name: &str, id: &str) -> Result<Value, Refusal> {
        let asked = Asked { name: name.to_owned(), id: id.to_owned(), opts: None };
        self.plugin.call(&format!("VolumeDriver.{call}"), &asked).await
    }

    fn offer(&self, member: &str) {
        self.gate.offer(&make_ready(&self.dir, member, None)).unwrap();
    }

    fn mounted(&self, member: &str) -> Result<Value, Refusal> {
        Ok(json!({ "Mountpoint": self.folder.path().join("members").join(member) }))
    }

    fn refuses(answer: &Result<Value, Refusal>, named: &str) {
        assert!(answer.as_ref().is_err_and(|refusal| refusal.contains(named)), "{named}: {answer:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn mounting_and_unmounting_are_right_however_often_and_in_whatever_order_they_come() {
    let bench = Bench::new();
    let done = Ok(json!({}));
    assert_eq!(bench.ask("Unmount", "orders-0", "a").await, done, "it was never mounted");
    Bench::refuses(&bench.ask("Mount", "orders-0", "a").await, "not placed on node-1");
    bench.offer("orders-0");
    for _ in 0..2 {
        assert_eq!(bench.ask("Mount", "orders-0", "a").await, bench.mounted("orders-0"));
    }
    Bench::refuses(&bench.ask("Mount", "orders-0", "b").await, "another container has orders-0");
    assert_eq!(bench.ask("Unmount", "orders-0", "b").await, done, "it has nothing to give back");
    assert_eq!(bench.ask("Mount", "orders-0", "a").await, bench.mounted("orders-0"));
    for _ in 0..2 {
        assert_eq!(bench.ask("Unmount", "orders-0", "a").await, done);
    }
    assert_eq!(bench.ask("Mount", "orders-0", "b").await, bench.mounted("orders-0"));
    // The engine of Docker died: nobody has given it back, and the next offer is the next container's.
    bench.offer("orders-0");
    assert_eq!(bench.ask("Mount", "orders-0", "c").await, bench.mounted("orders-0"));
    Bench::refuses(&bench.ask("Mount", "orders-0", "b").await, "another container has orders-0");
}

#[tokio::test(start_paused = true)]
async fn the_next_agent_knows_who_has_a_member() {
    let bench = Bench::new();
    bench.offer("orders-0");
    assert_eq!(bench.ask("Mount", "orders-0", "a").await, bench.mounted("orders-0"));
    let guard = Lock::try_exclusive(&bench.dir.guard_lock(&"orders-0".parse().unwrap())).unwrap();
    let bench = Bench::of(bench.folder);
    Bench::refuses(&bench.ask("Mount", "orders-0", "b").await, "another container has orders-0");
    assert_eq!(bench.ask("Mount", "orders-0", "a").await, bench.mounted("orders-0"));
    assert_eq!(bench.ask("Unmount", "orders-0", "a").await, Ok(json!({})));
    Bench::refuses(&bench.ask("Mount", "orders-0", "b").await, "another container has orders-0");
    drop(guard);
    Bench::refuses(&bench.ask("Mount", "orders-0", "b").await, "not placed on node-1");
}

#[tokio::test(start_paused = true)]
async fn no_member_waits_for_another() {
    let bench = Bench::new();
    let members: Vec<String> = (0..50).map(|ordinal| format!("orders-{ordinal}")).collect();
    // Nothing is prepared for this one.
    let mut waiting = Box::pin(bench.ask("Mount", "cache-0", "x"));
    assert!(futures::poll!(waiting.as_mut()).is_pending());
    for member in &members {
        bench.offer(member);
    }
    let begun = bench.env.clock().monotonic();
    let mounted = join_all(members.iter().map(|member| bench.ask("Mount", member, "a"))).await;
    assert!(mounted.iter().all(Result::is_ok), "{mounted:?}");
    assert_eq!(bench.env.clock().monotonic(), begun, "no time has passed");
    assert!(futures::poll!(waiting.as_mut()).is_pending());
    bench.offer("cache-0");
    assert_eq!(waiting.await, bench.mounted("cache-0"));
}

#[tokio::test(start_paused = true)]
async fn a_volume_that_is_no_member_is_refused() {
    let bench = Bench::new();
    for call in ["Create", "Get", "Path", "Mount", "Unmount", "Remove"] {
        Bench::refuses(&bench.ask(call, "../etc", "a").await, "is no member");
    }
    Bench::refuses(&bench.ask("Create", "orders-0", "").await, "option service");
    let opts = BTreeMap::from([("service".to_owned(), "orders".to_owned())]);
    let asked = Asked { name: "orders-0".to_owned(), id: String::new(), opts: Some(opts) };
    Bench::refuses(&bench.plugin.call("VolumeDriver.Create", &asked).await, "has no member orders-0");
    Bench::refuses(&bench.ask("Get", "orders-0", "").await, "no such volume");
    assert_eq!(bench.ask("Remove", "orders-0", "").await, Ok(json!({})), "it is not there");
    assert_eq!(bench.ask("List", "", "").await, Ok(json!({ "Volumes": [] })));
    Bench::refuses(&bench.plugin.call("Secret.Get", &Asked::default()).await, "not a call");
}
