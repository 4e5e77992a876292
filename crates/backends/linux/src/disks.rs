//! Volumes on the nodes' own disks. A volume lies on the disk of the node that it was first attached to, and can be
//! attached to no other: while that node is away nobody has it.
//!
//! Which volumes there are, and on whose disk each is, is in the metadata store (`volumes/MEMBER/NAME`), so that every
//! server can tell, whichever nodes are away. What a volume is on its disk is the matter of another provider, which only
//! the node's own agent has: servers record, and the agent carries out ([`DiskVolumes::keep`]). So a volume that is to be
//! detached or removed on a node that is away stays on its way until that node says that it is done.
//!
//! A volume is made when it is first attached. `made` is recorded after that and before anybody may use it: from then on
//! a disk without it is not its disk, or has lost it, and nothing is made anew. Nobody but the kernel of that one machine
//! can write to it, so its lock keeps the old writer out ([`Exclusivity::Storage`]) also among several machines.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use steadfast_core::ids::{ClusterName, MemberId, NodeName, VolumeId, VolumeName};
use steadfast_core::metadata::{Key, Records, Version, Versioned, WriteOutcome};
use steadfast_core::volume::{
    Attachment, Exclusivity, Reach, VolumeCapabilities, VolumeProvider, VolumeSpec, VolumeStatus,
    cannot_grow, give_back,
};
use steadfast_core::{Environment, Error, ErrorKind, Result};

use crate::rounds;
use crate::turns::Turns;

const VOLUMES: &str = "volumes";

/// Volumes on the disks of nodes.
#[derive(Debug, Clone)]
pub struct DiskVolumes {
    records: Records,
    here: Option<Here>,
}

/// The node on which this runs.
#[derive(Debug, Clone)]
struct Here {
    node: NodeName,
    disk: Arc<dyn VolumeProvider>,
    environment: Environment,
    /// Nothing but this process touches the disk.
    turns: Turns<VolumeId>,
}

/// `volumes/MEMBER/NAME`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct VolumeRecord {
    spec: VolumeSpec,
    /// Which volume of that member and name it is: those before it are no more.
    number: u32,
    /// The node whose disk it lies on; none until it was first attached.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    node: Option<NodeName>,
    /// What it is called on that disk; none until it is there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    made: Option<VolumeId>,
    attachment: Attachment,
    /// Whether it is deleted. The record stays for as long as something of it may be left on a disk.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    deleted: bool,
    /// The deleted ones that nodes have not removed from their disks yet.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    left: Vec<Left>,
    /// Fields of a newer version, kept as they are.
    #[serde(flatten)]
    extra: Map<String, Value>,
}

/// A deleted volume that may still be on a disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Left {
    node: NodeName,
    number: u32,
}

impl VolumeRecord {
    fn new(spec: &VolumeSpec, number: u32) -> Self {
        VolumeRecord {
            spec: spec.clone(),
            number,
            node: None,
            made: None,
            attachment: Attachment::Free,
            deleted: false,
            left: Vec::new(),
            extra: Map::new(),
        }
    }

    /// Whether nothing says any more that there was such a volume.
    fn is_over(&self) -> bool {
        self.deleted && self.left.is_empty()
    }
}

/// What a call refuses, and why.
type Refusal = (ErrorKind, String);

impl DiskVolumes {
    /// The volumes as a server sees them: it records, and touches no disk.
    pub fn recorded(records: Records) -> Self {
        DiskVolumes { records, here: None }
    }

    /// The volumes as the agent of `node` has them: those of its own are on `disk`, which is of this machine alone.
    pub fn on(
        records: Records,
        environment: Environment,
        node: NodeName,
        disk: Arc<dyn VolumeProvider>,
    ) -> Self {
        DiskVolumes { records, here: Some(Here { node, disk, environment, turns: Turns::default() }) }
    }

    /// Keeps this node's disk in line with the records until the process stops.
    pub fn keep(&self) {
        let Some(here) = &self.here else { return };
        let this = self.clone();
        rounds::keep(&here.environment, "volumes", "this node's disk is left as it is", move || {
            let this = this.clone();
            async move { this.settle().await }
        });
    }

    /// Does once what others have recorded that is to be done on this node's disk.
    ///
    /// # Errors
    /// What the store or the disk says, after everything else was tried.
    pub async fn settle(&self) -> Result<()> {
        let Some(here) = &self.here else { return Ok(()) };
        let mut failed = None;
        for (key, found) in self.records.list::<VolumeRecord>(&self.records.key([VOLUMES])?).await? {
            let record = &found.body;
            let id = self.id_of(&record.spec, record.number)?;
            if record.attachment.holder() == Some(&here.node) {
                failed = failed.or(self.settle_one(here, &id).await.err());
            }
            if record.left.iter().any(|left| left.node == here.node) {
                failed = failed.or(self.sweep(here, &key).await.err());
            }
        }
        failed.map_or(Ok(()), Err)
    }

    /// Goes on with what is on its way to this node, or off it.
    async fn settle_one(&self, here: &Here, id: &VolumeId) -> Result<()> {
        let turn = here.turns.of(id.clone());
        let _turn = turn.lock().await;
        // Read in turn: what was listed may have changed.
        let Some((_, found)) = self.find(id).await? else { return Ok(()) };
        match &found.body.attachment {
            Attachment::Attaching(node) if *node == here.node => self.bring(here, id).await,
            Attachment::Detaching(node) if *node == here.node => self.put_off(Some(here), id, node).await,
            _ => Ok(()),
        }
    }

    /// Removes from this node's disk what is left there of deleted volumes.
    async fn sweep(&self, here: &Here, key: &Key) -> Result<()> {
        loop {
            let Some(found) = self.records.get::<VolumeRecord>(key).await? else { return Ok(()) };
            let mine = found.body.left.iter().find(|left| left.node == here.node);
            let Some(left) = mine.cloned() else { return Ok(()) };
            let spec = on_disk(&found.body.spec, left.number)?;
            for status in here.disk.list(&spec.cluster).await? {
                if status.spec.member == spec.member && status.spec.name == spec.name {
                    give_back(&*here.disk, &status.id, &here.node).await?;
                    here.disk.delete(&status.id).await?;
                }
            }
            let mut next = found.body.clone();
            next.left.retain(|other| *other != left);
            if let WriteOutcome::Applied(_) = self.replace(key, &found.version, &next).await? {
                tracing::info!(member = %spec.member_name, volume = %spec.name, "a deleted volume is off this disk");
            }
        }
    }

    /// Has the volume on this node's disk, and attached there, as is recorded already. In the volume's turn.
    async fn bring(&self, here: &Here, id: &VolumeId) -> Result<()> {
        let Some((_, found)) = self.find(id).await? else { return Err(self.missing("attach", id)) };
        let VolumeRecord { spec, number, attachment, made, .. } = found.body;
        if attachment.holder() != Some(&here.node) {
            return Ok(());
        }
        let made = match made {
            Some(made) => made,
            None => here.disk.ensure(&on_disk(&spec, number)?).await?,
        };
        here.disk.begin_attach(&made, &here.node).await.map_err(|error| match error.kind() {
            ErrorKind::NotFound => self.lost("attach", id, here),
            _ => error,
        })?;
        let there = here.disk.describe(&made).await?;
        if there.is_none_or(|status| status.attachment != Attachment::Attached(here.node.clone())) {
            return Ok(());
        }
        let attaching = Attachment::Attaching(here.node.clone());
        self.change("attach", id, |record, _| {
            let mut next = VolumeRecord { made: Some(made.clone()), ..record.clone() };
            if record.attachment == attaching {
                next.attachment = Attachment::Attached(here.node.clone());
            }
            Ok(next)
        })
        .await
    }

    /// Begins to give a volume back from `expected`, and ends it if that is this node and nobody uses it. In the
    /// volume's turn.
    async fn put_off(&self, here: Option<&Here>, id: &VolumeId, expected: &NodeName) -> Result<()> {
        let mut gone = here.is_some();
        if let Some(here) = here
            && let Some((_, found)) = self.find(id).await?
            && found.body.attachment.holder() == Some(expected)
            && let Some(made) = &found.body.made
        {
            give_back(&*here.disk, made, expected).await?;
            let there = here.disk.describe(made).await?;
            gone = there.is_none_or(|there| there.attachment == Attachment::Free);
        }
        self.change("detach", id, |record, _| {
            let Some(holder) = record.attachment.holder() else { return Ok(record.clone()) };
            if holder != expected {
                return Err((ErrorKind::Stale, format!("it is with {holder}, not with {expected}")));
            }
            // Only that node can say that nothing of it is in use any more.
            let attachment = if gone { Attachment::Free } else { Attachment::Detaching(expected.clone()) };
            Ok(VolumeRecord { attachment, ..record.clone() })
        })
        .await
    }

    /// A volume as it is recorded, and as it is on this node's disk if that is where it lies.
    async fn seen(&self, record: &VolumeRecord) -> Result<VolumeStatus> {
        let recorded = self.status_of(record)?;
        let here = self.here.as_ref().filter(|here| record.node.as_ref() == Some(&here.node));
        let (Some(here), Some(made)) = (here, &record.made) else { return Ok(recorded) };
        let Some(there) = here.disk.describe(made).await? else {
            return Err(self.lost("describe", &recorded.id, here));
        };
        let node = || here.node.clone();
        let attachment = match (&record.attachment, there.attachment) {
            // Given back there, or never mounted since the machine has started: to be attached again.
            (Attachment::Attached(_), Attachment::Free) => Attachment::Free,
            (Attachment::Attached(_), Attachment::Attaching(_)) => Attachment::Attaching(node()),
            (Attachment::Attached(_), Attachment::Detaching(_)) => Attachment::Detaching(node()),
            (Attachment::Free, _) if there.in_use => Attachment::Detaching(node()),
            (other, _) => other.clone(),
        };
        let VolumeStatus { in_use, device, lock, .. } = there;
        Ok(VolumeStatus { attachment, in_use, device, lock, ..recorded })
    }

    fn status_of(&self, record: &VolumeRecord) -> Result<VolumeStatus> {
        Ok(VolumeStatus {
            id: self.id_of(&record.spec, record.number)?,
            spec: record.spec.clone(),
            attachment: record.attachment.clone(),
            node: record.node.clone(),
            in_use: false,
            device: None,
            lock: None,
        })
    }

    /// Changes the record of a volume as `decide` says, given also where the volume is seen to be.
    async fn change(
        &self,
        operation: &'static str,
        id: &VolumeId,
        decide: impl Fn(&VolumeRecord, &Attachment) -> Result<VolumeRecord, Refusal> + Send,
    ) -> Result<()> {
        loop {
            let Some((key, found)) = self.find(id).await? else { return Err(self.missing(operation, id)) };
            let present = match self.seen(&found.body).await {
                // What is not there is used by nobody.
                Err(error) if error.kind() == ErrorKind::Corrupt => Attachment::Free,
                seen => seen?.attachment,
            };
            let next = decide(&found.body, &present)
                .map_err(|(kind, message)| Error::new(kind, self, operation, id, message).without_effect())?;
            if next == found.body {
                return Ok(());
            }
            if let WriteOutcome::Applied(_) = self.replace(&key, &found.version, &next).await? {
                return Ok(());
            }
        }
    }

    /// Writes a record over the version that was read; one that says nothing any more is removed.
    async fn replace(&self, key: &Key, version: &Version, next: &VolumeRecord) -> Result<WriteOutcome> {
        if next.is_over() {
            return self.records.delete(key, version).await;
        }
        self.records.update(key, next, version).await
    }

    /// The record of a volume, if there is that very volume.
    async fn find(&self, id: &VolumeId) -> Result<Option<(Key, Versioned<VolumeRecord>)>> {
        let Some((member, name, number)) = parts(id) else { return Ok(None) };
        let key = self.key(&member, &name)?;
        let found = self.records.get::<VolumeRecord>(&key).await?;
        let found = found.filter(|found| found.body.number == number && !found.body.deleted);
        Ok(found.map(|found| (key, found)))
    }

    fn key(&self, member: &MemberId, name: &VolumeName) -> Result<Key> {
        self.records.key([VOLUMES, member.as_str(), name.as_str()])
    }

    /// The identifier of a volume: it follows from whose it is, and says which one of these.
    fn id_of(&self, spec: &VolumeSpec, number: u32) -> Result<VolumeId> {
        let VolumeSpec { member, name, .. } = spec;
        let text = if number == 1 { format!("{member}.{name}") } else { format!("{member}.{name}@{number}") };
        text.parse()
            .map_err(|error| Error::new(ErrorKind::Internal, self, "name", member, error).without_effect())
    }

    fn missing(&self, operation: &'static str, id: &VolumeId) -> Error {
        Error::new(ErrorKind::NotFound, self, operation, id, "it does not exist").without_effect()
    }

    fn lost(&self, operation: &'static str, id: &VolumeId, here: &Here) -> Error {
        let message = format!(
            "VolumeCorrupt: volume {id} was made on the disk of {}, and {} does not have it: mount the disk that has",
            here.node, here.disk
        );
        Error::new(ErrorKind::Corrupt, self, operation, id, message).without_effect()
    }
}

#[async_trait]
impl VolumeProvider for DiskVolumes {
    fn capabilities(&self) -> VolumeCapabilities {
        VolumeCapabilities {
            exclusivity: Exclusivity::Storage,
            reach: Reach::Node,
            attach_limit: None,
            grow: false,
            snapshot: false,
        }
    }

    async fn ensure(&self, spec: &VolumeSpec) -> Result<VolumeId> {
        let key = self.key(&spec.member, &spec.name)?;
        loop {
            let (outcome, number) = match self.records.get::<VolumeRecord>(&key).await? {
                None => (self.records.create(&key, &VolumeRecord::new(spec, 1)).await?, 1),
                Some(Versioned { version, body }) if body.deleted => {
                    let number = body.number + 1;
                    let next = VolumeRecord { left: body.left, ..VolumeRecord::new(spec, number) };
                    (self.records.update(&key, &next, &version).await?, number)
                }
                Some(Versioned { body, .. }) if body.spec.cluster != spec.cluster => {
                    let message = format!("it belongs to the cluster {}", body.spec.cluster);
                    let kind = ErrorKind::AlreadyExists;
                    return Err(Error::new(kind, self, "ensure", &spec.member, message).without_effect());
                }
                Some(Versioned { body, .. }) => return self.id_of(spec, body.number),
            };
            if let WriteOutcome::Applied(_) = outcome {
                return self.id_of(spec, number);
            }
        }
    }

    async fn describe(&self, id: &VolumeId) -> Result<Option<VolumeStatus>> {
        match self.find(id).await? {
            Some((_, found)) => self.seen(&found.body).await.map(Some),
            None => Ok(None),
        }
    }

    async fn list(&self, cluster: &ClusterName) -> Result<Vec<VolumeStatus>> {
        let mut all = Vec::new();
        for (_, Versioned { body: record, .. }) in
            self.records.list::<VolumeRecord>(&self.records.key([VOLUMES])?).await?
        {
            if record.deleted || record.spec.cluster != *cluster {
                continue;
            }
            // One that its disk does not have is there by record, and whoever has to attach it says what is wrong.
            all.push(match self.seen(&record).await {
                Err(error) if error.kind() == ErrorKind::Corrupt => self.status_of(&record)?,
                seen => seen?,
            });
        }
        Ok(all)
    }

    async fn begin_attach(&self, id: &VolumeId, node: &NodeName) -> Result<()> {
        let here = self.here.as_ref().filter(|here| here.node == *node);
        let turn = here.map(|here| here.turns.of(id.clone()));
        let _turn = match &turn {
            Some(turn) => Some(turn.lock().await),
            None => None,
        };
        self.change("attach", id, |record, present| match present {
            Attachment::Attaching(holder) | Attachment::Attached(holder) if holder == node => {
                Ok(record.clone())
            }
            Attachment::Attaching(holder) | Attachment::Attached(holder) => {
                Err((ErrorKind::Busy, format!("it is attached to {holder}")))
            }
            Attachment::Detaching(holder) => {
                Err((ErrorKind::Busy, format!("it is on its way off {holder}, which may still write")))
            }
            Attachment::Free => match record.node.as_ref().filter(|own| *own != node) {
                Some(own) => {
                    Err((ErrorKind::Invalid, format!("it is on the disk of {own}, and not of {node}")))
                }
                None => {
                    let attachment = Attachment::Attaching(node.clone());
                    Ok(VolumeRecord { node: Some(node.clone()), attachment, ..record.clone() })
                }
            },
        })
        .await?;
        match here {
            Some(here) => self.bring(here, id).await,
            // Its agent does it.
            None => Ok(()),
        }
    }

    async fn begin_detach(&self, id: &VolumeId, expected: &NodeName) -> Result<()> {
        let Some(here) = self.here.as_ref().filter(|here| here.node == *expected) else {
            return self.put_off(None, id, expected).await;
        };
        let turn = here.turns.of(id.clone());
        let _turn = turn.lock().await;
        self.put_off(Some(here), id, expected).await
    }

    async fn begin_grow(&self, id: &VolumeId, _size_bytes: u64) -> Result<()> {
        Err(cannot_grow(self, id))
    }

    async fn delete(&self, id: &VolumeId) -> Result<()> {
        let deleted = self.change("delete", id, |record, present| {
            if let Some(holder) = present.holder() {
                return Err((ErrorKind::Busy, format!("it is with {holder}: detach it first")));
            }
            let mut left = record.left.clone();
            left.extend(record.node.iter().map(|node| Left { node: node.clone(), number: record.number }));
            Ok(VolumeRecord { deleted: true, left, ..record.clone() })
        });
        match deleted.await {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            done => done,
        }
    }

    async fn abandon(&self, id: &VolumeId) -> Result<()> {
        let abandoned = self.change("abandon", id, |record, _| {
            let next = VolumeRecord::new(&record.spec, record.number + 1);
            Ok(VolumeRecord { left: record.left.clone(), ..next })
        });
        match abandoned.await {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            done => done,
        }
    }
}

impl fmt::Display for DiskVolumes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.here {
            Some(here) => write!(f, "volumes on the disk of {}: {}", here.node, here.disk),
            None => f.write_str("volumes on the disks of nodes"),
        }
    }
}

/// Whose volume an identifier stands for, and which one of these; none for what is no identifier of ours.
fn parts(id: &VolumeId) -> Option<(MemberId, VolumeName, u32)> {
    let (member, rest) = id.as_str().rsplit_once('.')?;
    let (name, number) = match rest.split_once('@') {
        Some((name, number)) => (name, number.parse().ok()?),
        None => (rest, 1),
    };
    Some((member.parse().ok()?, name.parse().ok()?, number))
}

/// What a volume is made as on its disk, where a deleted one of the same member and name may still lie.
fn on_disk(spec: &VolumeSpec, number: u32) -> Result<VolumeSpec> {
    if number == 1 {
        return Ok(spec.clone());
    }
    let member = format!("{}@{number}", spec.member).parse().map_err(|error| {
        Error::new(ErrorKind::Internal, "volumes on disks", "name", &spec.member, error).without_effect()
    })?;
    Ok(VolumeSpec { member, ..spec.clone() })
}
