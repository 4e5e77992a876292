//! Why a request was not done.

use crate::error::Error;
use crate::model::{Reason, SpecError};

/// Why a request was not done. Each maps to one problem type of the API and one exit code.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum ControlError {
    /// The input is wrong: every problem with its field and remedy.
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
    Invalid(Vec<SpecError>),
    /// The subject does not exist.
    #[error("{kind} {name} does not exist; {remedy}")]
    NotFound {
        /// What kind of thing.
        kind: &'static str,
        /// Its name.
        name: String,
        /// What to do about it.
        remedy: String,
    },
    /// The present state does not allow it, or the index is stale.
    #[error("{message}; {remedy}")]
    Conflict {
        /// Why, as a code.
        reason: Reason,
        /// Why, in words.
        message: String,
        /// What to do about it.
        remedy: String,
    },
    /// It is refused for good.
    #[error("{message}; {remedy}")]
    Refused {
        /// Why, as a code.
        reason: Reason,
        /// Why, in words.
        message: String,
        /// What to do about it.
        remedy: String,
    },
    /// A backend failed.
    #[error(transparent)]
    Backend(#[from] Error),
}

impl ControlError {
    /// The code that users see.
    pub fn reason(&self) -> Reason {
        match self {
            ControlError::Invalid(_) => Reason::ConfigInvalid,
            ControlError::NotFound { .. } => Reason::Other("NotFound".to_owned()),
            ControlError::Conflict { reason, .. } | ControlError::Refused { reason, .. } => reason.clone(),
            ControlError::Backend(error) => match error.kind() {
                crate::ErrorKind::Denied => Reason::PermissionDenied,
                crate::ErrorKind::Throttled => Reason::Throttled,
                crate::ErrorKind::QuotaExceeded => Reason::QuotaReached,
                crate::ErrorKind::Unsupported => Reason::CapabilityMissing,
                crate::ErrorKind::Internal => Reason::Internal,
                _ => Reason::StoreUnavailable,
            },
        }
    }
}
