//! Errors of engines: a core [`Error`] whose message begins with the reason code where users have one.

use std::fmt::Display;

use steadfast_core::model::Reason;
use steadfast_core::{Error, ErrorKind};

/// An error with a reason code.
pub(crate) fn coded(
    kind: ErrorKind,
    reason: &Reason,
    blueprint: impl Display,
    operation: &'static str,
    subject: impl Display,
    message: impl Display,
) -> Error {
    Error::new(kind, blueprint, operation, subject, format_args!("{reason}: {message}"))
}

/// The reason code that an error of an engine carries: what blocks the member.
///
/// None if the failure has no code of its own; its kind says then what it means.
pub fn reason(error: &Error) -> Option<Reason> {
    let (code, _) = error.message().split_once(": ")?;
    Reason::ALL.iter().find(|reason| reason.as_str() == code).cloned()
}

/// Whether an error of [`assume`](steadfast_core::engine::Engine::assume) says that the running engine cannot get
/// into the role (its data has left the history of the member to follow, or it would have to be demoted): it must
/// be stopped, and [`reconcile_data`](steadfast_core::engine::Engine::reconcile_data) run before it starts again.
pub fn needs_reconcile(error: &Error) -> bool {
    error.kind() == ErrorKind::Stale && error.operation() == DIVERGED
}

/// The operation of the error that [`needs_reconcile`] recognises.
pub(crate) const DIVERGED: &str = "follow diverged";
