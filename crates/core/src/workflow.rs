//! Workflows: what takes more than one step, each step idempotent and observe-first.
//!
//! A workflow is a pure decision over what was read ("what is the next step?") and one function that takes the
//! step. Nothing is remembered between two passes but what is in the store and at the providers, so a crash
//! anywhere is finished by whoever comes next.

pub mod claim;
