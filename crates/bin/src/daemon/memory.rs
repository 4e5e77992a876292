//! How a server has its memory: in one arena.
//!
//! glibc gives every thread that allocates an arena of its own. What a server reads while it starts is spread over them
//! then, with holes that no other thread fills: docs/benchmarks.md has the figures.

use std::io;
use std::os::unix::process::CommandExt as _;
use std::process::Command;

/// What glibc reads when a program starts, and only then.
const ARENAS: &str = "MALLOC_ARENA_MAX";
/// Set for the second start: where a program has more rights than who starts it, glibc takes the other one away.
const AGAIN: &str = "STEADFAST_STARTED_AGAIN";

/// Has this program started again as the same process, with one arena, unless the environment says how many there are.
/// Comes back if that is so, if this is the second start, or with why it could not be: the server runs all the same, and
/// is larger.
///
/// Nothing may be open or running yet that has to outlive it.
pub(crate) fn settle_for_one_arena() -> io::Result<()> {
    if [ARENAS, AGAIN].iter().any(|name| std::env::var_os(name).is_some()) {
        return Ok(());
    }
    let mut arguments = std::env::args_os();
    let name = arguments.next();
    let mut again = Command::new(std::env::current_exe()?);
    if let Some(name) = name {
        again.arg0(name);
    }
    Err(again.args(arguments).env(ARENAS, "1").env(AGAIN, "1").exec())
}
