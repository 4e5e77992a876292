//! Carrying out: one action at a time, each against the versions that the plan was decided on.

mod grow;

use std::net::IpAddr;
use std::sync::Arc;

use crate::backends::Backends;
use crate::error::{Error, ErrorKind, Result};
use crate::ids::{Epoch, Generation, GroupName, MemberId, MemberName, NodeName, Ordinal, ServerId, ZoneName};
use crate::ip::AddressOutcome;
use crate::metadata::WriteOutcome;
use crate::model::{
    AddressBinding, EventRing, Evidence, Holder, Member, MemberPhase, OnDelete, Operation, Reason, Service,
    VolumeBinding,
};
use crate::plan::{Action, MemberFacts, RoleChange};
use crate::planted::{self, Planted};
use crate::registry::{DomainName, NameOutcome, RecordKind, RecordSet};
use crate::runtime::Environment;
use crate::store::Store;
use crate::volume::{self, VolumeSpec, VolumeStatus};
use crate::workflow::claim::{push_event, set_phase};

use super::Snapshot;

/// How an action ended.
#[must_use]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// Done, or done already.
    Done,
    /// What it was decided on no longer holds: plan anew.
    Stale,
}

/// Carries out actions.
#[derive(Debug)]
pub struct Executor<'a> {
    env: &'a Environment,
    store: &'a Store,
    backends: &'a Backends,
    server: &'a ServerId,
}

impl<'a> Executor<'a> {
    /// An executor for one server.
    pub fn new(env: &'a Environment, store: &'a Store, backends: &'a Backends, server: &'a ServerId) -> Self {
        Executor { env, store, backends, server }
    }

    /// Carries out one action and keeps the snapshot up to date with what was written.
    ///
    /// # Behavior
    /// - Idempotent: done twice is done once.
    ///
    /// # Errors
    /// What a backend says. The action may have happened in part; repeating it is right.
    pub async fn execute(&self, snapshot: &mut Snapshot, action: &Action) -> Result<Progress> {
        tracing::debug!(service = %snapshot.facts.service.name, %action, "action");
        match action {
            Action::CreateMember { member, group, ordinal, node } => {
                self.create_member(snapshot, member, group, *ordinal, node.clone()).await
            }
            Action::Provision { member } => self.provision(snapshot, member).await,
            Action::Place { member, from, node, reason, message } => {
                self.place(snapshot, member, from.as_ref(), node, reason, message).await
            }
            Action::SetRun { member, run } => {
                let reason = if *run { Reason::StartRequested } else { Reason::StopRequested };
                self.change_member(snapshot, member, |record, now| {
                    record.run = *run;
                    push_event(record, now, reason.clone(), String::new());
                })
                .await
            }
            Action::Restart { member, generation, revision, reason, message } => {
                self.change_member(snapshot, member, |record, now| {
                    if record.generation < *generation {
                        record.generation = *generation;
                        record.revision = *revision;
                        push_event(record, now, reason.clone(), message.clone());
                    }
                })
                .await
            }
            Action::Apply(workload) => {
                self.backends.orchestrator.apply(workload).await?;
                Ok(Progress::Done)
            }
            Action::ReleaseFor { member, holder, evidence } => {
                self.release_for(snapshot, member, holder, *evidence).await
            }
            Action::ChangeRole(change) => self.change_role(snapshot, change).await,
            Action::ChangeGroup { group, expected, state, message } => {
                if snapshot.facts.service.groups.get(group) != Some(expected) {
                    return Ok(Progress::Stale);
                }
                self.change_service(snapshot, |service, now| {
                    service.groups.insert(group.clone(), state.clone());
                    service.events.push(now, Reason::SpecChanged, None, message.clone());
                })
                .await
            }
            Action::Adopt { member, revision } => {
                self.change_member(snapshot, member, |record, _| record.revision = *revision).await
            }
            Action::MarkRecloned { member, votes_from } => {
                self.change_member(snapshot, member, |record, now| {
                    if std::mem::take(&mut record.recloning) {
                        // In one write: whoever reads that it is to vote reads that it is to be started for that.
                        record.generation = record.generation.max(votes_from.unwrap_or_default());
                        let remark = votes_from.map(|from| format!(", and votes from generation {from}"));
                        let text = format!("it has caught up{}", remark.unwrap_or_default());
                        push_event(record, now, Reason::Recloned, text);
                    }
                })
                .await
            }
            Action::GrowVolume { member, volume, size_bytes } => {
                self.grow_volume(snapshot, member, volume, *size_bytes).await
            }
            Action::MarkBootstrapped => {
                self.change_service(snapshot, |service, _| service.bootstrapped = true).await
            }
            Action::SetName { name, set, expected } => {
                let outcome = self.backends.registry.upsert(name, set, expected.as_ref()).await?;
                Ok(remember_name(snapshot, name, set.kind(), outcome, Some(set)))
            }
            Action::RemoveName { name, expected } => {
                let outcome = self.backends.registry.remove(name, expected).await?;
                Ok(remember_name(snapshot, name, expected.kind(), outcome, None))
            }
            Action::RemoveMember { member } => self.remove_member(snapshot, member).await,
            Action::RemoveWorkload => {
                self.backends.orchestrator.remove(&snapshot.facts.service.name).await?;
                Ok(Progress::Done)
            }
            Action::MarkDeleted => {
                self.change_service(snapshot, |service, now| {
                    service.deleted = true;
                    for (group, role) in std::mem::take(&mut service.roles) {
                        if let Some(leader) = role.leader.or(role.previous) {
                            service.last_leaders.insert(group, (role.term, leader));
                        }
                    }
                    service.events.push(now, Reason::DeleteRequested, None, "deleted");
                })
                .await
            }
            Action::RecordConditions(conditions) => {
                self.change_service(snapshot, |service, _| service.conditions = conditions.clone()).await
            }
            Action::ArchiveEvents { member } => self.archive_events(snapshot, member.as_ref()).await,
            Action::EndOperation(operation) => self.end_operation(snapshot, operation).await,
            Action::AdvanceOperation(operation) => self.advance_operation(snapshot, operation).await,
        }
    }

    async fn create_member(
        &self,
        snapshot: &mut Snapshot,
        name: &MemberName,
        group: &GroupName,
        ordinal: Ordinal,
        node: Option<NodeName>,
    ) -> Result<Progress> {
        let service = &snapshot.facts.service;
        let now = self.env.clock().wall();
        let id = member_id(service, name)?;
        let zone = node.as_ref().and_then(|node| zone_of(snapshot, node));
        let mut member = Member {
            id,
            name: name.clone(),
            service_id: service.id.clone(),
            service: service.name.clone(),
            group: group.clone(),
            ordinal,
            epoch: Epoch::default(),
            phase: MemberPhase::Pending,
            placed_on: node,
            run: true,
            generation: Generation(1),
            revision: service.revision,
            holder: None,
            unreleased: Vec::new(),
            volumes: Vec::new(),
            address: None,
            initialised: None,
            last_node: None,
            zone,
            recloning: false,
            phase_since: now,
            events: EventRing::default(),
            extra: serde_json::Map::new(),
        };
        let key = self.store.member_key(&service.name, name)?;
        let outcome = match (snapshot.facts.members.get(name), snapshot.member_versions.get(name)) {
            (Some(old), Some(version)) => {
                if old.record.service_id == service.id {
                    // Undeleted: what it was, with its volumes and the epoch that fenced its last holder.
                    // One that joins again runs what the others do.
                    let joins = service.groups.get(group).is_some_and(|group| group.change.is_some());
                    let old = Member::clone(&old.record);
                    member = Member {
                        placed_on: member.placed_on,
                        zone: old.zone.clone().or(member.zone),
                        run: true,
                        phase: MemberPhase::Pending,
                        revision: if joins { service.revision } else { old.revision },
                        ..old
                    };
                } else if !old.record.unreleased.is_empty() {
                    return Err(Error::new(
                        ErrorKind::Busy,
                        "controller",
                        "create",
                        name,
                        "a deleted service of this name has not given its members up yet",
                    )
                    .without_effect());
                }
                self.store.records().update(&key, &member, version).await?
            }
            _ => self.store.records().create(&key, &member).await?,
        };
        Ok(remember(snapshot, outcome, member))
    }

    async fn provision(&self, snapshot: &mut Snapshot, name: &MemberName) -> Result<Progress> {
        let Some(found) = snapshot.facts.members.get(name) else { return Ok(Progress::Stale) };
        let record = &found.record;
        let revision = &snapshot.facts.revision;
        let zone = record.zone.clone();
        let mut volumes = Vec::new();
        for (volume, size_bytes) in revision.volume_sizes() {
            let claim = revision.spec.volumes.iter().find(|claim| claim.name == *volume);
            let spec = VolumeSpec {
                cluster: self.store.cluster().clone(),
                member: record.id.clone(),
                member_name: record.name.clone(),
                name: volume.clone(),
                size_bytes,
                class: claim.map_or_else(|| "default".to_owned(), |claim| claim.class.clone()),
                zone: zone.clone(),
            };
            let lost = record.volumes.iter().find(|binding| &binding.name == volume && binding.lost);
            if let Some(id) = lost.and_then(|binding| binding.id.as_ref()) {
                self.backends.volumes.abandon(id).await?;
            }
            let id = self.backends.volumes.ensure(&spec).await?;
            let known = record.volumes.iter().find(|binding| &binding.name == volume);
            let last_holder = known.and_then(|binding| binding.last_holder.clone());
            let size_bytes = self.size_of(&id).await?;
            volumes.push(VolumeBinding { last_holder, size_bytes, ..VolumeBinding::of(volume.clone(), id) });
        }
        let address = self.backends.ips.allocate(&record.id, zone.as_ref()).await?;
        self.change_member(snapshot, name, |record, _| {
            let last_holder = record
                .address
                .as_ref()
                .filter(|binding| binding.address == address)
                .and_then(|binding| binding.last_holder.clone());
            record.volumes = volumes.clone();
            record.address = Some(AddressBinding { address, last_holder });
        })
        .await
    }

    async fn place(
        &self,
        snapshot: &mut Snapshot,
        name: &MemberName,
        from: Option<&NodeName>,
        node: &NodeName,
        reason: &Reason,
        message: &str,
    ) -> Result<Progress> {
        let holds =
            snapshot.facts.members.get(name).is_some_and(|found| found.record.placed_on.as_ref() == from);
        if !holds {
            return Ok(Progress::Stale);
        }
        if *reason == Reason::NodeDead && self.has_begun_anew(snapshot, from).await? {
            return Ok(Progress::Stale);
        }
        let zone = zone_of(snapshot, node);
        self.change_member(snapshot, name, |record, now| {
            record.placed_on = Some(node.clone());
            record.zone = record.zone.take().or_else(|| zone.clone());
            set_phase(record, MemberPhase::Pending, now);
            push_event(record, now, reason.clone(), format!("{message}; placed on {node}"));
        })
        .await
    }

    /// Whether a node has another life than the one that was seen dead: it is known before a look at all nodes ends that
    /// takes long, and may hold the member by now.
    async fn has_begun_anew(&self, snapshot: &Snapshot, node: Option<&NodeName>) -> Result<bool> {
        let seen = node.and_then(|node| snapshot.facts.nodes.get_key_value(node));
        let Some((node, seen)) = seen else { return Ok(false) };
        let found = self.store.node_record(node).await?;
        Ok(found.is_some_and(|found| found.body.incarnation != seen.incarnation))
    }

    /// Gives back what a dead holder held, in the order in which it would have itself.
    async fn release_for(
        &self,
        snapshot: &mut Snapshot,
        name: &MemberName,
        holder: &Holder,
        evidence: Evidence,
    ) -> Result<Progress> {
        let Some(found) = snapshot.facts.members.get(name) else { return Ok(Progress::Stale) };
        let record = &found.record;
        for id in record.volumes.iter().filter_map(|binding| binding.id.as_ref()) {
            volume::give_back(&*self.backends.volumes, id, &holder.node).await?;
        }
        if let Some(binding) = &record.address {
            // Held by somebody else by now is as good as given back.
            let _given_back: AddressOutcome =
                self.backends.ips.unassign(binding.address, &holder.node).await?;
        }
        self.change_member(snapshot, name, |record, now| {
            record.unreleased.retain(|other| other != holder);
            if record.unreleased.is_empty() {
                set_phase(record, MemberPhase::Stopped, now);
            }
            push_event(
                record,
                now,
                Reason::NodeDead,
                format!("taken back from {} by {evidence}", holder.node),
            );
        })
        .await
    }

    async fn change_role(&self, snapshot: &mut Snapshot, change: &RoleChange) -> Result<Progress> {
        if snapshot.facts.service.roles.get(&change.group) != Some(&change.expected) {
            return Ok(Progress::Stale);
        }
        self.change_service(snapshot, |service, now| {
            service.roles.insert(change.group.clone(), change.state.clone());
            if let Some((reason, message)) = &change.reason {
                let message = format!("term {}: {message}", change.state.term);
                service.events.push(now, reason.clone(), None, message);
            }
        })
        .await
    }

    /// Name, then address, then volumes: each is withdrawn before what it points to is given back.
    async fn remove_member(&self, snapshot: &mut Snapshot, name: &MemberName) -> Result<Progress> {
        let Some(found) = snapshot.facts.members.get(name) else { return Ok(Progress::Stale) };
        let record = &found.record;
        if let Ok(host) = self.backends.zone.child(name)
            && !planted::is(Planted::NameLeft)
            && let Some(holds) = self.backends.registry.resolve(&host, RecordKind::Addresses).await?
            && record
                .address
                .as_ref()
                .is_some_and(|b| holds == crate::workflow::claim::address_set(b.address))
            && named(self.backends.registry.remove(&host, &holds).await?) == Progress::Stale
        {
            return Ok(Progress::Stale);
        }
        // An address that was allocated and never recorded is found again by its owner.
        let address = match &record.address {
            Some(binding) => binding.address,
            None if planted::is(Planted::UnrecordedLeft) => IpAddr::from([0, 0, 0, 0]),
            None => self.backends.ips.allocate(&record.id, None).await?,
        };
        // Nobody holds the member any more; a node that was slow to take the address may have it all the same.
        if let Some(status) = self.backends.ips.status(address).await?
            && status.owner == record.id
            && let Some(holder) = &status.holder
            && let AddressOutcome::Stale(_) = self.backends.ips.unassign(address, holder).await?
        {
            return Ok(Progress::Stale);
        }
        self.backends.ips.release(address, &record.id).await?;
        let claims = snapshot.facts.revision.spec.volumes.clone();
        // One whose disk is gone by a person's word is nothing to keep: nobody would ever take it off its node.
        let goes = |binding: &VolumeBinding| {
            let own = claims.iter().find(|claim| claim.name == binding.name);
            binding.lost || own.is_some_and(|claim| claim.on_delete == OnDelete::Delete)
        };
        let volumes = self.volumes_of(record).await?;
        for binding in volumes.iter().filter(|binding| goes(binding)) {
            match &binding.id {
                Some(id) if binding.lost => self.backends.volumes.abandon(id).await?,
                Some(id) => self.backends.volumes.delete(id).await?,
                None => {}
            }
        }
        self.change_member(snapshot, name, |record, now| {
            record.address = None;
            record.volumes = volumes.iter().filter(|binding| !goes(binding)).cloned().collect();
            if record.volumes.is_empty() {
                record.initialised = None;
            }
            record.placed_on = None;
            record.holder = None;
            set_phase(record, MemberPhase::Removed, now);
            push_event(
                record,
                now,
                Reason::DeleteRequested,
                format!("{} volumes kept", record.volumes.len()),
            );
        })
        .await
    }

    /// The volumes of a member: those on record, and those that were made and never recorded, which are found again by
    /// whose they are. Volumes and address are recorded together, so none is missing where there is an address.
    async fn volumes_of(&self, member: &Member) -> Result<Vec<VolumeBinding>> {
        let mut volumes = member.volumes.clone();
        if member.address.is_some() || planted::is(Planted::UnrecordedLeft) {
            return Ok(volumes);
        }
        for VolumeStatus { id, spec, .. } in self.backends.volumes.list(self.store.cluster()).await? {
            if spec.member == member.id && !volumes.iter().any(|binding| binding.name == spec.name) {
                volumes.push(VolumeBinding::of(spec.name, id));
            }
        }
        Ok(volumes)
    }

    async fn advance_operation(&self, snapshot: &mut Snapshot, operation: &Operation) -> Result<Progress> {
        let Some(version) = &snapshot.operation_version else { return Ok(Progress::Stale) };
        let taken_over = operation.server.as_ref().is_some_and(|server| server != self.server);
        let mut operation = operation.clone();
        operation.server = Some(self.server.clone());
        let operation = Arc::new(operation);
        let key = self.store.operation_key(&operation.id)?;
        match self.store.records().update(&key, &*operation, version).await? {
            WriteOutcome::Applied(version) => {
                snapshot.operation_version = Some(version);
                snapshot.facts.operation = Some(Arc::clone(&operation));
            }
            WriteOutcome::Conflict => return Ok(Progress::Stale),
        }
        if !taken_over {
            return Ok(Progress::Done);
        }
        self.change_service(snapshot, |service, now| {
            let message = format!("{} {} goes on", operation.kind, operation.id);
            service.events.push(now, Reason::OperationResumed, None, message);
        })
        .await
    }

    async fn end_operation(&self, snapshot: &mut Snapshot, operation: &Operation) -> Result<Progress> {
        let progress = self
            .change_service(snapshot, |service, now| {
                service.let_go(operation, now);
            })
            .await?;
        if progress == Progress::Done {
            snapshot.facts.operation = None;
            snapshot.operation_version = None;
        }
        Ok(progress)
    }

    /// Older events are written aside before they are dropped: under the number of the first, so that doing it
    /// twice is doing it once.
    async fn archive_events(&self, snapshot: &mut Snapshot, member: Option<&MemberName>) -> Result<Progress> {
        let service = &snapshot.facts.service;
        let ring = match member {
            None => &service.events,
            Some(name) => match snapshot.facts.members.get(name) {
                Some(found) => &found.record.events,
                None => return Ok(Progress::Stale),
            },
        };
        let (old, last) = ring.surplus();
        let (Some(first), Some(last)) = (old.first(), last) else { return Ok(Progress::Done) };
        let of = member.map_or_else(|| service.name.to_string(), ToString::to_string);
        // As many digits as a number can have, so that keys are in the order of events.
        let key =
            self.store.records().key(["events", service.id.as_str(), &of, &format!("{:020}", first.seq)])?;
        let _there: WriteOutcome = self.store.records().create(&key, &old).await?;
        match member {
            None => self.change_service(snapshot, |service, _| service.events.drop_through(last)).await,
            Some(name) => {
                let name = name.clone();
                self.change_member(snapshot, &name, |record, _| record.events.drop_through(last)).await
            }
        }
    }

    async fn change_member(
        &self,
        snapshot: &mut Snapshot,
        name: &MemberName,
        change: impl FnOnce(&mut Member, crate::runtime::Timestamp),
    ) -> Result<Progress> {
        let (Some(found), Some(version)) =
            (snapshot.facts.members.get(name), snapshot.member_versions.get(name))
        else {
            return Ok(Progress::Stale);
        };
        let mut record = Member::clone(&found.record);
        change(&mut record, self.env.clock().wall());
        let key = self.store.member_key(&record.service, name)?;
        let outcome = self.store.write_over(&key, version, &*found.record, &record).await?;
        Ok(remember(snapshot, outcome, record))
    }

    pub(super) async fn change_service(
        &self,
        snapshot: &mut Snapshot,
        change: impl FnOnce(&mut Service, crate::runtime::Timestamp),
    ) -> Result<Progress> {
        let before = &snapshot.facts.service;
        let mut service = Service::clone(before);
        change(&mut service, self.env.clock().wall());
        let key = self.store.service_key(&service.name)?;
        match self.store.write_over(&key, &snapshot.service_version, &**before, &service).await? {
            WriteOutcome::Applied(version) => {
                snapshot.service_version = version;
                snapshot.facts.service = Arc::new(service);
                Ok(Progress::Done)
            }
            WriteOutcome::Conflict => Ok(Progress::Stale),
        }
    }
}

fn zone_of(snapshot: &Snapshot, node: &NodeName) -> Option<ZoneName> {
    snapshot.facts.nodes.get(node).map(|node| node.zone.clone())
}

/// A member's identity follows from its service's and its name, so a crash before it is recorded loses nothing.
fn member_id(service: &Service, name: &MemberName) -> Result<MemberId> {
    let suffix = name.as_str().strip_prefix(service.name.as_str()).unwrap_or(name.as_str());
    format!("{}{suffix}", service.id)
        .parse()
        .map_err(|error| Error::new(ErrorKind::Internal, "controller", "name", name, error).without_effect())
}

fn named(outcome: NameOutcome) -> Progress {
    match outcome {
        NameOutcome::Applied => Progress::Done,
        NameOutcome::Stale(_) => Progress::Stale,
    }
}

/// Keeps in mind what a name holds now.
fn remember_name(
    snapshot: &mut Snapshot,
    name: &DomainName,
    kind: RecordKind,
    outcome: NameOutcome,
    holds: Option<&RecordSet>,
) -> Progress {
    let (holds, progress) = match outcome {
        NameOutcome::Applied => (holds.cloned(), Progress::Done),
        NameOutcome::Stale(holds) => (holds, Progress::Stale),
    };
    snapshot.facts.names.insert((name.clone(), kind), holds);
    progress
}

fn remember(snapshot: &mut Snapshot, outcome: WriteOutcome, record: Member) -> Progress {
    match outcome {
        WriteOutcome::Applied(version) => {
            snapshot.member_versions.insert(record.name.clone(), version);
            match snapshot.facts.members.get_mut(&record.name) {
                Some(found) => found.record = Arc::new(record),
                None => {
                    let name = record.name.clone();
                    snapshot
                        .facts
                        .members
                        .insert(name, MemberFacts { record: Arc::new(record), status: None });
                }
            }
            Progress::Done
        }
        WriteOutcome::Conflict => Progress::Stale,
    }
}
