//! Problems: how every failure is told over HTTP (RFC 9457), with codes that stay.

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use steadfast_core::control::{ControlError, INDEX_STALE};
use steadfast_core::model::{Reason, SpecError};
use steadfast_core::{Effect, Error, ErrorKind, Retry};
use utoipa::ToSchema;

use crate::wire::WireError;

/// What every problem type begins with; the code follows.
pub const TYPE_PREFIX: &str = "urn:steadfast:problem:";

/// The media type of problems.
pub const MEDIA_TYPE: &str = "application/problem+json";

/// A failure, as a caller gets it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Problem {
    /// The kind of problem: `urn:steadfast:problem:CODE`.
    #[serde(rename = "type")]
    pub kind: String,
    /// The kind in words.
    pub title: String,
    /// The HTTP status.
    pub status: u16,
    /// What went wrong this time.
    pub detail: String,
    /// The code: a reason code, or one of the API's own.
    pub code: String,
    /// Whether what was asked for may have happened nevertheless.
    pub effect: Effect,
    /// The field or parameter that is wrong.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub field: Option<String>,
    /// What to do about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remedy: Option<String>,
    /// Every problem of the input, where there may be several.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub errors: Vec<SpecError>,
    /// The failure of the backend behind it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cause: Option<WireError>,
    /// The request, as the server's log calls it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_id: Option<String>,
}

macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident = $status:ident, $title:literal;)+) => {
        /// The codes of the API itself. Reason codes of services and members come beside them.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Code {
            $($(#[$doc])* $name,)+
        }

        impl Code {
            /// Every code of the API itself.
            pub const ALL: &'static [Code] = &[$(Code::$name),+];

            /// The code as callers see it.
            pub fn as_str(self) -> &'static str {
                match self { $(Code::$name => stringify!($name),)+ }
            }

            /// The status it comes with.
            pub fn status(self) -> StatusCode {
                match self { $(Code::$name => StatusCode::$status,)+ }
            }

            /// The code in words.
            pub fn title(self) -> &'static str {
                match self { $(Code::$name => $title,)+ }
            }
        }
    };
}

codes! {
    /// There is no such address.
    RouteUnknown = NOT_FOUND, "there is nothing at this address";
    /// The server serves another cluster.
    ClusterUnknown = NOT_FOUND, "this server does not serve that cluster";
    /// What the request is about does not exist.
    NotFound = NOT_FOUND, "it does not exist";
    /// The address does not take this method.
    MethodUnsupported = METHOD_NOT_ALLOWED, "this address does not take that method";
    /// A query parameter is unknown.
    ParameterUnknown = BAD_REQUEST, "a query parameter is unknown";
    /// A parameter, path segment or header has a value that it cannot have.
    ParameterInvalid = BAD_REQUEST, "a parameter has a wrong value";
    /// The body is not JSON.
    BodyMalformed = BAD_REQUEST, "the body is not well-formed JSON";
    /// The body is JSON, but not what is expected here.
    BodyInvalid = UNPROCESSABLE_ENTITY, "the body does not have the expected form";
    /// The body is too long.
    BodyTooLarge = PAYLOAD_TOO_LARGE, "the body is too long";
    /// The body did not arrive whole.
    BodyIncomplete = BAD_REQUEST, "the body did not arrive whole";
    /// The body has a media type that is not taken here.
    MediaTypeUnsupported = UNSUPPORTED_MEDIA_TYPE, "the body's media type is not taken here";
    /// There is no token.
    TokenMissing = UNAUTHORIZED, "a token is needed";
    /// The token is unknown.
    TokenUnknown = UNAUTHORIZED, "the token is unknown";
    /// The token does not allow it.
    PermissionDenied = FORBIDDEN, "the token does not allow this";
    /// The server took too long.
    TimedOut = GATEWAY_TIMEOUT, "the server took too long";
    /// The server is not ready.
    NotReady = SERVICE_UNAVAILABLE, "the server is not ready";
    /// The server does not own the store, and was asked not to send on.
    StoreElsewhere = SERVICE_UNAVAILABLE, "another server owns the store";
    /// A bug.
    Internal = INTERNAL_SERVER_ERROR, "a bug of Steadfast";
}

impl Problem {
    /// A problem of the API itself, found before anything was done.
    pub fn new(code: Code, detail: impl Into<String>) -> Self {
        Problem::with(code.status(), code.as_str(), code.title(), detail)
    }

    /// The same problem in this field or parameter.
    #[must_use]
    pub fn in_field(mut self, field: impl Into<String>) -> Self {
        self.field = Some(field.into());
        self
    }

    /// The same problem with what to do about it.
    #[must_use]
    pub fn remedy(mut self, remedy: impl Into<String>) -> Self {
        self.remedy = Some(remedy.into());
        self
    }

    /// The same problem, of something that may have happened nevertheless.
    #[must_use]
    pub fn effect_unknown(mut self) -> Self {
        self.effect = Effect::Unknown;
        self
    }

    /// The status as HTTP has it.
    pub fn status_code(&self) -> StatusCode {
        StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
    }

    /// The problem of a failed backend.
    pub fn of_backend(error: &Error) -> Self {
        Problem::from(ControlError::Backend(error.clone()))
    }

    /// The same problem for a request that did or did not carry a check index, which decides how a stale one
    /// is answered: 412 rather than 409.
    #[must_use]
    pub(crate) fn for_if_match(mut self, given: bool) -> Self {
        if given && self.code == INDEX_STALE {
            self.status = StatusCode::PRECONDITION_FAILED.as_u16();
        }
        self
    }

    fn with(status: StatusCode, code: &str, title: &str, detail: impl Into<String>) -> Self {
        Problem {
            kind: format!("{TYPE_PREFIX}{code}"),
            title: title.to_owned(),
            status: status.as_u16(),
            detail: detail.into(),
            code: code.to_owned(),
            effect: Effect::None,
            field: None,
            remedy: None,
            errors: Vec::new(),
            cause: None,
            request_id: None,
        }
    }
}

impl From<ControlError> for Problem {
    fn from(error: ControlError) -> Self {
        let detail = || error.to_string();
        match &error {
            ControlError::Invalid(errors) => {
                let mut problem = Problem::with(
                    StatusCode::UNPROCESSABLE_ENTITY,
                    Reason::ConfigInvalid.as_str(),
                    "the input is not valid",
                    detail(),
                );
                if let [only] = errors.as_slice() {
                    problem.field = Some(only.field.clone());
                    problem.remedy = Some(only.remedy.clone());
                }
                problem.errors = errors.clone();
                problem
            }
            ControlError::NotFound { kind, name, remedy } => {
                Problem::new(Code::NotFound, format!("{kind} {name} does not exist")).remedy(remedy)
            }
            ControlError::Conflict { reason, message, remedy } => Problem::with(
                StatusCode::CONFLICT,
                reason.as_str(),
                "the present state does not allow it",
                message,
            )
            .remedy(remedy),
            ControlError::Refused { reason, message, remedy } => {
                let status = match reason {
                    Reason::PermissionDenied => StatusCode::FORBIDDEN,
                    _ => StatusCode::UNPROCESSABLE_ENTITY,
                };
                Problem::with(status, reason.as_str(), "it is refused", message).remedy(remedy)
            }
            ControlError::Backend(cause) => {
                let (status, title) = backend_status(cause.kind());
                let mut problem = Problem::with(status, error.reason().as_str(), title, detail());
                problem.effect = cause.effect();
                problem.cause = Some(WireError::from(cause));
                problem
            }
            // A variant of a newer core: its own words, and no claim about the effect.
            _ => Problem::with(
                StatusCode::INTERNAL_SERVER_ERROR,
                error.reason().as_str(),
                "it failed",
                detail(),
            )
            .effect_unknown(),
        }
    }
}

fn backend_status(kind: ErrorKind) -> (StatusCode, &'static str) {
    match kind {
        ErrorKind::Unavailable => (StatusCode::SERVICE_UNAVAILABLE, "a backend does not answer"),
        ErrorKind::Throttled => (StatusCode::TOO_MANY_REQUESTS, "a backend refuses for its rate"),
        ErrorKind::Denied => (StatusCode::FORBIDDEN, "a permission is missing"),
        ErrorKind::NotFound => (StatusCode::NOT_FOUND, "it does not exist"),
        ErrorKind::AlreadyExists => (StatusCode::CONFLICT, "it exists already"),
        ErrorKind::Stale => (StatusCode::CONFLICT, "what was expected no longer holds"),
        ErrorKind::Busy => (StatusCode::CONFLICT, "it is in use"),
        ErrorKind::Invalid => (StatusCode::UNPROCESSABLE_ENTITY, "a backend calls it wrong"),
        ErrorKind::Unsupported => (StatusCode::NOT_IMPLEMENTED, "a backend lacks the capability"),
        ErrorKind::QuotaExceeded => (StatusCode::INSUFFICIENT_STORAGE, "a quota is reached"),
        ErrorKind::Corrupt => (StatusCode::INTERNAL_SERVER_ERROR, "stored bytes do not decode"),
        // Internal, and kinds of a newer core.
        _ => (StatusCode::INTERNAL_SERVER_ERROR, "a bug of Steadfast"),
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        // No problem has a field that JSON cannot write; an empty body would still carry the status.
        let body = serde_json::to_vec(&self).unwrap_or_default();
        let mut response = (self.status_code(), body).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(MEDIA_TYPE));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if self.status_code() == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"steadfast\""));
        }
        if let Some(WireError { retry: Retry::After(delay), .. }) = &self.cause {
            // Whole seconds, rounded up: sooner would be refused again.
            let seconds = delay.as_secs() + u64::from(delay.subsec_nanos() > 0);
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        // The outermost layer adds the request's id, and the log has the whole.
        response.extensions_mut().insert(self);
        response
    }
}

impl From<Error> for Problem {
    fn from(error: Error) -> Self {
        Problem::of_backend(&error)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_backend_failure_travels_whole() {
        let error = Error::new(ErrorKind::Throttled, "store", "put", "a/b", "slow down")
            .with_retry(Retry::After(Duration::from_millis(1500)));
        let problem = Problem::of_backend(&error);
        assert_eq!((problem.status, problem.effect), (429, Effect::Unknown));
        let text = serde_json::to_string(&problem).unwrap();
        let back: Problem = serde_json::from_str(&text).unwrap();
        assert_eq!(back, problem);
        let again = back.cause.unwrap().into_error("put");
        assert_eq!(
            (again.kind(), again.effect(), again.retry(), again.message()),
            (error.kind(), error.effect(), error.retry(), "slow down")
        );
        assert_eq!(problem.into_response().headers()[header::RETRY_AFTER], "2");
    }

    #[test]
    fn codes_are_stable_and_told_apart() {
        let mut seen = std::collections::BTreeSet::new();
        for code in Code::ALL {
            assert!(seen.insert(code.as_str()));
            assert!(code.status().is_client_error() || code.status().is_server_error(), "{code:?}");
            assert_eq!(Problem::new(*code, "").kind, format!("urn:steadfast:problem:{}", code.as_str()));
        }
    }

    #[test]
    fn a_stale_index_is_412_only_for_those_who_gave_one() {
        let stale = || {
            Problem::from(ControlError::Conflict {
                reason: Reason::Other(INDEX_STALE.to_owned()),
                message: "it changed".to_owned(),
                remedy: "plan again".to_owned(),
            })
        };
        assert_eq!(stale().for_if_match(true).status, 412);
        assert_eq!(stale().for_if_match(false).status, 409);
    }
}
