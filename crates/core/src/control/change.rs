//! Changes: recorded before the call returns, finished by whichever server works on the service.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use sha2::{Digest, Sha256};

use super::reshape::{self, Aim, Ask};
use super::{Control, ControlError, ControlResult, Guard, INDEX_STALE, ServiceView};
use crate::error::{Error, ErrorKind};
use crate::ids::{Generation, Incarnation, MemberName, NodeName, OperationId, ServiceId, ServiceName};
use crate::metadata::{Versioned, WriteOutcome};
use crate::model::{
    Desired, Leadership, Operation, OperationKind, OperationState, Reason, RolePhase, RoleState, Service,
};
use crate::planted::{self, Planted};

impl Control {
    /// Deletes a service: members stop, names and addresses go, volumes stay unless the spec says otherwise.
    ///
    /// # Errors
    /// `NotFound`; `Conflict` if the check index no longer holds.
    pub async fn delete(&self, name: &ServiceName, guard: Guard) -> ControlResult<Operation> {
        self.begin(name, OperationKind::Delete, guard).await
    }

    /// Brings a deleted service back with the volumes it has kept. Addresses may be others.
    ///
    /// # Errors
    /// `Conflict` unless it is deleted.
    pub async fn undelete(&self, name: &ServiceName, guard: Guard) -> ControlResult<Operation> {
        self.begin(name, OperationKind::Undelete, guard).await
    }

    /// Restarts every member, one after another, the primary last.
    ///
    /// # Errors
    /// `Conflict` while it is stopped or deleted, or while another operation runs.
    pub async fn restart(&self, name: &ServiceName, guard: Guard) -> ControlResult<Operation> {
        self.begin(name, OperationKind::Restart, guard).await
    }

    /// Stops every member. Everything is kept.
    ///
    /// # Errors
    /// `NotFound`; `Conflict` while it is being deleted.
    pub async fn stop(&self, name: &ServiceName, guard: Guard) -> ControlResult<Operation> {
        self.begin(name, OperationKind::Stop, guard).await
    }

    /// Starts a stopped service.
    ///
    /// # Errors
    /// `Conflict` while it is deleted, or while another operation runs.
    pub async fn start(&self, name: &ServiceName, guard: Guard) -> ControlResult<Operation> {
        self.begin(name, OperationKind::Start, guard).await
    }

    /// Stops everything unplanned: nothing is moved, promoted or restarted until it is resumed.
    ///
    /// # Errors
    /// `NotFound`.
    pub async fn pause(&self, name: &ServiceName) -> ControlResult<ServiceView> {
        self.set_paused(name, true).await
    }

    /// Ends a pause.
    ///
    /// # Errors
    /// `NotFound`.
    pub async fn resume(&self, name: &ServiceName) -> ControlResult<ServiceView> {
        self.set_paused(name, false).await
    }

    async fn set_paused(&self, name: &ServiceName, paused: bool) -> ControlResult<ServiceView> {
        loop {
            let found = self.live(name).await?;
            let mut service = Service::clone(&found.body);
            if service.paused != paused {
                service.paused = paused;
                let text = if paused { "paused" } else { "resumed" };
                service.events.push(self.env.clock().wall(), Reason::PausedByOperator, None, text);
            }
            let key = self.store.service_key(name)?;
            if let WriteOutcome::Applied(_) = self.store.write(&key, &found, &service).await? {
                self.controller.wake(name);
                return self.service(name).await;
            }
        }
    }

    /// Gives up a running operation. What it has done stays done; create and delete cannot be given up half-way.
    ///
    /// # Errors
    /// `NotFound`; `Conflict` if it has ended, or cannot be given up.
    pub async fn cancel(&self, id: &OperationId) -> ControlResult<Operation> {
        loop {
            let found = self.stored_operation(id).await?;
            let mut operation = Operation::clone(&found.body);
            if operation.state == OperationState::Cancelled {
                return Ok(operation);
            }
            if operation.state.is_final() || !can_be_given_up(operation.kind) {
                return Err(ControlError::Conflict {
                    reason: Reason::OperationExclusive,
                    message: format!(
                        "{} {} is {} and cannot be cancelled",
                        operation.kind, id, operation.state
                    ),
                    remedy:
                        "only a restart or a switchover that is under way can be; stop or delete the service \
                             instead"
                            .to_owned(),
                });
            }
            operation.state = OperationState::Cancelled;
            operation.updated_at = self.env.clock().wall();
            let key = self.store.operation_key(id)?;
            if let WriteOutcome::Applied(_) =
                self.store.records().update(&key, &operation, &found.version).await?
            {
                self.let_go(&operation).await?;
                return Ok(operation);
            }
        }
    }

    /// Takes an ended operation off its service.
    async fn let_go(&self, operation: &Operation) -> ControlResult<()> {
        loop {
            let Some(found) = self.store.service(&operation.service).await? else { return Ok(()) };
            let mut service = Service::clone(&found.body);
            if !service.let_go(operation, self.env.clock().wall()) {
                return Ok(());
            }
            let key = self.store.service_key(&operation.service)?;
            if let WriteOutcome::Applied(_) = self.store.write(&key, &found, &service).await? {
                self.controller.wake(&operation.service);
                return Ok(());
            }
        }
    }

    /// An operator's word that a life of a node is over. Its members may move then.
    ///
    /// # Errors
    /// `NotFound`; `Conflict` if the node has another life by now.
    pub async fn confirm_dead(
        &self,
        node: &NodeName,
        incarnation: &Incarnation,
    ) -> ControlResult<super::NodeView> {
        loop {
            let Some(found) = self.store.node_record(node).await? else { return Err(no_node(node)) };
            if &found.body.incarnation != incarnation {
                return Err(ControlError::Conflict {
                    reason: Reason::EpochStale,
                    message: format!("{node} has a newer life ({})", found.body.incarnation),
                    remedy: "look at it again: steadfast node list".to_owned(),
                });
            }
            let mut record = found.body.clone();
            record.confirmed_dead = Some(incarnation.clone());
            let key = self.store.node_record_key(node)?;
            if let WriteOutcome::Applied(_) = self.store.write(&key, &found, &record).await? {
                self.controller.sweep().await;
                return self.node(node);
            }
        }
    }

    /// Records an operation and points the service at it. Asking twice with one key is asking once.
    async fn begin(&self, name: &ServiceName, kind: OperationKind, guard: Guard) -> ControlResult<Operation> {
        self.begin_for(name, kind, Ask::Nothing, guard).await
    }

    /// As [`begin`](Self::begin), with what is asked for beyond the kind.
    pub(super) async fn begin_for(
        &self,
        name: &ServiceName,
        kind: OperationKind,
        ask: Ask,
        guard: Guard,
    ) -> ControlResult<Operation> {
        let id = self.operation_id(guard.idempotency_key.as_deref(), kind, name)?;
        loop {
            let Some(found) = self.store.service(name).await? else { return Err(no_service(name)) };
            if guard.idempotency_key.is_some()
                && let Some(known) = self.store.operation(&id).await?
                && (known.body.was_begun() || found.body.operation.as_ref() == Some(&id))
            {
                return Ok(Operation::clone(&known.body));
            }
            self.check_index(Some(&found), &guard)?;
            let mut service = Service::clone(&found.body);
            self.let_go_of_the_last(&mut service).await?;
            let superseded = self.check_state(&service, kind).await?;
            let aim = self.aim(&service, kind, &ask).await?;
            let of = Some(&service.id);
            let operation = self.record_operation(id.clone(), kind, name, of, &guard, aim).await?;
            reshape::take_aim(&mut service, operation.goal.as_ref());
            let now = self.env.clock().wall();
            service.events.push(now, kind.reason(), None, operation.begun_message());
            service.operation = Some(id.clone());
            match kind {
                OperationKind::Delete => service.desired = Desired::Deleted,
                OperationKind::Stop => service.desired = Desired::Stopped,
                OperationKind::Undelete => self.revive(&mut service).await?,
                OperationKind::Start => service.desired = Desired::Running,
                OperationKind::Restart
                | OperationKind::Switchover
                | OperationKind::Upgrade
                | OperationKind::Scale
                | OperationKind::Create => {}
            }
            let key = self.store.service_key(name)?;
            if let WriteOutcome::Applied(_) = self.store.write(&key, &found, &service).await? {
                if let Some(old) = superseded {
                    self.supersede(&old).await?;
                }
                self.controller.wake(name);
                return Ok(operation);
            }
        }
    }

    /// Who has seen an operation end may ask for the next: the server at work may not have let go of it yet.
    async fn let_go_of_the_last(&self, service: &mut Service) -> ControlResult<()> {
        let Some(last) = &service.operation else { return Ok(()) };
        if let Some(found) = self.store.operation(last).await?
            && found.body.is_over()
        {
            service.let_go(&found.body, self.env.clock().wall());
        }
        Ok(())
    }

    /// What a service is when it is brought back: its data decides who leads, as after any stop.
    async fn revive(&self, service: &mut Service) -> ControlResult<()> {
        service.desired = Desired::Running;
        service.deleted = false;
        let Some(revision) = self.store.revision(&service.id, service.revision).await? else {
            return Err(internal("undelete", &service.name, "its revision is gone"));
        };
        if revision.blueprint.leadership == Leadership::Steadfast {
            let members = self.store.members(&service.name).await?;
            for group in service.groups.keys().cloned().collect::<Vec<_>>() {
                let kept = members.iter().any(|m| m.body.group == group && m.body.initialised.is_some());
                let first = MemberName::of(&service.name, &group, 0)
                    .map_err(|error| internal("name", &service.name, error.to_string()))?;
                let led_last = service.last_leader(&group).unwrap_or(first);
                service.roles.insert(
                    group,
                    RoleState {
                        term: service.last_term().next(),
                        phase: if kept { RolePhase::Led } else { RolePhase::Bootstrapping },
                        leader: Some(led_last),
                        previous: None,
                        successor: None,
                        failures: 0,
                        since: self.env.clock().wall(),
                    },
                );
            }
        }
        Ok(())
    }

    /// Whether the state of the service allows the operation; the running one that it overtakes, if any.
    async fn check_state(
        &self,
        service: &Service,
        kind: OperationKind,
    ) -> ControlResult<Option<OperationId>> {
        let refuse = |message: String, remedy: String| {
            Err(ControlError::Conflict { reason: Reason::OperationExclusive, message, remedy })
        };
        let name = &service.name;
        if kind == OperationKind::Undelete {
            if service.desired != Desired::Deleted || !service.deleted {
                return refuse(
                    format!("{name} is not deleted"),
                    "only a service whose deletion is complete can be brought back".to_owned(),
                );
            }
        } else if service.deleted {
            return Err(no_service(name));
        } else if service.desired == Desired::Deleted && kind != OperationKind::Delete {
            return refuse(
                format!("{name} is being deleted"),
                format!("wait, then: steadfast undelete {name}"),
            );
        }
        if needs_running(kind) && service.desired != Desired::Running {
            return refuse(format!("{name} is stopped"), format!("start it: steadfast start {name}"));
        }
        let Some(running) = &service.operation else { return Ok(None) };
        if self.overtakes(kind, running).await? {
            return Ok(Some(running.clone()));
        }
        refuse(
            format!("operation {running} runs on {name}"),
            format!("wait for it: steadfast op get {running} --wait"),
        )
    }

    async fn supersede(&self, id: &OperationId) -> ControlResult<()> {
        loop {
            let Some(found) = self.store.operation(id).await? else { return Ok(()) };
            if found.body.state.is_final() {
                return Ok(());
            }
            let mut operation = Operation::clone(&found.body);
            operation.state = OperationState::Superseded;
            operation.updated_at = self.env.clock().wall();
            let key = self.store.operation_key(id)?;
            if let WriteOutcome::Applied(_) =
                self.store.records().update(&key, &operation, &found.version).await?
            {
                return Ok(());
            }
        }
    }

    pub(super) async fn restart_targets(
        &self,
        service: &Service,
    ) -> ControlResult<BTreeMap<MemberName, Generation>> {
        let members = self.store.members(&service.name).await?;
        // One that has left is a record only, which is kept because its volumes are: it would never come back.
        let stay: BTreeSet<MemberName> = service.member_names().map(|(.., member)| member).collect();
        Ok(members
            .into_iter()
            .filter(|member| member.body.service_id == service.id && stay.contains(&member.body.name))
            .map(|member| (member.body.name.clone(), member.body.generation.next()))
            .collect())
    }

    pub(super) async fn record_operation(
        &self,
        id: OperationId,
        kind: OperationKind,
        name: &ServiceName,
        service_id: Option<&ServiceId>,
        guard: &Guard,
        aim: Aim,
    ) -> ControlResult<Operation> {
        let now = self.env.clock().wall();
        let operation = Operation {
            id: id.clone(),
            kind,
            service_id: service_id.map_or_else(|| self.token(), |id| Ok(id.clone()))?,
            service: name.clone(),
            state: OperationState::Pending,
            steps: Vec::new(),
            waiting: None,
            targets: aim.targets,
            goal: aim.goal,
            idempotency_key: guard.idempotency_key.clone(),
            server: None,
            created_at: now,
            updated_at: now,
            failure: None,
            extra: serde_json::Map::new(),
        };
        let key = self.store.operation_key(&id)?;
        if let WriteOutcome::Applied(_) = self.store.records().create(&key, &operation).await? {
            return Ok(operation);
        }
        loop {
            let found = self.stored_operation(&id).await?;
            if found.body.was_begun() {
                return Ok(Operation::clone(&found.body));
            }
            // Ours of an earlier try that came no further. What is to be done follows from the service as it is now;
            // what was written for a service that is to be made lies under the identity of then.
            let service_id = service_id.unwrap_or(&found.body.service_id).clone();
            let again = Operation { service_id, ..operation.clone() };
            if let WriteOutcome::Applied(_) = self.store.write(&key, &found, &again).await? {
                return Ok(again);
            }
        }
    }

    /// With a key, the identity follows from it, so asking twice finds the first.
    pub(super) fn operation_id(
        &self,
        key: Option<&str>,
        kind: OperationKind,
        name: &ServiceName,
    ) -> ControlResult<OperationId> {
        match key.filter(|_| !planted::is(Planted::KeyIgnored)) {
            None => self.token(),
            Some(key) => {
                let digest = Sha256::digest(format!("{kind}:{name}:{key}").as_bytes());
                let text: String = digest.iter().take(10).map(|byte| format!("{byte:02x}")).collect();
                text.parse().map_err(|error| internal("operation id", name, format!("{error}")))
            }
        }
    }

    fn token<T: std::str::FromStr<Err = crate::ids::InvalidId>>(&self) -> ControlResult<T> {
        self.env.entropy().token().parse().map_err(|error| internal("id", "new", format!("{error}")))
    }

    pub(super) fn check_index(
        &self,
        found: Option<&Versioned<Arc<Service>>>,
        guard: &Guard,
    ) -> ControlResult<()> {
        let Some(expected) = &guard.if_index else { return Ok(()) };
        let index = found.map_or("0", |found| found.version.as_str());
        if expected == index {
            return Ok(());
        }
        Err(ControlError::Conflict {
            reason: Reason::Other(INDEX_STALE.to_owned()),
            message: format!("the check index is {index}, and {expected} was given"),
            remedy: "read the service again, or plan again, and decide on what is there now".to_owned(),
        })
    }

    /// A service that is not deleted.
    pub(super) async fn live(&self, name: &ServiceName) -> ControlResult<Versioned<Arc<Service>>> {
        match self.store.service(name).await? {
            Some(found) if !found.body.deleted => Ok(found),
            _ => Err(no_service(name)),
        }
    }

    pub(super) async fn stored_operation(
        &self,
        id: &OperationId,
    ) -> ControlResult<Versioned<Arc<Operation>>> {
        self.store.operation(id).await?.ok_or_else(|| ControlError::NotFound {
            kind: "operation",
            name: id.to_string(),
            remedy: "list them: steadfast op list".to_owned(),
        })
    }
}

fn can_be_given_up(kind: OperationKind) -> bool {
    matches!(kind, OperationKind::Restart | OperationKind::Switchover)
}

fn needs_running(kind: OperationKind) -> bool {
    use OperationKind::{Restart, Scale, Switchover, Upgrade};
    matches!(kind, Restart | Switchover | Upgrade | Scale)
}

pub(super) fn no_service(name: &ServiceName) -> ControlError {
    ControlError::NotFound {
        kind: "service",
        name: name.to_string(),
        remedy: "list them: steadfast list".to_owned(),
    }
}

pub(super) fn no_node(name: &NodeName) -> ControlError {
    ControlError::NotFound {
        kind: "node",
        name: name.to_string(),
        remedy: "list them: steadfast node list".to_owned(),
    }
}

pub(super) fn internal(
    operation: &'static str,
    subject: impl std::fmt::Display,
    message: impl std::fmt::Display,
) -> ControlError {
    ControlError::Backend(Error::new(ErrorKind::Internal, "control", operation, subject, message))
}
