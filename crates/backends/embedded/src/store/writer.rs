//! The one writer: a thread that puts everything that waits into one transaction and one flush.
//!
//! While a flush runs the next writes gather, so the more callers there are the more share a flush, and a single
//! caller waits for nobody.

use std::sync::Arc;
use std::thread::{Builder, JoinHandle};

use bytes::Bytes;
use redb::{Database, Durability, ReadableTable as _, StorageError, Table};
use steadfast_core::metadata::{CasOutcome, Key};
use steadfast_core::runtime::Entropy;
use steadfast_core::{Effect, Error, ErrorKind, Result};
use tokio::sync::{mpsc, oneshot};

use super::database::{
    META, RECORDS, SEQUENCE_KEY, Shared, Stamp, of_commit, of_table, of_transaction, storage_failure,
};

/// The most writes in one transaction.
const MOST_WRITES: usize = 512;

/// The most bytes in one transaction, but for its last write.
const MOST_BYTES: usize = 8 * 1024 * 1024;

/// What the writer is asked for.
#[derive(Debug)]
pub(super) enum Command {
    /// Write.
    Write(Write),
    /// A reader failed: see whether the file must be opened anew.
    Check,
}

/// One write and who waits for it.
#[derive(Debug)]
pub(super) struct Write {
    pub(super) operation: &'static str,
    pub(super) key: Key,
    pub(super) change: Change,
    pub(super) reply: oneshot::Sender<Result<CasOutcome>>,
}

#[derive(Debug)]
pub(super) enum Change {
    /// Put `value` if the present stamp is `expected`; none: if there is no value.
    Put { value: Bytes, expected: Option<Stamp> },
    /// Delete if the present stamp is `expected`.
    Delete { expected: Stamp },
}

impl Change {
    fn bytes(&self) -> usize {
        match self {
            Change::Put { value, .. } => value.len(),
            Change::Delete { .. } => 0,
        }
    }
}

/// Why a batch failed, and whether it had come to the flush.
struct Failure {
    error: StorageError,
    flushing: bool,
}

/// Starts the writer. It ends when the senders are gone.
pub(super) fn spawn(
    shared: Arc<Shared>,
    commands: mpsc::Receiver<Command>,
    entropy: Entropy,
) -> Result<JoinHandle<()>> {
    let sequence = shared.sequence()?;
    let backend = shared.to_string();
    let path = shared.path().display().to_string();
    let writer = Writer { shared, entropy, sequence };
    Builder::new().name("steadfast-store".to_owned()).spawn(move || writer.run(commands)).map_err(|error| {
        Error::new(ErrorKind::Unavailable, backend, "open", path, "cannot start the writer's thread")
            .without_effect()
            .with_source(error)
    })
}

struct Writer {
    shared: Arc<Shared>,
    entropy: Entropy,
    /// The last number given to a write; never lower than the file's.
    sequence: u64,
}

impl Writer {
    fn run(mut self, mut commands: mpsc::Receiver<Command>) {
        while let Some(first) = commands.blocking_recv() {
            let mut batch = Vec::new();
            let mut check = false;
            let mut bytes = 0;
            let mut next = Some(first);
            while let Some(command) = next {
                match command {
                    // Whoever gave up before the write began has written nothing.
                    Command::Write(write) if write.reply.is_closed() => {}
                    Command::Write(write) => {
                        bytes += write.change.bytes() + write.key.as_str().len();
                        batch.push(write);
                    }
                    Command::Check => check = true,
                }
                let full = batch.len() >= MOST_WRITES || bytes >= MOST_BYTES;
                next = if full { None } else { commands.try_recv().ok() };
            }
            if check {
                self.check();
            }
            if !batch.is_empty() {
                self.commit(batch, bytes);
            }
        }
    }

    /// Opens the file anew if it does not read any more.
    fn check(&self) {
        if self.shared.sequence().is_err() {
            self.reopen();
        }
    }

    fn reopen(&self) -> bool {
        match self.shared.reopen() {
            Ok(()) => true,
            Err(error) => {
                tracing::error!(error = %error.chain(), "the store cannot be opened; the next call tries again");
                false
            }
        }
    }

    /// Writes a batch and answers each of its callers.
    fn commit(&mut self, batch: Vec<Write>, bytes: usize) {
        if let Err(error) = self.shared.room(u64::try_from(bytes).unwrap_or(u64::MAX)) {
            return refuse(batch, &error);
        }
        if self.shared.with(|_| Ok(())).is_err() && !self.reopen() {
            let error = self.shared.with(|_| Ok(())).err();
            return refuse(batch, &error.unwrap_or_else(|| self.unavailable()));
        }
        let before = self.sequence;
        let shared = Arc::clone(&self.shared);
        let applied = shared.with(|database| Ok(self.apply(database, &batch)));
        match applied {
            Ok(Ok(outcomes)) => self.acknowledge(batch, outcomes),
            Ok(Err(failure)) => {
                let error = self.settle(failure, before);
                tracing::error!(error = %error.chain(), writes = batch.len(), "writing to the store failed");
                refuse(batch, &error);
            }
            Err(error) => refuse(batch, &error),
        }
    }

    /// Hints go out before the answers: who has the answer may rely on the hint being on its way.
    fn acknowledge(&self, batch: Vec<Write>, outcomes: Vec<CasOutcome>) {
        for (write, outcome) in batch.iter().zip(&outcomes) {
            if matches!(outcome, CasOutcome::Applied(_)) {
                self.shared.hint(write.key.clone());
            }
        }
        for (write, outcome) in batch.into_iter().zip(outcomes) {
            answer(write, Ok(outcome));
        }
    }

    /// One transaction. Within it each write sees those before it.
    fn apply(&mut self, database: &Database, batch: &[Write]) -> Result<Vec<CasOutcome>, Failure> {
        let early = |error| Failure { error, flushing: false };
        let mut transaction = database.begin_write().map_err(|error| early(of_transaction(error)))?;
        transaction
            .set_durability(Durability::Immediate)
            .map_err(|error| early(StorageError::Io(std::io::Error::other(error.to_string()))))?;
        let mut outcomes = Vec::with_capacity(batch.len());
        {
            let mut records = transaction.open_table(RECORDS).map_err(|error| early(of_table(error)))?;
            for write in batch {
                outcomes.push(self.apply_one(&mut records, write).map_err(early)?);
            }
            let mut meta = transaction.open_table(META).map_err(|error| early(of_table(error)))?;
            meta.insert(SEQUENCE_KEY, self.sequence).map_err(early)?;
        }
        if outcomes.iter().all(|outcome| matches!(outcome, CasOutcome::Conflict)) {
            transaction.abort().map_err(early)?;
        } else {
            transaction.commit().map_err(|error| Failure { error: of_commit(error), flushing: true })?;
        }
        Ok(outcomes)
    }

    fn apply_one(
        &mut self,
        records: &mut Table<'_, &'static str, (u128, &'static [u8])>,
        write: &Write,
    ) -> Result<CasOutcome, StorageError> {
        let key = write.key.as_str();
        let present = records.get(key)?.map(|found| Stamp(found.value().0));
        match &write.change {
            Change::Put { value, expected } if *expected == present => {
                self.sequence += 1;
                let stamp = Stamp::new(self.sequence, self.entropy.u64());
                records.insert(key, (stamp.0, value.as_ref()))?;
                Ok(CasOutcome::Applied(stamp.version()))
            }
            Change::Delete { expected } if Some(*expected) == present => {
                // Counted as well, so that a failed flush can be settled by the number.
                self.sequence += 1;
                records.remove(key)?;
                Ok(CasOutcome::Applied(expected.version()))
            }
            Change::Put { .. } | Change::Delete { .. } => Ok(CasOutcome::Conflict),
        }
    }

    /// What a failed batch amounts to. The file is opened anew, and if its number is the one from before the batch
    /// then the batch is not there and never will be.
    fn settle(&self, failure: Failure, before: u64) -> Error {
        let error = storage_failure(&self.shared, self.shared.path(), "put", failure.error);
        let reopened = self.reopen();
        let lost = reopened && self.shared.sequence().is_ok_and(|found| found <= before);
        if !failure.flushing || lost { error.without_effect() } else { error }
    }

    fn unavailable(&self) -> Error {
        let path = self.shared.path().display();
        Error::new(ErrorKind::Unavailable, &self.shared, "put", path, "the store is not open")
            .without_effect()
    }
}

fn refuse(batch: Vec<Write>, error: &Error) {
    for write in batch {
        let mut own = Error::new(error.kind(), error.backend(), write.operation, &write.key, error.message())
            .with_retry(error.retry())
            .with_source(error.clone());
        if error.effect() == Effect::None {
            own = own.without_effect();
        }
        answer(write, Err(own));
    }
}

/// Answers a caller; one that has gone meanwhile has its write done or not done, as it may be.
fn answer(write: Write, outcome: Result<CasOutcome>) {
    if write.reply.send(outcome).is_err() {
        tracing::trace!(key = %write.key, "the caller has gone");
    }
}
