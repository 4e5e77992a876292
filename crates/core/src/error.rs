//! The one error of every backend: what kind it is, whether it may have happened, whether to try again.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// What a failure means to the caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[non_exhaustive]
pub enum ErrorKind {
    /// Not reachable, timed out, or failing on its own side.
    Unavailable,
    /// Refused for its rate or for want of capacity.
    Throttled,
    /// Refused for want of permission.
    Denied,
    /// The subject does not exist, where absence is not success.
    NotFound,
    /// The subject exists already with other properties.
    AlreadyExists,
    /// The expected holder, state or value no longer holds.
    Stale,
    /// The resource is in use by somebody else.
    Busy,
    /// The request is wrong: a bug of the caller, or bad input.
    Invalid,
    /// The backend lacks the capability.
    Unsupported,
    /// A quota is reached; a person must act.
    QuotaExceeded,
    /// Stored bytes do not decode, or were written by a newer version.
    Corrupt,
    /// A broken invariant of ours.
    Internal,
}

/// Whether the effect of a failed call may have taken place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub enum Effect {
    /// It certainly did not happen. Claimed only where that is known.
    None,
    /// It may have happened, now or later.
    #[default]
    Unknown,
}

/// Whether and when to try again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum Retry {
    /// Trying again cannot help.
    Never,
    /// Try again with growing delay.
    Backoff,
    /// Try again after this long.
    After(Duration),
}

type Source = Arc<dyn std::error::Error + Send + Sync + 'static>;

/// A failure of a backend.
///
/// `Display` is one line, `backend: operation subject failed: message`, and never prints the source, which is
/// there through [`std::error::Error::source`].
#[derive(Clone)]
pub struct Error(Box<Inner>);

#[derive(Clone)]
struct Inner {
    kind: ErrorKind,
    effect: Effect,
    retry: Retry,
    backend: String,
    operation: &'static str,
    subject: String,
    message: String,
    source: Option<Source>,
}

/// The result of a backend call.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// A failure of `kind`, with the effect unknown and the retry advice usual for the kind.
    pub fn new(
        kind: ErrorKind,
        backend: impl fmt::Display,
        operation: &'static str,
        subject: impl fmt::Display,
        message: impl fmt::Display,
    ) -> Self {
        let retry = match kind {
            ErrorKind::Unavailable | ErrorKind::Throttled | ErrorKind::Busy | ErrorKind::QuotaExceeded => {
                Retry::Backoff
            }
            ErrorKind::Denied
            | ErrorKind::NotFound
            | ErrorKind::AlreadyExists
            | ErrorKind::Stale
            | ErrorKind::Invalid
            | ErrorKind::Unsupported
            | ErrorKind::Corrupt
            | ErrorKind::Internal => Retry::Never,
        };
        Error(Box::new(Inner {
            kind,
            effect: Effect::Unknown,
            retry,
            backend: backend.to_string(),
            operation,
            subject: subject.to_string(),
            message: message.to_string(),
            source: None,
        }))
    }

    /// The same failure, known to have had no effect.
    #[must_use]
    pub fn without_effect(mut self) -> Self {
        self.0.effect = Effect::None;
        self
    }

    /// The same failure, as part of something larger that may have happened all the same.
    #[must_use]
    pub fn with_unknown_effect(mut self) -> Self {
        self.0.effect = Effect::Unknown;
        self
    }

    /// The same failure with other retry advice.
    #[must_use]
    pub fn with_retry(mut self, retry: Retry) -> Self {
        self.0.retry = retry;
        self
    }

    /// The same failure with its cause.
    #[must_use]
    pub fn with_source(mut self, source: impl std::error::Error + Send + Sync + 'static) -> Self {
        self.0.source = Some(Arc::new(source));
        self
    }

    /// What the failure means.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// Whether it may have happened.
    pub fn effect(&self) -> Effect {
        self.0.effect
    }

    /// Whether to try again.
    pub fn retry(&self) -> Retry {
        self.0.retry
    }

    /// The instance that failed.
    pub fn backend(&self) -> &str {
        &self.0.backend
    }

    /// The operation that failed.
    pub fn operation(&self) -> &'static str {
        self.0.operation
    }

    /// What it was tried on.
    pub fn subject(&self) -> &str {
        &self.0.subject
    }

    /// The message without backend, operation and subject.
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// This error and its causes on one line, for a log.
    pub fn chain(&self) -> String {
        let mut text = self.to_string();
        let mut next = std::error::Error::source(self);
        while let Some(error) = next {
            text.push_str(": ");
            text.push_str(&error.to_string());
            next = error.source();
        }
        text
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Inner { backend, operation, subject, message, .. } = &*self.0;
        write!(f, "{backend}: {operation} {subject} failed: {message}")
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} [{:?}, effect {:?}, retry {:?}]",
            self.chain(),
            self.0.kind,
            self.0.effect,
            self.0.retry
        )
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.source.as_deref().map(|source| source as &(dyn std::error::Error + 'static))
    }
}
