//! Guards that are the first processes of containers.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use steadfast_core::error::{Error, ErrorKind, Result};
use steadfast_core::ids::{MemberName, ServiceName};
use steadfast_core::model::Reason;
use steadfast_core::runtime::{Environment, Moment};

use super::{Gate, MemberMounts};
use crate::guard::{GuardSpec, own_network};
use crate::guards::{GuardState, Guards, ProcessGuards};

/// How long an engine that is ready waits for a container, before everything is looked at again.
const PATIENCE: Duration = Duration::from_secs(15);
const ROUND: Duration = Duration::from_millis(20);

/// The guards of a node whose engines run in containers.
#[derive(Debug)]
pub struct ContainerGuards {
    env: Environment,
    found: ProcessGuards,
    mounts: MemberMounts,
    gate: Arc<Gate>,
}

impl ContainerGuards {
    /// The guards that `found` finds; those that start are offered at `gate`.
    pub fn new(env: Environment, found: ProcessGuards, mounts: MemberMounts, gate: Arc<Gate>) -> Self {
        ContainerGuards { env, found, mounts, gate }
    }

    async fn comes_up(&self, member: &MemberName) -> Result<()> {
        while !self.found.has_come_up(member).await? {
            if !self.gate.is_offered(member) {
                let text = "it is no longer wanted here";
                return Err(Error::new(ErrorKind::Stale, "containers", "start", member, text));
            }
            self.env.clock().sleep(ROUND).await;
        }
        Ok(())
    }
}

#[async_trait]
impl Guards for ContainerGuards {
    async fn list(&self) -> Result<Vec<(MemberName, ServiceName)>> {
        self.found.list().await
    }

    async fn find(&self, member: &MemberName) -> Result<GuardState> {
        self.found.find(member).await
    }

    async fn start(&self, spec: &GuardSpec) -> Result<()> {
        let member = &spec.member;
        let failure = |error: io::Error| {
            Error::new(ErrorKind::Unavailable, "containers", "start", member, error).without_effect()
        };
        // Containers may have networks of their own.
        let network = own_network().map_err(failure)?;
        let spec = &GuardSpec { network: Some(network), ..spec.clone() };
        // Nobody hears what it says but the container's own log.
        drop(self.found.make_ready(spec)?);
        self.mounts.mount_own(member).map_err(failure)?;
        self.gate.offer(spec).map_err(failure)?;
        let mut came = self.env.timeout(PATIENCE, self.comes_up(member)).await;
        if came.is_none() && !self.gate.withdraw_untaken(member) {
            // It may have been given to a container just now: what that finds must not be made anew under it.
            came = self.env.timeout(PATIENCE, self.comes_up(member)).await;
        }
        self.gate.withdraw(member);
        if let (Some(Ok(())), Some(asked)) = (&came, self.gate.asked(member)) {
            let since_asked_ms = self.env.clock().monotonic().since(asked).as_millis();
            tracing::info!(%member, since_asked_ms, "its container's guard has come up");
        }
        came.unwrap_or_else(|| {
            let what = if self.gate.is_taken(member) {
                "the container that has its volume has not started"
            } else {
                "no container has asked for its volume"
            };
            let message = format!("{}: {what}: docker service ps", Reason::OrchestratorUnavailable);
            Err(Error::new(ErrorKind::Unavailable, "containers", "start", member, message))
        })
    }

    async fn withdraw(&self, member: &MemberName) -> Result<()> {
        self.gate.withdraw(member);
        self.found.withdraw(member).await
    }

    async fn stop(&self, member: &MemberName) -> Result<()> {
        self.found.stop(member).await
    }

    async fn kill(&self, member: &MemberName) -> Result<()> {
        self.found.kill(member).await
    }

    async fn extend_lease(&self, member: &MemberName, until: Moment) -> Result<()> {
        // Before the guard is asked: one that comes up in between has read this, or answers.
        self.gate.extend_lease(member, self.env.clock().monotonic(), until).map_err(|error| {
            Error::new(ErrorKind::Unavailable, "containers", "extend lease of", member, error)
        })?;
        self.found.extend_lease(member, until).await
    }

    async fn forget(&self, member: &MemberName) -> Result<()> {
        self.found.forget(member).await
    }
}
