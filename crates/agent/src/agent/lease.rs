//! The node's lease and status, in one record.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::time::Duration;

use steadfast_core::error::Result;
use steadfast_core::ids::MemberName;
use steadfast_core::metadata::{Versioned, WriteOutcome};
use steadfast_core::model::{MemberStatus, NodeStatus, Reason};
use steadfast_core::planted::{self, Planted};
use steadfast_core::runtime::Moment;

use super::{AgentParts, Node};
use crate::guard::deadline_ms;
use crate::sync::lock;

impl Node {
    /// Renews the lease three times as often as it lasts, and at once when there is news. Ends only with an error
    /// that nothing can be done about.
    pub(super) async fn keep_lease(&self) -> Result<()> {
        let AgentParts { env, config, .. } = &self.parts;
        let clock = env.clock();
        let pace = config.timers.lease / 3;
        let mut last: Option<Versioned<NodeStatus>> = None;
        loop {
            // What is told while this is written makes the next round begin at once.
            let asked = clock.monotonic();
            let zombie = planted::is(Planted::LeaseKeptByZombie);
            if zombie {
                self.extend_leases(asked).await;
            }
            match env
                .timeout(if zombie { pace } else { config.timers.lease }, self.renew(last.as_ref()))
                .await
            {
                Some(Ok(Some(written))) => {
                    last = Some(written);
                    *lock(&self.renewed) = Some(asked);
                    self.extend_leases(asked).await;
                }
                Some(Ok(None)) => {
                    last = None;
                    continue;
                }
                Some(Err(error)) => {
                    tracing::warn!(error = %error.chain(), "the lease cannot be renewed");
                    last = None;
                    clock.sleep(Duration::from_millis(200).min(pace)).await;
                    continue;
                }
                None => {
                    tracing::warn!("the store takes longer than the lease to renew it");
                    last = None;
                    continue;
                }
            }
            if self.is_confirmed_dead().await {
                return Err(self.confirmed_dead().await);
            }
            tokio::select! {
                biased;
                () = self.news.notified() => {}
                () = clock.sleep(pace) => {}
            }
        }
    }

    /// Writes the status; `None`: the record was not as expected, and is to be read again.
    async fn renew(&self, last: Option<&Versioned<NodeStatus>>) -> Result<Option<Versioned<NodeStatus>>> {
        let AgentParts { store, config, incarnation, host, .. } = &self.parts;
        let key = store.node_status_key(&config.node)?;
        let before = match last {
            Some(last) => Some(last.clone()),
            None => store.node_status(&config.node).await?,
        };
        let status = NodeStatus {
            node: config.node.clone(),
            incarnation: incarnation.clone(),
            beat: before.as_ref().map_or(0, |before| before.body.beat) + 1,
            lease_ms: u64::try_from(config.timers.lease.as_millis()).unwrap_or(u64::MAX),
            members: self.what_holds(),
            stalled: host.stalled(),
            version: config.version.clone(),
        };
        let written = match &before {
            Some(before) => store.records().update(&key, &status, &before.version).await?,
            None => store.records().create(&key, &status).await?,
        };
        Ok(match written {
            WriteOutcome::Applied(version) => Some(Versioned { version, body: status }),
            WriteOutcome::Conflict => None,
        })
    }

    fn what_holds(&self) -> BTreeMap<MemberName, MemberStatus> {
        let (now, timers) = (self.parts.env.clock().monotonic(), &self.parts.config.timers);
        let statuses = lock(&self.statuses);
        let holding = statuses.iter().filter(|(_, said)| said.holds(now, timers));
        holding.map(|(member, said)| (member.clone(), said.status.clone())).collect()
    }

    /// Tells the guards that may have a lease. It counts from before the renewal was sent.
    async fn extend_leases(&self, asked: Moment) {
        let until = asked.plus(self.parts.config.timers.lease);
        let tasks = lock(&self.tasks).clone();
        let leased = tasks.into_iter().filter(|(_, inbox)| inbox.leased.load(Ordering::Acquire));
        let members: Vec<_> = leased.map(|(member, _)| member).collect();
        let extensions = members.iter().map(|member| async move {
            if let Err(error) = self.parts.guards.extend_lease(member, until).await {
                tracing::debug!(%member, error = %error.chain(), "a guard was not told of the lease");
            }
        });
        futures::future::join_all(extensions).await;
    }

    /// Until when a guard that is started now may let its engine run, if its service accepts leases or every
    /// guard has one.
    ///
    /// # Errors
    /// If the lease has ended: nothing may be started then.
    pub(crate) fn lease_end(&self, accepted: bool) -> Result<Option<u64>, (Reason, String)> {
        if !accepted && !self.parts.config.fence_by_lease || planted::is(Planted::GuardWithoutLease) {
            return Ok(None);
        }
        let until = lock(&self.renewed).map(|asked| asked.plus(self.parts.config.timers.lease));
        match until {
            Some(until) if until > self.parts.env.clock().monotonic() => Ok(Some(deadline_ms(until))),
            _ => Err((Reason::LeaseLost, "the node's lease could not be renewed".to_owned())),
        }
    }

    async fn is_confirmed_dead(&self) -> bool {
        let AgentParts { store, config, incarnation, .. } = &self.parts;
        if !self.record_news.swap(false, Ordering::AcqRel) {
            return false;
        }
        match store.node_record(&config.node).await {
            Ok(Some(record)) => record.body.confirmed_dead.as_ref() == Some(incarnation),
            Ok(None) | Err(_) => {
                // Not known: asked again with the next renewal.
                self.record_news.store(true, Ordering::Release);
                false
            }
        }
    }
}
