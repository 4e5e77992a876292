//! The views that were told lately, each with everything it was made of.
//!
//! The records are read from the store for every answer, so none is older than what the store says. What is saved is
//! what follows from them: decoding, planning and rendering. A text is told again only if every record has the version
//! that it was made of, the nodes are seen as they were, and time alone changes nothing in it but what it leaves out.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::change::no_service;
use super::rendered::{Now, RenderedService, Text};
use super::{Control, ControlResult};
use crate::controller::{Sight, Snapshot, Whereabouts};
use crate::ids::{OperationId, ServiceName};
use crate::metadata::Version;
use crate::model::{Condition, MemberStatus};
use crate::plan::is_timeless;
use crate::runtime::Moment;
use crate::store::ServiceRecords;

/// So many bytes of views are kept, about: those of two thousand services of three members. When they are full, what
/// nobody has asked for within [`IDLE`] goes, and nothing else: of a cluster that is larger and listed again and again,
/// a part is kept and not each view forgotten just before it is asked for.
const MOST_BYTES: usize = 8 << 20;
const IDLE: Duration = Duration::from_secs(30);

/// What a view was made of.
#[derive(Debug)]
struct Basis {
    service: Version,
    /// The members in the order of their names: their records, and what is said of them.
    members: Box<[(Whereabouts, Version, Option<MemberStatus>)]>,
    /// The operation that the service's record names, and the version of its own record.
    operation: Option<(OperationId, Option<Version>)>,
    /// The facts about nodes ([`Sight::facts`]).
    nodes: u64,
}

impl Basis {
    /// What a snapshot's view rests on; none if time alone changes more of it than a text leaves out.
    fn of(snapshot: &Snapshot, conditions: &[Condition]) -> Option<Self> {
        let facts = &snapshot.facts;
        // Deleted services are looked at by name only; and who lists the others goes by what is kept.
        if facts.service.deleted || !is_timeless(facts, conditions) {
            return None;
        }
        let member = |(name, version): (&_, &Version)| {
            let whereabouts = Whereabouts::of(&facts.members.get(name)?.record);
            let said = snapshot.sight.table.said(&whereabouts).cloned();
            Some((whereabouts, version.clone(), said))
        };
        Some(Basis {
            service: snapshot.service_version.clone(),
            members: snapshot.member_versions.iter().map(member).collect::<Option<_>>()?,
            operation: facts.service.operation.clone().map(|id| (id, snapshot.operation_version.clone())),
            nodes: snapshot.sight.facts,
        })
    }

    /// Whether everything but the operation is as it was.
    fn holds(&self, read: &ServiceRecords, sight: &Sight) -> bool {
        self.service == *read.version()
            && self.nodes == sight.facts
            && self.members.len() == read.members().len()
            && self.members.iter().zip(read.members()).all(|((member, version, said), (name, now))| {
                member.member.as_str() == name && version == now && sight.table.said(member) == said.as_ref()
            })
    }

    fn size(&self) -> usize {
        size_of_val(&*self.members) + size_of::<Self>()
    }
}

#[derive(Debug)]
struct Entry {
    basis: Arc<Basis>,
    text: Arc<Text>,
    used: Moment,
}

impl Entry {
    fn size(&self) -> usize {
        self.basis.size() + self.text.size() + size_of::<Self>()
    }
}

/// What is kept, for every clone of a control plane.
#[derive(Default)]
pub(super) struct Kept(Mutex<State>);

#[derive(Default)]
struct State {
    views: BTreeMap<Box<str>, Entry>,
    bytes: usize,
    /// When room was made last.
    swept: Moment,
}

impl Kept {
    /// Whether a service of this version is known not to be deleted.
    fn is_live(&self, name: &str, version: &Version) -> bool {
        self.lock().views.get(name).is_some_and(|entry| entry.basis.service == *version)
    }

    fn find(&self, read: &ServiceRecords, sight: &Sight, now: &Now) -> Option<(Arc<Basis>, Arc<Text>)> {
        let mut state = self.lock();
        let entry = state.views.get_mut(read.name()).filter(|entry| entry.basis.holds(read, sight))?;
        entry.used = now.moment();
        Some((Arc::clone(&entry.basis), Arc::clone(&entry.text)))
    }

    fn keep(&self, basis: Basis, text: Arc<Text>, now: &Now) {
        let name: Box<str> = text.name().as_str().into();
        let entry = Entry { basis: Arc::new(basis), text, used: now.moment() };
        let size = entry.size();
        let mut state = self.lock();
        state.forget(&name);
        if state.bytes + size > MOST_BYTES {
            state.make_room(now.moment());
        }
        if state.bytes + size <= MOST_BYTES {
            state.bytes += size;
            state.views.insert(name, entry);
        }
    }

    fn forget(&self, name: &str) {
        self.lock().forget(name);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing panics under this lock, so a poisoned one holds whole values.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn forget(&mut self, name: &str) {
        if let Some(entry) = self.views.remove(name) {
            self.bytes -= entry.size();
        }
    }

    /// Forgets what nobody has asked for lately, at most once a second.
    fn make_room(&mut self, now: Moment) {
        if now.since(self.swept) < Duration::from_secs(1) {
            return;
        }
        self.swept = now;
        let State { views, bytes, .. } = self;
        views.retain(|_, entry| {
            let keep = now.since(entry.used) < IDLE;
            *bytes -= if keep { 0 } else { entry.size() };
            keep
        });
    }
}

impl fmt::Debug for Kept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Kept")
    }
}

impl Control {
    /// As [`services`](Self::services), ready to be sent.
    ///
    /// # Errors
    /// What the store says.
    pub async fn rendered_services(
        &self,
        after: Option<&str>,
        limit: usize,
    ) -> ControlResult<Vec<RenderedService>> {
        let is_live = |name: &str, version: &Version| self.kept.is_live(name, version);
        let read = self.store.live_service_records(after, limit, is_live).await?;
        let now = self.now();
        let mut services = Vec::with_capacity(read.len());
        for read in read {
            services.extend(self.rendered(read, &now).await?);
        }
        Ok(services)
    }

    /// As [`service`](Self::service), ready to be sent.
    ///
    /// # Errors
    /// `NotFound`.
    pub async fn rendered_service(&self, name: &ServiceName) -> ControlResult<RenderedService> {
        let found = match self.store.service_records(name).await? {
            Some(read) => self.rendered(read, &self.now()).await?,
            None => None,
        };
        found.ok_or_else(|| no_service(name))
    }

    fn now(&self) -> Now {
        Now::new(self.env.clock().monotonic(), self.env.clock().wall())
    }

    /// The view of these records. None: the service has no revision, so it does not exist.
    ///
    /// # Errors
    /// What the store says.
    async fn rendered(&self, read: ServiceRecords, now: &Now) -> ControlResult<Option<RenderedService>> {
        let sight = self.controller.observer().sight();
        if let Some((basis, text)) = self.kept.find(&read, &sight, now)
            && self.operation_is_still(&basis).await?
        {
            return Ok(Some(text.told(&sight.table, now)));
        }
        let Some(snapshot) = self.controller.observer().assemble(read).await? else { return Ok(None) };
        let view = self.service_view(&snapshot);
        let text = Arc::new(Text::of(&view)?);
        match Basis::of(&snapshot, &view.conditions) {
            Some(basis) => self.kept.keep(basis, Arc::clone(&text), now),
            None => self.kept.forget(text.name().as_str()),
        }
        Ok(Some(text.told(&snapshot.sight.table, now)))
    }

    async fn operation_is_still(&self, basis: &Basis) -> ControlResult<bool> {
        let Some((id, version)) = &basis.operation else { return Ok(true) };
        let key = self.store.operation_key(id)?;
        let found = self.store.records().db().get(&key).await?;
        Ok(found.map(|record| record.version) == *version)
    }
}

#[cfg(all(test, feature = "testing"))]
mod tests;
