//! The records of one cluster, by name: which key holds what, in one place.
//!
//! | key (under `PREFIX/CLUSTER`) | record |
//! |---|---|
//! | `format` | [`Format`]: raised only when every live server and agent supports it |
//! | `services/NAME` | [`Service`] |
//! | `revisions/SERVICE_ID/N` | [`SpecRevision`], immutable |
//! | `members/SERVICE/MEMBER` | [`Member`] |
//! | `operations/ID` | [`Operation`]: those under way, and of each service the newest that have ended |
//! | `secrets/SERVICE_ID/NAME` | [`SealedSecret`] |
//! | `blueprints/DIGEST` | the blueprint's files, as the catalog stores them |
//! | `nodes/NODE/record`, `nodes/NODE/status` | [`NodeRecord`], [`NodeStatus`] |
//! | `leases/SHARD` | [`Lease`](crate::lease::Lease) of the servers |
//! | `events/SERVICE_ID/OF/FIRST` | archived events of the service or a member |
//! | `deleted/SERVICE_ID/…` | what a deleted service was, once its name is used again |
//! | `servers/ID` | that a server is there |
//! | `tasks/NODE/MEMBER` | assignments of the process orchestrator |
//! | `folder` | which data folder's cluster it is, in a store that folders could share |
//! | `dns/…`, `ip/…` | state of backends that keep theirs in the store |

mod decoded;
mod nodes;
mod services;

use std::borrow::Borrow;
use std::sync::Arc;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use decoded::Decoded;
use nodes::NodeCache;
pub use nodes::NodeRecords;
pub use services::{ServiceRecords, WithMembers};

use crate::error::Result;
use crate::ids::{ClusterName, MemberName, NodeName, OperationId, Revision, ServiceId, ServiceName};
use crate::metadata::{Key, MetadataDb, Records, Version, Versioned, WriteOutcome};
use crate::model::{Member, NodeRecord, NodeStatus, Operation, SealedSecret, Service, SpecRevision};
use crate::orchestrator::Assignment;
use crate::runtime::Entropy;

/// The format of the whole store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Format {
    /// The format number.
    pub format: u32,
}

/// The records of one cluster.
#[derive(Debug, Clone)]
pub struct Store {
    records: Records,
    cluster: ClusterName,
    nodes: Arc<NodeCache>,
    decoded: Arc<Decoded>,
}

/// How many records one scan asks for.
const PAGE: usize = 500;

/// The first segment of every key.
pub const PREFIX: &str = "steadfast";

impl Store {
    /// The records of `cluster` in `db`.
    ///
    /// # Errors
    /// Never for a parsed cluster name.
    pub fn new(db: Arc<dyn MetadataDb>, entropy: Entropy, cluster: ClusterName) -> Result<Self> {
        let prefix = Key::new([PREFIX, cluster.as_str()]).map_err(|error| {
            crate::Error::new(crate::ErrorKind::Internal, "store", "open", &cluster, error).without_effect()
        })?;
        Ok(Store {
            records: Records::new(db, entropy, prefix),
            cluster,
            nodes: Arc::default(),
            decoded: Arc::default(),
        })
    }

    /// The cluster.
    pub fn cluster(&self) -> &ClusterName {
        &self.cluster
    }

    /// The records, for those who keep their own kinds.
    pub fn records(&self) -> &Records {
        &self.records
    }

    /// The key of a service.
    pub fn service_key(&self, name: &ServiceName) -> Result<Key> {
        self.records.key(["services", name.as_str()])
    }

    /// The key of a member.
    pub fn member_key(&self, service: &ServiceName, member: &MemberName) -> Result<Key> {
        self.records.key(["members", service.as_str(), member.as_str()])
    }

    /// The key of an operation.
    pub fn operation_key(&self, id: &OperationId) -> Result<Key> {
        self.records.key(["operations", id.as_str()])
    }

    /// The key of a spec revision.
    pub fn revision_key(&self, service: &ServiceId, revision: Revision) -> Result<Key> {
        self.records.key(["revisions", service.as_str(), &revision.to_string()])
    }

    /// The key of a node's own record.
    pub fn node_record_key(&self, node: &NodeName) -> Result<Key> {
        self.records.key(["nodes", node.as_str(), "record"])
    }

    /// The key of a node's status.
    pub fn node_status_key(&self, node: &NodeName) -> Result<Key> {
        self.records.key(["nodes", node.as_str(), "status"])
    }

    /// The key of an assignment.
    pub fn assignment_key(&self, node: &NodeName, member: &MemberName) -> Result<Key> {
        self.records.key(["tasks", node.as_str(), member.as_str()])
    }

    /// The key of a secret.
    pub fn secret_key(&self, service: &ServiceId, name: &str) -> Result<Key> {
        self.records.key(["secrets", service.as_str(), name])
    }

    /// A service.
    pub async fn service(&self, name: &ServiceName) -> Result<Option<Versioned<Arc<Service>>>> {
        self.shared(&self.service_key(name)?).await
    }

    /// Every service, by name.
    pub async fn services(&self) -> Result<Vec<Versioned<Service>>> {
        self.all(self.records.key(["services"])?).await
    }

    /// The services whose name begins with `beginning`, which ends in `-`; no others are read.
    pub async fn services_beginning_with(&self, beginning: &str) -> Result<Vec<Service>> {
        const PAGE: usize = 50;
        let prefix = self.records.key(["services"])?;
        let mut after = self.records.key(["services", beginning])?;
        let mut found = Vec::new();
        loop {
            let page = self.records.db().scan(&prefix, Some(&after), PAGE).await?;
            let more = page.more;
            for (key, record) in page.items {
                if !key.segments().last().is_some_and(|name| name.starts_with(beginning)) {
                    return Ok(found);
                }
                found.push(self.records.decode(&key, &record.value)?);
                after = key;
            }
            if !more {
                return Ok(found);
            }
        }
    }

    /// A member.
    pub async fn member(
        &self,
        service: &ServiceName,
        member: &MemberName,
    ) -> Result<Option<Versioned<Arc<Member>>>> {
        self.shared(&self.member_key(service, member)?).await
    }

    /// The members of a service, by name.
    pub async fn members(&self, service: &ServiceName) -> Result<Vec<Versioned<Arc<Member>>>> {
        let mut found = Vec::new();
        let prefix = self.records.key(["members", service.as_str()])?;
        self.records
            .each(&prefix, |key, record| {
                found.push(self.decoded.of(&self.records, &key, record)?);
                Ok(())
            })
            .await?;
        Ok(found)
    }

    /// Every member of the cluster.
    pub async fn all_members(&self) -> Result<Vec<Versioned<Member>>> {
        self.all(self.records.key(["members"])?).await
    }

    /// A spec revision.
    pub async fn revision(&self, service: &ServiceId, revision: Revision) -> Result<Option<SpecRevision>> {
        let found = self.records.get(&self.revision_key(service, revision)?).await?;
        Ok(found.map(|versioned: Versioned<SpecRevision>| versioned.body))
    }

    /// An operation.
    pub async fn operation(&self, id: &OperationId) -> Result<Option<Versioned<Arc<Operation>>>> {
        self.shared(&self.operation_key(id)?).await
    }

    /// Every operation, by id (which begins with its time).
    pub async fn operations(&self) -> Result<Vec<Versioned<Operation>>> {
        self.all(self.records.key(["operations"])?).await
    }

    /// A node's own record.
    pub async fn node_record(&self, node: &NodeName) -> Result<Option<Versioned<NodeRecord>>> {
        self.records.get(&self.node_record_key(node)?).await
    }

    /// A node's status.
    pub async fn node_status(&self, node: &NodeName) -> Result<Option<Versioned<NodeStatus>>> {
        self.records.get(&self.node_status_key(node)?).await
    }

    /// The assignments of a node.
    pub async fn assignments(&self, node: &NodeName) -> Result<Vec<Versioned<Assignment>>> {
        self.all(self.records.key(["tasks", node.as_str()])?).await
    }

    /// A sealed secret of a service.
    pub async fn secret(&self, service: &ServiceId, name: &str) -> Result<Option<SealedSecret>> {
        let found = self.records.get(&self.secret_key(service, name)?).await?;
        Ok(found.map(|versioned: Versioned<SealedSecret>| versioned.body))
    }

    /// The names of a service's secrets, with the secrets.
    pub async fn secrets(&self, service: &ServiceId) -> Result<Vec<(String, SealedSecret)>> {
        let found = self.records.list(&self.records.key(["secrets", service.as_str()])?).await?;
        Ok(found
            .into_iter()
            .filter_map(|(key, versioned)| {
                key.segments().last().map(|name| (name.to_owned(), versioned.body))
            })
            .collect())
    }

    /// Writes what has changed over what was read. Nothing changed writes nothing.
    pub async fn write<T, B>(&self, key: &Key, before: &Versioned<B>, after: &T) -> Result<WriteOutcome>
    where
        T: Serialize + PartialEq + Sync,
        B: Borrow<T> + Sync,
    {
        self.write_over(key, &before.version, before.body.borrow(), after).await
    }

    /// As [`write`](Self::write), for those who keep record and version apart.
    pub async fn write_over<T>(
        &self,
        key: &Key,
        version: &Version,
        before: &T,
        after: &T,
    ) -> Result<WriteOutcome>
    where
        T: Serialize + PartialEq + Sync,
    {
        if before == after {
            return Ok(WriteOutcome::Applied(version.clone()));
        }
        self.records.update(key, after, version).await
    }

    async fn shared<T>(&self, key: &Key) -> Result<Option<Versioned<Arc<T>>>>
    where
        T: DeserializeOwned + Send + Sync + 'static,
    {
        let record = self.records.db().get(key).await?;
        record.map(|record| self.decoded.of(&self.records, key, record)).transpose()
    }

    async fn all<T: DeserializeOwned>(&self, prefix: Key) -> Result<Vec<Versioned<T>>> {
        let found = self.records.list(&prefix).await?;
        Ok(found.into_iter().map(|(_, versioned)| versioned).collect())
    }
}
