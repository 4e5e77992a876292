//! The backends of a cluster, together.

use std::sync::Arc;

use crate::ip::IpProvider;
use crate::model::FencingLevel;
use crate::orchestrator::Orchestrator;
use crate::registry::{DomainName, Registry};
use crate::volume::{Exclusivity, VolumeProvider};

/// The backends of a cluster, and what they make of it.
#[derive(Debug, Clone)]
pub struct Backends {
    /// The volumes.
    pub volumes: Arc<dyn VolumeProvider>,
    /// The static addresses.
    pub ips: Arc<dyn IpProvider>,
    /// The names.
    pub registry: Arc<dyn Registry>,
    /// What runs the engines.
    pub orchestrator: Arc<dyn Orchestrator>,
    /// The cluster's DNS zone.
    pub zone: DomainName,
}

impl Backends {
    /// The surest fencing that these backends reach together.
    pub fn fencing(&self) -> FencingLevel {
        if self.volumes.capabilities().exclusivity == Exclusivity::Storage {
            FencingLevel::F3
        } else if self.orchestrator.capabilities().proves_node_death {
            FencingLevel::F2
        } else {
            FencingLevel::F1
        }
    }
}
