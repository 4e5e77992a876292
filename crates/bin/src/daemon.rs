//! The processes that stay: `up`, which supervises `serve` and `agent`.

mod addresses;
pub(crate) mod agent;
mod engine_source;
pub(crate) mod engines;
mod local_volumes;
pub(crate) mod logging;
pub(crate) mod memory;
pub(crate) mod serve;
mod shared_volumes;
pub(crate) mod supervise;
mod swarm;
mod tasks;
pub(crate) mod up;
mod volume_plugin;
mod volumes;
mod wiring;

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::exit::{Context as _, Result};

/// The signals that ask a process to end.
#[derive(Debug)]
pub(crate) struct Signals {
    interrupt: Signal,
    terminate: Signal,
    hangup: Signal,
}

impl Signals {
    /// Listens from now on.
    pub(crate) fn new() -> Result<Self> {
        let listen = |kind| signal(kind).context("listen for signals");
        Ok(Signals {
            interrupt: listen(SignalKind::interrupt())?,
            terminate: listen(SignalKind::terminate())?,
            hangup: listen(SignalKind::hangup())?,
        })
    }

    /// Waits for any of them.
    pub(crate) async fn any(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
            _ = self.hangup.recv() => {}
        }
    }
}
