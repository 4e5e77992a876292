//! Backends on Amazon Web Services: each behind its own feature, so that whoever wants one compiles one.
//!
//! | feature | module | is |
//! |---|---|---|
//! | `dynamodb` | `dynamodb` | the metadata store in a DynamoDB table |
//!
//! The SDK takes its time, its waits and its HTTP client from here (`Sdk`): it repeats nothing, ends nothing early,
//! and reads no clock but that of the [`Environment`](steadfast_core::Environment). What it does by itself: it looks for
//! credentials where every program on AWS does (variables, `~/.aws`, the container's or the instance's role), marks each
//! request with a random id that decides nothing, and its HTTP client spawns a task for each connection.

#[cfg(feature = "dynamodb")]
pub mod dynamodb;
#[cfg(feature = "dynamodb")]
mod sdk;

#[cfg(feature = "dynamodb")]
pub use sdk::Sdk;
