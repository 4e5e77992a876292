//! `/metrics`: what a server knows of itself and of the cluster, as text for Prometheus. Nothing is asked for it:
//! what is told is what the last look at the nodes and services left in memory.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::atomic::Ordering;
use std::time::Instant;

use steadfast_backends::remote::SwitchDb;
use steadfast_core::control::Control;
use steadfast_core::ids::ClusterName;
use steadfast_core::layer::CallCounters;
use steadfast_core::model::NodeHealth;

/// What the numbers are taken from.
#[derive(Debug)]
pub(super) struct Metrics {
    cluster: ClusterName,
    control: Control,
    db: SwitchDb,
    counters: CallCounters,
    begun: Instant,
}

impl Metrics {
    pub(super) fn new(cluster: ClusterName, control: Control, db: SwitchDb, counters: CallCounters) -> Self {
        Metrics { cluster, control, db, counters, begun: Instant::now() }
    }

    /// The text.
    pub(super) fn text(&self) -> String {
        let mut page = Page { cluster: self.cluster.to_string(), text: String::new() };
        page.one(
            "build_info",
            "gauge",
            "The build that answers.",
            &[("version", env!("CARGO_PKG_VERSION"))],
            1.0,
        );
        let uptime = self.begun.elapsed().as_secs_f64();
        page.one("server_uptime_seconds", "gauge", "How long this server has run.", &[], uptime);
        if let Some(bytes) = resident_bytes() {
            page.one("process_resident_memory_bytes", "gauge", "Memory of this process.", &[], bytes);
        }
        let owner = f64::from(u8::from(self.db.is_owner()));
        page.one(
            "server_owns_store",
            "gauge",
            "Whether this server owns the store (1) or follows (0).",
            &[],
            owner,
        );
        let backlog = f64::from(u32::try_from(self.control.controller().backlog()).unwrap_or(u32::MAX));
        page.one("reconcile_queue_depth", "gauge", "How many services wait for a pass.", &[], backlog);
        self.nodes(&mut page);
        self.services(&mut page);
        self.calls(&mut page);
        page.text
    }

    /// Each server tells of the services in its own share of the work: the sum over servers is the cluster's.
    fn services(&self, page: &mut Page) {
        let mut by_state: BTreeMap<String, f64> = BTreeMap::new();
        for state in self.control.controller().states().into_values() {
            *by_state.entry(state.to_string()).or_default() += 1.0;
        }
        page.head("services", "gauge", "How many services this server works on, by state at the last pass.");
        for (state, count) in by_state {
            page.sample("services", &[("phase", &state)], count);
        }
    }

    fn calls(&self, page: &mut Page) {
        let name = "backend_calls_total";
        page.head(name, "counter", "Calls of backends, by contract, operation and how they ended.");
        for (contract, operation, counter) in self.counters.iter() {
            let ends = [
                ("succeeded", &counter.succeeded),
                ("failed_without_effect", &counter.failed_without_effect),
                ("failed_unknown", &counter.failed_unknown),
                ("abandoned", &counter.abandoned),
                ("repeated", &counter.repeated),
            ];
            for (outcome, count) in ends {
                let count = count.load(Ordering::Relaxed);
                if count > 0 {
                    let labels = [("contract", contract), ("operation", operation), ("outcome", outcome)];
                    page.sample(name, &labels, counted(count));
                }
            }
        }
        let name = "backend_call_seconds_total";
        page.head(name, "counter", "Time spent in calls of backends, by contract and operation.");
        for (contract, operation, counter) in self.counters.iter() {
            let nanoseconds = counter.nanoseconds.load(Ordering::Relaxed);
            if nanoseconds > 0 {
                let seconds = std::time::Duration::from_nanos(nanoseconds).as_secs_f64();
                page.sample(name, &[("contract", contract), ("operation", operation)], seconds);
            }
        }
    }

    fn nodes(&self, page: &mut Page) {
        let mut by_health: BTreeMap<&str, f64> =
            ["Ready", "Suspect", "Dead", "Draining", "Unknown"].map(|health| (health, 0.0)).into();
        let mut members = 0.0;
        for node in self.control.nodes() {
            let health = match node.health {
                NodeHealth::Ready => "Ready",
                NodeHealth::Suspect => "Suspect",
                NodeHealth::Dead(_) => "Dead",
                NodeHealth::Draining => "Draining",
                NodeHealth::Unknown => "Unknown",
            };
            *by_health.entry(health).or_default() += 1.0;
            members += node.members.iter().map(|_| 1.0).sum::<f64>();
        }
        page.head("nodes", "gauge", "How many nodes there are, by health.");
        for (health, count) in by_health {
            page.sample("nodes", &[("phase", health)], count);
        }
        page.one("members_placed", "gauge", "How many members are on nodes.", &[], members);
    }
}

/// A count as Prometheus has it. Beyond 2^32 it stays there: nobody counts that far between two restarts.
fn counted(count: u64) -> f64 {
    f64::from(u32::try_from(count).unwrap_or(u32::MAX))
}

struct Page {
    cluster: String,
    text: String,
}

impl Page {
    fn head(&mut self, name: &str, kind: &str, help: &str) {
        // Writing to a string does not fail.
        writeln!(self.text, "# HELP steadfast_{name} {help}\n# TYPE steadfast_{name} {kind}")
            .unwrap_or_default();
    }

    /// Label values of ours are names and codes: nothing in them needs escaping.
    fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: f64) {
        let more: String = labels.iter().map(|(label, text)| format!(",{label}=\"{text}\"")).collect();
        writeln!(self.text, "steadfast_{name}{{cluster=\"{}\"{more}}} {value}", self.cluster)
            .unwrap_or_default();
    }

    fn one(&mut self, name: &str, kind: &str, help: &str, labels: &[(&str, &str)], value: f64) {
        self.head(name, kind, help);
        self.sample(name, labels, value);
    }
}

fn resident_bytes() -> Option<f64> {
    let text = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kibibytes: f64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kibibytes * 1024.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_has_help_type_and_labels() {
        let mut page = Page { cluster: "local".to_owned(), text: String::new() };
        page.one("nodes", "gauge", "Nodes.", &[("phase", "Ready")], 3.0);
        assert_eq!(
            page.text,
            "# HELP steadfast_nodes Nodes.\n# TYPE steadfast_nodes gauge\n\
             steadfast_nodes{cluster=\"local\",phase=\"Ready\"} 3\n"
        );
        assert!(resident_bytes().unwrap() > 0.0);
    }
}
