//! The stage between guard and engine: the same program once more, which becomes the engine.
//!
//! What has to be set in the child before it becomes the engine is set here, by ordinary code in a process of
//! its own, so that no unsafe fork hook is needed.

use std::os::unix::process::CommandExt as _;
use std::process::Command;

use nix::errno::Errno;
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::{SigSet, Signal};
use nix::unistd::{Gid, Pid, Uid, getppid, setgid, setgroups, setpgid, setuid};

use super::GuardSpec;

/// The exit code that says that the engine was never reached.
pub(super) const NOT_REACHED: i32 = 125;

/// Becomes the engine. Returns only what went wrong.
pub(super) fn become_engine(spec: &GuardSpec, guard: Pid) -> String {
    if let Err(errno) = prepare(spec, guard) {
        return format!("cannot prepare the engine's process: {errno}");
    }
    if getppid() != guard {
        return "the guard is gone".to_owned();
    }
    let Some((program, arguments)) = spec.command.argv.split_first() else {
        return "there is no program to run".to_owned();
    };
    let mut command = Command::new(program);
    command
        .args(arguments)
        .env_clear()
        .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
    command.envs(&spec.command.env);
    if let Some(folder) = &spec.command.cwd {
        command.current_dir(folder);
    }
    format!("cannot run {program}: {}", command.exec())
}

fn prepare(spec: &GuardSpec, guard: Pid) -> Result<(), Errno> {
    if let Some(user) = spec.run_as {
        setgroups(&[Gid::from_raw(user.gid)])?;
        setgid(Gid::from_raw(user.gid))?;
        setuid(Uid::from_raw(user.uid))?;
    }
    setpgid(Pid::from_raw(0), Pid::from_raw(0))?;
    // The guard takes its signals through a descriptor; the engine shall get its own.
    SigSet::empty().thread_set_mask()?;
    // After the change of user, which clears it; and before the guard is looked for, so that a guard that dies
    // in between is noticed one way or the other.
    set_pdeathsig(Signal::SIGKILL)?;
    if getppid() == guard { Ok(()) } else { Err(Errno::ESRCH) }
}
