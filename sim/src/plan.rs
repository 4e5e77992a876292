//! Plan files: a case that is kept, with what is expected of it.
//!
//! A plan names calls by meaning, so that it survives changes elsewhere in the code. If a call that it names is not
//! made any more the plan is *stale*: that is reported and fails, since it no longer tests what it was kept for.

use std::fmt;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};

use crate::fault::Planned;
use crate::run::Violation;
use crate::search::pool::{Carry, carry_out_with};
use crate::search::{Case, CaseError};

/// The format of plan files that this program reads and writes.
pub const FORMAT: u32 = 1;

/// The version of the models: raised when calls get other names or the models another behaviour, so that stored
/// plans have to be looked at.
pub const MODEL: u32 = 2;

/// What a plan is expected to come to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Expected {
    /// Every rule holds.
    Holds,
    /// This rule is broken: a documented limit, or a bug that is not mended yet.
    Violates(String),
}

/// How strictly a plan is held to what it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// The run has to come to the same.
    #[default]
    Semantic,
    /// The trace has to be the same, byte for byte.
    Exact,
}

/// A plan file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PlanFile {
    /// [`FORMAT`].
    pub format: u32,
    /// [`MODEL`], when it was written.
    pub model: u32,
    /// What it is about, for people.
    pub title: String,
    /// The commit it was written at.
    #[serde(default)]
    pub commit: String,
    /// The run.
    pub case: Case,
    /// What it is expected to come to.
    pub expected: Expected,
    /// How strictly.
    #[serde(default)]
    pub mode: Mode,
    /// The hash of the trace when it was written, in hexadecimal.
    #[serde(default)]
    pub trace: String,
}

/// Why a plan cannot be replayed. Says what to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PlanError {
    /// The file cannot be read.
    Unreadable(String),
    /// It is not a plan, or only the beginning of one.
    Malformed(String),
    /// It was written by another version.
    OtherVersion(String),
    /// It names something that is not there.
    Case(CaseError),
}

impl fmt::Display for PlanError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PlanError::Unreadable(why) | PlanError::Malformed(why) | PlanError::OtherVersion(why) => {
                f.write_str(why)
            }
            PlanError::Case(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for PlanError {}

impl From<CaseError> for PlanError {
    fn from(error: CaseError) -> Self {
        PlanError::Case(error)
    }
}

/// How a one-line plan begins.
pub const INLINE: &str = "plan:";

impl PlanFile {
    /// A plan of a case that was carried out.
    pub fn new(title: &str, case: Case, expected: Expected, trace: u64) -> Self {
        PlanFile {
            format: FORMAT,
            model: MODEL,
            title: title.to_owned(),
            commit: String::new(),
            case,
            expected,
            mode: Mode::Semantic,
            trace: format!("{trace:016x}"),
        }
    }

    /// Reads a plan: a file, or one line that begins with [`INLINE`].
    ///
    /// # Errors
    /// If there is none, or it is not one that this program understands.
    pub fn read(from: &str) -> Result<Self, PlanError> {
        if let Some(line) = from.strip_prefix(INLINE) {
            let why = |error: String| {
                PlanError::Malformed(format!(
                    "the line after \"{INLINE}\" is cut or changed: {error}; paste it whole"
                ))
            };
            let bytes = URL_SAFE_NO_PAD.decode(line.trim()).map_err(|error| why(error.to_string()))?;
            return PlanFile::parse(&bytes, "the pasted line");
        }
        let bytes = std::fs::read(Path::new(from)).map_err(|error| {
            PlanError::Unreadable(format!(
                "cannot read the plan {from}: {error}; give a file of sim/plans or a line that begins with \
                 \"{INLINE}\""
            ))
        })?;
        PlanFile::parse(&bytes, from)
    }

    /// Reads a plan from bytes; `from` names them in errors.
    ///
    /// # Errors
    /// If it is not one that this program understands.
    pub fn parse(bytes: &[u8], from: &str) -> Result<Self, PlanError> {
        #[derive(Deserialize)]
        struct Head {
            format: Option<u32>,
            model: Option<u32>,
        }
        let malformed = |error: serde_json::Error| {
            let remedy = if error.is_eof() {
                "the file ends too early: fetch it again, or write it anew with `steadfast-sim shrink --save`"
            } else {
                "compare it with the others in sim/plans; every key has to be known"
            };
            PlanError::Malformed(format!("{from} is not a plan: {error}; {remedy}"))
        };
        let head: Head = serde_json::from_slice(bytes).map_err(malformed)?;
        if head.format != Some(FORMAT) {
            let found = head.format.map_or("no format".to_owned(), |format| format!("format {format}"));
            return Err(PlanError::OtherVersion(format!(
                "{from} has {found}, and this program reads format {FORMAT}: use the program that wrote it, or write \
                 it anew with `steadfast-sim shrink --save`"
            )));
        }
        if head.model.is_none_or(|model| model > MODEL) {
            let found = head.model.map_or("no model".to_owned(), |model| format!("model {model}"));
            return Err(PlanError::OtherVersion(format!(
                "{from} has {found}, and this program's models are version {MODEL}: use a later program"
            )));
        }
        serde_json::from_slice(bytes).map_err(malformed)
    }

    /// The file's text.
    pub fn text(&self) -> String {
        // A plan is made of strings and numbers: it can always be written.
        let mut text = serde_json::to_string_pretty(self).unwrap_or_default();
        text.push('\n');
        text
    }

    /// The plan in one line, without any file.
    pub fn line(&self) -> String {
        let text = serde_json::to_vec(self).unwrap_or_default();
        format!("{INLINE}{}", URL_SAFE_NO_PAD.encode(text))
    }

    /// The command that replays it from anywhere.
    pub fn command(&self) -> String {
        format!("steadfast-sim replay {}", self.line())
    }

    /// Carries it out and compares.
    ///
    /// # Errors
    /// If it names something that is not there.
    pub fn replay(&self, carry: &Carry) -> Result<Replay, PlanError> {
        let verdict = carry_out_with(&self.case, carry)?;
        let trace = format!("{:016x}", verdict.hash);
        let first = verdict.violations.first().cloned();
        let result = if !verdict.missing.is_empty() {
            Found::Stale(verdict.missing)
        } else {
            match (&self.expected, &first) {
                (Expected::Holds, Some(_)) => Found::Broken,
                (Expected::Violates(rule), Some(violation)) if *rule != violation.rule => Found::Other,
                (Expected::Violates(_), None) => Found::Held,
                _ if self.mode == Mode::Exact && trace != self.trace => Found::OtherTrace,
                _ => Found::AsExpected,
            }
        };
        Ok(Replay { found: result, violation: first, same_trace: trace == self.trace, trace })
    }
}

/// What a replay has come to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Replay {
    /// Compared with what is expected.
    pub found: Found,
    /// The first rule that was broken.
    pub violation: Option<Violation>,
    /// Whether the trace is the one that was written down.
    pub same_trace: bool,
    /// The trace's hash.
    pub trace: String,
}

/// What a replay found, compared with what its plan expects.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Found {
    /// What is expected.
    AsExpected,
    /// A rule is broken, and all should hold.
    Broken,
    /// Another rule is broken than is expected.
    Other,
    /// Every rule holds, and one is expected to be broken.
    Held,
    /// What is expected, by another trace, in exact mode.
    OtherTrace,
    /// These faults befell nobody: the calls that they name are not made any more.
    Stale(Vec<Planned>),
}
