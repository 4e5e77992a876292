//! Extractors that answer with problems: paths, queries, bodies and the headers of changes.

use axum::body::Body;
use axum::extract::rejection::PathRejection;
use axum::extract::{FromRequest, FromRequestParts, Path, Query, Request};
use axum::http::request::Parts as RequestParts;
use axum::http::{HeaderMap, header};
use bytes::{Bytes, BytesMut};
use futures::StreamExt as _;
use serde::de::DeserializeOwned;

use super::{Refusal, Shared};
use crate::control::Guard;
use crate::problem::{Code, Problem};
use crate::wire::IDEMPOTENCY_KEY;

/// The segments of the path, each parsed as what it is.
#[derive(Debug)]
pub(crate) struct PathOf<T>(pub(crate) T);

impl<T: DeserializeOwned + Send> FromRequestParts<Shared> for PathOf<T> {
    type Rejection = Refusal;
    async fn from_request_parts(parts: &mut RequestParts, shared: &Shared) -> Result<Self, Refusal> {
        match Path::<T>::from_request_parts(parts, shared).await {
            Ok(Path(value)) => Ok(PathOf(value)),
            Err(PathRejection::FailedToDeserializePathParams(error)) => {
                Err(Problem::new(Code::ParameterInvalid, error.body_text()).in_field("path").into())
            }
            Err(other) => Err(Problem::new(Code::Internal, other.body_text()).into()),
        }
    }
}

/// The parameters of a query, by name: any other is refused.
pub(crate) trait Parameters: DeserializeOwned {
    /// The names.
    const NAMES: &'static [&'static str];
}

/// Declares the parameters of a query, once for parsing, checking and documentation.
macro_rules! query {
    ($(#[$doc:meta])* $name:ident { $($(#[$field_doc:meta])* $field:ident: $type:ty,)* }) => {
        $(#[$doc])*
        #[derive(Debug, serde::Deserialize, utoipa::IntoParams)]
        #[into_params(parameter_in = Query)]
        pub(crate) struct $name {
            $($(#[$field_doc])* pub(crate) $field: $type,)*
        }

        impl $crate::server::extract::Parameters for $name {
            const NAMES: &'static [&'static str] = &[$(stringify!($field)),*];
        }
    };
}
pub(crate) use query;

query! {
    /// No parameters.
    NoQuery {}
}

/// The query of a request.
#[derive(Debug)]
pub(crate) struct QueryOf<T>(pub(crate) T);

impl<T: Parameters + Send> FromRequestParts<Shared> for QueryOf<T> {
    type Rejection = Refusal;
    async fn from_request_parts(parts: &mut RequestParts, _: &Shared) -> Result<Self, Refusal> {
        if parts.uri.query().is_some_and(|query| !query.is_empty()) {
            let pairs: Query<Vec<(String, String)>> = Query::try_from_uri(&parts.uri)
                .map_err(|error| Problem::new(Code::ParameterInvalid, error.body_text()))?;
            if let Some((name, _)) = pairs.0.iter().find(|(name, _)| !T::NAMES.contains(&name.as_str())) {
                return Err(unknown_parameter(name, T::NAMES).into());
            }
        }
        let query = Query::<T>::try_from_uri(&parts.uri).map_err(|error| {
            let text = error.body_text();
            let detail = text.strip_prefix("Failed to deserialize query string: ").unwrap_or(&text);
            let problem = Problem::new(Code::ParameterInvalid, detail);
            let name = T::NAMES.iter().find(|name| {
                detail.strip_prefix(**name).is_some_and(|rest| rest.starts_with(':'))
                    || detail.contains(&format!("`{name}`"))
            });
            match name {
                Some(name) => problem.in_field(*name),
                None => problem,
            }
        })?;
        Ok(QueryOf(query.0))
    }
}

fn unknown_parameter(name: &str, known: &[&str]) -> Problem {
    let shown: String = name.chars().take(80).collect();
    let problem = Problem::new(Code::ParameterUnknown, format!("the query parameter {shown:?} is unknown"))
        .in_field(shown);
    if known.is_empty() {
        problem.remedy("leave it out: this address takes none")
    } else {
        problem.remedy(format!("use one of: {}", known.join(", ")))
    }
}

/// A body of JSON.
#[derive(Debug)]
pub(crate) struct JsonBody<T>(pub(crate) T);

impl<T: DeserializeOwned> FromRequest<Shared> for JsonBody<T> {
    type Rejection = Refusal;
    async fn from_request(request: Request, shared: &Shared) -> Result<Self, Refusal> {
        let limit = shared.parts.limits.body_bytes;
        json(request.headers().clone(), request.into_body(), limit).await.map(JsonBody)
    }
}

/// Reads a body of JSON of at most `limit` bytes.
pub(crate) async fn json<T: DeserializeOwned>(
    headers: HeaderMap,
    body: Body,
    limit: usize,
) -> Result<T, Refusal> {
    let media_type = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or("");
    let essence = media_type.split(';').next().unwrap_or("").trim().to_ascii_lowercase();
    if essence != "application/json" {
        let given = if essence.is_empty() { "no media type".to_owned() } else { format!("{essence:?}") };
        return Err(Problem::new(Code::MediaTypeUnsupported, format!("the body has {given}"))
            .in_field("content-type")
            .remedy("send JSON, with the header `Content-Type: application/json`")
            .into());
    }
    let bytes = collect(&headers, body, limit).await?;
    serde_json::from_slice(&bytes).map_err(|error| {
        let code = if error.is_data() { Code::BodyInvalid } else { Code::BodyMalformed };
        // The message ends in "at line L column C".
        Problem::new(code, error.to_string()).in_field("body").into()
    })
}

async fn collect(headers: &HeaderMap, body: Body, limit: usize) -> Result<Bytes, Refusal> {
    let too_long = || {
        Problem::new(Code::BodyTooLarge, format!("the body is longer than {limit} bytes")).in_field("body")
    };
    let announced = headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
    if announced.is_some_and(|length: u64| usize::try_from(length).map_or(true, |length| length > limit)) {
        return Err(too_long().into());
    }
    let mut stream = body.into_data_stream();
    let mut bytes = BytesMut::new();
    while let Some(chunk) = stream.next().await {
        let chunk = chunk.map_err(|error| Problem::new(Code::BodyIncomplete, error.to_string()))?;
        if bytes.len() + chunk.len() > limit {
            return Err(too_long().into());
        }
        bytes.extend_from_slice(&chunk);
    }
    Ok(bytes.freeze())
}

/// What comes with a change: `Idempotency-Key` and `If-Match`.
impl FromRequestParts<Shared> for Guard {
    type Rejection = Refusal;
    async fn from_request_parts(parts: &mut RequestParts, _: &Shared) -> Result<Self, Refusal> {
        let idempotency_key = match parts.headers.get(IDEMPOTENCY_KEY) {
            None => None,
            Some(value) => {
                let text = value.to_str().unwrap_or("").trim_matches('"');
                if !(1..=200).contains(&text.len()) || !text.bytes().all(|byte| byte.is_ascii_graphic()) {
                    return Err(Problem::new(
                        Code::ParameterInvalid,
                        "an idempotency key is 1 to 200 printable ASCII characters without spaces",
                    )
                    .in_field(IDEMPOTENCY_KEY)
                    .remedy("send a random identifier, the same one when asking again")
                    .into());
                }
                Some(text.to_owned())
            }
        };
        Ok(Guard { idempotency_key, if_index: if_match(&parts.headers)? })
    }
}

fn if_match(headers: &HeaderMap) -> Result<Option<String>, Refusal> {
    let Some(value) = headers.get(header::IF_MATCH) else { return Ok(None) };
    let text = value.to_str().unwrap_or("").trim();
    if text == "*" {
        return Ok(None);
    }
    text.strip_prefix('"')
        .and_then(|rest| rest.strip_suffix('"'))
        .filter(|tag| !tag.is_empty() && !tag.contains('"'))
        .map(|tag| Some(tag.to_owned()))
        .ok_or_else(|| {
            Problem::new(Code::ParameterInvalid, format!("{text:?} is not one strong entity tag"))
                .in_field("if-match")
                .remedy("send the ETag of what you have read, with its quotation marks")
                .into()
        })
}
