//! Services: planned, made, looked at, changed, deleted.

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::Value;
use steadfast_core::control::{ConnectView, ControlError, PlanReport, RenderedService, ServiceView};
use steadfast_core::ids::{ClusterName, ServiceName};
use steadfast_core::model::{Operation, ServiceSpec};

use super::access::{CanChange, CanRead};
use super::extract::{JsonBody, NoQuery, PathOf, QueryOf, query};
use super::page::{self, Page};
use super::{Refusal, Shared};
use crate::control::{Guard, SecretValue};
use crate::problem::Problem;

query! {
    /// Which part of the list.
    PageQuery {
        /// At most this many (1 to 500; 100 if left out).
        limit: Option<usize>,
        /// The `next` of the page before.
        cursor: Option<String>,
    }
}

/// What applying a service file would do. Changes nothing.
#[utoipa::path(
    post, path = "/v1/clusters/{cluster}/plan", tag = "services", operation_id = "plan",
    params(("cluster" = String, Path, description = "The cluster.")),
    request_body = ServiceSpec,
    responses((status = 200, body = PlanReport), (status = "default", body = Problem))
)]
pub(crate) async fn plan(
    _caller: CanRead,
    State(shared): State<Shared>,
    _query: QueryOf<NoQuery>,
    JsonBody(spec): JsonBody<Value>,
) -> Result<Json<PlanReport>, Refusal> {
    Ok(Json(shared.parts.control.plan(spec).await?))
}

/// Apply a service file: make the service, or change it into that.
#[utoipa::path(
    post, path = "/v1/clusters/{cluster}/services", tag = "services", operation_id = "apply",
    params(
        ("cluster" = String, Path, description = "The cluster."),
        ("Idempotency-Key" = Option<String>, Header, description = "Asking again with it gives the same operation."),
        ("If-Match" = Option<String>, Header, description = "The check index of the plan, as an entity tag.")
    ),
    request_body = ServiceSpec,
    responses(
        (status = 202, body = Operation, description = "It is under way: follow `Location`."),
        (status = 200, body = Operation, description = "It has ended already."),
        (status = "default", body = Problem)
    )
)]
pub(crate) async fn apply(
    _caller: CanChange,
    State(shared): State<Shared>,
    _query: QueryOf<NoQuery>,
    guard: Guard,
    JsonBody(spec): JsonBody<Value>,
) -> Result<Response, Refusal> {
    let given = guard.if_index.is_some();
    begun(&shared, given, shared.parts.control.apply(spec, guard).await)
}

/// The services, by name.
#[utoipa::path(
    get, path = "/v1/clusters/{cluster}/services", tag = "services", operation_id = "services",
    params(("cluster" = String, Path, description = "The cluster."), PageQuery),
    responses((status = 200, body = Page<ServiceView>), (status = "default", body = Problem))
)]
pub(crate) async fn list(
    _caller: CanRead,
    State(shared): State<Shared>,
    QueryOf(query): QueryOf<PageQuery>,
) -> Result<Response, Refusal> {
    let limit = page::limit(query.limit)?;
    let items = shared.parts.control.services(page::request(limit, query.cursor)).await?;
    let page = Page::of(items, limit, |service| service.name().to_string());
    Ok(page.into_response())
}

/// A service with its members. Its `ETag` is the check index for `If-Match`; it does not change with what is merely
/// observed.
#[utoipa::path(
    get, path = "/v1/clusters/{cluster}/services/{service}", tag = "services", operation_id = "service",
    params(
        ("cluster" = String, Path, description = "The cluster."),
        ("service" = String, Path, description = "The service.")
    ),
    responses((status = 200, body = ServiceView), (status = "default", body = Problem))
)]
pub(crate) async fn get(
    _caller: CanRead,
    State(shared): State<Shared>,
    PathOf(path): PathOf<(ClusterName, ServiceName)>,
    _query: QueryOf<NoQuery>,
) -> Result<Response, Refusal> {
    Ok(tagged(&shared.parts.control.service(&path.1).await?))
}

/// Delete a service. Volumes stay unless the service file says otherwise, and the deletion can be undone.
#[utoipa::path(
    delete, path = "/v1/clusters/{cluster}/services/{service}", tag = "services", operation_id = "delete",
    params(
        ("cluster" = String, Path, description = "The cluster."),
        ("service" = String, Path, description = "The service."),
        ("Idempotency-Key" = Option<String>, Header, description = "Asking again with it gives the same operation."),
        ("If-Match" = Option<String>, Header, description = "The service's check index, as an entity tag.")
    ),
    responses(
        (status = 202, body = Operation, description = "It is under way: follow `Location`."),
        (status = 200, body = Operation, description = "It has ended already."),
        (status = "default", body = Problem)
    )
)]
pub(crate) async fn delete(
    _caller: CanChange,
    State(shared): State<Shared>,
    PathOf(path): PathOf<(ClusterName, ServiceName)>,
    _query: QueryOf<NoQuery>,
    guard: Guard,
) -> Result<Response, Refusal> {
    let given = guard.if_index.is_some();
    begun(&shared, given, shared.parts.control.delete(&path.1, guard).await)
}

/// Declares a change of a service that becomes an operation.
macro_rules! operation {
    ($name:ident, $path:literal, $doc:literal) => {
        #[doc = $doc]
        #[utoipa::path(
                    post, path = $path, tag = "services",
                    params(
                        ("cluster" = String, Path, description = "The cluster."),
                        ("service" = String, Path, description = "The service."),
                        ("Idempotency-Key" = Option<String>, Header,
                            description = "Asking again with it gives the same operation."),
                        ("If-Match" = Option<String>, Header,
                            description = "The service's check index, as an entity tag.")
                    ),
                    responses(
                        (status = 202, body = Operation, description = "It is under way: follow `Location`."),
                        (status = 200, body = Operation, description = "It has ended already."),
                        (status = "default", body = Problem)
                    )
                )]
        pub(crate) async fn $name(
            _caller: CanChange,
            State(shared): State<Shared>,
            PathOf(path): PathOf<(ClusterName, ServiceName)>,
            _query: QueryOf<NoQuery>,
            guard: Guard,
        ) -> Result<Response, Refusal> {
            let given = guard.if_index.is_some();
            begun(&shared, given, shared.parts.control.$name(&path.1, guard).await)
        }
    };
}

operation!(
    undelete,
    "/v1/clusters/{cluster}/services/{service}/undelete",
    "Bring a deleted service back, with the volumes that were kept."
);
operation!(
    restart,
    "/v1/clusters/{cluster}/services/{service}/restart",
    "Restart every member, one after another."
);
operation!(
    stop,
    "/v1/clusters/{cluster}/services/{service}/stop",
    "Stop every member; names, addresses and volumes stay."
);
operation!(start, "/v1/clusters/{cluster}/services/{service}/start", "Start a stopped service.");

/// Declares a change of a service that is done when it is answered.
macro_rules! switch {
    ($name:ident, $path:literal, $doc:literal) => {
        #[doc = $doc]
        #[utoipa::path(
                    post, path = $path, tag = "services",
                    params(
                        ("cluster" = String, Path, description = "The cluster."),
                        ("service" = String, Path, description = "The service.")
                    ),
                    responses((status = 200, body = ServiceView), (status = "default", body = Problem))
                )]
        pub(crate) async fn $name(
            _caller: CanChange,
            State(shared): State<Shared>,
            PathOf(path): PathOf<(ClusterName, ServiceName)>,
            _query: QueryOf<NoQuery>,
        ) -> Result<Response, Refusal> {
            let view = shared.parts.control.$name(&path.1).await?;
            Ok(tagged(&RenderedService::of(&view)?))
        }
    };
}

switch!(
    pause,
    "/v1/clusters/{cluster}/services/{service}/pause",
    "Stop everything unplanned from being done to a service: no move, no promotion."
);
switch!(resume, "/v1/clusters/{cluster}/services/{service}/resume", "End a pause.");

/// How to reach a service, with its secrets.
#[utoipa::path(
    get, path = "/v1/clusters/{cluster}/services/{service}/connect", tag = "services", operation_id = "connect",
    params(
        ("cluster" = String, Path, description = "The cluster."),
        ("service" = String, Path, description = "The service.")
    ),
    responses((status = 200, body = ConnectView), (status = "default", body = Problem))
)]
pub(crate) async fn connect(
    _caller: CanChange,
    State(shared): State<Shared>,
    PathOf(path): PathOf<(ClusterName, ServiceName)>,
    _query: QueryOf<NoQuery>,
) -> Result<Response, Refusal> {
    let view = shared.parts.control.connect(&path.1).await?;
    Ok(([(header::CACHE_CONTROL, "no-store")], Json(view)).into_response())
}

/// The names of a service's secrets.
#[utoipa::path(
    get, path = "/v1/clusters/{cluster}/services/{service}/secrets", tag = "secrets", operation_id = "secrets",
    params(
        ("cluster" = String, Path, description = "The cluster."),
        ("service" = String, Path, description = "The service.")
    ),
    responses((status = 200, body = Page<String>), (status = "default", body = Problem))
)]
pub(crate) async fn secrets(
    _caller: CanRead,
    State(shared): State<Shared>,
    PathOf(path): PathOf<(ClusterName, ServiceName)>,
    _query: QueryOf<NoQuery>,
) -> Result<Json<Page<String>>, Refusal> {
    Ok(Json(Page::whole(shared.parts.control.secrets(&path.1).await?)))
}

/// A secret of a service, in the clear.
#[utoipa::path(
    get, path = "/v1/clusters/{cluster}/services/{service}/secrets/{secret}", tag = "secrets",
    operation_id = "secret",
    params(
        ("cluster" = String, Path, description = "The cluster."),
        ("service" = String, Path, description = "The service."),
        ("secret" = String, Path, description = "The secret's name.")
    ),
    responses((status = 200, body = SecretValue), (status = "default", body = Problem))
)]
pub(crate) async fn secret(
    _caller: CanChange,
    State(shared): State<Shared>,
    PathOf(path): PathOf<(ClusterName, ServiceName, String)>,
    _query: QueryOf<NoQuery>,
) -> Result<Response, Refusal> {
    let value = shared.parts.control.secret(&path.1, &path.2).await?;
    Ok(([(header::CACHE_CONTROL, "no-store")], Json(value)).into_response())
}

/// The answer to a change that became an operation: 202 and where to follow it.
fn begun(
    shared: &Shared,
    index_given: bool,
    result: Result<Operation, ControlError>,
) -> Result<Response, Refusal> {
    let operation = result.map_err(|error| Problem::from(error).for_if_match(index_given))?;
    let status = if operation.state.is_final() { StatusCode::OK } else { StatusCode::ACCEPTED };
    let place = format!("/v1/clusters/{}/operations/{}", shared.parts.cluster, operation.id);
    Ok((status, [(header::LOCATION, place)], Json(operation)).into_response())
}

fn tagged(service: &RenderedService) -> Response {
    let tag = HeaderValue::from_str(&format!("\"{}\"", service.index()));
    let mut body = Vec::with_capacity(service.size_hint());
    service.write_to(&mut body);
    let mut response = page::json(body);
    // A check index that no header can carry is still in the body.
    if let Ok(tag) = tag {
        response.headers_mut().insert(header::ETAG, tag);
    }
    response
}
