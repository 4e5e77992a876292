//! Events: written with the change they explain, in the same compare-and-swap.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use super::Reason;
use crate::ids::{Epoch, MemberName};
use crate::runtime::Timestamp;

/// Something that happened, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct Event {
    /// Its number within the record that explains it, from 1, without holes.
    pub seq: u64,
    /// When, by the wall clock of whoever wrote it.
    pub at: Timestamp,
    /// Why.
    pub reason: Reason,
    /// The member it is about, if it is about one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub member: Option<MemberName>,
    /// The member's epoch at that time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub epoch: Option<Epoch>,
    /// One line for people: what happened, where.
    pub message: String,
}

/// The newest events of a record. Older ones are archived by the controller; only should it fall behind by more
/// than [`CAPACITY`](Self::CAPACITY) are they dropped.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct EventRing {
    next: u64,
    events: VecDeque<Event>,
}

impl EventRing {
    /// The most events a record keeps.
    pub const CAPACITY: usize = 64;
    /// With more than this, the oldest are due to be archived.
    const FULL: usize = 40;
    /// So many stay.
    const KEPT: usize = 20;

    /// Adds an event. A repetition of the newest one (same reason, member, epoch and message) is not added.
    pub fn push(
        &mut self,
        at: Timestamp,
        reason: Reason,
        member: Option<(&MemberName, Epoch)>,
        message: impl Into<String>,
    ) {
        let event = Event {
            seq: self.next + 1,
            at,
            reason,
            member: member.map(|(name, _)| name.clone()),
            epoch: member.map(|(_, epoch)| epoch),
            message: message.into(),
        };
        let repeats = self.events.back().is_some_and(|last| {
            (&last.reason, &last.member, &last.epoch, &last.message)
                == (&event.reason, &event.member, &event.epoch, &event.message)
        });
        if repeats {
            return;
        }
        self.next = event.seq;
        self.events.push_back(event);
        while self.events.len() > Self::CAPACITY {
            self.events.pop_front();
        }
    }

    /// The events that are still here, oldest first.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = &Event> {
        self.events.iter()
    }

    /// Whether the oldest events are due to be archived.
    pub fn is_full(&self) -> bool {
        self.events.len() > Self::FULL
    }

    /// The events that are due to be archived, and the number of the last of them.
    pub fn surplus(&self) -> (Vec<Event>, Option<u64>) {
        let due = if self.is_full() { self.events.len() - Self::KEPT } else { 0 };
        let old: Vec<Event> = self.events.iter().take(due).cloned().collect();
        let last = old.last().map(|event| event.seq);
        (old, last)
    }

    /// Drops the events up to this number.
    pub fn drop_through(&mut self, seq: u64) {
        self.events.retain(|event| event.seq > seq);
    }

    /// The number of the newest event; 0 before the first.
    pub fn newest(&self) -> u64 {
        self.next
    }
}
