//! Names in a real BIND against the registry contract: each rule with a server of its own.

mod handle;
mod named;

use handle::registry;
use named::{KEY, Named};
use steadfast_backend_rfc2136::DynamicRegistry;
use steadfast_core::conformance::Harness;
use steadfast_core::conformance::registry::RegistryHarness;

struct Bind;

impl Harness for Bind {
    type Backend = DynamicRegistry;
    type Guard = Named;

    async fn open(&self) -> (Named, DynamicRegistry) {
        let named = Named::start();
        let registry = registry(named.address(), KEY);
        (named, registry)
    }

    async fn reopen(&self, named: &Named) -> DynamicRegistry {
        registry(named.address(), KEY)
    }
}

impl RegistryHarness for Bind {}

steadfast_core::registry_conformance!(Bind);
