//! The format of `blueprint.toml`. Every table refuses keys it does not know.
//!
//! Texts that are called *template* are minijinja templates, those called *expression* minijinja expressions;
//! `docs/blueprints.md` lists what each may name.

mod probe;
mod steps;

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;
use steadfast_core::engine::StopSignal;
use steadfast_core::ids::{BlueprintName, VolumeName};
use steadfast_core::model::{ByteSize, Durability, Leadership, Reason, Span, Topology};

pub use self::probe::{CommandProbe, HttpProbe, PortProbe, PostgresqlProbe, Probe, RedisProbe};
pub use self::steps::{Actions, History, Reconcile, RoleFormat, Roles, Step, Verb};

/// A whole `blueprint.toml`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Format {
    /// The name of the blueprint, and of its folder.
    pub name: BlueprintName,
    /// One line on it.
    pub description: String,
    /// The engine's major versions it is made for; the first is the default.
    pub versions: Vec<String>,
    /// Who decides which member leads.
    pub leadership: Leadership,
    /// How members belong together.
    pub topology: Topology,
    /// What peers and clients know members by.
    #[serde(default)]
    pub identity: Identity,
    /// How long the engine may recover without visible progress.
    pub start_deadline: Span,
    /// In which order members are restarted.
    pub rolling: Rolling,
    /// Whether a member that has lost its data can follow without a vote until it has caught up: it is then configured
    /// with `member.learner`.
    #[serde(default)]
    pub learners: bool,
    /// How many members.
    pub replicas: Replicas,
    /// Ports that members listen on.
    #[serde(default)]
    pub ports: Vec<Port>,
    /// Volumes of every member.
    pub volumes: Vec<Volume>,
    /// Names of the secrets to generate before first use.
    #[serde(default)]
    pub secrets: Vec<String>,
    /// What users can set.
    #[serde(default)]
    pub options: BTreeMap<String, OptionFormat>,
    /// As whom the engine runs.
    #[serde(default)]
    pub run_as: RunAs,
    /// Programs by orchestrator and name.
    pub programs: BTreeMap<Orchestrator, BTreeMap<String, Program>>,
    /// Where the engine's data lies, and how complete data is told from half-made.
    pub data: Data,
    /// Configuration files.
    #[serde(default)]
    pub files: Vec<File>,
    /// Texts (templates) that others name as `vars.NAME`, so that each is written once.
    #[serde(default)]
    pub vars: BTreeMap<String, String>,
    /// How the engine is started.
    pub start: Start,
    /// How the engine is stopped.
    pub stop: Stop,
    /// How the engine is looked at.
    pub probe: Probe,
    /// What makes and prepares data.
    #[serde(default)]
    pub actions: Actions,
    /// How data that has left its primary's history is brought back.
    pub reconcile: Option<Reconcile>,
    /// How the running engine is brought into a role; required with `leadership = "steadfast"`.
    pub roles: Option<Roles>,
    /// What each durability class is made of.
    pub durability: BTreeMap<Durability, DurabilityFormat>,
    /// What the user should know before creating a service.
    #[serde(default)]
    pub advice: Vec<Advice>,
    /// How clients connect.
    pub client: Client,
}

/// What peers and clients know members by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Identity {
    /// Their DNS names.
    Name,
    /// Their static addresses.
    #[default]
    Address,
}

/// In which order members are restarted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Rolling {
    /// Replicas first, the primary last after a switchover.
    ReplicasFirst,
    /// Replicas first, the primary last and where it is: it leads again.
    InPlace,
    /// One after the other, by ordinal; the next only when the last serves.
    OneByOne,
}

/// How many members a service may have.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Replicas {
    /// At least.
    pub min: u32,
    /// At most.
    pub max: u32,
    /// If the service file does not say.
    pub default: u32,
    /// Whether an even number is refused.
    #[serde(default)]
    pub odd: bool,
}

/// A port that members listen on.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Port {
    /// Its name, also the SRV service label.
    pub name: String,
    /// The port.
    pub port: u16,
    /// Whether clients use it.
    #[serde(default)]
    pub client: bool,
}

/// A volume of every member.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Volume {
    /// Its name.
    pub name: VolumeName,
    /// Its size if the service file does not say.
    pub size: ByteSize,
}

/// What kind of value an option takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OptionType {
    /// A whole number.
    Int,
    /// `true` or `false`.
    Bool,
    /// A text on one line; `min` and `max` bound its length.
    String,
    /// One of `values`.
    Enum,
    /// A length of time (`30s`); templates see milliseconds.
    Duration,
    /// A size (`512MiB`); templates see bytes.
    Size,
}

/// Something users can set.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OptionFormat {
    /// What kind of value it takes.
    #[serde(rename = "type")]
    pub kind: OptionType,
    /// Its value if the service file does not give one.
    pub default: Value,
    /// The least value.
    pub min: Option<Value>,
    /// The greatest value.
    pub max: Option<Value>,
    /// The values of an enum.
    #[serde(default)]
    pub values: Vec<String>,
    /// What it does.
    pub description: String,
}

/// As whom the engine runs.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RunAs {
    /// Whether the engine refuses to run as root.
    #[serde(default)]
    pub unprivileged: bool,
    /// Users to run it as when started by root, the first that exists.
    #[serde(default)]
    pub users: Vec<String>,
}

/// An orchestrator, as far as it matters where programs lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Orchestrator {
    /// Programs of the node itself.
    Process,
}

/// A program of the engine.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Program {
    /// Absolute paths to look at, in order; `{version}` is the engine's major version.
    pub paths: Vec<String>,
    /// How it tells its version. Exactly one program of a blueprint has this.
    pub version: Option<VersionCommand>,
}

/// How a program tells its version.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VersionCommand {
    /// Its arguments (templates). If `program` is given, that one is run.
    pub args: Vec<String>,
    /// The program to run instead, for engines that are no programs of their own (Java archives).
    pub program: Option<String>,
    /// The version begins after this text in the output.
    pub after: String,
    /// It ends before any of these characters, or white space.
    #[serde(default)]
    pub until: String,
}

/// Where the engine's data lies.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Data {
    /// Its folder (template), below a volume.
    pub dir: String,
    /// A file below it (relative) that complete data has.
    pub complete: String,
    /// A file below it (relative) that holds the engine's major version, to compare.
    pub version_file: Option<String>,
    /// Data without any of these files (relative; `*` at the end stands for any ending) has been lost.
    #[serde(default)]
    pub present_any: Vec<String>,
    /// The code for that.
    #[serde(default = "unexpectedly_empty")]
    pub lost: Reason,
}

fn unexpectedly_empty() -> Reason {
    Reason::VolumeUnexpectedlyEmpty
}

/// A configuration file.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct File {
    /// Where (template giving an absolute path).
    pub path: String,
    /// The template file, in the blueprint's folder.
    pub template: Option<String>,
    /// Or the template itself.
    pub content: Option<String>,
    /// The permission bits, in octal; with secrets, `0600`.
    #[serde(default = "private")]
    pub mode: String,
}

fn private() -> String {
    "0600".to_owned()
}

/// How the engine is started.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Start {
    /// The program and its arguments (templates); none may hold a secret.
    pub argv: Vec<String>,
    /// Environment variables (templates); none may hold a secret.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// The working folder (template).
    pub cwd: Option<String>,
}

/// How the engine is stopped.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Stop {
    /// The signal.
    pub signal: StopSignal,
    /// How long that may take.
    pub grace: Span,
}

/// What a durability class is made of.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DurabilityFormat {
    /// An expression over `replicas`: how many replicas confirm a write besides the primary.
    pub confirming_replicas: String,
    /// What templates see as `settings`. Both classes have the same.
    #[serde(default)]
    pub settings: BTreeMap<String, Value>,
    /// What is promised, against which failure, and what is not.
    pub guarantee: String,
}

/// What the user should know before creating a service.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Advice {
    /// An expression over `replicas`, `durability` and `options`.
    pub when: String,
    /// The advice.
    pub text: String,
}

/// How clients connect.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Client {
    /// The engine's own client (templates); none may hold a secret.
    pub argv: Vec<String>,
    /// Environment variables it understands (templates).
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// A URI with every member (template).
    pub uri: String,
}
