//! What Linux machines of a private cloud give Steadfast, without a cloud's API.
//!
//! - [`addresses`]: static addresses on a network interface, announced and defended by ARP
//! - [`volumes`]: volumes of a size: images of a file system, mounted on the node that holds them

pub mod addresses;
mod rounds;
pub mod volumes;
