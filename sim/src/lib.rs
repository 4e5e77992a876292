//! The simulator: the controllers and agents that ship, over models of everything around them, in virtual time.
//!
//! One run is one thread and follows from its [`Scenario`](run::Scenario) alone: the same scenario gives the same
//! trace, byte for byte.
//!
//! - [`exec`], [`mod@env`]: the executor, processes that crash and pause, clocks that drift
//! - [`model`]: what the store, volumes, addresses, names, machines and engines do, without futures
//! - [`world`]: the gate that every call goes through: its key, its latency, its fault, its place in the trace
//! - [`face`]: core's contracts over the models
//! - [`fault`], [`key`]: what goes wrong, and where by meaning
//! - [`invariant`]: what must hold whatever goes wrong, judged by what really happened
//! - [`run`]: scenarios, and what comes of them
//! - [`cast`], [`suite`]: programs, backends and rules of one's own, and the search for what breaks them
//! - `wire` (a feature): HTTP between them in process, for the clients and servers that ship
//! - [`recovery`]: how long losses last

pub mod cast;
pub mod env;
pub mod exec;
pub mod face;
pub mod fault;
pub mod hash;
pub mod invariant;
pub mod key;
pub mod model;
pub mod plan;
pub mod planted;
pub mod recovery;
pub mod report;
pub mod run;
pub mod search;
pub mod suite;
pub mod time;
pub mod trace;
#[cfg(feature = "wire")]
pub mod wire;
pub mod world;
