//! What a run came by: tuples of step, fault and state, for feedback; and what has to happen sometimes.

use std::collections::{BTreeMap, BTreeSet};

use super::sites::Folded;
use crate::hash::Hasher;
use crate::model::Fact;
use crate::run::Outcome;
use crate::time::Time;

/// What has to happen in some run of every large batch: else the batch tests less than it seems to.
pub const SOMETIMES: &[(&str, &str)] = &[
    ("moved", "a member's engine was started on a second node"),
    ("promoted", "a second member of a service took writes"),
    ("taken-over", "two servers worked on operations"),
    ("self-fenced", "a guard ended its engine with its lease"),
    ("rewound", "data was thrown away to follow another history"),
    ("node-back", "a node that was lost came back"),
    ("detached", "a volume was taken from a node"),
    ("write-failed", "a client's write was not confirmed in time"),
    ("agent-crashed", "an agent was started again"),
];

/// What of [`SOMETIMES`] has happened in a run.
pub fn reached(outcome: &Outcome) -> BTreeSet<&'static str> {
    let mut reached = BTreeSet::new();
    let mut nodes: BTreeMap<&str, &str> = BTreeMap::new();
    let mut leaders: BTreeSet<&str> = BTreeSet::new();
    let mut down: BTreeSet<&str> = BTreeSet::new();
    for (_, fact) in &outcome.facts {
        match fact {
            Fact::EngineStarted { member, node, .. }
                if nodes
                    .insert(member.as_str(), node.as_str())
                    .is_some_and(|before| before != node.as_str()) =>
            {
                reached.insert("moved");
            }
            Fact::Leads { member, leads: true, .. } => {
                leaders.insert(member.as_str());
                if leaders.len() > 1 {
                    reached.insert("promoted");
                }
            }
            Fact::EngineDown { why: "its lease has ended", .. } => {
                reached.insert("self-fenced");
            }
            Fact::Rewound { .. } => {
                reached.insert("rewound");
            }
            Fact::NodeDown { node } => {
                down.insert(node.as_str());
            }
            Fact::NodeUp { node } if down.contains(node.as_str()) => {
                reached.insert("node-back");
            }
            Fact::Detached { .. } => {
                reached.insert("detached");
            }
            Fact::WriteFailed { .. } => {
                reached.insert("write-failed");
            }
            Fact::ProcessDown { actor } if actor.starts_with("agent@") => {
                reached.insert("agent-crashed");
            }
            _ => {}
        }
    }
    let operates = |site: &&crate::key::Site| {
        site.operation == "metadata.put" && site.resource.starts_with("operations/")
    };
    let servers: BTreeSet<&str> = outcome.sites.iter().filter(operates).map(|s| s.actor.as_str()).collect();
    if servers.len() > 1 {
        reached.insert("taken-over");
    }
    reached
}

/// The state of a cluster, in few words.
#[derive(Default)]
struct Rough {
    nodes_down: u32,
    nodes_paused: u32,
    processes_down: u32,
    engines: u32,
    leaders: u32,
}

impl Rough {
    fn note(&mut self, fact: &Fact) {
        let less = |count: &mut u32| *count = count.saturating_sub(1);
        match fact {
            Fact::NodeDown { .. } => self.nodes_down += 1,
            Fact::NodeUp { .. } => less(&mut self.nodes_down),
            Fact::NodePaused { .. } => self.nodes_paused += 1,
            Fact::NodeResumed { .. } => less(&mut self.nodes_paused),
            Fact::ProcessDown { .. } => self.processes_down += 1,
            Fact::ProcessUp { .. } => less(&mut self.processes_down),
            Fact::EngineStarted { .. } => self.engines += 1,
            Fact::EngineDown { .. } => less(&mut self.engines),
            Fact::Leads { leads: true, .. } => self.leaders += 1,
            Fact::Leads { leads: false, .. } => less(&mut self.leaders),
            _ => {}
        }
    }

    fn word(&self) -> u64 {
        let bits = [self.nodes_down, self.nodes_paused, self.processes_down, self.engines, self.leaders];
        bits.iter().fold(0, |word, count| word << 3 | u64::from((*count).min(4)))
    }
}

/// The hashes of (step, class of fault, state of the cluster) of every fault of a run.
pub fn tuples(outcome: &Outcome) -> BTreeSet<u64> {
    let mut facts = outcome.facts.iter().peekable();
    let mut rough = Rough::default();
    let mut tuples = BTreeSet::new();
    for fired in &outcome.fired {
        while let Some((_, fact)) = facts.next_if(|(at, _): &&(Time, Fact)| *at <= fired.at) {
            rough.note(fact);
        }
        let mut hasher = Hasher::default();
        let folded = Folded::of_key(&fired.planned.at);
        for text in [&folded.role, &folded.workflow, &folded.operation, &folded.resource] {
            hasher.bytes(text.as_bytes());
        }
        hasher.word(fired.planned.fault.class() as u64);
        hasher.word(rough.word());
        tuples.insert(hasher.finish());
    }
    tuples
}
