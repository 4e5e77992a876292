//! `steadfast exec`: a program that knows the members by name, without root and without touching the machine.
//!
//! A user namespace with the caller's own ids allows a mount namespace, and in that a generated hosts file lies
//! over `/etc/hosts`. The kernel lets only a process with a single thread do that, so this runs before any runtime.

use std::ffi::OsString;
use std::fs::{self, DirBuilder};
use std::net::{IpAddr, ToSocketAddrs as _};
use std::os::unix::fs::DirBuilderExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::errno::Errno;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::unistd::{getgid, getuid};

use crate::exit::{Context as _, Exit, Failure, Result};

const HOSTS: &str = "/etc/hosts";

/// Becomes `command` with these hosts known by name. Returns only what went wrong.
pub(crate) fn run(hosts: &[(String, IpAddr)], command: &[OsString]) -> Failure {
    if let Err(failure) = enter_with_hosts(hosts) {
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

/// Puts this process into namespaces of its own where these hosts are known by name. Where that is forbidden, it
/// is no failure if the machine's resolver knows them all.
pub(crate) fn enter_with_hosts(hosts: &[(String, IpAddr)]) -> Result<()> {
    if hosts.is_empty() {
        return Ok(());
    }
    let own = fs::read_to_string(HOSTS).unwrap_or_default();
    let folder = scratch()?;
    let file = folder.join("hosts");
    let mounted = crate::data_dir::write_whole(&file, hosts_file(&own, hosts).as_bytes(), 0o644)
        .context(format!("write {}", file.display()))
        .and_then(|()| enter())
        .and_then(|()| cover(&file));
    // What is mounted stays without its name; if nothing was, it is of no use.
    fs::remove_dir_all(&folder).context(format!("remove {}", folder.display()))?;
    match mounted {
        Err(_) if hosts.iter().all(|(name, address)| resolves(name, *address)) => Ok(()),
        mounted => mounted,
    }
}

/// A folder that nobody else can have made, nor can write to.
fn scratch() -> Result<PathBuf> {
    let random = crate::data_dir::random()?;
    let token: String = random.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    let folder = std::env::temp_dir().join(format!("steadfast-exec-{token}"));
    DirBuilder::new().mode(0o700).create(&folder).map_err(|error| {
        Failure::new(format!("make {}: {error}", folder.display()))
            .remedy("name a folder that can be written to in TMPDIR")
    })?;
    Ok(folder)
}

fn resolves(name: &str, address: IpAddr) -> bool {
    (name, 0).to_socket_addrs().is_ok_and(|mut found| found.any(|found| found.ip() == address))
}

fn cover(file: &Path) -> Result<()> {
    let none: Option<&str> = None;
    mount(Some(file), HOSTS, none, MsFlags::MS_BIND, none).map_err(|error| match error {
        Errno::ENOENT => Failure::new(format!("this machine has no {HOSTS} to put a generated one over"))
            .remedy(format!("make one: touch {HOSTS}")),
        error => forbidden(error),
    })
}

fn enter() -> Result<()> {
    let (user, group) = (getuid(), getgid());
    // Root may do it as it is, unless it is root of a container that has taken the right from it.
    let as_it_is = user.is_root() && unshare(CloneFlags::CLONE_NEWNS).is_ok();
    if !as_it_is {
        unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNS).map_err(forbidden)?;
        let write = |file: &str, text: String| fs::write(file, text).map_err(forbidden);
        write("/proc/self/setgroups", "deny".to_owned())?;
        write("/proc/self/uid_map", format!("{user} {user} 1\n"))?;
        write("/proc/self/gid_map", format!("{group} {group} 1\n"))?;
    }
    // What is mounted here stays here; what is unmounted elsewhere does not, or a volume could not be detached for as
    // long as this runs.
    let none: Option<&str> = None;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_SLAVE, none).map_err(forbidden)
}

fn forbidden(error: impl std::fmt::Display) -> Failure {
    Failure::new(format!("this machine does not allow a user and mount namespace: {error}"))
        .reason("PermissionDenied")
        .remedy(
            "allow it (sysctl kernel.unprivileged_userns_clone=1, \
             kernel.apparmor_restrict_unprivileged_userns=0, user.max_user_namespaces above 0; in a container: its \
             seccomp profile), or resolve the names for the whole machine with `steadfast dns install`, or reach \
             members by their addresses (`steadfast get SERVICE -o wide`, `steadfast connect SERVICE --uri`)",
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
