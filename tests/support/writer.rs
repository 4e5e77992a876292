//! A client that knows a name, writes without end, connects anew by name whenever a connection breaks, and remembers
//! what was acknowledged; and the check that all of it is there.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use super::cluster::Cluster;
use super::engine::{Engine, Session};
use super::{dns, until};

/// Between two writes: enough to see short gaps, little enough to leave the machine to others.
const PACE: Duration = Duration::from_millis(10);
const RECONNECT: Duration = Duration::from_millis(30);

/// A service, as its clients know it.
#[derive(Clone)]
pub struct Target {
    engine: &'static Engine,
    dns: SocketAddr,
    name: String,
    env: BTreeMap<String, String>,
}

impl Target {
    /// Where `service` takes writes.
    pub fn of(cluster: &Cluster, engine: &'static Engine, service: &str) -> Target {
        let view = cluster.service(service);
        let name = view.names.iter().find(|name| name.starts_with("primary.") == engine.led_by_us);
        Target {
            engine,
            dns: cluster.dns(),
            name: name.unwrap_or_else(|| panic!("no name to write to: {:?}", view.names)).clone(),
            env: cluster.connect(service).env,
        }
    }

    /// Connects to what the name stands for right now; of several addresses the first that answers.
    pub fn connect(&self) -> Result<Box<dyn Session>, String> {
        let mut last = format!("{} has no address", self.name);
        for address in dns::addresses(self.dns, &self.name)? {
            match (self.engine.open)(SocketAddr::new(address, self.engine.port), &self.env) {
                Ok(session) => return Ok(session),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    /// Everything that is there, as soon as it can be read.
    pub fn read_all(&self) -> BTreeSet<u64> {
        until(&format!("{} can be read", self.name), || {
            self.connect()?.read_all().map(|found| found.into_iter().collect())
        })
    }
}

#[derive(Debug, Default)]
struct Record {
    acknowledged: BTreeSet<u64>,
    broken: u32,
    last_error: Option<String>,
    stop: bool,
}

/// A client that writes until it is told to stop.
pub struct Writer {
    target: Target,
    record: Arc<Mutex<Record>>,
    thread: Option<JoinHandle<()>>,
}

impl Writer {
    /// Begins to write, and returns once some writes are acknowledged.
    pub fn start(cluster: &Cluster, engine: &'static Engine, service: &str) -> Writer {
        Writer::after(cluster, engine, service, BTreeSet::new())
    }

    /// As [`start`](Self::start), going on from what an earlier one got acknowledged.
    pub fn after(
        cluster: &Cluster,
        engine: &'static Engine,
        service: &str,
        acknowledged: BTreeSet<u64>,
    ) -> Writer {
        let target = Target::of(cluster, engine, service);
        // What the earlier one tried last may be there, too.
        let first = acknowledged.last().map_or(1, |last| last + 1_000);
        let record = Arc::new(Mutex::new(Record { acknowledged, ..Record::default() }));
        let thread = std::thread::spawn({
            let (target, record) = (target.clone(), Arc::clone(&record));
            move || write(&target, &record, first)
        });
        let writer = Writer { target, record, thread: Some(thread) };
        writer.goes_on();
        writer
    }

    fn with<T>(&self, look: impl FnOnce(&mut Record) -> T) -> T {
        look(&mut self.record.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Waits until further writes are acknowledged, that began after this was called.
    pub fn goes_on(&self) {
        let before = self.with(|record| record.acknowledged.len());
        until("further writes are acknowledged", || {
            self.with(|record| match record.acknowledged.len() {
                now if now >= before + 20 => Ok(()),
                now => Err(format!("{} after {before}; last error: {:?}", now, record.last_error)),
            })
        });
    }

    /// How often a connection broke or a write failed.
    pub fn broken(&self) -> u32 {
        self.with(|record| record.broken)
    }

    /// How many writes were acknowledged.
    pub fn acknowledged(&self) -> usize {
        self.with(|record| record.acknowledged.len())
    }

    /// Stops writing, reads everything back, and gives what was acknowledged: all of it must be there.
    pub fn finish(mut self) -> BTreeSet<u64> {
        self.stop();
        let acknowledged = self.with(|record| std::mem::take(&mut record.acknowledged));
        check(&self.target, &acknowledged);
        acknowledged
    }

    fn stop(&mut self) {
        self.with(|record| record.stop = true);
        if let Some(thread) = self.thread.take()
            && let Err(panic) = thread.join()
            && !std::thread::panicking()
        {
            std::panic::resume_unwind(panic);
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Panics unless every acknowledged number is there.
pub fn check(target: &Target, acknowledged: &BTreeSet<u64>) {
    let found = target.read_all();
    let lost: Vec<&u64> = acknowledged.difference(&found).collect();
    assert!(
        lost.is_empty(),
        "{} of {} acknowledged writes are lost: {:?}",
        lost.len(),
        acknowledged.len(),
        &lost[..lost.len().min(20)]
    );
}

fn write(target: &Target, record: &Mutex<Record>, first: u64) {
    let with =
        |change: &dyn Fn(&mut Record)| change(&mut record.lock().unwrap_or_else(PoisonError::into_inner));
    let failed = |error: String| {
        with(&|record| {
            record.broken += 1;
            record.last_error = Some(error.clone());
        });
        std::thread::sleep(RECONNECT);
    };
    let mut session: Option<Box<dyn Session>> = None;
    // Never the same number twice: a write whose outcome is not known stays unknown.
    for number in first.. {
        if record.lock().unwrap_or_else(PoisonError::into_inner).stop {
            return;
        }
        let mut current = match session.take().map_or_else(|| target.connect(), Ok) {
            Ok(current) => current,
            Err(error) => {
                failed(error);
                continue;
            }
        };
        match current.write(number) {
            Ok(()) => {
                with(&|record| {
                    record.acknowledged.insert(number);
                });
                session = Some(current);
                std::thread::sleep(PACE);
            }
            Err(error) => failed(error),
        }
    }
}
