//! Static addresses on the loopback interface.
//!
//! Every address of 127/8 answers on Linux without being configured, so an address needs no work on a node: the book
//! of who owns it and which node holds it is everything.

use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use steadfast_core::ip::book::{AddressBook, AddressRange};

/// The range where nothing is said: 65,024 addresses.
const DEFAULT: &str = "127.77.0.0/16";

/// A range of loopback addresses, written as CIDR: `127.77.0.0/16`.
///
/// Left out are 127.0.0.0/23, where the machine's own services live (127.0.0.1, 127.0.0.53, and the 127.0.1.1 that
/// Debian gives the host's name), and addresses that end in .0 or .255, which some programs take for networks and
/// broadcasts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct LoopbackRange {
    base: Ipv4Addr,
    prefix: u8,
}

/// Loopback addresses of one range, recorded in the metadata store.
pub type LoopbackAddresses = AddressBook<LoopbackRange>;

/// A text that is not a range of usable loopback addresses.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("address range {text:?} is not valid: {problem}")]
pub struct InvalidRange {
    text: String,
    problem: String,
}

impl LoopbackRange {
    /// Whether it gives out `address`.
    pub fn contains(&self, address: Ipv4Addr) -> bool {
        let shift = 32 - u32::from(self.prefix);
        u32::from(address) >> shift == u32::from(self.base) >> shift && is_usable(address)
    }
}

impl AddressRange for LoopbackRange {
    const KIND: &'static str = "loopback addresses";

    fn len(&self) -> u32 {
        usable(u32::from(self.base), self.prefix)
    }

    fn nth(&self, index: u32) -> Ipv4Addr {
        let base = u32::from(self.base);
        if self.prefix > 24 {
            // Within one block of 256 only its own .0 can be in the way, and it comes first.
            return Ipv4Addr::from(base + u32::from(base & 0xff == 0) + index);
        }
        let first = base + reserved_blocks(base) * 256;
        Ipv4Addr::from(first + index / 254 * 256 + index % 254 + 1)
    }
}

impl Default for LoopbackRange {
    fn default() -> Self {
        DEFAULT.parse().expect("the default is a range of loopback addresses")
    }
}

impl FromStr for LoopbackRange {
    type Err = InvalidRange;

    fn from_str(text: &str) -> Result<Self, InvalidRange> {
        let invalid = |problem: &str| InvalidRange {
            text: text.chars().take(80).collect(),
            problem: problem.to_owned(),
        };
        let (base, prefix) = text
            .split_once('/')
            .ok_or_else(|| invalid("write an address and the length of the prefix, like 127.77.0.0/16"))?;
        let base: Ipv4Addr =
            base.parse().map_err(|_| invalid("what stands before the '/' is not an IPv4 address"))?;
        let prefix: u8 = prefix
            .parse()
            .ok()
            .filter(|prefix| (8..=32).contains(prefix))
            .ok_or_else(|| invalid("what stands after the '/' is not a number from 8 to 32"))?;
        if !base.is_loopback() {
            return Err(invalid("it does not lie in 127.0.0.0/8"));
        }
        let size = 1_u32 << (32 - u32::from(prefix));
        if u32::from(base) % size != 0 {
            let first = Ipv4Addr::from(u32::from(base) / size * size);
            return Err(invalid(&format!("it does not begin at {base}: write {first}/{prefix}")));
        }
        if usable(u32::from(base), prefix) == 0 {
            return Err(invalid(
                "it has no address to give out: 127.0.0.0/23 and addresses that end in .0 or .255 are left out",
            ));
        }
        Ok(LoopbackRange { base, prefix })
    }
}

impl TryFrom<String> for LoopbackRange {
    type Error = InvalidRange;
    fn try_from(text: String) -> Result<Self, InvalidRange> {
        text.parse()
    }
}

impl From<LoopbackRange> for String {
    fn from(range: LoopbackRange) -> String {
        range.to_string()
    }
}

impl fmt::Display for LoopbackRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.base, self.prefix)
    }
}

fn is_usable(address: Ipv4Addr) -> bool {
    let [a, b, c, d] = address.octets();
    a == 127 && !(b == 0 && c < 2) && d != 0 && d != 255
}

/// How many blocks of 256 at the beginning of a range are left out.
fn reserved_blocks(base: u32) -> u32 {
    match Ipv4Addr::from(base).octets() {
        [127, 0, 0, _] => 2,
        [127, 0, 1, _] => 1,
        _ => 0,
    }
}

fn usable(base: u32, prefix: u8) -> u32 {
    if prefix > 24 {
        let last = base + ((1_u32 << (32 - u32::from(prefix))) - 1);
        return u32::try_from((base..=last).filter(|n| is_usable(Ipv4Addr::from(*n))).count())
            .expect("at most 256");
    }
    let blocks = 1_u32 << (24 - u32::from(prefix));
    blocks.saturating_sub(reserved_blocks(base)) * 254
}

#[cfg(test)]
mod tests;
