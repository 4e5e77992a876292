//! What every request passes first, and every response last.

use std::panic::AssertUnwindSafe;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use futures::FutureExt as _;
use tracing::Instrument as _;

use super::{Refusal, Shared};
use crate::auth::{Principal, TokenDigest};
use crate::problem::{Code, Problem};
use crate::wire::REQUEST_ID;

/// The outermost layer.
pub(crate) async fn guard(State(shared): State<Shared>, request: Request, next: Next) -> Response {
    let environment = &shared.parts.environment;
    let id = request_id(request.headers()).unwrap_or_else(|| environment.entropy().token());
    let method = request.method().clone();
    // The query may hold what is nobody's business; the path holds names only.
    let path = request.uri().path().to_owned();
    let span = tracing::debug_span!("request", id, %method, path);
    let began = environment.clock().monotonic();
    let mut response = answer(&shared, request, next).instrument(span.clone()).await;
    if let Some(mut problem) = response.extensions_mut().remove::<Problem>() {
        problem.request_id = Some(id.clone());
        // Rendered again, now with the id; headers that a layer or the router has added stay.
        let rendered = problem.clone().into_response();
        let (mut parts, body) = rendered.into_parts();
        for (name, value) in response.headers() {
            if name != header::CONTENT_LENGTH && !parts.headers.contains_key(name) {
                parts.headers.append(name, value.clone());
            }
        }
        response = Response::from_parts(parts, body);
    }
    if let Ok(value) = HeaderValue::from_str(&id) {
        response.headers_mut().insert(HeaderName::from_static(REQUEST_ID), value);
    }
    let took = environment.clock().monotonic().since(began);
    span.in_scope(|| log(&response, took));
    response
}

fn log(response: &Response, took: std::time::Duration) {
    let status = response.status().as_u16();
    let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
    match response.extensions().get::<Problem>() {
        Some(problem) if response.status().is_server_error() => {
            tracing::warn!(status, micros, code = problem.code, detail = problem.detail, "request failed");
        }
        Some(problem) => {
            tracing::debug!(status, micros, code = problem.code, detail = problem.detail, "request refused");
        }
        None => tracing::debug!(status, micros, "request answered"),
    }
}

async fn answer(shared: &Shared, mut request: Request, next: Next) -> Response {
    match authenticate(shared, request.headers()) {
        Ok(Some(principal)) => {
            request.extensions_mut().insert(principal);
        }
        Ok(None) => {}
        Err(problem) => return problem.into_response(),
    }
    if let Err(problem) = right_cluster(shared, request.uri().path()) {
        return problem.into_response();
    }
    let reads = request.method().is_safe();
    let limit = shared.parts.limits.request;
    let handled = AssertUnwindSafe(next.run(request)).catch_unwind();
    let problem = match shared.parts.environment.timeout(limit, handled).await {
        Some(Ok(response)) => return response,
        Some(Err(_panic)) => Problem::new(Code::Internal, "the handler of this request panicked")
            .remedy("report it with the server's log"),
        None => Problem::new(
            Code::TimedOut,
            format!("the server did not answer within {} seconds", limit.as_secs_f64()),
        )
        .remedy("look at what has happened before asking again"),
    };
    if reads { problem.into_response() } else { problem.effect_unknown().into_response() }
}

/// The caller's id if it is fit for a log, else none.
fn request_id(headers: &HeaderMap) -> Option<String> {
    let text = headers.get(REQUEST_ID)?.to_str().ok()?;
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b':');
    ((1..=64).contains(&text.len()) && text.bytes().all(plain)).then(|| text.to_owned())
}

fn authenticate(shared: &Shared, headers: &HeaderMap) -> Result<Option<Principal>, Refusal> {
    let Some(value) = headers.get(header::AUTHORIZATION) else { return Ok(None) };
    let unknown = || -> Refusal {
        Problem::new(Code::TokenUnknown, "the server does not know this token")
            .in_field("authorization")
            .remedy("send the header `Authorization: Bearer TOKEN` with a token of this cluster")
            .into()
    };
    let (scheme, token) = value.to_str().ok().and_then(|text| text.split_once(' ')).ok_or_else(unknown)?;
    if !scheme.eq_ignore_ascii_case("bearer") {
        return Err(unknown());
    }
    shared.parts.principals.find(&TokenDigest::of(token.trim())).map(Some).ok_or_else(unknown)
}

fn right_cluster(shared: &Shared, path: &str) -> Result<(), Refusal> {
    let Some(rest) = path.strip_prefix("/v1/clusters/") else { return Ok(()) };
    let asked = rest.split('/').next().unwrap_or(rest);
    let served = &shared.parts.cluster;
    if asked == served.as_str() {
        return Ok(());
    }
    let asked: String = asked.chars().take(80).collect();
    Err(Problem::new(Code::ClusterUnknown, format!("this server serves the cluster {served}, not {asked:?}"))
        .in_field("cluster")
        .remedy(format!("use /v1/clusters/{served}/…, or the address of a server of the other cluster"))
        .into())
}

/// The answer where there is nothing.
pub(crate) async fn unknown_route(request: Request) -> Problem {
    let path: String = request.uri().path().chars().take(200).collect();
    Problem::new(Code::RouteUnknown, format!("there is nothing at {path}"))
        .remedy("look at /docs for what there is")
}

/// The answer to a method that an address does not take. The router adds `Allow`.
pub(crate) async fn unsupported_method(method: Method) -> Response {
    if method == Method::OPTIONS {
        return StatusCode::NO_CONTENT.into_response();
    }
    Problem::new(Code::MethodUnsupported, format!("this address does not take {method}"))
        .remedy("use a method of the header `Allow`")
        .into_response()
}
