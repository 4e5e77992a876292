//! Why a call was not answered, and whether it may have happened.

use std::sync::Arc;

use steadfast_core::{Effect, Error, ErrorKind};

use super::ExchangeError;
use crate::problem::Problem;

/// Why a call was not answered as wished.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    /// The server says no, and why.
    #[error("{}", problem_line(.0))]
    Problem(Box<Problem>),
    /// No server answered.
    #[error("{server} does not answer: {message}")]
    Unreachable {
        /// The server asked last.
        server: String,
        /// Whether the call may have happened.
        effect: Effect,
        /// What went wrong.
        message: String,
        /// The cause.
        #[source]
        source: Option<Arc<ExchangeError>>,
    },
    /// A server answered something else than this client understands.
    #[error("{server} answers what this client does not understand: {message}")]
    Answer {
        /// The server.
        server: String,
        /// Whether the call may have happened.
        effect: Effect,
        /// What is wrong with it.
        message: String,
    },
    /// The client cannot be made as it was asked for.
    #[error("{field}: {message}")]
    Config {
        /// Which setting.
        field: &'static str,
        /// What is wrong with it.
        message: String,
    },
}

fn problem_line(problem: &Problem) -> String {
    match &problem.remedy {
        Some(remedy) => format!("{}; {remedy}", problem.detail),
        None => problem.detail.clone(),
    }
}

impl ClientError {
    /// Whether the call may have happened.
    pub fn effect(&self) -> Effect {
        match self {
            ClientError::Problem(problem) => problem.effect,
            ClientError::Unreachable { effect, .. } | ClientError::Answer { effect, .. } => *effect,
            ClientError::Config { .. } => Effect::None,
        }
    }

    /// The problem, if a server told one.
    pub fn problem(&self) -> Option<&Problem> {
        match self {
            ClientError::Problem(problem) => Some(problem),
            ClientError::Unreachable { .. } | ClientError::Answer { .. } | ClientError::Config { .. } => None,
        }
    }

    /// Whether a server says that what was asked for does not exist.
    pub fn is_not_found(&self) -> bool {
        self.problem().is_some_and(|problem| problem.status == 404)
    }

    /// The failure as one of a backend that is spoken to over this client.
    pub fn into_error(
        self,
        backend: impl std::fmt::Display,
        operation: &'static str,
        subject: impl std::fmt::Display,
    ) -> Error {
        let effect = self.effect();
        let error = match self {
            ClientError::Problem(problem) => match problem.cause {
                Some(cause) => return cause.into_error(operation),
                None => {
                    let kind = kind_of(problem.status);
                    Error::new(kind, backend, operation, subject, problem_line(&problem))
                }
            },
            ClientError::Unreachable { server, message, source, .. } => {
                let message = format!("{server} does not answer: {message}");
                let error = Error::new(ErrorKind::Unavailable, backend, operation, subject, message);
                match source {
                    Some(source) => error.with_source(source),
                    None => error,
                }
            }
            other @ ClientError::Answer { .. } => {
                Error::new(ErrorKind::Unavailable, backend, operation, subject, other)
            }
            other @ ClientError::Config { .. } => {
                Error::new(ErrorKind::Invalid, backend, operation, subject, other)
            }
        };
        match effect {
            Effect::None => error.without_effect(),
            Effect::Unknown => error,
        }
    }
}

/// What a problem without a backend's failure behind it means to a caller of the store.
fn kind_of(status: u16) -> ErrorKind {
    match status {
        401 | 403 => ErrorKind::Denied,
        404 => ErrorKind::NotFound,
        429 => ErrorKind::Throttled,
        502..=504 => ErrorKind::Unavailable,
        500.. => ErrorKind::Internal,
        _ => ErrorKind::Invalid,
    }
}
