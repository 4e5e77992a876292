//! Observing: the facts about one service, read together, with the versions to write against.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::nodes::{NodeTable, Whereabouts};
use crate::backends::Backends;
use crate::error::Result;
use crate::ids::{GroupName, MemberName, NodeName, Revision, RoleTerm, ServiceId, ServiceName};
use crate::metadata::{Version, Versioned};
use crate::model::{Member, MemberStatus, RolePhase, ServiceState, SpecRevision};
use crate::plan::{Facts, MemberFacts, NodeFacts, Plan, Timers};
use crate::runtime::{Environment, Moment};
use crate::store::{ServiceRecords, Store};

/// The facts about one service, and the versions they were read at.
#[derive(Debug, Clone)]
pub struct Snapshot {
    /// The facts. An executor keeps them up to date with what it writes.
    pub facts: Facts,
    /// The version of the service's record.
    pub service_version: Version,
    /// The versions of the members' records.
    pub member_versions: BTreeMap<MemberName, Version>,
    /// The version of the running operation's record.
    pub operation_version: Option<Version>,
    /// The nodes as they were seen then.
    pub sight: Sight,
}

/// What is seen of the nodes at one moment.
#[derive(Debug, Clone)]
pub struct Sight {
    /// The nodes.
    pub table: Arc<NodeTable>,
    /// Two equal numbers of one observer say that the [`NodeFacts`] are the same.
    pub facts: u64,
}

impl Snapshot {
    /// When to look again without a hint, if something is going on that time alone changes.
    pub fn recheck_after(&self, plan: &Plan) -> Option<Duration> {
        let settled = |phase| matches!(phase, RolePhase::Bootstrapping | RolePhase::Led);
        let electing = self.facts.service.roles.values().any(|role| !settled(role.phase));
        let leader_down = !self.facts.leader_down_for.is_empty();
        if electing {
            Some(Duration::from_millis(200))
        } else if leader_down || !plan.waits.is_empty() || self.facts.operation.is_some() {
            Some(Duration::from_secs(1))
        } else {
            None
        }
    }
}

/// Sees: keeps the table of nodes, and reads services.
#[derive(Debug)]
pub struct Observer {
    env: Environment,
    store: Store,
    backends: Backends,
    timers: Timers,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    table: Arc<NodeTable>,
    /// When the nodes were first looked at.
    listening_since: Option<Moment>,
    /// Until when the table holds without another look. A look may take longer than what it found before counts.
    holds_until: Option<Moment>,
    /// Whether the table has aged since the last look: services were planned on what that look may take back.
    aged: bool,
    placed: Arc<BTreeMap<NodeName, usize>>,
    facts: Arc<BTreeMap<NodeName, NodeFacts>>,
    /// How often the facts were others than before.
    facts_changed: u64,
    /// Which service each member that a node reports belongs to.
    services: BTreeMap<MemberName, ServiceName>,
    leaders: BTreeMap<(ServiceId, GroupName), LeaderSeen>,
    /// Immutable, so kept.
    revisions: BTreeMap<(ServiceId, Revision), Arc<SpecRevision>>,
    /// The states at the last pass, of the services this process works on.
    states: BTreeMap<ServiceName, ServiceState>,
}

/// How a group's leader was last seen.
#[derive(Debug)]
struct LeaderSeen {
    /// The term by record.
    term: RoleTerm,
    /// The one under which it is seen to lead.
    under: Option<RoleTerm>,
    word: Word,
    /// Since when it is so.
    since: Moment,
}

/// Where it is known from how a leader fares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Word {
    /// Its node says so.
    Heard,
    /// It has ended: every node that may have it is dead, or was since it was last heard.
    Dead,
    /// It is not known.
    Unknown,
}

impl LeaderSeen {
    /// It as it is seen now, after it was seen like `before`.
    fn after(self, before: &LeaderSeen) -> LeaderSeen {
        let since = if before.differs(&self) { self.since } else { before.since };
        // Its node's next life says nothing of it at first. That does not bring it back.
        let word =
            if (before.word, self.word) == (Word::Dead, Word::Unknown) { Word::Dead } else { self.word };
        LeaderSeen { since, word, ..self }
    }

    /// Whether its time counts anew now that it is seen like `next`. One that is back and leads under an earlier term
    /// is given the time to hear of the present one, as if it had just been chosen; one that is heard again, though
    /// nothing says that it was down meanwhile, the time to look at its engine: what an agent that stood still says
    /// first is as old as its last look.
    fn differs(&self, next: &LeaderSeen) -> bool {
        (self.term, self.under) != (next.term, next.under)
            || (self.word, next.word) == (Word::Unknown, Word::Heard)
    }
}

impl State {
    /// What is seen at `now`, however long ago the last look was.
    fn sight(&mut self, now: Moment) -> Sight {
        if self.holds_until.is_some_and(|until| until < now) {
            let aged = self.table.aged(now);
            self.facts = aged.facts(&self.placed);
            self.facts_changed += 1;
            self.aged = true;
            self.see(aged);
        }
        Sight { table: Arc::clone(&self.table), facts: self.facts_changed }
    }

    fn see(&mut self, table: NodeTable) {
        self.holds_until = table.holds_until();
        self.table = Arc::new(table);
    }
}

impl Observer {
    /// An observer that has seen nothing yet.
    pub fn new(env: Environment, store: Store, backends: Backends, timers: Timers) -> Self {
        Observer { env, store, backends, timers, state: Mutex::default() }
    }

    /// The nodes as they are seen now.
    pub fn nodes(&self) -> Arc<NodeTable> {
        self.sight().table
    }

    /// What is seen of the nodes now.
    pub fn sight(&self) -> Sight {
        self.lock().sight(self.env.clock().monotonic())
    }

    /// The states of the services this process works on, at their last pass.
    pub(super) fn states(&self) -> BTreeMap<ServiceName, ServiceState> {
        self.lock().states.clone()
    }

    pub(super) fn note_state(&self, facts: &Facts, plan: &Plan) {
        let state = plan.verdict.state;
        let name = facts.service.name.clone();
        let mut known = self.lock();
        if state == ServiceState::Deleted {
            known.states.remove(&name);
        } else {
            known.states.insert(name, state);
        }
    }

    pub(super) fn forget_state(&self, service: &ServiceName) {
        self.lock().states.remove(service);
    }

    /// Forgets what is known of every service but these: others are deleted, whoever has done it.
    pub(super) fn keep_only(&self, living: &BTreeMap<ServiceName, ServiceId>) {
        let ids: BTreeSet<&ServiceId> = living.values().collect();
        let mut state = self.lock();
        state.revisions.retain(|(id, _), _| ids.contains(id));
        state.leaders.retain(|(id, _), _| ids.contains(id));
        state.states.retain(|name, _| living.contains_key(name));
    }

    /// The backends it looks at.
    pub fn backends(&self) -> &Backends {
        &self.backends
    }

    /// Looks at the nodes again; the services that what has changed concerns.
    ///
    /// # Errors
    /// What the store or the orchestrator says; the table stays as it was, and ages.
    pub async fn refresh_nodes(&self) -> Result<Vec<ServiceName>> {
        let begun = self.store.looks_at_nodes();
        let reports = self.backends.orchestrator.nodes().await?;
        // An orchestrator that goes by the same records has just read them.
        let nodes = match self.store.nodes_since(begun) {
            Some(nodes) => nodes,
            None => self.store.nodes().await?,
        };
        let statuses =
            nodes.into_iter().filter_map(|(record, status)| Some((record.node.clone(), status?))).collect();
        let now = self.env.clock().monotonic();
        let (before, aged) = {
            let state = self.lock();
            (Arc::clone(&state.table), state.aged)
        };
        let table = before.updated(reports, statuses, now, self.timers.stall_patience);
        let health_differs = aged || before.health_differs(&table);
        let changed = before.differs(&table);
        let unknown = {
            let state = self.lock();
            changed.iter().any(|member| !state.services.contains_key(member))
        };
        // The map from members to services is only read anew when it has to be.
        if health_differs || unknown {
            let members = self.store.all_members().await?;
            let mut placed: BTreeMap<NodeName, usize> = BTreeMap::new();
            let mut services = BTreeMap::new();
            for member in members {
                let body = member.body;
                if let Some(node) = body.placed_on {
                    *placed.entry(node).or_default() += 1;
                }
                services.insert(body.name, body.service);
            }
            let mut state = self.lock();
            state.services = services;
            state.placed = Arc::new(placed);
        }
        let mut state = self.lock();
        if health_differs || unknown || state.aged || !before.has_the_facts_of(&table) {
            state.facts = table.facts(&state.placed);
            state.facts_changed += 1;
        }
        state.see(table);
        state.listening_since.get_or_insert(now);
        // If it has aged since this look began, the next one is told so.
        state.aged &= !aged;
        let mut concerned: Vec<ServiceName> = if health_differs {
            state.services.values().cloned().collect()
        } else {
            changed.iter().filter_map(|member| state.services.get(member).cloned()).collect()
        };
        concerned.sort();
        concerned.dedup();
        Ok(concerned)
    }

    /// The facts about a service, to plan on; `None` if it does not exist.
    ///
    /// # Errors
    /// What the store or the registry says.
    pub async fn snapshot(&self, name: &ServiceName) -> Result<Option<Snapshot>> {
        let Some(mut snapshot) = self.glance(name).await? else { return Ok(None) };
        for (name, kind) in snapshot.facts.names_of_interest() {
            let holds = self.backends.registry.resolve(&name, kind).await?;
            snapshot.facts.names.insert((name, kind), holds);
        }
        Ok(Some(snapshot))
    }

    /// The facts about a service, to show: what its names hold is not looked up.
    ///
    /// # Errors
    /// What the store says.
    pub async fn glance(&self, name: &ServiceName) -> Result<Option<Snapshot>> {
        match self.store.service_records(name).await? {
            Some(read) => self.assemble(read).await,
            None => Ok(None),
        }
    }

    /// The services after `after` by name, at most `limit`, to show; deleted ones left out.
    ///
    /// # Errors
    /// What the store says.
    pub async fn glances(&self, after: Option<&str>, limit: usize) -> Result<Vec<Snapshot>> {
        let mut snapshots = Vec::new();
        for read in self.store.live_service_records(after, limit, |_, _| false).await? {
            snapshots.extend(self.assemble(read).await?);
        }
        Ok(snapshots)
    }

    /// The facts about the service whose records were read, to show.
    ///
    /// # Errors
    /// What the store says, or that a record does not decode.
    pub async fn assemble(&self, read: ServiceRecords) -> Result<Option<Snapshot>> {
        let (service, members) = self.store.decode_service(read)?;
        let Versioned { version, body: service } = service;
        let Some(revision) = self.revision(&service.id, service.revision).await? else { return Ok(None) };
        let mut revisions = BTreeMap::from([(service.revision, Arc::clone(&revision))]);
        for number in members.iter().filter(|m| m.body.service_id == service.id).map(|m| m.body.revision) {
            if !revisions.contains_key(&number)
                && let Some(found) = self.revision(&service.id, number).await?
            {
                revisions.insert(number, found);
            }
        }
        let operation = match &service.operation {
            Some(id) => self.store.operation(id).await?,
            None => None,
        };
        let (sight, nodes, listened_for) = {
            let mut state = self.lock();
            let now = self.env.clock().monotonic();
            let listened_for = state.listening_since.map_or(Duration::ZERO, |since| now.since(since));
            (state.sight(now), Arc::clone(&state.facts), listened_for)
        };
        let mut member_versions = BTreeMap::new();
        let mut facts_of_members = BTreeMap::new();
        for Versioned { version, body: record } in members {
            let status = status_of(&sight.table, &record);
            member_versions.insert(record.name.clone(), version);
            facts_of_members.insert(record.name.clone(), MemberFacts { record, status });
        }
        let (operation_version, operation) =
            operation.map_or((None, None), |found| (Some(found.version), Some(found.body)));
        let mut facts = Facts {
            service,
            revision,
            revisions,
            operation,
            members: facts_of_members,
            nodes,
            listened_for,
            names: BTreeMap::new(),
            leader_down_for: BTreeMap::new(),
            leader_up_for: BTreeMap::new(),
            exclusivity: self.backends.volumes.capabilities().exclusivity,
            growing_volumes: self.backends.volumes.capabilities().grow,
            volumes_reach: self.backends.volumes.capabilities().reach,
            srv_records: self.backends.registry.capabilities().services,
            zone: self.backends.zone.clone(),
            timers: self.timers,
            wall: self.env.clock().wall(),
        };
        self.watch_leaders(&mut facts);
        Ok(Some(Snapshot { facts, service_version: version, member_versions, operation_version, sight }))
    }

    async fn revision(&self, service: &ServiceId, number: Revision) -> Result<Option<Arc<SpecRevision>>> {
        let key = (service.clone(), number);
        if let Some(found) = self.lock().revisions.get(&key) {
            return Ok(Some(Arc::clone(found)));
        }
        let Some(found) = self.store.revision(service, number).await? else { return Ok(None) };
        let found = Arc::new(found);
        self.lock().revisions.insert(key, Arc::clone(&found));
        Ok(Some(found))
    }

    /// How long each led group's leader has been down, or has led, on this process's own clock.
    fn watch_leaders(&self, facts: &mut Facts) {
        let now = self.env.clock().monotonic();
        let mut state = self.lock();
        let (mut down, mut up) = (BTreeMap::new(), BTreeMap::new());
        for group in facts.groups() {
            let key = (facts.service.id.clone(), group.name.clone());
            let seen = group.role.and_then(|role| {
                let (under, word) = match role.phase {
                    RolePhase::HandingOver => (None, Word::Heard),
                    RolePhase::Bootstrapping | RolePhase::Electing => return None,
                    RolePhase::Led => {
                        let leader = role.leader.as_ref()?;
                        let found = group.members.iter().find(|(_, name, _)| name == leader)?.2?;
                        let word = match &found.status {
                            Some(_) => Word::Heard,
                            None if facts.is_known(found) => Word::Dead,
                            None => Word::Unknown,
                        };
                        (found.status.as_ref().and_then(MemberStatus::leads_under), word)
                    }
                };
                Some(LeaderSeen { term: role.term, under, word, since: now })
            });
            let Some(seen) = seen else {
                state.leaders.remove(&key);
                continue;
            };
            let seen = match state.leaders.get(&key) {
                Some(before) => seen.after(before),
                None => seen,
            };
            let side = if seen.under == Some(seen.term) { &mut up } else { &mut down };
            side.insert(group.name.clone(), now.since(seen.since));
            state.leaders.insert(key, seen);
        }
        drop(state);
        (facts.leader_down_for, facts.leader_up_for) = (down, up);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What is fresh about a member and about its present epoch. Readiness is believed of its holder only.
fn status_of(table: &NodeTable, record: &Member) -> Option<MemberStatus> {
    let whereabouts = Whereabouts::of(record);
    let status = table.said(&whereabouts)?;
    let held = record.holder.as_ref().map(|holder| &holder.node) == whereabouts.node.as_ref();
    Some(MemberStatus { ready: status.ready && held, ..status.clone() })
}
