//! Reports: what happened in a run, for people.
//!
//! - [`events`]: facts and calls in lanes, and what led up to a bad one
//! - [`text`]: for a terminal
//! - [`html`]: one page that needs nothing else
//! - [`junit`]: for machines that show test results

pub mod events;
pub mod html;
pub mod junit;
pub mod text;

pub use events::{Event, Mark, Story};
