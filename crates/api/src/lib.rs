//! The API of Steadfast: REST types, OpenAPI, the server's router and a typed client.
//!
//! - [`server`]: [`server::router`] answers over whatever listener, from a [`control::ControlApi`] and a store
//! - [`client`]: one method per address, several servers, failover
//! - [`problem`]: how failures are told (RFC 9457), with codes that stay
//! - [`auth`]: who calls
//! - [`wire`]: what travels besides core's own types

pub mod auth;
pub mod client;
pub mod control;
pub mod problem;
pub mod server;
#[cfg(feature = "testing")]
pub mod testing;
pub mod wire;
