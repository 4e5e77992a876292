//! Registries on the servers of the tests.
#![allow(unreachable_pub, clippy::unwrap_used, reason = "test support: a failure is a panic")]

use std::net::SocketAddr;

use steadfast_backend_rfc2136::{DynamicOptions, DynamicRegistry, TsigKey};
use steadfast_core::Environment;

use crate::named::ZONES;

/// A registry on a server with a key.
pub fn registry(server: SocketAddr, key: &str) -> DynamicRegistry {
    let key: TsigKey = key.parse().unwrap();
    let zones = [ZONES[0].parse().unwrap()].into();
    DynamicRegistry::new(Environment::system([7; 32]), DynamicOptions { server, key, zones })
}
