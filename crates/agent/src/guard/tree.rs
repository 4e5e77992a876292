//! The processes of one member: found by the locks they inherited and by parenthood, never by a number in a file.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::Path;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Kills (SIGKILL) every process that holds one of these locks, and every descendant of this process, but not
/// this process itself. One round; gives what was found.
pub(super) fn kill_round(locks: &[&Path]) -> io::Result<BTreeSet<i32>> {
    let mut found = steadfast_lock::kill_holders(locks)?;
    // A descendant cannot be anybody else: its number is not reused before this process has reaped it, or its
    // parent has, in which case the next round sees what is left.
    for pid in descendants()? {
        if kill(Pid::from_raw(pid), Signal::SIGKILL).is_ok() {
            found.insert(pid);
        }
    }
    Ok(found)
}

/// The processes below this one that still run (the dead ones among them have no children left).
pub(super) fn descendants() -> io::Result<BTreeSet<i32>> {
    let mut children: BTreeMap<i32, Vec<i32>> = BTreeMap::new();
    for entry in fs::read_dir("/proc")? {
        let entry = entry?;
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else {
            continue;
        };
        // The process may have ended meanwhile.
        let Ok(stat) = fs::read_to_string(entry.path().join("stat")) else { continue };
        if let Some((state, parent)) = state_and_parent(&stat)
            && state != "Z"
        {
            children.entry(parent).or_default().push(pid);
        }
    }
    let mut found = BTreeSet::new();
    let mut next = vec![Pid::this().as_raw()];
    while let Some(pid) = next.pop() {
        for child in children.remove(&pid).unwrap_or_default() {
            if found.insert(child) {
                next.push(child);
            }
        }
    }
    Ok(found)
}

/// The third and fourth field of `/proc/PID/stat`. The second may hold anything, brackets and spaces included.
fn state_and_parent(stat: &str) -> Option<(&str, i32)> {
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_ascii_whitespace();
    Some((fields.next()?, fields.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parent_is_found_behind_any_name() {
        assert_eq!(state_and_parent("7 (a) b) S 42 7 7"), Some(("S", 42)));
        assert_eq!(state_and_parent("7 (sh) Z 1 7"), Some(("Z", 1)));
        assert_eq!(state_and_parent("garbage"), None);
    }
}
