//! The catalog of Steadfast: blueprints as data, and the engines made of them.
//!
//! - [`Catalog`]: the blueprints on offer; implements [`Blueprints`](steadfast_core::control::Blueprints)
//! - [`Definition`]: one blueprint with all its files; [`Definition::engine`] makes a member's
//!   [`Engine`](steadfast_core::engine::Engine)
//! - [`lint()`]: what is wrong with a blueprint, with the line
//! - [`format`](mod@format): the keys of `blueprint.toml`; `docs/blueprints.md` is their reference
//!
//! A new engine is a new folder in `blueprints/`; Rust is needed only for a protocol that no probe speaks yet.

mod catalog;
mod connect;
mod context;
mod definition;
mod engine;
mod failure;
pub mod format;
mod lint;
mod options;
mod probe;
mod template;

pub use catalog::Catalog;
pub use connect::ConnectContext;
pub use definition::{Definition, MAIN_FILE};
pub use engine::EngineHost;
pub use failure::{needs_reconcile, reason};
pub use lint::{Finding, lint};
