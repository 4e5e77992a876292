//! Addresses on an interface against the contract: each rule with a network of its own.
#![allow(clippy::unwrap_used, reason = "a test ends where something is not as it should be")]

mod network;

use std::process::Command;
use std::sync::Arc;

use network::may_make_networks;
use nix::sched::{CloneFlags, unshare};
use steadfast_backend_linux::addresses::NetlinkAddresses;
use steadfast_core::Environment;
use steadfast_core::conformance::Harness;
use steadfast_core::conformance::ip::IpHarness;
use steadfast_core::metadata::Records;
use steadfast_core::metadata::memory::MemoryDb;
use steadfast_core::runtime::Entropy;

/// The agent of the first node.
struct OnANode;

fn opened(records: &Records) -> NetlinkAddresses {
    let range = "10.77.0.10-10.77.2.5".parse().unwrap();
    let environment = Environment::system([5; 32]);
    NetlinkAddresses::on(records.clone(), range, "eth0", "node-a".parse().unwrap(), &environment).unwrap()
}

impl Harness for OnANode {
    type Backend = NetlinkAddresses;
    type Guard = Records;

    async fn open(&self) -> (Records, NetlinkAddresses) {
        if !may_make_networks("conformance of network addresses") {
            // Each test is a process: this one has nothing more to do.
            std::process::exit(0);
        }
        // This thread's own network, gone with the thread.
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        for arguments in [
            "link add eth0 type veth peer name eth1",
            "address add 10.77.0.1/16 dev eth0",
            "link set eth0 up",
            "link set eth1 up",
        ] {
            let made = Command::new("ip").args(arguments.split_whitespace()).status().unwrap();
            assert!(made.success(), "ip {arguments}");
        }
        let db = Arc::new(MemoryDb::new());
        let records = Records::new(db, Entropy::from_seed([2; 32]), "steadfast/c1".parse().unwrap());
        let addresses = opened(&records);
        (records, addresses)
    }

    async fn reopen(&self, records: &Records) -> NetlinkAddresses {
        opened(records)
    }
}

impl IpHarness for OnANode {
    fn range(&self) -> Option<usize> {
        Some(508)
    }
}

steadfast_core::ip_conformance!(OnANode);
