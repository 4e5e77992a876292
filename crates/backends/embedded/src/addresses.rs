//! Static addresses on the loopback interface, recorded in the metadata store.
//!
//! Every address of 127/8 answers on Linux without being configured, so an address needs no work on a node: what
//! this keeps is who owns it and which node holds it.
//!
//! Two records per address: `ip-owners/MEMBER` says which address a member is meant to have, and is written first;
//! `ip/ADDRESS` says to whom an address belongs, and is what excludes. A crash between the two leaves an intent that
//! the member's next request completes, so nothing leaks; [`LoopbackAddresses::repair`] removes what a race of two
//! requests for one member can leave behind.

mod range;

use std::collections::BTreeSet;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr};

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use steadfast_core::ids::{MemberId, NodeName, ZoneName};
use steadfast_core::ip::{AddressOutcome, AddressStatus, IpCapabilities, IpProvider};
use steadfast_core::metadata::{Key, Records, Version, Versioned, WriteOutcome};
use steadfast_core::{Error, ErrorKind, Result};

pub use range::{InvalidRange, LoopbackRange};

use range::Probe;

/// How many addresses are tried one by one before the whole range is read at once.
const TRIES: usize = 16;

/// Loopback addresses of one range, recorded under `ip/` and `ip-owners/` of the given records.
#[derive(Debug, Clone)]
pub struct LoopbackAddresses {
    records: Records,
    range: LoopbackRange,
}

/// `ip/ADDRESS`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct AddressRecord {
    owner: MemberId,
    holder: Option<NodeName>,
    /// Set by a repair that is about to remove it; whoever still means to use it clears this first.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    condemned: bool,
}

/// `ip-owners/MEMBER`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct OwnerRecord {
    address: Ipv4Addr,
}

/// What became of the attempt to take one address.
enum Taken {
    Mine,
    Elses,
    /// The records changed meanwhile: look again.
    Changed,
}

impl LoopbackAddresses {
    /// The addresses of `range`. Addresses given out earlier, under another range, stay with their owners.
    ///
    /// Clusters that run on one machine need the same records or ranges that do not overlap.
    pub fn new(records: Records, range: LoopbackRange) -> Self {
        LoopbackAddresses { records, range }
    }

    /// The range.
    pub fn range(&self) -> LoopbackRange {
        self.range
    }

    /// Removes address records that belong to nobody, and says how many: those whose owner is meant to have another
    /// address, or none. Safe beside everything else.
    ///
    /// # Errors
    /// What the store says.
    pub async fn repair(&self) -> Result<usize> {
        let mut removed = 0;
        for (key, found) in self.records.list::<AddressRecord>(&self.records.key(["ip"])?).await? {
            if self.is_meant(&key, &found.body.owner).await? {
                continue;
            }
            // Marked before the second look: who means to use it from here on clears the mark, and then the removal
            // is refused.
            let marked = AddressRecord { condemned: true, ..found.body };
            let WriteOutcome::Applied(version) = self.records.update(&key, &marked, &found.version).await?
            else {
                continue;
            };
            if self.is_meant(&key, &marked.owner).await? {
                continue;
            }
            if let WriteOutcome::Applied(_) = self.records.delete(&key, &version).await? {
                removed += 1;
            }
        }
        Ok(removed)
    }

    /// Whether `owner` is meant to have the address at `key`.
    async fn is_meant(&self, key: &Key, owner: &MemberId) -> Result<bool> {
        let meant = self.owner(owner).await?;
        Ok(meant
            .is_some_and(|record| key.segments().last() == Some(record.body.address.to_string().as_str())))
    }

    /// Takes the address that `owner` is meant to have, if nobody else has it.
    async fn take(&self, owner: &MemberId, address: Ipv4Addr) -> Result<Taken> {
        let key = self.address_key(address.into())?;
        match self.records.get::<AddressRecord>(&key).await? {
            Some(found) if found.body.owner != *owner => return Ok(Taken::Elses),
            Some(found) if !found.body.condemned => return Ok(Taken::Mine),
            Some(found) => {
                let kept = AddressRecord { condemned: false, ..found.body };
                let written = self.records.update(&key, &kept, &found.version).await?;
                return Ok(if matches!(written, WriteOutcome::Applied(_)) {
                    Taken::Mine
                } else {
                    Taken::Changed
                });
            }
            None => {}
        }
        let mine = AddressRecord { owner: owner.clone(), holder: None, condemned: false };
        let WriteOutcome::Applied(version) = self.records.create(&key, &mine).await? else {
            return Ok(Taken::Changed);
        };
        // Another request for the same owner may have moved on to another address meanwhile.
        if self.is_meant(&key, owner).await? {
            return Ok(Taken::Mine);
        }
        match self.records.delete(&key, &version).await? {
            WriteOutcome::Applied(_) | WriteOutcome::Conflict => Ok(Taken::Changed),
        }
    }

    /// The next address in the owner's order that nobody has.
    async fn next_free(&self, owner: &MemberId) -> Result<Option<Ipv4Addr>> {
        for address in Probe::new(self.range, owner).take(TRIES) {
            let found = self.records.get::<AddressRecord>(&self.address_key(address.into())?).await?;
            if found.is_none_or(|found| found.body.owner == *owner) {
                return Ok(Some(address));
            }
        }
        // The range is well filled: one listing instead of a question for each address.
        let all = self.list().await?;
        let taken: BTreeSet<IpAddr> =
            all.into_iter().filter(|status| status.owner != *owner).map(|status| status.address).collect();
        Ok(Probe::new(self.range, owner).find(|address| !taken.contains(&IpAddr::V4(*address))))
    }

    /// Changes the holder as `decide` says, given the present one: the new one, or the outcome without a change.
    async fn change_holder(
        &self,
        operation: &'static str,
        address: IpAddr,
        decide: impl Fn(Option<&NodeName>) -> Result<Option<NodeName>, AddressOutcome> + Send,
    ) -> Result<AddressOutcome> {
        let key = self.address_key(address)?;
        loop {
            let Some(found) = self.records.get::<AddressRecord>(&key).await? else {
                return Err(self.refuse(ErrorKind::NotFound, operation, address, "it is not allocated"));
            };
            let holder = match decide(found.body.holder.as_ref()) {
                Ok(holder) => holder,
                Err(outcome) => return Ok(outcome),
            };
            let changed = AddressRecord { holder, ..found.body };
            if let WriteOutcome::Applied(_) = self.records.update(&key, &changed, &found.version).await? {
                return Ok(AddressOutcome::Applied);
            }
        }
    }

    /// Writes down which address `owner` is meant to have.
    async fn mean(
        &self,
        owner: &MemberId,
        address: Ipv4Addr,
        over: Option<&Version>,
    ) -> Result<WriteOutcome> {
        let (key, record) = (self.owner_key(owner)?, OwnerRecord { address });
        match over {
            Some(version) => self.records.update(&key, &record, version).await,
            None => self.records.create(&key, &record).await,
        }
    }

    async fn owner(&self, owner: &MemberId) -> Result<Option<Versioned<OwnerRecord>>> {
        self.records.get(&self.owner_key(owner)?).await
    }

    fn owner_key(&self, owner: &MemberId) -> Result<Key> {
        self.records.key(["ip-owners", owner.as_str()])
    }

    fn address_key(&self, address: IpAddr) -> Result<Key> {
        self.records.key(["ip", &address.to_string()])
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

#[async_trait]
impl IpProvider for LoopbackAddresses {
    fn capabilities(&self) -> IpCapabilities {
        IpCapabilities { zonal: false, per_node_limit: None }
    }

    async fn allocate(&self, owner: &MemberId, _zone: Option<&ZoneName>) -> Result<IpAddr> {
        // Every turn that does not end here means that somebody else's write came first.
        loop {
            let meant = self.owner(owner).await?;
            if let Some(meant) = &meant {
                match self.take(owner, meant.body.address).await? {
                    Taken::Mine => return Ok(meant.body.address.into()),
                    Taken::Changed => continue,
                    Taken::Elses => {}
                }
            }
            let Some(address) = self.next_free(owner).await? else {
                if let Some(meant) = meant {
                    // An intent that can no longer come true; if it has changed meanwhile it is not ours to remove.
                    let _removed_or_changed =
                        self.records.delete(&self.owner_key(owner)?, &meant.version).await?;
                }
                let message = format!(
                    "all {} addresses of {} are allocated: widen the range",
                    self.range.len(),
                    self.range
                );
                return Err(self.refuse(ErrorKind::QuotaExceeded, "allocate", owner, message));
            };
            match self.mean(owner, address, meant.as_ref().map(|meant| &meant.version)).await? {
                WriteOutcome::Applied(_) | WriteOutcome::Conflict => {}
            }
        }
    }

    async fn status(&self, address: IpAddr) -> Result<Option<AddressStatus>> {
        let found = self.records.get::<AddressRecord>(&self.address_key(address)?).await?;
        Ok(found.map(|found| AddressStatus { address, owner: found.body.owner, holder: found.body.holder }))
    }

    async fn assign(
        &self,
        address: IpAddr,
        node: &NodeName,
        expected: Option<&NodeName>,
    ) -> Result<AddressOutcome> {
        self.change_holder("assign", address, |holder| match holder {
            Some(holder) if holder == node => Err(AddressOutcome::Applied),
            Some(holder) if Some(holder) != expected => Err(AddressOutcome::Stale(Some(holder.clone()))),
            Some(_) | None => Ok(Some(node.clone())),
        })
        .await
    }

    async fn unassign(&self, address: IpAddr, expected: &NodeName) -> Result<AddressOutcome> {
        self.change_holder("unassign", address, |holder| match holder {
            None => Err(AddressOutcome::Applied),
            Some(holder) if holder != expected => Err(AddressOutcome::Stale(Some(holder.clone()))),
            Some(_) => Ok(None),
        })
        .await
    }

    async fn release(&self, address: IpAddr, owner: &MemberId) -> Result<()> {
        let key = self.address_key(address)?;
        // The address first: a crash in between leaves an intent, which a repetition removes, and no address.
        loop {
            match self.records.get::<AddressRecord>(&key).await? {
                Some(found) if found.body.owner != *owner => {
                    let message = format!("it is allocated to {}, not to {owner}", found.body.owner);
                    return Err(self.refuse(ErrorKind::Stale, "release", address, message));
                }
                Some(found) => match self.records.delete(&key, &found.version).await? {
                    WriteOutcome::Applied(_) => break,
                    WriteOutcome::Conflict => {}
                },
                None => break,
            }
        }
        loop {
            match self.owner(owner).await? {
                Some(meant) if IpAddr::V4(meant.body.address) == address => {
                    match self.records.delete(&self.owner_key(owner)?, &meant.version).await? {
                        WriteOutcome::Applied(_) => return Ok(()),
                        WriteOutcome::Conflict => {}
                    }
                }
                Some(_) | None => return Ok(()),
            }
        }
    }

    async fn list(&self) -> Result<Vec<AddressStatus>> {
        let found = self.records.list::<AddressRecord>(&self.records.key(["ip"])?).await?;
        let mut all = Vec::with_capacity(found.len());
        for (key, record) in found {
            let address = key.segments().last().and_then(|text| text.parse::<IpAddr>().ok());
            let Some(address) = address else {
                return Err(self.refuse(ErrorKind::Corrupt, "list", &key, "the key names no address"));
            };
            all.push(AddressStatus { address, owner: record.body.owner, holder: record.body.holder });
        }
        all.sort_by_key(|status| status.address);
        Ok(all)
    }
}

impl fmt::Display for LoopbackAddresses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "loopback addresses({})", self.range)
    }
}

#[cfg(test)]
mod tests;
