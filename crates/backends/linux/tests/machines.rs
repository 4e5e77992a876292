//! Addresses that move between machines: bridges, neighbours' caches and strangers as they are.
#![allow(clippy::unwrap_used, reason = "a test ends where something is not as it should be")]

mod network;

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use network::{Machine, Network, eventually, may_make_networks};
use steadfast_backend_linux::addresses::NetlinkAddresses;
use steadfast_core::ids::{MemberId, NodeName};
use steadfast_core::ip::{AddressOutcome, IpProvider as _};
use steadfast_core::metadata::Records;
use steadfast_core::metadata::memory::MemoryDb;
use steadfast_core::runtime::Entropy;
use steadfast_core::{Effect, Environment, Error, ErrorKind};

const RANGE: &str = "10.77.0.100-10.77.0.109";
const PORT: u16 = 7000;

/// Three machines: two nodes, and one that is only their neighbour.
struct Lab {
    network: Network,
    records: Records,
    address: IpAddr,
}

fn node(at: u8) -> NodeName {
    format!("node-{at}").parse().unwrap()
}

fn owner() -> MemberId {
    "m-1".parse().unwrap()
}

impl Lab {
    /// One address is allocated, and nobody's yet.
    fn new() -> Lab {
        let network = Network::of(3);
        let db = Arc::new(MemoryDb::new());
        let records = Records::new(db, Entropy::from_seed([2; 32]), "steadfast/c1".parse().unwrap());
        let server = NetlinkAddresses::recorded(records.clone(), RANGE.parse().unwrap());
        let address = network.machines[0].run(async move { server.allocate(&owner(), None).await.unwrap() });
        Lab { network, records, address }
    }

    fn machine(&self, at: u8) -> &Machine {
        &self.network.machines[usize::from(at)]
    }

    /// What a fresh agent of the node has.
    fn agent(&self, at: u8) -> NetlinkAddresses {
        self.on(at, RANGE, "eth0").unwrap()
    }

    fn on(&self, at: u8, range: &str, interface: &str) -> Result<NetlinkAddresses, Error> {
        let (records, range, interface) =
            (self.records.clone(), range.parse().unwrap(), interface.to_owned());
        self.machine(at).run(async move {
            NetlinkAddresses::on(records, range, &interface, node(at), &Environment::system([at; 32]))
        })
    }

    fn assign(&self, agent: &NetlinkAddresses, at: u8, from: Option<u8>) -> Result<AddressOutcome, Error> {
        let (agent, address, from) = (agent.clone(), self.address, from.map(node));
        self.machine(at).run(async move { agent.assign(address, &node(at), from.as_ref()).await })
    }

    fn settle(&self, agent: &NetlinkAddresses, at: u8) {
        let agent = agent.clone();
        self.machine(at).run(async move { agent.settle().await.unwrap() });
    }

    fn holder(&self, agent: &NetlinkAddresses, at: u8) -> Option<NodeName> {
        let (agent, address) = (agent.clone(), self.address);
        self.machine(at).run(async move { agent.status(address).await.unwrap().unwrap().holder })
    }

    /// Whom the neighbour reaches at the address: what a listener there says.
    fn reached(&self) -> Option<String> {
        let to = SocketAddr::from((self.address, PORT));
        self.machine(2).run(async move {
            let mut stream = TcpStream::connect_timeout(&to, Duration::from_secs(1)).ok()?;
            let mut said = String::new();
            stream.read_to_string(&mut said).ok()?;
            Some(said)
        })
    }

    /// Has a machine tell its name to whoever connects, at whatever address.
    fn listen(&self, at: u8) {
        self.machine(at).run(async move {
            let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, PORT)).unwrap();
            std::thread::spawn(move || {
                for stream in listener.incoming() {
                    stream.unwrap().write_all(node(at).as_str().as_bytes()).unwrap();
                }
            });
        });
    }
}

#[test]
fn an_address_moves_to_another_machine_and_traffic_follows_it() {
    if !may_make_networks("an_address_moves_to_another_machine_and_traffic_follows_it") {
        return;
    }
    let lab = Lab::new();
    let (first, second) = (lab.agent(0), lab.agent(1));
    lab.listen(0);
    lab.listen(1);
    assert_eq!(lab.assign(&first, 0, None).unwrap(), AddressOutcome::Applied);
    assert_eq!(lab.reached().as_deref(), Some("node-0"));
    assert_eq!(lab.machine(2).neighbour(lab.address), Some(lab.machine(0).link()));

    let (giving, address) = (first.clone(), lab.address);
    let given = lab.machine(0).run(async move { giving.unassign(address, &node(0)).await.unwrap() });
    assert_eq!(given, AddressOutcome::Applied);
    assert!(!lab.machine(0).has(lab.address), "whoever gives it back has it no more");
    assert_eq!(lab.assign(&second, 1, Some(0)).unwrap(), AddressOutcome::Applied);
    // The neighbour was told, and has not asked.
    eventually("the neighbour has learnt of it", || {
        (lab.machine(2).neighbour(lab.address) == Some(lab.machine(1).link())).then_some(())
    });
    assert_eq!(lab.reached().as_deref(), Some("node-1"));
    assert_eq!(lab.assign(&first, 0, None).unwrap(), AddressOutcome::Stale(Some(node(1))));
    assert!(!lab.machine(0).has(lab.address), "a refused one has touched nothing");
}

#[test]
fn an_address_that_a_stranger_uses_is_refused_and_left_alone() {
    if !may_make_networks("an_address_that_a_stranger_uses_is_refused_and_left_alone") {
        return;
    }
    let lab = Lab::new();
    let agent = lab.agent(0);
    lab.machine(2).ip(&format!("address add {}/16 dev eth0", lab.address));
    let error = lab.assign(&agent, 0, None).unwrap_err();
    assert_eq!((error.kind(), error.effect()), (ErrorKind::Busy, Effect::None));
    let told = error.to_string();
    assert!(error.message().starts_with("AddressHeldElsewhere: "), "{told}");
    assert!(told.contains(&lab.machine(2).link()) && told.contains("network.addresses"), "{told}");
    assert!(!lab.machine(0).has(lab.address));
    assert_eq!(lab.holder(&agent, 0), None);

    lab.machine(2).ip(&format!("address del {}/16 dev eth0", lab.address));
    assert_eq!(lab.assign(&agent, 0, None).unwrap(), AddressOutcome::Applied);

    // The machine's own is a stranger's, too, and nothing of it is taken off.
    let other = lab.agent(1);
    lab.machine(1).ip(&format!("address add {}/16 dev eth0", lab.address));
    let error = lab.assign(&other, 1, Some(0)).unwrap_err();
    assert!(error.message().starts_with("AddressHeldElsewhere: "), "{error}");
    lab.settle(&other, 1);
    assert!(lab.machine(1).has(lab.address));
}

/// A node is cut off and its member moves. Until it hears of that it answers like the new one; then it does not, and
/// those who were told wrong are told right.
#[test]
fn a_machine_that_was_cut_off_gives_up_what_became_anothers() {
    if !may_make_networks("a_machine_that_was_cut_off_gives_up_what_became_anothers") {
        return;
    }
    let lab = Lab::new();
    let (first, second) = (lab.agent(0), lab.agent(1));
    lab.listen(1);
    assert_eq!(lab.assign(&first, 0, None).unwrap(), AddressOutcome::Applied);
    lab.network.cut(0);
    assert_eq!(lab.assign(&second, 1, Some(0)).unwrap(), AddressOutcome::Applied);
    assert_eq!(lab.reached().as_deref(), Some("node-1"));
    assert!(lab.machine(0).has(lab.address), "nobody could tell it");

    lab.network.heal(0);
    // The worst case: the old one is the last to have said where the address is.
    let wrong = lab.machine(0).link();
    lab.machine(2).ip(&format!("neighbour replace {} lladdr {wrong} dev eth0 nud reachable", lab.address));
    lab.settle(&first, 0);
    assert!(!lab.machine(0).has(lab.address));
    lab.settle(&second, 1);
    eventually("the neighbour has learnt better", || {
        (lab.machine(2).neighbour(lab.address) == Some(lab.machine(1).link())).then_some(())
    });
    assert_eq!(lab.reached().as_deref(), Some("node-1"));
}

/// The agent of the old node is dead, its machine is not. It held the address by our own record, so it is no stranger.
#[test]
fn an_address_is_taken_over_from_a_machine_whose_agent_is_dead() {
    if !may_make_networks("an_address_is_taken_over_from_a_machine_whose_agent_is_dead") {
        return;
    }
    let lab = Lab::new();
    let (first, second) = (lab.agent(0), lab.agent(1));
    assert_eq!(lab.assign(&first, 0, None).unwrap(), AddressOutcome::Applied);
    drop(first);
    assert_eq!(lab.assign(&second, 1, Some(0)).unwrap(), AddressOutcome::Applied);
    assert!(lab.machine(1).has(lab.address));
    // Its next agent finds what the one before has left.
    lab.settle(&lab.agent(0), 0);
    assert!(!lab.machine(0).has(lab.address));
}

#[test]
fn a_machine_that_begins_anew_takes_its_addresses_again() {
    if !may_make_networks("a_machine_that_begins_anew_takes_its_addresses_again") {
        return;
    }
    let lab = Lab::new();
    let agent = lab.agent(0);
    assert_eq!(lab.assign(&agent, 0, None).unwrap(), AddressOutcome::Applied);
    assert_eq!(lab.holder(&agent, 0), Some(node(0)));
    for again in [true, false] {
        lab.machine(0).ip(&format!("address del {}/32 dev eth0", lab.address));
        assert_eq!(lab.holder(&agent, 0), None, "a claim sees that it has to take it");
        assert_eq!(lab.holder(&lab.agent(1), 1), Some(node(0)), "to others it is the node's");
        if again {
            assert_eq!(lab.assign(&agent, 0, None).unwrap(), AddressOutcome::Applied);
        } else {
            lab.settle(&agent, 0);
        }
        assert!(lab.machine(0).has(lab.address));
        assert_eq!(lab.holder(&agent, 0), Some(node(0)));
    }
}

#[test]
fn one_agent_of_a_machine_keeps_its_addresses_by_itself() {
    if !may_make_networks("one_agent_of_a_machine_keeps_its_addresses_by_itself") {
        return;
    }
    let lab = Lab::new();
    let (first, second) = (lab.agent(0), lab.agent(1));
    for (agent, at) in [(&first, 0), (&second, 1)] {
        let agent = agent.clone();
        lab.machine(at).run(async move { agent.keep().unwrap() });
    }
    let other = lab.agent(0);
    let error = lab.machine(0).run(async move { other.keep().unwrap_err() });
    assert_eq!((error.kind(), error.effect()), (ErrorKind::Busy, Effect::None), "{error}");

    assert_eq!(lab.assign(&first, 0, None).unwrap(), AddressOutcome::Applied);
    lab.network.cut(0);
    assert_eq!(lab.assign(&second, 1, Some(0)).unwrap(), AddressOutcome::Applied);
    lab.network.heal(0);
    eventually("the old one has taken it off", || (!lab.machine(0).has(lab.address)).then_some(()));
    lab.machine(1).ip(&format!("address del {}/32 dev eth0", lab.address));
    eventually("the new one has put it back", || lab.machine(1).has(lab.address).then_some(()));
}

#[test]
fn an_interface_that_cannot_have_the_addresses_is_refused_with_the_field() {
    if !may_make_networks("an_interface_that_cannot_have_the_addresses_is_refused_with_the_field") {
        return;
    }
    let lab = Lab::new();
    for (range, interface, kind, named) in [
        (RANGE, "eth7", ErrorKind::Invalid, ["network.interface", "it has eth0, lo"]),
        (RANGE, "lo", ErrorKind::Invalid, ["network.interface", "no Ethernet"]),
        (RANGE, "", ErrorKind::Invalid, ["network.interface", "give the name"]),
        (RANGE, "enx0123456789ab", ErrorKind::Invalid, ["network.interface", "at most 12"]),
        ("10.99.0.1-10.99.0.9", "eth0", ErrorKind::Invalid, ["network.addresses", "10.99.0.1"]),
        ("10.77.255.0-10.78.0.9", "eth0", ErrorKind::Invalid, ["network.addresses", "10.78.0.9"]),
    ] {
        let error = lab.on(0, range, interface).unwrap_err();
        assert_eq!((error.kind(), error.effect()), (kind, Effect::None), "{error}");
        assert!(named.iter().all(|text| error.to_string().contains(text)), "{named:?}: {error}");
    }
    let agent = lab.agent(0);
    lab.machine(0).ip("link set eth0 down");
    let error = lab.assign(&agent, 0, None).unwrap_err();
    assert_eq!((error.kind(), error.effect()), (ErrorKind::Unavailable, Effect::None), "{error}");
    assert!(error.to_string().contains("ip link set eth0 up"), "{error}");
    lab.machine(0).ip("link del eth0");
    let error = lab.assign(&agent, 0, None).unwrap_err();
    assert!(error.to_string().contains("network.interface"), "{error}");
    assert_eq!(lab.holder(&lab.agent(1), 1), None, "nothing was recorded");
}
