//! The router: every address of the API, over whatever listener.
//!
//! Layers, outermost first: request id and log → panic and timeout → who calls → cluster → handler. Each handler
//! names what its caller must be allowed by the type of its first argument (`access`).

mod access;
mod cluster;
mod document;
mod extract;
mod front;
mod page;
mod rights;
mod services;
mod store;
mod streams;
mod system;
mod watch;

use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::response::{IntoResponse, Response};
use steadfast_core::Environment;
use steadfast_core::ids::ClusterName;
use steadfast_core::metadata::MetadataDb;
use utoipa::openapi::OpenApi;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::auth::Principals;
use crate::control::{ControlApi, NodeSecrets};
use crate::problem::Problem;
use document::Document;

/// What a server is made of.
#[derive(Clone)]
pub struct Parts {
    /// The cluster it serves.
    pub cluster: ClusterName,
    /// The control plane.
    pub control: Arc<dyn ControlApi>,
    /// The store: its own, or another server's.
    pub store: Arc<dyn MetadataDb>,
    /// Whether `store` is this server's own just now.
    pub owns_store: Arc<dyn Fn() -> bool + Send + Sync>,
    /// Opens secrets for agents.
    pub node_secrets: Arc<dyn NodeSecrets>,
    /// Who tokens belong to.
    pub principals: Arc<dyn Principals>,
    /// Time, randomness and tasks.
    pub environment: Environment,
    /// Metrics in Prometheus' text format.
    pub metrics: Arc<dyn Fn() -> String + Send + Sync>,
    /// Whether the server can do its work; if not, why.
    pub ready: Arc<dyn Fn() -> Result<(), String> + Send + Sync>,
    /// Bounds.
    pub limits: Limits,
}

impl Debug for Parts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Parts")
            .field("cluster", &self.cluster)
            .field("store", &self.store)
            .field("limits", &self.limits)
            .finish_non_exhaustive()
    }
}

pub use page::Page;

/// Bounds of a server.
#[derive(Debug, Clone)]
pub struct Limits {
    /// The longest body, in bytes; one that carries a stored value may be longer by what encoding adds.
    pub body_bytes: usize,
    /// How long one request may take; streams count until their first byte. Less than clients wait, so that they
    /// learn why.
    pub request: Duration,
    /// How long a stream is silent before a heartbeat.
    pub heartbeat: Duration,
    /// How many changes the watch remembers for those who come back.
    pub watch_history: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            body_bytes: 1 << 20,
            request: Duration::from_secs(20),
            heartbeat: Duration::from_secs(10),
            watch_history: 4096,
        }
    }
}

/// What handlers share.
#[derive(Debug, Clone)]
pub(crate) struct Shared {
    parts: Arc<Parts>,
    hub: Arc<watch::Hub>,
    document: Arc<Document>,
}

/// What a handler answers if it does not do what was asked.
#[derive(Debug)]
pub(crate) struct Refusal(Box<Problem>);

impl<T: Into<Problem>> From<T> for Refusal {
    fn from(problem: T) -> Self {
        Refusal(Box::new(problem.into()))
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        self.0.into_response()
    }
}

/// The router of a server of these parts.
pub fn router(parts: Parts) -> Router {
    let (router, document) = routes().split_for_parts();
    let hub = watch::Hub::new(&parts.environment, parts.limits.watch_history);
    let shared =
        Shared { hub: Arc::new(hub), document: Arc::new(Document::new(&document)), parts: Arc::new(parts) };
    router
        .fallback(front::unknown_route)
        .method_not_allowed_fallback(front::unsupported_method)
        .layer(axum::middleware::from_fn_with_state(shared.clone(), front::guard))
        .with_state(shared)
}

/// The description of the API, generated from the routes.
pub fn openapi() -> OpenApi {
    routes().into_openapi()
}

/// Every route, each with its description: there is no other way in.
fn routes() -> OpenApiRouter<Shared> {
    OpenApiRouter::with_openapi(document::info())
        .routes(routes!(services::plan))
        .routes(routes!(services::list, services::apply))
        .routes(routes!(services::get, services::delete))
        .routes(routes!(services::undelete))
        .routes(routes!(services::restart))
        .routes(routes!(services::stop))
        .routes(routes!(services::start))
        .routes(routes!(services::pause))
        .routes(routes!(services::resume))
        .routes(routes!(services::connect))
        .routes(routes!(services::secrets))
        .routes(routes!(services::secret))
        .routes(routes!(cluster::operations))
        .routes(routes!(cluster::operation))
        .routes(routes!(cluster::cancel))
        .routes(routes!(cluster::events))
        .routes(routes!(watch::watch))
        .routes(routes!(cluster::why))
        .routes(routes!(cluster::rebuild))
        .routes(routes!(cluster::logs))
        .routes(routes!(cluster::nodes))
        .routes(routes!(cluster::confirm_dead))
        .routes(routes!(cluster::catalog))
        .routes(routes!(store::capabilities))
        .routes(routes!(store::get, store::put, store::delete))
        .routes(routes!(store::scan))
        .routes(routes!(store::watch))
        .routes(routes!(store::member_secrets))
        .routes(routes!(system::healthz))
        .routes(routes!(system::readyz))
        .routes(routes!(system::metrics))
        .routes(routes!(system::openapi))
        .routes(routes!(system::docs))
        .routes(routes!(system::index))
}
