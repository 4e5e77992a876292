//! The embedded backends: everything Steadfast needs on one Linux machine, without root, cloud or containers.
//!
//! - [`store`]: metadata in a redb file, owned by one process at a time
//! - [`volumes`]: volumes that are folders, guarded by a lock that the engine's whole tree holds
//! - [`addresses`]: static addresses on the loopback interface
//! - [`keys`]: the key file that seals secrets
//!
//! All of it proves what it says on one machine, with one kernel and one disk, and nothing about a second one.

pub mod addresses;
pub mod dns;
mod failure;
mod files;
pub mod keys;
pub mod store;
pub mod volumes;
