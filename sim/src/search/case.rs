//! Cases: a run named by its reference, with what differs from it.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use super::library;
use crate::env::ClockSkew;
use crate::exec::Schedule;
use crate::fault::{Plan, Planned, RandomFaults};
use crate::model::Profile;
use crate::planted::{Planted, references};
use crate::run::{Action, Scenario, Scripted};

/// A run: a reference scenario on a profile, with a seed, with what is different, and with what goes wrong.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Case {
    /// The reference scenario, as [`library`] names it.
    pub scenario: String,
    /// The profile, as [`Profile`] names it.
    pub profile: String,
    /// The seed of everything that is drawn.
    pub seed: u64,
    /// What differs from the reference.
    #[serde(default, skip_serializing_if = "Change::is_none")]
    pub change: Change,
    /// What goes wrong, by key.
    #[serde(default)]
    pub faults: Vec<Planned>,
    /// What goes wrong at random.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub random: Option<RandomFaults>,
    /// The bugs that are planted, in a build that has them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub planted: Vec<Planted>,
}

/// What differs from a reference scenario.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Change {
    /// How many zones.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub zones: Option<u32>,
    /// How many nodes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nodes: Option<u32>,
    /// How many servers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub servers: Option<u32>,
    /// How many members each service has.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replicas: Option<u32>,
    /// How many clients each service has.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub clients: Option<u32>,
    /// How long things may go wrong, in milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub storm_ms: Option<u64>,
    /// How long processes take to be started again, in milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub restart_ms: Option<u64>,
    /// The clocks that are wrong.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub clocks: Option<BTreeMap<String, ClockSkew>>,
    /// What happens to the environment, and what users ask.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub script: Option<Vec<Scripted>>,
    /// Which of the tasks that are ready goes first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub schedule: Option<Schedule>,
    /// The nodes that stay off for ever.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dead: Option<Vec<String>>,
}

impl Change {
    /// Whether nothing differs.
    pub fn is_none(&self) -> bool {
        *self == Change::default()
    }
}

/// Why a case cannot be carried out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CaseError {
    /// No reference scenario has this name.
    UnknownScenario(String),
    /// No profile has this name.
    UnknownProfile(String),
    /// Something in it is not valid.
    Invalid(String),
}

impl fmt::Display for CaseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CaseError::UnknownScenario(name) if name.starts_with(library::OF_SUITE) => write!(
                f,
                "the plan is of a suite, \"{name}\": replay it with {}=PLAN cargo test, where that suite is",
                crate::suite::PLAN
            ),
            CaseError::UnknownScenario(name) => write!(
                f,
                "there is no scenario \"{name}\"; there are: {}",
                library::ALL.iter().map(|reference| reference.name).collect::<Vec<_>>().join(", ")
            ),
            CaseError::UnknownProfile(name) => {
                write!(f, "there is no profile \"{name}\"; there are: {}", library::PROFILES.join(", "))
            }
            CaseError::Invalid(why) => f.write_str(why),
        }
    }
}

impl std::error::Error for CaseError {}

/// The profile of this name.
///
/// # Errors
/// If there is none.
pub fn profile(name: &str) -> Result<Profile, CaseError> {
    match name {
        "embedded" => Ok(Profile::embedded()),
        "block-storage" => Ok(Profile::block_storage()),
        "shared-storage" => Ok(Profile::shared_storage()),
        "leases" => Ok(Profile::leases()),
        "local-disks" => Ok(Profile::local_disks()),
        _ => Err(CaseError::UnknownProfile(name.to_owned())),
    }
}

impl Case {
    /// A reference run, nothing going wrong.
    pub fn new(scenario: &str, profile: &str, seed: u64) -> Self {
        Case {
            scenario: scenario.to_owned(),
            profile: profile.to_owned(),
            seed,
            change: Change::default(),
            faults: Vec::new(),
            random: None,
            planted: Vec::new(),
        }
    }

    /// The same with these faults instead.
    #[must_use]
    pub fn with(&self, faults: Vec<Planned>) -> Self {
        Case { faults, ..self.clone() }
    }

    /// The scenario that it stands for.
    ///
    /// # Errors
    /// If it names something that is not there.
    pub fn build(&self) -> Result<Scenario, CaseError> {
        let mut scenario = self.reference()?;
        let change = self.change.clone();
        let set = |place: &mut u32, to: Option<u32>| *place = to.unwrap_or(*place);
        set(&mut scenario.zones, change.zones);
        set(&mut scenario.nodes, change.nodes);
        set(&mut scenario.servers, change.servers);
        set(&mut scenario.clients.per_service, change.clients);
        for service in &mut scenario.services {
            set(&mut service.replicas, change.replicas);
        }
        if self.scenario != library::OWN && (scenario.nodes == 0 || scenario.servers == 0) {
            return Err(CaseError::Invalid("a run needs at least one node and one server".to_owned()));
        }
        scenario.storm_ms = change.storm_ms.unwrap_or(scenario.storm_ms);
        scenario.restart_ms = change.restart_ms.unwrap_or(scenario.restart_ms);
        scenario.schedule = change.schedule.unwrap_or(scenario.schedule);
        scenario.clocks = change.clocks.unwrap_or(scenario.clocks);
        scenario.script = change.script.unwrap_or(scenario.script);
        for scripted in &mut scenario.script {
            // An upgrade keeps the number of members.
            if let Action::Upgrade(file) = &mut scripted.action {
                set(&mut file.replicas, change.replicas);
            }
        }
        scenario.heal.dead = change.dead.unwrap_or(scenario.heal.dead);
        scenario.plan = Plan { faults: self.faults.clone(), random: self.random.clone() };
        scenario.planted.clone_from(&self.planted);
        Ok(scenario)
    }

    /// The reference as it is: of the library, or one that hunts for planted bugs begin with.
    fn reference(&self) -> Result<Scenario, CaseError> {
        let profile = profile(&self.profile)?;
        if let Some(reference) = library::find(&self.scenario) {
            return Ok(reference.scenario(profile, self.seed));
        }
        let hunted = references().into_iter().find(|hunted| hunted.name == self.scenario);
        let hunted = hunted.ok_or_else(|| CaseError::UnknownScenario(self.scenario.clone()))?;
        if hunted.profile.name != profile.name {
            let (name, own) = (&self.scenario, &hunted.profile.name);
            return Err(CaseError::Invalid(format!("\"{name}\" is only for the profile \"{own}\"")));
        }
        Ok(Scenario { seed: self.seed, ..hunted })
    }
}
