//! `steadfast dns`: a drop-in for systemd-resolved, so that the whole machine finds the members' names.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use clap::Subcommand;

use super::Global;
use crate::config::ClusterConfig;
use crate::data_dir::{DataDir, write_whole};
use crate::exit::{Context as _, Exit, Failure, Result};
use crate::output;

/// What can be done about the machine's resolver.
#[derive(Debug, Subcommand)]
pub(super) enum DnsVerb {
    /// Send questions about the cluster's zone to its own DNS server (a systemd-resolved drop-in; needs root)
    Install {
        /// Only print the drop-in and where it belongs
        #[arg(long)]
        print: bool,
        /// Write it below this folder instead of /, as for the image of a machine; nothing is reloaded then
        #[arg(long, value_name = "DIR", conflicts_with = "print")]
        root: Option<PathBuf>,
    },
}

/// Below the root.
const FOLDER: &str = "etc/systemd/resolved.conf.d";

pub(super) fn run(global: &Global, verb: &DnsVerb) -> Result<Exit> {
    let DnsVerb::Install { print, root } = verb;
    let config = DataDir::locate(global.data.as_deref())?.config()?;
    let folder = root.as_deref().unwrap_or(Path::new("/")).join(FOLDER);
    let path = folder.join(format!("steadfast-{}.conf", config.cluster));
    let text = drop_in(&config);
    if *print {
        output::line(&format!("# {}", path.display()))?;
        output::line(text.trim_end())?;
        return Ok(Exit::Done);
    }
    if root.is_none() && !Path::new("/run/systemd/resolve").exists() {
        return Err(Failure::new("this machine does not run systemd-resolved")
            .reason("CapabilityMissing")
            .remedy(format!(
                "tell its resolver to ask {} for {}, or run programs with `steadfast exec -- CMD`",
                config.name_server(),
                config.zone
            )));
    }
    fs::create_dir_all(&folder).and_then(|()| write_whole(&path, text.as_bytes(), 0o644)).map_err(
        |error| {
            let failure = Failure::new(format!("write {}: {error}", path.display()));
            match error.kind() {
                std::io::ErrorKind::PermissionDenied => failure
                    .reason("PermissionDenied")
                    .remedy("run it as root, or put what `steadfast dns install --print` prints there"),
                _ => failure.remedy("put what `steadfast dns install --print` prints there"),
            }
        },
    )?;
    if root.is_none() {
        reload()?;
    }
    output::line(&format!(
        "{} installed: questions about {} go to {}",
        path.display(),
        config.zone,
        config.name_server()
    ))?;
    Ok(Exit::Done)
}

fn reload() -> Result<()> {
    const REMEDY: &str = "the drop-in is in place; run `systemctl restart systemd-resolved`";
    let status = Command::new("systemctl")
        .args(["reload-or-restart", "systemd-resolved"])
        .status()
        .context("reload systemd-resolved")
        .map_err(|failure| failure.remedy(REMEDY))?;
    if !status.success() {
        return Err(Failure::new(format!("reload systemd-resolved: {status}")).remedy(REMEDY));
    }
    Ok(())
}

fn drop_in(config: &ClusterConfig) -> String {
    let ClusterConfig { cluster, zone, .. } = config;
    let dns = config.name_server();
    // `~` makes it a routing domain: only questions about the zone go there.
    format!(
        "# Names of the Steadfast cluster {cluster}. Remove this file to undo it.\n[Resolve]\nDNS={dns}\nDomains=~{zone}\n"
    )
}
