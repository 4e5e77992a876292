//! `steadfast agent --volume-plugin`: engines run in containers, and their members are the volumes of this machine's
//! engine of Docker.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix::unistd::geteuid;
use steadfast_agent::containers::{ContainerGuards, Gate, MemberMounts, VolumePlugin};
use steadfast_agent::guards::{GuardProgram, ProcessGuards};
use steadfast_agent::host::LocalHost;
use steadfast_agent::node_dir::NodeDir;
use steadfast_core::Environment;
use steadfast_core::ids::{ClusterName, NodeName};
use steadfast_core::store::Store;

use super::serve::listen::on_socket;
use crate::exit::{Context as _, Failure, Result};

/// Where the engine of Docker looks for a plugin called `steadfast`.
pub(super) const SOCKET: &str = "/run/docker/plugins/steadfast.sock";

/// What the plugin is called, after its socket.
#[cfg(feature = "swarm")]
pub(super) const DRIVER: &str = "steadfast";

/// The folder that has one for each member of a cluster, the same on every machine: containers see theirs there, too.
pub(super) fn members(cluster: &ClusterName) -> PathBuf {
    Path::new("/run/steadfast").join(cluster.as_str())
}

/// What an agent is made of where engines run in containers.
pub(super) struct Containers {
    pub(super) dir: NodeDir,
    mounts: MemberMounts,
    gate: Arc<Gate>,
    socket: PathBuf,
}

impl Containers {
    /// For the node in `dir`, asked on `socket`.
    pub(super) fn new(dir: NodeDir, cluster: &ClusterName, logs: PathBuf, socket: PathBuf) -> Result<Self> {
        if !geteuid().is_root() {
            return Err(
                Failure::new("--volume-plugin: mounting volumes needs root").remedy("run the agent as root")
            );
        }
        let members = members(cluster);
        let mounts = MemberMounts::new(&dir, &members, logs);
        let dir = dir.with_containers(members);
        Ok(Containers { gate: Arc::new(Gate::new(dir.clone())), dir, mounts, socket })
    }

    pub(super) fn host(&self, host: LocalHost) -> LocalHost {
        host.with_containers(self.mounts.clone(), Arc::clone(&self.gate))
    }

    pub(super) fn guards(&self, environment: &Environment) -> ContainerGuards {
        let found = ProcessGuards::new(environment.clone(), self.dir.clone(), GuardProgram::this());
        ContainerGuards::new(environment.clone(), found, self.mounts.clone(), Arc::clone(&self.gate))
    }

    /// Answers the engine of Docker for as long as the agent runs.
    pub(super) async fn answer(self, environment: &Environment, store: Store, node: NodeName) -> Result<()> {
        if let Some(folder) = self.socket.parent() {
            fs::create_dir_all(folder).context(format!("make {}", folder.display()))?;
        }
        let listener = on_socket(&self.socket, "--volume-plugin SOCKET").await?;
        let plugin = VolumePlugin::new(environment.clone(), store, node, self.dir, self.gate);
        let tasks = environment.tasks().clone();
        let until = tasks.shutdown();
        tasks.spawn("volume plugin", async move {
            let served = axum::serve(listener, plugin.router());
            tokio::select! {
                () = until.requested() => {}
                ended = async { served.await } => {
                    if let Err(error) = ended {
                        tracing::error!(%error, "the engine of Docker is not answered any more");
                    }
                }
            }
        });
        Ok(())
    }
}
