//! The search: which runs to carry out, and what is to be learnt from them.
//!
//! - [`case`]: a run by name, small enough to be kept and pasted
//! - [`library`]: a reference run of every workflow that ships
//! - [`sites`]: the call sites of a run, folded to those that differ in meaning
//! - [`enumerate`]: every site with every class of fault, one after another
//! - `forked`: what many runs have in common, carried out once
//! - [`pairs`]: a second fault in the wake of the first
//! - [`shrink`]: the smallest case that still breaks the same rule
//! - [`random`]: swarms of faults, with feedback
//! - [`state`]: what a run came by
//! - [`oracle`]: what is left, against what is left without faults
//! - [`doctor`]: whether runs are the same when they are repeated
//! - [`pool`]: many runs at once, one a thread

pub mod case;
pub mod doctor;
pub mod enumerate;
mod forked;
pub mod library;
pub mod oracle;
pub mod pairs;
pub mod pool;
pub mod random;
pub mod shrink;
pub mod sites;
pub mod state;

pub use case::{Case, CaseError, Change};
pub use pool::{Verdict, carry_out};
