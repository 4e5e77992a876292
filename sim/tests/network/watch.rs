//! Watches over the network: every change is hinted at, or everything is to be read again.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt as _;
use steadfast_api::control::WatchEvent;
use steadfast_api::testing::{cluster, id};
use steadfast_core::metadata::{Hint, Key, MetadataDb, Precondition};
use steadfast_core::runtime::{Environment, Moment};

use crate::cluster::{Cluster, SERVERS};
use crate::disk::Disk;
use crate::net::Lives;
use crate::store::{owner, remote};
use crate::storm::{Trouble, network, run, storm};

const STORM: Duration = Duration::from_secs(30);
/// When the last hint must have come: a broken watch is noticed by its silence.
const CALM: Duration = Duration::from_secs(45);

/// When each thing changed last, and when a hint covered it last.
#[derive(Debug, Default)]
struct Seen {
    changed: BTreeMap<String, Moment>,
    hinted: BTreeMap<String, Moment>,
    resets: Vec<Moment>,
}

impl Seen {
    /// What changed and was not hinted at after that.
    fn missed(&self) -> Vec<&String> {
        let covered = |name: &&String| {
            let changed = self.changed[*name];
            let hinted = self.hinted.get(*name).is_some_and(|at| *at >= changed);
            hinted || self.resets.iter().any(|at| *at >= changed)
        };
        self.changed.keys().filter(|name| !covered(name)).collect()
    }
}

type Shared = Arc<Mutex<Seen>>;

fn note(seen: &Shared, change: impl FnOnce(&mut Seen)) {
    change(&mut seen.lock().unwrap_or_else(PoisonError::into_inner));
}

/// Writes one new record after another, right onto the disk.
async fn change(environment: Environment, disk: Disk, seen: Shared) -> turmoil::Result {
    let clock = environment.clock();
    // Whoever watches has come by then.
    clock.sleep(Duration::from_secs(5)).await;
    for nth in 0.. {
        let now = clock.monotonic();
        if now.since_zero() > STORM {
            break;
        }
        let name = format!("op-{nth}");
        let key: Key = id(&format!("steadfast/{}/operations/{name}", cluster()));
        note(&seen, |seen| {
            seen.changed.insert(name, now);
        });
        let _first: steadfast_core::metadata::CasOutcome =
            disk.put(&key, Bytes::from_static(b"{}"), Precondition::Absent).await?;
        clock.sleep(Duration::from_millis(300)).await;
    }
    clock.sleep(CALM).await;
    Ok(())
}

#[test]
fn a_watch_that_is_cut_goes_on_without_missing_a_change() {
    let (mut resumed, mut reset) = (0, 0);
    for seed in 0..2 {
        let mut sim = network(seed);
        let cluster = Cluster::start(&mut sim);
        let seen = Shared::default();
        sim.client("writer", change(cluster.lives.next(), cluster.disk.clone(), Arc::clone(&seen)));
        let (environment, client) = cluster.user(&SERVERS);
        let (watching, noted) = (cluster.clone(), Arc::clone(&seen));
        sim.host("user", move || {
            let (environment, client, noted) = (environment.clone(), client.clone(), Arc::clone(&noted));
            let _kept = watching.clone();
            async move {
                let mut events = loop {
                    match client.watch().await {
                        Ok(events) => break events,
                        Err(_) => environment.clock().sleep(Duration::from_millis(100)).await,
                    }
                };
                // Whoever begins to watch reads everything then.
                note(&noted, |seen| seen.resets.push(environment.clock().monotonic()));
                while let Some(event) = events.next().await {
                    let now = environment.clock().monotonic();
                    note(&noted, |seen| match event {
                        WatchEvent::Changed { name, .. } => {
                            seen.hinted.insert(name, now);
                        }
                        WatchEvent::Reset => seen.resets.push(now),
                    });
                }
                Ok(())
            }
        });
        let mut troubles = Trouble::of_link("user", "s1").to_vec();
        troubles.extend(Trouble::of_link("s1", "store"));
        troubles.extend([Trouble::Crash("s1"), Trouble::Crash("store")]);
        run(sim, &storm(seed, &troubles, STORM), |_| {}).unwrap();
        let seen = seen.lock().unwrap();
        assert_eq!(seen.missed(), Vec::<&String>::new(), "seed {seed}: {} resets", seen.resets.len());
        reset += seen.resets.len() - 1;
        resumed += seen.hinted.len();
    }
    assert!(reset > 0 && resumed > 0, "{reset} resets, {resumed} changes that were hinted at");
}

#[test]
fn a_watch_of_a_remote_store_goes_on_without_missing_a_change() {
    let mut resets = 0;
    for seed in 0..3 {
        let (disk, lives, seen) = (Disk::default(), Lives::default(), Shared::default());
        let mut sim = network(seed);
        owner(&mut sim, "store", &disk, &lives);
        sim.client("writer", change(lives.next(), disk.clone(), Arc::clone(&seen)));
        let (environment, noted) = (lives.next(), Arc::clone(&seen));
        sim.host("server", move || {
            let (environment, noted) = (environment.clone(), Arc::clone(&noted));
            async move {
                let db = remote(&environment, Duration::from_secs(3));
                let prefix: Key = id(&format!("steadfast/{}", cluster()));
                let mut hints = db.watch(&prefix).await?;
                while let Some(hint) = hints.next().await {
                    let now = environment.clock().monotonic();
                    note(&noted, |seen| match hint {
                        Hint::Changed(key) => {
                            let name = key.segments().last().unwrap_or_default().to_owned();
                            seen.hinted.insert(name, now);
                        }
                        Hint::Reset => seen.resets.push(now),
                    });
                }
                Ok(())
            }
        });
        let mut troubles = Trouble::of_link("server", "store").to_vec();
        troubles.push(Trouble::Crash("store"));
        let mut spells = storm(seed, &troubles, STORM);
        // The watch begins before anything goes wrong.
        spells.retain(|spell| spell.begins_after(Duration::from_secs(1)));
        run(sim, &spells, |_| {}).unwrap();
        let seen = seen.lock().unwrap();
        assert_eq!(seen.missed(), Vec::<&String>::new(), "seed {seed}: {} resets", seen.resets.len());
        resets += seen.resets.len();
    }
    assert!(resets > 0, "no watch was ever taken up again");
}
