//! A cluster's configuration (`cluster.json` in the data folder): written once with defaults, then the user's.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use steadfast_backends::embedded::addresses::LoopbackRange;
use steadfast_backends::rfc2136::{DynamicOptions, DynamicRegistry, InvalidKey};
use steadfast_core::Environment;
use steadfast_core::ids::ClusterName;
use steadfast_core::model::FencingLevel;
use steadfast_core::registry::DomainName;

use crate::data_dir::read_secret;
use crate::exit::{Context as _, Failure, Result};

/// The newest format of the data folder that this build knows.
pub(crate) const FORMAT: u32 = 1;

/// What holds for a whole cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ClusterConfig {
    /// The format of the data folder.
    pub(crate) format: u32,
    /// The cluster's name.
    pub(crate) cluster: ClusterName,
    /// The DNS zone of the members' names.
    pub(crate) zone: DomainName,
    /// The range of the members' addresses, within 127.0.0.0/8.
    pub(crate) loopback: LoopbackRange,
    /// Where the DNS server listens, with UDP and TCP.
    pub(crate) dns: SocketAddr,
    /// How sure it is that an old holder of a volume cannot write any more.
    pub(crate) fencing: FencingLevel,
    /// How long a node's lease is, in milliseconds.
    pub(crate) node_lease_ms: u64,
    /// How long a server's lease on its share of the services is, in milliseconds.
    pub(crate) server_lease_ms: u64,
    /// Where the records are, if not in the data folder: what the first `serve --store` was told. Every server of the
    /// folder uses the same, or each would have a cluster of its own over the same volumes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) store: Option<String>,
    /// The existing DNS server that has the names; none: the servers answer them themselves.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) names: Option<NamesConfig>,
    /// Where members' addresses are, if not on the loopback interface: for members that other machines reach.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) network: Option<NetworkConfig>,
    /// The folder with the volumes, if they are not in the data folder: one that every machine of the cluster mounts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) shared_volumes: Option<PathBuf>,
    /// The folder on every machine in which each node has a folder of its own, on a disk of that machine: volumes lie
    /// there, and stay.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) local_volumes: Option<PathBuf>,
    /// The Docker Swarm that runs the engines; none: the agents do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) swarm: Option<SwarmConfig>,
    /// What the volumes in that folder are.
    #[serde(default, skip_serializing_if = "VolumeKind::is_folder")]
    pub(crate) volume_kind: VolumeKind,
}

/// What a volume in the shared folder is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum VolumeKind {
    /// A folder, which takes as much room as there is.
    #[default]
    Folder,
    /// An image of ext4, of the volume's size, mounted where its member is.
    Ext4,
    /// The same of XFS: at least 300 MiB.
    Xfs,
}

impl VolumeKind {
    #[expect(clippy::trivially_copy_pass_by_ref, reason = "what serde calls is given a reference")]
    fn is_folder(&self) -> bool {
        *self == VolumeKind::Folder
    }
}

/// The Docker Swarm that runs the engines, in containers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct SwarmConfig {
    /// Blueprint → image, which every node has or can fetch.
    pub(crate) images: BTreeMap<String, String>,
    /// The socket of each machine's engine.
    pub(crate) engine: PathBuf,
}

impl Default for SwarmConfig {
    fn default() -> Self {
        SwarmConfig { images: BTreeMap::new(), engine: PathBuf::from("/run/docker.sock") }
    }
}

/// The members' addresses on a network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct NetworkConfig {
    /// This machine's interface on it.
    pub(crate) interface: String,
    /// The range that members get theirs from: `FIRST-LAST`. Nobody else gives them out.
    pub(crate) addresses: String,
}

/// An existing DNS server that has the names of the members, by dynamic updates.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct NamesConfig {
    /// The primary of the cluster's zone.
    pub(crate) server: SocketAddr,
    /// A file with the key that may update and transfer the zone, as `tsig-keygen` writes it.
    pub(crate) key_file: PathBuf,
}

impl NamesConfig {
    /// The registry of `zone` on that server.
    pub(crate) fn open(&self, zone: &DomainName, environment: &Environment) -> Result<DynamicRegistry> {
        let text = read_secret("names.key_file", &self.key_file)?;
        let key = text.parse().map_err(|error: InvalidKey| {
            Failure::new(format!("names.key_file: {}: {error}", self.key_file.display()))
                .remedy("docs/names.md shows what belongs there")
        })?;
        let options = DynamicOptions { server: self.server, key, zones: [zone.clone()].into() };
        Ok(DynamicRegistry::new(environment.clone(), options))
    }
}

impl ClusterConfig {
    /// Where the DNS server listens unless told otherwise.
    pub(crate) const DNS: SocketAddr =
        SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::new(127, 0, 0, 153)), 5353);

    /// The configuration of a new cluster in `data`, an absolute path.
    pub(crate) fn new(cluster: ClusterName, data: &Path) -> Result<Self> {
        let zone = format!("{cluster}.steadfast.internal").parse().context("name the zone")?;
        Ok(ClusterConfig {
            format: FORMAT,
            cluster,
            zone,
            loopback: loopback_of(data)?,
            dns: Self::DNS,
            fencing: FencingLevel::F3,
            node_lease_ms: 3_000,
            server_lease_ms: 3_000,
            store: None,
            names: None,
            network: None,
            shared_volumes: None,
            local_volumes: None,
            swarm: None,
            volume_kind: VolumeKind::Folder,
        })
    }

    /// Whether nodes are machines of their own, whose processes and locks are not this machine's to see.
    pub(crate) fn has_machines(&self) -> bool {
        self.shared_volumes.is_some() || self.local_volumes.is_some() && self.network.is_some()
    }

    /// Who is asked about the members' names.
    pub(crate) fn name_server(&self) -> SocketAddr {
        self.names.as_ref().map_or(self.dns, |names| names.server)
    }

    /// The configuration in `text`, which is what `file` holds.
    pub(crate) fn parse(text: &str, file: &Path) -> Result<Self> {
        #[derive(Deserialize)]
        struct Head {
            format: u32,
        }
        let wrong = |error: serde_json::Error| {
            Failure::new(format!("{}: {error}", file.display()))
                .remedy("correct the file, or put it back from a backup")
        };
        let head: Head = serde_json::from_str(text).map_err(wrong)?;
        if head.format > FORMAT {
            return Err(Failure::new(format!(
                "{} has format {}, and this build ({}) knows up to {FORMAT}",
                file.display(),
                head.format,
                env!("CARGO_PKG_VERSION")
            ))
            .reason("VersionTooNew")
            .remedy("run the newer version of steadfast, or use another folder with --data"));
        }
        let config: ClusterConfig = serde_json::from_str(text).map_err(wrong)?;
        config.check(file)?;
        Ok(config)
    }

    fn check(&self, file: &Path) -> Result<()> {
        let refuse = |field: &str, problem: String, remedy: &str| {
            Err(Failure::new(format!("{}: {field}: {problem}", file.display())).remedy(remedy))
        };
        if self.shared_volumes.is_some() && self.local_volumes.is_some() {
            let problem = "is given, and so is shared_volumes".to_owned();
            return refuse(
                "local_volumes",
                problem,
                "volumes are on the nodes' disks or in a shared folder: keep one",
            );
        }
        let (reached, by) = match &self.shared_volumes {
            // A node's own disk is written to by the one kernel that has it.
            None => (FencingLevel::F3, "volumes of one machine"),
            // A lock proves something under one kernel, and these have several.
            Some(_) => (FencingLevel::F1, "volumes that several machines share"),
        };
        if self.fencing != reached {
            let problem = format!("is {}, and {by} reach {reached}", self.fencing);
            return refuse("fencing", problem, &format!("write \"{reached}\""));
        }
        for (field, lease) in
            [("node_lease_ms", self.node_lease_ms), ("server_lease_ms", self.server_lease_ms)]
        {
            if !(500..=600_000).contains(&lease) {
                return refuse(field, format!("is {lease}"), "give between 500 and 600000 milliseconds");
            }
        }
        Ok(())
    }
}

/// A range of 1022 loopback addresses that depends on the folder, so that two clusters of one machine rarely meet.
fn loopback_of(data: &Path) -> Result<LoopbackRange> {
    use std::os::unix::ffi::OsStrExt as _;
    let digest = ring::digest::digest(&ring::digest::SHA256, data.as_os_str().as_bytes());
    let (a, b) = (digest.as_ref()[0], digest.as_ref()[1]);
    format!("127.{}.{}.0/22", 64 + a % 128, b & 0xfc).parse().context("choose the members' addresses")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_range_is_of_the_folder_and_within_bounds() {
        let text = |name: &str| loopback_of(Path::new(name)).unwrap().to_string();
        for name in ["/a", "/b", "/home/somebody/.local/share/steadfast"] {
            let range = text(name);
            let parts: Vec<&str> = range.split('.').collect();
            assert_eq!((parts[0], parts[3]), ("127", "0/22"), "{range}");
            assert!((64..=191).contains(&parts[1].parse().unwrap()), "{range}");
        }
        assert_ne!(text("/a"), text("/b"));
        assert_eq!(text("/a"), text("/a"));
    }

    #[test]
    fn unknown_keys_and_newer_formats_are_refused_with_the_file() {
        let config = ClusterConfig::new("local".parse().unwrap(), Path::new("/x")).unwrap();
        let mut value = serde_json::to_value(&config).unwrap();
        value["colour"] = "red".into();
        let file = Path::new("/x/cluster.json");
        let error = ClusterConfig::parse(&value.to_string(), file).unwrap_err();
        assert!(error.message.contains("colour"), "{error}");
        value["format"] = 9.into();
        let error = ClusterConfig::parse(&value.to_string(), file).unwrap_err();
        assert_eq!(error.reason.as_deref(), Some("VersionTooNew"));
    }
}
