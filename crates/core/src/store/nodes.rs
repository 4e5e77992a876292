//! The nodes' records as one process knows them: each version decoded once, and read again only where hints say so.
//!
//! Nodes are looked at several times a second, and hardly ever differ. As long as somebody [follows](Store::follow_nodes)
//! the store's hints about them, a look reads only those that were hinted at since the last one, or that whoever looks
//! [doubts](Store::doubt_nodes): most looks read nothing. Without, every look reads everything.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::de::DeserializeOwned;

use super::Store;
use crate::error::Result;
use crate::ids::NodeName;
use crate::metadata::{Hint, Key, Record, Version};
use crate::model::{NodeRecord, NodeStatus};

/// A node's own record, and its status if it has reported yet.
pub type NodeRecords = (Arc<NodeRecord>, Option<Arc<NodeStatus>>);

/// What is known of the nodes, through any clone of a store.
#[derive(Debug, Default)]
pub(super) struct NodeCache(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// How many looks were begun.
    begun: u64,
    /// The newest look that ended.
    latest: u64,
    known: BTreeMap<NodeName, Known>,
    trust: Trust,
    /// How often a hint or a doubt was told.
    told: u64,
    /// The nodes to be read again, with the number of the telling.
    doubted: BTreeMap<NodeName, u64>,
}

/// Whether hints stand for looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Trust {
    /// Nobody follows them.
    #[default]
    Nothing,
    /// They are followed; everything is to be read once after this telling.
    After(u64),
    /// What is known and not doubted is as it was read.
    Hints,
}

/// A node as a look has found it. A version is never reused.
#[derive(Debug)]
struct Known {
    look: u64,
    record: (Version, Arc<NodeRecord>),
    status: Option<(Version, Arc<NodeStatus>)>,
}

/// A look that was begun.
struct Look {
    number: u64,
    /// What was told by then is answered by it.
    told: u64,
    /// The nodes to read; none: all.
    only: Option<Vec<NodeName>>,
}

/// The records of a node that a look finds.
#[derive(Default)]
struct Found {
    record: Option<(Version, Arc<NodeRecord>)>,
    status: Option<(Version, Arc<NodeStatus>)>,
}

/// More nodes than this are read with one scan of all.
const ONE_BY_ONE: usize = 3;

impl NodeCache {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing panics under this lock, so a poisoned one holds whole values.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn begin(&self) -> Look {
        let mut state = self.lock();
        state.begun += 1;
        let few = state.trust == Trust::Hints && state.doubted.len() <= ONE_BY_ONE;
        let only = few.then(|| state.doubted.keys().cloned().collect());
        Look { number: state.begun, told: state.told, only }
    }

    fn end(&self, look: &Look) -> Vec<NodeRecords> {
        let mut state = self.lock();
        state.latest = state.latest.max(look.number);
        // Told meanwhile: read again with the next look.
        state.doubted.retain(|_, told| *told > look.told);
        if look.only.is_none() && matches!(state.trust, Trust::After(told) if told <= look.told) {
            state.trust = Trust::Hints;
        }
        state.all()
    }

    fn take_in(&self, look: u64, node: NodeName, found: Found) {
        let mut state = self.lock();
        if state.known.get(&node).is_some_and(|known| known.look > look) {
            return;
        }
        match found.record {
            Some(record) => {
                state.known.insert(node, Known { look, record, status: found.status });
            }
            // A status without a record is of a node that is not there yet.
            None => drop(state.known.remove(&node)),
        }
    }

    /// Forgets the nodes that a look at all of them did not find.
    fn forget_older(&self, look: u64) {
        self.lock().known.retain(|_, known| known.look >= look);
    }

    fn tell(&self, doubts: impl IntoIterator<Item = NodeName>) {
        let mut state = self.lock();
        for node in doubts {
            state.told += 1;
            let told = state.told;
            state.doubted.insert(node, told);
        }
    }

    fn set_trust(&self, followed: bool) {
        let mut state = self.lock();
        state.told += 1;
        state.trust = if followed { Trust::After(state.told) } else { Trust::Nothing };
    }
}

impl State {
    fn all(&self) -> Vec<NodeRecords> {
        let pair = |known: &Known| {
            (Arc::clone(&known.record.1), known.status.as_ref().map(|(_, status)| Arc::clone(status)))
        };
        self.known.values().map(pair).collect()
    }
}

impl Store {
    /// Every node's own record and status, by name: as they are now, or as hints have it.
    ///
    /// # Errors
    /// What the store says.
    pub async fn nodes(&self) -> Result<Vec<NodeRecords>> {
        let look = self.nodes.begin();
        let parent = self.records.key(["nodes"])?;
        match &look.only {
            None => {
                for (node, found) in self.read_nodes(&parent, &parent).await? {
                    self.nodes.take_in(look.number, node, found);
                }
                self.nodes.forget_older(look.number);
            }
            Some(nodes) => {
                for node in nodes {
                    let own = self.records.key(["nodes", node.as_str()])?;
                    let found = self.read_nodes(&parent, &own).await?.remove(node);
                    self.nodes.take_in(look.number, node.clone(), found.unwrap_or_default());
                }
            }
        }
        Ok(self.nodes.end(&look))
    }

    /// Reads the nodes under a prefix.
    async fn read_nodes(&self, parent: &Key, prefix: &Key) -> Result<BTreeMap<NodeName, Found>> {
        let mut all: BTreeMap<NodeName, Found> = BTreeMap::new();
        self.records
            .each(prefix, |key, record| {
                let Some((Ok(node), kind)) = below(parent, &key)
                    .and_then(|rest| rest.split_once('/'))
                    .map(|(node, kind)| (node.parse::<NodeName>(), kind))
                else {
                    return Ok(());
                };
                let state = self.nodes.lock();
                let known = state.known.get(&node);
                match kind {
                    "record" => {
                        let found = self.decoded(known.map(|known| &known.record), &key, record)?;
                        all.entry(node).or_default().record = Some(found);
                    }
                    "status" => {
                        let known = known.and_then(|known| known.status.as_ref());
                        let found = self.decoded(known, &key, record)?;
                        all.entry(node).or_default().status = Some(found);
                    }
                    _ => {}
                }
                Ok(())
            })
            .await?;
        Ok(all)
    }

    /// A record, decoded unless its version is the one that is known.
    fn decoded<T: DeserializeOwned>(
        &self,
        known: Option<&(Version, Arc<T>)>,
        key: &Key,
        record: Record,
    ) -> Result<(Version, Arc<T>)> {
        let body = match known.filter(|(version, _)| *version == record.version) {
            Some((_, body)) => Arc::clone(body),
            None => Arc::new(self.records.decode(key, &record.value)?),
        };
        Ok((record.version, body))
    }

    /// How often [`nodes`](Self::nodes) was begun, to ask for what was seen [since](Self::nodes_since).
    pub fn looks_at_nodes(&self) -> u64 {
        self.nodes.lock().begun
    }

    /// What [`nodes`](Self::nodes) gave last, if that was begun after so many of them.
    pub fn nodes_since(&self, begun: u64) -> Option<Vec<NodeRecords>> {
        let state = self.nodes.lock();
        (state.latest > begun).then(|| state.all())
    }

    /// Says that every hint about nodes is told from now on ([`hint_of_node`](Self::hint_of_node)), or that some may have
    /// been lost: the next look reads all.
    pub fn follow_nodes(&self) {
        self.nodes.set_trust(true);
    }

    /// Says that hints are no longer told: every look reads everything.
    pub fn unfollow_nodes(&self) {
        self.nodes.set_trust(false);
    }

    /// Has everything read again with the next look, hints or no hints.
    pub fn doubt_all_nodes(&self) {
        if self.follows_nodes() {
            self.follow_nodes();
        }
    }

    /// Whether hints stand for looks: what is known was read in full, and every hint since is told.
    pub fn follows_nodes(&self) -> bool {
        self.nodes.lock().trust == Trust::Hints
    }

    /// Takes in a hint about a key of a node.
    pub fn hint_of_node(&self, hint: &Hint) {
        let Hint::Changed(key) = hint else { return self.follow_nodes() };
        let parent = self.records.key(["nodes"]).ok();
        let node = parent.and_then(|parent| below(&parent, key)?.split('/').next()?.parse().ok());
        self.nodes.tell(node);
    }

    /// Has these nodes read again with the next look: their silence may be that of hints that were lost. `false`: the
    /// last look did not go by hints, so there is nothing to doubt.
    pub fn doubt_nodes(&self, nodes: impl IntoIterator<Item = NodeName>) -> bool {
        let follows = self.follows_nodes();
        if follows {
            self.nodes.tell(nodes);
        }
        follows
    }
}

/// The rest of a key under a prefix.
fn below<'a>(prefix: &Key, key: &'a Key) -> Option<&'a str> {
    key.as_str().strip_prefix(prefix.as_str())?.strip_prefix('/')
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layer::{CallCounters, StackOptions, stack};
    use crate::metadata::MetadataDb;
    use crate::metadata::memory::MemoryDb;
    use crate::runtime::Timestamp;
    use crate::testing::TestEnvironment;
    use std::sync::atomic::Ordering;

    struct Fixture {
        store: Store,
        counters: CallCounters,
    }

    fn node(name: &str) -> NodeName {
        name.parse().unwrap()
    }

    impl Fixture {
        async fn with(nodes: &[&str]) -> Self {
            let env = TestEnvironment::new(5).environment;
            let counters = CallCounters::new();
            let db: Arc<dyn MetadataDb> = Arc::new(MemoryDb::new());
            let db = stack(db, StackOptions::default(), &env, &counters);
            let store = Store::new(db, env.entropy().clone(), "test".parse().unwrap()).unwrap();
            let fixture = Fixture { store, counters };
            for name in nodes {
                fixture.write(name, "i1").await;
            }
            fixture
        }

        async fn write(&self, name: &str, life: &str) {
            let key = self.store.node_record_key(&node(name)).unwrap();
            let record = NodeRecord {
                node: node(name),
                zone: "a".parse().unwrap(),
                incarnation: life.parse().unwrap(),
                labels: BTreeMap::new(),
                engines: BTreeMap::new(),
                registered_at: Timestamp::UNIX_EPOCH,
                confirmed_dead: None,
                draining: false,
            };
            let written = match self.store.node_record(&node(name)).await.unwrap() {
                Some(before) => self.store.write(&key, &before, &record).await.unwrap(),
                None => self.store.records().create(&key, &record).await.unwrap(),
            };
            assert_ne!(written, crate::metadata::WriteOutcome::Conflict);
        }

        fn hint(&self, name: &str) {
            self.store.hint_of_node(&Hint::Changed(self.store.node_record_key(&node(name)).unwrap()));
        }

        /// The lives a look finds, and the scans it took.
        async fn look(&self) -> (Vec<String>, u64) {
            let scans = || -> u64 {
                let scans = self.counters.iter().filter(|(_, operation, _)| *operation == "scan");
                scans.map(|(_, _, counter)| counter.started.load(Ordering::Relaxed)).sum()
            };
            let before = scans();
            let found = self.store.nodes().await.unwrap();
            let lives = found.iter().map(|(record, _)| record.incarnation.to_string()).collect();
            (lives, scans() - before)
        }
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_follows_and_every_look_reads() {
        let fixture = Fixture::with(&["n1", "n2"]).await;
        assert_eq!(fixture.look().await, (vec!["i1".into(), "i1".into()], 1));
        fixture.write("n2", "i2").await;
        assert_eq!(fixture.look().await, (vec!["i1".into(), "i2".into()], 1));
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_followed_is_read_when_it_is_hinted_at() {
        let fixture = Fixture::with(&["n1", "n2"]).await;
        fixture.store.follow_nodes();
        assert!(!fixture.store.follows_nodes(), "not before everything was read");
        assert_eq!(fixture.look().await.1, 1);
        assert_eq!(fixture.look().await, (vec!["i1".into(), "i1".into()], 0));
        fixture.write("n2", "i2").await;
        fixture.hint("n2");
        assert_eq!(fixture.look().await, (vec!["i1".into(), "i2".into()], 1));
        assert_eq!(fixture.look().await.1, 0);
        fixture.write("n3", "i1").await;
        fixture.hint("n3");
        assert_eq!(fixture.look().await.0.len(), 3, "a node that is new");
    }

    #[tokio::test(start_paused = true)]
    async fn a_lost_hint_is_made_up_for_by_doubt_and_by_a_reset() {
        let fixture = Fixture::with(&["n1", "n2"]).await;
        fixture.store.follow_nodes();
        fixture.look().await;
        fixture.write("n1", "i2").await;
        assert_eq!(fixture.look().await, (vec!["i1".into(), "i1".into()], 0), "nobody told");
        assert!(fixture.store.doubt_nodes([node("n1")]));
        assert_eq!(fixture.look().await, (vec!["i2".into(), "i1".into()], 1));
        fixture.write("n2", "i2").await;
        fixture.store.hint_of_node(&Hint::Reset);
        assert_eq!(fixture.look().await, (vec!["i2".into(), "i2".into()], 1));
        fixture.store.unfollow_nodes();
        assert!(!fixture.store.doubt_nodes([node("n1")]));
        assert_eq!(fixture.look().await.1, 1);
    }
}
