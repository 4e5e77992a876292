//! A node of the world: an agent that claims with the shipped code, and engines that do as they are told.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::quorum::{Quorums, Word};
use super::{World, parsed};
use crate::error::Result;
use crate::ids::{
    Epoch, Generation, Incarnation, MemberName, NodeName, Revision, RoleTerm, ServiceName, ZoneName,
};
use crate::metadata::{Key, Versioned, WriteOutcome};
use crate::model::{
    Leadership, Member, MemberPhase, MemberStatus, Membership, NodeHealth, NodeRecord, NodeStatus, Position,
    Role, RolePhase, RoleState,
};
use crate::orchestrator::memory::MemoryOrchestrator;
use crate::orchestrator::{Orchestrator, Placement, Run};
use crate::runtime::Environment;
use crate::store::Store;
use crate::volume::memory::MemoryVolumes;
use crate::workflow::claim::{ClaimProgress, Claimant};

/// A running engine.
#[derive(Debug, Clone)]
struct Engine {
    service: ServiceName,
    epoch: Epoch,
    generation: Generation,
    incarnation: Incarnation,
    revision: Revision,
    role: Role,
    term: RoleTerm,
    /// Whether it was started to follow without a vote.
    learns: bool,
    /// Whether it waits for somebody to lead, and serves nobody.
    fenced: bool,
    follows: Option<MemberName>,
    membership: Option<Membership>,
}

/// A node of the world.
#[derive(Debug)]
pub struct WorldNode {
    env: Environment,
    store: Store,
    backends: crate::backends::Backends,
    orchestrator: MemoryOrchestrator,
    volumes: MemoryVolumes,
    name: NodeName,
    zone: ZoneName,
    lives: u32,
    incarnation: Incarnation,
    alive: bool,
    beat: u64,
    engines: BTreeMap<MemberName, Engine>,
    quorums: Quorums,
    /// Whether its agent is cut off: engines run on, nothing is claimed or reported.
    pub silent: bool,
    /// Members whose engine refuses to start here.
    pub broken: std::collections::BTreeSet<MemberName>,
    /// Members whose engine refuses to start here in a revision.
    pub refuses: std::collections::BTreeSet<(MemberName, Revision)>,
    /// Members that have not caught up, as far as their engine here says.
    pub lagging: std::collections::BTreeSet<MemberName>,
    /// Whether engines here leave who counts as it is.
    pub frozen: bool,
    /// Members whose engine does not let itself be demoted here.
    pub stubborn: std::collections::BTreeSet<MemberName>,
    /// How far the data of each member reaches: of the whole world, as it lies on the volumes.
    pub positions: BTreeMap<MemberName, u64>,
    /// Why nothing is started here, as its agent says.
    pub stalled: Option<String>,
    /// How often an engine was started.
    pub starts: u64,
}

impl WorldNode {
    pub(super) fn new(world: &World, name: NodeName, zone: ZoneName) -> Result<Self> {
        let mut node = WorldNode {
            env: world.env.clone(),
            store: world.store(Arc::new(world.db.clone()))?,
            backends: world.backends()?,
            orchestrator: world.orchestrator.clone(),
            volumes: world.volumes.clone(),
            incarnation: parsed(&format!("{name}-0"))?,
            name,
            zone,
            lives: 0,
            alive: false,
            beat: 0,
            engines: BTreeMap::new(),
            quorums: world.quorums.clone(),
            silent: false,
            broken: std::collections::BTreeSet::new(),
            refuses: std::collections::BTreeSet::new(),
            lagging: std::collections::BTreeSet::new(),
            frozen: false,
            stubborn: std::collections::BTreeSet::new(),
            positions: BTreeMap::new(),
            stalled: None,
            starts: 0,
        };
        node.begin_life(&world.orchestrator)?;
        Ok(node)
    }

    /// The agent is started anew on these: engines run on, as they would under their guards.
    pub fn restart_agent(&mut self, store: Store, backends: crate::backends::Backends) {
        self.store = store;
        self.backends = backends;
    }

    /// From here on the engine of `member` refuses to start here.
    pub fn breaks(&mut self, member: &MemberName) {
        self.broken.insert(member.clone());
    }

    /// From here on `member` does not catch up here.
    pub fn lags(&mut self, member: &MemberName) {
        self.lagging.insert(member.clone());
    }

    /// Whether an engine of `member` runs here.
    pub fn runs(&self, member: &MemberName) -> bool {
        self.engines.contains_key(member)
    }

    /// The revision that an engine of `member` runs here.
    pub fn revision_of(&self, member: &MemberName) -> Option<Revision> {
        self.engines.get(member).map(|engine| engine.revision)
    }

    /// Whether an engine of `member` runs here with a vote.
    pub fn votes(&self, member: &MemberName) -> bool {
        self.engines.get(member).is_some_and(|engine| engine.role == Role::Voter)
    }

    /// Whether an engine of `member` takes writes here.
    pub fn is_writable(&self, member: &MemberName) -> bool {
        self.engines.get(member).is_some_and(|engine| engine.role == Role::Primary)
    }

    pub(super) fn kill(&mut self, volumes: &MemoryVolumes) {
        self.alive = false;
        self.engines.keys().for_each(|member| self.quorums.part(member));
        self.engines.clear();
        // The kernel frees what nobody holds any more.
        for status in volumes.all() {
            if status.attachment.holder() == Some(&self.name) {
                volumes.set_in_use(&status.id, false);
            }
        }
    }

    pub(super) fn begin_life(&mut self, orchestrator: &MemoryOrchestrator) -> Result<()> {
        self.lives += 1;
        self.alive = true;
        self.incarnation = parsed(&format!("{}-{}", self.name, self.lives))?;
        orchestrator.set_ready(&self.name, &self.zone, &self.incarnation);
        Ok(())
    }

    /// One step of the agent: register, claim, start, take the role told, stop, release, report.
    pub(super) async fn step(&mut self) -> Result<()> {
        if !self.alive || self.silent {
            return Ok(());
        }
        self.register().await?;
        let placements: Vec<Placement> = self
            .orchestrator
            .placements()
            .into_iter()
            .filter(|placement| placement.node == self.name)
            .collect();
        let mut statuses = BTreeMap::new();
        for placement in &placements {
            if let Some((service, member)) = self.find(&placement.member).await? {
                let status = match placement.run {
                    Run::Started => self.run(&service, &member, placement).await?,
                    Run::Stopped => self.stop(&service, &placement.member).await?,
                };
                statuses.extend(status.map(|status| (placement.member.clone(), status)));
            }
        }
        let strays: Vec<(MemberName, ServiceName)> = self
            .engines
            .iter()
            .filter(|(name, _)| !placements.iter().any(|placement| &placement.member == *name))
            .map(|(name, engine)| (name.clone(), engine.service.clone()))
            .collect();
        for (name, service) in strays {
            self.stop(&service, &name).await?;
        }
        self.report(statuses).await
    }

    async fn find(&self, name: &MemberName) -> Result<Option<(ServiceName, Member)>> {
        let found = self.store.all_members().await?.into_iter().find(|found| &found.body.name == name);
        Ok(found.map(|found| (found.body.service.clone(), found.body)))
    }

    /// What claims members for this node.
    pub fn claimant(&self) -> Claimant {
        Claimant {
            env: self.env.clone(),
            store: self.store.clone(),
            volumes: self.backends.volumes.clone(),
            ips: self.backends.ips.clone(),
            registry: self.backends.registry.clone(),
            orchestrator: Arc::clone(&self.backends.orchestrator),
            zone: self.backends.zone.clone(),
            node: self.name.clone(),
            incarnation: self.incarnation.clone(),
        }
    }

    async fn run(
        &mut self,
        service: &ServiceName,
        member: &Member,
        placement: &Placement,
    ) -> Result<Option<MemberStatus>> {
        let name = &member.name;
        let claimed = match self.claimant().advance(service, name).await? {
            ClaimProgress::Prepared(claimed) => claimed.body,
            ClaimProgress::Waiting(reason, message) => {
                let mut status = self.status(member, MemberPhase::Claiming, None);
                status.blocked = Some((reason, message));
                return Ok(Some(status));
            }
            ClaimProgress::Lost(..) => return self.stop(service, name).await,
        };
        if self.broken.contains(name) || self.refuses.contains(&(name.clone(), claimed.revision)) {
            self.end(&claimed);
            return Ok(Some(self.status(&claimed, MemberPhase::Starting, None)));
        }
        let current = self
            .engines
            .get(name)
            .is_some_and(|engine| engine.epoch == claimed.epoch && engine.generation == placement.generation);
        if !current {
            if !self.can_have_data(service, &claimed).await? {
                return Ok(Some(self.status(&claimed, MemberPhase::Prepared, None)));
            }
            self.claimant().record_initialised(service, name, claimed.epoch, "1.0").await?;
            // A restart is an end and a beginning.
            self.quorums.part(name);
            let revision = self.store.revision(&claimed.service_id, claimed.revision).await?;
            let learns = claimed.recloning && revision.is_some_and(|revision| revision.blueprint.learners);
            self.start(&claimed, placement.generation, learns)?;
        }
        self.assume(service, &claimed).await?;
        let engine = self.engines.get(name).cloned();
        if claimed.phase != MemberPhase::Serving && engine.as_ref().is_some_and(is_ready) {
            self.claimant().record_phase(service, name, claimed.epoch, MemberPhase::Serving, None).await?;
        }
        Ok(Some(self.status(&claimed, MemberPhase::Serving, engine.as_ref())))
    }

    /// First data is made by the first leader, and by the others once somebody leads.
    async fn can_have_data(&self, service: &ServiceName, member: &Member) -> Result<bool> {
        if member.initialised.is_some() {
            return Ok(true);
        }
        let Some(found) = self.store.service(service).await? else { return Ok(false) };
        Ok(match found.body.roles.get(&member.group) {
            Some(role) => role.phase == RolePhase::Led || role.leader.as_ref() == Some(&member.name),
            None => true,
        })
    }

    fn start(&mut self, member: &Member, generation: Generation, learns: bool) -> Result<()> {
        self.starts += 1;
        for id in member.volumes.iter().filter_map(|volume| volume.id.as_ref()) {
            self.volumes.set_in_use(id, true);
        }
        let engine = Engine {
            service: member.service.clone(),
            epoch: member.epoch,
            generation,
            incarnation: parsed(&format!("{}-{}", self.incarnation, self.starts))?,
            revision: member.revision,
            role: Role::Replica,
            term: RoleTerm::default(),
            learns,
            fenced: true,
            follows: None,
            membership: None,
        };
        self.engines.insert(member.name.clone(), engine);
        Ok(())
    }

    /// Takes the role that the newest term gives, read right before.
    async fn assume(&mut self, service: &ServiceName, member: &Member) -> Result<()> {
        let Some(found) = self.store.service(service).await? else { return Ok(()) };
        let revision = self.store.revision(&found.body.id, found.body.revision).await?;
        let leads_itself =
            revision.is_some_and(|revision| revision.blueprint.leadership == Leadership::Engine);
        let Some(engine) = self.engines.get_mut(&member.name) else { return Ok(()) };
        let wanted = found.body.groups.get(&member.group).map(|group| Membership {
            term: group.membership_term,
            voters: found
                .body
                .member_names()
                .filter(|(of, ordinal, _)| **of == member.group && *ordinal < group.voters())
                .map(|(_, _, name)| name)
                .collect(),
        });
        let Some(mut wanted) = wanted else { return Ok(()) };
        if self.frozen
            && let Some(membership) = &engine.membership
        {
            wanted = membership.clone();
        }
        let lags = self.lagging.contains(&member.name);
        match found.body.roles.get(&member.group) {
            None if leads_itself => {
                let group = (service.clone(), member.group.clone());
                engine.agree(
                    self.quorums.meet(group, &member.name, wanted, engine.learns),
                    &member.name,
                    lags,
                );
            }
            None => {}
            Some(role) => {
                let stuck = self.stubborn.contains(&member.name);
                engine.obey(role, &member.name, wanted, stuck, lags);
            }
        }
        Ok(())
    }

    fn end(&mut self, member: &Member) {
        if self.engines.remove(&member.name).is_some() {
            self.quorums.part(&member.name);
            for id in member.volumes.iter().filter_map(|volume| volume.id.as_ref()) {
                self.volumes.set_in_use(id, false);
            }
        }
    }

    async fn stop(&mut self, service: &ServiceName, name: &MemberName) -> Result<Option<MemberStatus>> {
        if let Some(found) = self.store.member(service, name).await? {
            self.end(&found.body);
            // Waiting and lost are both seen again in the next step.
            let _progress: ClaimProgress = self.claimant().release(service, name, false).await?;
        } else {
            self.quorums.part(name);
            self.engines.remove(name);
        }
        Ok(None)
    }

    fn status(&self, member: &Member, phase: MemberPhase, engine: Option<&Engine>) -> MemberStatus {
        MemberStatus {
            epoch: member.epoch,
            generation: engine.map_or(Generation::default(), |engine| engine.generation),
            revision: engine.map_or(member.revision, |engine| engine.revision),
            incarnation: engine.map(|engine| engine.incarnation.clone()),
            phase: if engine.is_some_and(is_ready) { phase } else { phase.min(MemberPhase::Starting) },
            role: engine.map_or(Role::Unknown, |engine| engine.role),
            role_term: engine.map_or(RoleTerm::default(), |engine| engine.term),
            follows: engine.and_then(|engine| engine.follows.clone()),
            membership: engine.and_then(|engine| engine.membership.clone()),
            ready: engine.is_some_and(is_ready),
            position: engine.map(|_| Position {
                timeline: 0,
                offset: self.positions.get(&member.name).copied().unwrap_or_default(),
            }),
            lag: None,
            restarts: 0,
            blocked: None,
        }
    }

    async fn register(&self) -> Result<()> {
        let key = self.store.node_record_key(&self.name)?;
        let found = self.store.node_record(&self.name).await?;
        if found.as_ref().is_some_and(|found| found.body.incarnation == self.incarnation) {
            return Ok(());
        }
        let record = NodeRecord {
            node: self.name.clone(),
            zone: self.zone.clone(),
            incarnation: self.incarnation.clone(),
            labels: BTreeMap::new(),
            engines: BTreeMap::new(),
            registered_at: self.env.clock().wall(),
            confirmed_dead: None,
            draining: false,
        };
        self.write(&key, found.as_ref(), &record).await
    }

    async fn report(&mut self, members: BTreeMap<MemberName, MemberStatus>) -> Result<()> {
        self.beat += 1;
        let status = NodeStatus {
            node: self.name.clone(),
            incarnation: self.incarnation.clone(),
            beat: self.beat,
            lease_ms: 3_000,
            members,
            stalled: self.stalled.clone(),
            version: "world".to_owned(),
        };
        let key = self.store.node_status_key(&self.name)?;
        let found = self.store.node_status(&self.name).await?;
        self.write(&key, found.as_ref(), &status).await
    }

    /// Only this agent writes these records, so a conflict is with itself and is settled in the next step.
    async fn write<T>(&self, key: &Key, found: Option<&Versioned<T>>, body: &T) -> Result<()>
    where
        T: serde::Serialize + PartialEq + Sync,
    {
        let _outcome: WriteOutcome = match found {
            None => self.store.records().create(key, body).await?,
            Some(found) => self.store.write(key, found, body).await?,
        };
        Ok(())
    }

    /// What the orchestrator says of it, for assertions.
    ///
    /// # Errors
    /// Never.
    pub async fn health(&self) -> Result<NodeHealth> {
        let reports = self.orchestrator.nodes().await?;
        let found = reports.into_iter().find(|report| report.node == self.name);
        Ok(found.map_or(NodeHealth::Unknown, |report| report.health))
    }
}

impl Engine {
    /// Takes what the engines of its group agree on.
    fn agree(&mut self, word: Word, me: &MemberName, lags: bool) {
        let votes = word.membership.voters.contains(me) && !self.learns;
        self.role = if votes { Role::Voter } else { Role::Learner };
        self.fenced = word.leader.is_none() || lags;
        self.follows = word.leader.filter(|leader| leader != me);
        self.membership = Some(word.membership);
    }

    /// Takes the role that it is given.
    fn obey(&mut self, role: &RoleState, me: &MemberName, wanted: Membership, stuck: bool, lags: bool) {
        let is = |name: &Option<MemberName>| name.as_ref() == Some(me);
        let leads = is(&role.leader) && role.phase != RolePhase::Electing;
        if !leads && stuck && self.role == Role::Primary {
            return;
        }
        self.role = if leads { Role::Primary } else { Role::Replica };
        self.term = role.term;
        self.fenced = match role.phase {
            RolePhase::Bootstrapping | RolePhase::Led => lags,
            RolePhase::Electing => true,
            RolePhase::HandingOver => is(&role.previous),
        };
        self.membership = leads.then_some(wanted);
    }
}

fn is_ready(engine: &Engine) -> bool {
    match engine.role {
        Role::Primary => true,
        Role::Voter | Role::Learner => !engine.fenced,
        Role::Replica | Role::Unknown => engine.term > RoleTerm::default() && !engine.fenced,
    }
}
