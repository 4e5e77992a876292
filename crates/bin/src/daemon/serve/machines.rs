//! What a cluster of several machines shares: the network that its members' addresses are of, and the volumes' folder.

use std::path::{Path, PathBuf};

use steadfast_core::model::FencingLevel;

use crate::config::{ClusterConfig, NetworkConfig, VolumeKind};
use crate::daemon::volumes::has_volumes;
use crate::daemon::{local_volumes, shared_volumes};
use crate::data_dir::DataDir;
use crate::exit::{Failure, Result};

/// Settings that are written down: the next start of any server or agent of the folder finds them.
#[derive(Debug, Clone, Default, clap::Args)]
#[command(next_help_heading = "Options for several machines")]
pub(crate) struct MachineOptions {
    /// This machine's interface that members' addresses are put on [default: that of last time, or loopback]
    #[arg(long, value_name = "NAME")]
    interface: Option<String>,
    /// The range of its network that members get their addresses from, and nobody else
    #[arg(long, value_name = "FIRST-LAST")]
    addresses: Option<String>,
    /// A folder that every machine mounts, for the volumes [default: that of last time, or the data folder]
    #[arg(long, value_name = "DIR")]
    shared_volumes: Option<PathBuf>,
    /// A folder of every machine's own, for volumes that stay on the disk of their node [default: that of last time, or
    /// the data folder]
    #[arg(long, value_name = "DIR", conflicts_with = "shared_volumes")]
    local_volumes: Option<PathBuf>,
    /// Engines are services of this machine's Docker Swarm, and those of this blueprint have this image [default: those of
    /// last time]
    #[arg(long, value_name = "BLUEPRINT=IMAGE", value_parser = image)]
    swarm_image: Vec<(String, String)>,
    /// What the volumes in that folder are [default: that of last time, or folder]
    #[arg(long, value_name = "KIND")]
    volume_kind: Option<VolumeKind>,
}

fn image(text: &str) -> Result<(String, String), String> {
    let (blueprint, image) = text.split_once('=').ok_or("write BLUEPRINT=IMAGE")?;
    Ok((blueprint.to_owned(), image.to_owned()))
}

/// How long a node's lease is at least when it is written down that volumes are shared, in milliseconds. The leases of
/// the others have to outlast the loss of a machine with a member of the store: a third of it until the next renewal, 3 s
/// in which a dead member is waited for, and an election.
const LEASE_MS: u64 = 10_000;

impl MachineOptions {
    /// The data folder and its configuration, with what these options say written into it.
    pub(super) fn settle(&self, given: Option<&Path>) -> Result<(DataDir, ClusterConfig)> {
        let (data, mut config) = DataDir::prepare(given, |_| {})?;
        let before = config.clone();
        config.network = self.network(&before)?;
        if !self.swarm_image.is_empty() {
            config.swarm.get_or_insert_default().images.extend(self.swarm_image.iter().cloned());
        }
        if let Some(wanted) = &self.shared_volumes {
            self.share(&data, &mut config, wanted)?;
        }
        if let Some(wanted) = &self.local_volumes {
            local_volumes::choose(&data, &mut config, wanted)?;
            config.node_lease_ms = config.node_lease_ms.max(LEASE_MS);
        }
        if let Some(kind) = self.volume_kind {
            choose_kind(&mut config, kind)?;
        }
        if config == before {
            return Ok((data, config));
        }
        DataDir::prepare(given, |kept| *kept = config)
    }

    fn network(&self, before: &ClusterConfig) -> Result<Option<NetworkConfig>> {
        let known = before.network.clone();
        let interface =
            self.interface.clone().or_else(|| known.as_ref().map(|known| known.interface.clone()));
        let addresses = self.addresses.clone().or_else(|| known.map(|known| known.addresses));
        match (interface, addresses) {
            (None, None) => Ok(None),
            (Some(interface), Some(addresses)) => Ok(Some(NetworkConfig { interface, addresses })),
            (interface, _) => {
                let missing = if interface.is_some() { "--addresses FIRST-LAST" } else { "--interface NAME" };
                Err(Failure::usage(
                    "members' addresses are an interface and a range",
                    format!("give also {missing}"),
                ))
            }
        }
    }

    fn share(&self, data: &DataDir, config: &mut ClusterConfig, wanted: &Path) -> Result<()> {
        let before = match &config.shared_volumes {
            Some(before) if before == wanted => return Ok(()),
            Some(before) => Some(before.clone()),
            None if config.local_volumes.is_some() => config.local_volumes.clone(),
            None => Some(data.path("volumes")).filter(|folder| has_volumes(folder)),
        };
        if let Some(before) = before {
            return Err(Failure::usage(
                format!(
                    "--shared-volumes {}: the volumes of this cluster are in {}, and do not move",
                    wanted.display(),
                    before.display()
                ),
                "leave it out, or give the folder of another cluster with --data DIR",
            ));
        }
        if !wanted.is_absolute() {
            return Err(Failure::usage(
                format!("--shared-volumes {} is not an absolute path", wanted.display()),
                "give the path that the folder has on every machine",
            ));
        }
        shared_volumes::mark(wanted, config)?;
        config.shared_volumes = Some(wanted.to_owned());
        config.fencing = FencingLevel::F1;
        config.node_lease_ms = config.node_lease_ms.max(LEASE_MS);
        Ok(())
    }
}

/// Sets what volumes are. Those that exist stay what they are, and so nothing changes for the others either.
fn choose_kind(config: &mut ClusterConfig, kind: VolumeKind) -> Result<()> {
    let refuse = |why: String, remedy: &str| Err(Failure::usage(format!("--volume-kind: {why}"), remedy));
    if config.volume_kind == kind {
        return Ok(());
    }
    let Some(shared) = &config.shared_volumes else {
        return refuse("the volumes are in the data folder".to_owned(), "give also --shared-volumes DIR");
    };
    if has_volumes(&shared.join("volumes")) {
        let why = format!("there are volumes in {}, and they do not change", shared.display());
        return refuse(why, "leave it out, or make another cluster with --data DIR");
    }
    config.volume_kind = kind;
    Ok(())
}
