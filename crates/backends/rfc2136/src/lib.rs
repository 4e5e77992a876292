//! Names in an existing DNS server, such as BIND: changed by dynamic updates (RFC 2136), read by queries and zone
//! transfers (RFC 5936), every message signed and verified with a shared key (TSIG, RFC 8945).
//!
//! - [`DynamicRegistry`] is a [`Registry`](steadfast_core::registry::Registry) whose authority is that server
//! - [`TsigKey`] is read from a key file as `tsig-keygen` writes it
//!
//! # What the server has to be
//! The primary of the zone: it makes a change whole and one after another, which is what compare and change rest on. The
//! zone has to be there, be Steadfast's own (a zone delegated from the company's), and have no wildcards; the key has to
//! be allowed to update and to transfer it. `docs/names.md` shows the few lines of configuration.
//!
//! # What holds
//! - Compare and change are one message with prerequisites on the whole value, both families of addresses included.
//! - What was acknowledged is in the primary's answers at once. Secondaries follow by notification, in seconds.
//! - Messages go over TCP: none is too large, and none is sent twice by us or the network.
//! - A failure after the request was sent may have happened, and says so.
//!
//! # What does not
//! Whoever has the key can change every name of the zone. TSIG refuses messages whose clocks differ by more than five
//! minutes; a message that was recorded can be sent again within that time, by somebody on the path, and would only be
//! applied if the prerequisites hold again.

mod exchange;
mod failure;
mod key;
mod message;
mod registry;

pub use key::{InvalidKey, TsigKey};
pub use registry::{DynamicOptions, DynamicRegistry};

/// How long an answer may be kept by whoever asked, in seconds: as on the embedded default.
const TTL: u32 = 5;
