//! The rules of [`SnapshotProvider`].

use super::volume::{VolumeHarness, attach, describe, detach, ensure, opened, spec, unknown};
use super::{Harness, id, pause, refused, skip, soon};
use crate::error::ErrorKind;
use crate::ids::{SnapshotId, SnapshotName, VolumeId};
use crate::snapshot::{SnapshotProvider, SnapshotState, SnapshotStatus};
use crate::volume::{Attachment, VolumeProvider, VolumeSpec};

/// How a provider of snapshots under test is opened: as one of volumes.
pub trait SnapshotHarness: VolumeHarness + Harness<Backend: SnapshotProvider> {}

impl<H: VolumeHarness + Harness<Backend: SnapshotProvider>> SnapshotHarness for H {}

/// Makes a test of each rule of [`SnapshotProvider`]; see [`conformance`](crate::conformance).
#[macro_export]
macro_rules! snapshot_conformance {
    (#[$attribute:meta] $harness:expr) => {
        $crate::__conformance_tests! {
            #[$attribute] snapshot, $harness,
            a_snapshot_ends_complete_and_says_what_it_is_of
            a_snapshot_is_found_again_by_volume_and_name
            each_volume_and_name_has_a_snapshot_of_its_own
            a_volume_made_of_a_snapshot_holds_what_was_there_then
            a_snapshot_of_a_volume_in_use_leaves_it_in_use
            a_snapshot_outlives_its_volume
            a_volume_made_of_a_snapshot_is_found_again_and_may_be_larger
            a_volume_that_exists_is_not_made_over
            what_is_smaller_than_the_snapshot_is_invalid
            a_deleted_snapshot_is_gone_and_what_was_made_of_it_is_not
            what_is_not_there_has_no_snapshot
            snapshots_are_listed_by_cluster
        }
    };
    ($harness:expr) => {
        $crate::snapshot_conformance!(
            #[::tokio::test]
            $harness
        );
    };
}

async fn begin(volumes: &impl SnapshotProvider, volume: &VolumeId, name: &str) -> SnapshotId {
    let name: SnapshotName = id(name);
    volumes.begin_snapshot(volume, &name).await.expect("a healthy backend makes a snapshot")
}

async fn look(volumes: &impl SnapshotProvider, snapshot: &SnapshotId) -> Option<SnapshotStatus> {
    volumes.snapshot(snapshot).await.expect("a healthy backend describes")
}

async fn complete<H: SnapshotHarness>(
    harness: &H,
    volumes: &H::Backend,
    volume: &VolumeId,
    name: &str,
) -> SnapshotId {
    let snapshot = begin(volumes, volume, name).await;
    soon("a complete snapshot", async {
        while look(volumes, &snapshot).await.expect("it was begun").state != SnapshotState::Complete {
            harness.advance(volumes, volume).await;
            pause().await;
        }
    })
    .await;
    snapshot
}

async fn ensure_from(volumes: &impl SnapshotProvider, spec: &VolumeSpec, from: &SnapshotId) -> VolumeId {
    volumes.ensure_from(spec, from).await.expect("a healthy backend makes a volume of a snapshot")
}

/// A volume with something in it, attached to nobody; and whether the harness could put it there.
async fn used<H: SnapshotHarness>(harness: &H) -> (H::Guard, H::Backend, VolumeId, bool) {
    let (guard, volumes, volume) = opened(harness).await;
    let [node, _] = harness.nodes();
    attach(harness, &volumes, &volume, &node).await;
    let marked = harness.mark(&describe(&volumes, &volume).await.expect("it exists"));
    detach(harness, &volumes, &volume, &node).await;
    (guard, volumes, volume, marked)
}

/// What is begun comes to its end, and says of which volume it is.
pub async fn a_snapshot_ends_complete_and_says_what_it_is_of<H: SnapshotHarness>(harness: &H) {
    let (guard, volumes, volume, _) = used(harness).await;
    let snapshot = complete(harness, &volumes, &volume, "monday").await;
    let second = harness.reopen(&guard).await;
    let wanted = SnapshotStatus {
        id: snapshot.clone(),
        volume,
        name: id("monday"),
        spec: spec(harness, "member-a", "data"),
        state: SnapshotState::Complete,
    };
    assert_eq!(look(&second, &snapshot).await, Some(wanted));
}

/// Asked for again it is the same, also through another handle, and what has changed since is not in it.
pub async fn a_snapshot_is_found_again_by_volume_and_name<H: SnapshotHarness>(harness: &H) {
    let (guard, volumes, volume) = opened(harness).await;
    let [node, _] = harness.nodes();
    attach(harness, &volumes, &volume, &node).await;
    detach(harness, &volumes, &volume, &node).await;
    let snapshot = complete(harness, &volumes, &volume, "monday").await;
    attach(harness, &volumes, &volume, &node).await;
    let marked = harness.mark(&describe(&volumes, &volume).await.expect("it exists"));
    detach(harness, &volumes, &volume, &node).await;
    let second = harness.reopen(&guard).await;
    for again in [&volumes, &second] {
        assert_eq!(begin(again, &volume, "monday").await, snapshot);
    }
    assert_eq!(volumes.snapshots(&id("conformance")).await.expect("a healthy backend lists").len(), 1);
    let made = ensure_from(&volumes, &spec(harness, "member-b", "data"), &snapshot).await;
    attach(harness, &volumes, &made, &node).await;
    let status = describe(&volumes, &made).await.expect("it exists");
    assert!(!marked || !harness.is_marked(&status), "what came later is in it");
}

/// Another name, and another volume, is another snapshot.
pub async fn each_volume_and_name_has_a_snapshot_of_its_own<H: SnapshotHarness>(harness: &H) {
    let (_guard, volumes, first, _) = used(harness).await;
    let second = ensure(&volumes, &spec(harness, "member-b", "data")).await;
    let mut found = Vec::new();
    for (volume, name) in [(&first, "monday"), (&first, "tuesday"), (&second, "monday")] {
        found.push(begin(&volumes, volume, name).await);
    }
    found.sort();
    found.dedup();
    assert_eq!(found.len(), 3, "{found:?}");
}

/// The content is there, on whichever node; and what is done to the one volume is not done to the other.
pub async fn a_volume_made_of_a_snapshot_holds_what_was_there_then<H: SnapshotHarness>(harness: &H) {
    let (_guard, volumes, volume, marked) = used(harness).await;
    if !marked {
        let why = "has no volumes the harness can mark";
        return skip("a_volume_made_of_a_snapshot_holds_what_was_there_then", &volumes, why);
    }
    let snapshot = complete(harness, &volumes, &volume, "monday").await;
    let made = ensure_from(&volumes, &spec(harness, "member-b", "data"), &snapshot).await;
    assert_ne!(made, volume);
    let [first, second] = harness.nodes();
    // Beside the one that it was made of.
    attach(harness, &volumes, &volume, &first).await;
    for node in [&first, &second] {
        attach(harness, &volumes, &made, node).await;
        assert!(harness.is_marked(&describe(&volumes, &made).await.expect("it exists")));
        detach(harness, &volumes, &made, node).await;
    }
}

/// Where it is declared, whoever uses the volume goes on, and finds in the snapshot what was there; where it is not, it is
/// refused.
pub async fn a_snapshot_of_a_volume_in_use_leaves_it_in_use<H: SnapshotHarness>(harness: &H) {
    let (_guard, volumes, volume) = opened(harness).await;
    let [node, other] = harness.nodes();
    attach(harness, &volumes, &volume, &node).await;
    let status = describe(&volumes, &volume).await.expect("it exists");
    if !SnapshotProvider::capabilities(&volumes).in_use {
        refused(volumes.begin_snapshot(&volume, &id("monday")).await, ErrorKind::Unsupported);
        let all = volumes.snapshots(&id("conformance")).await.expect("a healthy backend lists");
        return assert_eq!(all, []);
    }
    let marked = harness.mark(&status);
    let occupied = harness.occupy(&volumes, &status).await;
    let snapshot = complete(harness, &volumes, &volume, "monday").await;
    let status = describe(&volumes, &volume).await.expect("it exists");
    assert_eq!(status.attachment, Attachment::Attached(node));
    assert_eq!(status.in_use, occupied.is_some());
    let made = ensure_from(&volumes, &spec(harness, "member-b", "data"), &snapshot).await;
    attach(harness, &volumes, &made, &other).await;
    let status = describe(&volumes, &made).await.expect("it exists");
    assert!(!marked || harness.is_marked(&status), "what was written before is in it");
}

/// The volume may be deleted, and made anew of its own snapshot.
pub async fn a_snapshot_outlives_its_volume<H: SnapshotHarness>(harness: &H) {
    let (_guard, volumes, volume, marked) = used(harness).await;
    let snapshot = complete(harness, &volumes, &volume, "monday").await;
    volumes.delete(&volume).await.expect("a free volume can be deleted");
    let found = look(&volumes, &snapshot).await.expect("it stays");
    assert_eq!(found.state, SnapshotState::Complete);
    let made = ensure_from(&volumes, &spec(harness, "member-a", "data"), &snapshot).await;
    attach(harness, &volumes, &made, &harness.nodes()[1]).await;
    let status = describe(&volumes, &made).await.expect("it exists");
    assert!(!marked || harness.is_marked(&status));
}

/// However often it is asked for, there is one; and it is as large as was asked for once it is attached.
pub async fn a_volume_made_of_a_snapshot_is_found_again_and_may_be_larger<H: SnapshotHarness>(harness: &H) {
    let (guard, volumes, volume, _) = used(harness).await;
    let snapshot = complete(harness, &volumes, &volume, "monday").await;
    let usual = spec(harness, "member-b", "data");
    let grows = VolumeProvider::capabilities(&volumes).grow;
    let size_bytes = if grows { usual.size_bytes * 2 } else { usual.size_bytes };
    let wanted = VolumeSpec { size_bytes, ..usual };
    let made = ensure_from(&volumes, &wanted, &snapshot).await;
    let second = harness.reopen(&guard).await;
    assert_eq!(ensure_from(&second, &wanted, &snapshot).await, made);
    attach(harness, &volumes, &made, &harness.nodes()[0]).await;
    soon("its size", async {
        while describe(&volumes, &made).await.expect("it exists").spec != wanted {
            harness.advance(&volumes, &made).await;
            pause().await;
        }
    })
    .await;
    assert_eq!(ensure_from(&second, &wanted, &snapshot).await, made, "also while it is attached");
}

/// What a volume holds is never replaced by a snapshot.
pub async fn a_volume_that_exists_is_not_made_over<H: SnapshotHarness>(harness: &H) {
    let (_guard, volumes, volume, marked) = used(harness).await;
    let other = ensure(&volumes, &spec(harness, "member-b", "data")).await;
    let [node, _] = harness.nodes();
    attach(harness, &volumes, &other, &node).await;
    detach(harness, &volumes, &other, &node).await;
    let empty = complete(harness, &volumes, &other, "monday").await;
    let own = complete(harness, &volumes, &volume, "monday").await;
    for snapshot in [&empty, &own] {
        let wanted = spec(harness, "member-a", "data");
        refused(volumes.ensure_from(&wanted, snapshot).await, ErrorKind::AlreadyExists);
    }
    attach(harness, &volumes, &volume, &node).await;
    let status = describe(&volumes, &volume).await.expect("it exists");
    assert!(!marked || harness.is_marked(&status));
}

/// Nothing is cut off.
pub async fn what_is_smaller_than_the_snapshot_is_invalid<H: SnapshotHarness>(harness: &H) {
    let (_guard, volumes, volume, _) = used(harness).await;
    let snapshot = complete(harness, &volumes, &volume, "monday").await;
    let usual = spec(harness, "member-b", "data");
    let small = VolumeSpec { size_bytes: usual.size_bytes - 1, ..usual };
    refused(volumes.ensure_from(&small, &snapshot).await, ErrorKind::Invalid);
    assert_eq!(volumes.list(&small.cluster).await.expect("a healthy backend lists").len(), 1);
}

/// Deleting it again is success; a volume that was made of it keeps what it holds, be it attached since or not.
pub async fn a_deleted_snapshot_is_gone_and_what_was_made_of_it_is_not<H: SnapshotHarness>(harness: &H) {
    let (_guard, volumes, volume, marked) = used(harness).await;
    let snapshot = complete(harness, &volumes, &volume, "monday").await;
    let made = ensure_from(&volumes, &spec(harness, "member-b", "data"), &snapshot).await;
    for _ in 0..2 {
        volumes.delete_snapshot(&snapshot).await.expect("deleting again is success");
    }
    assert_eq!(look(&volumes, &snapshot).await, None);
    assert_eq!(volumes.snapshots(&id("conformance")).await.expect("a healthy backend lists"), []);
    let wanted = spec(harness, "member-c", "data");
    refused(volumes.ensure_from(&wanted, &snapshot).await, ErrorKind::NotFound);
    attach(harness, &volumes, &made, &harness.nodes()[0]).await;
    let status = describe(&volumes, &made).await.expect("it exists");
    assert!(!marked || harness.is_marked(&status));
    // Its name is free again.
    complete(harness, &volumes, &volume, "monday").await;
}

/// A volume that does not exist is not found, so that nobody waits for its snapshot.
pub async fn what_is_not_there_has_no_snapshot<H: SnapshotHarness>(harness: &H) {
    let (_guard, volumes, known) = opened(harness).await;
    let gone = unknown(&volumes, known).await;
    refused(volumes.begin_snapshot(&gone, &id("monday")).await, ErrorKind::NotFound);
    assert_eq!(volumes.snapshots(&id("conformance")).await.expect("a healthy backend lists"), []);
}

/// A cluster's snapshots are those of its own volumes.
pub async fn snapshots_are_listed_by_cluster<H: SnapshotHarness>(harness: &H) {
    let (_guard, volumes, volume, _) = used(harness).await;
    let elsewhere = VolumeSpec { cluster: id("elsewhere"), ..spec(harness, "member-c", "data") };
    let other = ensure(&volumes, &elsewhere).await;
    let (own, others) = (begin(&volumes, &volume, "monday").await, begin(&volumes, &other, "monday").await);
    for (cluster, wanted) in [("conformance", vec![own]), ("elsewhere", vec![others]), ("nowhere", vec![])] {
        let all = volumes.snapshots(&id(cluster)).await.expect("a healthy backend lists");
        assert_eq!(all.into_iter().map(|found| found.id).collect::<Vec<_>>(), wanted, "{cluster}");
    }
}
