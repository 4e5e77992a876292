//! How the program ends: the exit codes that users' scripts rely on, and the failures that lead to them.

use std::fmt::{self, Display};
use std::process::ExitCode;

use steadfast_core::control::ControlError;

/// An exit code. The numbers are part of the interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exit {
    /// Done.
    Done = 0,
    /// An error.
    Error = 1,
    /// The plan has changes, and nothing else.
    Changes = 2,
    /// The wait timed out; the operation goes on.
    TimedOut = 3,
    /// Blocked: a person is needed.
    Blocked = 4,
    /// Not found.
    NotFound = 5,
    /// A conflict, or a stale index.
    Conflict = 6,
    /// Wrong usage.
    Usage = 64,
    /// Detached; the operation goes on.
    Detached = 130,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> ExitCode {
        ExitCode::from(exit as u8)
    }
}

/// Why a command did not do what it was asked for: one line, and what to do about it.
#[derive(Debug, Clone)]
pub(crate) struct Failure {
    /// How the program ends.
    pub(crate) exit: Exit,
    /// What was tried and what went wrong.
    pub(crate) message: String,
    /// What to do about it.
    pub(crate) remedy: Option<String>,
    /// The code, if there is one.
    pub(crate) reason: Option<String>,
    /// Whether nobody has answered: whoever asks again may be answered.
    pub(crate) is_silence: bool,
}

/// The result of a command.
pub(crate) type Result<T, E = Failure> = std::result::Result<T, E>;

impl Failure {
    /// An error (exit code 1).
    pub(crate) fn new(message: impl Display) -> Self {
        Failure {
            exit: Exit::Error,
            message: message.to_string(),
            remedy: None,
            reason: None,
            is_silence: false,
        }
    }

    /// Wrong usage (exit code 64).
    pub(crate) fn usage(message: impl Display, remedy: impl Display) -> Self {
        Failure::new(message).remedy(remedy).exit(Exit::Usage)
    }

    /// The same failure with a remedy.
    #[must_use]
    pub(crate) fn remedy(mut self, remedy: impl Display) -> Self {
        self.remedy = Some(remedy.to_string());
        self
    }

    /// The same failure with another exit code.
    #[must_use]
    pub(crate) fn exit(mut self, exit: Exit) -> Self {
        self.exit = exit;
        self
    }

    /// The same failure with a code.
    #[must_use]
    pub(crate) fn reason(mut self, reason: impl Display) -> Self {
        self.reason = Some(reason.to_string());
        self
    }
}

impl Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        if let Some(reason) = &self.reason {
            write!(f, " [{reason}]")?;
        }
        if let Some(remedy) = &self.remedy {
            write!(f, "\n  {remedy}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Failure {}

impl From<steadfast_core::Error> for Failure {
    fn from(error: steadfast_core::Error) -> Self {
        let exit = match error.kind() {
            steadfast_core::ErrorKind::NotFound => Exit::NotFound,
            steadfast_core::ErrorKind::Stale | steadfast_core::ErrorKind::AlreadyExists => Exit::Conflict,
            _ => Exit::Error,
        };
        Failure::new(error.chain()).exit(exit)
    }
}

impl From<ControlError> for Failure {
    fn from(error: ControlError) -> Self {
        let exit = match &error {
            ControlError::NotFound { .. } => Exit::NotFound,
            ControlError::Conflict { .. } => Exit::Conflict,
            _ => Exit::Error,
        };
        Failure::new(&error).reason(error.reason()).exit(exit)
    }
}

impl From<steadfast_core::ids::InvalidId> for Failure {
    fn from(error: steadfast_core::ids::InvalidId) -> Self {
        Failure::new(error).exit(Exit::Usage)
    }
}

/// Gives a failure of the system a subject: what was tried, on what.
pub(crate) trait Context<T> {
    /// Says what was tried.
    fn context(self, tried: impl Display) -> Result<T>;
}

impl<T, E: Display> Context<T> for std::result::Result<T, E> {
    fn context(self, tried: impl Display) -> Result<T> {
        self.map_err(|error| Failure::new(format!("{tried}: {error}")))
    }
}

#[cfg(test)]
mod tests {
    use steadfast_core::model::Reason;

    use super::*;

    #[test]
    fn the_numbers_are_those_of_the_interface() {
        let codes = [
            (Exit::Done, 0),
            (Exit::Error, 1),
            (Exit::Changes, 2),
            (Exit::TimedOut, 3),
            (Exit::Blocked, 4),
            (Exit::NotFound, 5),
            (Exit::Conflict, 6),
            (Exit::Usage, 64),
            (Exit::Detached, 130),
        ];
        for (exit, number) in codes {
            assert_eq!(exit as u8, number, "{exit:?}");
        }
    }

    #[test]
    fn a_failure_shows_its_code_and_its_remedy() {
        let failure = Failure::new("orders is stopped").reason(Reason::StopRequested).remedy("start it");
        assert_eq!(failure.to_string(), "orders is stopped [StopRequested]\n  start it");
    }
}
