//! Static addresses on a network interface of the node that holds them.
//!
//! Who owns an address and who holds it is in the metadata store ([`AddressBook`]). On the holder's node the address
//! is put on the interface before that is recorded, and taken off before the record says that it is free; on other
//! nodes, and on servers, only the record changes. Each node puts its interface in line with the records by itself
//! ([`NetlinkAddresses::keep`]): it takes off what became another's while it could not be told, brings back what
//! somebody took off, and announces what it holds again, so that neighbours who were told otherwise learn better.
//!
//! Before an address is used the network is asked whether somebody answers for it. A stranger is an error
//! (`AddressHeldElsewhere`) and the address stays untouched. Who answers with the link of its recorded last holder is
//! one of us that was proven unable to write by then, and is taken over from: until its agent runs again its machine
//! may go on to answer, and a neighbour may reach it in vain.
//!
//! What this never does: remove an address that it has not put there itself, which it knows by its label.

mod arp;
mod interface;
mod range;

use std::collections::BTreeSet;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use steadfast_core::ids::{MemberId, NodeName, ZoneName};
use steadfast_core::ip::book::AddressBook;
use steadfast_core::ip::{AddressOutcome, AddressStatus, IpCapabilities, IpProvider};
use steadfast_core::metadata::Records;
use steadfast_core::{Environment, Error, ErrorKind, Result};

use crate::rounds;
use crate::turns::Turns;
use arp::{ArpSocket, Hardware};
use interface::{Interface, View, failure, io_failure};
pub use range::{InvalidRange, SubnetRange};

/// How often the network is asked whether somebody has an address, and how long each answer is waited for. RFC 5227
/// waits for seconds, on networks of its time; members are down for as long as this takes.
const PROBES: u32 = 3;
const PROBE_PAUSE: Duration = Duration::from_millis(100);

/// The addresses of one range of a subnet.
#[derive(Debug, Clone)]
pub struct NetlinkAddresses {
    book: AddressBook<SubnetRange>,
    here: Option<Arc<Here>>,
}

/// The node on which this runs.
#[derive(Debug)]
struct Here {
    node: NodeName,
    interface: Interface,
    environment: Environment,
    /// One change of an address at a time. No address waits for another one.
    turns: Turns<Ipv4Addr>,
}

impl NetlinkAddresses {
    /// The addresses of `range` as a server sees them: it records, and touches no interface.
    pub fn recorded(records: Records, range: SubnetRange) -> Self {
        NetlinkAddresses { book: AddressBook::new(records, range), here: None }
    }

    /// The addresses of `range` as the agent of `node` has them: those that the node holds are on `interface`.
    ///
    /// # Errors
    /// `Invalid` if there is no such interface or the range is not of its network, `Denied` without the right to look.
    pub fn on(
        records: Records,
        range: SubnetRange,
        interface: &str,
        node: NodeName,
        environment: &Environment,
    ) -> Result<Self> {
        let interface = Interface::open(interface, environment)?;
        let view = interface.look()?;
        for address in [range.first(), range.last()] {
            check_network(&interface, &view, address)?;
        }
        let here = Here { node, interface, environment: environment.clone(), turns: Turns::default() };
        Ok(NetlinkAddresses { book: AddressBook::new(records, range), here: Some(Arc::new(here)) })
    }

    /// As [`AddressBook::repair`].
    ///
    /// # Errors
    /// What the store says.
    pub async fn repair(&self) -> Result<usize> {
        self.book.repair().await
    }

    /// Keeps this node's interface in line with the records until the process stops. Where the store cannot be
    /// reached, everything stays as it is.
    ///
    /// # Errors
    /// `Busy` if another agent does so with this interface already: what is one node's would be taken off by the other.
    pub fn keep(&self) -> Result<()> {
        let Some(here) = self.here.clone() else { return Ok(()) };
        let alone = here.interface.keep_alone()?;
        let this = Arc::new((self.clone(), alone));
        rounds::keep(&here.environment, "addresses", "addresses are left as they are", move || {
            let this = Arc::clone(&this);
            async move { this.0.settle().await }
        });
        Ok(())
    }

    /// Puts this node's interface in line with the records once, and announces what it holds.
    ///
    /// # Errors
    /// What the store or the interface says, after everything else was tried.
    pub async fn settle(&self) -> Result<()> {
        let Some(here) = &self.here else { return Ok(()) };
        let present = here.interface.look()?.ours;
        let recorded = self.book.list().await?.into_iter();
        let held = recorded.filter(|status| status.holder.as_ref() == Some(&here.node));
        let held: BTreeSet<Ipv4Addr> = held.filter_map(|status| v4(status.address)).collect();
        let mut failed = None;
        for address in present.union(&held) {
            if let Err(error) = self.settle_one(here, *address).await {
                failed = Some(error);
            }
        }
        failed.map_or(Ok(()), Err)
    }

    async fn settle_one(&self, here: &Here, address: Ipv4Addr) -> Result<()> {
        let turn = here.turns.of(address);
        let _turn = turn.lock().await;
        // Read in turn: what was listed may have changed.
        let status = self.book.status(address.into()).await?;
        if status.is_none_or(|status| status.holder.as_ref() != Some(&here.node)) {
            if here.remove(address).await? {
                tracing::info!(%address, interface = here.interface.name(), "taken off: it is not this node's any more");
            }
            return Ok(());
        }
        self.bring(here, address).await?;
        here.announce(address).await
    }

    /// Has the address on the interface; gives the link. In the address's turn.
    async fn bring(&self, here: &Here, address: Ipv4Addr) -> Result<Hardware> {
        let Here { interface, .. } = here;
        let view = interface.look()?;
        if view.ours.contains(&address) {
            return Ok(view.hardware);
        }
        if view.others.iter().any(|(own, _)| *own == address) {
            return Err(held_elsewhere(interface, address, "it is an address of this machine's own"));
        }
        check_network(interface, &view, address)?;
        if let Some(link) = here.contender(&view, address).await? {
            let last = self.book.last_link(address.into()).await?;
            if last != Some(link.to_string()) {
                let who = format!(
                    "{link} answers for it on the network of {}, and is no node of this cluster that held it: free it \
                     there, or take it out of network.addresses",
                    interface.name()
                );
                return Err(held_elsewhere(interface, address, &who));
            }
            tracing::warn!(%address, %link, "taken over although the node that held it last still answers for it");
        }
        interface.add(&view, address).await?;
        Ok(view.hardware)
    }

    /// Assigns to the node on which this runs.
    async fn assign_here(
        &self,
        here: &Here,
        address: Ipv4Addr,
        expected: Option<&NodeName>,
    ) -> Result<AddressOutcome> {
        let turn = here.turns.of(address);
        let _turn = turn.lock().await;
        // Looked at before anything is touched; the record is what decides, below.
        let holder = self.book.status(address.into()).await?.and_then(|status| status.holder);
        if let Some(holder) = holder
            && holder != here.node
            && Some(&holder) != expected
        {
            return Ok(AddressOutcome::Stale(Some(holder)));
        }
        let link = self.bring(here, address).await?;
        let link = link.to_string();
        let outcome = self.book.assign_at(address.into(), &here.node, expected, Some(&link)).await;
        match &outcome {
            Ok(AddressOutcome::Applied) => {
                if let Err(error) = here.announce(address).await {
                    tracing::warn!(error = %error.chain(), "not announced; it is tried again");
                }
            }
            Ok(AddressOutcome::Stale(_)) => drop(here.remove(address).await?),
            Err(error) if error.effect() == steadfast_core::Effect::None => {
                here.remove(address).await?;
            }
            // Whether it is ours is found out by the next round.
            Err(_) => {}
        }
        outcome
    }
}

impl Here {
    /// Takes the address off the interface, if it was put there for a member; says whether it was.
    async fn remove(&self, address: Ipv4Addr) -> Result<bool> {
        let view = self.interface.look()?;
        if !view.ours.contains(&address) {
            return Ok(false);
        }
        self.interface.remove(&view, address).await.map(|()| true)
    }

    /// Who on the network uses the address, if anybody answers.
    async fn contender(&self, view: &View, address: Ipv4Addr) -> Result<Option<Hardware>> {
        let failed = |error| io_failure(self.interface.name(), "probe", address, error).without_effect();
        let socket = ArpSocket::open(&view.link, view.hardware).map_err(failed)?;
        for _ in 0..PROBES {
            socket.probe(address).await.map_err(failed)?;
            if let Some(found) = self.environment.timeout(PROBE_PAUSE, socket.contender(address)).await {
                return found.map(Some).map_err(failed);
            }
        }
        Ok(None)
    }

    /// Tells the neighbours that the address is here.
    async fn announce(&self, address: Ipv4Addr) -> Result<()> {
        let view = self.interface.look()?;
        let failed = |error| io_failure(self.interface.name(), "announce", address, error).without_effect();
        let socket = ArpSocket::open(&view.link, view.hardware).map_err(failed)?;
        socket.announce(address).await.map_err(failed)
    }
}

#[async_trait]
impl IpProvider for NetlinkAddresses {
    fn capabilities(&self) -> IpCapabilities {
        self.book.capabilities()
    }

    async fn allocate(&self, owner: &MemberId, zone: Option<&ZoneName>) -> Result<IpAddr> {
        self.book.allocate(owner, zone).await
    }

    async fn status(&self, address: IpAddr) -> Result<Option<AddressStatus>> {
        let mut found = self.book.status(address).await?;
        let (Some(here), Some(v4)) = (&self.here, v4(address)) else { return Ok(found) };
        loop {
            let Some(status) = found.clone().filter(|status| status.holder.as_ref() == Some(&here.node))
            else {
                return Ok(found);
            };
            if here.interface.look()?.ours.contains(&v4) {
                return Ok(found);
            }
            // The machine has begun anew: it holds the address by record, and nobody answers for it. If the record
            // has changed since, it tells why.
            let again = self.book.status(address).await?;
            if again == found {
                return Ok(Some(AddressStatus { holder: None, ..status }));
            }
            found = again;
        }
    }

    async fn assign(
        &self,
        address: IpAddr,
        node: &NodeName,
        expected: Option<&NodeName>,
    ) -> Result<AddressOutcome> {
        match (&self.here, v4(address)) {
            (Some(here), Some(v4)) if here.node == *node => {
                // Nothing is put on an interface for an address that is nobody's.
                if self.book.status(address).await?.is_none() {
                    return self.book.assign(address, node, expected).await;
                }
                self.assign_here(here, v4, expected).await
            }
            (here, v4) => {
                let outcome = self.book.assign(address, node, expected).await?;
                if let (Some(here), Some(v4)) = (here, v4) {
                    self.settle_one(here, v4).await?;
                }
                Ok(outcome)
            }
        }
    }

    async fn unassign(&self, address: IpAddr, expected: &NodeName) -> Result<AddressOutcome> {
        let (Some(here), Some(v4)) = (&self.here, v4(address)) else {
            return self.book.unassign(address, expected).await;
        };
        let turn = here.turns.of(v4);
        let _turn = turn.lock().await;
        // Whoever gives it back does not answer for it any more, whatever the record says.
        if here.node == *expected {
            here.remove(v4).await?;
        }
        self.book.unassign(address, expected).await
    }

    async fn release(&self, address: IpAddr, owner: &MemberId) -> Result<()> {
        self.book.release(address, owner).await
    }

    async fn list(&self) -> Result<Vec<AddressStatus>> {
        self.book.list().await
    }
}

impl fmt::Display for NetlinkAddresses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.here {
            Some(here) => write!(f, "{} on {}", self.book, here.interface.name()),
            None => self.book.fmt(f),
        }
    }
}

fn v4(address: IpAddr) -> Option<Ipv4Addr> {
    match address {
        IpAddr::V4(address) => Some(address),
        IpAddr::V6(_) => None,
    }
}

fn check_network(interface: &Interface, view: &View, address: Ipv4Addr) -> Result<()> {
    if view.is_on_link(address) {
        return Ok(());
    }
    let message =
        "network.addresses: no address of the interface is in its network, so nobody would look for it there";
    Err(failure(interface.name(), ErrorKind::Invalid, "use", address, message).without_effect())
}

/// The failure that users see as `AddressHeldElsewhere`. Asking again at once changes nothing.
fn held_elsewhere(interface: &Interface, address: Ipv4Addr, message: &str) -> Error {
    let message = format!("AddressHeldElsewhere: {message}");
    failure(interface.name(), ErrorKind::Busy, "assign", address, message)
        .without_effect()
        .with_retry(steadfast_core::error::Retry::Never)
}
