//! Processes, as the kernel shows them.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Sends a signal to one process, which must be there.
pub fn signal(pid: i32, signal: Signal) {
    kill(Pid::from_raw(pid), signal).unwrap_or_else(|error| panic!("send {signal} to {pid}: {error}"));
}

/// Whether the process runs: it is there, and no zombie.
pub fn runs(pid: i32) -> bool {
    state(pid).is_some_and(|state| state != 'Z')
}

/// Whether the process is stopped by a signal.
pub fn is_stopped(pid: i32) -> bool {
    state(pid) == Some('T')
}

fn state(pid: i32) -> Option<char> {
    stat_field(pid, 0)?.chars().next()
}

/// The parent.
pub fn parent(pid: i32) -> Option<i32> {
    stat_field(pid, 1)?.parse().ok()
}

/// When it was started, in ticks since boot: with the number, this is one process and no other.
pub fn started(pid: i32) -> Option<u64> {
    stat_field(pid, 19)?.parse().ok()
}

/// A field of `stat` behind the name, which may hold anything.
fn stat_field(pid: i32, index: usize) -> Option<String> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, rest) = text.rsplit_once(')')?;
    rest.split_whitespace().nth(index).map(str::to_owned)
}

/// The children of a process with their command lines.
pub fn children(pid: i32) -> BTreeMap<i32, String> {
    all().filter(|child| parent(*child) == Some(pid)).map(|child| (child, command_line(child))).collect()
}

/// The command line, arguments parted by blanks.
pub fn command_line(pid: i32) -> String {
    let bytes = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    String::from_utf8_lossy(&bytes).replace('\0', " ").trim_end().to_owned()
}

fn all() -> impl Iterator<Item = i32> {
    fs::read_dir("/proc").unwrap().flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

/// Every process that has anything to do with a folder: named in its command line, its working folder, or with a
/// file open below it. This process is not among them.
pub fn using(folder: &Path) -> BTreeMap<i32, String> {
    let own = i32::try_from(std::process::id()).unwrap();
    let text = folder.to_str().unwrap();
    let uses = |pid: i32| {
        let process = format!("/proc/{pid}");
        let below = |link: &Path| fs::read_link(link).is_ok_and(|target| target.starts_with(folder));
        command_line(pid).contains(text)
            || below(&Path::new(&process).join("cwd"))
            || fs::read_dir(Path::new(&process).join("fd"))
                .is_ok_and(|files| files.flatten().any(|file| below(&file.path())))
    };
    all().filter(|pid| *pid != own && runs(*pid) && uses(*pid)).map(|pid| (pid, command_line(pid))).collect()
}
