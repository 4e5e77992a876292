//! Volumes that become larger.

use super::{
    VolumeHarness, attach, attachment, describe, detach, ensure, next_node, opened, pause, reach, refused,
    skip, soon, spec, unknown,
};
use crate::error::ErrorKind;
use crate::ids::VolumeId;
use crate::volume::{Attachment, VolumeProvider};

/// Whether the provider declares that its volumes grow; says so if the rule is left out for want of that.
fn grows(rule: &str, volumes: &impl VolumeProvider) -> bool {
    let declared = volumes.capabilities().grow;
    if !declared {
        skip(rule, volumes, "does not declare that its volumes grow");
    }
    declared
}

async fn grow(volumes: &impl VolumeProvider, id: &VolumeId, size_bytes: u64) {
    volumes.begin_grow(id, size_bytes).await.expect("a healthy backend makes a volume larger");
}

async fn size(volumes: &impl VolumeProvider, id: &VolumeId) -> u64 {
    describe(volumes, id).await.expect("the volume exists").spec.size_bytes
}

async fn reach_size<H: VolumeHarness>(harness: &H, volumes: &H::Backend, id: &VolumeId, wanted: u64) {
    soon(&format!("a size of {wanted} bytes"), async {
        while size(volumes, id).await != wanted {
            harness.advance(volumes, id).await;
            pause().await;
        }
    })
    .await;
}

/// That whoever uses an attached volume has the room which is said, but for what a file system takes for itself.
async fn assert_room<H: VolumeHarness>(harness: &H, volumes: &H::Backend, id: &VolumeId, size_bytes: u64) {
    let status = describe(volumes, id).await.expect("the volume exists");
    assert_eq!(status.spec.size_bytes, size_bytes);
    if let Some(room) = harness.room_bytes(&status) {
        assert!(room <= size_bytes && room > size_bytes / 4 * 3, "{room} of {size_bytes} bytes");
    }
}

/// An attached volume grows where it is, keeps what it holds, and has the room that is said.
pub async fn growing_ends_as_large_as_was_asked_for<H: VolumeHarness>(harness: &H) {
    let (_guard, volumes, id) = opened(harness).await;
    if !grows("growing_ends_as_large_as_was_asked_for", &volumes) {
        return;
    }
    let ([node, _], small) = (harness.nodes(), harness.size_bytes());
    attach(harness, &volumes, &id, &node).await;
    let marked = harness.mark(&describe(&volumes, &id).await.expect("it exists"));
    for larger in [small * 2, small * 3] {
        grow(&volumes, &id, larger).await;
        reach_size(harness, &volumes, &id, larger).await;
        assert_room(harness, &volumes, &id, larger).await;
    }
    let status = describe(&volumes, &id).await.expect("it exists");
    assert_eq!(status.attachment, Attachment::Attached(node));
    assert!(!marked || harness.is_marked(&status), "what it holds stays");
    assert_eq!(ensure(&volumes, &spec(harness, "member-a", "data")).await, id, "and it is the same volume");
}

/// Asking for a size that is on its way, or that there is, is success.
pub async fn growing_again_is_success<H: VolumeHarness>(harness: &H) {
    let (guard, volumes, id) = opened(harness).await;
    if !grows("growing_again_is_success", &volumes) {
        return;
    }
    let larger = harness.size_bytes() * 2;
    attach(harness, &volumes, &id, &harness.nodes()[0]).await;
    for _ in 0..2 {
        grow(&volumes, &id, larger).await;
    }
    reach_size(harness, &volumes, &id, larger).await;
    let second = harness.reopen(&guard).await;
    grow(&second, &id, larger).await;
    assert_eq!(size(&second, &id).await, larger);
}

/// Asking for less than there is, is success and changes nothing.
pub async fn a_volume_never_shrinks<H: VolumeHarness>(harness: &H) {
    let (_guard, volumes, id) = opened(harness).await;
    if !grows("a_volume_never_shrinks", &volumes) {
        return;
    }
    let small = harness.size_bytes();
    attach(harness, &volumes, &id, &harness.nodes()[0]).await;
    grow(&volumes, &id, small * 2).await;
    reach_size(harness, &volumes, &id, small * 2).await;
    for less in [0, small, small * 2 - 1] {
        grow(&volumes, &id, less).await;
        harness.advance(&volumes, &id).await;
        assert_eq!(size(&volumes, &id).await, small * 2);
    }
    assert_room(harness, &volumes, &id, small * 2).await;
}

/// However many ask for a size at once, the largest is what it comes to.
pub async fn racing_growths_end_with_the_largest<H: VolumeHarness>(harness: &H) {
    let (guard, volumes, id) = opened(harness).await;
    if !grows("racing_growths_end_with_the_largest", &volumes) {
        return;
    }
    let (second, small) = (harness.reopen(&guard).await, harness.size_bytes());
    attach(harness, &volumes, &id, &harness.nodes()[0]).await;
    futures::join!(
        grow(&volumes, &id, small * 2),
        grow(&second, &id, small * 3),
        grow(&volumes, &id, small / 2),
        grow(&second, &id, small * 2),
    );
    reach_size(harness, &volumes, &id, small * 3).await;
    assert_room(harness, &volumes, &id, small * 3).await;
}

/// Whoever uses a volume goes on using it while it grows.
pub async fn a_volume_in_use_grows_where_it_is<H: VolumeHarness>(harness: &H) {
    let (_guard, volumes, id) = opened(harness).await;
    if !grows("a_volume_in_use_grows_where_it_is", &volumes) {
        return;
    }
    let ([node, _], larger) = (harness.nodes(), harness.size_bytes() * 2);
    attach(harness, &volumes, &id, &node).await;
    let status = describe(&volumes, &id).await.expect("it exists");
    let Some(occupied) = harness.occupy(&volumes, &status).await else {
        let why = "has no volumes the harness can occupy";
        return skip("a_volume_in_use_grows_where_it_is", &volumes, why);
    };
    grow(&volumes, &id, larger).await;
    reach_size(harness, &volumes, &id, larger).await;
    let status = describe(&volumes, &id).await.expect("it exists");
    assert_eq!((status.attachment, status.in_use), (Attachment::Attached(node), true));
    drop(occupied);
}

/// One that is attached nowhere has its new size at the latest when it is attached, and on the next node as well.
pub async fn a_volume_told_to_grow_while_it_is_free_is_large_once_it_is_attached<H: VolumeHarness>(
    harness: &H,
) {
    let (_guard, volumes, id) = opened(harness).await;
    if !grows("a_volume_told_to_grow_while_it_is_free_is_large_once_it_is_attached", &volumes) {
        return;
    }
    let ([first, _], larger) = (harness.nodes(), harness.size_bytes() * 2);
    let second = next_node(harness, &volumes);
    attach(harness, &volumes, &id, &first).await;
    let marked = harness.mark(&describe(&volumes, &id).await.expect("it exists"));
    detach(harness, &volumes, &id, &first).await;
    grow(&volumes, &id, larger).await;
    assert_eq!(attachment(&volumes, &id).await, Attachment::Free);
    volumes.begin_attach(&id, &second).await.expect("a free volume can be attached");
    reach(harness, &volumes, &id, &Attachment::Attached(second.clone())).await;
    reach_size(harness, &volumes, &id, larger).await;
    assert_room(harness, &volumes, &id, larger).await;
    let status = describe(&volumes, &id).await.expect("it exists");
    assert!(!marked || harness.is_marked(&status), "what it holds stays");
    detach(harness, &volumes, &id, &second).await;
    attach(harness, &volumes, &id, &first).await;
    assert_room(harness, &volumes, &id, larger).await;
}

/// A volume that does not exist is not found, so that nobody waits for its growth.
pub async fn what_is_not_there_does_not_grow<H: VolumeHarness>(harness: &H) {
    let (_guard, volumes, known) = opened(harness).await;
    if grows("what_is_not_there_does_not_grow", &volumes) {
        let gone = unknown(&volumes, known).await;
        refused(volumes.begin_grow(&gone, harness.size_bytes() * 2).await, ErrorKind::NotFound);
        assert_eq!(describe(&volumes, &gone).await, None);
    }
}

/// A provider that does not declare it refuses, and changes nothing.
pub async fn what_cannot_grow_says_so<H: VolumeHarness>(harness: &H) {
    let (_guard, volumes, id) = opened(harness).await;
    if volumes.capabilities().grow {
        return skip("what_cannot_grow_says_so", &volumes, "declares that its volumes grow");
    }
    refused(volumes.begin_grow(&id, harness.size_bytes() * 2).await, ErrorKind::Unsupported);
    harness.advance(&volumes, &id).await;
    assert_eq!(size(&volumes, &id).await, harness.size_bytes());
}
