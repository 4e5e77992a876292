//! The records of a member are put back to an older backup: it had moved since, and its volume is attached to a node that
//! the records do not know to have held it. It comes back, and nobody writes beside it.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

mod kit;

use std::sync::Arc;

use kit::{MINUTE, member, name, placed, world, writable};
use steadfast_core::control::Control;
use steadfast_core::ids::NodeName;
use steadfast_core::model::{Member, Reason, ServiceState};
use steadfast_core::volume::Attachment;
use steadfast_core::world::World;

/// A member that has moved from one node to another, with its record as it was before.
struct Moved {
    world: World,
    server: Control,
    record: Member,
    old: NodeName,
    new: NodeName,
}

impl Moved {
    async fn make() -> Moved {
        let (mut world, server) = world(3).await;
        world.create(&server, "orders", 1).await.unwrap();
        let old = placed(&world, "orders-0").await;
        let record = Member::clone(&*find(&server).await);
        world.kill(&old);
        assert!(healthy(&mut world, &server).await);
        let new = placed(&world, "orders-0").await;
        assert_ne!(old, new);
        world.revive(&old).unwrap();
        world.round(&server).await.unwrap();
        Moved { world, server, record, old, new }
    }

    /// Puts the record back, as it names the old node's present life.
    async fn put_back(&mut self) {
        let store = self.server.store();
        let found = store.member(&name("orders"), &member("orders-0")).await.unwrap().unwrap();
        let key = store.member_key(&name("orders"), &member("orders-0")).unwrap();
        let life = store.node_record(&self.old).await.unwrap().unwrap().body.incarnation;
        let mut record = self.record.clone();
        record
            .holder
            .iter_mut()
            .chain(&mut record.unreleased)
            .for_each(|holder| holder.incarnation = life.clone());
        let written = store.write(&key, &found, &record).await.unwrap();
        assert!(matches!(written, steadfast_core::metadata::WriteOutcome::Applied(_)));
    }

    fn attached(&self) -> Attachment {
        self.world.volumes.all()[0].attachment.clone()
    }

    async fn healthy(&mut self) -> bool {
        healthy(&mut self.world, &self.server).await
    }
}

async fn find(server: &Control) -> Arc<Member> {
    server.store().member(&name("orders"), &member("orders-0")).await.unwrap().unwrap().body
}

async fn healthy(world: &mut World, server: &Control) -> bool {
    world.until(server, MINUTE, |views| views[0].state == ServiceState::Healthy).await.unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_node_that_the_records_do_not_know_to_have_held_a_member_gives_it_back_itself() {
    let mut moved = Moved::make().await;
    moved.put_back().await;
    assert_eq!(moved.attached(), Attachment::Attached(moved.new.clone()));
    assert!(moved.healthy().await, "{:?}", moved.server.why(&member("orders-0")).await);
    assert_eq!(placed(&moved.world, "orders-0").await, moved.old);
    assert_eq!(moved.attached(), Attachment::Attached(moved.old.clone()));
    assert_eq!(writable(&moved.world, "orders-0"), 1);
    assert!(!moved.world.nodes[&moved.new].runs(&member("orders-0")));
}

#[tokio::test(start_paused = true)]
async fn what_is_silent_or_dead_is_waited_for_until_a_person_says_that_it_is_off() {
    let mut moved = Moved::make().await;
    // Its engine runs on, and nothing is heard of it.
    moved.world.silence(&moved.new, true);
    moved.put_back().await;
    assert!(!moved.healthy().await);
    assert_eq!(moved.attached(), Attachment::Attached(moved.new.clone()), "silence proves nothing");
    let why = moved.server.why(&member("orders-0")).await.unwrap();
    assert_eq!(why.next_action, Some(format!("steadfast node confirm-dead {}", moved.new)), "{why:?}");
    assert!(why.lines.iter().any(|line| line.reason == Some(Reason::VolumeBusy)), "{why:?}");

    moved.world.kill(&moved.new);
    let life = moved.server.store().node_record(&moved.new).await.unwrap().unwrap().body.incarnation;
    moved.server.confirm_dead(&moved.new, &life).await.unwrap();
    assert!(moved.healthy().await, "{:?}", moved.server.why(&member("orders-0")).await);
    assert_eq!(writable(&moved.world, "orders-0"), 1);
    assert_eq!(moved.attached(), Attachment::Attached(moved.old.clone()));
}

#[tokio::test(start_paused = true)]
async fn a_word_of_an_earlier_life_takes_nothing_from_one_that_the_records_do_not_know() {
    let mut moved = Moved::make().await;
    let store = moved.server.store().clone();
    let found = store.node_record(&moved.new).await.unwrap().unwrap();
    // The backup is of when that node was dead; the life that it has had since is in its status alone.
    let mut record = found.body.clone();
    record.incarnation = "earlier".parse().unwrap();
    record.confirmed_dead = Some(record.incarnation.clone());
    moved.world.silence(&moved.new, true);
    let key = store.node_record_key(&moved.new).unwrap();
    let written = store.write(&key, &found, &record).await.unwrap();
    assert!(matches!(written, steadfast_core::metadata::WriteOutcome::Applied(_)));
    moved.put_back().await;
    assert!(!moved.healthy().await);
    assert_eq!(moved.attached(), Attachment::Attached(moved.new.clone()));
}
