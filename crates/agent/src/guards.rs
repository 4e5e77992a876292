//! How an agent starts guards, finds them again and talks to them. A simulator has its own.

mod process;
mod program;

use std::fmt::Debug;

use async_trait::async_trait;
use steadfast_core::error::Result;
use steadfast_core::ids::{MemberName, ServiceName};
use steadfast_core::runtime::Moment;

pub use process::ProcessGuards;
pub use program::GuardProgram;

use crate::guard::{GuardExit, GuardSpec, GuardStatus};

/// What is there of a member on this node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GuardState {
    /// Nothing: no guard and no process of the engine. How the last one ended, if one has.
    Absent(Option<GuardExit>),
    /// A guard that answers.
    Alive(GuardStatus),
    /// A guard that does not answer (stopped, or starved).
    Silent,
    /// No guard, but processes of the engine's tree.
    Orphans,
}

/// The guards of one node.
#[async_trait]
pub trait Guards: Debug + Send + Sync + 'static {
    /// The members that a guard was started for and that are not forgotten, with their services.
    async fn list(&self) -> Result<Vec<(MemberName, ServiceName)>>;

    /// What is there of `member`.
    async fn find(&self, member: &MemberName) -> Result<GuardState>;

    /// Starts a guard, which starts the engine once it has every lock.
    ///
    /// # Behavior
    /// - Returns once the guard answers, or has ended ([`find`](Self::find) says how); the engine may not run yet.
    /// - `Busy`, without effect, while there is a guard or process of the member.
    async fn start(&self, spec: &GuardSpec) -> Result<()>;

    /// Makes sure that no guard begins any more with what was made ready for it, until the next [`start`](Self::start).
    ///
    /// # Behavior
    /// - A start that still waits for its guard fails.
    /// - `Busy`, without effect, if a guard has begun: [`find`](Self::find) finds it. Nothing there: success.
    async fn withdraw(&self, member: &MemberName) -> Result<()>;

    /// Begins to stop the engine in order, as it was said at its start; what is left after that is killed.
    ///
    /// # Behavior
    /// - No guard: success.
    async fn stop(&self, member: &MemberName) -> Result<()>;

    /// Kills guard and engine at once.
    ///
    /// # Behavior
    /// - Returns once nothing of them is left; `Busy` if that takes too long (a process in an unending system
    ///   call). Nothing there: success.
    async fn kill(&self, member: &MemberName) -> Result<()>;

    /// Lets the engine run until `until`, if it has a lease that has not ended yet.
    async fn extend_lease(&self, member: &MemberName, until: Moment) -> Result<()>;

    /// Forgets how the last guard of a member that is no longer here ended.
    async fn forget(&self, member: &MemberName) -> Result<()>;
}
