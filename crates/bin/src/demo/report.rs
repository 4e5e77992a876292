//! What the demonstration has shown.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use serde::Serialize;
use serde_json::{Map, Value};
use steadfast_core::control::EventView;
use steadfast_core::ids::{MemberName, NodeName, ServiceName};

use super::cluster::Cluster;
use super::session::Engine;
use crate::cli::event_line;
use crate::exit::{Context as _, Result};
use crate::output::{Tone, line, paint};

/// When what was reached, counted from the kill.
#[derive(Debug)]
pub(super) struct Phases {
    begun: Instant,
    reached: Vec<(&'static str, u64)>,
}

impl Phases {
    /// Counts from `begun`.
    pub(super) fn new(begun: Instant) -> Self {
        Phases { begun, reached: Vec::new() }
    }

    /// Records that a phase is reached now.
    pub(super) fn reach(&mut self, name: &'static str) {
        self.reach_at(name, Instant::now());
    }

    /// Records that a phase was reached then.
    pub(super) fn reach_at(&mut self, name: &'static str, at: Instant) {
        let since = at.saturating_duration_since(self.begun);
        self.reached.push((name, u64::try_from(since.as_millis()).unwrap_or(u64::MAX)));
    }

    /// Records it unless it was before; says whether it did.
    pub(super) fn reach_once(&mut self, name: &'static str) -> bool {
        let fresh = !self.has(name);
        if fresh {
            self.reach(name);
        }
        fresh
    }

    /// Whether a phase was reached.
    pub(super) fn has(&self, name: &str) -> bool {
        self.reached.iter().any(|(reached, _)| *reached == name)
    }

    /// The last one.
    pub(super) fn newest(&self) -> Option<(&'static str, u64)> {
        self.reached.last().copied()
    }

    /// When the last one was, in milliseconds.
    pub(super) fn last(&self) -> u64 {
        self.newest().map_or(0, |(_, millis)| millis)
    }
}

/// What the demonstration has shown.
#[derive(Debug)]
pub(super) struct Report {
    pub(super) engine: Engine,
    pub(super) service: ServiceName,
    pub(super) member: MemberName,
    pub(super) old_node: NodeName,
    pub(super) new_node: NodeName,
    pub(super) name: String,
    pub(super) name_after: String,
    pub(super) address_before: IpAddr,
    pub(super) address_after: IpAddr,
    pub(super) acknowledged: usize,
    pub(super) lost: Vec<u64>,
    pub(super) longest_gap: Duration,
    pub(super) phases: Phases,
    pub(super) events: Vec<EventView>,
}

/// The document. Its keys are part of the interface.
#[derive(Serialize)]
struct Document<'a> {
    engine: &'a str,
    member: &'a MemberName,
    old_node: &'a NodeName,
    new_node: &'a NodeName,
    name: &'a str,
    address_before: IpAddr,
    address_after: IpAddr,
    acknowledged_writes: usize,
    lost_writes: usize,
    phases_ms: Map<String, Value>,
}

impl Report {
    /// Whether the promise held.
    pub(super) fn holds(&self) -> bool {
        self.lost.is_empty()
            && self.name == self.name_after
            && self.address_before == self.address_after
            && self.old_node != self.new_node
    }

    /// Prints it.
    pub(super) async fn print(&self, cluster: &Cluster, json: bool) -> Result<()> {
        if json {
            return line(&serde_json::to_string_pretty(&self.document()).context("write JSON")?);
        }
        let verdict = if self.holds() {
            paint(Tone::Good, "the member stayed itself")
        } else {
            paint(Tone::Bad, "THE PROMISE DID NOT HOLD")
        };
        let same = |yes: bool| if yes { "the same" } else { "NOT THE SAME" };
        line(&format!("\n{} {verdict}", paint(Tone::Strong, self.engine.blueprint())))?;
        line(&format!("  member    {}", self.member))?;
        line(&format!("  name      {} ({})", self.name, same(self.name == self.name_after)))?;
        let addresses = same(self.address_before == self.address_after);
        line(&format!("  address   {} -> {} ({addresses})", self.address_before, self.address_after))?;
        line(&format!("  node      {} -> {}", self.old_node, self.new_node))?;
        line(&format!("  writes    {} acknowledged, {} lost", self.acknowledged, self.lost.len()))?;
        if let Some(first) = self.lost.first() {
            line(&format!("            the first that is lost: number {first}"))?;
        }
        line(&format!(
            "  outage    {} ms between two acknowledged writes at most",
            self.longest_gap.as_millis()
        ))?;
        line("  after the kill")?;
        // As they happened: a write may be acknowledged before the member is seen to serve.
        let mut reached = self.phases.reached.clone();
        reached.sort_by_key(|(_, millis)| *millis);
        for (name, millis) in &reached {
            line(&format!("    {millis:>6} ms  {}", name.replace('_', " ")))?;
        }
        line("  timeline")?;
        for event in &self.events {
            line(&format!("    {}", event_line(event)))?;
        }
        line("  look around, while it runs (KEEP=1 or --keep leaves it running)")?;
        let given = format!(" --data {}", cluster.data.root().display());
        let dns = cluster.config.dns;
        line(&format!("    dig @{} -p {} {}", dns.ip(), dns.port(), self.name))?;
        line(&format!("    steadfast{given} why {}", self.member))?;
        line(&format!("    steadfast{given} describe {}", self.service))?;
        line(&format!("    {}/docs (the API)", cluster.client.server()))
    }

    fn document(&self) -> Document<'_> {
        let phases = self.phases.reached.iter().map(|(name, millis)| ((*name).to_owned(), (*millis).into()));
        Document {
            engine: self.engine.blueprint(),
            member: &self.member,
            old_node: &self.old_node,
            new_node: &self.new_node,
            name: &self.name,
            address_before: self.address_before,
            address_after: self.address_after,
            acknowledged_writes: self.acknowledged,
            lost_writes: self.lost.len(),
            phases_ms: phases.collect(),
        }
    }
}
