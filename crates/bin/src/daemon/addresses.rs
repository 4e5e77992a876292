//! The members' addresses: on the loopback interface, or on a network that the configuration names.

use std::sync::Arc;

use steadfast_backends::embedded::addresses::LoopbackAddresses;
#[cfg(feature = "linux")]
use steadfast_backends::linux::addresses::NetlinkAddresses;
use steadfast_core::Environment;
use steadfast_core::ids::NodeName;
use steadfast_core::ip::IpProvider;
use steadfast_core::metadata::Records;

use crate::config::{ClusterConfig, NetworkConfig};
use crate::exit::{Failure, Result};

/// A cluster's addresses, as a server or a node's agent has them.
#[derive(Debug, Clone)]
pub(super) enum Addresses {
    Loopback(LoopbackAddresses),
    #[cfg(feature = "linux")]
    Network(NetlinkAddresses),
}

impl Addresses {
    /// As the configuration says; `node` is the one whose agent this is.
    pub(super) fn open(
        config: &ClusterConfig,
        records: &Records,
        node: Option<&NodeName>,
        environment: &Environment,
    ) -> Result<Self> {
        match &config.network {
            None => Ok(Addresses::Loopback(LoopbackAddresses::new(records.clone(), config.loopback))),
            Some(network) => on_network(network, records, node, environment),
        }
    }

    pub(super) fn provider(&self) -> Arc<dyn IpProvider> {
        match self {
            Addresses::Loopback(addresses) => Arc::new(addresses.clone()),
            #[cfg(feature = "linux")]
            Addresses::Network(addresses) => Arc::new(addresses.clone()),
        }
    }

    /// Gives back addresses that belong to nobody; gives how many.
    pub(super) async fn repair(&self) -> steadfast_core::Result<usize> {
        match self {
            Addresses::Loopback(addresses) => addresses.repair().await,
            #[cfg(feature = "linux")]
            Addresses::Network(addresses) => addresses.repair().await,
        }
    }

    /// Keeps the addresses of the agent's node where they belong, for as long as it runs.
    pub(super) fn keep(&self) -> Result<()> {
        match self {
            Addresses::Loopback(_) => Ok(()),
            #[cfg(feature = "linux")]
            Addresses::Network(addresses) => Ok(addresses.keep()?),
        }
    }
}

#[cfg(feature = "linux")]
fn on_network(
    config: &NetworkConfig,
    records: &Records,
    node: Option<&NodeName>,
    environment: &Environment,
) -> Result<Addresses> {
    let range = config.addresses.parse().map_err(|error| {
        Failure::new(format!("network.addresses: {error}"))
            .remedy("correct it in cluster.json, or give --addresses FIRST-LAST to `steadfast serve`")
    })?;
    let records = records.clone();
    Ok(Addresses::Network(match node {
        Some(node) => NetlinkAddresses::on(records, range, &config.interface, node.clone(), environment)?,
        None => NetlinkAddresses::recorded(records, range),
    }))
}

#[cfg(not(feature = "linux"))]
fn on_network(
    config: &NetworkConfig,
    _records: &Records,
    _node: Option<&NodeName>,
    _environment: &Environment,
) -> Result<Addresses> {
    Err(Failure::usage(
        format!("network.interface {}: this build has no addresses but loopback ones", config.interface),
        "build it with them: cargo build --package steadfast --features etcd,linux",
    ))
}
