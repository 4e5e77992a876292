//! `steadfast exec`: a program that knows the members by name, without root and without touching the machine.
//!
//! A user namespace with the caller's own ids allows a mount namespace, and in that a generated hosts file lies
//! over `/etc/hosts`. The kernel lets only a process with a single thread do that, so this runs before any runtime.

use std::ffi::OsString;
use std::fs;
use std::net::IpAddr;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Command;

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::unistd::{getgid, getuid};

use crate::exit::{Context as _, Exit, Failure, Result};

/// Becomes `command` with these hosts known by name. Returns only what went wrong.
pub(crate) fn run(hosts: &[(String, IpAddr)], folder: &Path, command: &[OsString]) -> Failure {
    if let Err(failure) = enter_with_hosts(hosts, folder) {
        return failure;
    }
    let Some((program, arguments)) = command.split_first() else {
        return Failure::usage("there is no command to run", "write it after `--`");
    };
    let error = Command::new(program).args(arguments).exec();
    let failure = Failure::new(format!("run {}: {error}", program.to_string_lossy()));
    match error.kind() {
        std::io::ErrorKind::NotFound => failure.remedy("install it, or give its path").exit(Exit::NotFound),
        _ => failure,
    }
}

/// Puts this process into namespaces of its own where these hosts are known by name.
pub(crate) fn enter_with_hosts(hosts: &[(String, IpAddr)], folder: &Path) -> Result<()> {
    let own = fs::read_to_string("/etc/hosts").unwrap_or_default();
    let file = folder.join(format!(".hosts.{}", std::process::id()));
    crate::data_dir::write_whole(&file, hosts_file(&own, hosts).as_bytes(), 0o644)
        .context(format!("write {}", file.display()))?;
    let mounted = enter().and_then(|()| {
        let none: Option<&str> = None;
        mount(Some(&file), "/etc/hosts", none, MsFlags::MS_BIND, none)
            .context("put the generated hosts file over /etc/hosts")
    });
    // What is mounted stays without its name; if nothing was, it is of no use.
    fs::remove_file(&file).context(format!("remove {}", file.display()))?;
    mounted
}

fn enter() -> Result<()> {
    let (user, group) = (getuid(), getgid());
    let flags = if user.is_root() {
        CloneFlags::CLONE_NEWNS
    } else {
        CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNS
    };
    unshare(flags).map_err(forbidden)?;
    if !user.is_root() {
        let write = |file: &str, text: String| fs::write(file, text).map_err(forbidden);
        write("/proc/self/setgroups", "deny".to_owned())?;
        write("/proc/self/uid_map", format!("{user} {user} 1\n"))?;
        write("/proc/self/gid_map", format!("{group} {group} 1\n"))?;
    }
    // What is mounted here stays here.
    let none: Option<&str> = None;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).map_err(forbidden)
}

fn forbidden(error: impl std::fmt::Display) -> Failure {
    Failure::new(format!("this machine does not allow a user and mount namespace: {error}"))
        .reason("PermissionDenied")
        .remedy(
            "allow it (sysctl kernel.unprivileged_userns_clone=1, kernel.apparmor_restrict_unprivileged_userns=0), \
             or resolve the names for the whole machine with `steadfast dns install`",
        )
}

fn hosts_file(own: &str, hosts: &[(String, IpAddr)]) -> String {
    let mut text = own.to_owned();
    if !text.is_empty() && !text.ends_with('\n') {
        text.push('\n');
    }
    text.push_str("# Members of Steadfast. Their addresses are stable.\n");
    for (name, address) in hosts {
        text.push_str(&format!("{address} {name}\n"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machines_own_hosts_stay() {
        let text =
            hosts_file("127.0.0.1 localhost", &[("a.x.internal".to_owned(), "127.64.0.2".parse().unwrap())]);
        let lines: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
        assert_eq!(lines, ["127.0.0.1 localhost", "127.64.0.2 a.x.internal"]);
    }
}
