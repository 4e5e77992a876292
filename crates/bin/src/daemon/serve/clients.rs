//! How an engine's own clients reach a service, as the blueprint that the service is pinned to says.

use std::net::IpAddr;

use steadfast_catalog::{ConnectContext, Definition};
use steadfast_core::Result;
use steadfast_core::control::{Clients, ConnectRequest, ConnectView};
use steadfast_core::engine::Peer;

/// Reads stored blueprints.
#[derive(Debug, Clone, Copy)]
pub(super) struct StoredClients;

impl Clients for StoredClients {
    fn connect(&self, request: &ConnectRequest) -> Result<ConnectView> {
        let definition = Definition::from_stored(&request.stored)?;
        let definition = definition.at_version(&request.blueprint.version).unwrap_or(definition);
        let members = request.members.iter().zip(0..).map(|((name, host, address), place)| Peer {
            name: name.clone(),
            // The ordinal is the end of every member's name.
            ordinal: name.as_str().rsplit('-').next().and_then(|text| text.parse().ok()).unwrap_or(place),
            host: host.clone(),
            address: Some(IpAddr::clone(address)),
        });
        definition.connect(&ConnectContext {
            service: request.service.clone(),
            host: request.host.clone(),
            primary: request.primary.clone().unwrap_or_else(|| request.host.clone()),
            members: members.collect(),
            options: request.options.clone(),
            secrets: request.secrets.clone(),
        })
    }
}
