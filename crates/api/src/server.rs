//! The router: every address of the API, over whatever listener.
//!
//! Layers, outermost first: request id and log → panic and timeout → who calls → cluster → handler. Each handler
//! names what its caller must be allowed by the type of its first argument ([`access`]).

mod access;
mod extract;
mod front;
mod rights;
mod store;

use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::response::{IntoResponse, Response};
use steadfast_core::Environment;
use steadfast_core::ids::ClusterName;
use steadfast_core::metadata::MetadataDb;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::auth::Principals;
use crate::control::{ControlApi, NodeSecrets};
use crate::problem::Problem;

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

/// Bounds of a server.
#[derive(Debug, Clone)]
pub struct Limits {
    /// The longest body, in bytes; one that carries a stored value may be longer by what encoding adds.
    pub body_bytes: usize,
    /// How long one request may take; streams count until their first byte.
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
            request: Duration::from_secs(30),
            heartbeat: Duration::from_secs(10),
            watch_history: 4096,
        }
    }
}

/// What handlers share.
#[derive(Debug, Clone)]
pub(crate) struct Shared {
    pub(crate) parts: Arc<Parts>,
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
    let shared = Shared { parts: Arc::new(parts) };
    let (router, _document) = routes().split_for_parts();
    router
        .fallback(front::unknown_route)
        .method_not_allowed_fallback(front::unsupported_method)
        .layer(axum::middleware::from_fn_with_state(shared.clone(), front::guard))
        .with_state(shared)
}

fn routes() -> OpenApiRouter<Shared> {
    OpenApiRouter::new()
        .routes(routes!(store::get, store::put, store::delete))
        .routes(routes!(store::scan))
        .routes(routes!(store::watch))
        .routes(routes!(store::capabilities))
        .routes(routes!(store::member_secrets))
}
