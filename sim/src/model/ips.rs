//! Static addresses: secondary addresses that move between machines.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

use steadfast_core::error::{Error, ErrorKind, Result};
use steadfast_core::ids::{MemberId, NodeName};
use steadfast_core::ip::{AddressOutcome, AddressStatus};

use super::{Cloud, Due, Fact};
use crate::time::Time;

/// The addresses that are allocated.
#[derive(Debug, Default)]
pub struct IpsModel {
    addresses: BTreeMap<IpAddr, AddressStatus>,
    owners: BTreeMap<MemberId, IpAddr>,
    /// Where packets go, which is told a while after an assignment.
    routes: BTreeMap<IpAddr, NodeName>,
    given_out: u32,
}

impl IpsModel {
    /// What is known of an address.
    pub fn status(&self, address: IpAddr) -> Option<AddressStatus> {
        self.addresses.get(&address).cloned()
    }

    /// The machine that packets for an address go to.
    pub fn route(&self, address: IpAddr) -> Option<&NodeName> {
        self.routes.get(&address)
    }

    /// Routes an address to whoever holds it now.
    pub(super) fn settle(&mut self, address: IpAddr) {
        match self.addresses.get(&address).and_then(|status| status.holder.clone()) {
            Some(holder) => self.routes.insert(address, holder),
            None => self.routes.remove(&address),
        };
    }

    /// Every allocated address.
    pub fn list(&self) -> Vec<AddressStatus> {
        self.addresses.values().cloned().collect()
    }
}

fn refuse(kind: ErrorKind, operation: &'static str, address: IpAddr, message: &str) -> Error {
    Error::new(kind, "simulated addresses", operation, address, message).without_effect()
}

impl Cloud {
    /// The owner's address, allocated if it has none.
    pub fn allocate_address(&mut self, owner: &MemberId) -> IpAddr {
        if let Some(address) = self.ips.owners.get(owner) {
            return *address;
        }
        self.ips.given_out += 1;
        let address = IpAddr::V4(Ipv4Addr::from(0x0a01_0000 + self.ips.given_out));
        self.ips.owners.insert(owner.clone(), address);
        self.ips.addresses.insert(address, AddressStatus { address, owner: owner.clone(), holder: None });
        address
    }

    /// Assigns an address to a node, taking it from `expected`.
    ///
    /// # Errors
    /// `NotFound` for an address that is not allocated, `QuotaExceeded` for a node that has enough.
    pub fn assign_address(
        &mut self,
        now: Time,
        address: IpAddr,
        node: &NodeName,
        expected: Option<&NodeName>,
    ) -> Result<AddressOutcome> {
        let Some(status) = self.ips.addresses.get(&address) else {
            return Err(refuse(ErrorKind::NotFound, "assign", address, "it is not allocated"));
        };
        match &status.holder {
            Some(holder) if holder == node => return Ok(AddressOutcome::Applied),
            Some(holder) if Some(holder) != expected => {
                return Ok(AddressOutcome::Stale(Some(holder.clone())));
            }
            Some(_) | None => {}
        }
        let held = self.ips.addresses.values().filter(|other| other.holder.as_ref() == Some(node)).count();
        if self.profile.addresses_per_node.is_some_and(|limit| held >= limit as usize) {
            return Err(refuse(
                ErrorKind::QuotaExceeded,
                "assign",
                address,
                "the node takes no more addresses",
            ));
        }
        self.move_address(now, address, Some(node));
        Ok(AddressOutcome::Applied)
    }

    /// Takes an address from a node.
    pub fn unassign_address(&mut self, now: Time, address: IpAddr, expected: &NodeName) -> AddressOutcome {
        match self.ips.addresses.get(&address).and_then(|status| status.holder.clone()) {
            None => AddressOutcome::Applied,
            Some(holder) if &holder != expected => AddressOutcome::Stale(Some(holder)),
            Some(_) => {
                self.move_address(now, address, None);
                AddressOutcome::Applied
            }
        }
    }

    /// Gives an address back.
    ///
    /// # Errors
    /// `Stale` for another owner's.
    pub fn release_address(&mut self, address: IpAddr, owner: &MemberId) -> Result<()> {
        match self.ips.addresses.get(&address) {
            Some(status) if &status.owner != owner => {
                Err(refuse(ErrorKind::Stale, "release", address, "it is allocated to another member"))
            }
            Some(_) => {
                self.ips.addresses.remove(&address);
                self.ips.routes.remove(&address);
                self.ips.owners.remove(owner);
                Ok(())
            }
            None => Ok(()),
        }
    }

    fn move_address(&mut self, now: Time, address: IpAddr, to: Option<&NodeName>) {
        if let Some(status) = self.ips.addresses.get_mut(&address) {
            status.holder = to.cloned();
            self.truth.note(now, Fact::AddressMoved { address, to: to.cloned() });
        }
        let takes = self.draw(self.profile.address_ms, &address.to_string(), now.micros());
        if takes == 0 {
            self.ips.settle(address);
        } else {
            self.agenda.push(now.plus_millis(takes), Due::Route(address));
        }
    }
}
