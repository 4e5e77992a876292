//! The client that keeps writing: it knows a name, finds the address anew whenever it connects, and remembers
//! what was acknowledged.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::task::JoinHandle;

use super::session::{self, Engine, Session};
use crate::lookup;

/// Where and as whom to write.
#[derive(Clone)]
pub(super) struct Target {
    pub(super) engine: Engine,
    pub(super) dns: SocketAddr,
    pub(super) name: String,
    pub(super) port: u16,
    pub(super) env: BTreeMap<String, String>,
}

/// What has become of the writes so far.
#[derive(Debug, Default)]
struct Record {
    acknowledged: Vec<(u64, Instant)>,
    longest_gap: Duration,
    last_error: Option<String>,
}

/// A client that writes until it is told to stop.
pub(super) struct Writer {
    record: Arc<Mutex<Record>>,
    task: JoinHandle<()>,
    target: Target,
}

/// Between two writes: enough to see a gap of milliseconds, little enough to leave the machine to others.
const PACE: Duration = Duration::from_millis(4);
const RECONNECT: Duration = Duration::from_millis(20);

impl Target {
    /// Connects to what the name stands for right now. Of several addresses the first that answers is taken.
    async fn connect(&self) -> Result<Box<dyn Session>, String> {
        let addresses = lookup::addresses(self.dns, &self.name).await.map_err(|failure| failure.message)?;
        let mut last = format!("{} has no address", self.name);
        for address in addresses {
            match session::open(self.engine, SocketAddr::new(address, self.port), &self.env).await {
                Ok(session) => return Ok(session),
                Err(error) => last = error,
            }
        }
        Err(last)
    }
}

impl Writer {
    /// Begins to write.
    pub(super) fn start(target: Target) -> Writer {
        let record = Arc::new(Mutex::new(Record::default()));
        let task = tokio::spawn(write(target.clone(), Arc::clone(&record)));
        Writer { record, task, target }
    }

    fn with<T>(&self, look: impl FnOnce(&Record) -> T) -> T {
        look(&self.record.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// How many writes were acknowledged.
    pub(super) fn acknowledged(&self) -> usize {
        self.with(|record| record.acknowledged.len())
    }

    /// When the first one after `moment` was.
    pub(super) fn first_after(&self, moment: Instant) -> Option<Instant> {
        self.with(|record| {
            let later = record.acknowledged.iter().rev().map(|(_, at)| *at).take_while(|at| *at > moment);
            later.last()
        })
    }

    /// The longest time between two acknowledgements.
    pub(super) fn longest_gap(&self) -> Duration {
        self.with(|record| record.longest_gap)
    }

    /// What went wrong last.
    pub(super) fn last_error(&self) -> Option<String> {
        self.with(|record| record.last_error.clone())
    }

    /// Stops writing, and reads everything back: how many acknowledged writes there were, and those that are lost.
    pub(super) async fn check(self, patience: Duration) -> Result<(usize, Vec<u64>), String> {
        self.task.abort();
        let acknowledged: Vec<u64> =
            self.with(|record| record.acknowledged.iter().map(|(number, _)| *number).collect());
        let begun = Instant::now();
        loop {
            let read = async {
                let mut session = self.target.connect().await?;
                session.read_all().await
            };
            match read.await {
                Ok(mut found) => {
                    found.sort_unstable();
                    let lost: Vec<u64> = acknowledged
                        .iter()
                        .copied()
                        .filter(|number| found.binary_search(number).is_err())
                        .collect();
                    return Ok((acknowledged.len(), lost));
                }
                Err(error) if begun.elapsed() > patience => return Err(error),
                Err(_) => tokio::time::sleep(RECONNECT).await,
            }
        }
    }
}

/// Milliseconds since 1970, with room for a million writes in each.
fn first_number() -> u64 {
    let now = steadfast_core::runtime::Timestamp::now().as_millisecond();
    u64::try_from(now).unwrap_or(0).saturating_mul(1_000_000)
}

async fn write(target: Target, record: Arc<Mutex<Record>>) {
    let note = |change: &dyn Fn(&mut Record)| {
        change(&mut record.lock().unwrap_or_else(PoisonError::into_inner));
    };
    let mut session: Option<Box<dyn Session>> = None;
    // Numbers of an earlier run must not be taken for ours.
    let mut number = first_number();
    loop {
        let mut current = match session.take() {
            Some(session) => session,
            None => match target.connect().await {
                Ok(fresh) => fresh,
                Err(error) => {
                    note(&|record| record.last_error = Some(error.clone()));
                    tokio::time::sleep(RECONNECT).await;
                    continue;
                }
            },
        };
        // Never the same number twice: a write whose outcome is not known stays unknown.
        number += 1;
        match current.write(number).await {
            Ok(()) => {
                let now = Instant::now();
                note(&|record| {
                    if let Some((_, last)) = record.acknowledged.last() {
                        record.longest_gap = record.longest_gap.max(now - *last);
                    }
                    record.acknowledged.push((number, now));
                });
                session = Some(current);
                tokio::time::sleep(PACE).await;
            }
            Err(error) => {
                note(&|record| record.last_error = Some(error.clone()));
                tokio::time::sleep(RECONNECT).await;
            }
        }
    }
}
