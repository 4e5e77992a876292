//! The cluster of the demonstration: one that runs already, or one of its own that goes with it.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use steadfast_api::client::Client;
use tokio::process::Child;

use super::step;
use crate::cli::{Global, RemoteOptions};
use crate::config::ClusterConfig;
use crate::daemon::{Signals, up};
use crate::data_dir::DataDir;
use crate::exit::{Context as _, Failure, Result};
use crate::output::note;

/// A cluster that runs.
#[derive(Debug)]
pub(super) struct Cluster {
    pub(super) data: DataDir,
    pub(super) config: ClusterConfig,
    pub(super) client: Client,
    /// The `up` that was started here.
    child: Option<Child>,
    /// The folder that was made here.
    temporary: Option<PathBuf>,
}

/// How long `up` may take to be ready, and to be gone.
const PATIENCE: Duration = Duration::from_secs(60);

impl Cluster {
    /// The running cluster of the folder that was named, or else a new one. None: it was told to end meanwhile, and
    /// what it had started is gone.
    pub(super) async fn start(global: &Global, signals: &mut Signals) -> Result<Option<Cluster>> {
        let (folder, temporary) = match &global.data {
            Some(folder) => (folder.clone(), None),
            None => {
                let folder = temporary_folder()?;
                (folder.clone(), Some(folder))
            }
        };
        let data = DataDir::locate(Some(&folder))?;
        let runs = steadfast_lock::is_held(&data.path("up.lock")).context("look for a running `up`")?;
        let mut child = if runs {
            step(&format!("using the cluster in {}", data.root().display()));
            None
        } else {
            step(&format!("starting a cluster of 3 nodes in {}", folder.display()));
            Some(start_up(&folder)?)
        };
        // Nodes are killed in this folder: no other cluster can be meant, whatever the environment says.
        let remote = RemoteOptions::default();
        let global = Global { data: Some(folder.clone()), remote, ..global.clone() };
        let found = tokio::select! {
            found = ready(&global, &mut child) => Some(found),
            () = signals.any() => None,
        };
        match found {
            Some(Ok((data, config, client))) => Ok(Some(Cluster { data, config, client, child, temporary })),
            Some(Err(failure)) => {
                stop_up(child).await?;
                Err(failure.remedy(format!("look into {}", up::up_log(&folder).display())))
            }
            None => {
                stop_up(child).await?;
                remove(temporary)?;
                Ok(None)
            }
        }
    }

    /// Shows what may explain a failure.
    pub(super) async fn explain(&self, failure: &Failure) {
        note(&format!("the demonstration failed: {failure}"));
        let page = steadfast_api::control::PageRequest { after: None, limit: 10 };
        let Ok(services) = self.client.services(&page).await else { return };
        for service in services.items {
            for member in service.members {
                let blocked =
                    member.blocked.map(|(reason, words)| format!(" {reason}: {words}")).unwrap_or_default();
                let node = member.node.map(|node| format!(" on {node}")).unwrap_or_default();
                note(&format!("  {} {}{node}{blocked}", member.name, member.phase));
            }
        }
    }

    /// Leaves everything running, and says how to end it.
    pub(super) fn keep(self) -> Result<()> {
        let folder = self.data.root().display();
        note(&format!("it goes on; kill a node: steadfast --data {folder} node kill node-1"));
        note(&format!("end it: steadfast --data {folder} down"));
        Ok(())
    }

    /// Stops what was started here, and removes what was made here.
    pub(super) async fn stop(self) -> Result<()> {
        if self.child.is_some() {
            step("stopping the cluster");
        }
        stop_up(self.child).await?;
        remove(self.temporary)
    }
}

fn remove(temporary: Option<PathBuf>) -> Result<()> {
    match temporary {
        Some(folder) => std::fs::remove_dir_all(&folder).context(format!("remove {}", folder.display())),
        None => Ok(()),
    }
}

/// Ends an `up` that was started here, in order.
async fn stop_up(child: Option<Child>) -> Result<()> {
    let Some(mut child) = child else { return Ok(()) };
    let Some(pid) = child.id().and_then(|pid| i32::try_from(pid).ok()) else { return Ok(()) };
    // Not reaped yet, so the number is still its own.
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGTERM)
        .context("stop `up`")?;
    tokio::time::timeout(PATIENCE, child.wait())
        .await
        .map_err(|_| Failure::new(format!("`up` (process {pid}) does not end within {PATIENCE:?}")))?
        .context("wait for `up`")?;
    Ok(())
}

/// A short one: sockets lie below it.
fn temporary_folder() -> Result<PathBuf> {
    let random = crate::data_dir::random()?;
    let token: String = random.iter().take(4).map(|byte| format!("{byte:02x}")).collect();
    let folder = std::env::temp_dir().join(format!("steadfast-demo-{token}"));
    // Nobody else's business, whatever the user's mask.
    std::fs::DirBuilder::new().mode(0o700).create(&folder).context(format!("make {}", folder.display()))?;
    Ok(folder)
}

fn start_up(folder: &Path) -> Result<Child> {
    std::fs::create_dir_all(folder).context(format!("make {}", folder.display()))?;
    let arguments = ["--nodes", "3", "--dns", &dns_address()?.to_string()].map(str::to_owned);
    // Ctrl-C reaches the demonstration, which ends the cluster in order.
    up::start_in_background(folder, &arguments)
}

/// The usual address, unless another cluster answers there.
fn dns_address() -> Result<SocketAddr> {
    let usual = ClusterConfig::DNS;
    if UdpSocket::bind(usual).is_ok() {
        return Ok(usual);
    }
    UdpSocket::bind((Ipv4Addr::new(127, 0, 0, 153), 0))
        .and_then(|socket| socket.local_addr())
        .context("find a free port for DNS")
}

async fn ready(global: &Global, child: &mut Option<Child>) -> Result<(DataDir, ClusterConfig, Client)> {
    let begun = Instant::now();
    loop {
        if let Some(child) = child
            && let Some(status) = child.try_wait().context("look at `up`")?
        {
            return Err(Failure::new(format!("`up` ended at once ({status})")));
        }
        let data = DataDir::locate(global.data.as_deref())?;
        if up::is_ready(&data).await? {
            let (config, client) = (data.config()?, global.client()?);
            return Ok((data, config, client));
        }
        if begun.elapsed() > PATIENCE {
            return Err(Failure::new(format!("the cluster is not ready after {PATIENCE:?}")));
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
