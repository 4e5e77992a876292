//! Engines in containers that an orchestrator starts, as Docker Swarm does.
//!
//! The agent claims a member and prepares its data as it does for any other engine. Then it does not start the guard, but
//! offers the member: the engine of Docker asks for its volume before it starts the container ([`VolumePlugin`]), is kept
//! waiting until there is an offer, and one container takes it. The container's first process is the guard, which the
//! agent finds again as any other, by its lock and its socket.
//!
//! What the container sees lies in one folder ([`MemberMounts`]), at the same path within and without:
//!
//! ```text
//! MEMBERS/MEMBER/steadfast        this program
//!                machine.lock     the node's
//!                guard/ run/      what the guard and the engine are started with
//!                log/             the member's folder of logs
//!                volumes/NAME/    the volume; its lock is NAME.lock, where it is not in the volume
//! ```
//!
//! What must never happen: two containers that were given one member at a time; an engine over an empty folder where a
//! volume should be. The first is the gate's matter, and after it that of the kernel's locks, which the guards take; so
//! nothing is mounted or unmounted at the word of an orchestrator, but only before an offer and after the engine's end.

mod gate;
mod guards;
mod mounts;
mod plugin;

pub use gate::Gate;
pub use guards::ContainerGuards;
pub use mounts::MemberMounts;
pub use plugin::VolumePlugin;
