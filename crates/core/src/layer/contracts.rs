//! The six contracts, each forwarded once for every layer there is.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;

use super::{Access, Call, Contract, Layer, Layered, Limits, Needs};
use crate::error::Result;
use crate::ids::{
    ClusterName, MemberId, NodeName, ServiceName, SnapshotId, SnapshotName, VolumeId, ZoneName,
};
use crate::ip::{AddressOutcome, AddressStatus, IpCapabilities, IpProvider};
use crate::metadata::{
    CasOutcome, Hint, Key, MetadataCapabilities, MetadataDb, Page, Precondition, Record, Version,
};
use crate::orchestrator::{NodeReport, Orchestrator, OrchestratorCapabilities, TaskReport, Workload};
use crate::registry::{DomainName, NameOutcome, RecordKind, RecordSet, Registry, RegistryCapabilities};
use crate::snapshot::{SnapshotCapabilities, SnapshotProvider, SnapshotStatus};
use crate::volume::{VolumeCapabilities, VolumeProvider, VolumeSpec, VolumeStatus};

/// Forwards a contract, method by method. A method that is missing here does not compile: the contracts have no
/// provided methods.
macro_rules! forward {
    (
        $contract:ident, $name:literal, $capabilities:ty, |$declared:ident| $limits:expr;
        $(
            $access:ident $operation:ident($($argument:ident: $type:ty),*) -> $output:ty,
            on $subject:expr $(, needs $needs:expr)?;
        )*
    ) => {
        #[async_trait]
        impl<L: Layer> $contract for Layered<dyn $contract, L> {
            fn capabilities(&self) -> $capabilities {
                self.inner.capabilities()
            }

            $(
                async fn $operation(&self, $($argument: $type),*) -> Result<$output> {
                    let call = Call {
                        backend: &self.inner,
                        contract: $name,
                        operation: stringify!($operation),
                        access: Access::$access,
                        subject: $subject,
                        needs: forward!(@needs $($needs)?),
                    };
                    let attempt = || self.inner.$operation($(Clone::clone(&$argument)),*);
                    self.layer.call(call, attempt).await
                }
            )*
        }

        impl Contract for dyn $contract {
            const NAME: &'static str = $name;
            const OPERATIONS: &'static [&'static str] = &[$(stringify!($operation)),*];

            fn limits(&self) -> Limits {
                let $declared = self.capabilities();
                $limits
            }

            fn wrap<L: Layer>(self: Arc<Self>, layer: L) -> Arc<Self> {
                Arc::new(Layered::new(self, layer))
            }
        }
    };
    (@needs) => { Needs::Nothing };
    (@needs $needs:expr) => { $needs };
}

forward! {
    MetadataDb, "metadata", MetadataCapabilities,
    |declared| Limits { max_value_bytes: declared.max_value_bytes, ..Limits::NONE };
    Read get(key: &Key) -> Option<Record>, on key;
    Write put(key: &Key, value: Bytes, precondition: Precondition) -> CasOutcome,
        on key, needs Needs::ValueBytes(value.len());
    Write delete(key: &Key, version: &Version) -> CasOutcome, on key;
    Read scan(prefix: &Key, after: Option<&Key>, limit: usize) -> Page, on prefix;
    Read watch(prefix: &Key) -> BoxStream<'static, Hint>, on prefix;
}

forward! {
    Registry, "registry", RegistryCapabilities,
    |declared| Limits { service_records: declared.services, ..Limits::NONE };
    Write ensure_zone(zone: &DomainName) -> (), on zone;
    Read resolve(name: &DomainName, kind: RecordKind) -> Option<RecordSet>, on name;
    Write upsert(name: &DomainName, set: &RecordSet, expected: Option<&RecordSet>) -> NameOutcome,
        on name, needs needs_of(set);
    Write remove(name: &DomainName, expected: &RecordSet) -> NameOutcome, on name;
    Read records(zone: &DomainName) -> Vec<(DomainName, RecordSet)>, on zone;
}

forward! {
    VolumeProvider, "volume", VolumeCapabilities,
    |declared| Limits { growth: declared.grow, ..Limits::NONE };
    Write ensure(spec: &VolumeSpec) -> VolumeId, on &spec.member_name;
    Read describe(id: &VolumeId) -> Option<VolumeStatus>, on id;
    Read list(cluster: &ClusterName) -> Vec<VolumeStatus>, on cluster;
    Write begin_attach(id: &VolumeId, node: &NodeName) -> (), on id;
    Write begin_detach(id: &VolumeId, expected: &NodeName) -> (), on id;
    Write begin_grow(id: &VolumeId, size_bytes: u64) -> (), on id, needs Needs::Growth;
    Write delete(id: &VolumeId) -> (), on id;
    Write abandon(id: &VolumeId) -> (), on id;
}

forward! {
    SnapshotProvider, "snapshot", SnapshotCapabilities, |_declared| Limits::NONE;
    Write begin_snapshot(volume: &VolumeId, name: &SnapshotName) -> SnapshotId, on volume;
    Read snapshot(id: &SnapshotId) -> Option<SnapshotStatus>, on id;
    Read snapshots(cluster: &ClusterName) -> Vec<SnapshotStatus>, on cluster;
    Write ensure_from(spec: &VolumeSpec, snapshot: &SnapshotId) -> VolumeId, on &spec.member_name;
    Write delete_snapshot(id: &SnapshotId) -> (), on id;
}

forward! {
    IpProvider, "ip", IpCapabilities, |_declared| Limits::NONE;
    Write allocate(owner: &MemberId, zone: Option<&ZoneName>) -> IpAddr, on owner;
    Read status(address: IpAddr) -> Option<AddressStatus>, on &address;
    Write assign(address: IpAddr, node: &NodeName, expected: Option<&NodeName>) -> AddressOutcome,
        on &address;
    Write unassign(address: IpAddr, expected: &NodeName) -> AddressOutcome, on &address;
    Write release(address: IpAddr, owner: &MemberId) -> (), on &address;
    Read list() -> Vec<AddressStatus>, on &"";
}

forward! {
    Orchestrator, "orchestrator", OrchestratorCapabilities, |_declared| Limits::NONE;
    Read nodes() -> Vec<NodeReport>, on &"";
    Write apply(workload: &Workload) -> (), on &workload.service;
    Read tasks(service: &ServiceName) -> Vec<TaskReport>, on service;
    Write remove(service: &ServiceName) -> (), on service;
    Read services() -> BTreeSet<ServiceName>, on &"";
}

fn needs_of(set: &RecordSet) -> Needs {
    match set.kind() {
        RecordKind::Addresses => Needs::Nothing,
        RecordKind::Services => Needs::ServiceRecords,
    }
}
