//! Growth: a member's volumes become as large as the revision in force says, one after another, while the member serves.
//!
//! What is due follows from the members' records alone, which keep how large each volume was seen to be. A volume never
//! shrinks: one that is larger than wanted is left as it is.

use super::{Action, Facts, MemberFacts, Plan, Wait};
use crate::ids::{MemberName, VolumeName};
use crate::model::{ByteSize, Reason, VolumeBinding};

/// A volume that is not known to be as large as is wanted.
struct Due<'a> {
    member: &'a MemberName,
    binding: &'a VolumeBinding,
    size_bytes: u64,
}

/// Asks for the next volume to be made larger, and again until it is. One that cannot be stops the line.
pub(super) fn grow(facts: &Facts, plan: &mut Plan) {
    if !facts.growing_volumes {
        return;
    }
    let mut due = facts.own_members().flat_map(|(name, member)| due(facts, name, member));
    let Some(Due { member, binding, size_bytes }) = due.next() else { return };
    if let Some(wait) = facts.pause("no volume is made larger") {
        plan.waits.push(wait);
        return;
    }
    let volume = &binding.name;
    let (reason, message) = match &binding.growth_failed {
        Some((reason, message)) => (reason.clone(), message.clone()),
        None => (Reason::VolumeGrowing, format!("it is made {} large", ByteSize(size_bytes))),
    };
    // One of which nothing is known is only looked at.
    if binding.size_bytes.is_some() || binding.growth_failed.is_some() {
        let wait = Wait::new(reason, format!("volume {volume} of {member}: {message}"));
        plan.waits.push(wait.resolved_by(format!("steadfast why {member}")));
    }
    plan.actions.push(Action::GrowVolume { member: member.clone(), volume: volume.clone(), size_bytes });
}

/// Whether a member's volumes are as large as is wanted.
pub(super) fn is_done(facts: &Facts, name: &MemberName, member: &MemberFacts) -> bool {
    !facts.growing_volumes || due(facts, name, member).next().is_none()
}

fn due<'a>(facts: &'a Facts, name: &'a MemberName, member: &'a MemberFacts) -> impl Iterator<Item = Due<'a>> {
    member.record.volumes.iter().filter_map(move |binding| {
        let size_bytes = wanted(facts, &binding.name)?;
        let small = binding.id.is_some() && binding.size_bytes.is_none_or(|has| has < size_bytes);
        small.then_some(Due { member: name, binding, size_bytes })
    })
}

fn wanted(facts: &Facts, volume: &VolumeName) -> Option<u64> {
    facts.revision.volume_sizes().find(|(name, _)| *name == volume).map(|(_, size_bytes)| size_bytes)
}
