//! What the scenarios have to know of an engine.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

/// How long a client waits for one answer before it connects anew.
pub const PATIENCE: Duration = Duration::from_secs(3);

/// An engine of the catalog, and how a client speaks with it.
#[derive(Debug)]
pub struct Engine {
    /// Its blueprint.
    pub blueprint: &'static str,
    /// Its clients' port.
    pub port: u16,
    /// The command line of its own process holds this.
    pub program: &'static str,
    /// Whether Steadfast decides who leads.
    pub led_by_us: bool,
    /// What the engine cannot run without, below the folder of its volume.
    pub precious: &'static str,
    /// Connects a client, with what the engine's own client would take from its environment.
    pub open: Open,
}

/// How a client connects.
pub type Open = fn(SocketAddr, &BTreeMap<String, String>) -> Result<Box<dyn Session>, String>;

/// A connection to a member that takes writes. After an error it is thrown away.
pub trait Session {
    /// Writes a number. `Ok`: the engine has acknowledged it. `Err`: it may be there or not.
    fn write(&mut self, number: u64) -> Result<(), String>;

    /// Every number that is there.
    fn read_all(&mut self) -> Result<Vec<u64>, String>;
}
