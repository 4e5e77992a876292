//! What a failure of DynamoDB means: what kind it is, whether the request may have taken effect, what to do about it.

use std::error::Error as _;
use std::io;
use std::time::Duration;

use aws_sdk_dynamodb::error::{ProvideErrorMetadata, SdkError};
use steadfast_core::ErrorKind;

use super::Location;

/// One failed request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Failure {
    pub(crate) kind: ErrorKind,
    /// Whether the request may have taken effect.
    pub(crate) may_have_happened: bool,
    /// What was said, and what to do about it.
    pub(crate) message: String,
}

impl Failure {
    /// Certainly without effect.
    pub(crate) fn refused(kind: ErrorKind, message: impl Into<String>) -> Self {
        Failure { kind, may_have_happened: false, message: message.into() }
    }

    fn open(message: String) -> Self {
        Failure { kind: ErrorKind::Unavailable, may_have_happened: true, message }
    }

    /// No answer in time.
    pub(crate) fn silence(limit: Duration) -> Self {
        Failure::open(format!("no answer within {limit:?}"))
    }

    /// A failed request, on what it was sent to.
    pub(crate) fn of<E, R>(error: &SdkError<E, R>, location: &Location) -> Self
    where
        E: std::error::Error + ProvideErrorMetadata + 'static,
        R: std::fmt::Debug,
    {
        match error {
            SdkError::ServiceError(service) => {
                let meta = service.err().meta();
                let text = meta.message().unwrap_or("no message");
                of_code(meta.code().unwrap_or("an answer without a code"), text, location)
            }
            SdkError::ConstructionFailure(_) => {
                Failure::refused(ErrorKind::Invalid, innermost(error).unwrap_or_else(|| error.to_string()))
            }
            SdkError::DispatchFailure(failed) if !failed.is_io() && !failed.is_timeout() => {
                // Before anything was sent: the credentials, most often.
                let why = innermost(error).unwrap_or_else(|| error.to_string());
                match never_connected(error) {
                    true => unreachable_endpoint(&why, location),
                    false if failed.is_user() => Failure::refused(ErrorKind::Invalid, why),
                    false if is_about_credentials(error) => without_credentials(&why),
                    false => Failure::open(why),
                }
            }
            _ => {
                let why = innermost(error).unwrap_or_else(|| error.to_string());
                if never_connected(error) { unreachable_endpoint(&why, location) } else { Failure::open(why) }
            }
        }
    }
}

/// Nobody says who this process is.
pub(crate) fn without_credentials(why: &str) -> Failure {
    Failure::refused(
        ErrorKind::Denied,
        format!(
            "no credentials ({why}): give the instance or the task a role, or set AWS_PROFILE, or AWS_ACCESS_KEY_ID and \
             AWS_SECRET_ACCESS_KEY"
        ),
    )
}

fn unreachable_endpoint(why: &str, location: &Location) -> Failure {
    Failure::refused(
        ErrorKind::Unavailable,
        format!(
            "cannot connect ({why}): is {} a region, and is there a way to DynamoDB in it, such as a gateway endpoint?",
            location.region()
        ),
    )
}

/// DynamoDB's codes, and what follows from each. Of what is not in here nobody knows whether it happened.
fn of_code(code: &str, text: &str, location: &Location) -> Failure {
    let (region, table) = (location.region(), location.table());
    let told = |remedy: &str| format!("{code}: {text}{remedy}");
    match code {
        "ProvisionedThroughputExceededException" => Failure::refused(
            ErrorKind::Throttled,
            told("; if it lasts: raise the table's capacity, or make it on-demand"),
        ),
        "ThrottlingException" | "Throttling" | "RequestLimitExceeded" => Failure::refused(
            ErrorKind::Throttled,
            told("; if it lasts: the account's quota of DynamoDB is reached"),
        ),
        // Another request for the same item, or from another region, came first: nothing was done.
        "TransactionConflictException" | "ReplicatedWriteConflictException" => {
            Failure::refused(ErrorKind::Throttled, told(""))
        }
        "ResourceNotFoundException" => Failure::refused(
            ErrorKind::NotFound,
            told(&format!(
                "; there is no table {table} in {region}: name its region, or make it with `steadfast store create {location}`"
            )),
        ),
        "AccessDeniedException" | "AccessDenied" => Failure::refused(
            ErrorKind::Denied,
            told(&format!(
                "; allow dynamodb:GetItem, PutItem, DeleteItem and Query on arn:aws:dynamodb:{region}:ACCOUNT:table/{table}"
            )),
        ),
        "ExpiredTokenException" | "ExpiredToken" => {
            Failure::refused(ErrorKind::Denied, told("; log in again, or let a role give the credentials"))
        }
        "UnrecognizedClientException"
        | "InvalidClientTokenId"
        | "MissingAuthenticationTokenException"
        | "MissingAuthenticationToken"
        | "NotAuthorized" => Failure::refused(
            ErrorKind::Denied,
            told("; the credentials are wrong, or of another partition of AWS than the region"),
        ),
        "InvalidSignatureException" | "IncompleteSignatureException" | "SignatureDoesNotMatch" => {
            Failure::refused(ErrorKind::Denied, told("; the secret key is wrong, or this machine's clock is"))
        }
        "RequestExpired" | "RequestTimeTooSkewed" => {
            Failure::refused(ErrorKind::Denied, told("; set this machine's clock"))
        }
        "ValidationException" if text.contains("key element") || text.contains("key schema") => {
            Failure::refused(ErrorKind::Invalid, told(&foreign(location)))
        }
        "ValidationException"
        | "SerializationException"
        | "UnknownOperationException"
        | "InvalidEndpointException" => Failure::refused(ErrorKind::Invalid, told("")),
        "LimitExceededException" => Failure::refused(ErrorKind::QuotaExceeded, told("")),
        _ => Failure::open(told("")),
    }
}

/// A table that is somebody else's.
pub(crate) fn foreign(location: &Location) -> String {
    format!(
        "; table {} is not one of ours, and is left as it is: name another one, and make it with `steadfast store create`",
        location.table()
    )
}

/// Whether no connection was made, so nothing was asked.
fn never_connected<E, R>(error: &SdkError<E, R>) -> bool
where
    E: std::error::Error + 'static,
    R: std::fmt::Debug,
{
    causes(error).any(|cause| {
        cause.downcast_ref::<hyper_util::client::legacy::Error>().is_some_and(|error| error.is_connect())
            || cause
                .downcast_ref::<io::Error>()
                .is_some_and(|error| error.kind() == io::ErrorKind::ConnectionRefused)
    })
}

fn is_about_credentials<E, R>(error: &SdkError<E, R>) -> bool
where
    E: std::error::Error + 'static,
    R: std::fmt::Debug,
{
    causes(error).any(|cause| cause.is::<aws_credential_types::provider::error::CredentialsError>())
}

fn causes<'a, E, R>(error: &'a SdkError<E, R>) -> impl Iterator<Item = &'a (dyn std::error::Error + 'static)>
where
    E: std::error::Error + 'static,
    R: std::fmt::Debug,
{
    std::iter::successors(error.source(), |&cause| cause.source())
}

fn innermost<E, R>(error: &SdkError<E, R>) -> Option<String>
where
    E: std::error::Error + 'static,
    R: std::fmt::Debug,
{
    causes(error).last().map(ToString::to_string)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_says_whether_the_request_may_have_happened_and_what_to_do() {
        use ErrorKind::{Denied, Invalid, NotFound, QuotaExceeded, Throttled, Unavailable};
        let rows = [
            ("ProvisionedThroughputExceededException", Throttled, false, "on-demand"),
            ("ThrottlingException", Throttled, false, "quota"),
            ("RequestLimitExceeded", Throttled, false, "quota"),
            ("TransactionConflictException", Throttled, false, ""),
            ("ReplicatedWriteConflictException", Throttled, false, ""),
            (
                "ResourceNotFoundException",
                NotFound,
                false,
                "steadfast store create dynamodb://eu-west-1/records",
            ),
            ("AccessDeniedException", Denied, false, "arn:aws:dynamodb:eu-west-1:ACCOUNT:table/records"),
            ("ExpiredTokenException", Denied, false, "log in again"),
            ("UnrecognizedClientException", Denied, false, "credentials"),
            ("InvalidSignatureException", Denied, false, "clock"),
            ("RequestExpired", Denied, false, "clock"),
            ("ValidationException", Invalid, false, ""),
            ("LimitExceededException", QuotaExceeded, false, ""),
            ("InternalServerError", Unavailable, true, ""),
            ("ServiceUnavailable", Unavailable, true, ""),
            ("SomethingNew", Unavailable, true, ""),
        ];
        let location: Location = "dynamodb://eu-west-1/records".parse().unwrap();
        for (code, kind, may_have_happened, named) in rows {
            let found = of_code(code, "some text", &location);
            assert_eq!((found.kind, found.may_have_happened), (kind, may_have_happened), "{code}");
            let all = [code, "some text", named];
            assert!(all.iter().all(|part| found.message.contains(part)), "{found:?}");
        }
        let text = "The provided key element does not match the schema";
        assert!(of_code("ValidationException", text, &location).message.contains("not one of ours"));
    }
}
