//! The store of another server, spoken to over the API: for agents, and for servers that do not own the store.
//!
//! - [`RemoteDb`]: the metadata contract over [`steadfast_api::client::Client`]
//! - [`SwitchDb`]: a store that can be exchanged while it is in use, as a server becomes the owner or ceases to be
//!
//! Neither keeps anything: what is not at the owner does not exist.

mod remote;
mod switch;

pub use remote::RemoteDb;
pub use switch::SwitchDb;
