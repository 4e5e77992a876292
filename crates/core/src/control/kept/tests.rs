//! What is told from what was kept is what would be made anew, whatever has changed: random changes of everything that a
//! view is made of, and after each of them every view by either way, through the server that works and through one that
//! only looks.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;

use crate::control::{Control, ControlResult, Guard, RenderedService, ServiceView};
use crate::ids::{MemberName, NodeName, ServiceName};
use crate::metadata::WriteOutcome;
use crate::model::Operation;
use crate::testing::TestEnvironment;
use crate::world::{World, service_file};

const SERVICES: [&str; 3] = ["a", "a-b", "b"];
const NODES: usize = 4;

/// Something that may change a view, or not.
#[derive(Debug, Clone)]
enum Change {
    /// A person asks for something; what cannot be done now is refused.
    Asks(usize, Verb),
    /// Agents claim, engines come and go, and all that is reported.
    Agents,
    /// A member's engine refuses to start on every node, or no longer does.
    Breaks(usize, bool),
    /// An engine has written so much, which only its agent tells.
    Writes(usize, u64),
    /// A server looks at the nodes.
    Looks(usize),
    /// The server that works takes up what is to be done for a service.
    Works(usize),
    /// Everybody does everything.
    Round,
    Kills(usize),
    Revives(usize),
    Silences(usize, bool),
    /// Milliseconds pass.
    Passes(u64),
}

#[derive(Debug, Clone, Copy)]
enum Verb {
    Create(u32),
    Restart,
    Stop,
    Start,
    Pause,
    Resume,
    Delete,
    Undelete,
    Cancel,
}

fn change() -> impl Strategy<Value = Change> {
    let service = 0..SERVICES.len();
    let verb = prop_oneof![
        (1..4_u32).prop_map(Verb::Create),
        prop::sample::select(vec![
            Verb::Restart,
            Verb::Stop,
            Verb::Start,
            Verb::Pause,
            Verb::Resume,
            Verb::Delete,
            Verb::Undelete,
            Verb::Cancel,
        ]),
    ];
    prop_oneof![
        4 => (service.clone(), verb).prop_map(|(service, verb)| Change::Asks(service, verb)),
        3 => Just(Change::Agents),
        1 => (service.clone(), any::<bool>()).prop_map(|(service, on)| Change::Breaks(service, on)),
        2 => (service.clone(), 0..9_u64).prop_map(|(service, most)| Change::Writes(service, most)),
        4 => (0..2_usize).prop_map(Change::Looks),
        2 => service.prop_map(Change::Works),
        6 => Just(Change::Round),
        1 => (0..NODES).prop_map(Change::Kills),
        1 => (0..NODES).prop_map(Change::Revives),
        1 => (0..NODES, any::<bool>()).prop_map(|(node, on)| Change::Silences(node, on)),
        3 => (1..40_000_u64).prop_map(Change::Passes),
    ]
}

fn service(index: usize) -> ServiceName {
    SERVICES[index].parse().unwrap()
}

fn node(index: usize) -> NodeName {
    format!("node-{}", index + 1).parse().unwrap()
}

struct Fixture {
    world: World,
    /// The one that works, and one that only looks.
    servers: [Control; 2],
    /// How many views were told from what was kept.
    kept: usize,
}

impl Fixture {
    async fn new() -> Self {
        let world = World::new(TestEnvironment::new(8).environment, 4).await.unwrap();
        let servers = ["server-1", "server-2"].map(|name| world.plain_server(name).unwrap());
        Fixture { world, servers, kept: 0 }
    }

    async fn make(&mut self, change: &Change) {
        let Fixture { world, servers: [works, looks], .. } = self;
        match change {
            Change::Asks(index, verb) => {
                // A refusal is an answer too; then nothing changes, which is looked at as well.
                drop(ask(works, &service(*index), *verb).await);
            }
            Change::Agents => world.step_nodes().await.unwrap(),
            Change::Breaks(index, on) => {
                let member = format!("{}-0", SERVICES[*index]).parse().unwrap();
                for node in world.nodes.values_mut() {
                    node.broken.retain(|broken| *broken != member);
                    if *on {
                        node.breaks(&member);
                    }
                }
            }
            Change::Writes(index, position) => {
                let member: MemberName = format!("{}-0", SERVICES[*index]).parse().unwrap();
                for node in world.nodes.values_mut() {
                    node.positions.insert(member.clone(), *position);
                }
                world.step_nodes().await.unwrap();
            }
            Change::Looks(server) => {
                [works, looks][*server].controller().observer().refresh_nodes().await.unwrap();
            }
            Change::Works(index) => works.controller().reconcile(&service(*index)).await.unwrap(),
            Change::Round => world.round(works).await.unwrap(),
            Change::Kills(index) => world.kill(&node(*index)),
            Change::Revives(index) => world.revive(&node(*index)).unwrap(),
            Change::Silences(index, on) => world.silence(&node(*index), *on),
            Change::Passes(millis) => world.env.clock().sleep(Duration::from_millis(*millis)).await,
        }
    }

    /// Every view both ways, through both servers, one by one and listed.
    async fn compare(&mut self) {
        for server in &self.servers {
            let mut live = Vec::new();
            for name in (0..SERVICES.len()).map(service) {
                let Ok(rendered) = server.rendered_service(&name).await else {
                    server.service(&name).await.unwrap_err();
                    continue;
                };
                let view = server.service(&name).await.unwrap();
                assert_eq!(read(&rendered), view);
                let again = server.rendered_service(&name).await.unwrap();
                self.kept += usize::from(Arc::ptr_eq(&rendered.text, &again.text));
                live.push(view);
            }
            let listed = server.services(None, usize::MAX).await.unwrap();
            let rendered = server.rendered_services(None, usize::MAX).await.unwrap();
            assert_eq!(rendered.iter().map(read).collect::<Vec<_>>(), listed);
            let after = live.first().map(|view| view.name.as_str());
            let rest = server.rendered_services(after, 1).await.unwrap();
            assert_eq!(rest.iter().map(read).collect::<Vec<_>>(), server.services(after, 1).await.unwrap());
        }
    }
}

async fn ask(server: &Control, name: &ServiceName, verb: Verb) -> ControlResult<()> {
    let guard = Guard::default();
    match verb {
        Verb::Create(replicas) => drop(server.apply(service_file(name.as_str(), replicas), guard).await?),
        Verb::Restart => drop(server.restart(name, guard).await?),
        Verb::Stop => drop(server.stop(name, guard).await?),
        Verb::Start => drop(server.start(name, guard).await?),
        Verb::Pause => drop(server.pause(name).await?),
        Verb::Resume => drop(server.resume(name).await?),
        Verb::Delete => drop(server.delete(name, guard).await?),
        Verb::Undelete => drop(server.undelete(name, guard).await?),
        Verb::Cancel => {
            if let Some(id) = server.service(name).await?.operation {
                drop(server.cancel(&id).await?);
            }
        }
    }
    Ok(())
}

fn read(rendered: &RenderedService) -> ServiceView {
    let mut text = Vec::new();
    rendered.write_to(&mut text);
    let view: ServiceView = serde_json::from_slice(&text).unwrap();
    assert_eq!((rendered.name(), rendered.index()), (&view.name, view.index.as_str()));
    assert!(text.len() <= rendered.size_hint());
    view
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn what_is_told_is_what_would_be_made_anew(changes in prop::collection::vec(change(), 1..60)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let mut fixture = Fixture::new().await;
            for change in &changes {
                fixture.make(change).await;
                fixture.compare().await;
            }
        });
    }
}

/// The same text as long as a service rests, however much time passes and however often agents report; another one at
/// once when its operation, a member or a node is another.
#[tokio::test(start_paused = true)]
async fn a_service_at_rest_is_rendered_once() {
    let mut fixture = Fixture::new().await;
    let [server, _] = fixture.servers.clone();
    fixture.world.create(&server, "a", 3).await.unwrap();
    let name = service(0);
    let mut text = server.rendered_service(&name).await.unwrap().text;
    for _ in 0..5 {
        fixture.make(&Change::Passes(1000)).await;
        fixture.make(&Change::Round).await;
        let rendered = server.rendered_service(&name).await.unwrap();
        assert!(Arc::ptr_eq(&rendered.text, &text));
        let listed = server.rendered_services(None, 10).await.unwrap();
        assert!(Arc::ptr_eq(&listed[0].text, &text));
        text = rendered.text;
    }
    fixture.compare().await;
    assert!(fixture.kept > 0);

    let position = read(&server.rendered_service(&name).await.unwrap()).members[0].position;
    fixture.make(&Change::Writes(0, 7)).await;
    fixture.make(&Change::Looks(0)).await;
    let rendered = server.rendered_service(&name).await.unwrap();
    assert_ne!(read(&rendered).members[0].position, position, "what agents say of a member counts");

    let before = server.restart(&name, Guard::default()).await.unwrap();
    let text = server.rendered_service(&name).await.unwrap().text;
    let key = server.store.operation_key(&before.id).unwrap();
    let found = server.store.operation(&before.id).await.unwrap().unwrap();
    let after = Operation { updated_at: fixture.world.env.clock().wall() + Duration::from_secs(1), ..before };
    assert_ne!(server.store.write(&key, &found, &after).await.unwrap(), WriteOutcome::Conflict);
    let rendered = server.rendered_service(&name).await.unwrap();
    assert!(!Arc::ptr_eq(&rendered.text, &text), "the record of the operation counts");

    fixture.make(&Change::Kills(0)).await;
    fixture.make(&Change::Looks(0)).await;
    let again = server.rendered_service(&name).await.unwrap();
    assert!(!Arc::ptr_eq(&again.text, &rendered.text), "the nodes count");
}

#[tokio::test(start_paused = true)]
async fn what_is_full_keeps_what_is_asked_for_and_forgets_the_rest() {
    let mut fixture = Fixture::new().await;
    let [server, _] = fixture.servers.clone();
    fixture.world.create(&server, "a", 1).await.unwrap();
    let name = service(0);
    server.rendered_service(&name).await.unwrap();
    // As if others had taken the rest of the room.
    server.kept.lock().bytes += super::MOST_BYTES;
    fixture.world.create(&server, "b", 1).await.unwrap();
    fixture.make(&Change::Passes(2000)).await;
    let names =
        |server: &Control| server.kept.lock().views.keys().map(ToString::to_string).collect::<Vec<_>>();
    server.rendered_service(&service(2)).await.unwrap();
    assert_eq!(names(&server), ["a"], "there is no room, and what was asked for lately stays");
    fixture.make(&Change::Passes(u64::try_from(super::IDLE.as_millis()).unwrap())).await;
    fixture.make(&Change::Round).await;
    server.kept.lock().bytes -= super::MOST_BYTES;
    server.rendered_service(&service(2)).await.unwrap();
    server.kept.lock().bytes += super::MOST_BYTES;
    fixture.make(&Change::Passes(2000)).await;
    fixture.make(&Change::Asks(1, Verb::Create(1))).await;
    fixture.make(&Change::Round).await;
    server.rendered_service(&service(1)).await.unwrap();
    assert_eq!(names(&server), ["b"], "what nobody has asked for is gone");
    let bytes: usize = server.kept.lock().views.values().map(super::Entry::size).sum();
    assert_eq!(server.kept.lock().bytes - super::MOST_BYTES, bytes);
}
