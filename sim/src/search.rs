//! The search: which runs to carry out, and what is to be learnt from them.
//!
//! - [`case`]: a run by name, small enough to be kept and pasted
//! - [`library`]: a reference run of every workflow that ships
//! - [`sites`]: the call sites of a run, folded to those that differ in meaning
//! - [`enumerate`]: every site with every class of fault, one after another
//! - [`shrink`]: the smallest case that still breaks the same rule
//! - [`pool`]: many runs at once, one a thread

pub mod case;
pub mod enumerate;
pub mod library;
pub mod pool;
pub mod shrink;
pub mod sites;

pub use case::{Case, CaseError, Change};
pub use pool::{Verdict, carry_out};
