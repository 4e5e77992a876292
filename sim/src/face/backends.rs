//! Core's contracts over the models.

use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt as _;
use futures::stream::BoxStream;
use steadfast_core::error::Result;
use steadfast_core::ids::{ClusterName, Incarnation, MemberId, NodeName, VolumeId, ZoneName};
use steadfast_core::ip::{AddressOutcome, AddressStatus, IpCapabilities, IpProvider};
use steadfast_core::metadata::{
    CasOutcome, Hint, Key, MetadataCapabilities, MetadataDb, Page, Precondition, Record, Version,
};
use steadfast_core::planted::{self, Planted};
use steadfast_core::registry::{
    DomainName, NameOutcome, RecordKind, RecordSet, Registry, RegistryCapabilities,
};
use steadfast_core::volume::{
    Reach, VolumeCapabilities, VolumeProvider, VolumeSpec, VolumeStatus, cannot_grow,
};
use steadfast_orchestrator_process::{NodeProver, Proof};

use super::RoleOf;
use crate::hash::{self, Hasher};
use crate::model::profile::ProverKind;
use crate::model::store::MAX_VALUE_BYTES;
use crate::world::{Answer, Ask, Caller};

macro_rules! face {
    ($(#[$doc:meta])* $name:ident, $text:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone)]
        pub struct $name(pub Caller);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str($text)
            }
        }
    };
}

face!(
    /// The store.
    SimDb, "simulated store"
);
face!(
    /// The volumes.
    SimVolumes, "simulated volumes"
);
face!(
    /// The addresses.
    SimIps, "simulated addresses"
);
face!(
    /// The names.
    SimRegistry, "simulated names"
);
face!(
    /// Who proves that nodes are dead.
    SimProver, "simulated prover"
);

fn read<'a>(operation: &'static str, resource: &'a (dyn fmt::Display + Sync)) -> Ask<'a> {
    Ask { operation, resource, writes: false, local: false }
}

fn write<'a>(operation: &'static str, resource: &'a (dyn fmt::Display + Sync)) -> Ask<'a> {
    Ask { writes: true, ..read(operation, resource) }
}

impl Answer for () {}
impl Answer for CasOutcome {
    fn digest(&self) -> u64 {
        match self {
            CasOutcome::Applied(version) => hash::of_text(version.as_str()),
            CasOutcome::Conflict => 0,
        }
    }
}
impl Answer for VolumeId {}
impl Answer for Option<VolumeStatus> {}
impl Answer for IpAddr {}
impl Answer for Option<AddressStatus> {}
impl Answer for AddressOutcome {}
impl Answer for Option<RecordSet> {}
impl Answer for NameOutcome {}
impl Answer for Vec<(Proof, (NodeName, Incarnation))> {}

macro_rules! list {
    ($list:ty) => {
        impl Answer for $list {
            fn can_shorten(&self) -> bool {
                !self.is_empty()
            }

            fn shorten(&mut self) {
                self.truncate(self.len() / 2);
            }
        }
    };
}

list!(Vec<VolumeStatus>);
list!(Vec<AddressStatus>);
list!(Vec<(DomainName, RecordSet)>);

impl Answer for Option<Record> {
    fn digest(&self) -> u64 {
        let mut hasher = Hasher::default();
        if let Some(record) = self {
            hasher.bytes(record.version.as_str().as_bytes());
            hasher.bytes(&record.value);
        }
        hasher.finish()
    }
}

impl Answer for Page {
    fn digest(&self) -> u64 {
        let mut hasher = Hasher::default();
        for (key, record) in &self.items {
            hasher.bytes(key.as_str().as_bytes());
            hasher.bytes(record.version.as_str().as_bytes());
        }
        hasher.word(u64::from(self.more));
        hasher.finish()
    }

    /// A page that is followed by another has an item at least.
    fn can_shorten(&self) -> bool {
        self.items.len() > 1
    }

    fn shorten(&mut self) {
        self.more = true;
        self.items.truncate(self.items.len() / 2);
    }
}

#[async_trait]
impl MetadataDb for SimDb {
    fn capabilities(&self) -> MetadataCapabilities {
        MetadataCapabilities { max_value_bytes: MAX_VALUE_BYTES, watch: true, durable: true }
    }

    async fn get(&self, key: &Key) -> Result<Option<Record>> {
        let own = key.clone();
        self.0.call(read("metadata.get", &RoleOf(key)), move |cloud, _| Ok(cloud.store.get(&own))).await
    }

    async fn put(&self, key: &Key, value: Bytes, precondition: Precondition) -> Result<CasOutcome> {
        let own = key.clone();
        let role = RoleOf(key);
        let ask = write("metadata.put", &role);
        self.0
            .call(ask, move |cloud, now| {
                if planted::is(Planted::NoSwap) {
                    return Ok(cloud.put_blindly(now, &own, &value));
                }
                cloud.put_record(now, &own, &value, &precondition)
            })
            .await
    }

    async fn delete(&self, key: &Key, version: &Version) -> Result<CasOutcome> {
        let (own, version) = (key.clone(), version.clone());
        let role = RoleOf(key);
        let ask = write("metadata.delete", &role);
        self.0.call(ask, move |cloud, _| Ok(cloud.store.delete(&own, &version))).await
    }

    async fn scan(&self, prefix: &Key, after: Option<&Key>, limit: usize) -> Result<Page> {
        let (own, after) = (prefix.clone(), after.cloned());
        // Where lists are taken for whole, pages are small.
        let limit = if planted::is(Planted::FirstPageIsAll) { limit.min(2) } else { limit };
        let role = RoleOf(prefix);
        let ask = read("metadata.scan", &role);
        self.0.call(ask, move |cloud, _| Ok(cloud.store.scan(&own, after.as_ref(), limit))).await
    }

    async fn watch(&self, prefix: &Key) -> Result<BoxStream<'static, Hint>> {
        self.0.call(read("metadata.watch", &RoleOf(prefix)), |_, _| Ok(())).await?;
        // From the answer on; what changed while it was on its way is hinted at as a whole.
        let receiver = self.0.world().watch(&self.0, prefix);
        Ok(futures::stream::iter([Hint::Reset]).chain(receiver).boxed())
    }
}

/// A volume by meaning: without the number it was made as.
pub(super) struct VolumeRole<'a>(pub(super) &'a VolumeId);

impl fmt::Display for VolumeRole<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = self.0.as_str();
        let role = text.strip_prefix("vol-").and_then(|rest| rest.split_once('-')).map(|(_, role)| role);
        f.write_str(role.unwrap_or(text))
    }
}

impl SimVolumes {
    fn asked(&self, what: &'static str, id: &VolumeId, from: Option<&NodeName>) {
        self.0.world().act(|cloud, now| {
            if let Some(volume) = cloud.volumes.get(id) {
                let member = volume.status.spec.member_name.clone();
                cloud.note_asked(now, self.0.actor(), what, member, from);
            }
        });
    }
}

#[async_trait]
impl VolumeProvider for SimVolumes {
    fn capabilities(&self) -> VolumeCapabilities {
        self.0.world().look(|state| {
            let profile = &state.cloud.profile.volumes;
            VolumeCapabilities {
                exclusivity: profile.exclusivity,
                reach: match (profile.on_nodes, profile.zonal) {
                    (true, _) => Reach::Node,
                    (false, true) => Reach::Zone,
                    (false, false) => Reach::Cluster,
                },
                attach_limit: profile.attach_limit,
                grow: false,
                snapshot: false,
            }
        })
    }

    async fn ensure(&self, spec: &VolumeSpec) -> Result<VolumeId> {
        let own = spec.clone();
        let ask = write("volume.ensure", &spec.member_name);
        self.0
            .call(ask, move |cloud, now| {
                if planted::is(Planted::VolumeWithoutToken) {
                    cloud.forget_token(&own);
                }
                cloud.ensure_volume(now, &own)
            })
            .await
    }

    async fn describe(&self, id: &VolumeId) -> Result<Option<VolumeStatus>> {
        let (own, by) = (id.clone(), self.0.machine().cloned());
        let role = VolumeRole(id);
        let ask = read("volume.describe", &role);
        self.0.call(ask, move |cloud, _| cloud.look_at_volume(&own, by.as_ref())).await
    }

    async fn list(&self, cluster: &ClusterName) -> Result<Vec<VolumeStatus>> {
        let own = cluster.clone();
        self.0.call(read("volume.list", &""), move |cloud, _| Ok(cloud.list_volumes(&own))).await
    }

    async fn begin_attach(&self, id: &VolumeId, node: &NodeName) -> Result<()> {
        let (own, node) = (id.clone(), node.clone());
        let role = VolumeRole(id);
        let ask = write("volume.begin_attach", &role);
        self.asked("begin_attach", id, None);
        self.0.call(ask, move |cloud, now| cloud.begin_attach(now, &own, &node)).await
    }

    async fn begin_detach(&self, id: &VolumeId, expected: &NodeName) -> Result<()> {
        let (own, expected) = (id.clone(), expected.clone());
        let role = VolumeRole(id);
        let ask = write("volume.begin_detach", &role);
        self.asked("begin_detach", id, Some(&expected));
        self.0.call(ask, move |cloud, now| cloud.begin_detach(now, &own, &expected)).await
    }

    async fn begin_grow(&self, id: &VolumeId, _size_bytes: u64) -> Result<()> {
        let (own, role) = (id.clone(), VolumeRole(id));
        let refusal = cannot_grow(self, &own);
        self.0.call(write("volume.begin_grow", &role), move |_, _| Err(refusal.clone())).await
    }

    async fn delete(&self, id: &VolumeId) -> Result<()> {
        let own = id.clone();
        let role = VolumeRole(id);
        let ask = write("volume.delete", &role);
        self.0.call(ask, move |cloud, now| cloud.delete_volume(now, &own)).await
    }

    async fn abandon(&self, id: &VolumeId) -> Result<()> {
        let own = id.clone();
        let role = VolumeRole(id);
        let ask = write("volume.abandon", &role);
        self.0.call(ask, move |cloud, now| cloud.abandon_volume(now, &own)).await
    }
}

#[async_trait]
impl IpProvider for SimIps {
    fn capabilities(&self) -> IpCapabilities {
        let per_node_limit = self.0.world().look(|state| state.cloud.profile.addresses_per_node);
        IpCapabilities { zonal: false, per_node_limit }
    }

    async fn allocate(&self, owner: &MemberId, _zone: Option<&ZoneName>) -> Result<IpAddr> {
        let own = owner.clone();
        self.0.call(write("ip.allocate", &"*"), move |cloud, _| Ok(cloud.allocate_address(&own))).await
    }

    async fn status(&self, address: IpAddr) -> Result<Option<AddressStatus>> {
        self.0.call(read("ip.status", &address), move |cloud, _| Ok(cloud.ips.status(address))).await
    }

    async fn assign(
        &self,
        address: IpAddr,
        node: &NodeName,
        expected: Option<&NodeName>,
    ) -> Result<AddressOutcome> {
        let (node, expected) = (node.clone(), expected.cloned());
        let ask = write("ip.assign", &address);
        self.0.world().act(|cloud, now| {
            let owner = cloud.ips.status(address).map(|status| status.owner);
            let volume =
                cloud.volumes.all().find(|volume| Some(&volume.status.spec.member) == owner.as_ref());
            if let Some(member) = volume.map(|volume| volume.status.spec.member_name.clone()) {
                cloud.note_asked(now, self.0.actor(), "assign", member, expected.as_ref());
            }
        });
        self.0.call(ask, move |cloud, now| cloud.assign_address(now, address, &node, expected.as_ref())).await
    }

    async fn unassign(&self, address: IpAddr, expected: &NodeName) -> Result<AddressOutcome> {
        let expected = expected.clone();
        let ask = write("ip.unassign", &address);
        self.0.call(ask, move |cloud, now| Ok(cloud.unassign_address(now, address, &expected))).await
    }

    async fn release(&self, address: IpAddr, owner: &MemberId) -> Result<()> {
        let owner = owner.clone();
        let ask = write("ip.release", &address);
        self.0.call(ask, move |cloud, _| cloud.release_address(address, &owner)).await
    }

    async fn list(&self) -> Result<Vec<AddressStatus>> {
        self.0.call(read("ip.list", &""), |cloud, _| Ok(cloud.ips.list())).await
    }
}

#[async_trait]
impl Registry for SimRegistry {
    fn capabilities(&self) -> RegistryCapabilities {
        let ttl = self.0.world().look(|state| state.cloud.profile.ttl_ms);
        RegistryCapabilities { services: true, ttl: Duration::from_millis(ttl) }
    }

    async fn ensure_zone(&self, zone: &DomainName) -> Result<()> {
        let own = zone.clone();
        let ask = write("registry.ensure_zone", zone);
        self.0
            .call(ask, move |cloud, _| {
                cloud.dns.ensure_zone(&own);
                Ok(())
            })
            .await
    }

    async fn resolve(&self, name: &DomainName, kind: RecordKind) -> Result<Option<RecordSet>> {
        let own = name.clone();
        self.0.call(read("registry.resolve", name), move |cloud, _| Ok(cloud.dns.resolve(&own, kind))).await
    }

    async fn upsert(
        &self,
        name: &DomainName,
        set: &RecordSet,
        expected: Option<&RecordSet>,
    ) -> Result<NameOutcome> {
        let (own, set, expected) = (name.clone(), set.clone(), expected.cloned());
        let ask = write("registry.upsert", name);
        let before = self.0.world().look(|state| state.cloud.dns.changes(name, set.kind()));
        self.0
            .call(ask, move |cloud, now| {
                let (dns, kind) = (&cloud.dns, set.kind());
                let (expected, before) = if planted::is(Planted::StaleName) {
                    (dns.resolve(&own, kind), dns.changes(&own, kind))
                } else {
                    (expected.clone(), before)
                };
                cloud.upsert_name(now, &own, &set, expected.as_ref(), before)
            })
            .await
    }

    async fn remove(&self, name: &DomainName, expected: &RecordSet) -> Result<NameOutcome> {
        let (own, expected) = (name.clone(), expected.clone());
        let ask = write("registry.remove", name);
        self.0.call(ask, move |cloud, now| Ok(cloud.remove_name(now, &own, &expected))).await
    }

    async fn records(&self, zone: &DomainName) -> Result<Vec<(DomainName, RecordSet)>> {
        let own = zone.clone();
        self.0.call(read("registry.records", zone), move |cloud, _| Ok(cloud.dns.records(&own))).await
    }
}

#[async_trait]
impl NodeProver for SimProver {
    fn proves(&self) -> bool {
        self.0.world().look(|state| state.cloud.profile.prover != ProverKind::Nobody)
    }

    fn is_cheap(&self) -> bool {
        self.0.world().look(|state| state.cloud.profile.prover == ProverKind::Kernel)
    }

    async fn prove(&self, lives: &[(&NodeName, &Incarnation)]) -> Vec<Proof> {
        let own: Vec<_> = lives.iter().map(|(node, life)| ((*node).clone(), (*life).clone())).collect();
        let asked = lives.len();
        // Of one node, or of whatever there is.
        let one =
            own.first().filter(|_| asked == 1).map_or_else(|| "*".to_owned(), |(node, _)| node.to_string());
        let told = self.0.call(read("prover.prove", &one), move |cloud, now| {
            let proof = |(node, life): &(NodeName, Incarnation)| match cloud.is_node_dead(now, node, life) {
                Some(true) => Proof::Dead,
                Some(false) => Proof::Alive,
                None => Proof::Unknown,
            };
            Ok(own.iter().map(|asked| (proof(asked), asked.clone())).collect::<Vec<_>>())
        });
        let told = told.await.unwrap_or_default();
        // An earlier answer is about the lives that were asked about then: of a later one it says nothing.
        let about = |(node, life): &(&NodeName, &Incarnation)| {
            let of_life = told.iter().find(|(_, (of, its))| (of, its) == (*node, *life));
            of_life.map_or(Proof::Unknown, |(proof, _)| *proof)
        };
        lives.iter().map(about).collect()
    }
}
