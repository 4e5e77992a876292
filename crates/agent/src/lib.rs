//! What runs on a node of Steadfast.
//!
//! - [`guard`]: the parent of one engine, which outlives the agent
//! - [`guards`]: how an agent starts guards and finds them again
//! - [`node_dir`]: the files of a node

pub mod disk;
pub mod guard;
pub mod guards;
pub mod node_dir;
