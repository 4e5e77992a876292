//! The orchestrators of Steadfast, one feature each. This crate has no code of its own: who names no feature pays for
//! none of them.

#[cfg(feature = "process")]
pub use steadfast_orchestrator_process as process;
#[cfg(feature = "swarm")]
pub use steadfast_orchestrator_swarm as swarm;
