//! What went wrong between us and the server, before it is told of whom.

use std::fmt::Display;
use std::time::Duration;

use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::rdata::tsig::TsigError;
use steadfast_core::{Error, ErrorKind};

/// A failure that does not know yet what was tried.
#[derive(Debug)]
pub(crate) struct Failure {
    kind: ErrorKind,
    may_have_happened: bool,
    message: String,
}

impl Failure {
    fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Failure { kind, may_have_happened: true, message: message.into() }
    }

    /// The server could not be reached, or the connection ended.
    pub(crate) fn network(error: &std::io::Error) -> Self {
        Failure::new(ErrorKind::Unavailable, error.to_string())
    }

    /// The server is slow, or gone.
    pub(crate) fn silence(limit: Duration) -> Self {
        Failure::new(ErrorKind::Unavailable, format!("no answer within {limit:?}"))
    }

    /// What came is not an answer to what was asked, or not signed with the key.
    pub(crate) fn not_an_answer(why: impl Display) -> Self {
        Failure::new(ErrorKind::Unavailable, format!("what came is not the server's answer: {why}"))
    }

    /// The zone is another server's, or nobody's.
    pub(crate) fn no_primary() -> Self {
        let message =
            "the server is not the zone's primary: make the zone there, or name the server that has it";
        Failure::new(ErrorKind::Invalid, message).before()
    }

    /// The name lies in no zone that may be written.
    pub(crate) fn no_zone() -> Self {
        Failure::new(ErrorKind::Invalid, "the name is in none of the registry's zones").before()
    }

    /// A request of ours that cannot be written.
    pub(crate) fn request(why: impl Display) -> Self {
        Failure::new(ErrorKind::Internal, format!("the request cannot be written: {why}")).before()
    }

    /// The same, before anything was sent: it had no effect.
    pub(crate) fn before(mut self) -> Self {
        self.may_have_happened = false;
        self
    }

    /// What an answer means that is neither success nor about a prerequisite. `signed`: it is certainly the server's.
    pub(crate) fn of(answer: &Message, signed: bool) -> Self {
        let trouble = answer.signature().and_then(|signature| signature.data.error);
        let failure = match (answer.metadata.response_code, trouble) {
            (_, Some(TsigError::BadKey)) => Failure::new(
                ErrorKind::Denied,
                "the server does not know the key: put it into its configuration under the same name",
            ),
            (_, Some(TsigError::BadSig | TsigError::BadTrunc)) => Failure::new(
                ErrorKind::Denied,
                "the server has another secret or algorithm under the key's name: give both sides the same key file",
            ),
            (_, Some(TsigError::BadTime)) => Failure::new(
                ErrorKind::Denied,
                "the clocks of this machine and of the server differ by more than five minutes: synchronise them",
            ),
            (ResponseCode::Refused, _) => Failure::new(
                ErrorKind::Denied,
                "the server refuses this to the key: give it update-policy (or allow-update) and allow-transfer for \
                 the zone",
            ),
            (ResponseCode::NotAuth, _) => Failure::no_primary(),
            (ResponseCode::NotZone, _) => Failure::new(ErrorKind::Invalid, "the name is not in the zone"),
            (ResponseCode::NotImp, _) => {
                Failure::new(ErrorKind::Unsupported, "the server knows no dynamic updates")
            }
            (ResponseCode::ServFail, _) => Failure::new(
                ErrorKind::Unavailable,
                "the server fails (SERVFAIL): its log says why; often the zone's file or journal cannot be written",
            ),
            (code, _) => Failure::new(ErrorKind::Unavailable, format!("the server answers {code}")),
        };
        // A server that fails may have begun. What is not signed may be anybody's.
        let refused = signed && answer.metadata.response_code != ResponseCode::ServFail;
        if refused { failure.before() } else { failure }
    }

    /// The failure of `operation` on `subject`.
    pub(crate) fn error(
        self,
        backend: impl Display,
        operation: &'static str,
        subject: impl Display,
    ) -> Error {
        let error = Error::new(self.kind, backend, operation, subject, self.message);
        if self.may_have_happened { error } else { error.without_effect() }
    }
}
