//! `steadfast dns`: a drop-in for systemd-resolved, so that the whole machine finds the members' names.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use clap::Subcommand;

use super::Global;
use crate::config::ClusterConfig;
use crate::data_dir::DataDir;
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
    },
}

const FOLDER: &str = "/etc/systemd/resolved.conf.d";

pub(super) fn run(global: &Global, verb: &DnsVerb) -> Result<Exit> {
    let DnsVerb::Install { print } = verb;
    let config = DataDir::locate(global.data.as_deref())?.config()?;
    let path = PathBuf::from(FOLDER).join(format!("steadfast-{}.conf", config.cluster));
    let text = drop_in(&config);
    if *print {
        output::line(&format!("# {}", path.display()))?;
        output::line(text.trim_end())?;
        return Ok(Exit::Done);
    }
    if !Path::new("/run/systemd/resolve").exists() {
        return Err(Failure::new("this machine does not run systemd-resolved")
            .reason("CapabilityMissing")
            .remedy(format!(
                "tell its resolver to ask {} for {}, or run programs with `steadfast exec -- CMD`",
                config.dns, config.zone
            )));
    }
    fs::create_dir_all(FOLDER).and_then(|()| fs::write(&path, &text)).map_err(|error| {
        Failure::new(format!("write {}: {error}", path.display()))
            .reason("PermissionDenied")
            .remedy("run it as root, or put what `steadfast dns install --print` prints there")
    })?;
    let status = Command::new("systemctl")
        .args(["reload-or-restart", "systemd-resolved"])
        .status()
        .context("reload systemd-resolved")?;
    if !status.success() {
        return Err(Failure::new(format!("reload systemd-resolved: {status}"))
            .remedy("run `systemctl restart systemd-resolved`"));
    }
    output::line(&format!(
        "{} installed: questions about {} go to {}",
        path.display(),
        config.zone,
        config.dns
    ))?;
    Ok(Exit::Done)
}

fn drop_in(config: &ClusterConfig) -> String {
    let ClusterConfig { cluster, zone, dns, .. } = config;
    // `~` makes it a routing domain: only questions about the zone go there.
    format!(
        "# Names of the Steadfast cluster {cluster}. Remove this file to undo it.\n[Resolve]\nDNS={dns}\nDomains=~{zone}\n"
    )
}
