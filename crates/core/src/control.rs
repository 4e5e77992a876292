//! What users can ask of a control plane, apart from how they ask: the API and embedding programs call this.
//!
//! Every change is recorded before the call returns, as an [`Operation`](crate::model::Operation) where it
//! takes time, and finished by whichever server works on the service.

mod admit;
mod change;
mod connect;
mod create;
mod enlarge;
mod error;
mod kept;
mod read;
mod rebuild;
mod rendered;
mod reshape;
mod revise;
mod view;
mod why;

use std::collections::BTreeMap;
use std::fmt::Debug;

use serde_json::Value;

pub use error::ControlError;
pub use rendered::RenderedService;
pub use view::{
    ConnectView, EventView, MemberView, NodeView, PlanReport, Planned, ServiceView, Why, WhyLine,
};

use std::sync::Arc;

pub use connect::{Clients, ConnectRequest};

use crate::controller::Controller;
use crate::error::Result;
use crate::ids::ServiceId;
use crate::model::{Blueprint, SealedSecret, ServiceSpec, SpecError};
use crate::runtime::Environment;
use crate::store::Store;
use kept::Kept;

/// The result of a request.
pub type ControlResult<T> = Result<T, ControlError>;

/// What comes with a change: how asking twice is recognised, and what must not have changed since.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Guard {
    /// Asking again with the same key gives the operation of the first time, for as long as that is kept: until
    /// [`OPERATIONS_KEPT`](crate::controller::OPERATIONS_KEPT) newer ones of the service have ended. A create with
    /// another spec is refused.
    pub idempotency_key: Option<String>,
    /// The check index that must hold still.
    pub if_index: Option<String>,
}

/// The reason code of a change that was refused because its check index no longer holds.
pub const INDEX_STALE: &str = "IndexStale";

/// A control plane, as its users see it. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Control {
    env: Environment,
    store: Store,
    controller: Controller,
    blueprints: Arc<dyn Blueprints>,
    clients: Arc<dyn Clients>,
    keys: Arc<dyn KeyProvider>,
    kept: Arc<Kept>,
}

impl Control {
    /// The control plane of one cluster. `controller` is this process's replica: what it sees is what users are
    /// shown, and changes wake it.
    pub fn new(
        env: Environment,
        store: Store,
        controller: Controller,
        blueprints: Arc<dyn Blueprints>,
        clients: Arc<dyn Clients>,
        keys: Arc<dyn KeyProvider>,
    ) -> Self {
        Control { env, store, controller, blueprints, clients, keys, kept: Arc::default() }
    }

    /// The records below.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// This process's controller.
    pub fn controller(&self) -> &Controller {
        &self.controller
    }
}

/// What a blueprint makes of a spec.
#[derive(Debug, Clone, PartialEq)]
pub struct Resolved {
    /// The facts that planning needs.
    pub blueprint: Blueprint,
    /// The groups with their number of members, in order.
    pub groups: Vec<crate::model::GroupSpec>,
    /// The options with defaults filled in.
    pub options: BTreeMap<String, Value>,
    /// The secrets a service of this blueprint has, by name: generated before first use.
    pub secrets: Vec<String>,
    /// The blueprint with all its files, to be stored under its digest.
    pub stored: Value,
    /// What the user should know before creating it.
    pub warnings: Vec<String>,
}

/// The catalog, as the control plane sees it. The `catalog` crate has the real one.
pub trait Blueprints: Debug + Send + Sync + 'static {
    /// Checks `spec` against its blueprint and fills in what it leaves open.
    ///
    /// # Errors
    /// Every problem, each with its field and remedy: unknown blueprint, option unknown or out of bounds,
    /// number of members that the topology forbids.
    fn resolve(&self, spec: &ServiceSpec) -> Result<Resolved, Vec<SpecError>>;

    /// The names and versions on offer, with a line on each.
    fn list(&self) -> Vec<(String, String)>;

    /// What the chosen durability promises, against which failure, and what it does not; empty if the
    /// blueprint is not known.
    fn guarantee(&self, _spec: &ServiceSpec) -> String {
        String::new()
    }
}

/// Seals and opens secrets.
pub trait KeyProvider: Debug + Send + Sync + 'static {
    /// Seals a secret of a service. What is sealed for one service does not open for another.
    ///
    /// # Errors
    /// `Denied` or `Unavailable`, as the provider says.
    fn seal(&self, service: &ServiceId, name: &str, plain: &str) -> Result<SealedSecret>;

    /// Opens a secret of a service.
    ///
    /// # Errors
    /// `Corrupt` if it was not sealed for this service and name, or with another key.
    fn open(&self, service: &ServiceId, name: &str, sealed: &SealedSecret) -> Result<String>;
}
