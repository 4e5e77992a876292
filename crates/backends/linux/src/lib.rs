//! What Linux machines of a private cloud give Steadfast, without a cloud's API.
//!
//! - [`addresses`]: static addresses on a network interface, announced and defended by ARP
//! - [`volumes`]: volumes of a size: images of a file system, mounted on the node that holds them
//! - [`disks`]: volumes on the disk of a node, which stay there

pub mod addresses;
pub mod disks;
mod rounds;
mod turns;
pub mod volumes;
