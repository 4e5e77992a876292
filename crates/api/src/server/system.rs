//! The server itself: health, readiness, metrics, and the description of the API.

use axum::Json;
use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};

use super::access::CanInspect;
use super::extract::{NoQuery, QueryOf};
use super::{Refusal, Shared};
use crate::problem::{Code, Problem};
use crate::wire::Health;

/// Whether the process answers. Needs no token and says nothing of the cluster.
#[utoipa::path(
    get, path = "/healthz", tag = "server", operation_id = "healthz", security(()),
    responses((status = 200, body = Health), (status = "default", body = Problem))
)]
pub(crate) async fn healthz(_query: QueryOf<NoQuery>) -> Json<Health> {
    Json(Health { ok: true })
}

/// Whether the server can do its work.
#[utoipa::path(
    get, path = "/readyz", tag = "server", operation_id = "readyz",
    responses((status = 200, body = Health), (status = "default", body = Problem))
)]
pub(crate) async fn readyz(
    _caller: CanInspect,
    State(shared): State<Shared>,
    _query: QueryOf<NoQuery>,
) -> Result<Json<Health>, Refusal> {
    match (shared.parts.ready)() {
        Ok(()) => Ok(Json(Health { ok: true })),
        Err(why) => Err(Problem::new(Code::NotReady, why).into()),
    }
}

/// Metrics in Prometheus' text format.
#[utoipa::path(
    get, path = "/metrics", tag = "server", operation_id = "metrics",
    responses((status = 200, body = String, content_type = "text/plain"), (status = "default", body = Problem))
)]
pub(crate) async fn metrics(
    _caller: CanInspect,
    State(shared): State<Shared>,
    _query: QueryOf<NoQuery>,
) -> Response {
    let text = (shared.parts.metrics)();
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response()
}

/// This description, as OpenAPI 3.1.
#[utoipa::path(
    get, path = "/openapi.json", tag = "server", operation_id = "openapi", security(()),
    responses((status = 200, body = serde_json::Value), (status = "default", body = Problem))
)]
pub(crate) async fn openapi(State(shared): State<Shared>, _query: QueryOf<NoQuery>) -> Response {
    ([(header::CONTENT_TYPE, "application/json")], shared.document.json.clone()).into_response()
}

/// This description, to read.
#[utoipa::path(
    get, path = "/docs", tag = "server", operation_id = "docs", security(()),
    responses((status = 200, body = String, content_type = "text/html"), (status = "default", body = Problem))
)]
pub(crate) async fn docs(State(shared): State<Shared>, _query: QueryOf<NoQuery>) -> Response {
    page(&shared)
}

/// The same page as `/docs`.
#[utoipa::path(
    get, path = "/", tag = "server", operation_id = "index", security(()),
    responses((status = 200, body = String, content_type = "text/html"), (status = "default", body = Problem))
)]
pub(crate) async fn index(State(shared): State<Shared>, _query: QueryOf<NoQuery>) -> Response {
    page(&shared)
}

fn page(shared: &Shared) -> Response {
    let headers = [
        (header::CONTENT_TYPE, "text/html; charset=utf-8"),
        // The page has a style of its own and nothing else.
        (header::CONTENT_SECURITY_POLICY, "default-src 'none'; style-src 'unsafe-inline'"),
    ];
    (headers, shared.document.page.clone()).into_response()
}
