//! The memory backend: the reference, and the state of the simulator.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use async_trait::async_trait;

use super::{AddressOutcome, AddressStatus, IpCapabilities, IpProvider};
use crate::error::{Error, ErrorKind, Result};
use crate::ids::{MemberId, NodeName, ZoneName};
use crate::memory::Shared;

/// A range of addresses in memory. Clones are handles on the same range.
///
/// Every address of the range is reached: first those never given out, in order, then those given back, the one
/// that has rested longest first, so that an address is not used again while old names may still point to it.
#[derive(Debug, Clone)]
pub struct MemoryIps {
    range: Shared<Range>,
    capabilities: IpCapabilities,
}

#[derive(Debug)]
struct Range {
    first: IpAddr,
    count: u32,
    given_out: u32,
    given_back: VecDeque<IpAddr>,
    addresses: BTreeMap<IpAddr, AddressStatus>,
    owners: BTreeMap<MemberId, IpAddr>,
}

impl MemoryIps {
    /// The range of `count` addresses from `first` on.
    ///
    /// # Errors
    /// `Invalid` if the range runs past the last address there is.
    pub fn new(first: IpAddr, count: u32) -> Result<Self> {
        Self::with_capabilities(first, count, IpCapabilities { zonal: false, per_node_limit: None })
    }

    /// The range of `count` addresses from `first` on, with these capabilities. Zones are not looked at.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn with_capabilities(first: IpAddr, count: u32, capabilities: IpCapabilities) -> Result<Self> {
        if count > 0 && offset(first, count - 1).is_none() {
            let message = format!("{count} addresses from here on run past the last one");
            return Err(
                Error::new(ErrorKind::Invalid, "memory addresses", "open", first, message).without_effect()
            );
        }
        let range = Range {
            first,
            count,
            given_out: 0,
            given_back: VecDeque::new(),
            addresses: BTreeMap::new(),
            owners: BTreeMap::new(),
        };
        Ok(MemoryIps { range: Shared::new(range), capabilities })
    }

    fn refuse(
        &self,
        kind: ErrorKind,
        operation: &'static str,
        subject: impl fmt::Display,
        message: impl fmt::Display,
    ) -> Error {
        Error::new(kind, self, operation, subject, message).without_effect()
    }
}

impl fmt::Display for MemoryIps {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("memory addresses")
    }
}

fn offset(first: IpAddr, by: u32) -> Option<IpAddr> {
    match first {
        IpAddr::V4(first) => u32::from(first).checked_add(by).map(|n| Ipv4Addr::from(n).into()),
        IpAddr::V6(first) => u128::from(first).checked_add(by.into()).map(|n| Ipv6Addr::from(n).into()),
    }
}

impl Range {
    fn next_free(&mut self) -> Option<IpAddr> {
        if self.given_out < self.count {
            let address = offset(self.first, self.given_out);
            self.given_out += 1;
            address
        } else {
            self.given_back.pop_front()
        }
    }

    fn held_by(&self, node: &NodeName) -> usize {
        self.addresses.values().filter(|status| status.holder.as_ref() == Some(node)).count()
    }
}

#[async_trait]
impl IpProvider for MemoryIps {
    fn capabilities(&self) -> IpCapabilities {
        self.capabilities
    }

    async fn allocate(&self, owner: &MemberId, _zone: Option<&ZoneName>) -> Result<IpAddr> {
        self.range.with(|range| {
            if let Some(address) = range.owners.get(owner) {
                return Ok(*address);
            }
            let Some(address) = range.next_free() else {
                let message = format!("all {} addresses are allocated", range.count);
                return Err(self.refuse(ErrorKind::QuotaExceeded, "allocate", owner, message));
            };
            range.owners.insert(owner.clone(), address);
            range.addresses.insert(address, AddressStatus { address, owner: owner.clone(), holder: None });
            Ok(address)
        })
    }

    async fn status(&self, address: IpAddr) -> Result<Option<AddressStatus>> {
        Ok(self.range.with(|range| range.addresses.get(&address).cloned()))
    }

    async fn assign(
        &self,
        address: IpAddr,
        node: &NodeName,
        expected: Option<&NodeName>,
    ) -> Result<AddressOutcome> {
        self.range.with(|range| {
            let Some(status) = range.addresses.get(&address) else {
                return Err(self.refuse(ErrorKind::NotFound, "assign", address, "it is not allocated"));
            };
            match &status.holder {
                Some(holder) if holder == node => return Ok(AddressOutcome::Applied),
                Some(holder) if Some(holder) != expected => {
                    return Ok(AddressOutcome::Stale(Some(holder.clone())));
                }
                Some(_) | None => {}
            }
            if let Some(limit) = self.capabilities.per_node_limit
                && range.held_by(node) >= limit as usize
            {
                let message = format!("{node} has {limit} addresses, and takes no more");
                return Err(self.refuse(ErrorKind::QuotaExceeded, "assign", address, message));
            }
            if let Some(status) = range.addresses.get_mut(&address) {
                status.holder = Some(node.clone());
            }
            Ok(AddressOutcome::Applied)
        })
    }

    async fn unassign(&self, address: IpAddr, expected: &NodeName) -> Result<AddressOutcome> {
        self.range.with(|range| {
            let Some(status) = range.addresses.get_mut(&address) else {
                return Err(self.refuse(ErrorKind::NotFound, "unassign", address, "it is not allocated"));
            };
            if status.holder.as_ref().is_some_and(|holder| holder != expected) {
                return Ok(AddressOutcome::Stale(status.holder.clone()));
            }
            status.holder = None;
            Ok(AddressOutcome::Applied)
        })
    }

    async fn release(&self, address: IpAddr, owner: &MemberId) -> Result<()> {
        self.range.with(|range| match range.addresses.get(&address) {
            None => Ok(()),
            Some(status) if &status.owner != owner => {
                let message = format!("it is allocated to {}, not to {owner}", status.owner);
                Err(self.refuse(ErrorKind::Stale, "release", address, message))
            }
            Some(AddressStatus { holder: Some(holder), .. }) => {
                let message = format!("it is assigned to {holder}: unassign it first");
                Err(self.refuse(ErrorKind::Busy, "release", address, message))
            }
            Some(_) => {
                range.addresses.remove(&address);
                range.owners.remove(owner);
                range.given_back.push_back(address);
                Ok(())
            }
        })
    }

    async fn list(&self) -> Result<Vec<AddressStatus>> {
        Ok(self.range.with(|range| range.addresses.values().cloned().collect()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conformance::Harness;
    use crate::conformance::ip::IpHarness;

    struct Memory;

    /// What is left of a /22 after network, broadcast and reserved addresses.
    const RANGE: u32 = 1019;

    impl Harness for Memory {
        type Backend = MemoryIps;
        type Guard = MemoryIps;

        async fn open(&self) -> (MemoryIps, MemoryIps) {
            let ips = MemoryIps::new("10.1.0.4".parse().unwrap(), RANGE).unwrap();
            (ips.clone(), ips)
        }

        async fn reopen(&self, guard: &MemoryIps) -> MemoryIps {
            guard.clone()
        }
    }

    impl IpHarness for Memory {
        fn range(&self) -> Option<usize> {
            Some(RANGE as usize)
        }
    }

    crate::ip_conformance!(Memory);

    #[test]
    fn a_range_past_the_last_address_is_refused() {
        assert!(MemoryIps::new("255.255.255.0".parse().unwrap(), 256).is_ok());
        let error = MemoryIps::new("255.255.255.0".parse().unwrap(), 257).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid);
        assert!(MemoryIps::new("ffff::1".parse().unwrap(), u32::MAX).is_ok());
    }

    #[tokio::test]
    async fn the_address_that_has_rested_longest_is_used_again_first() {
        let ips = MemoryIps::new("10.1.0.4".parse().unwrap(), 3).unwrap();
        let owners: Vec<MemberId> = ["a", "b", "c", "d", "e"].map(|id| id.parse().unwrap()).to_vec();
        let first = ips.allocate(&owners[0], None).await.unwrap();
        ips.release(first, &owners[0]).await.unwrap();
        let second = ips.allocate(&owners[1], None).await.unwrap();
        assert_ne!(first, second, "there are others that never were in use");
        ips.allocate(&owners[2], None).await.unwrap();
        ips.release(second, &owners[1]).await.unwrap();
        assert_eq!(ips.allocate(&owners[3], None).await.unwrap(), first);
        assert_eq!(ips.allocate(&owners[4], None).await.unwrap(), second);
    }

    #[tokio::test]
    async fn a_node_takes_no_more_than_its_limit() {
        let capabilities = IpCapabilities { zonal: false, per_node_limit: Some(1) };
        let ips = MemoryIps::with_capabilities("10.1.0.4".parse().unwrap(), 3, capabilities).unwrap();
        let node: NodeName = "node-a".parse().unwrap();
        let first = ips.allocate(&"a".parse().unwrap(), None).await.unwrap();
        let second = ips.allocate(&"b".parse().unwrap(), None).await.unwrap();
        assert_eq!(ips.assign(first, &node, None).await.unwrap(), AddressOutcome::Applied);
        let error = ips.assign(second, &node, None).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::QuotaExceeded);
        assert_eq!(ips.assign(first, &node, None).await.unwrap(), AddressOutcome::Applied);
    }
}
