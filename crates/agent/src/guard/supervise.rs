//! The guard's loop: one thread, one `poll`.

use std::fs::{self, DirBuilder};
use std::io::{self, PipeReader, Read};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::prctl;
use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::stat::{Mode, umask};
use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Pid, setsid};
use steadfast_core::engine::StopSignal;
use steadfast_core::model::Reason;
use steadfast_core::runtime::Timestamp;
use steadfast_lock::Lock;

use super::clock::boot_time;
use super::control::Control;
use super::exec::NOT_REACHED;
use super::locks::{Held, Taken};
use super::log::LogWriter;
use super::{Ending, GuardExit, GuardSpec, GuardStage, GuardStatus, Request, own_network, tree};

/// How long between two attempts to take a lock, or to kill what is left.
const ROUND: Duration = Duration::from_millis(10);
/// How much of the engine's last output is kept for the message about an engine that was never reached.
const TAIL: usize = 512;

/// A guard that holds its member's guard lock.
#[derive(Debug)]
pub(super) struct Guard {
    spec: GuardSpec,
    spec_path: PathBuf,
    guard_lock: Lock,
    held: Held,
    stage: GuardStage,
    /// When the stage ends for want of patience: with `Locking` the engine is not started, with `Stopping` it is
    /// killed.
    stage_ends: Option<Duration>,
    lease_until: Option<Duration>,
    engine: Option<Pid>,
    ending: Option<Ending>,
    requested: bool,
    output: Option<PipeReader>,
    tail: Vec<u8>,
    log: LogWriter,
    control: Control,
    signals: SignalFd,
    timer: TimerFd,
}

impl Guard {
    /// Becomes the guard of a member; `None` if there is one already, or something left of one.
    pub(super) fn begin(spec: GuardSpec, spec_path: &Path) -> io::Result<Option<Self>> {
        prctl::set_name(c"steadfast-guard")?;
        match setsid() {
            // The leader of a group (started from a shell) or of a session (in a container) has one already.
            Ok(_) | Err(Errno::EPERM) => {}
            Err(errno) => return Err(errno.into()),
        }
        umask(Mode::from_bits_truncate(0o077));
        prctl::set_child_subreaper(true)?;
        let mut mask = SigSet::empty();
        for signal in [Signal::SIGCHLD, Signal::SIGTERM, Signal::SIGINT] {
            mask.add(signal);
        }
        mask.thread_block()?;
        let Some(guard_lock) = Lock::try_exclusive(&spec.guard_lock)? else { return Ok(None) };
        // A container may come up long after it was asked for. Whoever withdraws has this lock meanwhile.
        let current = super::read_spec(spec_path)?;
        if current.incarnation != spec.incarnation || super::withdrawn(spec_path).exists() {
            return Err(io::Error::other("what it was to be started with has been withdrawn"));
        }
        let spec = current;
        guard_lock.pass_to_children()?;
        Ok(Some(Guard {
            control: Control::bind(&spec.control)?,
            signals: SignalFd::with_flags(&mask, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?,
            timer: TimerFd::new(ClockId::CLOCK_BOOTTIME, TimerFlags::TFD_CLOEXEC | TimerFlags::TFD_NONBLOCK)?,
            log: LogWriter::open(&spec.log),
            stage: GuardStage::Locking,
            stage_ends: Some(boot_time().saturating_add(Duration::from_millis(spec.lock_wait_ms))),
            lease_until: spec.lease_until_ms.map(Duration::from_millis),
            held: Held::default(),
            engine: None,
            ending: None,
            requested: false,
            output: None,
            tail: Vec::new(),
            spec_path: spec_path.to_owned(),
            spec,
            guard_lock,
        }))
    }

    /// Guards until nothing of the engine's tree is left, and says how it ended.
    pub(super) fn run(mut self) -> io::Result<()> {
        loop {
            // The lease comes first, whatever else has piled up while this process was stopped.
            self.check_lease();
            self.reap();
            if self.advance()? {
                return self.finish();
            }
            self.wait()?;
            self.check_lease();
            self.read_output();
            self.read_signals();
            self.reap();
            self.serve_requests();
        }
    }

    fn check_lease(&mut self) {
        let over = self.lease_until.is_some_and(|until| boot_time() >= until);
        if over && self.stage != GuardStage::Killing {
            self.ending = Some(Ending::SelfFenced);
            self.kill();
        }
    }

    /// Does what the stage asks for now. `true`: nothing is left to guard.
    fn advance(&mut self) -> io::Result<bool> {
        let patience_over = self.stage_ends.is_some_and(|end| boot_time() >= end);
        match self.stage {
            GuardStage::Locking => {
                match self.held.take(&self.spec) {
                    Taken::All => self.start(),
                    Taken::Busy(lock) if patience_over => {
                        let holders = steadfast_lock::holders(&lock)?.into_iter().collect();
                        self.refuse(Ending::VolumeBusy { lock, holders });
                    }
                    Taken::Busy(_) => {}
                    Taken::Refused(ending) => self.refuse(ending),
                }
                Ok(false)
            }
            GuardStage::Running => Ok(false),
            GuardStage::Stopping => {
                if patience_over {
                    self.kill();
                }
                Ok(false)
            }
            GuardStage::Killing => {
                let locks: Vec<&Path> =
                    std::iter::once(self.spec.guard_lock.as_path()).chain(self.held.own()).collect();
                let left = tree::kill_round(&locks)?;
                self.reap();
                Ok(left.is_empty() && self.engine.is_none() && tree::descendants()?.is_empty())
            }
        }
    }

    fn refuse(&mut self, ending: Ending) {
        self.ending = Some(ending);
        self.kill();
    }

    fn kill(&mut self) {
        self.stage = GuardStage::Killing;
        self.stage_ends = None;
    }

    fn start(&mut self) {
        let header = format!(
            "--- {} {} on {}, epoch {}, generation {}, incarnation {}\n",
            Timestamp::now(),
            self.spec.member,
            self.spec.node,
            self.spec.epoch,
            self.spec.generation,
            self.spec.incarnation
        );
        self.log.write(header.as_bytes());
        if let Err(ending) = self.look_at_network().and_then(|()| self.look_for_program()) {
            self.refuse(ending);
            return;
        }
        match self.spawn() {
            Ok(pid) => {
                self.engine = Some(pid);
                self.stage = GuardStage::Running;
                self.stage_ends = None;
            }
            Err(error) => self.refuse(Ending::NotStarted {
                reason: crate::disk::reason_of(&error),
                message: format!("cannot start a process: {error}"),
            }),
        }
    }

    /// In a network of its own nobody would reach the engine: the member's address is the machine's.
    fn look_at_network(&self) -> Result<(), Ending> {
        let not_started = |reason, message| Err(Ending::NotStarted { reason, message });
        match (&self.spec.network, own_network()) {
            (None, _) => Ok(()),
            (Some(wanted), Ok(own)) if own == *wanted => Ok(()),
            (Some(_), Ok(_)) => not_started(
                Reason::ConfigInvalid,
                format!(
                    "its container has a network of its own, where the address of {} cannot be seen: use --network host",
                    self.spec.member
                ),
            ),
            (Some(_), Err(error)) => {
                not_started(crate::disk::reason_of(&error), format!("cannot tell its network: {error}"))
            }
        }
    }

    fn look_for_program(&self) -> Result<(), Ending> {
        let program = self.spec.command.argv.first().map(Path::new).unwrap_or(Path::new(""));
        let runnable = fs::metadata(program)
            .is_ok_and(|metadata| metadata.is_file() && metadata.permissions().mode() & 0o111 != 0);
        if runnable {
            return Ok(());
        }
        Err(Ending::NotStarted {
            reason: Reason::EngineMissing,
            message: format!("{} is not a program on {}", program.display(), self.spec.node),
        })
    }

    fn spawn(&mut self) -> io::Result<Pid> {
        let (reader, writer) = io::pipe()?;
        let flags = OFlag::from_bits_truncate(fcntl(&reader, FcntlArg::F_GETFL)?) | OFlag::O_NONBLOCK;
        fcntl(&reader, FcntlArg::F_SETFL(flags))?;
        // The same program, also if its file was replaced meanwhile.
        let child = Command::new("/proc/self/exe")
            .arg0("steadfast")
            .args(["guard", "--exec"])
            .arg(&self.spec_path)
            .args(["--parent", &Pid::this().to_string()])
            .stdin(Stdio::null())
            .stdout(writer.try_clone()?)
            .stderr(writer)
            .spawn()?;
        self.output = Some(reader);
        let pid = i32::try_from(child.id()).map_err(io::Error::other)?;
        // Reaped by number with all the others.
        drop(child);
        Ok(Pid::from_raw(pid))
    }

    /// Sleeps until there is something to do.
    fn wait(&mut self) -> io::Result<()> {
        let round = match self.stage {
            GuardStage::Locking | GuardStage::Killing => Some(boot_time().saturating_add(ROUND)),
            GuardStage::Running | GuardStage::Stopping => None,
        };
        let lease = if self.stage == GuardStage::Killing { None } else { self.lease_until };
        match [round, lease, self.stage_ends].into_iter().flatten().min() {
            Some(at) => {
                let at = TimeSpec::from(at.max(Duration::from_nanos(1)));
                self.timer.set(Expiration::OneShot(at), TimerSetTimeFlags::TFD_TIMER_ABSTIME)?;
            }
            None => self.timer.unset()?,
        }
        let mut watched: Vec<BorrowedFd<'_>> =
            vec![self.signals.as_fd(), self.timer.as_fd(), self.control.listener.as_fd()];
        watched.extend(self.output.as_ref().map(AsFd::as_fd));
        watched.extend(self.control.clients.iter().map(|client| client.stream.as_fd()));
        let mut watched: Vec<PollFd<'_>> =
            watched.into_iter().map(|fd| PollFd::new(fd, PollFlags::POLLIN)).collect();
        match poll(&mut watched, PollTimeout::NONE) {
            Ok(_) | Err(Errno::EINTR) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }

    fn read_output(&mut self) {
        // As much as a turn should take: what is left makes the next poll return at once.
        const MOST: usize = 256 * 1024;
        let mut buffer = [0; 8192];
        let mut taken = 0;
        while taken < MOST {
            let Some(output) = &mut self.output else { return };
            match output.read(&mut buffer) {
                Ok(0) => self.output = None,
                Ok(length) => {
                    taken += length;
                    self.log.write(&buffer[..length]);
                    self.tail.extend_from_slice(&buffer[..length]);
                    let surplus = self.tail.len().saturating_sub(TAIL);
                    self.tail.drain(..surplus);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => self.output = None,
            }
        }
    }

    fn read_signals(&mut self) {
        while let Ok(Some(signal)) = self.signals.read_signal() {
            let asked = [Signal::SIGTERM, Signal::SIGINT].iter().any(|s| *s as u32 == signal.ssi_signo);
            if asked {
                self.stop();
            }
        }
    }

    /// Buries every child that has ended. With the engine's own process the tree goes.
    fn reap(&mut self) {
        loop {
            let status = match waitpid(None::<Pid>, Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::StillAlive) | Err(Errno::ECHILD) => return,
                Ok(status) => status,
                Err(Errno::EINTR) => continue,
                Err(_) => return,
            };
            let ending = match status {
                WaitStatus::Exited(pid, code) if Some(pid) == self.engine => Ending::Exited(code),
                WaitStatus::Signaled(pid, signal, _) if Some(pid) == self.engine => {
                    Ending::Signalled(signal as i32)
                }
                _ => continue,
            };
            self.engine = None;
            self.read_output();
            let ending = match ending {
                Ending::Exited(NOT_REACHED) => self.never_reached(),
                ending => ending,
            };
            // A lease that ended first remains the reason.
            self.ending.get_or_insert(ending);
            self.kill();
        }
    }

    fn never_reached(&self) -> Ending {
        let said = String::from_utf8_lossy(&self.tail);
        let last = said.lines().last().unwrap_or("no reason was given");
        let message = last.strip_prefix("steadfast guard: ").unwrap_or(last).to_owned();
        Ending::NotStarted { reason: Reason::EngineMissing, message }
    }

    fn serve_requests(&mut self) {
        self.control.accept();
        for (client, request) in self.control.requests() {
            match request {
                Request::Status => {}
                Request::Stop => self.stop(),
                Request::Lease { until_ms } => self.extend_lease(Duration::from_millis(until_ms)),
            }
            let status = self.status();
            self.control.answer(client, &status);
        }
        self.control.forget_closed();
    }

    /// Extends the lease, if there is one that still runs. A deadline that has passed extends nothing.
    fn extend_lease(&mut self, until: Duration) {
        let now = boot_time();
        if let Some(current) = self.lease_until
            && now < current
            && now < until
        {
            self.lease_until = Some(current.max(until));
        }
    }

    fn stop(&mut self) {
        self.requested = true;
        match self.stage {
            GuardStage::Locking => self.refuse(Ending::Exited(0)),
            GuardStage::Running => {
                self.stage = GuardStage::Stopping;
                let grace = Duration::from_millis(self.spec.stop_grace_ms);
                self.stage_ends = Some(boot_time().saturating_add(grace));
                self.signal_engine(self.spec.stop_signal);
            }
            // Asked again: the patience is still that of the first time.
            GuardStage::Stopping | GuardStage::Killing => {}
        }
    }

    fn signal_engine(&mut self, signal: StopSignal) {
        let signal = match signal {
            StopSignal::Term => Signal::SIGTERM,
            StopSignal::Int => Signal::SIGINT,
            StopSignal::Quit => Signal::SIGQUIT,
        };
        // Not reaped yet, so the number is still the engine's. An engine that cannot be told is killed.
        if let Some(pid) = self.engine
            && kill(pid, signal).is_err()
        {
            self.kill();
        }
    }

    fn status(&self) -> GuardStatus {
        GuardStatus {
            epoch: self.spec.epoch,
            generation: self.spec.generation,
            incarnation: self.spec.incarnation.clone(),
            stage: self.stage,
            engine_pid: self.engine.map(Pid::as_raw),
            lease_left_ms: self.lease_until.map(|until| {
                u64::try_from(until.saturating_sub(boot_time()).as_millis()).unwrap_or(u64::MAX)
            }),
            guard_pid: std::process::id(),
        }
    }

    fn finish(mut self) -> io::Result<()> {
        self.read_output();
        let exit = GuardExit {
            epoch: self.spec.epoch,
            generation: self.spec.generation,
            incarnation: self.spec.incarnation.clone(),
            ending: self.ending.take().unwrap_or(Ending::SelfFenced),
            requested: self.requested,
            at: Timestamp::now(),
        };
        self.log.write(format!("--- {} {}\n", exit.at, exit.ending).as_bytes());
        // The node's folder was removed: nobody would read it, and it would be made anew for that.
        if self.guard_lock.is_lost()? {
            return Ok(());
        }
        if let Some(folder) = self.spec.exit.parent() {
            DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
        }
        let written = super::write_durably(&self.spec.exit, &serde_json::to_vec(&exit)?);
        // Gone before the locks are: who finds the socket finds a guard.
        drop(fs::remove_file(&self.spec.control));
        written
    }
}
