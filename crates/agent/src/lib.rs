//! What runs on a node of Steadfast.
//!
//! - [`agent`]: the one process per node that claims members and looks after them
//! - [`guard`]: the parent of one engine, which outlives the agent
//! - [`guards`]: how an agent starts guards and finds them again
//! - [`containers`]: engines in the containers of an orchestrator, which ask for their member's volume
//! - [`prepare`], [`host`]: how data is made ready for an engine, and what else an agent does on its node
//! - [`node_dir`]: the files of a node
//! - [`seams`]: what an agent is given from outside

pub mod agent;
pub mod config;
pub mod containers;
pub mod disk;
pub mod guard;
pub mod guards;
pub mod host;
mod member;
pub mod node_dir;
pub mod prepare;
pub mod seams;
mod sync;
