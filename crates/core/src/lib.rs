//! The core of Steadfast: a control plane for stateful services that stay themselves.
//!
//! - [`ids`], [`model`]: names, identifiers and plain data
//! - [`metadata`], [`registry`], [`volume`], [`snapshot`], [`ip`], [`orchestrator`], [`engine`]: the contracts that
//!   backends and blueprints fulfil, each with a memory backend (but for engines)
//! - [`runtime`]: where time, randomness and tasks come from
//! - [`error`], [`observed`]: how failures and observations are told

pub mod backends;
#[cfg(any(test, feature = "conformance"))]
pub mod conformance;
pub mod control;
pub mod controller;
pub mod engine;
pub mod error;
pub mod ids;
pub mod ip;
pub mod layer;
pub mod lease;
mod memory;
pub mod metadata;
pub mod model;
pub mod observed;
pub mod orchestrator;
pub mod plan;
#[doc(hidden)]
pub mod planted;
pub mod registry;
pub mod runtime;
#[cfg(feature = "schema")]
mod schema;
pub mod snapshot;
pub mod store;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
mod text;
pub mod volume;
pub mod workflow;
#[cfg(feature = "testing")]
pub mod world;

pub use error::{Effect, Error, ErrorKind, Result, Retry};
pub use observed::Observed;
pub use runtime::Environment;
