//! Which members are this node's business, and news of them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures::FutureExt as _;
use futures::stream::{self, BoxStream, StreamExt};
use steadfast_core::error::Result;
use steadfast_core::ids::{MemberId, MemberName};
use steadfast_core::metadata::{Hint, Key};
use steadfast_core::orchestrator::Assignment;
use steadfast_core::planted::{self, Planted};
use steadfast_core::volume::VolumeStatus;

use super::{AgentParts, Inbox, Node};
use crate::sync::lock;

/// What a round of hints is about.
#[derive(Debug, Default)]
struct News {
    /// Read every record of this node's members again.
    everything: bool,
    /// Look through all members for those that this node has not released: what hints would have told may be lost.
    unreleased: bool,
    assignments: bool,
    /// The node's own record.
    record: bool,
    services: BTreeSet<String>,
    members: BTreeSet<String>,
}

/// What a look through all members has found.
#[derive(Debug)]
enum Seen {
    /// Nobody looked.
    AsBefore,
    /// All that this node has not released.
    All,
    /// What the records tell; what is attached here could not be asked for.
    NoVolumes,
}

impl Node {
    /// Keeps a task for each member that is assigned here, or that this node has not released. Ends never.
    pub(super) async fn watch_assignments(self: &Arc<Self>) -> Result<()> {
        let AgentParts { env, config, .. } = &self.parts;
        let clock = env.clock();
        let mut hints: Option<BoxStream<'static, Hint>> = None;
        let mut news = News::all();
        // Hints, however many, put no resync off.
        let mut resynced = clock.monotonic();
        // Volumes that could not be listed are looked at with the next resync.
        let mut unseen = false;
        loop {
            if hints.is_none() {
                // Subscribed before reading, so that nothing falls in between.
                hints = self.subscribe().await.ok();
            }
            let mut retry = None;
            match self.take_in(&news).await {
                Ok(Seen::All) => unseen = false,
                Ok(Seen::NoVolumes) => unseen = true,
                Ok(Seen::AsBefore) => {}
                Err(error) => {
                    tracing::warn!(error = %error.chain(), "the assignments cannot be read");
                    retry = Some(Duration::from_millis(200));
                }
            }
            news = if retry.is_some() { News::all() } else { News::default() };
            let Some(stream) = &mut hints else {
                clock.sleep(retry.unwrap_or(Duration::from_secs(1))).await;
                news = News::all();
                continue;
            };
            let left = resynced.plus(config.timers.resync).since(clock.monotonic());
            if left.is_zero() && retry.is_none() {
                resynced = clock.monotonic();
                news.everything = !planted::is(Planted::HintsAlone);
                news.unreleased = unseen;
                continue;
            }
            tokio::select! {
                biased;
                hint = stream.next() => {
                    let mut hint = Some(hint);
                    // However many come at once, what they tell of is read once.
                    while let Some(next) = hint {
                        let Some(next) = next else {
                            hints = None;
                            news = News::all();
                            break;
                        };
                        news.add(&self.parts.store, next);
                        hint = stream.next().now_or_never();
                    }
                },
                () = clock.sleep(retry.unwrap_or(left)) => {}
            }
        }
    }

    async fn subscribe(&self) -> Result<BoxStream<'static, Hint>> {
        let AgentParts { store, config, .. } = &self.parts;
        let records = store.records();
        let mut streams = Vec::new();
        for prefix in [
            records.key(["tasks", config.node.as_str()])?,
            records.key(["services"])?,
            records.key(["members"])?,
            records.key(["nodes", config.node.as_str()])?,
        ] {
            streams.push(records.db().watch(&prefix).await?);
        }
        Ok(stream::select_all(streams).boxed())
    }

    async fn take_in(self: &Arc<Self>, news: &News) -> Result<Seen> {
        let seen = if news.unreleased { self.find_unreleased().await? } else { Seen::AsBefore };
        if news.everything || news.unreleased || news.assignments {
            self.read_assignments().await?;
        }
        if news.everything || news.record {
            self.record_news.store(true, Ordering::Release);
        }
        if news.record {
            self.news.notify_one();
        }
        let tasks = lock(&self.tasks).clone();
        for (member, inbox) in tasks {
            // What other members' records say is read when it is needed.
            let told =
                news.services.contains(inbox.service.as_str()) || news.members.contains(member.as_str());
            if news.everything || told {
                inbox.tell(|told| told.stale = true);
            }
        }
        Ok(seen)
    }

    /// Finds the members that an agent before this one has claimed and not given back. By their records; or, if those
    /// were put back to an older backup and say nothing of it, by a volume that is attached here: nobody else can give
    /// back what this node has.
    async fn find_unreleased(self: &Arc<Self>) -> Result<Seen> {
        let AgentParts { store, config, .. } = &self.parts;
        let (attached, seen) = match self.attached().await {
            Ok(attached) => (attached, Seen::All),
            Err(error) => {
                tracing::warn!(error = %error.chain(), "volumes that are attached here cannot be listed");
                (BTreeSet::new(), Seen::NoVolumes)
            }
        };
        for found in store.all_members().await? {
            let member = &found.body;
            let unreleased = member.unreleased.iter().any(|holder| holder.node == config.node);
            let elsewhere = member.placed_on.as_ref() != Some(&config.node);
            if unreleased || (elsewhere && attached.contains(&member.id)) {
                self.task(&member.name, &member.service);
            }
        }
        Ok(seen)
    }

    /// The members of which a volume is attached to this node.
    async fn attached(&self) -> Result<BTreeSet<MemberId>> {
        let AgentParts { store, config, backends, .. } = &self.parts;
        let here = |status: &VolumeStatus| status.attachment.holder() == Some(&config.node);
        let volumes = backends.volumes.list(store.cluster()).await?;
        Ok(volumes.into_iter().filter(here).map(|status| status.spec.member).collect())
    }

    /// Gives every member that is assigned here a task, and tells every task what is assigned.
    async fn read_assignments(self: &Arc<Self>) -> Result<()> {
        let AgentParts { store, config, .. } = &self.parts;
        let assignments: BTreeMap<MemberName, Arc<Assignment>> = store
            .assignments(&config.node)
            .await?
            .into_iter()
            .map(|found| (found.body.placement.member.clone(), Arc::new(found.body)))
            .collect();
        for (member, assignment) in &assignments {
            self.task(member, &assignment.service);
        }
        let tasks: Vec<(MemberName, Arc<Inbox>)> =
            lock(&self.tasks).iter().map(|(name, inbox)| (name.clone(), Arc::clone(inbox))).collect();
        for (member, inbox) in tasks {
            let assignment = assignments.get(&member).cloned();
            inbox.update(assignment);
        }
        Ok(())
    }
}

impl Inbox {
    fn update(&self, assignment: Option<Arc<Assignment>>) {
        let mut told = lock(&self.told);
        if told.known && told.assignment == assignment {
            return;
        }
        told.assignment = assignment;
        told.known = true;
        // A placement that has changed has changed the member's record, too.
        told.stale = true;
        drop(told);
        self.wake.notify_one();
    }
}

impl News {
    fn all() -> Self {
        News { everything: true, unreleased: true, ..News::default() }
    }

    fn add(&mut self, store: &steadfast_core::store::Store, hint: Hint) {
        let Hint::Changed(key) = hint else {
            *self = News::all();
            return;
        };
        match relative(store, &key) {
            Some(("nodes", _)) => self.record |= key.segments().last() == Some("record"),
            Some(("tasks", _)) => self.assignments = true,
            Some(("services", Some(service))) => {
                self.services.insert(service.to_owned());
            }
            Some(("members", Some(_))) => {
                self.members.extend(key.segments().last().map(str::to_owned));
            }
            _ => {}
        }
    }
}

/// The first two segments of a key below the cluster's prefix.
fn relative<'a>(store: &steadfast_core::store::Store, key: &'a Key) -> Option<(&'a str, Option<&'a str>)> {
    let below = key.as_str().strip_prefix(store.records().prefix().as_str())?.strip_prefix('/')?;
    let mut segments = below.split('/');
    Some((segments.next()?, segments.next()))
}
