//! Creation: everything a service rests on is written first, then the one record that makes it exist.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures::future;

use super::admit::Admitted;
use super::change::internal;
use super::reshape::Aim;
use super::{Control, ControlError, ControlResult, Guard, Planned, Resolved};
use crate::ids::{MemberName, Revision, RoleTerm, ServiceId, ServiceName};
use crate::metadata::{Versioned, WriteOutcome};
use crate::model::{
    Desired, EventRing, Group, Leadership, MemberPhase, Operation, OperationKind, Reason, RolePhase,
    RoleState, Service, SpecRevision,
};

impl Control {
    /// Creates the service that `input` describes, or answers with the operation that did.
    ///
    /// # Behavior
    /// - The same input twice makes one service and answers with the same operation.
    /// - A key that another spec was created under is refused with `ChangeUnsupported`, naming what differs, also while
    ///   that create is half done and after its service was deleted.
    /// - An existing service whose spec differs in volumes that are larger has them made so, one member after another,
    ///   while they serve. With any other difference it is refused with `ChangeUnsupported`, naming what differs, and
    ///   nothing of it is touched.
    ///
    /// # Errors
    /// `Invalid` with every problem found; `Conflict` if the check index no longer holds.
    pub async fn apply(&self, input: serde_json::Value, guard: Guard) -> ControlResult<Operation> {
        let admitted = self.admit(input).await?;
        let name = admitted.spec.name.clone();
        let operation_id =
            self.operation_id(guard.idempotency_key.as_deref(), OperationKind::Create, &name)?;
        loop {
            let existing = self.store.service(&name).await?;
            self.check_index(existing.as_ref(), &guard)?;
            match &existing {
                Some(found) if !found.body.deleted => {
                    if found.body.created_by.as_ref() == Some(&operation_id) {
                        self.check_key(&found.body.id, &admitted, &guard).await?;
                        return self.operation(&operation_id).await;
                    }
                    return self.created_already(found, &admitted, guard).await;
                }
                // Asked for before under this key, made, and deleted since: that is over, and stays so.
                Some(_) if guard.idempotency_key.is_some() => {
                    if let Some(known) = self.store.operation(&operation_id).await?
                        && known.body.state.is_final()
                        && known.body.was_begun()
                    {
                        self.check_key(&known.body.service_id, &admitted, &guard).await?;
                        return Ok(Operation::clone(&known.body));
                    }
                }
                _ => {}
            }
            let operation = self
                .record_operation(
                    operation_id.clone(),
                    OperationKind::Create,
                    &name,
                    None,
                    &guard,
                    Aim::default(),
                )
                .await?;
            let service = self.write_parts(&admitted, &operation, &guard).await?;
            if let Some(tombstone) = &existing {
                self.archive(tombstone).await?;
            }
            let key = self.store.service_key(&name)?;
            let outcome = match &existing {
                None => self.store.records().create(&key, &service).await?,
                Some(found) => self.store.records().update(&key, &service, &found.version).await?,
            };
            if let WriteOutcome::Applied(_) = outcome {
                self.controller.wake(&name);
                return Ok(operation);
            }
        }
    }

    async fn created_already(
        &self,
        found: &Versioned<Arc<Service>>,
        admitted: &Admitted,
        guard: Guard,
    ) -> ControlResult<Operation> {
        let differences = self.differences(&found.body.id, found.body.revision, &admitted.spec).await?;
        if !differences.is_empty() {
            if let Some(operation) = self.enlarge(&found.body, admitted, guard).await? {
                return Ok(operation);
            }
            return Err(ControlError::Refused {
                reason: Reason::ChangeUnsupported,
                message: format!(
                    "service {} exists and differs in: {}",
                    found.body.name,
                    listed(&differences)
                ),
                remedy:
                    "apply the spec it has, with larger volumes at most, or create a service of another name"
                        .to_owned(),
            });
        }
        let created_by = found.body.created_by.clone();
        match created_by {
            Some(id) => self.operation(&id).await,
            None => Err(internal("created-by", &found.body.name, "a service without its create operation")),
        }
    }

    /// Refuses a spec under a key that another one was created under.
    async fn check_key(&self, first: &ServiceId, admitted: &Admitted, guard: &Guard) -> ControlResult<()> {
        let differences = self.differences(first, Revision(1), &admitted.spec).await?;
        match &guard.idempotency_key {
            Some(key) if !differences.is_empty() => Err(ControlError::Refused {
                reason: Reason::ChangeUnsupported,
                message: format!(
                    "the idempotency key {key} was used to create {} with another spec, which differs in: {}",
                    admitted.spec.name,
                    listed(&differences)
                ),
                remedy: "repeat the spec of the first time, or give another key with another spec".to_owned(),
            }),
            _ => Ok(()),
        }
    }

    /// Everything a service rests on, written before the service itself: the one record that makes it exist.
    async fn write_parts(
        &self,
        admitted: &Admitted,
        operation: &Operation,
        guard: &Guard,
    ) -> ControlResult<Service> {
        let Admitted { spec, resolved } = admitted;
        let now = self.env.clock().wall();
        let id = operation.service_id.clone();
        let revision = SpecRevision {
            service_id: id.clone(),
            revision: Revision(1),
            spec: spec.clone(),
            blueprint: resolved.blueprint.clone(),
            options: resolved.options.clone(),
            created_at: now,
        };
        // Written or there already: the service's identity decides all of it, and the key decides the identity.
        if self.write_revision(&revision, resolved).await? == WriteOutcome::Conflict {
            self.check_key(&id, admitted, guard).await?;
        }
        let groups: BTreeMap<_, _> =
            resolved.groups.iter().map(|group| (group.name.clone(), Group::of(group.replicas))).collect();
        let mut roles = BTreeMap::new();
        if resolved.blueprint.leadership == Leadership::Steadfast {
            for group in groups.keys() {
                let leader = MemberName::of(&spec.name, group, 0)
                    .map_err(|error| internal("name", &spec.name, error.to_string()))?;
                roles.insert(
                    group.clone(),
                    RoleState {
                        term: RoleTerm(1),
                        phase: RolePhase::Bootstrapping,
                        leader: Some(leader),
                        previous: None,
                        successor: None,
                        failures: 0,
                        since: now,
                    },
                );
            }
        }
        let mut events = EventRing::default();
        events.push(
            now,
            Reason::Created,
            None,
            format!("{}@{}", resolved.blueprint.name, resolved.blueprint.version),
        );
        Ok(Service {
            id,
            name: spec.name.clone(),
            revision: Revision(1),
            desired: Desired::Running,
            groups,
            roles,
            last_leaders: BTreeMap::new(),
            paused: false,
            operation: Some(operation.id.clone()),
            created_by: Some(operation.id.clone()),
            bootstrapped: false,
            deleted: false,
            created_at: now,
            conditions: Vec::new(),
            trouble: None,
            events,
            extra: serde_json::Map::new(),
        })
    }

    /// A revision with all that it refers to. At once, so that a durable store flushes once; what is there stays.
    pub(super) async fn write_revision(
        &self,
        revision: &SpecRevision,
        resolved: &Resolved,
    ) -> ControlResult<WriteOutcome> {
        let id = &revision.service_id;
        let records = self.store.records();
        let blueprint_key = records.key(["blueprints", &resolved.blueprint.digest])?;
        let revision_key = self.store.revision_key(id, revision.revision)?;
        let secrets = resolved.secrets.iter().map(async |name| {
            let sealed = self.keys.seal(id, name, &self.env.entropy().token())?;
            records.create(&self.store.secret_key(id, name)?, &sealed).await
        });
        let (_, outcome, _): (WriteOutcome, WriteOutcome, Vec<WriteOutcome>) = future::try_join3(
            records.create(&blueprint_key, &resolved.stored),
            records.create(&revision_key, revision),
            future::try_join_all(secrets),
        )
        .await?;
        Ok(outcome)
    }

    /// A deleted service makes way for a new one of its name: what it left is kept under its identity.
    async fn archive(&self, tombstone: &Versioned<Arc<Service>>) -> ControlResult<()> {
        let name = &tombstone.body.name;
        let members = self.store.members(name).await?;
        let records = self.store.records();
        for member in members {
            if member.body.service_id != tombstone.body.id {
                continue;
            }
            let key = records.key(["deleted", tombstone.body.id.as_str(), member.body.name.as_str()])?;
            let _there: WriteOutcome = records.create(&key, &*member.body).await?;
            if member.body.phase == MemberPhase::Removed {
                let key = self.store.member_key(name, &member.body.name)?;
                if records.delete(&key, &member.version).await? == WriteOutcome::Conflict {
                    return Err(busy(name));
                }
            }
        }
        let key = records.key(["deleted", tombstone.body.id.as_str(), "service"])?;
        let _there: WriteOutcome = records.create(&key, &*tombstone.body).await?;
        Ok(())
    }
}

fn listed(differences: &[Planned]) -> String {
    let fields = differences.iter().map(|change| format!("{} ({})", change.subject, change.detail));
    fields.collect::<Vec<_>>().join("; ")
}

fn busy(name: &ServiceName) -> ControlError {
    ControlError::Conflict {
        reason: Reason::OperationExclusive,
        message: format!("a deleted service {name} is being changed by somebody else"),
        remedy: "try again".to_owned(),
    }
}
