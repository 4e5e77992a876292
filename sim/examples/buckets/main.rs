//! A control plane of somebody else's, searched for what breaks its rule.
//!
//! ```console
//! $ cargo run --release -p steadfast-sim --example buckets               # holds
//! $ cargo run --release -p steadfast-sim --example buckets -- careless   # asks twice, and pays twice
//! ```

#![expect(clippy::print_stdout, reason = "this is a program that tells what it found")]

mod provisioner;

use steadfast_sim::suite::Suite;

fn main() {
    let careless = std::env::args().any(|argument| argument == "careless");
    let summary = Suite::new("buckets", provisioner::cast(!careless)).run();
    println!("every rule holds: {summary:?}");
}
