//! How the program ends, and the failures that lead to it.

use std::fmt::Display;
use std::process::ExitCode;

use steadfast_sim::plan::PlanError;
use steadfast_sim::search::CaseError;

/// An exit code. The numbers are part of the interface, and those of `steadfast`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exit {
    /// Done.
    Done = 0,
    /// A rule was broken, or an error.
    Error = 1,
    /// The budget was spent first.
    TimedOut = 3,
    /// Not found.
    NotFound = 5,
    /// A stale plan.
    Stale = 6,
    /// Wrong usage.
    Usage = 64,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> ExitCode {
        ExitCode::from(exit as u8)
    }
}

/// Why a command did not do what it was asked for, in a line that says what to do.
#[derive(Debug, Clone)]
pub(crate) struct Failure {
    /// How the program ends.
    pub(crate) exit: Exit,
    /// What went wrong.
    pub(crate) message: String,
}

pub(crate) type Result<T, E = Failure> = std::result::Result<T, E>;

impl Failure {
    /// A failure that ends the program so.
    pub(crate) fn new(exit: Exit, message: impl Display) -> Self {
        Failure { exit, message: message.to_string() }
    }
}

impl From<CaseError> for Failure {
    fn from(error: CaseError) -> Self {
        let exit = match error {
            CaseError::UnknownScenario(_) | CaseError::UnknownProfile(_) => Exit::NotFound,
            CaseError::Invalid(_) => Exit::Usage,
        };
        Failure::new(exit, error)
    }
}

impl From<PlanError> for Failure {
    fn from(error: PlanError) -> Self {
        match error {
            PlanError::Unreadable(why) => Failure::new(Exit::NotFound, why),
            PlanError::Malformed(why) | PlanError::OtherVersion(why) => Failure::new(Exit::Usage, why),
            PlanError::Case(error) => error.into(),
        }
    }
}
