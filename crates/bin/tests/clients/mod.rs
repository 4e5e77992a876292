//! Clients of every engine, in the protocols that the end-to-end tests speak, and one that writes without end to whichever
//! member of a service takes it.
#![allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    reason = "test support: each test file uses its part, and a failure is a panic"
)]

#[path = "../../../../tests/support/engine.rs"]
pub mod engine;
#[path = "../../../../tests/support/redis.rs"]
pub mod redis;
#[path = "../../../../tests/support/redis_cluster.rs"]
pub mod redis_cluster;
#[path = "../../../../tests/support/zookeeper.rs"]
pub mod zookeeper;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::load::on;
use crate::network::Machine;
use engine::{Engine, Session};

/// A service, as its clients know it: its members' addresses, and what they have to say.
#[derive(Debug, Clone)]
pub struct Target {
    pub engine: &'static Engine,
    pub addresses: Vec<SocketAddr>,
    pub env: BTreeMap<String, String>,
}

impl Target {
    /// Everything that a member of it has, asked from a machine.
    pub fn read(&self, machine: &Machine, address: SocketAddr) -> Result<BTreeSet<u64>, String> {
        let (open, env) = (self.engine.open, self.env.clone());
        on(machine, move || Ok(open(address, &env)?.read_all()?.into_iter().collect())).join().unwrap()
    }
}

/// A client that writes one number after the other.
pub struct Client {
    acknowledged: Arc<Mutex<BTreeSet<u64>>>,
    end: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Client {
    /// Writes from a machine, whatever becomes of that; where one member fails it, to the next one.
    pub fn start(machine: &Machine, target: &Target) -> Client {
        let (acknowledged, end) = (Arc::new(Mutex::new(BTreeSet::new())), Arc::new(AtomicBool::new(false)));
        let (target, kept, until) = (target.clone(), Arc::clone(&acknowledged), Arc::clone(&end));
        let thread = on(machine, move || {
            let mut session: Option<Box<dyn Session>> = None;
            let mut addresses = target.addresses.iter().cycle();
            // Never the same number twice: what is not acknowledged may be there or not.
            for number in 1.. {
                if until.load(Ordering::Acquire) {
                    return;
                }
                if session.is_none() {
                    let address = *addresses.next().unwrap();
                    session = (target.engine.open)(address, &target.env).ok();
                }
                if let Some(current) = &mut session {
                    match current.write(number) {
                        Ok(()) => drop(kept.lock().unwrap().insert(number)),
                        Err(_) => session = None,
                    }
                }
                std::thread::sleep(Duration::from_millis(10));
            }
        });
        Client { acknowledged, end, thread: Some(thread) }
    }

    pub fn count(&self) -> usize {
        self.acknowledged.lock().unwrap().len()
    }

    pub fn acknowledged(&self) -> BTreeSet<u64> {
        self.acknowledged.lock().unwrap().clone()
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.end.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            thread.join().ok();
        }
    }
}
