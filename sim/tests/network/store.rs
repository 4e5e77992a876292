//! The store of another server: what it says of a write is what happened.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt as _;
use steadfast_api::testing::{self, SERVER, id};
use steadfast_backend_remote::RemoteDb;
use steadfast_core::metadata::{CasOutcome, Key, MetadataDb, Precondition, Records, WriteOutcome};
use steadfast_core::{Effect, Environment};

use crate::disk::Disk;
use crate::net::{self, Lives};
use crate::storm::{Trouble, network, run, storm};

const STORM: Duration = Duration::from_secs(40);
/// After this nothing is on its way any more.
const CALM: Duration = Duration::from_secs(25);
const PATIENCE: Duration = Duration::from_secs(3);

/// What a writer was told of a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Told {
    Applied,
    Conflict,
    Not,
    Perhaps,
}

type History = Arc<Mutex<Vec<(String, Told)>>>;

/// A server with a store of its own.
pub(crate) fn owner(sim: &mut turmoil::Sim<'_>, name: &str, disk: &Disk, lives: &Lives) {
    let (disk, lives) = (disk.clone(), lives.clone());
    sim.host(name, move || net::serve(testing::parts(lives.next(), Arc::new(disk.clone()))));
}

/// The store behind the host `store`.
pub(crate) fn remote(environment: &Environment, patience: Duration) -> RemoteDb {
    let client = net::client(environment.clone(), SERVER, &["store"], patience);
    RemoteDb::new(environment.clone(), client, Disk::default().capabilities())
}

/// Writes one value over another, each its own, for as long as the storm.
async fn write(name: &'static str, environment: Environment, history: History) -> turmoil::Result {
    let db = remote(&environment, PATIENCE);
    let key: Key = id("a/b");
    let clock = environment.clock();
    let mut known = Precondition::Absent;
    for nth in 0.. {
        if clock.monotonic().since_zero() > STORM {
            break;
        }
        clock.sleep(Duration::from_millis(50)).await;
        if let Ok(found) = db.get(&key).await {
            known = found.map_or(Precondition::Absent, |found| Precondition::Version(found.version));
        }
        let value = format!("{name}-{nth}");
        let told = match db.put(&key, Bytes::from(value.clone()), known.clone()).await {
            Ok(CasOutcome::Applied(_)) => Told::Applied,
            Ok(CasOutcome::Conflict) => Told::Conflict,
            Err(error) if error.effect() == Effect::None => Told::Not,
            Err(_) => Told::Perhaps,
        };
        history.lock().unwrap_or_else(PoisonError::into_inner).push((value, told));
    }
    clock.sleep(CALM).await;
    Ok(())
}

#[test]
fn what_a_remote_store_says_of_a_write_is_what_happened_and_none_happens_twice() {
    let mut counts = std::collections::BTreeMap::new();
    let mut happened_unheard = 0;
    for seed in 0..5 {
        let (disk, lives, history) = (Disk::default(), Lives::default(), History::default());
        let mut sim = network(seed);
        owner(&mut sim, "store", &disk, &lives);
        for name in ["w1", "w2"] {
            sim.client(name, write(name, lives.next(), Arc::clone(&history)));
        }
        let mut troubles = Trouble::of_link("w1", "store").to_vec();
        troubles.extend(Trouble::of_link("w2", "store"));
        troubles.extend([Trouble::Crash("store"); 2]);
        run(sim, &storm(seed, &troubles, STORM), |_| {}).unwrap();
        for (value, told) in history.lock().unwrap().iter() {
            let times = disk.times_applied(value);
            let right = match told {
                Told::Applied => times == 1,
                Told::Conflict | Told::Not => times == 0,
                Told::Perhaps => times <= 1,
            };
            assert!(right, "seed {seed}: {value} was told to be {told:?} and was written {times} times");
            *counts.entry(*told).or_insert(0) += 1;
            happened_unheard += usize::from(*told == Told::Perhaps && times == 1);
        }
    }
    // Else nothing was tested.
    assert_eq!(counts.len(), 4, "{counts:?}");
    assert!(
        happened_unheard > 0 && counts[&Told::Perhaps] > happened_unheard,
        "{happened_unheard}, {counts:?}"
    );
}

/// How a counter was counted up: what was told to be done, and what stayed in doubt.
#[derive(Debug, Default)]
struct Counted {
    done: u64,
    doubtful: u64,
}

/// Counts up by records, which settle their doubts by reading again.
async fn count(environment: Environment, counted: Arc<Mutex<Counted>>) -> turmoil::Result {
    let db = remote(&environment, PATIENCE);
    let records = Records::new(Arc::new(db), environment.entropy().clone(), id("a"));
    let key = records.key(["counter"])?;
    let clock = environment.clock();
    while clock.monotonic().since_zero() < STORM {
        clock.sleep(Duration::from_millis(50)).await;
        let Ok(found) = records.get::<u64>(&key).await else { continue };
        let told = match &found {
            None => records.create(&key, &1_u64).await,
            Some(found) => records.update(&key, &(found.body + 1), &found.version).await,
        };
        let mut counted = counted.lock().unwrap_or_else(PoisonError::into_inner);
        match told {
            Ok(WriteOutcome::Applied(_)) => counted.done += 1,
            // Something in doubt has come about since it was read.
            Ok(WriteOutcome::Conflict) => {}
            Err(error) => counted.doubtful += u64::from(error.effect() == Effect::Unknown),
        }
    }
    clock.sleep(CALM).await;
    Ok(())
}

#[test]
fn a_record_counts_up_by_exactly_what_its_writer_was_told_and_what_it_could_not_be() {
    for seed in 0..3 {
        let (disk, lives, counted) = (Disk::default(), Lives::default(), Arc::default());
        let mut sim = network(seed);
        owner(&mut sim, "store", &disk, &lives);
        sim.client("writer", count(lives.next(), Arc::clone(&counted)));
        let mut troubles = Trouble::of_link("writer", "store").to_vec();
        troubles.push(Trouble::Crash("store"));
        run(sim, &storm(seed, &troubles, STORM), |_| {}).unwrap();
        let records = Records::new(Arc::new(disk), Lives::default().next().entropy().clone(), id("a"));
        let key = records.key(["counter"]).unwrap();
        let value = records.get::<u64>(&key).now_or_never().unwrap().unwrap().unwrap().body;
        let Counted { done, doubtful } = *counted.lock().unwrap();
        assert!((done..=done + doubtful).contains(&value), "seed {seed}: {value} of {done} and {doubtful}");
        assert!(done > 50, "seed {seed}: {done} is hardly a test");
    }
}
