//! Static addresses: allocated once per member, assigned to one node at a time.

pub mod book;
pub mod memory;

use std::fmt::{Debug, Display};
use std::net::IpAddr;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::ids::{MemberId, NodeName, ZoneName};

/// What a provider knows of an allocated address.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AddressStatus {
    /// The address.
    pub address: IpAddr,
    /// The member it is allocated to.
    pub owner: MemberId,
    /// The node it is assigned to now.
    pub holder: Option<NodeName>,
}

/// How a conditional assignment ended.
#[must_use]
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AddressOutcome {
    /// Done, or already so.
    Applied,
    /// Somebody else than expected holds it; nothing changed.
    Stale(Option<NodeName>),
}

/// What an address provider can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct IpCapabilities {
    /// Whether an address can only be assigned in its zone.
    pub zonal: bool,
    /// The most addresses one node takes; none: no limit.
    pub per_node_limit: Option<u32>,
}

/// A source of static addresses.
#[async_trait]
pub trait IpProvider: Debug + Display + Send + Sync + 'static {
    /// What this backend can do.
    fn capabilities(&self) -> IpCapabilities;

    /// Makes sure that `owner` has an address, and gives it.
    ///
    /// # Behavior
    /// - The same owner gets the same address, however often it asks: the owner is the token.
    /// - No two owners share one. A range that is used up is `QuotaExceeded`, without effect.
    async fn allocate(&self, owner: &MemberId, zone: Option<&ZoneName>) -> Result<IpAddr>;

    /// What is known of an address; `None` if it is not allocated.
    ///
    /// # Behavior
    /// - It may be some seconds old: what is done because of it names the expected holder.
    async fn status(&self, address: IpAddr) -> Result<Option<AddressStatus>>;

    /// Assigns an allocated address to `node`, taking it from `expected`.
    ///
    /// # Behavior
    /// - Held by `node` already: `Applied`. Not allocated: `NotFound`.
    /// - Held by anyone but `expected` (nobody included): `Stale`, unless it is free, which is `Applied`.
    /// - At no moment does the address belong to nobody of ours.
    async fn assign(
        &self,
        address: IpAddr,
        node: &NodeName,
        expected: Option<&NodeName>,
    ) -> Result<AddressOutcome>;

    /// Takes an address from `expected`; it stays allocated.
    ///
    /// # Behavior
    /// - Held by nobody: `Applied`; held by another node: `Stale`.
    async fn unassign(&self, address: IpAddr, expected: &NodeName) -> Result<AddressOutcome>;

    /// Gives an address of `owner` back to the range.
    ///
    /// # Behavior
    /// - Not allocated: success. Allocated to another owner: `Stale`, without effect.
    /// - Assigned to a node: `Busy`, without effect. Whoever releases unassigns first.
    async fn release(&self, address: IpAddr, owner: &MemberId) -> Result<()>;

    /// Every allocated address.
    async fn list(&self) -> Result<Vec<AddressStatus>>;
}
