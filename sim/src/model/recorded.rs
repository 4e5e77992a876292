//! What records say, as facts: for judges, and without what changes all the time.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::de::DeserializeOwned;
use steadfast_core::error::Result;
use steadfast_core::ids::{Incarnation, MemberName, NodeName};
use steadfast_core::metadata::{CasOutcome, Key, Precondition};
use steadfast_core::model::{Member, NodeRecord, Operation, Service};

use super::truth::MemberRecorded;
use super::{Cloud, Fact};
use crate::time::Time;

/// The facts that records told last.
#[derive(Debug, Default)]
pub struct Recorded(BTreeMap<String, Fact>);

impl Cloud {
    /// Writes a record, and notes what it says.
    ///
    /// # Errors
    /// As the store's.
    pub fn put_record(
        &mut self,
        now: Time,
        key: &Key,
        value: &Bytes,
        precondition: &Precondition,
    ) -> Result<CasOutcome> {
        let outcome = self.store.put(key, value, precondition)?;
        if matches!(outcome, CasOutcome::Applied(_)) {
            self.note_record(now, key, value);
        }
        Ok(outcome)
    }

    /// Writes a record over whatever is there.
    pub fn put_blindly(&mut self, now: Time, key: &Key, value: &Bytes) -> CasOutcome {
        self.store.poison(key, value.clone());
        self.note_record(now, key, value);
        let written = self.store.get(key).map(|record| record.version);
        written.map_or(CasOutcome::Conflict, CasOutcome::Applied)
    }

    /// Notes that a process asks for something that only a member's holder may.
    pub fn note_asked(
        &mut self,
        now: Time,
        by: &str,
        what: &'static str,
        member: MemberName,
        from: Option<&NodeName>,
    ) {
        self.truth.note(now, Fact::Asked { by: by.to_owned(), what, member, from: from.cloned() });
    }

    /// The life of a node that its record tells of: what people see.
    pub fn recorded_life(&self, node: &NodeName) -> Option<Incarnation> {
        let key = format!("steadfast/sim/nodes/{node}/record").parse().ok()?;
        Some(body::<NodeRecord>(&self.store.get(&key)?.value)?.incarnation)
    }

    /// Notes what a record says that was written.
    pub fn note_record(&mut self, now: Time, key: &Key, value: &Bytes) {
        for fact in facts_of(key, value) {
            let told = match &fact {
                Fact::LeadRecorded { service, .. } => format!("{service} is led"),
                Fact::GroupRecorded { service, name, .. } => format!("{service} has {name}"),
                _ => key.to_string(),
            };
            if self.recorded.0.get(&told) != Some(&fact) {
                self.truth.note(now, fact.clone());
                self.recorded.0.insert(told, fact);
            }
        }
    }
}

fn facts_of(key: &Key, value: &Bytes) -> Vec<Fact> {
    match key.segments().nth(2) {
        Some("members") => body::<Member>(value).map(member).into_iter().collect(),
        Some("services") => body::<Service>(value).map(service).unwrap_or_default(),
        Some("operations") => body::<Operation>(value).map(operation).into_iter().collect(),
        _ => Vec::new(),
    }
}

fn body<T: DeserializeOwned>(value: &Bytes) -> Option<T> {
    #[derive(serde::Deserialize)]
    struct Record<T> {
        body: T,
    }
    serde_json::from_slice::<Record<T>>(value).ok().map(|record| record.body)
}

fn member(member: Member) -> Fact {
    Fact::MemberRecorded(Box::new(MemberRecorded {
        id: member.id.to_string(),
        member: member.name,
        service: member.service,
        epoch: member.epoch,
        holder: member.holder.map(|holder| holder.node),
        placed_on: member.placed_on,
        unreleased: member.unreleased.into_iter().map(|holder| holder.node).collect(),
        generation: member.generation,
        revision: member.revision,
        run: member.run,
        phase: member.phase,
    }))
}

fn service(record: Service) -> Vec<Fact> {
    let service = record.name;
    let groups = record.groups.into_iter();
    let groups = groups.map(|(name, group)| Fact::GroupRecorded { service: service.clone(), name, group });
    let roles = record.roles.into_values();
    groups.chain(roles.map(|role| Fact::LeadRecorded { service: service.clone(), role })).collect()
}

fn operation(operation: Operation) -> Fact {
    Fact::OperationRecorded {
        service: operation.service,
        id: operation.id.to_string(),
        kind: operation.kind,
        state: operation.state,
        key: operation.idempotency_key,
    }
}
