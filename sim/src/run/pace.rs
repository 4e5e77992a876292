//! How often agents and servers look and renew.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use steadfast_agent::config::AgentTimers;
use steadfast_core::controller::ControllerConfig;

/// How often agents and servers look and renew, in milliseconds. What is left out is as shipped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Pace {
    /// A node's lease: renewed three times as often.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node_lease_ms: Option<u64>,
    /// How often an agent looks at an engine that serves.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub look_ms: Option<u64>,
    /// How often an agent reads everything again.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resync_ms: Option<u64>,
    /// How often a server looks at the nodes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sweep_ms: Option<u64>,
    /// A server's lease of its shares: renewed four times as often.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub server_lease_ms: Option<u64>,
}

impl Pace {
    /// For a cluster whose backends are asked over a network and count the calls: leases of 15 seconds, looks every
    /// two.
    pub fn calm() -> Self {
        Pace {
            node_lease_ms: Some(15_000),
            look_ms: Some(2_000),
            resync_ms: Some(60_000),
            sweep_ms: Some(2_000),
            server_lease_ms: Some(15_000),
        }
    }

    /// With every node heard once a second.
    pub fn heartbeat_every_second() -> Self {
        Pace { node_lease_ms: Some(3_000), ..Pace::default() }
    }

    /// The timers of an agent.
    pub fn agent(self) -> AgentTimers {
        let shipped = AgentTimers::default();
        AgentTimers {
            lease: or(self.node_lease_ms, shipped.lease),
            look: or(self.look_ms, shipped.look),
            resync: or(self.resync_ms, shipped.resync),
            ..shipped
        }
    }

    /// The timers of a server.
    pub fn server(self) -> ControllerConfig {
        let shipped = ControllerConfig::default();
        ControllerConfig {
            sweep: or(self.sweep_ms, shipped.sweep),
            lease: or(self.server_lease_ms, shipped.lease),
            ..shipped
        }
    }
}

fn or(given: Option<u64>, shipped: Duration) -> Duration {
    given.map_or(shipped, Duration::from_millis)
}
