//! The store, for agents and other servers: the metadata contract, one address per method.

use axum::Json;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures::StreamExt as _;
use steadfast_core::ids::{ClusterName, MemberName, NodeName};
use steadfast_core::metadata::{CasOutcome, Key, Version};
use steadfast_core::{Error, ErrorKind, Result};

use super::access::CanStore;
use super::extract::{self, NoQuery, PathOf, QueryOf, query};
use super::rights::{NodeRights, WriteRight};
use super::{Refusal, Shared};
use crate::auth::Principal;
use crate::control::MemberSecrets;
use crate::problem::{Code, Problem};
use crate::wire::{
    CapabilitiesAnswer, DIRECT, GetAnswer, PutBody, ScanAnswer, ScanItem, WatchLine, WireError, WireRecord,
};

/// The most records of one scan.
const MOST_ITEMS: usize = 1000;
/// [`WatchLine::Heartbeat`] as it is sent.
const HEARTBEAT: &[u8] = b"\"heartbeat\"\n";

query! {
    /// One key.
    KeyQuery {
        /// The key.
        #[param(value_type = String)]
        key: Key,
    }
}
query! {
    /// One key and the version it is expected to have.
    DeleteQuery {
        /// The key.
        #[param(value_type = String)]
        key: Key,
        /// The version expected.
        #[param(value_type = String)]
        version: Version,
    }
}
query! {
    /// The keys under a prefix.
    ScanQuery {
        /// The prefix, of whole segments.
        #[param(value_type = String)]
        prefix: Key,
        /// Begin after this key.
        #[param(value_type = Option<String>)]
        after: Option<Key>,
        /// At most this many (up to 1000; 500 if left out).
        limit: Option<usize>,
    }
}
query! {
    /// The keys under a prefix.
    WatchQuery {
        /// The prefix, of whole segments.
        #[param(value_type = String)]
        prefix: Key,
    }
}

/// Read one key.
#[utoipa::path(
    get, path = "/v1/clusters/{cluster}/store/record", tag = "store", operation_id = "store_get",
    params(("cluster" = String, Path, description = "The cluster."), KeyQuery),
    responses((status = 200, body = GetAnswer), (status = "default", body = Problem))
)]
pub(crate) async fn get(
    CanStore(caller): CanStore,
    State(shared): State<Shared>,
    QueryOf(query): QueryOf<KeyQuery>,
    headers: HeaderMap,
) -> Result<Json<GetAnswer>, Refusal> {
    here(&shared, &headers, "get")?;
    if let Some(rights) = rights(&shared, &caller) {
        rights.check_read("get", &query.key)?;
    }
    let record = shared.parts.store.get(&query.key).await?;
    Ok(Json(GetAnswer { record: record.map(WireRecord::from) }))
}

/// Write one key if its precondition holds. Losing the race is an answer, not a problem.
#[utoipa::path(
    put, path = "/v1/clusters/{cluster}/store/record", tag = "store", operation_id = "store_put",
    params(("cluster" = String, Path, description = "The cluster."), KeyQuery),
    request_body = PutBody,
    responses((status = 200, body = CasOutcome), (status = "default", body = Problem))
)]
pub(crate) async fn put(
    CanStore(caller): CanStore,
    State(shared): State<Shared>,
    QueryOf(query): QueryOf<KeyQuery>,
    request: Request,
) -> Result<Json<CasOutcome>, Refusal> {
    let headers = request.headers().clone();
    here(&shared, &headers, "put")?;
    let key = query.key;
    let store = &shared.parts.store;
    let longest = store.capabilities().max_value_bytes;
    let limit = longest.saturating_mul(4).saturating_div(3).saturating_add(4096);
    let PutBody { value, precondition } = extract::json(headers, request.into_body(), limit).await?;
    if let Some(rights) = rights(&shared, &caller) {
        let right = rights.check_write("put", &key)?;
        if right != WriteRight::Granted {
            let stored = store.get(&key).await.map_err(Error::without_effect)?;
            let can_hold = match right {
                WriteRight::AsRegistration => {
                    rights.check_registration(&key, stored.as_ref(), &precondition, &value.0)?
                }
                WriteRight::Granted | WriteRight::AsClaim => {
                    rights.check_claim(&key, stored.as_ref(), &precondition, &value.0)?
                }
            };
            if !can_hold {
                return Ok(Json(CasOutcome::Conflict));
            }
        }
    }
    Ok(Json(store.put(&key, value.0, precondition).await?))
}

/// Delete one key if it has the version expected.
#[utoipa::path(
    delete, path = "/v1/clusters/{cluster}/store/record", tag = "store", operation_id = "store_delete",
    params(("cluster" = String, Path, description = "The cluster."), DeleteQuery),
    responses((status = 200, body = CasOutcome), (status = "default", body = Problem))
)]
pub(crate) async fn delete(
    CanStore(caller): CanStore,
    State(shared): State<Shared>,
    QueryOf(query): QueryOf<DeleteQuery>,
    headers: HeaderMap,
) -> Result<Json<CasOutcome>, Refusal> {
    here(&shared, &headers, "delete")?;
    if let Some(rights) = rights(&shared, &caller) {
        rights.check_write("delete", &query.key)?;
    }
    Ok(Json(shared.parts.store.delete(&query.key, &query.version).await?))
}

/// Read the keys under a prefix, a page at a time.
#[utoipa::path(
    get, path = "/v1/clusters/{cluster}/store/scan", tag = "store", operation_id = "store_scan",
    params(("cluster" = String, Path, description = "The cluster."), ScanQuery),
    responses((status = 200, body = ScanAnswer), (status = "default", body = Problem))
)]
pub(crate) async fn scan(
    CanStore(caller): CanStore,
    State(shared): State<Shared>,
    QueryOf(query): QueryOf<ScanQuery>,
    headers: HeaderMap,
) -> Result<Json<ScanAnswer>, Refusal> {
    here(&shared, &headers, "scan")?;
    if let Some(rights) = rights(&shared, &caller) {
        rights.check_read("scan", &query.prefix)?;
    }
    let limit = query.limit.unwrap_or(500);
    if limit > MOST_ITEMS {
        return Err(Problem::new(Code::ParameterInvalid, format!("limit is {limit}"))
            .in_field("limit")
            .remedy(format!("give at most {MOST_ITEMS}"))
            .into());
    }
    let page = shared.parts.store.scan(&query.prefix, query.after.as_ref(), limit).await?;
    let items = page.items.into_iter().map(|(key, record)| ScanItem { key, record: record.into() }).collect();
    Ok(Json(ScanAnswer { items, more: page.more }))
}

/// Hints about changes under a prefix: lines of JSON, the first of which says that from now on every change is
/// hinted at. The stream ends when the store goes away.
#[utoipa::path(
    get, path = "/v1/clusters/{cluster}/store/watch", tag = "store", operation_id = "store_watch",
    params(("cluster" = String, Path, description = "The cluster."), WatchQuery),
    responses(
        (status = 200, body = WatchLine, content_type = "application/x-ndjson"),
        (status = "default", body = Problem)
    )
)]
pub(crate) async fn watch(
    CanStore(caller): CanStore,
    State(shared): State<Shared>,
    QueryOf(query): QueryOf<WatchQuery>,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    here(&shared, &headers, "watch")?;
    if let Some(rights) = rights(&shared, &caller) {
        rights.check_read("watch", &query.prefix)?;
    }
    let hints = shared.parts.store.watch(&query.prefix).await?;
    let lines = super::streams::with_heartbeats(
        Some(line(&WatchLine::Ready)),
        hints.map(|hint| line(&WatchLine::from(hint))).boxed(),
        HEARTBEAT,
        shared.parts.limits.heartbeat,
        shared.parts.environment.clone(),
    );
    Ok(([(header::CONTENT_TYPE, "application/x-ndjson")], Body::from_stream(lines)).into_response())
}

/// What the store can do.
#[utoipa::path(
    get, path = "/v1/clusters/{cluster}/store", tag = "store", operation_id = "store_capabilities",
    params(("cluster" = String, Path, description = "The cluster.")),
    responses((status = 200, body = CapabilitiesAnswer), (status = "default", body = Problem))
)]
pub(crate) async fn capabilities(
    _caller: CanStore,
    State(shared): State<Shared>,
    _query: QueryOf<NoQuery>,
    headers: HeaderMap,
) -> Result<Json<CapabilitiesAnswer>, Refusal> {
    here(&shared, &headers, "capabilities")?;
    let capabilities = shared.parts.store.capabilities();
    Ok(Json(CapabilitiesAnswer {
        max_value_bytes: u64::try_from(capabilities.max_value_bytes).unwrap_or(u64::MAX),
        watch: capabilities.watch,
        durable: capabilities.durable,
        owner: (shared.parts.owns_store)(),
    }))
}

/// The secrets of a member's service, for the node that holds the member.
#[utoipa::path(
    get, path = "/v1/clusters/{cluster}/nodes/{node}/members/{member}/secrets", tag = "store",
    operation_id = "member_secrets",
    params(
        ("cluster" = String, Path, description = "The cluster."),
        ("node" = String, Path, description = "The caller's own node."),
        ("member" = String, Path, description = "A member that it holds.")
    ),
    responses((status = 200, body = MemberSecrets), (status = "default", body = Problem))
)]
pub(crate) async fn member_secrets(
    CanStore(caller): CanStore,
    State(shared): State<Shared>,
    PathOf(path): PathOf<(ClusterName, NodeName, MemberName)>,
    _query: QueryOf<NoQuery>,
) -> Result<Response, Refusal> {
    let (_, node, member) = path;
    if caller != Principal::Node(node.clone()) {
        let detail = format!("the token of {caller} may not ask for what node {node} holds");
        return Err(Problem::new(Code::PermissionDenied, detail).in_field("node").into());
    }
    let secrets = shared.parts.node_secrets.secrets(&node, &member).await?;
    Ok(([(header::CACHE_CONTROL, "no-store")], Json(secrets)).into_response())
}

fn rights<'a>(shared: &'a Shared, caller: &'a Principal) -> Option<NodeRights<'a>> {
    match caller {
        Principal::Node(node) => Some(NodeRights { cluster: &shared.parts.cluster, node }),
        Principal::Admin | Principal::Reader | Principal::Server => None,
    }
}

/// Refuses a caller that looks for the owner of the store, if that is not us: two servers that each take the
/// other for the owner must not send a request back and forth.
fn here(shared: &Shared, headers: &HeaderMap, operation: &'static str) -> Result<(), Refusal> {
    if !headers.contains_key(DIRECT) || (shared.parts.owns_store)() {
        return Ok(());
    }
    let message = "this server does not own the store";
    let error = Error::new(ErrorKind::Unavailable, "api", operation, &shared.parts.cluster, message);
    let mut problem = Problem::new(Code::StoreElsewhere, message).remedy("ask the other servers");
    problem.cause = Some(WireError::from(&error.without_effect()));
    Err(problem.into())
}

fn line(line: &WatchLine) -> Bytes {
    // No line has a field that JSON cannot write; an empty one would end the watch at the client.
    let mut text = serde_json::to_vec(line).unwrap_or_default();
    text.push(b'\n');
    text.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_heartbeat_is_a_line() {
        assert_eq!(line(&WatchLine::Heartbeat), HEARTBEAT);
    }
}
