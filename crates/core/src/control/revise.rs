//! Revisions of a spec: which change may become one, and its number.

use super::admit::Admitted;
use super::change::internal;
use super::reshape::refused;
use super::{Control, ControlError, ControlResult, Resolved};
use crate::ids::{GroupName, Ordinal, Revision};
use crate::metadata::WriteOutcome;
use crate::model::{Blueprint, Reason, Service, ServiceSpec, SpecRevision};

impl Control {
    /// The revision of a service that says what was let in: one that there is, or a new one.
    pub(super) async fn revision_of(
        &self,
        service: &Service,
        admitted: &Admitted,
    ) -> ControlResult<Revision> {
        let current = self.stored_revision(service, service.revision).await?;
        check_fields(service, &current, admitted)?;
        self.check_volumes(service, &current, &admitted.spec)?;
        let wanted = SpecRevision {
            service_id: service.id.clone(),
            revision: Revision(1),
            spec: admitted.spec.clone(),
            blueprint: admitted.resolved.blueprint.clone(),
            options: admitted.resolved.options.clone(),
            created_at: self.env.clock().wall(),
        };
        self.check_step(service, &wanted).await?;
        self.number(wanted, &admitted.resolved).await
    }

    /// The revision of a service whose group has so many members, everything else as it is.
    pub(super) async fn revision_with(
        &self,
        service: &Service,
        group: &GroupName,
        replicas: Ordinal,
    ) -> ControlResult<Revision> {
        let mut wanted = self.stored_revision(service, service.revision).await?;
        match wanted.spec.groups.iter_mut().find(|found| &found.name == group) {
            Some(found) => found.replicas = replicas,
            None => wanted.spec.replicas = Some(replicas),
        }
        self.renumber(wanted).await
    }

    /// The number of a revision that changes what is asked for, and not how it runs.
    pub(super) async fn renumber(&self, mut wanted: SpecRevision) -> ControlResult<Revision> {
        let input = serde_json::to_value(&wanted.spec)
            .map_err(|error| internal("revise", &wanted.spec.name, error.to_string()))?;
        let Admitted { resolved, .. } = self.admit(input).await?;
        wanted.blueprint.confirming_replicas = resolved.blueprint.confirming_replicas;
        self.number(wanted, &resolved).await
    }

    /// The number under which a revision is written, or was before.
    async fn number(&self, mut wanted: SpecRevision, resolved: &Resolved) -> ControlResult<Revision> {
        wanted.revision = Revision(1);
        wanted.created_at = self.env.clock().wall();
        loop {
            match self.store.revision(&wanted.service_id, wanted.revision).await? {
                Some(found) if says_the_same(&found, &wanted) => return Ok(found.revision),
                Some(_) => wanted.revision = wanted.revision.next(),
                None => {
                    // Lost to somebody else: what they wrote is looked at.
                    let _outcome: WriteOutcome = self.write_revision(&wanted, resolved).await?;
                }
            }
        }
    }

    pub(super) async fn stored_revision(
        &self,
        service: &Service,
        revision: Revision,
    ) -> ControlResult<SpecRevision> {
        self.store.revision(&service.id, revision).await?.ok_or_else(|| ControlError::NotFound {
            kind: "revision",
            name: format!("{revision} of {}", service.name),
            remedy: format!("see: steadfast describe {}", service.name),
        })
    }

    /// At most two ways of running are in use at any time, and they are at most one engine version apart.
    pub(super) async fn check_step(&self, service: &Service, target: &SpecRevision) -> ControlResult<()> {
        let mut ways = vec![self.stored_revision(service, service.revision).await?];
        for member in self.store.members(&service.name).await? {
            if member.body.service_id == service.id
                && ways.iter().all(|way| way.revision != member.body.revision)
            {
                ways.push(self.stored_revision(service, member.body.revision).await?);
            }
        }
        if let Some(far) = ways.iter().find(|way| is_far(&way.blueprint, &target.blueprint)) {
            return Err(refused(
                Reason::ChangeUnsupported,
                format!(
                    "from {} to {} is more than one step",
                    far.blueprint.version, target.blueprint.version
                ),
                "take one version at a time".to_owned(),
            ));
        }
        ways.push(target.clone());
        let distinct =
            (0..ways.len()).filter(|at| !ways[..*at].iter().any(|way| way.runs_like(&ways[*at]))).count();
        if distinct > 2 {
            return Err(refused(
                Reason::ChangeUnsupported,
                format!("the members of {} are between two revisions, and this is a third", service.name),
                "let the upgrade finish, or go back first".to_owned(),
            ));
        }
        Ok(())
    }
}

fn says_the_same(one: &SpecRevision, other: &SpecRevision) -> bool {
    (&one.spec, &one.blueprint, &one.options) == (&other.spec, &other.blueprint, &other.options)
}

/// Whether two engine versions are more than one step apart. Versions that are no numbers are not compared.
fn is_far(one: &Blueprint, other: &Blueprint) -> bool {
    let major = |version: &str| version.split('.').next().and_then(|major| major.parse::<u64>().ok());
    match (major(&one.version), major(&other.version)) {
        (Some(one), Some(other)) => one.abs_diff(other) > 1,
        _ => false,
    }
}

/// What an upgrade may not change: it is part of what the service is, or has an operation of its own.
fn check_fields(service: &Service, current: &SpecRevision, admitted: &Admitted) -> ControlResult<()> {
    let Admitted { spec, resolved } = admitted;
    let was = &current.blueprint;
    let is = &resolved.blueprint;
    let replicas = |spec: &ServiceSpec| (spec.replicas, spec.groups.clone());
    let kept = [
        ("replicas", replicas(spec) == replicas(&current.spec)),
        ("volumes", was.volumes == is.volumes),
        ("fencing", spec.fencing == current.spec.fencing),
        ("blueprint", (&was.name, was.leadership, was.topology) == (&is.name, is.leadership, is.topology)),
        ("ports", was.ports == is.ports),
    ];
    let changed: Vec<&str> = kept.iter().filter(|(_, kept)| !kept).map(|(field, _)| *field).collect();
    if changed.is_empty() {
        return Ok(());
    }
    Err(refused(
        Reason::ChangeUnsupported,
        format!("service {} exists and cannot be upgraded in: {}", service.name, changed.join(", ")),
        "leave these as they are; the number of members is a scale's matter".to_owned(),
    ))
}
