//! `/metrics`: what a server knows of itself and of the cluster, as text for Prometheus. Nothing is asked for it:
//! what is told is what the last look at the nodes and services left in memory.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Instant;

use steadfast_backends::remote::SwitchDb;
use steadfast_core::control::Control;
use steadfast_core::ids::ClusterName;
use steadfast_core::model::NodeHealth;

/// What the numbers are taken from.
#[derive(Debug)]
pub(super) struct Metrics {
    cluster: ClusterName,
    control: Control,
    db: SwitchDb,
    begun: Instant,
}

impl Metrics {
    pub(super) fn new(cluster: ClusterName, control: Control, db: SwitchDb) -> Self {
        Metrics { cluster, control, db, begun: Instant::now() }
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
        page.text
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
