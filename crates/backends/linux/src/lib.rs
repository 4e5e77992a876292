//! What Linux machines of a private cloud give Steadfast, without a cloud's API.
//!
//! - [`addresses`]: static addresses on a network interface, announced and defended by ARP

pub mod addresses;
