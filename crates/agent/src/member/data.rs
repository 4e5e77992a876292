//! Whether a member's data is what it must be, and whether its first data is to be made: decided purely.

use steadfast_core::engine::{Peer, WantedRole};
use steadfast_core::ids::{Epoch, MemberName, Ordinal};
use steadfast_core::model::{Group, Leadership, Member, Reason, RolePhase, RoleState, Topology};
use steadfast_core::planted::{self, Planted};

use crate::host::{FirstData, MountedVolume, VolumeFacts};

/// What the decision depends on.
#[derive(Debug, Clone)]
pub(super) struct DataView<'a> {
    /// The member.
    pub member: &'a Member,
    /// Its volumes, as found.
    pub volumes: &'a [(MountedVolume, VolumeFacts)],
    /// Who decides which member leads.
    pub leadership: Leadership,
    /// How members belong together.
    pub topology: Topology,
    /// Whether a member can follow without a vote.
    pub learners: bool,
    /// Whether the service has served in full before.
    pub bootstrapped: bool,
    /// Who leads, where that is Steadfast's matter.
    pub role: Option<&'a RoleState>,
    /// The leader, if it serves.
    pub serving_leader: Option<&'a Peer>,
}

/// What is to be done about a member's data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum DataStep {
    /// It is there.
    Keep,
    /// It is to be made.
    Make(FirstData),
    /// It is to be made, but not yet.
    Wait(Reason, String),
    /// It has been opened under this epoch, of which the records do not know: they are of before that.
    RaiseEpochAbove(Epoch),
    /// It is not what it must be: nothing is done to it.
    Refuse(Reason, String),
}

/// What is to be done. Never formats anything: what is not known to be this member's is refused.
pub(super) fn decide(view: &DataView<'_>) -> DataStep {
    let elects = view.leadership == Leadership::Engine && view.topology == Topology::Quorum;
    if elects && view.member.recloning && !view.learners {
        let message = "it has forgotten what it voted for, and its engine knows no learners in this revision";
        return DataStep::Refuse(Reason::VoterAmnesia, message.to_owned());
    }
    for (volume, facts) in view.volumes {
        if let Some(refusal) = foreign(view, volume, facts) {
            return refusal;
        }
    }
    let newest = view.volumes.iter().filter_map(|(_, facts)| facts.epoch).max();
    if let Some(epoch) = newest.filter(|epoch| *epoch > view.member.epoch) {
        return DataStep::RaiseEpochAbove(epoch);
    }
    let made = |facts: &VolumeFacts| facts.identity.as_ref().is_some_and(|identity| identity.initialised);
    let all_made = view.volumes.iter().all(|(_, facts)| made(facts));
    let lost = view.volumes.iter().enumerate().find(|(index, (_, facts))| {
        // Data that was made once: by the record, or by the volume's own word. Only of the first volume is it
        // known that there is something on it before the engine has run; the engine knows about the others.
        let emptied = *index == 0 && facts.empty;
        (view.member.initialised.is_some() && !made(facts)) || (made(facts) && emptied)
    });
    if planted::is(Planted::AmnesiacMember) && lost.is_some() {
        return first_data(view);
    }
    if let Some((_, (volume, _))) = lost {
        return unexpectedly_empty(view, volume);
    }
    if all_made && !view.volumes.is_empty() || view.member.initialised.is_some() {
        return DataStep::Keep;
    }
    first_data(view)
}

fn foreign(view: &DataView<'_>, volume: &MountedVolume, facts: &VolumeFacts) -> Option<DataStep> {
    let folder = volume.folder.display();
    let refuse = |reason, message| Some(DataStep::Refuse(reason, message));
    match &facts.identity {
        None if facts.empty => None,
        None => refuse(
            Reason::VolumeForeign,
            format!(
                "{folder} holds data and does not say whose: look at it, and empty it if nobody needs it"
            ),
        ),
        Some(identity) if identity.member != view.member.id => refuse(
            Reason::VolumeForeign,
            format!("{folder} belongs to member {}, and this is {}", identity.member, view.member.id),
        ),
        Some(identity) if identity.architecture != std::env::consts::ARCH => refuse(
            Reason::EngineMismatch,
            format!(
                "{folder} was written on {}, and this node is {}",
                identity.architecture,
                std::env::consts::ARCH
            ),
        ),
        Some(_) => None,
    }
}

fn unexpectedly_empty(view: &DataView<'_>, volume: &MountedVolume) -> DataStep {
    let folder = volume.folder.display();
    match view.topology {
        Topology::Quorum => DataStep::Refuse(
            Reason::VoterAmnesia,
            format!(
                "{folder} has lost its data, and a voter that forgot its votes must not vote again: bring the \
                 volume back, or remove the member and add another"
            ),
        ),
        Topology::Independent | Topology::PrimaryReplicas => DataStep::Refuse(
            Reason::VolumeUnexpectedlyEmpty,
            format!("{folder} must hold data and does not: bring the volume back"),
        ),
    }
}

fn first_data(view: &DataView<'_>) -> DataStep {
    if view.leadership == Leadership::Engine {
        // One whose data was given up joins those who have it, however few of them there ever were.
        let joins = view.bootstrapped || view.member.recloning;
        return DataStep::Make(if joins { FirstData::Join(None) } else { FirstData::Initialise });
    }
    let wait = |message: String| DataStep::Wait(Reason::BootstrapRunning, message);
    let Some(role) = view.role else {
        return wait("nobody has been chosen to make the first data".to_owned());
    };
    match (&role.leader, role.phase) {
        (Some(leader), RolePhase::Bootstrapping) if leader == &view.member.name => {
            DataStep::Make(FirstData::Initialise)
        }
        (Some(leader), RolePhase::Led) if leader != &view.member.name => match view.serving_leader {
            Some(peer) => DataStep::Make(FirstData::Join(Some(peer.clone()))),
            None => wait(format!("{leader}, from which the data is copied, does not serve yet")),
        },
        (Some(leader), RolePhase::Bootstrapping) => wait(format!("{leader} makes the first data")),
        (Some(_), RolePhase::Led) => DataStep::Refuse(
            Reason::VolumeUnexpectedlyEmpty,
            "it leads and has no data: bring the volume back".to_owned(),
        ),
        (None, _) | (_, RolePhase::Electing | RolePhase::HandingOver) => wait("nobody leads now".to_owned()),
    }
}

/// The members that count: a write that one of the others has confirmed may be lost with the primary.
pub(super) fn counting<'a>(peers: &'a [Peer], group: Option<&Group>) -> impl Iterator<Item = &'a Peer> {
    let voters = group.map_or(Ordinal::MAX, Group::voters);
    peers.iter().filter(move |peer| peer.ordinal < voters)
}

/// The role that the records want this member to have. Without a leader, nobody takes writes.
pub(super) fn wanted_role(
    me: &MemberName,
    peers: &[Peer],
    group: Option<&Group>,
    role: Option<&RoleState>,
) -> WantedRole {
    let followed = role.and_then(|role| match role.phase {
        RolePhase::Bootstrapping | RolePhase::Led => role.leader.as_ref(),
        // What the old leader wrote last is still to be had from it, and from nobody else.
        RolePhase::HandingOver => role.previous.as_ref().filter(|previous| *previous != me),
        RolePhase::Electing if planted::is(Planted::ReturnsAsPrimary) => {
            role.previous.as_ref().filter(|old| *old == me)
        }
        RolePhase::Electing => None,
    });
    match followed {
        Some(leader) if leader == me => {
            let others = counting(peers, group).filter(|peer| &peer.name != me);
            WantedRole::Primary { replicas: others.cloned().collect() }
        }
        Some(leader) => peers
            .iter()
            .find(|peer| &peer.name == leader)
            .map_or(WantedRole::Fenced, |peer| WantedRole::Follow(peer.clone())),
        None => WantedRole::Fenced,
    }
}

#[cfg(test)]
#[path = "data_tests.rs"]
mod tests;
