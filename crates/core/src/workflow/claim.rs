//! The claim: how a member moves to a node, run by the agent on that node and only there.
//!
//! ```text
//! evidence  every unreleased holder but ourselves is proven unable to write, else Waiting{FenceUnproven}
//! epoch     CAS: epoch + 1, we are the holder and among the unreleased, phase Claiming
//! volumes   detach from the expected holder, attach here
//! address   take it from the expected holder
//! name      conditional change of the DNS record
//! Prepared  CAS: earlier holders are dropped from `unreleased`, with their evidence in the event
//! ```
//!
//! Each pass reads the record, decides one [`Step`] purely ([`next`]), and takes it. The epoch is raised before
//! any side effect, so a claimant that lost finds out before it touches anything; what it does carry out is
//! conditional on the expected old holder.

mod decide;
mod evidence;
mod release;

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::sync::Arc;

use futures::future::{join, try_join_all};
use futures::try_join;

pub use decide::{ClaimView, Step, VolumeView, next};
pub use evidence::{HolderState, evidence_for};

use crate::error::{Error, ErrorKind, Result};
use crate::ids::{Epoch, Incarnation, MemberName, NodeName, ServiceName};
use crate::ip::{AddressOutcome, AddressStatus, IpProvider};
use crate::metadata::{Versioned, WriteOutcome};
use crate::model::{Evidence, Holder, Initialised, Member, MemberPhase, Reason};
use crate::observed::Observed;
use crate::orchestrator::Orchestrator;
use crate::planted::{self, Planted};
use crate::registry::{DomainName, NameOutcome, RecordKind, RecordSet, Registry};
use crate::runtime::Environment;
use crate::store::Store;
use crate::volume::VolumeProvider;

/// How far a pass of a claim, or of its release, has come.
#[derive(Debug, Clone, PartialEq)]
pub enum ClaimProgress {
    /// Everything is ours; the engine can be started (or, for a release, everything is given back).
    Prepared(Box<Versioned<Arc<Member>>>),
    /// Something is waited for: call again on a change, or after a while.
    Waiting(Reason, String),
    /// The member is not ours (any more): stop what runs of it here.
    Lost(Reason, String),
}

/// What a claim works with, on one node in one life of it.
#[derive(Debug, Clone)]
pub struct Claimant {
    /// Time.
    pub env: Environment,
    /// The records.
    pub store: Store,
    /// The volumes.
    pub volumes: Arc<dyn VolumeProvider>,
    /// The static addresses.
    pub ips: Arc<dyn IpProvider>,
    /// The names.
    pub registry: Arc<dyn Registry>,
    /// The orchestrator: the one that knows which nodes are dead.
    pub orchestrator: Arc<dyn Orchestrator>,
    /// The cluster's DNS zone.
    pub zone: DomainName,
    /// The node that claims.
    pub node: NodeName,
    /// Its present life.
    pub incarnation: Incarnation,
}

impl Claimant {
    /// One pass of the claim of `member`: does everything that can be done now.
    ///
    /// # Behavior
    /// - Idempotent: repeating after a crash, or when nothing has changed, has no further effect.
    /// - Never touches a volume, an address or a name before the epoch is raised in the store.
    ///
    /// # Errors
    /// What a backend says. Calling again is always right.
    pub async fn advance(&self, service: &ServiceName, member: &MemberName) -> Result<ClaimProgress> {
        self.advance_noting(service, member, &mut false).await
    }

    /// As [`advance`](Self::advance); `has_held` becomes true once the record has named this node, also if the pass
    /// fails or the member is lost after that. Only then may it have asked for something ([`release`](Self::release)).
    ///
    /// # Errors
    /// As [`advance`](Self::advance).
    pub async fn advance_noting(
        &self,
        service: &ServiceName,
        member: &MemberName,
        has_held: &mut bool,
    ) -> Result<ClaimProgress> {
        loop {
            let Some(found) = self.store.member(service, member).await? else {
                return Ok(ClaimProgress::Lost(
                    Reason::EpochStale,
                    format!("{member} does not exist any more"),
                ));
            };
            let view = self.view(&found).await?;
            *has_held |= view.held;
            let step = next(&view);
            let taken = match decide::beside(&view, &step) {
                None => self.take(&found, step).await?,
                Some(beside) => {
                    // Both to their end, whatever becomes of the other.
                    let (address, volumes) =
                        join(self.take(&found, beside), self.take_volumes(found.clone(), step)).await;
                    volumes?;
                    address?
                }
            };
            if let Some(progress) = taken {
                return Ok(progress);
            }
        }
    }

    /// Takes this step and those that follow, as long as they are of volumes.
    async fn take_volumes(&self, mut found: Versioned<Arc<Member>>, mut step: Step) -> Result<()> {
        while step.is_of_volumes() {
            self.take(&found, step).await?;
            let Some(again) = self.store.member(&found.body.service, &found.body.name).await? else { break };
            step = next(&self.view(&again).await?);
            found = again;
        }
        Ok(())
    }

    /// Takes a step of the claim of the member that was found so; `None`: look again.
    async fn take(&self, found: &Versioned<Arc<Member>>, step: Step) -> Result<Option<ClaimProgress>> {
        tracing::debug!(member = %found.body.name, node = %self.node, ?step, "claim");
        let waiting = |reason, message| Ok(Some(ClaimProgress::Waiting(reason, message)));
        match step {
            Step::Lost(reason, message) => return Ok(Some(ClaimProgress::Lost(reason, message))),
            Step::Wait(reason, message) => return waiting(reason, message),
            Step::RaiseEpoch { evidence } => self.raise_epoch(found, &evidence).await?,
            Step::Detach { volume, from } => self.volumes.begin_detach(&volume, &from).await?,
            Step::RecordVolumeHolder { volume } => {
                let change = |body: &mut Member| {
                    for binding in &mut body.volumes {
                        if binding.id.as_ref() == Some(&volume) {
                            binding.last_holder = Some(self.node.clone());
                        }
                    }
                };
                self.change(found, change).await?;
            }
            Step::Attach { volume } => self.volumes.begin_attach(&volume, &self.node).await?,
            Step::TakeAddress { address, from } => {
                let taken = self.ips.assign(address, &self.node, from.as_ref()).await?;
                if let AddressOutcome::Stale(holder) = taken {
                    let holder = holder.map_or_else(|| "nobody".to_owned(), |node| node.to_string());
                    let text = format!("{address} is held by {holder}, which is not who held it last");
                    return waiting(Reason::AddressHeldElsewhere, text);
                }
            }
            Step::RecordAddressHolder => {
                let change = |body: &mut Member| {
                    if let Some(binding) = &mut body.address {
                        binding.last_holder = Some(self.node.clone());
                    }
                };
                self.change(found, change).await?;
            }
            Step::SetName { name, set, expected } => {
                let set = self.registry.upsert(&name, &set, expected.as_ref()).await?;
                if let NameOutcome::Stale(_) = set {
                    let text = format!("{name} was changed by somebody else at the same time");
                    return waiting(Reason::NamePending, text);
                }
            }
            Step::Prepare { released } => {
                let prepared = self.prepare(found, &released).await?;
                return Ok(prepared.map(|prepared| ClaimProgress::Prepared(Box::new(prepared))));
            }
            Step::Done => return Ok(Some(ClaimProgress::Prepared(Box::new(found.clone())))),
        }
        Ok(None)
    }

    /// Records that `member`, held under `epoch`, has come to `phase`. `false`: the epoch is no longer ours.
    ///
    /// # Errors
    /// What the store says.
    pub async fn record_phase(
        &self,
        service: &ServiceName,
        member: &MemberName,
        epoch: Epoch,
        phase: MemberPhase,
        event: Option<(Reason, String)>,
    ) -> Result<bool> {
        self.record(service, member, epoch, |body, now| {
            set_phase(body, phase, now);
            if let Some((reason, message)) = event.clone() {
                push_event(body, now, reason, message);
            }
        })
        .await
    }

    /// Raises the epoch of `member` above one that its volume bears: the volume is ours, and has been opened under an epoch
    /// that the records no longer know, since they were put back to an older backup. `false`: the epoch is no longer
    /// ours.
    ///
    /// # Errors
    /// What the store says.
    pub async fn raise_epoch_above(
        &self,
        service: &ServiceName,
        member: &MemberName,
        epoch: Epoch,
        found: Epoch,
    ) -> Result<bool> {
        self.record(service, member, epoch, |body, now| {
            let raised = found.max(body.epoch).next();
            let ours = |holder: &&mut Holder| holder.node == self.node && holder.epoch == epoch;
            body.holder
                .iter_mut()
                .chain(&mut body.unreleased)
                .filter(ours)
                .for_each(|holder| holder.epoch = raised);
            body.epoch = raised;
            let text =
                format!("the volume has been opened under epoch {found}: the records are of before that");
            push_event(body, now, Reason::EpochStale, text);
        })
        .await
    }

    /// Records that `member`'s data has been made. `false`: the epoch is no longer ours.
    ///
    /// # Errors
    /// What the store says.
    pub async fn record_initialised(
        &self,
        service: &ServiceName,
        member: &MemberName,
        epoch: Epoch,
        engine_version: &str,
    ) -> Result<bool> {
        self.record(service, member, epoch, |body, now| {
            if body.initialised.is_none() {
                body.initialised = Some(Initialised { epoch, engine_version: engine_version.to_owned() });
                push_event(body, now, Reason::Created, format!("data made with engine {engine_version}"));
            }
        })
        .await
    }

    async fn record(
        &self,
        service: &ServiceName,
        member: &MemberName,
        epoch: Epoch,
        change: impl Fn(&mut Member, crate::runtime::Timestamp),
    ) -> Result<bool> {
        loop {
            let Some(found) = self.store.member(service, member).await? else { return Ok(false) };
            let ours = found.body.epoch == epoch
                && found.body.holder.as_ref().is_some_and(|holder| holder.node == self.node);
            if !ours {
                return Ok(false);
            }
            let now = self.env.clock().wall();
            if self.change(&found, |body| change(body, now)).await?.is_some() {
                return Ok(true);
            }
        }
    }

    async fn view(&self, found: &Versioned<Arc<Member>>) -> Result<ClaimView> {
        let member = &found.body;
        let host = self.zone.child(&member.name).map_err(|error| {
            Error::new(ErrorKind::Invalid, "claim", "name", &member.name, error).without_effect()
        })?;
        // A holder that has given everything back holds nothing: its next claim is a new epoch.
        let ours = |holder: &Holder| holder.node == self.node && holder.incarnation == self.incarnation;
        let held = member.holder.as_ref().is_some_and(ours) && member.unreleased.iter().any(ours);
        let others: Vec<Holder> = member.unreleased.iter().filter(|holder| !ours(holder)).cloned().collect();
        // All at once: members wait for the slowest of these reads, with each step, and not for their sum.
        let (volumes, address, name, evidence) = try_join!(
            self.volume_views(member),
            self.address_status(member),
            self.registry.resolve(&host, RecordKind::Addresses),
            self.evidence(member, &others),
        )?;
        let confirmed_dead = self.confirmed_dead(self.strangers(member, &others, &volumes, &address)).await?;
        Ok(ClaimView {
            confirmed_dead,
            member: Arc::clone(member),
            node: self.node.clone(),
            incarnation: self.incarnation.clone(),
            evidence,
            others,
            held,
            exclusivity: self.volumes.capabilities().exclusivity,
            volumes,
            address,
            host,
            name,
        })
    }

    async fn volume_views(&self, member: &Member) -> Result<Vec<VolumeView>> {
        let views = member.volumes.iter().filter_map(|binding| {
            let id = binding.id.clone()?;
            Some(async move {
                let status = Observed::from_option(self.volumes.describe(&id).await?);
                Ok::<_, Error>(VolumeView { id, last_holder: binding.last_holder.clone(), status })
            })
        });
        try_join_all(views).await
    }

    async fn address_status(&self, member: &Member) -> Result<Observed<AddressStatus>> {
        match &member.address {
            Some(binding) => Ok(Observed::from_option(self.ips.status(binding.address).await?)),
            None => Ok(Observed::Absent),
        }
    }

    /// What is known of each of these earlier holders, by their position.
    async fn evidence(&self, member: &Member, others: &[Holder]) -> Result<BTreeMap<usize, Evidence>> {
        let mut found = BTreeMap::new();
        if others.is_empty() {
            return Ok(found);
        }
        let records = others.iter().map(|holder| self.store.node_record(&holder.node));
        let (reports, accept_lease, records) =
            try_join!(self.orchestrator.nodes(), self.accepts_lease(member), try_join_all(records))?;
        for (index, (holder, record)) in others.iter().zip(records).enumerate() {
            let record = record.map(|record| record.body);
            let state = HolderState {
                holder,
                report: reports.iter().find(|report| report.node == holder.node),
                record: record.as_ref(),
                claimant: (&self.node, &self.incarnation),
                accept_lease,
            };
            if let Some(evidence) = evidence_for(&state) {
                found.insert(index, evidence);
            }
        }
        Ok(found)
    }

    /// Those of these nodes that an operator has confirmed dead.
    async fn confirmed_dead(&self, nodes: BTreeSet<NodeName>) -> Result<BTreeSet<NodeName>> {
        let mut dead = BTreeSet::new();
        for node in nodes {
            let Some(record) = self.store.node_record(&node).await? else { continue };
            let life = &record.body.incarnation;
            // A life of which only its status tells is not what was spoken of: its agent runs.
            let status = self.store.node_status(&node).await?;
            let known = status.is_none_or(|status| &status.body.incarnation == life);
            if known && record.body.confirmed_dead.as_ref() == Some(life) {
                dead.insert(node);
            }
        }
        Ok(dead)
    }

    /// The nodes, besides the claimant's own, that hold something of a member which by its record they have never held.
    fn strangers(
        &self,
        member: &Member,
        others: &[Holder],
        volumes: &[VolumeView],
        address: &Observed<AddressStatus>,
    ) -> BTreeSet<NodeName> {
        let held = volumes.iter().filter_map(|volume| match &volume.status {
            Observed::Present(status) => Some((status.attachment.holder()?, volume.last_holder.as_ref())),
            Observed::Absent | Observed::Unknown => None,
        });
        let last_holder = member.address.as_ref().and_then(|binding| binding.last_holder.as_ref());
        let address = match address {
            Observed::Present(status) => status.holder.as_ref().map(|holder| (holder, last_holder)),
            Observed::Absent | Observed::Unknown => None,
        };
        let strange = |(holder, last): &(&NodeName, Option<&NodeName>)| {
            **holder != self.node && !decide::is_recorded(*last, others, holder)
        };
        held.chain(address).filter(strange).map(|(holder, _)| holder.clone()).collect()
    }

    async fn accepts_lease(&self, member: &Member) -> Result<bool> {
        let revision = self.store.revision(&member.service_id, member.revision).await?;
        Ok(revision.is_some_and(|revision| revision.spec.fencing.accept_lease))
    }

    /// Raises the epoch and appends us to the unreleased holders, if nobody has written first.
    async fn raise_epoch(
        &self,
        found: &Versioned<Arc<Member>>,
        evidence: &[(Holder, Evidence)],
    ) -> Result<()> {
        let now = self.env.clock().wall();
        let change = |body: &mut Member| {
            body.epoch = if planted::is(Planted::EpochNotRaised) { body.epoch } else { body.epoch.next() };
            let holder =
                Holder { node: self.node.clone(), incarnation: self.incarnation.clone(), epoch: body.epoch };
            let from = body.holder.replace(holder.clone());
            body.unreleased.retain(|old| !(old.node == self.node && old.incarnation == self.incarnation));
            body.unreleased.push(holder);
            set_phase(body, MemberPhase::Claiming, now);
            let proof = evidence
                .iter()
                .map(|(holder, evidence)| format!("{} by {evidence}", holder.node))
                .collect::<BTreeSet<_>>();
            let proof = if proof.is_empty() {
                String::new()
            } else {
                format!("; fenced: {}", proof.into_iter().collect::<Vec<_>>().join(", "))
            };
            match from {
                Some(from) if from.node != self.node => push_event(
                    body,
                    now,
                    Reason::MemberMoved,
                    format!("from {} to {}{proof}", from.node, self.node),
                ),
                Some(_) => push_event(body, now, Reason::Returned, format!("on {}{proof}", self.node)),
                None => push_event(body, now, Reason::Created, format!("on {}", self.node)),
            }
        };
        self.change(found, change).await.map(drop)
    }

    /// Records that everything is ours: earlier holders are dropped, since the volume is attached here.
    async fn prepare(
        &self,
        found: &Versioned<Arc<Member>>,
        released: &[(Holder, Evidence)],
    ) -> Result<Option<Versioned<Arc<Member>>>> {
        let now = self.env.clock().wall();
        let change = |body: &mut Member| {
            body.unreleased.retain(|holder| !released.iter().any(|(gone, _)| gone == holder));
            body.last_node = Some(self.node.clone());
            set_phase(body, MemberPhase::Prepared, now);
        };
        self.change(found, change).await
    }

    /// Applies `change` to the record as it was read; `None`: somebody wrote first.
    async fn change(
        &self,
        found: &Versioned<Arc<Member>>,
        change: impl Fn(&mut Member),
    ) -> Result<Option<Versioned<Arc<Member>>>> {
        let mut body = Member::clone(&found.body);
        change(&mut body);
        let key = self.store.member_key(&body.service, &body.name)?;
        match self.store.write(&key, found, &body).await? {
            WriteOutcome::Applied(version) => Ok(Some(Versioned { version, body: Arc::new(body) })),
            WriteOutcome::Conflict => Ok(None),
        }
    }
}

/// The record set of a member's name.
pub fn address_set(address: std::net::IpAddr) -> RecordSet {
    RecordSet::Addresses(BTreeSet::from([address]))
}

pub(crate) fn set_phase(member: &mut Member, phase: MemberPhase, now: crate::runtime::Timestamp) {
    if member.phase != phase {
        member.phase = phase;
        member.phase_since = now;
    }
}

pub(crate) fn push_event(
    member: &mut Member,
    now: crate::runtime::Timestamp,
    reason: Reason,
    message: String,
) {
    let name = member.name.clone();
    let epoch = member.epoch;
    member.events.push(now, reason, Some((&name, epoch)), message);
}
