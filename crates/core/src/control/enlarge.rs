//! Larger volumes: the one change of a service that [`apply`](Control::apply) carries out itself.

use super::admit::Admitted;
use super::reshape::{Ask, refused};
use super::{Control, ControlResult, Guard};
use crate::ids::Revision;
use crate::model::{
    Blueprint, Operation, OperationKind, Reason, Service, ServiceSpec, SpecRevision, VolumeClaim,
    volume_sizes,
};

impl Control {
    /// Begins to make a service's volumes larger, if that is all that is wanted anew; none: something else is.
    pub(super) async fn enlarge(
        &self,
        service: &Service,
        admitted: &Admitted,
        guard: Guard,
    ) -> ControlResult<Option<Operation>> {
        if !self.only_enlarges(service, &admitted.spec).await? {
            return Ok(None);
        }
        let ask = Ask::Volumes(admitted.spec.volumes.clone());
        self.begin_for(&service.name, OperationKind::Upgrade, ask, guard).await.map(Some)
    }

    /// Whether a spec differs from the one in force in nothing but volumes that are larger.
    pub(super) async fn only_enlarges(&self, service: &Service, spec: &ServiceSpec) -> ControlResult<bool> {
        let current = self.stored_revision(service, service.revision).await?;
        let wanted = ServiceSpec { volumes: current.spec.volumes.clone(), ..spec.clone() };
        Ok(wanted == current.spec && are_kept_or_larger(&current.blueprint, &current.spec, spec))
    }

    /// The revision of a service with these volumes, everything else as it is.
    pub(super) async fn revision_with_volumes(
        &self,
        service: &Service,
        volumes: &[VolumeClaim],
    ) -> ControlResult<Revision> {
        let current = self.stored_revision(service, service.revision).await?;
        let mut wanted = current.clone();
        wanted.spec.volumes = volumes.to_vec();
        self.check_volumes(service, &current, &wanted.spec)?;
        self.renumber(wanted).await
    }

    /// That the volumes of a spec can be had from those of a revision.
    pub(super) fn check_volumes(
        &self,
        service: &Service,
        current: &SpecRevision,
        wanted: &ServiceSpec,
    ) -> ControlResult<()> {
        if !are_kept_or_larger(&current.blueprint, &current.spec, wanted) {
            return Err(refused(
                Reason::ChangeUnsupported,
                format!("service {} exists and cannot be changed in: volumes", service.name),
                "a volume can be made larger, and nothing else: leave the rest as it is".to_owned(),
            ));
        }
        let sizes = |spec| volume_sizes(&current.blueprint, spec).map(|(_, size)| size).collect::<Vec<_>>();
        let volumes = &self.controller.observer().backends().volumes;
        if sizes(&current.spec) != sizes(wanted) && !volumes.capabilities().grow {
            return Err(refused(
                Reason::CapabilityMissing,
                format!("{volumes} makes no volume larger"),
                "leave the volumes of the service as they are".to_owned(),
            ));
        }
        Ok(())
    }
}

/// Whether a spec wants the volumes that another one has, each as large or larger.
pub(super) fn are_kept_or_larger(blueprint: &Blueprint, has: &ServiceSpec, wants: &ServiceSpec) -> bool {
    let rest = |spec: &ServiceSpec| {
        let claims = blueprint.volumes.iter().map(|(name, _)| {
            let claim = spec.volumes.iter().find(|claim| &claim.name == name);
            claim.map(|claim| (claim.class.clone(), claim.on_delete)).unwrap_or_else(VolumeClaim::usual)
        });
        claims.collect::<Vec<_>>()
    };
    let mut pairs = volume_sizes(blueprint, has).zip(volume_sizes(blueprint, wants));
    rest(has) == rest(wants) && pairs.all(|((_, has), (_, wants))| has <= wants)
}
