//! How backends behave, as data.

use serde::{Deserialize, Serialize};
use steadfast_core::volume::Exclusivity;

/// From, to: in milliseconds, both included.
pub type Span = (u64, u64);

/// A set of backends. The numbers are in milliseconds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Profile {
    /// What it is called.
    pub name: String,
    /// How long a call takes, each way.
    pub call_ms: Span,
    /// How long a hint of the store takes.
    pub hint_ms: Span,
    /// How far what clouds tell of volumes, addresses, names and machines may lag behind what is so; 0: not at all.
    #[serde(default)]
    pub stale_ms: u64,
    /// The volumes.
    pub volumes: VolumeProfile,
    /// The most addresses one node takes.
    pub addresses_per_node: Option<u32>,
    /// From the assignment of an address until packets go to its new holder.
    #[serde(default)]
    pub address_ms: Span,
    /// From the change of a name until those who ask are told of it.
    #[serde(default)]
    pub name_ms: Span,
    /// How many calls are taken, by the name of a table in `data/limits.toml`; none: any number.
    #[serde(default)]
    pub limits: Option<String>,
    /// The names' time to live, which clients keep to.
    pub ttl_ms: u64,
    /// Who proves the death of nodes.
    pub prover: ProverKind,
    /// Whether guards have leases, and a silent node counts as expired after so much more than its lease.
    pub lease_margin_ms: Option<u64>,
    /// The engines.
    pub engines: EngineProfile,
}

/// How volumes behave.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeProfile {
    /// Who refuses a second writer, as declared to the claim.
    pub exclusivity: Exclusivity,
    /// Whether the storage itself refuses what a node writes that a volume is not attached to.
    pub fenced_by_storage: bool,
    /// Whether a lock on a volume is seen by every node (one kernel), or only on its own.
    pub shared_locks: bool,
    /// Whether a detachment waits until the volume is no longer in use on a node that runs.
    pub detach_waits_for_use: bool,
    /// Whether volumes are pinned to zones.
    pub zonal: bool,
    /// Whether each lies on the own disk of the node that it was first attached to: nobody else can attach it, and it is
    /// lost with that disk.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub on_nodes: bool,
    /// The most volumes one node takes.
    pub attach_limit: Option<u32>,
    /// How long attaching takes.
    pub attach_ms: Span,
    /// How long detaching takes.
    pub detach_ms: Span,
}

/// Who proves that a node is dead.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ProverKind {
    /// Nobody.
    Nobody,
    /// The kernel: dead with the last of a node's processes.
    Kernel,
    /// The cloud: dead when the machine is stopped, so long after that is so, in milliseconds.
    Cloud(u64),
}

/// How engines behave.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EngineProfile {
    /// Making the first data.
    pub initialise_ms: Span,
    /// Copying another's data.
    pub copy_ms: Span,
    /// Bringing data into line before a start.
    pub reconcile_ms: Span,
    /// From the start to the first answer.
    pub start_ms: Span,
    /// From the signal to the end.
    pub stop_ms: Span,
    /// From a write to its arrival at a replica.
    pub replicate_ms: Span,
    /// An election among the members themselves.
    pub elect_ms: Span,
    /// Whether a replica starts without any data, and is given all of it by the one that it follows, as Redis does:
    /// until then it answers, and has forgotten what it once confirmed.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub joins_empty: bool,
}

impl Default for EngineProfile {
    fn default() -> Self {
        EngineProfile {
            initialise_ms: (800, 2_000),
            copy_ms: (1_000, 5_000),
            reconcile_ms: (5, 50),
            start_ms: (300, 2_500),
            stop_ms: (100, 1_500),
            replicate_ms: (2, 40),
            elect_ms: (200, 2_000),
            joins_empty: false,
        }
    }
}

impl Profile {
    /// The embedded backends of one machine: folders with the kernel's locks, which prove a node's death, too.
    pub fn embedded() -> Self {
        Profile {
            name: "embedded".to_owned(),
            call_ms: (0, 3),
            hint_ms: (0, 5),
            stale_ms: 0,
            volumes: VolumeProfile {
                exclusivity: Exclusivity::Storage,
                fenced_by_storage: false,
                shared_locks: true,
                detach_waits_for_use: true,
                zonal: false,
                on_nodes: false,
                attach_limit: None,
                attach_ms: (0, 0),
                detach_ms: (0, 0),
            },
            addresses_per_node: None,
            address_ms: (0, 0),
            name_ms: (0, 0),
            limits: None,
            ttl_ms: 5_000,
            prover: ProverKind::Kernel,
            lease_margin_ms: None,
            engines: EngineProfile::default(),
        }
    }

    /// Like Amazon's: zonal volumes that one machine at a time can write, slow to come and go (F3).
    pub fn block_storage() -> Self {
        Profile {
            name: "block-storage".to_owned(),
            call_ms: (5, 120),
            hint_ms: (1, 30),
            stale_ms: 10_000,
            volumes: VolumeProfile {
                exclusivity: Exclusivity::Storage,
                fenced_by_storage: true,
                shared_locks: false,
                detach_waits_for_use: true,
                zonal: true,
                on_nodes: false,
                attach_limit: Some(27),
                attach_ms: (1_000, 9_000),
                detach_ms: (1_000, 7_000),
            },
            addresses_per_node: Some(14),
            address_ms: (100, 3_000),
            name_ms: (200, 20_000),
            limits: Some("aws".to_owned()),
            ttl_ms: 5_000,
            prover: ProverKind::Cloud(4_000),
            lease_margin_ms: None,
            engines: EngineProfile::default(),
        }
    }

    /// Volumes that any number of machines can write, and a cloud that proves a machine dead (F2).
    pub fn shared_storage() -> Self {
        let base = Profile::block_storage();
        Profile {
            name: "shared-storage".to_owned(),
            volumes: VolumeProfile {
                exclusivity: Exclusivity::None,
                fenced_by_storage: false,
                detach_waits_for_use: false,
                zonal: false,
                ..base.volumes
            },
            ..base
        }
    }

    /// The same volumes, and nobody who proves anything: leases alone (F1).
    pub fn leases() -> Self {
        Profile {
            name: "leases".to_owned(),
            prover: ProverKind::Nobody,
            lease_margin_ms: Some(2_000),
            ..Profile::shared_storage()
        }
    }

    /// A private cloud that shares nothing but its store: volumes on the machines' own disks, leases, and engines that
    /// are filled by those they follow. Which volumes there are is in the store, so nothing that is told lags.
    pub fn local_disks() -> Self {
        Profile {
            name: "local-disks".to_owned(),
            call_ms: (1, 30),
            stale_ms: 0,
            volumes: VolumeProfile {
                exclusivity: Exclusivity::Storage,
                fenced_by_storage: false,
                shared_locks: false,
                detach_waits_for_use: true,
                zonal: false,
                on_nodes: true,
                attach_limit: None,
                attach_ms: (5, 400),
                detach_ms: (5, 400),
            },
            addresses_per_node: None,
            address_ms: (0, 700),
            name_ms: (0, 50),
            limits: None,
            engines: EngineProfile { joins_empty: true, ..EngineProfile::default() },
            ..Profile::leases()
        }
    }
}
