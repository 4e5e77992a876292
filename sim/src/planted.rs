//! Teeth: bugs that are planted on purpose have to be found.
//!
//! [`hunt`] looks for one: the [reference](references) scenarios without a fault in a call, then every call site of
//! some of them times every class of fault, then faults at random, until a rule is broken that holds without the bug.
//! `docs/known-bugs.md` is written by [`markdown`] from what was measured.

mod catalogue;
mod hunt;
mod references;

pub use catalogue::{Known, known};
pub use hunt::{Budget, Found, How, Hunt, hunt};
pub use references::{BUSY, references};
pub use steadfast_core::planted::{IN_THIS_BUILD, Planted};

mod table;

pub use table::{Tally, markdown, time};

/// Plants bugs in what this thread runs, until the result is dropped.
///
/// # Errors
/// If bugs are asked for that this build does not have.
#[cfg(feature = "planted")]
pub(crate) fn plant(bugs: &[Planted]) -> Result<steadfast_core::planted::Planting, String> {
    Ok(steadfast_core::planted::plant(bugs))
}

/// Plants nothing: this build has no bugs.
///
/// # Errors
/// If bugs are asked for.
#[cfg(not(feature = "planted"))]
pub(crate) fn plant(bugs: &[Planted]) -> Result<(), String> {
    match bugs.first() {
        None => Ok(()),
        Some(bug) => Err(format!(
            "{bug} cannot be planted in this build; make one that has it: cargo build --release --package \
             steadfast-sim --features planted"
        )),
    }
}
