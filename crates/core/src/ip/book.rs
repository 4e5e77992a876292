//! Who owns which address of a range, and which node holds it, in the metadata store.
//!
//! Two records per address: `ip-owners/MEMBER` says which address a member is meant to have, and is written first;
//! `ip/ADDRESS` says to whom an address belongs, and is what excludes. Then the first is confirmed: from there on the
//! member keeps this address until it gives it back. A crash in between leaves an intent that the member's next
//! request completes. Only two requests for one member of which one dies at the wrong moment can leave an address
//! that is nobody's; [`AddressBook::repair`] finds those.
//!
//! Where an address needs no work on a node, the book is the whole provider.

mod order;

use std::collections::BTreeSet;
use std::fmt::{self, Debug, Display};
use std::net::{IpAddr, Ipv4Addr};

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{AddressOutcome, AddressStatus, IpCapabilities, IpProvider};
use crate::error::{Error, ErrorKind, Result};
use crate::ids::{MemberId, NodeName, ZoneName};
use crate::metadata::{Key, Records, Versioned, WriteOutcome};

use order::Order;

/// How many addresses are tried one by one before the whole range is read at once.
const TRIES: usize = 16;

/// The addresses that a book gives out.
#[expect(clippy::len_without_is_empty, reason = "a range without addresses is none")]
pub trait AddressRange: Debug + Display + Copy + Send + Sync + 'static {
    /// What its addresses are, for people: `loopback addresses`.
    const KIND: &'static str;

    /// How many there are; at least one.
    fn len(&self) -> u32;

    /// The address at `index`, which is less than [`len`](Self::len).
    fn nth(&self, index: u32) -> Ipv4Addr;
}

/// The addresses of one range, recorded under `ip/` and `ip-owners/` of the given records.
#[derive(Debug, Clone)]
pub struct AddressBook<R> {
    records: Records,
    range: R,
}

/// `ip/ADDRESS`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct AddressRecord {
    owner: MemberId,
    holder: Option<NodeName>,
    /// The link that answered for it last, where addresses are on links: whoever takes it over tells that one from a
    /// stranger's by it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    link: Option<String>,
    /// Set by a repair that is about to remove it; whoever still means to use it clears this first.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    condemned: bool,
    /// Fields of a newer version, kept as they are.
    #[serde(flatten)]
    extra: Map<String, Value>,
}

/// `ip-owners/MEMBER`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct OwnerRecord {
    address: Ipv4Addr,
    stage: Stage,
    /// Fields of a newer version, kept as they are.
    #[serde(flatten)]
    extra: Map<String, Value>,
}

/// How far a member is with its address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Stage {
    /// It tries to get it: if somebody else has it, it tries another.
    Wanted,
    /// It has it.
    Had,
}

/// What became of the attempt to take one address.
enum Taken {
    /// It was the owner's already.
    Found,
    /// It is the owner's now.
    Made,
    /// It is somebody else's.
    Elses,
    /// The record changed meanwhile: look again.
    Changed,
}

impl<R: AddressRange> AddressBook<R> {
    /// The addresses of `range`. Addresses given out earlier, under another range, stay with their owners.
    ///
    /// Clusters that share a network need the same records or ranges that do not overlap.
    pub fn new(records: Records, range: R) -> Self {
        AddressBook { records, range }
    }

    /// The range.
    pub fn range(&self) -> R {
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
            removed += usize::from(self.remove_unmeant(&key, found).await?);
        }
        Ok(removed)
    }

    /// Removes an address record if its owner is not meant to have the address; says whether it did.
    async fn remove_unmeant(&self, key: &Key, found: Versioned<AddressRecord>) -> Result<bool> {
        if self.is_meant(key, &found.body.owner).await? {
            return Ok(false);
        }
        // Marked before the second look: who means to use it from here on clears the mark, and then the removal is
        // refused.
        let marked = AddressRecord { condemned: true, ..found.body };
        let WriteOutcome::Applied(version) = self.records.update(key, &marked, &found.version).await? else {
            return Ok(false);
        };
        if self.is_meant(key, &marked.owner).await? {
            return Ok(false);
        }
        Ok(matches!(self.records.delete(key, &version).await?, WriteOutcome::Applied(_)))
    }

    /// Whether `owner` is meant to have the address at `key`.
    async fn is_meant(&self, key: &Key, owner: &MemberId) -> Result<bool> {
        let meant = self.owner(owner).await?;
        Ok(meant
            .is_some_and(|record| key.segments().last() == Some(record.body.address.to_string().as_str())))
    }

    /// Takes an address for `owner`, if nobody else has it.
    async fn take(&self, owner: &MemberId, address: Ipv4Addr) -> Result<Taken> {
        let key = self.address_key(address.into())?;
        let written = match self.records.get::<AddressRecord>(&key).await? {
            Some(found) if found.body.owner != *owner => return Ok(Taken::Elses),
            Some(found) if !found.body.condemned => return Ok(Taken::Found),
            Some(found) => {
                let kept = AddressRecord { condemned: false, ..found.body };
                self.records.update(&key, &kept, &found.version).await?
            }
            None => {
                let owner = owner.clone();
                let mine =
                    AddressRecord { owner, holder: None, link: None, condemned: false, extra: Map::new() };
                self.records.create(&key, &mine).await?
            }
        };
        Ok(if matches!(written, WriteOutcome::Applied(_)) { Taken::Made } else { Taken::Changed })
    }

    /// Confirms that the owner has the address it wanted; if it wants another by now, this one is given up.
    async fn confirm(&self, owner: &MemberId, wanted: Versioned<OwnerRecord>) -> Result<Option<IpAddr>> {
        let address = IpAddr::V4(wanted.body.address);
        let had = OwnerRecord { stage: Stage::Had, ..wanted.body };
        if let WriteOutcome::Applied(_) =
            self.records.update(&self.owner_key(owner)?, &had, &wanted.version).await?
        {
            return Ok(Some(address));
        }
        let key = self.address_key(address)?;
        if let Some(found) = self.records.get::<AddressRecord>(&key).await?
            && found.body.owner == *owner
        {
            self.remove_unmeant(&key, found).await?;
        }
        Ok(None)
    }

    /// Has `owner` want the next address that nobody has, instead of the one it could not get.
    async fn want_another(&self, owner: &MemberId, before: Option<Versioned<OwnerRecord>>) -> Result<()> {
        let key = self.owner_key(owner)?;
        let Some(address) = self.next_free(owner).await? else {
            if let Some(before) = before {
                // An intent that can no longer come true; if it has changed meanwhile it is not ours to remove.
                let _removed_or_changed = self.records.delete(&key, &before.version).await?;
            }
            let message = format!(
                "all {} addresses of {} are allocated: widen the range",
                self.range.len(),
                self.range
            );
            return Err(self.refuse(ErrorKind::QuotaExceeded, "allocate", owner, message));
        };
        let stage = Stage::Wanted;
        let _written_or_changed = match before {
            Some(before) => {
                let wanted = OwnerRecord { address, stage, ..before.body };
                self.records.update(&key, &wanted, &before.version).await?
            }
            None => self.records.create(&key, &OwnerRecord { address, stage, extra: Map::new() }).await?,
        };
        Ok(())
    }

    /// The next address in the owner's order that nobody has.
    async fn next_free(&self, owner: &MemberId) -> Result<Option<Ipv4Addr>> {
        for address in Order::new(self.range, owner).take(TRIES) {
            let found = self.records.get::<AddressRecord>(&self.address_key(address.into())?).await?;
            if found.is_none_or(|found| found.body.owner == *owner) {
                return Ok(Some(address));
            }
        }
        // The range is well filled: one listing instead of a question for each address.
        let all = self.list().await?;
        let taken: BTreeSet<IpAddr> =
            all.into_iter().filter(|status| status.owner != *owner).map(|status| status.address).collect();
        Ok(Order::new(self.range, owner).find(|address| !taken.contains(&IpAddr::V4(*address))))
    }

    /// [`assign`](IpProvider::assign), with the link on which `node` answers for the address.
    ///
    /// # Errors
    /// As there.
    pub async fn assign_at(
        &self,
        address: IpAddr,
        node: &NodeName,
        expected: Option<&NodeName>,
        link: Option<&str>,
    ) -> Result<AddressOutcome> {
        self.change_holder("assign", address, |found| {
            let same_link = link.is_none_or(|link| found.link.as_deref() == Some(link));
            match found.holder.as_ref() {
                Some(holder) if holder == node && same_link => Err(AddressOutcome::Applied),
                Some(holder) if holder != node && Some(holder) != expected => {
                    Err(AddressOutcome::Stale(Some(holder.clone())))
                }
                Some(_) | None => Ok((Some(node.clone()), link.map(str::to_owned).or(found.link.clone()))),
            }
        })
        .await
    }

    /// The link that answered for an address last, if any ever did.
    ///
    /// # Errors
    /// What the store says.
    pub async fn last_link(&self, address: IpAddr) -> Result<Option<String>> {
        let found = self.records.get::<AddressRecord>(&self.address_key(address)?).await?;
        Ok(found.and_then(|found| found.body.link))
    }

    /// Changes holder and link as `decide` says, given the record: the new ones, or the outcome without a change.
    async fn change_holder(
        &self,
        operation: &'static str,
        address: IpAddr,
        decide: impl Fn(&AddressRecord) -> Result<(Option<NodeName>, Option<String>), AddressOutcome> + Send,
    ) -> Result<AddressOutcome> {
        let key = self.address_key(address)?;
        loop {
            let Some(found) = self.records.get::<AddressRecord>(&key).await? else {
                return Err(self.refuse(ErrorKind::NotFound, operation, address, "it is not allocated"));
            };
            let (holder, link) = match decide(&found.body) {
                Ok(changed) => changed,
                Err(outcome) => return Ok(outcome),
            };
            let changed = AddressRecord { holder, link, ..found.body };
            if let WriteOutcome::Applied(_) = self.records.update(&key, &changed, &found.version).await? {
                return Ok(AddressOutcome::Applied);
            }
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
        subject: impl Display,
        message: impl Display,
    ) -> Error {
        Error::new(kind, self, operation, subject, message).without_effect()
    }
}

#[async_trait]
impl<R: AddressRange> IpProvider for AddressBook<R> {
    fn capabilities(&self) -> IpCapabilities {
        IpCapabilities { zonal: false, per_node_limit: None }
    }

    async fn allocate(&self, owner: &MemberId, _zone: Option<&ZoneName>) -> Result<IpAddr> {
        // Every turn that does not end here means that a step was made, by this request or another.
        loop {
            let Some(meant) = self.owner(owner).await? else {
                self.want_another(owner, None).await?;
                continue;
            };
            let address = meant.body.address;
            match self.take(owner, address).await? {
                Taken::Found if meant.body.stage == Stage::Had => return Ok(address.into()),
                Taken::Found | Taken::Made => {
                    if let Some(address) = self.confirm(owner, meant).await? {
                        return Ok(address);
                    }
                }
                Taken::Elses => self.want_another(owner, Some(meant)).await?,
                Taken::Changed => {}
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
        self.assign_at(address, node, expected, None).await
    }

    async fn unassign(&self, address: IpAddr, expected: &NodeName) -> Result<AddressOutcome> {
        self.change_holder("unassign", address, |found| match &found.holder {
            None => Err(AddressOutcome::Applied),
            Some(holder) if holder != expected => Err(AddressOutcome::Stale(Some(holder.clone()))),
            Some(_) => Ok((None, found.link.clone())),
        })
        .await
    }

    async fn release(&self, address: IpAddr, owner: &MemberId) -> Result<()> {
        let (key, owner_key) = (self.address_key(address)?, self.owner_key(owner)?);
        let mut given_back = false;
        // Every turn that does not end here means that another request came in between: each confirms what it has
        // made, and then the intent read before has changed.
        loop {
            let meant = self.owner(owner).await?.filter(|meant| IpAddr::V4(meant.body.address) == address);
            match self.records.get::<AddressRecord>(&key).await? {
                Some(Versioned {
                    body: AddressRecord { owner: had_by, holder: Some(holder), .. }, ..
                }) if had_by == *owner => {
                    if given_back {
                        return Ok(());
                    }
                    let message = format!("it is assigned to {holder}: unassign it first");
                    return Err(self.refuse(ErrorKind::Busy, "release", address, message));
                }
                Some(found) if found.body.owner == *owner && meant.is_none() => {
                    self.remove_unmeant(&key, found).await?;
                    continue;
                }
                Some(found) if found.body.owner == *owner => {
                    match self.records.delete(&key, &found.version).await? {
                        WriteOutcome::Applied(_) => given_back = true,
                        WriteOutcome::Conflict => continue,
                    }
                }
                Some(found) if meant.as_ref().is_none_or(|meant| meant.body.stage == Stage::Wanted) => {
                    if given_back {
                        return Ok(());
                    }
                    let message = format!("it is allocated to {}, not to {owner}", found.body.owner);
                    return Err(self.refuse(ErrorKind::Stale, "release", address, message));
                }
                Some(_) | None => {}
            }
            let Some(meant) = meant else { return Ok(()) };
            if let WriteOutcome::Applied(_) = self.records.delete(&owner_key, &meant.version).await? {
                return Ok(());
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

impl<R: AddressRange> Display for AddressBook<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}({})", R::KIND, self.range)
    }
}

#[cfg(test)]
mod tests;
