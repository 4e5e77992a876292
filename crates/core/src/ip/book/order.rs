//! The order in which an owner tries the addresses of a range.

use std::net::Ipv4Addr;

use sha2::{Digest, Sha256};

use super::AddressRange;
use crate::ids::MemberId;

/// The addresses of a range in an order that follows from the owner: a start and a step without a common factor
/// with the number of addresses, so that each comes once and all do.
#[derive(Debug)]
pub(super) struct Order<R> {
    range: R,
    next: u64,
    step: u64,
    left: u32,
}

impl<R: AddressRange> Order<R> {
    pub(super) fn new(range: R, owner: &MemberId) -> Self {
        let count = u64::from(range.len());
        let hash = Sha256::digest(owner.as_str().as_bytes());
        let number = |from: usize| {
            hash.iter().skip(from).take(8).fold(0_u64, |number, byte| number << 8 | u64::from(*byte))
        };
        let mut step = number(8) % count;
        while greatest_common_factor(step, count) != 1 {
            step += 1;
        }
        Order { range, next: number(0) % count, step, left: range.len() }
    }
}

impl<R: AddressRange> Iterator for Order<R> {
    type Item = Ipv4Addr;

    fn next(&mut self) -> Option<Ipv4Addr> {
        self.left = self.left.checked_sub(1)?;
        let index = u32::try_from(self.next).expect("an index is less than the number of addresses");
        self.next = (self.next + self.step) % u64::from(self.range.len());
        Some(self.range.nth(index))
    }
}

fn greatest_common_factor(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { greatest_common_factor(b, a % b) }
}
