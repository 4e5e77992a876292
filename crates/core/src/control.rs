//! What users can ask of a control plane, apart from how they ask: the API and embedding programs call this.
//!
//! Every change is recorded before the call returns, as an [`Operation`](crate::model::Operation) where it
//! takes time, and finished by whichever server works on the service.

mod error;
mod view;

use std::collections::BTreeMap;
use std::fmt::Debug;

use serde_json::Value;

pub use error::ControlError;
pub use view::{
    ConnectView, EventView, MemberView, NodeView, PlanReport, Planned, ServiceView, Why, WhyLine,
};

use crate::error::Result;
use crate::ids::ServiceId;
use crate::model::{Blueprint, SealedSecret, ServiceSpec, SpecError};

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
