//! The rest of a cluster: operations, events, members, nodes, the catalog.

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use steadfast_core::control::{EventView, NodeView, ServiceView, Why};
use steadfast_core::ids::{ClusterName, Incarnation, MemberName, NodeName, OperationId, ServiceName};
use steadfast_core::model::{Operation, OperationState};

use super::access::{CanChange, CanRead};
use super::extract::{JsonBody, NoQuery, PathOf, QueryOf, query};
use super::page::{self, Page};
use super::{Refusal, Shared};
use crate::control::{CatalogEntry, EventFilter, LogRequest, OperationFilter};
use crate::problem::Problem;
use crate::wire::{ConfirmDead, LostDisk};

query! {
    /// Which operations.
    OperationQuery {
        /// Those of this service.
        #[param(value_type = Option<String>)]
        service: Option<ServiceName>,
        /// Those in this state.
        state: Option<OperationState>,
        /// At most this many (1 to 500; 100 if left out).
        limit: Option<usize>,
        /// The `next` of the page before.
        cursor: Option<String>,
    }
}
query! {
    /// Which events.
    EventQuery {
        /// Those of this service and its members.
        #[param(value_type = Option<String>)]
        service: Option<ServiceName>,
        /// Those about this member.
        #[param(value_type = Option<String>)]
        member: Option<MemberName>,
        /// Those whose number within their record is greater.
        after: Option<u64>,
        /// At most this many, the newest (1 to 500; 100 if left out).
        limit: Option<usize>,
    }
}
query! {
    /// Which output.
    LogQuery {
        /// Begin with the last lines, this many; everything kept if left out.
        tail: Option<u64>,
        /// Stay, and send what comes.
        follow: Option<bool>,
    }
}

/// The operations, by id, which begins with the time.
#[utoipa::path(
    get, path = "/v1/clusters/{cluster}/operations", tag = "operations", operation_id = "operations",
    params(("cluster" = String, Path, description = "The cluster."), OperationQuery),
    responses((status = 200, body = Page<Operation>), (status = "default", body = Problem))
)]
pub(crate) async fn operations(
    _caller: CanRead,
    State(shared): State<Shared>,
    QueryOf(query): QueryOf<OperationQuery>,
) -> Result<Json<Page<Operation>>, Refusal> {
    let limit = page::limit(query.limit)?;
    let filter = OperationFilter { service: query.service, state: query.state };
    let items = shared.parts.control.operations(filter, page::request(limit, query.cursor)).await?;
    Ok(Json(Page::of(items, limit, |operation| operation.id.to_string())))
}

/// An operation.
#[utoipa::path(
    get, path = "/v1/clusters/{cluster}/operations/{operation}", tag = "operations", operation_id = "operation",
    params(
        ("cluster" = String, Path, description = "The cluster."),
        ("operation" = String, Path, description = "The operation.")
    ),
    responses((status = 200, body = Operation), (status = "default", body = Problem))
)]
pub(crate) async fn operation(
    _caller: CanRead,
    State(shared): State<Shared>,
    PathOf(path): PathOf<(ClusterName, OperationId)>,
    _query: QueryOf<NoQuery>,
) -> Result<Json<Operation>, Refusal> {
    Ok(Json(shared.parts.control.operation(&path.1).await?))
}

/// Ask an operation to end early. What it has done stays done.
#[utoipa::path(
    post, path = "/v1/clusters/{cluster}/operations/{operation}/cancel", tag = "operations",
    operation_id = "cancel",
    params(
        ("cluster" = String, Path, description = "The cluster."),
        ("operation" = String, Path, description = "The operation.")
    ),
    responses((status = 200, body = Operation), (status = "default", body = Problem))
)]
pub(crate) async fn cancel(
    _caller: CanChange,
    State(shared): State<Shared>,
    PathOf(path): PathOf<(ClusterName, OperationId)>,
    _query: QueryOf<NoQuery>,
) -> Result<Json<Operation>, Refusal> {
    Ok(Json(shared.parts.control.cancel(&path.1).await?))
}

/// Events, oldest first.
#[utoipa::path(
    get, path = "/v1/clusters/{cluster}/events", tag = "events", operation_id = "events",
    params(("cluster" = String, Path, description = "The cluster."), EventQuery),
    responses((status = 200, body = Page<EventView>), (status = "default", body = Problem))
)]
pub(crate) async fn events(
    _caller: CanRead,
    State(shared): State<Shared>,
    QueryOf(query): QueryOf<EventQuery>,
) -> Result<Json<Page<EventView>>, Refusal> {
    let EventQuery { service, member, after, limit } = query;
    let filter = EventFilter { service, member, after, limit: page::limit(limit)? };
    Ok(Json(Page::whole(shared.parts.control.events(filter).await?)))
}

/// Why a member is as it is, and what resolves it.
#[utoipa::path(
    get, path = "/v1/clusters/{cluster}/members/{member}/why", tag = "members", operation_id = "why",
    params(
        ("cluster" = String, Path, description = "The cluster."),
        ("member" = String, Path, description = "The member.")
    ),
    responses((status = 200, body = Why), (status = "default", body = Problem))
)]
pub(crate) async fn why(
    _caller: CanRead,
    State(shared): State<Shared>,
    PathOf(path): PathOf<(ClusterName, MemberName)>,
    _query: QueryOf<NoQuery>,
) -> Result<Json<Why>, Refusal> {
    Ok(Json(shared.parts.control.why(&path.1).await?))
}

/// Say that the disk with a member's volumes is gone for good: it gets others elsewhere, filled by the other members.
#[utoipa::path(
    post, path = "/v1/clusters/{cluster}/members/{member}/rebuild", tag = "members", operation_id = "rebuild",
    params(
        ("cluster" = String, Path, description = "The cluster."),
        ("member" = String, Path, description = "The member.")
    ),
    request_body = LostDisk,
    responses((status = 200, body = ServiceView), (status = "default", body = Problem))
)]
pub(crate) async fn rebuild(
    _caller: CanChange,
    State(shared): State<Shared>,
    PathOf(path): PathOf<(ClusterName, MemberName)>,
    _query: QueryOf<NoQuery>,
    JsonBody(body): JsonBody<LostDisk>,
) -> Result<Json<ServiceView>, Refusal> {
    Ok(Json(shared.parts.control.rebuild(&path.1, &body.lost_disk).await?))
}

/// A member's output, kept across moves.
#[utoipa::path(
    get, path = "/v1/clusters/{cluster}/members/{member}/logs", tag = "members", operation_id = "logs",
    params(
        ("cluster" = String, Path, description = "The cluster."),
        ("member" = String, Path, description = "The member."),
        LogQuery
    ),
    responses(
        (status = 200, body = String, content_type = "text/plain"),
        (status = "default", body = Problem)
    )
)]
pub(crate) async fn logs(
    _caller: CanRead,
    State(shared): State<Shared>,
    PathOf(path): PathOf<(ClusterName, MemberName)>,
    QueryOf(query): QueryOf<LogQuery>,
) -> Result<Response, Refusal> {
    let request = LogRequest { tail: query.tail, follow: query.follow.unwrap_or(false) };
    let output = shared.parts.control.logs(&path.1, request).await?;
    let output = super::streams::until_shutdown(output, &shared.parts.environment);
    let headers = [
        (header::CONTENT_TYPE, "text/plain; charset=utf-8"),
        // An engine's output must not be taken for a page.
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::CACHE_CONTROL, "no-store"),
    ];
    Ok((headers, Body::from_stream(output)).into_response())
}

/// The nodes, by name.
#[utoipa::path(
    get, path = "/v1/clusters/{cluster}/nodes", tag = "nodes", operation_id = "nodes",
    params(("cluster" = String, Path, description = "The cluster.")),
    responses((status = 200, body = Page<NodeView>), (status = "default", body = Problem))
)]
pub(crate) async fn nodes(
    _caller: CanRead,
    State(shared): State<Shared>,
    _query: QueryOf<NoQuery>,
) -> Result<Json<Page<NodeView>>, Refusal> {
    Ok(Json(Page::whole(shared.parts.control.nodes().await?)))
}

/// Confirm that one life of a node is over. Members move on this word: if the node still runs, data may be lost.
#[utoipa::path(
    post, path = "/v1/clusters/{cluster}/nodes/{node}/confirm-dead", tag = "nodes",
    operation_id = "confirm_dead",
    params(
        ("cluster" = String, Path, description = "The cluster."),
        ("node" = String, Path, description = "The node.")
    ),
    request_body = ConfirmDead,
    responses((status = 200, body = NodeView), (status = "default", body = Problem))
)]
pub(crate) async fn confirm_dead(
    _caller: CanChange,
    State(shared): State<Shared>,
    PathOf(path): PathOf<(ClusterName, NodeName)>,
    _query: QueryOf<NoQuery>,
    JsonBody(body): JsonBody<ConfirmDead>,
) -> Result<Json<NodeView>, Refusal> {
    let incarnation: Incarnation = body.incarnation;
    Ok(Json(shared.parts.control.confirm_dead(&path.1, &incarnation).await?))
}

/// The blueprints on offer.
#[utoipa::path(
    get, path = "/v1/clusters/{cluster}/catalog", tag = "catalog", operation_id = "catalog",
    params(("cluster" = String, Path, description = "The cluster.")),
    responses((status = 200, body = Page<CatalogEntry>), (status = "default", body = Problem))
)]
pub(crate) async fn catalog(
    _caller: CanRead,
    State(shared): State<Shared>,
    _query: QueryOf<NoQuery>,
) -> Result<Json<Page<CatalogEntry>>, Refusal> {
    Ok(Json(Page::whole(shared.parts.control.catalog().await?)))
}
