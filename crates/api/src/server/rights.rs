//! What a node may do in the store: read what it needs, write what is its own.
//!
//! | keys of the cluster | read | write |
//! |---|---|---|
//! | `secrets/…` | no | no |
//! | `nodes/SELF/record` | yes | put, with what operators have said of the node as it is |
//! | `nodes/SELF/…` | yes | yes |
//! | `members/…` | yes | update where it is placed, holds or has held unreleased; only what a claim changes |
//! | `ip/…`, `dns/names/…`, `volumes/…` | yes | yes: claims move addresses, names and what nodes' disks have |
//! | everything else | yes | no |

use bytes::Bytes;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use steadfast_core::ids::{ClusterName, NodeName};
use steadfast_core::metadata::{Key, Precondition, Record};
use steadfast_core::model::{Member, NodeRecord};
use steadfast_core::store::PREFIX;
use steadfast_core::{Error, ErrorKind, Result};

/// The rights of one node in one cluster.
#[derive(Debug)]
pub(crate) struct NodeRights<'a> {
    pub(crate) cluster: &'a ClusterName,
    pub(crate) node: &'a NodeName,
}

/// What a write needs to be allowed.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum WriteRight {
    /// Nothing more.
    Granted,
    /// A look at the stored member, and at the new one.
    AsClaim,
    /// A look at the node's own record as it is stored, and at the new one.
    AsRegistration,
}

impl NodeRights<'_> {
    /// Whether the node may read `key`, or everything under it.
    pub(crate) fn check_read(&self, operation: &'static str, key: &Key) -> Result<()> {
        match self.inside(key).first() {
            Some(&"secrets") => Err(self.denied(operation, key, "secrets are delivered to holders only")),
            Some(_) => Ok(()),
            None => Err(self.denied(operation, key, "it is not within the node's cluster")),
        }
    }

    /// Whether the node may write `key`, as far as the key tells.
    pub(crate) fn check_write(&self, operation: &'static str, key: &Key) -> Result<WriteRight> {
        match self.inside(key).as_slice() {
            ["nodes", node, "record"] if *node == self.node.as_str() && operation == "put" => {
                Ok(WriteRight::AsRegistration)
            }
            ["nodes", node, "record"] if *node == self.node.as_str() => {
                Err(self.denied(operation, key, "what operators have said of it would be forgotten"))
            }
            ["nodes", node, _, ..] if *node == self.node.as_str() => Ok(WriteRight::Granted),
            ["ip" | "volumes", _, ..] | ["dns", "names", _, ..] => Ok(WriteRight::Granted),
            ["members", _, _] if operation == "put" => Ok(WriteRight::AsClaim),
            _ => Err(self.denied(operation, key, "it is not the node's own")),
        }
    }

    /// Whether the node may write `value` over `stored`, a member's record.
    ///
    /// A claim, a step of it or a release: the node has a part in what is stored, and changes only what
    /// claims change. `Ok(false)` says that the precondition cannot hold any more.
    pub(crate) fn check_claim(
        &self,
        key: &Key,
        stored: Option<&Record>,
        precondition: &Precondition,
        value: &Bytes,
    ) -> Result<bool> {
        let (Some(stored), Precondition::Version(version)) = (stored, precondition) else {
            return Err(self.denied("put", key, "nodes make no members"));
        };
        if &stored.version != version {
            // Versions are never reused: what is expected is gone for good.
            return Ok(false);
        }
        let before: Member = self.body(key, &stored.value, "a member's record")?;
        let after: Member = self.body(key, value, "a member's record")?;
        let mine = |member: &Member| {
            member.placed_on.as_ref() == Some(self.node)
                || member.holder.as_ref().is_some_and(|holder| &holder.node == self.node)
                || member.unreleased.iter().any(|holder| &holder.node == self.node)
        };
        if !mine(&before) {
            return Err(self.denied("put", key, "the node neither holds the member nor shall"));
        }
        self.check_change(key, &before, &after)?;
        Ok(true)
    }

    /// Whether the node may write `value` over `stored`, its own record.
    ///
    /// It says which life of it has begun, where and with what; whether a life is over and whether it is to be emptied
    /// is for operators to say. `Ok(false)` says that the precondition cannot hold any more.
    pub(crate) fn check_registration(
        &self,
        key: &Key,
        stored: Option<&Record>,
        precondition: &Precondition,
        value: &Bytes,
    ) -> Result<bool> {
        let said = |record: Option<&NodeRecord>| {
            record.map_or((None, false), |record| (record.confirmed_dead.clone(), record.draining))
        };
        let before = match (stored, precondition) {
            (None, Precondition::Absent) => None,
            (Some(stored), Precondition::Version(version)) if &stored.version == version => {
                Some(self.body::<NodeRecord>(key, &stored.value, "a node's record")?)
            }
            _ => return Ok(false),
        };
        let after: NodeRecord = self.body(key, value, "a node's record")?;
        if &after.node != self.node {
            return Err(self.denied("put", key, "it changes whose record it is"));
        }
        if said(Some(&after)) != said(before.as_ref()) {
            return Err(self.denied("put", key, "it changes what operators have said of the node"));
        }
        Ok(true)
    }

    fn check_change(&self, key: &Key, before: &Member, after: &Member) -> Result<()> {
        let identity = |member: &Member| {
            (
                member.id.clone(),
                member.name.clone(),
                member.service_id.clone(),
                member.service.clone(),
                member.group.clone(),
                member.ordinal,
            )
        };
        let orders =
            |member: &Member| (member.placed_on.clone(), member.run, member.generation, member.revision);
        if identity(before) != identity(after) {
            return Err(self.denied("put", key, "it changes whose record it is"));
        }
        if orders(before) != orders(after) {
            return Err(self.denied("put", key, "it changes what the control plane decides"));
        }
        if after.epoch < before.epoch {
            return Err(self.denied("put", key, "it lowers the epoch"));
        }
        let own = |node: &NodeName| node == self.node;
        let same_holder = after.holder == before.holder;
        // A claim that was given back has no holder; only the last one can have given it back.
        let gives_back = after.holder.is_none() && before.holder.as_ref().is_some_and(|was| own(&was.node));
        let takes = after.holder.as_ref().is_some_and(|holder| own(&holder.node));
        if !(same_holder || gives_back || takes) {
            return Err(self.denied("put", key, "it names another node as the holder"));
        }
        let foreign =
            after.unreleased.iter().any(|entry| !own(&entry.node) && !before.unreleased.contains(entry));
        if foreign {
            return Err(self.denied("put", key, "it adds another node to the unreleased"));
        }
        Ok(())
    }

    /// The segments below the cluster's prefix; none if the key lies elsewhere.
    fn inside<'k>(&self, key: &'k Key) -> Vec<&'k str> {
        let mut segments = key.segments();
        if segments.next() == Some(PREFIX) && segments.next() == Some(self.cluster.as_str()) {
            segments.collect()
        } else {
            Vec::new()
        }
    }

    /// What a record says, which is to be `what`.
    fn body<T: DeserializeOwned>(&self, key: &Key, value: &[u8], what: &str) -> Result<T> {
        #[derive(Deserialize)]
        struct Envelope<T> {
            body: T,
        }
        serde_json::from_slice::<Envelope<T>>(value)
            .map(|envelope| envelope.body)
            .map_err(|error| self.denied("put", key, &format!("it is not {what}: {error}")))
    }

    fn denied(&self, operation: &'static str, key: &Key, why: &str) -> Error {
        let message = format!("node {} may not: {why}", self.node);
        Error::new(ErrorKind::Denied, "api", operation, key, message).without_effect()
    }
}
