//! Volumes that lie on the disk of a node.

use super::{VolumeHarness, attach, attachment, describe, detach, ensure, opened, refused, spec};
use crate::error::ErrorKind;
use crate::volume::{Attachment, Reach, VolumeProvider};

/// A volume that lies on a node's disk is made on the node that it is first attached to, says so to everybody, and is
/// attached to no other.
pub async fn a_volume_on_a_nodes_disk_is_attached_there_only<H: VolumeHarness>(harness: &H) {
    let (guard, volumes, id) = opened(harness).await;
    let [first, second] = harness.nodes();
    let node_of = async |volumes: &H::Backend| describe(volumes, &id).await.expect("it exists").node;
    assert_eq!(node_of(&volumes).await, None, "it is nowhere yet");
    attach(harness, &volumes, &id, &first).await;
    let wanted = (volumes.capabilities().reach == Reach::Node).then(|| first.clone());
    let other_handle = harness.reopen(&guard).await;
    assert_eq!(node_of(&other_handle).await, wanted, "also when it is asked for elsewhere");
    detach(harness, &volumes, &id, &first).await;
    assert_eq!(node_of(&volumes).await, wanted, "it stays where it is");
    if wanted.is_some() {
        refused(other_handle.begin_attach(&id, &second).await, ErrorKind::Invalid);
        assert_eq!(attachment(&volumes, &id).await, Attachment::Free);
    }
}

/// A volume that was given up is no more, however it was attached, and its member's next one goes to any node.
pub async fn a_volume_whose_disk_is_gone_is_made_anew_on_any_node<H: VolumeHarness>(harness: &H) {
    let (guard, volumes, id) = opened(harness).await;
    let [first, second] = harness.nodes();
    attach(harness, &volumes, &id, &first).await;
    let marked = harness.mark(&describe(&volumes, &id).await.expect("it exists"));
    if volumes.capabilities().reach != Reach::Node {
        refused(volumes.abandon(&id).await, ErrorKind::Unsupported);
        assert_eq!(attachment(&volumes, &id).await, Attachment::Attached(first));
        return;
    }
    let wanted = spec(harness, "member-a", "data");
    let other_handle = harness.reopen(&guard).await;
    for _ in 0..2 {
        other_handle.abandon(&id).await.expect("giving up again is success");
    }
    assert_eq!(describe(&volumes, &id).await, None);
    refused(volumes.begin_attach(&id, &first).await, ErrorKind::NotFound);
    let next = ensure(&volumes, &wanted).await;
    assert_ne!(next, id, "who asks for the old one finds that it is gone");
    other_handle.abandon(&id).await.expect("giving up again is success");
    assert_eq!(describe(&volumes, &next).await.expect("it is another one").node, None);
    attach(harness, &volumes, &next, &second).await;
    let status = describe(&volumes, &next).await.expect("it exists");
    assert!(!marked || !harness.is_marked(&status), "it is empty");
    detach(harness, &volumes, &next, &second).await;
    // On the disk that is back, too.
    volumes.abandon(&next).await.expect("a volume can be given up");
    let third = ensure(&volumes, &wanted).await;
    attach(harness, &volumes, &third, &first).await;
    let status = describe(&volumes, &third).await.expect("it exists");
    assert!(!marked || !harness.is_marked(&status), "what was given up stays so");
}
