//! Conditions: what holds of a service or member, since when, and what comes next.

use serde::{Deserialize, Serialize};

use super::Reason;
use crate::runtime::Timestamp;

/// Which statement a condition is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub enum ConditionKind {
    /// It serves.
    Available,
    /// It has the redundancy that was declared.
    Redundant,
    /// Its acknowledged writes are as safe as was declared.
    Durable,
    /// It survives the loss of any one zone.
    ZoneLossSafe,
    /// Something waits and does not go on by itself.
    Blocked,
    /// Something is not as recorded.
    Drifted,
    /// An operator paused it.
    Paused,
}

/// True, false, or not known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub enum Truth {
    /// It holds.
    True,
    /// It does not hold.
    False,
    /// It is not known.
    Unknown,
}

/// A statement about a service or member.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct Condition {
    /// Which statement.
    pub kind: ConditionKind,
    /// Whether it holds.
    pub status: Truth,
    /// Why, as a code.
    pub reason: Option<Reason>,
    /// Why, in words.
    pub message: String,
    /// Since when the status is what it is.
    pub since: Timestamp,
    /// When it was last looked at.
    pub observed_at: Timestamp,
    /// When the lack of progress becomes a failure.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline: Option<Timestamp>,
    /// What happens next, or the command that resolves it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_action: Option<String>,
}
