//! What a failure of etcd means: what kind it is, whether the request may have taken effect, whether another member
//! may do better.
//!
//! etcd tells its failures by gRPC code and text; the texts are those of its `rpctypes`, alike from 3.4 to 3.6.

use std::error::Error as _;

use steadfast_core::ErrorKind;
use tonic::{Code, ConnectError, Status};

/// One failed request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Failure {
    pub(crate) kind: ErrorKind,
    /// Whether the request may have taken effect.
    pub(crate) may_have_happened: bool,
    /// Whether it lies with this member, or passes: worth asking another.
    pub(crate) elsewhere: bool,
    /// Whether the login is out of date and has to be made anew.
    pub(crate) stale_login: bool,
    /// What was said, and what to do about it.
    pub(crate) message: String,
}

/// What to do without a majority.
const QUORUM: &str = "a majority of etcd's members has to run and reach one another: `etcdctl endpoint status \
                      --cluster` shows which do";

impl Failure {
    fn refused(kind: ErrorKind, message: String) -> Self {
        Failure { kind, may_have_happened: false, elsewhere: false, stale_login: false, message }
    }

    fn unavailable(message: String) -> Self {
        Failure {
            kind: ErrorKind::Unavailable,
            may_have_happened: true,
            elsewhere: true,
            stale_login: false,
            message,
        }
    }

    /// The same, before anything was asked: it had no effect.
    pub(crate) fn before(mut self) -> Self {
        self.may_have_happened = false;
        self
    }

    /// No answer in time.
    pub(crate) fn silence(limit: std::time::Duration) -> Self {
        Failure::unavailable(format!("no answer within {limit:?}; if it lasts: {QUORUM}"))
    }

    /// A failed request.
    pub(crate) fn of(error: &etcd_client::Error) -> Self {
        match error {
            etcd_client::Error::GRpcStatus(status) => of_status(status),
            etcd_client::Error::WatchError(reason) => of_text(reason),
            etcd_client::Error::TransportError(error) => {
                Failure::refused(ErrorKind::Invalid, told(&error.to_string(), error.source()))
            }
            other => Failure::refused(ErrorKind::Invalid, other.to_string()),
        }
    }
}

/// Whether an answer was longer than this side takes in one message.
pub(crate) fn is_too_long(error: &etcd_client::Error) -> bool {
    matches!(error, etcd_client::Error::GRpcStatus(status)
        if status.code() == Code::OutOfRange && status.message().contains("message length too large"))
}

fn of_status(status: &Status) -> Failure {
    if let Some(connect) = connect_error(status) {
        let why = told("cannot connect", Some(connect));
        // What a certificate lacks is not to be had from another attempt, but another member may have a better one.
        let why = if why.contains("certificate") {
            format!("{why}: trust the authority that signed it, and name the member as its certificate does")
        } else {
            why
        };
        return Failure::unavailable(why).before();
    }
    let message = told(status.message(), status.source());
    match status.code() {
        Code::Unavailable
        | Code::Cancelled
        | Code::DeadlineExceeded
        | Code::InvalidArgument
        | Code::FailedPrecondition
        | Code::PermissionDenied
        | Code::ResourceExhausted => of_text(&message),
        Code::Unauthenticated => Failure::refused(ErrorKind::Denied, message),
        Code::DataLoss => Failure {
            elsewhere: false,
            kind: ErrorKind::Corrupt,
            ..Failure::unavailable(format!("{message}: a person has to look at etcd's data"))
        },
        Code::Unimplemented | Code::NotFound => Failure::refused(
            ErrorKind::Unsupported,
            format!("{message}: what answers there is no etcd of version 3.4 or newer"),
        ),
        _ => Failure::unavailable(format!(
            "{message}; if it never answers: is it an etcd, and does it speak TLS?"
        )),
    }
}

/// What etcd's own texts mean.
fn of_text(text: &str) -> Failure {
    let has = |part: &str| text.contains(part);
    if has("no leader") {
        // Refused before it is looked at, since every request asks that there be a leader.
        return Failure::unavailable(format!("no quorum ({text}): {QUORUM}")).before();
    }
    if has("revision of auth store is old") {
        return Failure { stale_login: true, ..Failure::unavailable(text.to_owned()) }.before();
    }
    if has("authentication failed") {
        return Failure::refused(ErrorKind::Denied, format!("{text}: the user or the password is wrong"));
    }
    if has("authentication is not enabled") {
        return Failure::refused(
            ErrorKind::Denied,
            format!("{text}: leave the user out, or run `etcdctl auth enable`"),
        );
    }
    if has("user name is empty") {
        return Failure::refused(ErrorKind::Denied, format!("{text}: this etcd asks for a user"));
    }
    if has("permission denied") {
        return Failure::refused(
            ErrorKind::Denied,
            format!("{text}: the user needs a role with readwrite permission on the prefix"),
        );
    }
    if has("request is too large") || has("received message larger than max") {
        return Failure::refused(
            ErrorKind::Invalid,
            format!("{text}: start etcd with a --max-request-bytes of at least 1572864, its default"),
        );
    }
    if has("too many requests") {
        return Failure::refused(ErrorKind::Throttled, text.to_owned());
    }
    if has("database space exceeded") {
        // The write that first exceeds it is applied, and answered with this.
        return Failure {
            may_have_happened: true,
            ..Failure::refused(
                ErrorKind::QuotaExceeded,
                format!(
                    "{text}: compact and defragment etcd, or raise --quota-backend-bytes; then `etcdctl alarm disarm`"
                ),
            )
        };
    }
    Failure::unavailable(format!("{text}; if it lasts: {QUORUM}"))
}

fn connect_error(status: &Status) -> Option<&ConnectError> {
    let mut next = status.source();
    while let Some(error) = next {
        if let Some(connect) = error.downcast_ref::<ConnectError>() {
            return Some(connect);
        }
        next = error.source();
    }
    None
}

/// What was said, with the innermost cause if that says more.
fn told(text: &str, mut cause: Option<&(dyn std::error::Error + 'static)>) -> String {
    let mut innermost = None;
    while let Some(error) = cause {
        innermost = Some(error.to_string());
        cause = error.source();
    }
    match innermost {
        Some(cause) if !text.contains(&cause) => format!("{text}: {cause}"),
        _ => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(code: Code, text: &str) -> Failure {
        Failure::of(&etcd_client::Error::GRpcStatus(Status::new(code, text)))
    }

    /// The texts of etcd's `rpctypes`, and what follows from each.
    #[test]
    fn every_answer_says_whether_the_request_may_have_happened() {
        use ErrorKind::{Denied, Invalid, QuotaExceeded, Throttled, Unavailable};
        let rows = [
            (Code::Unavailable, "etcdserver: no leader", Unavailable, false),
            (Code::Unavailable, "etcdserver: leader changed", Unavailable, true),
            (Code::Unavailable, "etcdserver: request timed out", Unavailable, true),
            (
                Code::Unavailable,
                "etcdserver: request timed out, possibly due to previous leader failure",
                Unavailable,
                true,
            ),
            (Code::Unavailable, "etcdserver: server stopped", Unavailable, true),
            (Code::Cancelled, "operation was canceled", Unavailable, true),
            (Code::InvalidArgument, "etcdserver: request is too large", Invalid, false),
            (Code::ResourceExhausted, "etcdserver: too many requests", Throttled, false),
            (Code::ResourceExhausted, "etcdserver: mvcc: database space exceeded", QuotaExceeded, true),
            (Code::PermissionDenied, "etcdserver: permission denied", Denied, false),
            (Code::InvalidArgument, "etcdserver: user name is empty", Denied, false),
            (Code::Unauthenticated, "etcdserver: invalid auth token", Denied, false),
            (
                Code::InvalidArgument,
                "etcdserver: authentication failed, invalid user ID or password",
                Denied,
                false,
            ),
            (Code::InvalidArgument, "etcdserver: revision of auth store is old", Unavailable, false),
            (Code::Unknown, "transport error", Unavailable, true),
            (Code::Internal, "h2 protocol error", Unavailable, true),
        ];
        for (code, text, kind, may_have_happened) in rows {
            let found = of(code, text);
            assert_eq!((found.kind, found.may_have_happened), (kind, may_have_happened), "{text}");
            assert!(found.message.contains(text), "{found:?}");
        }
        assert!(of(Code::InvalidArgument, "etcdserver: revision of auth store is old").stale_login);
    }

    #[test]
    fn no_connection_had_no_effect() {
        let mut status = Status::unavailable("tcp connect error");
        let refused = std::io::Error::from(std::io::ErrorKind::ConnectionRefused);
        status.set_source(std::sync::Arc::new(ConnectError(Box::new(refused))));
        let found = Failure::of(&etcd_client::Error::GRpcStatus(status));
        assert_eq!((found.kind, found.may_have_happened), (ErrorKind::Unavailable, false), "{found:?}");
        assert!(found.elsewhere && found.message.contains("connection refused"), "{found:?}");
    }
}
