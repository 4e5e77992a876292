//! The metadata store in [etcd]: replicated by its own consensus, shared by any number of servers.
//!
//! - [`EtcdDb`]: the metadata contract over etcd's v3 API
//! - [`Location`]: where it is, as people write it: `etcd://h1:2379,h2:2379/prefix`
//! - [`EtcdOptions`]: as whom, and whose certificates to trust
//!
//! What holds: a write is acknowledged once a majority of etcd's members has it on disk, and survives the loss of any
//! minority. Reads and writes are linearizable. An etcd that was put back from an older backup counts its revisions
//! again, and so uses versions again: every call fails as `Corrupt` from the first answer on that shows it.
//!
//! [etcd]: https://etcd.io

mod db;
mod endpoints;
mod failure;
mod history;
mod location;
mod options;
mod watch;

pub use db::{EtcdDb, MAX_VALUE_BYTES};
pub use location::{InvalidLocation, Location};
pub use options::{EtcdOptions, Identity, Password};
