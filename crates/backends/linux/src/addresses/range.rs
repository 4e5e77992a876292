//! A range of addresses of a subnet.

use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use steadfast_core::ip::book::AddressRange;

/// The addresses from a first one to a last one, both included, written `10.7.0.100-10.7.0.199`. Nobody else on the
/// network may give them out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SubnetRange {
    first: Ipv4Addr,
    last: Ipv4Addr,
}

/// A text that is not a range of addresses for members.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("address range {text:?} is not valid: {problem}")]
pub struct InvalidRange {
    text: String,
    problem: &'static str,
}

impl SubnetRange {
    /// The first address.
    pub fn first(&self) -> Ipv4Addr {
        self.first
    }

    /// The last address.
    pub fn last(&self) -> Ipv4Addr {
        self.last
    }
}

impl AddressRange for SubnetRange {
    const KIND: &'static str = "network addresses";

    fn len(&self) -> u32 {
        u32::from(self.last) - u32::from(self.first) + 1
    }

    fn nth(&self, index: u32) -> Ipv4Addr {
        Ipv4Addr::from(u32::from(self.first) + index)
    }
}

impl FromStr for SubnetRange {
    type Err = InvalidRange;

    fn from_str(text: &str) -> Result<Self, InvalidRange> {
        let invalid = |problem| InvalidRange { text: text.chars().take(80).collect(), problem };
        let (first, last) = text
            .split_once('-')
            .ok_or_else(|| invalid("write the first and the last address, like 10.7.0.100-10.7.0.199"))?;
        let address = |text: &str, problem| text.trim().parse::<Ipv4Addr>().map_err(|_| invalid(problem));
        let first = address(first, "what stands before the '-' is not an IPv4 address")?;
        let last = address(last, "what stands after the '-' is not an IPv4 address")?;
        if first > last {
            return Err(invalid("the last address comes before the first"));
        }
        if u32::from(last) - u32::from(first) >= 1 << 16 {
            return Err(invalid("it has more than 65,536 addresses"));
        }
        let unfit = |address: &Ipv4Addr| {
            address.is_loopback()
                || address.is_multicast()
                || address.is_link_local()
                || address.octets()[0] == 0
                || address.octets()[0] >= 240
        };
        if unfit(&first) || unfit(&last) {
            return Err(invalid("a network has no such addresses for machines"));
        }
        Ok(SubnetRange { first, last })
    }
}

impl TryFrom<String> for SubnetRange {
    type Error = InvalidRange;
    fn try_from(text: String) -> Result<Self, InvalidRange> {
        text.parse()
    }
}

impl From<SubnetRange> for String {
    fn from(range: SubnetRange) -> String {
        range.to_string()
    }
}

impl fmt::Display for SubnetRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.first, self.last)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_is_checked_and_the_problem_named() {
        let range: SubnetRange = "10.7.0.250-10.7.1.9".parse().unwrap();
        assert_eq!((range.len(), range.nth(0), range.nth(15)), (16, range.first(), range.last()));
        assert_eq!(range.to_string().parse::<SubnetRange>().unwrap(), range);
        for (text, problem) in [
            ("10.7.0.1", "first and the last"),
            ("10.7.0.0/24", "first and the last"),
            ("10.7.0-10.7.0.9", "before the '-'"),
            ("10.7.0.1-::1", "after the '-'"),
            ("10.7.0.9-10.7.0.1", "before the first"),
            ("10.0.0.0-10.255.255.255", "65,536"),
            ("127.0.0.5-127.0.0.9", "for machines"),
            ("224.0.0.1-224.0.0.9", "for machines"),
            ("255.255.255.250-255.255.255.255", "for machines"),
        ] {
            let error = text.parse::<SubnetRange>().unwrap_err().to_string();
            assert!(error.contains(problem) && error.contains(text), "{error}");
        }
    }
}
