//! What a run is made of, as data.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use steadfast_core::ids::{NodeName, ZoneName};
use steadfast_core::planted::Planted;

use super::pace::Pace;
use super::script::{Action, Scripted, Target, Triggered};
use crate::env::ClockSkew;
use crate::exec::Schedule;
use crate::fault::{Plan, Planned};
use crate::key::Key;
use crate::model::Profile;
use crate::model::host::Way;

/// A run, from beginning to end. The same scenario gives the same trace.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Scenario {
    /// What it is called.
    pub name: String,
    /// What every duration and every identifier is drawn from.
    pub seed: u64,
    /// How the backends behave.
    pub profile: Profile,
    /// How many zones the nodes are spread over.
    pub zones: u32,
    /// How many nodes there are: `node-1`, `node-2`…
    pub nodes: u32,
    /// How many servers there are: `s1`, `s2`…
    pub servers: u32,
    /// The clocks that are wrong, by node or server.
    #[serde(default)]
    pub clocks: BTreeMap<String, ClockSkew>,
    /// The services to create.
    pub services: Vec<ServiceFile>,
    /// Who uses them.
    pub clients: Clients,
    /// How often agents and servers look and renew.
    #[serde(default)]
    pub pace: Pace,
    /// What happens to the environment, and what users ask.
    #[serde(default)]
    pub script: Vec<Scripted>,
    /// What happens when a call is made.
    #[serde(default)]
    pub triggers: Vec<Triggered>,
    /// What goes wrong with calls.
    #[serde(default)]
    pub plan: Plan,
    /// Which of the tasks that are ready goes first.
    #[serde(default, skip_serializing_if = "Schedule::is_fifo")]
    pub schedule: Schedule,
    /// How long a process that has ended takes to be started again, in milliseconds.
    pub restart_ms: u64,
    /// How long things may go wrong, in milliseconds.
    pub storm_ms: u64,
    /// What comes then.
    pub heal: HealPhase,
    /// Whether the run goes on after the first violation.
    #[serde(default)]
    pub all_violations: bool,
    /// The bugs that are planted, in a build that has them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub planted: Vec<Planted>,
}

/// A service to create.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServiceFile {
    /// Its name.
    pub name: String,
    /// Its blueprint: `plain` (a primary and replicas, led by us) or `quorum`.
    pub blueprint: String,
    /// Its members.
    pub replicas: u32,
    /// Everything else of the service file.
    #[serde(default)]
    pub more: BTreeMap<String, Value>,
}

/// The number of members that an operation asks for, if it is a scale.
fn scaled_to(operation: &str) -> Option<u32> {
    operation.strip_prefix("scale to ")?.parse().ok()
}

impl ServiceFile {
    /// Whether its leader is chosen by us, and not by its engines.
    pub fn is_led_by_us(&self) -> bool {
        !self.blueprint.starts_with("quorum")
    }

    /// Whether a member can follow without a vote.
    pub fn has_learners(&self) -> bool {
        !self.is_led_by_us() && self.more.get("options").is_some_and(|options| options["learners"] == true)
    }

    /// The version of its engine.
    pub fn version(&self) -> &str {
        self.blueprint.split_once('@').map_or("1", |(_, version)| version)
    }

    /// The file as users would give it.
    pub fn input(&self) -> Value {
        let mut input = json!({
            "apiVersion": "steadfast/v1",
            "name": self.name,
            "blueprint": self.blueprint,
            "replicas": self.replicas,
        });
        for (key, value) in &self.more {
            input[key] = value.clone();
        }
        input
    }
}

/// Who uses the services.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Clients {
    /// How many there are for each service.
    pub per_service: u32,
    /// How long each waits between two writes, in milliseconds.
    pub every_ms: u64,
    /// How long it waits for a write to be confirmed, in milliseconds.
    pub patience_ms: u64,
    /// How long it keeps what it was told of a name, in milliseconds; none: as long as the name's time to live.
    #[serde(default)]
    pub cache_ms: Option<u64>,
}

/// What comes after the storm: everything is repaired, and the desired state has to be reached and kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HealPhase {
    /// Nodes that stay off for ever.
    #[serde(default)]
    pub dead: Vec<String>,
    /// Zones whose nodes are off for ever from the end of the storm on.
    #[serde(default)]
    pub dead_zones: Vec<String>,
    /// Nodes that stay cut off for ever, in one direction or both, and run on.
    #[serde(default)]
    pub cut: BTreeMap<String, Way>,
    /// Members that stay down, with the reason that each has to declare.
    #[serde(default)]
    pub blocked: BTreeMap<String, String>,
    /// How long it may take, in milliseconds; 0: as long as follows from the scenario's timers, its profile's
    /// durations, and what its faults may leave behind.
    #[serde(default)]
    pub within_ms: u64,
    /// How long it has to stay so, in milliseconds.
    pub stable_ms: u64,
}

impl Scenario {
    /// The fewest nodes on which no two members of a service have to be together on one disk: no guarantee is about losing
    /// both.
    pub(crate) fn fewest_nodes(&self) -> u32 {
        let members = self.services.iter().map(|service| service.replicas).max();
        members.filter(|_| self.profile.volumes.on_nodes).unwrap_or(1).max(1)
    }

    /// The same with one more fault in its plan, if there is one.
    pub(crate) fn with_fault(&self, more: Option<Planned>) -> Cow<'_, Self> {
        let Some(planned) = more else { return Cow::Borrowed(self) };
        let mut scenario = self.clone();
        scenario.plan.faults.push(planned);
        Cow::Owned(scenario)
    }

    /// A calm run: three nodes in three zones, one server, one service of three members and one client.
    pub fn calm(name: &str, profile: Profile, seed: u64) -> Self {
        let accept_lease = profile.lease_margin_ms.is_some();
        let mut more = BTreeMap::new();
        if accept_lease {
            more.insert("fencing".to_owned(), json!({"minimum": "F1", "accept_lease": true}));
        }
        Scenario {
            name: name.to_owned(),
            seed,
            zones: if profile.volumes.zonal { 1 } else { 3 },
            profile,
            nodes: 4,
            servers: 1,
            clocks: BTreeMap::new(),
            services: vec![ServiceFile {
                name: "orders".to_owned(),
                blueprint: "plain".to_owned(),
                replicas: 3,
                more,
            }],
            pace: Pace::default(),
            clients: Clients { per_service: 1, every_ms: 1_000, patience_ms: 5_000, cache_ms: None },
            script: Vec::new(),
            triggers: Vec::new(),
            plan: Plan::default(),
            schedule: Schedule::Fifo,
            restart_ms: 1_000,
            storm_ms: 60_000,
            heal: HealPhase {
                dead: Vec::new(),
                dead_zones: Vec::new(),
                cut: BTreeMap::new(),
                blocked: BTreeMap::new(),
                within_ms: 0,
                stable_ms: 30_000,
            },
            all_violations: false,
            planted: Vec::new(),
        }
    }

    /// A run without machines, servers or services of ours, for programs of one's own on embedded backends.
    pub fn bare(name: &str, seed: u64) -> Self {
        let mut scenario = Scenario::calm(name, Profile::embedded(), seed);
        scenario.nodes = 0;
        scenario.servers = 0;
        scenario.services.clear();
        scenario.profile.call_ms = (1, 20);
        scenario.profile.stale_ms = 10_000;
        scenario
    }

    /// With something that happens at a time.
    #[must_use]
    pub fn at(mut self, at_ms: u64, action: Action) -> Self {
        self.script.push(Scripted { at_ms, action });
        self
    }

    /// With something that happens when a call is made, before it is on its way.
    #[must_use]
    pub fn when(mut self, key: Key, action: Action) -> Self {
        self.triggers.push(Triggered { key, action });
        self
    }

    /// With the node of the primary of `orders` switched off for good at `at_ms`.
    #[must_use]
    pub fn losing_the_primary(self, at_ms: u64) -> Self {
        self.at(at_ms, Action::StopNode(Target::PrimaryOf("orders".to_owned())))
    }

    /// What users ask of a service before a time, in order.
    fn asked<'a>(&'a self, service: &'a str, before_ms: u64) -> impl Iterator<Item = &'a str> {
        let mut asked: Vec<(u64, &str)> = self
            .script
            .iter()
            .filter_map(|scripted| match &scripted.action {
                Action::Ask(operation, of) if of == service => Some((scripted.at_ms, operation.as_str())),
                _ => None,
            })
            .filter(|(at_ms, _)| *at_ms < before_ms)
            .collect();
        asked.sort_by_key(|(at_ms, _)| *at_ms);
        asked.into_iter().map(|(_, operation)| operation)
    }

    /// Whether a service shall run at the end, by the last that users ask for.
    pub fn is_wanted(&self, service: &str) -> bool {
        let last = self
            .asked(service, u64::MAX)
            .filter(|op| matches!(*op, "stop" | "start" | "delete" | "undelete"))
            .last();
        !matches!(last, Some("stop" | "delete"))
    }

    /// How many members a service shall have at the end.
    pub fn replicas_of(&self, file: &ServiceFile) -> u32 {
        self.replicas_before(file, u64::MAX)
    }

    /// How many members users have asked for before a time.
    pub fn replicas_before(&self, file: &ServiceFile, at_ms: u64) -> u32 {
        self.asked(&file.name, at_ms).filter_map(scaled_to).last().unwrap_or(file.replicas)
    }

    /// The most members that a service ever has.
    pub fn most_replicas_of(&self, file: &ServiceFile) -> u32 {
        self.asked(&file.name, u64::MAX).filter_map(scaled_to).fold(file.replicas, u32::max)
    }

    /// The version that the members of a service shall run at the end.
    pub fn version_of<'a>(&'a self, file: &'a ServiceFile) -> &'a str {
        let mut changes: Vec<(u64, &str)> = self
            .script
            .iter()
            .filter_map(|Scripted { at_ms, action }| match action {
                Action::Upgrade(to) if to.name == file.name => Some((*at_ms, to.version())),
                Action::Ask(operation, of) if operation == "roll_back" && *of == file.name => {
                    Some((*at_ms, file.version()))
                }
                _ => None,
            })
            .collect();
        changes.sort_by_key(|(at_ms, _)| *at_ms);
        changes.last().map_or(file.version(), |(_, version)| *version)
    }

    /// The services that let their data move on an expired lease.
    pub fn accepting_leases(&self) -> BTreeSet<String> {
        let accepts = |file: &&ServiceFile| {
            file.more.get("fencing").is_some_and(|fencing| fencing["accept_lease"] == true)
        };
        self.services.iter().filter(accepts).map(|file| file.name.clone()).collect()
    }

    /// The name of a node.
    ///
    /// # Errors
    /// Never.
    pub fn node(&self, index: u32) -> Result<NodeName, String> {
        format!("node-{}", index + 1).parse().map_err(|error| format!("{error}"))
    }

    /// The zone of a node.
    ///
    /// # Errors
    /// Never.
    pub fn zone_of(&self, index: u32) -> Result<ZoneName, String> {
        format!("zone-{}", index % self.zones.max(1) + 1).parse().map_err(|error| format!("{error}"))
    }
}
