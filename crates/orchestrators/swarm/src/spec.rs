//! The service of a member, as Swarm is told.

use std::collections::HashMap;

use bollard::models::{
    Mount, MountType, MountVolumeOptions, MountVolumeOptionsDriverConfig, NetworkAttachmentConfig, Service,
    ServiceSpec, ServiceSpecMode, ServiceSpecModeReplicated, ServiceSpecUpdateConfig,
    ServiceSpecUpdateConfigFailureActionEnum, ServiceSpecUpdateConfigOrderEnum, Task, TaskSpec,
    TaskSpecContainerSpec, TaskSpecPlacement, TaskSpecRestartPolicy, TaskSpecRestartPolicyConditionEnum,
};
use steadfast_core::ids::{ClusterName, MemberName, ServiceName};
use steadfast_core::orchestrator::Placement;

use crate::SwarmOptions;

const CLUSTER: &str = "steadfast.cluster";
const SERVICE: &str = "steadfast.service";
const MEMBER: &str = "steadfast.member";
const GENERATION: &str = "steadfast.generation";
/// The number of times that the member's task was made, which no user sets: `ForceUpdate` is also `docker service
/// update --force`.
const TRIES: &str = "steadfast.tries";

/// How long a guard may take to stop its engine in order, in nanoseconds: it has a deadline of its own.
const GRACE: i64 = 600_000_000_000;

/// The name of a member's service.
pub(crate) fn name(cluster: &ClusterName, member: &MemberName) -> String {
    format!("{cluster}_{member}")
}

/// What every service of the cluster bears.
pub(crate) fn label(cluster: &ClusterName) -> String {
    format!("{CLUSTER}={cluster}")
}

/// What every service of one of ours bears, as no other: services of two clusters may have the same name.
pub(crate) fn label_of(cluster: &ClusterName, service: &ServiceName) -> String {
    format!("{SERVICE}={cluster}/{service}")
}

/// The service of ours that a service of the swarm is of.
pub(crate) fn service_of(found: &Service) -> Option<ServiceName> {
    let labels = found.spec.as_ref()?.labels.as_ref()?;
    labels.get(SERVICE)?.split_once('/')?.1.parse().ok()
}

/// The member that a task is.
pub(crate) fn member_of(task: &Task) -> Option<MemberName> {
    container_labels(task.spec.as_ref()?)?.get(MEMBER)?.parse().ok()
}

fn container_labels(task: &TaskSpec) -> Option<&HashMap<String, String>> {
    task.container_spec.as_ref()?.labels.as_ref()
}

fn tries_in(task: Option<&TaskSpec>) -> u64 {
    let text = task.and_then(container_labels).and_then(|labels| labels.get(TRIES));
    text.and_then(|text| text.parse().ok()).unwrap_or_default()
}

/// How often the task of this service was made.
pub(crate) fn tries(found: &Service) -> u64 {
    tries_in(found.spec.as_ref().and_then(|spec| spec.task_template.as_ref()))
}

/// Which of these tries a task is.
pub(crate) fn tries_of(task: &Task) -> u64 {
    tries_in(task.spec.as_ref())
}

/// Whether a service is what it shall be, in what we decide about it.
pub(crate) fn is(found: &Service, wanted: &ServiceSpec) -> bool {
    let decided = |spec: &ServiceSpec| {
        let task = spec.task_template.clone()?;
        let container = task.container_spec?;
        Some((container.image, container.labels, container.command, task.placement?.constraints))
    };
    found.spec.as_ref().is_some_and(|spec| decided(spec) == decided(wanted))
}

/// The service of the member of `placement`, on the node with this identifier.
pub(crate) fn service(
    options: &SwarmOptions,
    service: &ServiceName,
    placement: &Placement,
    image: &str,
    node: &str,
    tries: u64,
) -> ServiceSpec {
    let member = &placement.member;
    let labels = HashMap::from([
        (CLUSTER.to_owned(), options.cluster.to_string()),
        (SERVICE.to_owned(), format!("{}/{service}", options.cluster)),
        (MEMBER.to_owned(), member.to_string()),
    ]);
    let of_task =
        [(GENERATION.to_owned(), placement.generation.to_string()), (TRIES.to_owned(), tries.to_string())];
    let container_labels = labels.clone().into_iter().chain(of_task).collect();
    ServiceSpec {
        name: Some(name(&options.cluster, member)),
        labels: Some(labels),
        task_template: Some(TaskSpec {
            container_spec: Some(container(options, service, member, image, container_labels)),
            // Who comes back, and where, is ours to say.
            restart_policy: Some(TaskSpecRestartPolicy {
                condition: Some(TaskSpecRestartPolicyConditionEnum::NONE),
                ..TaskSpecRestartPolicy::default()
            }),
            placement: Some(TaskSpecPlacement {
                constraints: Some(vec![format!("node.id=={node}")]),
                ..TaskSpecPlacement::default()
            }),
            // The member's address is on the node's interface.
            networks: Some(vec![NetworkAttachmentConfig {
                target: Some("host".to_owned()),
                ..NetworkAttachmentConfig::default()
            }]),
            ..TaskSpec::default()
        }),
        mode: Some(ServiceSpecMode {
            replicated: Some(ServiceSpecModeReplicated { replicas: Some(1) }),
            ..ServiceSpecMode::default()
        }),
        update_config: Some(ServiceSpecUpdateConfig {
            parallelism: Some(1),
            failure_action: Some(ServiceSpecUpdateConfigFailureActionEnum::CONTINUE),
            // A task of a node that does not answer never stops. The new one waits for the claim in any case.
            order: Some(ServiceSpecUpdateConfigOrderEnum::START_FIRST),
            ..ServiceSpecUpdateConfig::default()
        }),
        ..ServiceSpec::default()
    }
}

fn container(
    options: &SwarmOptions,
    service: &ServiceName,
    member: &MemberName,
    image: &str,
    labels: HashMap<String, String>,
) -> TaskSpecContainerSpec {
    let folder = options.members.join(member.as_str());
    let path = |name: &str| folder.join(name).to_string_lossy().into_owned();
    let driver = MountVolumeOptionsDriverConfig {
        name: Some(options.driver.clone()),
        options: Some(HashMap::from([("service".to_owned(), service.to_string())])),
    };
    TaskSpecContainerSpec {
        image: Some(image.to_owned()),
        labels: Some(labels),
        command: Some(vec![
            path("steadfast"),
            "guard".to_owned(),
            "--spec".to_owned(),
            path("guard/spec.json"),
        ]),
        mounts: Some(vec![Mount {
            typ: Some(MountType::VOLUME),
            source: Some(member.to_string()),
            target: Some(folder.to_string_lossy().into_owned()),
            volume_options: Some(MountVolumeOptions {
                no_copy: Some(true),
                driver_config: Some(driver),
                ..MountVolumeOptions::default()
            }),
            ..Mount::default()
        }]),
        stop_grace_period: Some(GRACE),
        ..TaskSpecContainerSpec::default()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use steadfast_core::ids::{Generation, Revision};
    use steadfast_core::orchestrator::Run;

    use super::*;

    fn made(placement: &Placement, node: &str, tries: u64) -> ServiceSpec {
        let options = SwarmOptions {
            cluster: "lab".parse().unwrap(),
            images: BTreeMap::new(),
            driver: "steadfast".to_owned(),
            members: "/run/steadfast/lab".into(),
        };
        service(&options, &"orders".parse().unwrap(), placement, "redis:7", node, tries)
    }

    fn placement(generation: u64) -> Placement {
        Placement {
            member: "orders-0".parse().unwrap(),
            revision: Revision(1),
            node: "node-1".parse().unwrap(),
            run: Run::Started,
            generation: Generation(generation),
        }
    }

    #[test]
    fn a_service_is_changed_when_its_member_moves_or_is_to_start_anew_and_at_no_other_time() {
        let found = Service { spec: Some(made(&placement(1), "n1", 3)), ..Service::default() };
        assert_eq!(tries(&found), 3);
        assert!(is(&found, &made(&placement(1), "n1", 3)));
        assert!(!is(&found, &made(&placement(1), "n2", 3)), "it moves");
        assert!(!is(&found, &made(&placement(2), "n1", 3)), "it starts anew");
        assert!(!is(&found, &made(&placement(1), "n1", 4)), "its task has ended");
    }

    #[test]
    fn what_swarm_has_is_found_again_by_its_labels() {
        let spec = made(&placement(1), "n1", 3);
        let task = Task { spec: spec.task_template.clone(), ..Task::default() };
        assert_eq!(member_of(&task), Some("orders-0".parse().unwrap()));
        assert_eq!(tries_of(&task), 3);
        let labels = spec.labels.clone().unwrap();
        let (key, value) = ("steadfast.service", "lab/orders");
        assert_eq!(labels.get(key).map(String::as_str), Some(value));
        assert_eq!(label_of(&"lab".parse().unwrap(), &"orders".parse().unwrap()), format!("{key}={value}"));
        let found = Service { spec: Some(spec), ..Service::default() };
        assert_eq!(service_of(&found), Some("orders".parse().unwrap()));
    }

    /// Without these, two containers of one member, or one without its address, would be Swarm's usual way.
    #[test]
    fn swarm_restarts_nothing_and_gives_no_network_of_its_own() {
        let task = made(&placement(1), "n1", 0).task_template.unwrap();
        let policy = task.restart_policy.unwrap();
        assert_eq!(policy.condition, Some(TaskSpecRestartPolicyConditionEnum::NONE));
        assert_eq!(task.networks.unwrap()[0].target.as_deref(), Some("host"));
        assert_eq!(task.placement.unwrap().constraints, Some(vec!["node.id==n1".to_owned()]));
        let mounts = task.container_spec.unwrap().mounts.unwrap();
        assert_eq!(mounts[0].source.as_deref(), Some("orders-0"));
        assert_eq!(mounts[0].target.as_deref(), Some("/run/steadfast/lab/orders-0"));
    }
}
