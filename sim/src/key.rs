//! Keys: call sites addressed by meaning, so that a plan survives changes elsewhere in the code.

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};

use serde::{Deserialize, Serialize};

use crate::hash::Hasher;

/// One call of a run: who, in the course of what, asked what of which thing, for the how-manyth time.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Key {
    /// Who calls: `agent@node-1`, `server@s1`. A restarted process is the same actor.
    pub actor: String,
    /// The task that calls: `member`, `worker`, `shards`.
    pub workflow: String,
    /// The contract and operation: `volume.begin_attach`.
    pub operation: String,
    /// What it is about, without anything random: `members/orders/orders-0`, `volume/orders-0/data`.
    pub resource: String,
    /// How many calls of this actor, workflow, operation and resource came before.
    pub nth: u32,
}

impl Key {
    /// The hash of everything but the number.
    pub fn site(&self) -> u64 {
        let Key { actor, workflow, operation, resource, nth: _ } = self;
        label_of([actor.as_str(), workflow, operation, resource])
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Key { actor, workflow, operation, resource, nth } = self;
        write!(f, "{actor} {workflow} {operation} {resource} #{nth}")
    }
}

/// The hash of a call site: actor, workflow, operation and resource; or of a part of it.
fn label_of<const N: usize>(parts: [&str; N]) -> u64 {
    let mut hasher = Hasher::default();
    for part in parts {
        hasher.bytes(part.as_bytes());
    }
    hasher.finish()
}

/// A call site of this run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Site {
    /// As in [`Key`].
    pub actor: String,
    /// As in [`Key`].
    pub workflow: &'static str,
    /// As in [`Key`].
    pub operation: &'static str,
    /// As in [`Key`].
    pub resource: String,
    /// Whether a call may change something.
    pub writes: bool,
    /// Whether its calls stay on the caller's machine.
    pub local: bool,
    /// The hash of all of these: the same in every run.
    pub label: u64,
    /// The hash of what is asked, whoever asks; none if the resource does not say it all.
    pub question: Option<u64>,
    /// How many calls it has made.
    pub calls: u32,
}

impl Site {
    /// The key of its `nth` call.
    pub fn key(&self, nth: u32) -> Key {
        Key {
            actor: self.actor.clone(),
            workflow: self.workflow.to_owned(),
            operation: self.operation.to_owned(),
            resource: self.resource.clone(),
            nth,
        }
    }
}

/// Every call site that a run has come by.
#[derive(Debug, Default)]
pub struct Sites {
    all: Vec<Site>,
    by_label: BTreeMap<u64, usize>,
    scratch: String,
}

impl Sites {
    /// Counts a call: its site's index, and how many came before.
    pub fn count(
        &mut self,
        actor: &str,
        workflow: &'static str,
        operation: &'static str,
        resource: &dyn fmt::Display,
        (writes, local): (bool, bool),
    ) -> (usize, u32) {
        self.scratch.clear();
        // Writing to a string does not fail.
        write!(self.scratch, "{resource}").ok();
        let label = label_of([actor, workflow, operation, &self.scratch]);
        let index = *self.by_label.entry(label).or_insert_with(|| {
            let resource = self.scratch.clone();
            let question = (!resource.contains('*')).then(|| label_of([operation, &resource]));
            self.all.push(Site {
                actor: actor.to_owned(),
                workflow,
                operation,
                resource,
                writes,
                local,
                label,
                question,
                calls: 0,
            });
            self.all.len() - 1
        });
        let Some(site) = self.all.get_mut(index) else { return (index, 0) };
        let nth = site.calls;
        site.calls += 1;
        (index, nth)
    }

    /// The sites, for who keeps them: counting begins anew.
    pub fn take(&mut self) -> Vec<Site> {
        std::mem::take(self).all
    }

    /// The sites, in the order in which they first called.
    pub fn all(&self) -> &[Site] {
        &self.all
    }
}
