//! The HTTP stack that ships, server and client, over simulated sockets: one host a program, connections that are cut,
//! held and lost, hosts that crash and come back.
//!
//! Below the client's `Exchange` and the server's `Listener` the sockets are turmoil's; everything above is what ships.

mod cluster;
mod control;
mod disk;
mod net;
mod store;
mod storm;
mod watch;
