//! Names on the embedded default: a registry that keeps them in the metadata store, and an authoritative DNS
//! server that answers from it.
//!
//! - [`StoreRegistry`] keeps each name in one record of a [`MetadataDb`](steadfast_core::metadata::MetadataDb)
//! - [`DnsServer`] answers over UDP and TCP from the registry's zones as last seen
//! - [`ZoneTable`] and [`answer`] are the server without sockets: bytes in, bytes out
//!
//! # When a change is seen
//! - A change made through a [`StoreRegistry`], or through its [`database`](StoreRegistry::database), is in the
//!   answers of that registry's servers before it is acknowledged. So the process that owns the store and
//!   serves it to the others through that handle answers with every acknowledged change at once, whoever made
//!   it.
//! - A change made elsewhere is seen when the store's watch tells of it; if the hint is lost, at the next resync.
//! - While the store cannot be reached, the last known names are served, as a secondary server would: a member that
//!   serves is to be found without the control plane. After [`DnsOptions::expire`], by default the day that the zone's
//!   SOA says, every question gets SERVFAIL, upon which resolvers ask another server. Before the names were ever read
//!   it does at once.
//! - From three resyncs without the store on, answers say that they may be out of date (extended error 3 of RFC 8914,
//!   which `dig` shows as `EDE: 3 (Stale Answer)`).
//!
//! # Several servers
//! Each reads the same store and watches it by itself, so any number of them answers for the zone, and any of them may
//! die. What is changed through one is seen by the others when the store's watch tells them.
//!
//! # Why the sockets are our own
//! Messages are parsed and written by `hickory-proto`. Its server was left out for what it does around them: a
//! connection that is aborted before it was accepted ends its TCP service, being out of descriptors makes it
//! spin, an answer that is cut short loses its EDNS record, tasks and timers are tokio's own, and every query
//! is logged twice at the level meant for operators.

mod answer;
mod registry;
mod server;
mod table;
mod zones;

pub use answer::{Known, Transport, answer};
pub use registry::StoreRegistry;
pub use server::{DnsOptions, DnsServer};
pub use table::ZoneTable;

/// How long an answer, positive or negative, may be kept by whoever asked, in seconds.
const TTL: u32 = 5;

/// How long names are told that cannot be read any more, unless told otherwise.
const EXPIRE: std::time::Duration = std::time::Duration::from_hours(24);

/// What errors and logs call the registry.
const BACKEND: &str = "dns registry";
