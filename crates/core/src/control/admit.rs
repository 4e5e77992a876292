//! Admission: what can be seen to be wrong before anything is written.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::{Control, ControlError, ControlResult, PlanReport, Planned, Resolved};
use crate::ids::{MemberName, Revision, ServiceId, ServiceName};
use crate::model::{
    Condition, ConditionKind, FencingLevel, NodeHealth, Reason, Service, ServiceSpec, SpecError,
    SpecRevision, Topology, Truth,
};
use crate::orchestrator::PlacementBy;
use crate::volume::Reach;

/// The label under which a zone's own name server has its address.
const NAME_SERVER: &str = "ns";
/// What [`Control::plan`] says of changes that [`Control::apply`] refuses.
const UNCHANGEABLE: &str = "ChangeUnsupported: apply refuses this: of a service that exists only volumes can be changed, to be larger";

/// A spec that was let in.
#[derive(Debug, Clone)]
pub(super) struct Admitted {
    pub(super) spec: ServiceSpec,
    pub(super) resolved: Resolved,
}

impl Control {
    /// What applying `input` would do, or what it differs in, with a warning, where [`apply`](Self::apply) would refuse the
    /// change. Changes nothing.
    ///
    /// # Errors
    /// As [`apply`](Self::apply) would answer to a spec that cannot be.
    pub async fn plan(&self, input: serde_json::Value) -> ControlResult<PlanReport> {
        let Admitted { spec, resolved } = self.admit(input).await?;
        let existing = self.store.service(&spec.name).await?;
        let index =
            existing.as_ref().map_or_else(|| "0".to_owned(), |found| found.version.as_str().to_owned());
        let (changes, of_existing) = match existing {
            Some(found) if !found.body.deleted => {
                let changes = self.differences(&found.body.id, found.body.revision, &spec).await?;
                let refused = !changes.is_empty() && !self.only_enlarges(&found.body, &spec).await?;
                (changes, refused.then(|| UNCHANGEABLE.to_owned()))
            }
            Some(deleted) => (planned_creation(&spec, &resolved), self.kept_warning(&deleted.body).await?),
            None => (planned_creation(&spec, &resolved), None),
        };
        let backends = self.controller.observer().backends();
        let (fencing, reach) = (backends.fencing(), backends.volumes.capabilities().reach);
        let mut warnings = resolved.warnings.clone();
        warnings.extend(self.node_warnings(&resolved));
        warnings.extend(of_existing);
        Ok(PlanReport {
            index,
            changes,
            fencing,
            outage_rule: outage_rule(fencing, reach, &spec),
            guarantee: self.blueprints.guarantee(&spec),
            conditions: vec![self.zone_condition(&resolved)],
            warnings,
        })
    }

    /// Everything that can be checked without writing.
    pub(super) async fn admit(&self, input: serde_json::Value) -> ControlResult<Admitted> {
        let spec = ServiceSpec::from_input(input).map_err(ControlError::Invalid)?;
        let resolved = self.blueprints.resolve(&spec).map_err(ControlError::Invalid)?;
        let mut problems = Vec::new();
        if spec.name.as_str() == NAME_SERVER {
            problems.push(SpecError::new(
                "name",
                format!("{NAME_SERVER} is the name of the cluster's name server"),
                "choose another name",
            ));
        }
        for group in &resolved.groups {
            if let Err(error) = MemberName::of(&spec.name, &group.name, group.replicas.saturating_sub(1)) {
                problems.push(SpecError::new("name", error.to_string(), "choose a shorter name"));
            }
        }
        for volume in &spec.volumes {
            let known: Vec<&str> = resolved.blueprint.volumes.iter().map(|(name, _)| name.as_str()).collect();
            if !known.contains(&volume.name.as_str()) {
                problems.push(SpecError::new(
                    format!("volumes.{}", volume.name),
                    "is not a volume of the blueprint",
                    format!("use one of: {}", known.join(", ")),
                ));
            }
        }
        if !problems.is_empty() {
            return Err(ControlError::Invalid(problems));
        }
        let fencing = self.controller.observer().backends().fencing();
        if fencing < spec.fencing.minimum {
            return Err(ControlError::Refused {
                reason: Reason::FencingInsufficient,
                message: format!(
                    "the cluster fences at {fencing}, and the service demands {}",
                    spec.fencing.minimum
                ),
                remedy: "lower fencing.minimum, or use a cluster whose storage or cloud fences".to_owned(),
            });
        }
        if self.controller.observer().backends().orchestrator.capabilities().placement == PlacementBy::Ours {
            self.check_names(&spec, &resolved).await?;
        }
        Ok(Admitted { spec, resolved })
    }

    /// Two services may not claim one name: `orders-shard-0` is a member of `orders` with a group `shard`, and
    /// of `orders-shard`. Only services whose name begins with the other's can clash, so only those are read.
    async fn check_names(&self, spec: &ServiceSpec, resolved: &Resolved) -> ControlResult<()> {
        let own: BTreeSet<MemberName> = resolved
            .groups
            .iter()
            .flat_map(|group| {
                (0..group.replicas)
                    .filter_map(|ordinal| MemberName::of(&spec.name, &group.name, ordinal).ok())
            })
            .collect();
        let mut near = self.services_above(&spec.name).await?;
        let longer = self.store.services_beginning_with(&format!("{}-", spec.name)).await?;
        near.extend(longer.into_iter().map(Arc::new));
        for other in near.into_iter().filter(|other| !other.deleted) {
            let clash = other.member_names().find(|(_, _, name)| own.contains(name));
            if let Some((_, _, name)) = clash {
                return Err(ControlError::Invalid(vec![SpecError::new(
                    "name",
                    format!("member {name} would have the name of a member of {}", other.name),
                    "choose another name",
                )]));
            }
        }
        Ok(())
    }

    /// The services named by what stands before each `-` of a name.
    async fn services_above(&self, name: &ServiceName) -> ControlResult<Vec<Arc<Service>>> {
        let mut found = Vec::new();
        for (position, _) in name.as_str().match_indices('-') {
            if let Ok(shorter) = name.as_str()[..position].parse::<ServiceName>() {
                found.extend(self.store.service(&shorter).await?.map(|found| found.body));
            }
        }
        Ok(found)
    }

    /// How the spec differs from a revision; from one that is not there, not at all.
    pub(super) async fn differences(
        &self,
        service: &ServiceId,
        revision: Revision,
        spec: &ServiceSpec,
    ) -> ControlResult<Vec<Planned>> {
        let Some(SpecRevision { spec: current, .. }) = self.store.revision(service, revision).await? else {
            return Ok(Vec::new());
        };
        let before = serde_json::to_value(&current).unwrap_or_default();
        let after = serde_json::to_value(spec).unwrap_or_default();
        let mut changes = Vec::new();
        compare(&before, &after, "", &mut changes);
        Ok(changes
            .into_iter()
            .map(|(subject, detail)| Planned { verb: "change".to_owned(), subject, detail })
            .collect())
    }

    /// Whether the service would survive the loss of a zone, over the zones there are now.
    fn zone_condition(&self, resolved: &Resolved) -> Condition {
        let table = self.controller.observer().nodes();
        let zones: BTreeSet<_> = table
            .nodes
            .values()
            .filter(|node| node.health == NodeHealth::Ready)
            .map(|node| node.report.zone.clone())
            .collect();
        let members = resolved.groups.iter().map(|group| group.replicas).max().unwrap_or_default();
        let zones = u32::try_from(zones.len()).unwrap_or(u32::MAX);
        let most = members.div_ceil(zones.max(1));
        let (status, reason, message) = match resolved.blueprint.topology {
            Topology::Quorum if members.saturating_sub(most) < members / 2 + 1 => (
                Truth::False,
                Some(Reason::QuorumInOneZone),
                format!(
                    "{members} voters over {zones} ready zones: the loss of one takes {most} of them and the quorum; \
                     three zones are needed"
                ),
            ),
            Topology::PrimaryReplicas | Topology::Independent if zones < 2 || members < 2 => (
                Truth::False,
                Some(Reason::RedundancyLost),
                format!("{members} members over {zones} ready zones: every copy is in one zone"),
            ),
            Topology::Quorum | Topology::PrimaryReplicas | Topology::Independent => {
                (Truth::True, None, format!("{members} members over {zones} ready zones"))
            }
        };
        let now = self.env.clock().wall();
        Condition {
            kind: ConditionKind::ZoneLossSafe,
            status,
            reason,
            message,
            since: now,
            observed_at: now,
            deadline: None,
            next_action: None,
        }
    }

    /// What becomes of the volumes that a deleted service has kept, if another one takes its name.
    async fn kept_warning(&self, deleted: &Service) -> ControlResult<Option<String>> {
        let members = self.store.members(&deleted.name).await?;
        let of_it = members.iter().filter(|member| member.body.service_id == deleted.id);
        let volumes: usize = of_it.map(|member| member.body.volumes.len()).sum();
        let name = &deleted.name;
        Ok((volumes > 0).then(|| {
            format!(
                "{name} was deleted and has kept {volumes} volumes: this makes another {name} with empty ones, after \
                 which the deleted one cannot be brought back; to have it back instead: steadfast undelete {name}"
            )
        }))
    }

    fn node_warnings(&self, resolved: &Resolved) -> Vec<String> {
        let table = self.controller.observer().nodes();
        let engine = resolved.blueprint.name.as_str();
        let able = table
            .nodes
            .values()
            .filter(|node| node.health == NodeHealth::Ready)
            .filter(|node| node.report.engines.is_empty() || node.report.engines.contains_key(engine))
            .count();
        let members = resolved.groups.iter().map(|group| group.replicas).max().unwrap_or_default();
        let mut warnings = Vec::new();
        if able == 0 {
            warnings
                .push(format!("EngineMissing: no ready node has {engine}; see: steadfast node list -o wide"));
        } else if able < usize::try_from(members).unwrap_or(usize::MAX) {
            warnings
                .push(format!("{able} ready nodes have {engine} for {members} members: some share a node"));
        }
        warnings
    }
}

fn planned_creation(spec: &ServiceSpec, resolved: &Resolved) -> Vec<Planned> {
    let create = |subject: String, detail: String| Planned { verb: "create".to_owned(), subject, detail };
    let blueprint = &resolved.blueprint;
    let mut changes =
        vec![create(format!("service {}", spec.name), format!("{}@{}", blueprint.name, blueprint.version))];
    for group in &resolved.groups {
        for ordinal in 0..group.replicas {
            if let Ok(name) = MemberName::of(&spec.name, &group.name, ordinal) {
                let volumes: Vec<&str> = blueprint.volumes.iter().map(|(name, _)| name.as_str()).collect();
                changes.push(create(
                    format!("member {name}"),
                    format!("volumes {}, a static address, a name", volumes.join(", ")),
                ));
            }
        }
    }
    changes
}

/// What happens when a node falls silent, in words: told before anything is created.
fn outage_rule(fencing: FencingLevel, reach: Reach, spec: &ServiceSpec) -> String {
    if reach == Reach::Node {
        return "each member's volumes are on the disk of one node, and nowhere else: while that node is away the member \
                waits for it. Where the blueprint has replicas that Steadfast promotes, another member takes over \
                once the node is proven or confirmed dead."
            .to_owned();
    }
    match (fencing, spec.fencing.accept_lease) {
        (FencingLevel::F3 | FencingLevel::F2, true) => {
            "a lease is accepted: a member moves when its node is proven dead, or when its lease has expired, which \
             assumes bounded pauses and does not promise a single writer. Members stop when their node cannot renew \
             its lease."
        }
        (FencingLevel::F3, false) => {
            "the storage refuses an old writer. A node that is silent but not proven dead keeps its members; \
             they move when its volumes are free, or its death is proven or confirmed. Members serve on while the \
             control plane is away."
        }
        (FencingLevel::F2, false) => {
            "a member moves once the cloud or the supervisor has proven its node dead; a silent node is waited \
             for, or confirmed dead by an operator. Members serve on while the control plane is away."
        }
        (FencingLevel::F1, true) => {
            "a member moves when its node's lease has expired. That assumes bounded pauses and does not promise \
             a single writer. Members stop when their node cannot renew its lease."
        }
        (FencingLevel::F1, false) => {
            "without accept_lease nothing moves before an operator confirms that the old node is off."
        }
    }
    .to_owned()
}

fn compare(
    before: &serde_json::Value,
    after: &serde_json::Value,
    path: &str,
    changes: &mut Vec<(String, String)>,
) {
    match (before, after) {
        (serde_json::Value::Object(before), serde_json::Value::Object(after)) => {
            let keys: BTreeSet<&String> = before.keys().chain(after.keys()).collect();
            for key in keys {
                let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                let none = serde_json::Value::Null;
                compare(before.get(key).unwrap_or(&none), after.get(key).unwrap_or(&none), &path, changes);
            }
        }
        (before, after) if before != after => {
            changes.push((path.to_owned(), format!("{before} becomes {after}")));
        }
        _ => {}
    }
}
