//! What happened, in lanes: one for every actor and every resource.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crate::model::Fact;
use crate::run::{Outcome, Violation};
use crate::time::Time;
use crate::trace::{FACT, Stage};

/// What an event is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mark {
    /// Something happened.
    Plain,
    /// Something begins that lasts: an engine runs, a node is down.
    Begins,
    /// It ends.
    Ends,
    /// A fault befell a call.
    Fault,
    /// The environment or a user did something.
    Script,
    /// A rule was broken.
    Bad,
    /// A call that may change something took effect.
    Call,
}

/// Something that happened.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    /// When.
    pub at: Time,
    /// Whom and what it concerns, the main one first.
    pub lanes: Vec<String>,
    /// Under which epoch, if one is known.
    pub epoch: Option<u64>,
    /// What it is.
    pub mark: Mark,
    /// In words.
    pub text: String,
}

/// A run, told.
#[derive(Debug, Clone, Default)]
pub struct Story {
    /// Everything that can be told, in order, calls that change nothing left out.
    pub events: Vec<Event>,
    /// The index of the first bad event.
    pub bad: Option<usize>,
}

impl Story {
    /// Tells a run.
    pub fn of(outcome: &Outcome) -> Self {
        let mut events = Vec::new();
        let mut epochs: BTreeMap<String, u64> = BTreeMap::new();
        for entry in &outcome.trace {
            if entry.site == FACT {
                let fact = outcome.facts.get(entry.nth as usize);
                events.extend(fact.and_then(|(at, fact)| of_fact(*at, fact, &mut epochs)));
            } else if entry.stage == Stage::Effect
                && let Some(site) = outcome.sites.get(entry.site as usize)
                && site.writes
                && !is_routine(&site.resource)
            {
                let lanes = vec![site.actor.clone(), lane_of(&site.resource)];
                let text = format!("{} {} {} #{}", site.workflow, site.operation, site.resource, entry.nth);
                events.push(Event { at: entry.at, lanes, epoch: None, mark: Mark::Call, text });
            }
        }
        let mut story = Story { events, bad: None };
        if let Some(violation) = outcome.violations.first() {
            story.add_bad(violation);
        }
        story
    }

    fn add_bad(&mut self, violation: &Violation) {
        let known: BTreeSet<&String> = self.events.iter().flat_map(|event| &event.lanes).collect();
        let mut lanes: Vec<String> =
            known.into_iter().filter(|lane| names(&violation.text, lane)).cloned().collect();
        lanes.insert(0, format!("rule {}", violation.rule));
        let text = violation.text.clone();
        let index = self.events.partition_point(|event| event.at <= violation.at);
        self.events.insert(index, Event { at: violation.at, lanes, epoch: None, mark: Mark::Bad, text });
        self.bad = Some(index);
    }

    /// The events that led up to the bad one: the last in each of its lanes, the last in each of theirs, and so on,
    /// until there are so many.
    pub fn led_up(&self, most: usize) -> Vec<&Event> {
        let Some(bad) = self.bad else { return Vec::new() };
        let mut found: BTreeSet<usize> = BTreeSet::from([bad]);
        let mut next = VecDeque::from([bad]);
        while let Some(index) = next.pop_front() {
            let Some(event) = self.events.get(index) else { continue };
            for lane in &event.lanes {
                let before = self.events.iter().take(index).rposition(|event| event.lanes.contains(lane));
                if let Some(before) = before
                    && found.len() <= most
                    && found.insert(before)
                {
                    next.push_back(before);
                }
            }
        }
        found.into_iter().filter_map(|index| self.events.get(index)).collect()
    }

    /// Every lane, actors first, in the order in which they come up.
    pub fn lanes(&self) -> Vec<&str> {
        let mut seen = BTreeSet::new();
        let all = self.events.iter().flat_map(|event| event.lanes.iter().map(String::as_str));
        let mut lanes: Vec<&str> = all.filter(|lane| seen.insert(*lane)).collect();
        lanes.sort_by_key(|lane| rank(lane));
        lanes
    }
}

/// The order of kinds of lanes.
fn rank(lane: &str) -> (u8, String) {
    let kinds = ["rule ", "the world", "server@", "agent@", "node-", "volume ", "address ", "name "];
    let kind = kinds.iter().position(|kind| lane.starts_with(kind)).unwrap_or(kinds.len());
    (u8::try_from(kind).unwrap_or(u8::MAX), lane.to_owned())
}

/// Whether a text names a lane: as a word, not as the beginning of another.
fn names(text: &str, lane: &str) -> bool {
    let lane = lane.split_once(' ').map_or(lane, |(_, name)| name);
    let ends = |letter: char| !letter.is_alphanumeric() && letter != '-' && letter != '.';
    text.match_indices(lane).any(|(at, _)| {
        text[..at].chars().next_back().is_none_or(ends)
            && text[at + lane.len()..].chars().next().is_none_or(ends)
    })
}

/// What is written all the time, and says nothing.
fn is_routine(resource: &str) -> bool {
    resource.starts_with("nodes/") || resource.starts_with("leases/") || resource.starts_with("status/")
}

/// The lane of a resource: a member's own if it names one.
fn lane_of(resource: &str) -> String {
    resource.rsplit('/').next().unwrap_or(resource).to_owned()
}

fn of_fact(at: Time, fact: &Fact, epochs: &mut BTreeMap<String, u64>) -> Option<Event> {
    let event = |lanes: &[&str], mark: Mark, text: String| {
        Some(Event {
            at,
            lanes: lanes.iter().map(|lane| (*lane).to_owned()).collect(),
            epoch: None,
            mark,
            text,
        })
    };
    let volume_lane = |volume: &str| format!("volume {}", volume.splitn(3, '-').nth(2).unwrap_or(volume));
    match fact {
        Fact::NodeUp { node } => event(&[node.as_str()], Mark::Ends, format!("{node} is on")),
        Fact::NodeDown { node } => event(&[node.as_str()], Mark::Begins, format!("{node} is off")),
        Fact::NodePaused { node } => event(&[node.as_str()], Mark::Begins, format!("{node} stands still")),
        Fact::NodeResumed { node } => event(&[node.as_str()], Mark::Ends, format!("{node} goes on")),
        Fact::ProcessUp { actor } => event(&[actor], Mark::Ends, format!("{actor} begins")),
        Fact::ProcessDown { actor } => event(&[actor], Mark::Begins, format!("{actor} ends")),
        Fact::EngineStarted { member, node, epoch, volume, .. } => {
            let number = epoch.to_string().parse().ok();
            epochs.extend(number.map(|number| (member.to_string(), number)));
            let text = format!("{member} is started on {node} under epoch {epoch}");
            let lanes = [member.as_str(), node.as_str(), &volume_lane(volume.as_str())];
            let mut event = event(&lanes, Mark::Begins, text)?;
            event.epoch = number;
            Some(event)
        }
        Fact::NotStarted { member, node, why } => event(
            &[member.as_str(), node.as_str()],
            Mark::Plain,
            format!("{member} is not started on {node}: {why}"),
        ),
        Fact::EngineUp { member, node, .. } => {
            event(&[member.as_str(), node.as_str()], Mark::Plain, format!("{member} on {node} answers"))
        }
        Fact::EngineDown { member, node, why, .. } => {
            let text = format!("{member} on {node} ends: {why}");
            let mut event = event(&[member.as_str(), node.as_str()], Mark::Ends, text)?;
            event.epoch = epochs.get(member.as_str()).copied();
            Some(event)
        }
        Fact::Leads { member, node, leads, .. } => {
            let does = if *leads { "takes writes" } else { "takes no more writes" };
            event(&[member.as_str(), node.as_str()], Mark::Plain, format!("{member} on {node} {does}"))
        }
        Fact::WriteRefused { member, node, volume } => {
            let lanes = [member.as_str(), node.as_str(), &volume_lane(volume.as_str())];
            event(&lanes, Mark::Plain, format!("the storage refuses {node}'s write for {member}"))
        }
        Fact::DataMade { member, volume } => {
            let lanes = [member.as_str(), &volume_lane(volume.as_str())];
            event(&lanes, Mark::Plain, format!("{member} gets its first data"))
        }
        Fact::Rewound { member, writes } => {
            event(&[member.as_str()], Mark::Plain, format!("{member} throws {writes} writes away"))
        }
        Fact::VolumeMade { volume } => {
            event(&[&volume_lane(volume.as_str())], Mark::Plain, format!("{volume} is made"))
        }
        Fact::VolumeDeleted { volume } => {
            event(&[&volume_lane(volume.as_str())], Mark::Plain, format!("{volume} is deleted"))
        }
        Fact::Attached { volume, node } => {
            let lanes = [&*volume_lane(volume.as_str()), node.as_str()];
            event(&lanes, Mark::Plain, format!("{volume} is attached to {node}"))
        }
        Fact::Detached { volume } => {
            event(&[&volume_lane(volume.as_str())], Mark::Plain, format!("{volume} is free"))
        }
        Fact::AddressMoved { address, to } => {
            let holder = to.as_ref().map_or("nobody", |node| node.as_str());
            event(&[&format!("address {address}"), holder], Mark::Plain, format!("{address} is {holder}'s"))
        }
        Fact::NameSet { name, set, returned } => {
            let late = if *returned { ", by a change that is older than it looks" } else { "" };
            event(&[&format!("name {name}")], Mark::Plain, format!("{name} is {set:?}{late}"))
        }
        Fact::NameRemoved { name } => {
            event(&[&format!("name {name}")], Mark::Plain, format!("{name} is taken away"))
        }
        Fact::GroupRecorded { service, group, .. } => {
            let change = group.change.map_or(String::new(), |change| format!(", the last one {change:?}"));
            event(
                &[service.as_str()],
                Mark::Plain,
                format!("{service} has {} members{change}", group.replicas),
            )
        }
        Fact::Fault { text } => {
            let actor =
                text.split(" at ").nth(1).and_then(|key| key.split(' ').next()).unwrap_or("the world");
            event(&[actor], Mark::Fault, text.clone())
        }
        Fact::Scripted { text } => event(&["the world"], Mark::Script, text.clone()),
        Fact::Healing => event(&["the world"], Mark::Script, "everything is repaired".to_owned()),
        Fact::Wrote { .. } | Fact::Acknowledged { .. } | Fact::WriteFailed { .. } => None,
        other => event(&["the world"], Mark::Plain, format!("{other:?}")),
    }
}
