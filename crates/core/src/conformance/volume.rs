//! The rules of [`VolumeProvider`].

mod growth;
mod reach;

use std::any::Any;
use std::future::Future;

use futures::future::join_all;

use super::{Harness, id, pause, refused, skip, soon};
use crate::error::ErrorKind;
use crate::ids::{NodeName, VolumeId, ZoneName};
use crate::volume::{Attachment, Reach, VolumeProvider, VolumeSpec, VolumeStatus};

pub use growth::*;
pub use reach::*;

/// How a volume provider under test is opened, and what it has to be told.
pub trait VolumeHarness: Harness<Backend: VolumeProvider> {
    /// Two nodes that a new volume of it can be attached to. One that lies on its node's disk
    /// ([`Reach::Node`]) then comes back to the first of the two, where others go to the second.
    fn nodes(&self) -> [NodeName; 2] {
        [id("node-a"), id("node-b")]
    }

    /// The size of the volumes it makes, in bytes.
    fn size_bytes(&self) -> u64 {
        1 << 20
    }

    /// The class of the volumes it makes.
    fn class(&self) -> String {
        "default".to_owned()
    }

    /// The zone both nodes are in.
    fn zone(&self) -> Option<ZoneName> {
        None
    }

    /// Called while a transition is waited for: for providers that complete it only when told to.
    fn advance(&self, volumes: &Self::Backend, id: &VolumeId) -> impl Future<Output = ()> {
        let _ = (volumes, id);
        async {}
    }

    /// Uses an attached volume as an engine would (opens a file, holds its lock), until what is returned is
    /// dropped. None: this harness cannot.
    fn occupy(
        &self,
        volumes: &Self::Backend,
        volume: &VolumeStatus,
    ) -> impl Future<Output = Option<Box<dyn Any>>> {
        let _ = (volumes, volume);
        async { None }
    }

    /// Writes a mark on an attached volume. Says whether this harness can.
    fn mark(&self, volume: &VolumeStatus) -> bool {
        let _ = volume;
        false
    }

    /// How much room an attached volume has in all, as its user sees it. None: this harness cannot see that.
    fn room_bytes(&self, volume: &VolumeStatus) -> Option<u64> {
        let _ = volume;
        None
    }

    /// Whether the mark is on an attached volume.
    fn is_marked(&self, volume: &VolumeStatus) -> bool {
        let _ = volume;
        false
    }
}

/// Makes a test of each rule of [`VolumeProvider`]; see [`conformance`](crate::conformance).
#[macro_export]
macro_rules! volume_conformance {
    (#[$attribute:meta] $harness:expr) => {
        $crate::__conformance_tests! {
            #[$attribute] volume, $harness,
            a_new_volume_is_free_and_as_asked_for
            ensure_is_found_again_by_member_and_name
            each_member_and_name_has_a_volume_of_its_own
            racing_ensures_make_one_volume
            an_existing_volume_is_returned_as_it_is
            an_existing_volume_is_never_emptied
            an_unknown_volume_is_described_as_none
            an_unknown_volume_is_not_found
            attaching_ends_attached
            attaching_again_is_success
            a_busy_volume_is_not_attached_elsewhere
            racing_attaches_have_one_holder
            detaching_ends_free
            detach_of_a_free_volume_is_success
            detach_from_another_holder_is_stale
            detaching_again_is_success
            a_volume_in_use_stays_with_its_holder
            a_volume_moves_from_node_to_node
            a_volume_on_a_nodes_disk_is_attached_there_only
            a_volume_whose_disk_is_gone_is_made_anew_on_any_node
            an_attached_volume_is_not_deleted
            deleting_an_absent_volume_is_success
            growing_ends_as_large_as_was_asked_for
            growing_again_is_success
            a_volume_never_shrinks
            racing_growths_end_with_the_largest
            a_volume_in_use_grows_where_it_is
            a_volume_told_to_grow_while_it_is_free_is_large_once_it_is_attached
            what_is_not_there_does_not_grow
            what_cannot_grow_says_so
            volumes_are_listed_by_cluster
            a_second_handle_sees_every_change
        }
    };
    ($harness:expr) => {
        $crate::volume_conformance!(
            #[::tokio::test]
            $harness
        );
    };
}

pub(super) fn spec<H: VolumeHarness>(harness: &H, member: &str, name: &str) -> VolumeSpec {
    VolumeSpec {
        cluster: id("conformance"),
        member: id(member),
        member_name: id("orders-0"),
        name: id(name),
        size_bytes: harness.size_bytes(),
        class: harness.class(),
        zone: harness.zone(),
    }
}

pub(super) async fn ensure(volumes: &impl VolumeProvider, spec: &VolumeSpec) -> VolumeId {
    volumes.ensure(spec).await.expect("a healthy backend makes a volume")
}

pub(super) async fn describe(volumes: &impl VolumeProvider, id: &VolumeId) -> Option<VolumeStatus> {
    volumes.describe(id).await.expect("a healthy backend describes")
}

async fn attachment(volumes: &impl VolumeProvider, id: &VolumeId) -> Attachment {
    describe(volumes, id).await.expect("the volume exists").attachment
}

pub(super) async fn opened<H: VolumeHarness>(harness: &H) -> (H::Guard, H::Backend, VolumeId) {
    let (guard, volumes) = harness.open().await;
    let id = ensure(&volumes, &spec(harness, "member-a", "data")).await;
    (guard, volumes, id)
}

async fn reach<H: VolumeHarness>(harness: &H, volumes: &H::Backend, id: &VolumeId, wanted: &Attachment) {
    soon(&format!("{wanted:?}"), async {
        while &attachment(volumes, id).await != wanted {
            harness.advance(volumes, id).await;
            pause().await;
        }
    })
    .await;
}

pub(super) async fn attach<H: VolumeHarness>(
    harness: &H,
    volumes: &H::Backend,
    id: &VolumeId,
    node: &NodeName,
) {
    volumes.begin_attach(id, node).await.expect("a free volume can be attached");
    reach(harness, volumes, id, &Attachment::Attached(node.clone())).await;
}

pub(super) async fn detach<H: VolumeHarness>(
    harness: &H,
    volumes: &H::Backend,
    id: &VolumeId,
    node: &NodeName,
) {
    volumes.begin_detach(id, node).await.expect("its holder's volume can be detached");
    reach(harness, volumes, id, &Attachment::Free).await;
}

/// A new volume is attached to nobody, in use by nobody, and as big as was asked for.
pub async fn a_new_volume_is_free_and_as_asked_for<H: VolumeHarness>(harness: &H) {
    let (_guard, volumes, id) = opened(harness).await;
    let status = describe(&volumes, &id).await.expect("it was just made");
    assert_eq!(status.id, id);
    assert_eq!(status.spec, spec(harness, "member-a", "data"));
    assert_eq!(status.attachment, Attachment::Free);
    assert!(!status.in_use);
}

/// However often and through whatever handle it is asked for, the same member and name have one volume.
pub async fn ensure_is_found_again_by_member_and_name<H: VolumeHarness>(harness: &H) {
    let (guard, volumes, id) = opened(harness).await;
    let wanted = spec(harness, "member-a", "data");
    assert_eq!(ensure(&volumes, &wanted).await, id);
    let second = harness.reopen(&guard).await;
    assert_eq!(ensure(&second, &wanted).await, id);
    attach(harness, &volumes, &id, &harness.nodes()[0]).await;
    assert_eq!(ensure(&second, &wanted).await, id, "also while it is attached");
    let all = volumes.list(&wanted.cluster).await.expect("a healthy backend lists");
    assert_eq!(all.len(), 1, "{all:?}");
}

/// Another member's volume, and another volume of the member, is another volume.
pub async fn each_member_and_name_has_a_volume_of_its_own<H: VolumeHarness>(harness: &H) {
    let (_guard, volumes) = harness.open().await;
    let mut ids = Vec::new();
    for (member, name) in
        [("member-a", "data"), ("member-a", "journal"), ("member-b", "data"), ("member-a-b", "data")]
    {
        ids.push(ensure(&volumes, &spec(harness, member, name)).await);
    }
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), 4, "{ids:?}");
}

/// Many who ask for one volume at once all get the same.
pub async fn racing_ensures_make_one_volume<H: VolumeHarness>(harness: &H) {
    let (guard, volumes) = harness.open().await;
    let second = harness.reopen(&guard).await;
    let wanted = spec(harness, "member-a", "data");
    let mut ids =
        join_all((0..8).map(|n| ensure(if n % 2 == 0 { &volumes } else { &second }, &wanted))).await;
    ids.dedup();
    assert_eq!(ids.len(), 1, "{ids:?}");
    assert_eq!(volumes.list(&wanted.cluster).await.expect("a healthy backend lists").len(), 1);
}

/// A volume that exists with another size is given as it is.
pub async fn an_existing_volume_is_returned_as_it_is<H: VolumeHarness>(harness: &H) {
    let (_guard, volumes, id) = opened(harness).await;
    let wanted = spec(harness, "member-a", "data");
    let larger = VolumeSpec { size_bytes: wanted.size_bytes * 2, ..wanted.clone() };
    assert_eq!(ensure(&volumes, &larger).await, id);
    let status = describe(&volumes, &id).await.expect("it exists");
    assert_eq!(status.spec.size_bytes, wanted.size_bytes);
}

/// The node that a volume can be attached to after it has been attached to the first of the two.
pub(super) fn next_node<H: VolumeHarness>(harness: &H, volumes: &H::Backend) -> NodeName {
    let [first, second] = harness.nodes();
    if volumes.capabilities().reach == Reach::Node { first } else { second }
}

/// What is written on a volume is there after it was asked for again, and on the next node.
pub async fn an_existing_volume_is_never_emptied<H: VolumeHarness>(harness: &H) {
    let (_guard, volumes, id) = opened(harness).await;
    let wanted = spec(harness, "member-a", "data");
    let ([first, _], next) = (harness.nodes(), next_node(harness, &volumes));
    attach(harness, &volumes, &id, &first).await;
    let status = describe(&volumes, &id).await.expect("it exists");
    if !harness.mark(&status) {
        return skip("an_existing_volume_is_never_emptied", &volumes, "has no volumes the harness can mark");
    }
    assert_eq!(ensure(&volumes, &wanted).await, id);
    assert!(harness.is_marked(&describe(&volumes, &id).await.expect("it exists")));
    detach(harness, &volumes, &id, &first).await;
    assert_eq!(ensure(&volumes, &wanted).await, id);
    attach(harness, &volumes, &id, &next).await;
    assert!(harness.is_marked(&describe(&volumes, &id).await.expect("it exists")));
}

/// A volume that does not exist is told as such, not as an error.
pub async fn an_unknown_volume_is_described_as_none<H: VolumeHarness>(harness: &H) {
    let (_guard, volumes, known) = opened(harness).await;
    assert_eq!(describe(&volumes, &unknown(&volumes, known).await).await, None);
}

/// A volume that does not exist is not found, so that nobody waits for its transition.
pub async fn an_unknown_volume_is_not_found<H: VolumeHarness>(harness: &H) {
    let (_guard, volumes, known) = opened(harness).await;
    let gone = unknown(&volumes, known).await;
    let [node, _] = harness.nodes();
    refused(volumes.begin_attach(&gone, &node).await, ErrorKind::NotFound);
    refused(volumes.begin_detach(&gone, &node).await, ErrorKind::NotFound);
}

/// An identifier that the provider could have given: that of a volume which is no more.
pub(super) async fn unknown(volumes: &impl VolumeProvider, known: VolumeId) -> VolumeId {
    volumes.delete(&known).await.expect("a free volume can be deleted");
    known
}

/// What is begun comes to its end, and the holder is who was asked for.
pub async fn attaching_ends_attached<H: VolumeHarness>(harness: &H) {
    let (_guard, volumes, id) = opened(harness).await;
    let [node, _] = harness.nodes();
    volumes.begin_attach(&id, &node).await.expect("a free volume can be attached");
    assert_eq!(attachment(&volumes, &id).await.holder(), Some(&node), "from the call on");
    reach(harness, &volumes, &id, &Attachment::Attached(node)).await;
}

/// Attaching to the node that has it, or is getting it, is success.
pub async fn attaching_again_is_success<H: VolumeHarness>(harness: &H) {
    let (_guard, volumes, id) = opened(harness).await;
    let [node, _] = harness.nodes();
    for _ in 0..2 {
        volumes.begin_attach(&id, &node).await.expect("attaching again is success");
    }
    attach(harness, &volumes, &id, &node).await;
    volumes.begin_attach(&id, &node).await.expect("attaching again is success");
    assert_eq!(attachment(&volumes, &id).await, Attachment::Attached(node));
}

/// A volume that one node has is not given to another, and stays where it is.
pub async fn a_busy_volume_is_not_attached_elsewhere<H: VolumeHarness>(harness: &H) {
    let (guard, volumes, id) = opened(harness).await;
    let [first, second] = harness.nodes();
    volumes.begin_attach(&id, &first).await.expect("a free volume can be attached");
    refused(volumes.begin_attach(&id, &second).await, ErrorKind::Busy);
    attach(harness, &volumes, &id, &first).await;
    let other_handle = harness.reopen(&guard).await;
    refused(other_handle.begin_attach(&id, &second).await, ErrorKind::Busy);
    assert_eq!(attachment(&volumes, &id).await, Attachment::Attached(first));
}

/// Of two nodes that attach one volume at once, one gets it.
pub async fn racing_attaches_have_one_holder<H: VolumeHarness>(harness: &H) {
    let (guard, volumes, id) = opened(harness).await;
    let other_handle = harness.reopen(&guard).await;
    let [first, second] = harness.nodes();
    let outcomes = futures::join!(volumes.begin_attach(&id, &first), other_handle.begin_attach(&id, &second));
    let winner = match outcomes {
        (Ok(()), loser) => {
            refused(loser, ErrorKind::Busy);
            first
        }
        (loser, Ok(())) => {
            refused(loser, ErrorKind::Busy);
            second
        }
        (Err(one), Err(other)) => panic!("one of them gets it: {one:?}, {other:?}"),
    };
    reach(harness, &volumes, &id, &Attachment::Attached(winner)).await;
}

/// What is begun comes to its end, and the volume is attached to nobody.
pub async fn detaching_ends_free<H: VolumeHarness>(harness: &H) {
    let (_guard, volumes, id) = opened(harness).await;
    let [node, _] = harness.nodes();
    attach(harness, &volumes, &id, &node).await;
    volumes.begin_detach(&id, &node).await.expect("its holder's volume can be detached");
    let between = attachment(&volumes, &id).await;
    assert!([Attachment::Detaching(node.clone()), Attachment::Free].contains(&between), "{between:?}");
    reach(harness, &volumes, &id, &Attachment::Free).await;
}

/// Detaching what nobody has is success.
pub async fn detach_of_a_free_volume_is_success<H: VolumeHarness>(harness: &H) {
    let (_guard, volumes, id) = opened(harness).await;
    for node in harness.nodes() {
        volumes.begin_detach(&id, &node).await.expect("there is nothing to detach");
    }
    assert_eq!(attachment(&volumes, &id).await, Attachment::Free);
}

/// A volume is not taken from a node that nobody expected to have it.
pub async fn detach_from_another_holder_is_stale<H: VolumeHarness>(harness: &H) {
    let (_guard, volumes, id) = opened(harness).await;
    let [holder, other] = harness.nodes();
    attach(harness, &volumes, &id, &holder).await;
    refused(volumes.begin_detach(&id, &other).await, ErrorKind::Stale);
    assert_eq!(attachment(&volumes, &id).await, Attachment::Attached(holder));
}

/// Detaching what is being detached, or has been, is success.
pub async fn detaching_again_is_success<H: VolumeHarness>(harness: &H) {
    let (_guard, volumes, id) = opened(harness).await;
    let [node, _] = harness.nodes();
    attach(harness, &volumes, &id, &node).await;
    for _ in 0..2 {
        volumes.begin_detach(&id, &node).await.expect("detaching again is success");
    }
    detach(harness, &volumes, &id, &node).await;
    volumes.begin_detach(&id, &node).await.expect("detaching again is success");
}

/// For as long as the holder may still write, the volume is not free and goes to nobody else.
pub async fn a_volume_in_use_stays_with_its_holder<H: VolumeHarness>(harness: &H) {
    let (_guard, volumes, id) = opened(harness).await;
    let [first, second] = harness.nodes();
    attach(harness, &volumes, &id, &first).await;
    let status = describe(&volumes, &id).await.expect("it exists");
    let Some(occupied) = harness.occupy(&volumes, &status).await else {
        return skip(
            "a_volume_in_use_stays_with_its_holder",
            &volumes,
            "has no volumes the harness can occupy",
        );
    };
    assert!(describe(&volumes, &id).await.expect("it exists").in_use);
    volumes.begin_detach(&id, &first).await.expect("its holder's volume can be detached");
    for _ in 0..5 {
        harness.advance(&volumes, &id).await;
        assert_eq!(attachment(&volumes, &id).await, Attachment::Detaching(first.clone()));
        refused(volumes.begin_attach(&id, &second).await, ErrorKind::Busy);
        refused(volumes.delete(&id).await, ErrorKind::Busy);
        pause().await;
    }
    drop(occupied);
    reach(harness, &volumes, &id, &Attachment::Free).await;
    attach(harness, &volumes, &id, &next_node(harness, &volumes)).await;
}

/// A volume goes from node to node and back, as far as it reaches, with one holder at a time.
pub async fn a_volume_moves_from_node_to_node<H: VolumeHarness>(harness: &H) {
    let (_guard, volumes, id) = opened(harness).await;
    let ([first, _], next) = (harness.nodes(), next_node(harness, &volumes));
    for node in [&first, &next, &first] {
        attach(harness, &volumes, &id, node).await;
        detach(harness, &volumes, &id, node).await;
    }
}

/// A volume that somebody has is not deleted.
pub async fn an_attached_volume_is_not_deleted<H: VolumeHarness>(harness: &H) {
    let (_guard, volumes, id) = opened(harness).await;
    let [node, _] = harness.nodes();
    attach(harness, &volumes, &id, &node).await;
    refused(volumes.delete(&id).await, ErrorKind::Busy);
    assert_eq!(attachment(&volumes, &id).await, Attachment::Attached(node.clone()));
    detach(harness, &volumes, &id, &node).await;
    volumes.delete(&id).await.expect("a free volume can be deleted");
    assert_eq!(describe(&volumes, &id).await, None);
}

/// Deleting what is not there is success; the member and name can have a new volume afterwards.
pub async fn deleting_an_absent_volume_is_success<H: VolumeHarness>(harness: &H) {
    let (_guard, volumes, id) = opened(harness).await;
    for _ in 0..2 {
        volumes.delete(&id).await.expect("deleting again is success");
    }
    let again = ensure(&volumes, &spec(harness, "member-a", "data")).await;
    assert_eq!(attachment(&volumes, &again).await, Attachment::Free);
}

/// A cluster's volumes are all of its own and no other's.
pub async fn volumes_are_listed_by_cluster<H: VolumeHarness>(harness: &H) {
    let (_guard, volumes) = harness.open().await;
    let mut wanted = Vec::new();
    for member in ["member-a", "member-b"] {
        wanted.push(ensure(&volumes, &spec(harness, member, "data")).await);
    }
    let elsewhere = VolumeSpec { cluster: id("elsewhere"), ..spec(harness, "member-c", "data") };
    let other = ensure(&volumes, &elsewhere).await;
    let listed = |cluster: &'static str| {
        let volumes = &volumes;
        async move {
            let all = volumes.list(&id(cluster)).await.expect("a healthy backend lists");
            all.into_iter().map(|status| status.id).collect::<Vec<_>>()
        }
    };
    let mut found = listed("conformance").await;
    found.sort();
    wanted.sort();
    assert_eq!(found, wanted);
    assert_eq!(listed("elsewhere").await, [other]);
    assert_eq!(listed("nowhere").await, []);
}

/// What one process changes, every other sees with its next call.
pub async fn a_second_handle_sees_every_change<H: VolumeHarness>(harness: &H) {
    let (guard, first, id) = opened(harness).await;
    let second = harness.reopen(&guard).await;
    let [node, _] = harness.nodes();
    attach(harness, &first, &id, &node).await;
    assert_eq!(attachment(&second, &id).await, Attachment::Attached(node.clone()));
    detach(harness, &second, &id, &node).await;
    assert_eq!(attachment(&first, &id).await, Attachment::Free);
    first.delete(&id).await.expect("a free volume can be deleted");
    assert_eq!(describe(&second, &id).await, None);
}
