//! The next step of a claim, as a pure function of what was read.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use super::address_set;
use crate::ids::{Incarnation, NodeName, VolumeId};
use crate::ip::AddressStatus;
use crate::model::{Evidence, Holder, Member, MemberPhase, Reason};
use crate::observed::Observed;
use crate::planted::{self, Planted};
use crate::registry::{DomainName, RecordSet};
use crate::volume::{Attachment, Exclusivity, VolumeStatus};

/// One of the member's volumes, as read.
#[derive(Debug, Clone)]
pub struct VolumeView {
    /// Its identifier.
    pub id: VolumeId,
    /// The node it is to be detached from, as recorded.
    pub last_holder: Option<NodeName>,
    /// What the provider says.
    pub status: Observed<VolumeStatus>,
}

/// Everything a claim decides on.
#[derive(Debug, Clone)]
pub struct ClaimView {
    /// The record.
    pub member: Arc<Member>,
    /// The claiming node.
    pub node: NodeName,
    /// Its present life.
    pub incarnation: Incarnation,
    /// Whether the record names us as the holder.
    pub held: bool,
    /// The unreleased holders besides us.
    pub others: Vec<Holder>,
    /// The evidence against them, by position.
    pub evidence: BTreeMap<usize, Evidence>,
    /// Who refuses a second writer.
    pub exclusivity: Exclusivity,
    /// The member's volumes.
    pub volumes: Vec<VolumeView>,
    /// The member's address.
    pub address: Observed<AddressStatus>,
    /// The member's full name.
    pub host: DomainName,
    /// What that name holds.
    pub name: Option<RecordSet>,
    /// The nodes that hold something of the member, are not recorded to have held it, and are confirmed dead by an
    /// operator.
    pub confirmed_dead: BTreeSet<NodeName>,
}

/// The next step.
#[derive(Debug, Clone, PartialEq)]
pub enum Step {
    /// Not ours.
    Lost(Reason, String),
    /// Nothing can be done now.
    Wait(Reason, String),
    /// Become the holder; the evidence found so far is told in the event.
    RaiseEpoch {
        /// Evidence per earlier holder.
        evidence: Vec<(Holder, Evidence)>,
    },
    /// Begin to detach a volume from the holder that is expected.
    Detach {
        /// The volume.
        volume: VolumeId,
        /// The expected holder.
        from: NodeName,
    },
    /// Record that the volume is now let near us, before attaching it.
    RecordVolumeHolder {
        /// The volume.
        volume: VolumeId,
    },
    /// Begin to attach a volume here.
    Attach {
        /// The volume.
        volume: VolumeId,
    },
    /// Take the address from the expected holder.
    TakeAddress {
        /// The address.
        address: IpAddr,
        /// The expected holder.
        from: Option<NodeName>,
    },
    /// Record that we hold the address.
    RecordAddressHolder,
    /// Give the name its value.
    SetName {
        /// The name.
        name: DomainName,
        /// Its value.
        set: RecordSet,
        /// What it is expected to hold.
        expected: Option<RecordSet>,
    },
    /// Record that everything is ours.
    Prepare {
        /// The earlier holders that are now proven unable to write.
        released: Vec<(Holder, Evidence)>,
    },
    /// Everything is ours and recorded.
    Done,
}

impl Step {
    /// Whether it moves a volume, or records that one is moved.
    pub(super) fn is_of_volumes(&self) -> bool {
        matches!(self, Step::Detach { .. } | Step::RecordVolumeHolder { .. } | Step::Attach { .. })
    }
}

/// The next step of the claim that `view` shows.
pub fn next(view: &ClaimView) -> Step {
    let ClaimView { member, node, held, .. } = view;
    if member.placed_on.as_ref() != Some(node) || !member.run {
        return Step::Lost(Reason::EpochStale, format!("{} is not placed on {node}", member.name));
    }
    let (proven, unproven) = weigh(view);
    if let Some(holder) = unproven.first() {
        return Step::Wait(Reason::FenceUnproven, unproven_text(holder));
    }
    if let Some(step) = elsewhere(view) {
        return step;
    }
    if !held {
        if planted::is(Planted::DetachBeforeOwnership)
            && let Some(step @ Step::Detach { .. }) = next_for_volumes(view)
        {
            return step;
        }
        if planted::is(Planted::AddressBeforeOwnership)
            && let Some(step @ Step::TakeAddress { .. }) = next_for_address(view)
        {
            return step;
        }
        return Step::RaiseEpoch { evidence: proven };
    }
    if let Some(step) = next_for_volumes(view).or_else(|| next_for_address(view)) {
        return step;
    }
    let claiming =
        matches!(member.phase, MemberPhase::Claiming | MemberPhase::Pending | MemberPhase::Stopped);
    if claiming || !proven.is_empty() { Step::Prepare { released: proven } } else { Step::Done }
}

/// What is done at the same time as `step` and those of volumes that follow it: while volumes are detached and attached, the
/// address is looked for on the network, or moved by a cloud.
///
/// Only where every earlier holder is proven dead by more than that its storage refuses it: one that may still serve keeps
/// its address until it has lost its volumes.
pub(super) fn beside(view: &ClaimView, step: &Step) -> Option<Step> {
    let dead = (0..view.others.len()).all(|index| view.evidence.contains_key(&index));
    let address = (step.is_of_volumes() && view.held && dead).then(|| next_for_address(view)).flatten();
    address.filter(|step| matches!(step, Step::TakeAddress { .. }))
}

/// The earlier holders with their evidence, and those without any.
///
/// Where the storage itself refuses a second writer, the attachment is the proof: nothing is written before
/// every volume is ours, so the claim may go on to detach them.
fn weigh(view: &ClaimView) -> (Vec<(Holder, Evidence)>, Vec<&Holder>) {
    let storage_refuses = view.exclusivity == Exclusivity::Storage && !view.volumes.is_empty();
    let mut proven = Vec::new();
    let mut unproven = Vec::new();
    for (index, holder) in view.others.iter().enumerate() {
        match view.evidence.get(&index) {
            Some(evidence) => proven.push((holder.clone(), *evidence)),
            None if storage_refuses || planted::is(Planted::NoFence) => {
                proven.push((holder.clone(), Evidence::StorageRefused))
            }
            None => unproven.push(holder),
        }
    }
    (proven, unproven)
}

fn unproven_text(holder: &Holder) -> String {
    format!(
        "{holder} may still write, and nothing proves that it cannot; if you know that it is off: \
         steadfast node confirm-dead {}",
        holder.node
    )
}

/// A volume that lies on the disk of another node is nothing to claim, and nothing of the member is touched for it.
fn elsewhere(view: &ClaimView) -> Option<Step> {
    view.volumes.iter().find_map(|volume| {
        let Observed::Present(status) = &volume.status else { return None };
        let disk = status.node.as_ref().filter(|disk| **disk != view.node)?;
        Some(Step::Wait(Reason::PlacementNone, format!("volume {} is on the disk of {disk}", volume.id)))
    })
}

fn next_for_volumes(view: &ClaimView) -> Option<Step> {
    view.volumes.iter().find_map(|volume| next_for_volume(view, volume))
}

fn next_for_volume(view: &ClaimView, volume: &VolumeView) -> Option<Step> {
    let node = &view.node;
    let id = &volume.id;
    let wait = |reason, text: String| Some(Step::Wait(reason, format!("volume {id} {text}")));
    let status = match &volume.status {
        Observed::Present(status) => status,
        Observed::Absent => return wait(Reason::VolumeCorrupt, "does not exist at its provider".to_owned()),
        Observed::Unknown => return wait(Reason::VolumeBusy, "cannot be looked at".to_owned()),
    };
    match &status.attachment {
        Attachment::Attached(holder) if holder == node || planted::is(Planted::BlindAttach) => None,
        Attachment::Attaching(holder) if holder == node => {
            wait(Reason::VolumeAttaching, format!("is being attached to {node}"))
        }
        Attachment::Free if volume.last_holder.as_ref() != Some(node) => {
            Some(Step::RecordVolumeHolder { volume: id.clone() })
        }
        Attachment::Free if status.in_use => {
            wait(Reason::VolumeBusy, "is in use although it is attached to nobody".to_owned())
        }
        Attachment::Free => Some(Step::Attach { volume: id.clone() }),
        Attachment::Detaching(holder) => {
            wait(Reason::VolumeDetaching, format!("is being detached from {holder}, which may still write"))
        }
        Attachment::Attached(holder) | Attachment::Attaching(holder) => {
            if has_held(view, volume.last_holder.as_ref(), holder) {
                Some(Step::Detach { volume: id.clone(), from: holder.clone() })
            } else {
                wait(Reason::VolumeBusy, format!("is attached to {}", stranger_text(holder)))
            }
        }
    }
}

/// Whether `holder` is recorded to have held what is to be taken from it. A claimant that died between taking and
/// recording is among the unreleased. Anybody else is not ours to disturb but on an operator's word: the records may be
/// older than what it did. Its silence counts for nothing, as they do not say which of its lives that was.
fn has_held(view: &ClaimView, last_holder: Option<&NodeName>, holder: &NodeName) -> bool {
    is_recorded(last_holder, &view.others, holder) || view.confirmed_dead.contains(holder)
}

/// Whether the records say that `holder` has held something of the member.
pub(super) fn is_recorded(last_holder: Option<&NodeName>, others: &[Holder], holder: &NodeName) -> bool {
    last_holder == Some(holder) || others.iter().any(|other| &other.node == holder)
}

fn stranger_text(holder: &NodeName) -> String {
    format!(
        "{holder}, which never held this member as far as the records know; its agent gives that back when it runs; if \
         you know that it is off: steadfast node confirm-dead {holder}"
    )
}

fn next_for_address(view: &ClaimView) -> Option<Step> {
    let binding = view.member.address.as_ref()?;
    let address = binding.address;
    let wait = |text: String| Some(Step::Wait(Reason::AddressHeldElsewhere, format!("{address} {text}")));
    match &view.address {
        Observed::Present(status) if status.owner != view.member.id => {
            return wait(format!("belongs to another member ({})", status.owner));
        }
        Observed::Present(status) if status.holder.as_ref() == Some(&view.node) => {}
        Observed::Present(status) => match &status.holder {
            Some(holder) if !has_held(view, binding.last_holder.as_ref(), holder) => {
                return wait(format!("is held by {}", stranger_text(holder)));
            }
            from => return Some(Step::TakeAddress { address, from: from.clone() }),
        },
        Observed::Absent | Observed::Unknown => return wait("is not allocated to this member".to_owned()),
    }
    if binding.last_holder.as_ref() != Some(&view.node) {
        return Some(Step::RecordAddressHolder);
    }
    let set = address_set(address);
    (view.name.as_ref() != Some(&set)).then(|| Step::SetName {
        name: view.host.clone(),
        set,
        expected: view.name.clone(),
    })
}
