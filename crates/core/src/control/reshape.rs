//! Reshaping a service that runs: another leader, another revision of its spec.

use std::collections::BTreeMap;

use super::admit::Admitted;
use super::{Control, ControlError, ControlResult, Guard};
use crate::ids::{Generation, GroupName, MemberName, OperationId, Ordinal, Revision, ServiceName};
use crate::model::{Goal, Leadership, Operation, OperationKind, Reason, Service, VolumeClaim};

/// What is asked for, beyond the kind of the operation.
#[derive(Debug, Clone)]
pub(super) enum Ask {
    /// Nothing: the kind says it all.
    Nothing,
    /// That another member leads.
    Leader {
        /// The group; none: the only one.
        group: Option<GroupName>,
        /// The member; none: whichever is farthest.
        to: Option<MemberName>,
    },
    /// That every member runs as this says.
    Spec(Box<Admitted>),
    /// That every member runs a revision that there is.
    Revision(Revision),
    /// That every member's volumes are as large as this says.
    Volumes(Vec<VolumeClaim>),
    /// That a group has so many members.
    Replicas {
        /// The group; none: the only one.
        group: Option<GroupName>,
        /// How many.
        replicas: Ordinal,
    },
}

/// What an operation is to come to.
#[derive(Debug, Clone, Default)]
pub(super) struct Aim {
    /// The generations to reach.
    pub(super) targets: BTreeMap<MemberName, Generation>,
    /// What else.
    pub(super) goal: Option<Goal>,
}

impl Control {
    /// Moves leadership to `to`, or to the replica that is farthest, in order: the primary stops writing, and is
    /// followed by a replica that has everything it wrote.
    ///
    /// # Behavior
    /// - It fails, and the old primary leads again, if no replica has everything within `promote_after`.
    /// - Clients that write are refused meanwhile.
    ///
    /// # Errors
    /// `NotFound`; `Refused` if the engine decides itself who leads, `to` is no other member of the group, or the
    /// leader has nobody beside it; `Conflict` while the service is stopped or deleted, or while another operation runs.
    pub async fn switchover(
        &self,
        name: &ServiceName,
        group: Option<GroupName>,
        to: Option<MemberName>,
        guard: Guard,
    ) -> ControlResult<Operation> {
        self.begin_for(name, OperationKind::Switchover, Ask::Leader { group, to }, guard).await
    }

    /// Brings every member to the spec that `input` describes, one after another: another version of the engine,
    /// other options, another durability class.
    ///
    /// # Behavior
    /// - Replicas first, the primary last after a switchover, each only while every other member serves by fresh
    ///   evidence. One bad member stops the line.
    /// - At most two ways of running are in use at any time: half-way, only going on or going back is let in, and
    ///   either overtakes the upgrade that runs. Members that run as wanted are not touched.
    /// - A member that dies or moves half-way comes back in the revision that it was told last.
    /// - Volumes may become larger with it, and never smaller, by going back either.
    ///
    /// # Errors
    /// `Invalid` with every problem found; `Refused` with `ChangeUnsupported`, naming what cannot be changed so, or
    /// if it is more than one step; `Conflict` while the service is stopped or deleted, while another operation
    /// runs, or if the check index no longer holds.
    pub async fn upgrade(
        &self,
        name: &ServiceName,
        input: serde_json::Value,
        guard: Guard,
    ) -> ControlResult<Operation> {
        let admitted = self.admit(input).await?;
        if &admitted.spec.name != name {
            return Err(refused(
                Reason::ChangeUnsupported,
                format!("name ({name} becomes {})", admitted.spec.name),
                "a service keeps its name".to_owned(),
            ));
        }
        self.begin_for(name, OperationKind::Upgrade, Ask::Spec(Box::new(admitted)), guard).await
    }

    /// Brings every member back to a revision that there is, by the rules of [`upgrade`](Self::upgrade).
    ///
    /// # Errors
    /// As [`upgrade`](Self::upgrade); `NotFound` if there is no such revision.
    pub async fn roll_back(
        &self,
        name: &ServiceName,
        to: Revision,
        guard: Guard,
    ) -> ControlResult<Operation> {
        self.begin_for(name, OperationKind::Upgrade, Ask::Revision(to), guard).await
    }

    /// Gives a group another number of members, one after another.
    ///
    /// # Behavior
    /// - A new member copies and follows, and counts once it has caught up and the engines say that it does.
    /// - The member with the highest ordinal goes first: it ceases to count, then it is stopped, then its name and
    ///   address go. Its volumes stay unless the spec says otherwise, and are listed. It hands over before, if it leads.
    /// - Nothing begins while another member does not serve. A running scale is overtaken by another one, and turns
    ///   back at its next step if it has to.
    ///
    /// # Errors
    /// `Invalid` if the blueprint does not allow that number; `Conflict` as for [`upgrade`](Self::upgrade).
    pub async fn scale(
        &self,
        name: &ServiceName,
        group: Option<GroupName>,
        replicas: Ordinal,
        guard: Guard,
    ) -> ControlResult<Operation> {
        self.begin_for(name, OperationKind::Scale, Ask::Replicas { group, replicas }, guard).await
    }

    /// Whether an operation of this kind may take the place of the one that runs.
    pub(super) async fn overtakes(&self, kind: OperationKind, running: &OperationId) -> ControlResult<bool> {
        Ok(match kind {
            OperationKind::Delete | OperationKind::Stop => true,
            // Going back is the way out of a bad revision.
            OperationKind::Upgrade | OperationKind::Scale => {
                self.store.operation(running).await?.is_some_and(|found| found.body.kind == kind)
            }
            _ => false,
        })
    }

    /// What an operation is to come to, as the service is now.
    pub(super) async fn aim(&self, service: &Service, kind: OperationKind, ask: &Ask) -> ControlResult<Aim> {
        let targets = match kind {
            OperationKind::Restart | OperationKind::Upgrade | OperationKind::Scale => {
                self.restart_targets(service).await?
            }
            _ => BTreeMap::new(),
        };
        let goal = match ask {
            Ask::Nothing => None,
            Ask::Leader { group, to } => Some(self.leader_goal(service, group.as_ref(), to.as_ref()).await?),
            Ask::Spec(admitted) => {
                let revision = self.revision_of(service, admitted).await?;
                Some(Goal::Revision { revision })
            }
            Ask::Volumes(volumes) => {
                let revision = self.revision_with_volumes(service, volumes).await?;
                Some(Goal::Revision { revision })
            }
            Ask::Revision(revision) => {
                let target = self.stored_revision(service, *revision).await?;
                self.check_step(service, &target).await?;
                Some(Goal::Revision { revision: *revision })
            }
            Ask::Replicas { group, replicas } => {
                let group = one_group(service, group.as_ref())?;
                let revision = self.revision_with(service, &group, *replicas).await?;
                Some(Goal::Replicas { group, replicas: *replicas, revision })
            }
        };
        Ok(Aim { targets, goal })
    }

    async fn leader_goal(
        &self,
        service: &Service,
        group: Option<&GroupName>,
        to: Option<&MemberName>,
    ) -> ControlResult<Goal> {
        let name = &service.name;
        let revision = self.stored_revision(service, service.revision).await?;
        if revision.blueprint.leadership == Leadership::Engine {
            return Err(refused(
                Reason::CapabilityMissing,
                format!("{} decides itself who leads", revision.blueprint.name),
                "ask the engine; a restart moves its leader last".to_owned(),
            ));
        }
        let group = one_group(service, group)?;
        let Some((role, from)) =
            service.roles.get(&group).and_then(|role| Some((role, role.leader.clone()?)))
        else {
            return Err(ControlError::Conflict {
                reason: Reason::EngineRecovering,
                message: format!("nobody leads {name} now"),
                remedy: format!("wait until somebody does: steadfast get {name}"),
            });
        };
        if !service.member_names().any(|(of, _, member)| *of == group && member != from) {
            return Err(refused(
                Reason::ConfigInvalid,
                format!("{from} is the only member of group {group}: nobody is there to take over"),
                format!("give it another member first, or: steadfast restart {name}"),
            ));
        }
        let known = service.member_names().any(|(of, _, member)| *of == group && Some(&member) == to);
        if let Some(to) = to.filter(|to| !known || **to == from) {
            return Err(refused(
                Reason::ConfigInvalid,
                format!("{to} is no other member of group {group} than its leader {from}"),
                format!("name a replica: steadfast describe {name}"),
            ));
        }
        Ok(Goal::Leader { group, from, to: to.cloned(), term: role.term })
    }
}

/// What the service's own record has of a goal, from the moment the operation is on it.
pub(super) fn take_aim(service: &mut Service, goal: Option<&Goal>) {
    match goal {
        None | Some(Goal::Leader { .. }) => {}
        Some(Goal::Revision { revision }) => service.revision = *revision,
        Some(Goal::Replicas { group, replicas, revision }) => {
            service.revision = *revision;
            if let Some(group) = service.groups.get_mut(group) {
                group.target = (group.replicas != *replicas || group.change.is_some()).then_some(*replicas);
            }
        }
    }
}

/// The group that is meant.
fn one_group(service: &Service, group: Option<&GroupName>) -> ControlResult<GroupName> {
    let found = match group {
        Some(group) => service.groups.keys().find(|known| *known == group),
        None => service.groups.keys().next().filter(|_| service.groups.len() == 1),
    };
    found.cloned().ok_or_else(|| {
        let known: Vec<&str> = service.groups.keys().map(GroupName::as_str).collect();
        refused(
            Reason::ConfigInvalid,
            format!("{} has no such group, or several", service.name),
            format!("name one of: {}", known.join(", ")),
        )
    })
}

pub(super) fn refused(reason: Reason, message: String, remedy: String) -> ControlError {
    ControlError::Refused { reason, message, remedy }
}
