//! The rules of [`IpProvider`].

use std::net::IpAddr;

use futures::future::join_all;

use super::{Harness, id, refused, skip};
use crate::error::ErrorKind;
use crate::ids::{MemberId, NodeName, ZoneName};
use crate::ip::{AddressOutcome, AddressStatus, IpProvider};

/// How an address provider under test is opened, and what it has to be told.
pub trait IpHarness: Harness<Backend: IpProvider> {
    /// Three nodes that its addresses can be assigned to.
    fn nodes(&self) -> [NodeName; 3] {
        [id("node-a"), id("node-b"), id("node-c")]
    }

    /// The zone the nodes are in.
    fn zone(&self) -> Option<ZoneName> {
        None
    }

    /// How many addresses a fresh namespace has, if that is few enough to allocate them all. Give more than
    /// 256: allocators like to forget what is beyond the last number of an address.
    fn range(&self) -> Option<usize> {
        None
    }
}

/// Makes a test of each rule of [`IpProvider`]; see [`conformance`](crate::conformance).
#[macro_export]
macro_rules! ip_conformance {
    (#[$attribute:meta] $harness:expr) => {
        $crate::__conformance_tests! {
            #[$attribute] ip, $harness,
            allocate_gives_each_owner_one_address
            no_two_owners_share_an_address
            racing_allocations_of_one_owner_agree
            the_whole_range_is_reachable
            a_full_range_is_quota
            a_new_address_is_held_by_nobody
            an_unknown_address_has_no_status
            a_free_address_is_assigned_whatever_was_expected
            assign_takes_from_the_expected_holder
            assign_from_another_holder_is_stale
            assigning_again_is_applied
            racing_assigns_have_one_holder
            a_moving_address_belongs_to_somebody_all_the_time
            unassign_leaves_the_address_allocated
            unassign_from_another_holder_is_stale
            unassigning_again_is_applied
            a_released_address_is_unknown
            releasing_again_is_success
            another_owners_address_is_not_released
            an_assigned_address_is_not_released
            every_allocated_address_is_listed
            a_second_handle_sees_every_change
        }
    };
    ($harness:expr) => {
        $crate::ip_conformance!(
            #[::tokio::test]
            $harness
        );
    };
}

async fn allocate<H: IpHarness>(harness: &H, ips: &H::Backend, owner: &str) -> IpAddr {
    let zone = harness.zone();
    ips.allocate(&id(owner), zone.as_ref()).await.expect("the range has room")
}

async fn opened<H: IpHarness>(harness: &H) -> (H::Guard, H::Backend, IpAddr) {
    let (guard, ips) = harness.open().await;
    let address = allocate(harness, &ips, "member-a").await;
    (guard, ips, address)
}

async fn status(ips: &impl IpProvider, address: IpAddr) -> Option<AddressStatus> {
    ips.status(address).await.expect("a healthy backend answers")
}

async fn holder(ips: &impl IpProvider, address: IpAddr) -> Option<NodeName> {
    status(ips, address).await.expect("it is allocated").holder
}

async fn assign(
    ips: &impl IpProvider,
    address: IpAddr,
    node: &NodeName,
    expected: Option<&NodeName>,
) -> AddressOutcome {
    ips.assign(address, node, expected).await.expect("a healthy backend answers")
}

async fn unassign(ips: &impl IpProvider, address: IpAddr, expected: &NodeName) -> AddressOutcome {
    ips.unassign(address, expected).await.expect("a healthy backend answers")
}

async fn list(ips: &impl IpProvider) -> Vec<AddressStatus> {
    let mut all = ips.list().await.expect("a healthy backend lists");
    all.sort_by_key(|status| status.address);
    all
}

/// The owner is the token: however often it asks, through whatever handle, it gets the same address.
pub async fn allocate_gives_each_owner_one_address<H: IpHarness>(harness: &H) {
    let (guard, ips, address) = opened(harness).await;
    assert_eq!(allocate(harness, &ips, "member-a").await, address);
    let second = harness.reopen(&guard).await;
    assert_eq!(allocate(harness, &second, "member-a").await, address);
    assert_eq!(assign(&ips, address, &harness.nodes()[0], None).await, AddressOutcome::Applied);
    assert_eq!(allocate(harness, &ips, "member-a").await, address, "also while it is assigned");
    assert_eq!(list(&ips).await.len(), 1);
}

/// Many owners who ask at once all get an address of their own.
pub async fn no_two_owners_share_an_address<H: IpHarness>(harness: &H) {
    let (guard, ips) = harness.open().await;
    let second = harness.reopen(&guard).await;
    let owners: Vec<String> = (0..12).map(|n| format!("member-{n}")).collect();
    let asking = owners
        .iter()
        .enumerate()
        .map(|(n, owner)| allocate(harness, if n % 2 == 0 { &ips } else { &second }, owner));
    let mut addresses = join_all(asking).await;
    addresses.sort();
    addresses.dedup();
    assert_eq!(addresses.len(), owners.len(), "{addresses:?}");
}

/// One owner who asks many times at once gets one address.
pub async fn racing_allocations_of_one_owner_agree<H: IpHarness>(harness: &H) {
    let (guard, ips) = harness.open().await;
    let second = harness.reopen(&guard).await;
    let asking = (0..8).map(|n| allocate(harness, if n % 2 == 0 { &ips } else { &second }, "member-a"));
    let mut addresses = join_all(asking).await;
    addresses.dedup();
    assert_eq!(addresses.len(), 1, "{addresses:?}");
    assert_eq!(list(&ips).await.len(), 1);
}

/// Every address of the range is given out, each once, and again after it was given back.
pub async fn the_whole_range_is_reachable<H: IpHarness>(harness: &H) {
    let (_guard, ips) = harness.open().await;
    let Some(range) = harness.range() else {
        return skip("the_whole_range_is_reachable", &ips, "has a range too large to fill");
    };
    for round in 0..2 {
        let mut addresses = Vec::new();
        for n in 0..range {
            let owner = format!("member-{round}-{n}");
            addresses.push((allocate(harness, &ips, &owner).await, id::<MemberId>(owner)));
        }
        for (address, owner) in &addresses {
            ips.release(*address, owner).await.expect("an owner can give its address back");
        }
        addresses.sort();
        addresses.dedup_by_key(|(address, _)| *address);
        assert_eq!(addresses.len(), range, "round {round}");
    }
}

/// A range that is used up is a quota, without effect on those who have an address; what is given back can be
/// had again.
pub async fn a_full_range_is_quota<H: IpHarness>(harness: &H) {
    let (_guard, ips) = harness.open().await;
    let Some(range) = harness.range() else {
        return skip("a_full_range_is_quota", &ips, "has a range too large to fill");
    };
    let owners: Vec<String> = (0..range).map(|n| format!("member-{n}")).collect();
    let mut addresses = Vec::new();
    for owner in &owners {
        addresses.push(allocate(harness, &ips, owner).await);
    }
    let zone = harness.zone();
    refused(ips.allocate(&id("late"), zone.as_ref()).await, ErrorKind::QuotaExceeded);
    assert_eq!(allocate(harness, &ips, &owners[0]).await, addresses[0], "who has one keeps it");
    assert_eq!(list(&ips).await.len(), range);
    ips.release(addresses[0], &id(&owners[0])).await.expect("an owner can give its address back");
    assert_eq!(allocate(harness, &ips, "late").await, addresses[0]);
}

/// A new address is its owner's, and assigned to no node.
pub async fn a_new_address_is_held_by_nobody<H: IpHarness>(harness: &H) {
    let (_guard, ips, address) = opened(harness).await;
    let expected = AddressStatus { address, owner: id("member-a"), holder: None };
    assert_eq!(status(&ips, address).await, Some(expected));
}

/// What is not allocated has no status, cannot be assigned, and is no error to look at.
pub async fn an_unknown_address_has_no_status<H: IpHarness>(harness: &H) {
    let (_guard, ips, address) = opened(harness).await;
    ips.release(address, &id("member-a")).await.expect("an owner can give its address back");
    assert_eq!(status(&ips, address).await, None);
    refused(ips.assign(address, &harness.nodes()[0], None).await, ErrorKind::NotFound);
    assert_eq!(status(&ips, address).await, None);
}

/// Nobody is robbed by assigning a free address, so the expectation does not matter.
pub async fn a_free_address_is_assigned_whatever_was_expected<H: IpHarness>(harness: &H) {
    let [first, second, _] = harness.nodes();
    for expected in [None, Some(&first), Some(&second)] {
        let (_guard, ips, address) = opened(harness).await;
        assert_eq!(assign(&ips, address, &first, expected).await, AddressOutcome::Applied);
        assert_eq!(holder(&ips, address).await, Some(first.clone()));
    }
}

/// An address goes from the expected holder to the new one.
pub async fn assign_takes_from_the_expected_holder<H: IpHarness>(harness: &H) {
    let (_guard, ips, address) = opened(harness).await;
    let [first, second, _] = harness.nodes();
    assert_eq!(assign(&ips, address, &first, None).await, AddressOutcome::Applied);
    assert_eq!(assign(&ips, address, &second, Some(&first)).await, AddressOutcome::Applied);
    assert_eq!(holder(&ips, address).await, Some(second));
}

/// An address is not taken from a node that nobody expected to have it.
pub async fn assign_from_another_holder_is_stale<H: IpHarness>(harness: &H) {
    let (_guard, ips, address) = opened(harness).await;
    let [first, second, third] = harness.nodes();
    assert_eq!(assign(&ips, address, &first, None).await, AddressOutcome::Applied);
    for expected in [None, Some(&second), Some(&third)] {
        let outcome = assign(&ips, address, &second, expected).await;
        assert_eq!(outcome, AddressOutcome::Stale(Some(first.clone())), "expected {expected:?}");
        assert_eq!(holder(&ips, address).await, Some(first.clone()));
    }
}

/// A node that has the address already is applied, whatever was expected.
pub async fn assigning_again_is_applied<H: IpHarness>(harness: &H) {
    let (_guard, ips, address) = opened(harness).await;
    let [first, second, _] = harness.nodes();
    for expected in [None, None, Some(&first), Some(&second)] {
        assert_eq!(assign(&ips, address, &first, expected).await, AddressOutcome::Applied);
        assert_eq!(holder(&ips, address).await, Some(first.clone()));
    }
}

/// Of two nodes that take an address from one holder at once, one gets it.
pub async fn racing_assigns_have_one_holder<H: IpHarness>(harness: &H) {
    let (guard, ips, address) = opened(harness).await;
    let other_handle = harness.reopen(&guard).await;
    let [old, first, second] = harness.nodes();
    assert_eq!(assign(&ips, address, &old, None).await, AddressOutcome::Applied);
    let outcomes = futures::join!(
        assign(&ips, address, &first, Some(&old)),
        assign(&other_handle, address, &second, Some(&old))
    );
    let winner = match outcomes {
        (AddressOutcome::Applied, AddressOutcome::Stale(Some(holder))) if holder == first => first,
        (AddressOutcome::Stale(Some(holder)), AddressOutcome::Applied) if holder == second => second,
        outcomes => panic!("one of them gets it, and the other learns who: {outcomes:?}"),
    };
    assert_eq!(holder(&ips, address).await, Some(winner));
}

/// While an address goes from node to node, every look at it finds a holder.
pub async fn a_moving_address_belongs_to_somebody_all_the_time<H: IpHarness>(harness: &H) {
    let (guard, ips, address) = opened(harness).await;
    let watching = harness.reopen(&guard).await;
    let [first, second, _] = harness.nodes();
    assert_eq!(assign(&ips, address, &first, None).await, AddressOutcome::Applied);
    let moving = async {
        for round in 0..20 {
            let (from, to) = if round % 2 == 0 { (&first, &second) } else { (&second, &first) };
            assert_eq!(assign(&ips, address, to, Some(from)).await, AddressOutcome::Applied);
            tokio::task::yield_now().await;
        }
    };
    let looking = async {
        for _ in 0..40 {
            assert!(holder(&watching, address).await.is_some());
            tokio::task::yield_now().await;
        }
    };
    futures::join!(moving, looking);
}

/// An address that is taken from its node is still its owner's.
pub async fn unassign_leaves_the_address_allocated<H: IpHarness>(harness: &H) {
    let (_guard, ips, address) = opened(harness).await;
    let [first, ..] = harness.nodes();
    assert_eq!(assign(&ips, address, &first, None).await, AddressOutcome::Applied);
    assert_eq!(unassign(&ips, address, &first).await, AddressOutcome::Applied);
    let expected = AddressStatus { address, owner: id("member-a"), holder: None };
    assert_eq!(status(&ips, address).await, Some(expected));
    assert_eq!(allocate(harness, &ips, "member-a").await, address);
}

/// An address is not taken from a node that nobody expected to have it.
pub async fn unassign_from_another_holder_is_stale<H: IpHarness>(harness: &H) {
    let (_guard, ips, address) = opened(harness).await;
    let [first, second, _] = harness.nodes();
    assert_eq!(assign(&ips, address, &first, None).await, AddressOutcome::Applied);
    assert_eq!(unassign(&ips, address, &second).await, AddressOutcome::Stale(Some(first.clone())));
    assert_eq!(holder(&ips, address).await, Some(first));
}

/// Taking away what nobody has is applied.
pub async fn unassigning_again_is_applied<H: IpHarness>(harness: &H) {
    let (_guard, ips, address) = opened(harness).await;
    let [first, second, _] = harness.nodes();
    assert_eq!(assign(&ips, address, &first, None).await, AddressOutcome::Applied);
    for node in [&first, &first, &second] {
        assert_eq!(unassign(&ips, address, node).await, AddressOutcome::Applied);
    }
    assert_eq!(holder(&ips, address).await, None);
}

/// An address that was given back is nobody's, and its owner gets one anew if it asks.
pub async fn a_released_address_is_unknown<H: IpHarness>(harness: &H) {
    let (_guard, ips, address) = opened(harness).await;
    ips.release(address, &id("member-a")).await.expect("an owner can give its address back");
    assert_eq!(status(&ips, address).await, None);
    assert_eq!(list(&ips).await, []);
    let again = allocate(harness, &ips, "member-a").await;
    assert!(status(&ips, again).await.is_some());
}

/// Giving back what is not allocated is success.
pub async fn releasing_again_is_success<H: IpHarness>(harness: &H) {
    let (_guard, ips, address) = opened(harness).await;
    for _ in 0..2 {
        ips.release(address, &id("member-a")).await.expect("releasing again is success");
    }
    ips.release(address, &id("member-b")).await.expect("nobody has it");
}

/// Only its owner's address is given back.
pub async fn another_owners_address_is_not_released<H: IpHarness>(harness: &H) {
    let (_guard, ips, address) = opened(harness).await;
    refused(ips.release(address, &id("member-b")).await, ErrorKind::Stale);
    assert_eq!(status(&ips, address).await.map(|status| status.owner), Some(id("member-a")));
}

/// An address that a node has is not given back under its feet: it is unassigned first.
pub async fn an_assigned_address_is_not_released<H: IpHarness>(harness: &H) {
    let (_guard, ips, address) = opened(harness).await;
    let [first, ..] = harness.nodes();
    assert_eq!(assign(&ips, address, &first, None).await, AddressOutcome::Applied);
    refused(ips.release(address, &id("member-a")).await, ErrorKind::Busy);
    let expected = AddressStatus { address, owner: id("member-a"), holder: Some(first.clone()) };
    assert_eq!(status(&ips, address).await, Some(expected));
    assert_eq!(allocate(harness, &ips, "member-a").await, address, "it stays its owner's");
    assert_eq!(unassign(&ips, address, &first).await, AddressOutcome::Applied);
    ips.release(address, &id("member-a")).await.expect("nobody has it now");
    assert_eq!(status(&ips, address).await, None);
}

/// The list has every allocated address, assigned or not, and no other.
pub async fn every_allocated_address_is_listed<H: IpHarness>(harness: &H) {
    let (_guard, ips) = harness.open().await;
    assert_eq!(list(&ips).await, []);
    let [first, ..] = harness.nodes();
    let mut expected = Vec::new();
    for owner in ["member-a", "member-b", "member-c"] {
        let address = allocate(harness, &ips, owner).await;
        expected.push(AddressStatus { address, owner: id(owner), holder: None });
    }
    assert_eq!(assign(&ips, expected[1].address, &first, None).await, AddressOutcome::Applied);
    expected[1].holder = Some(first);
    ips.release(expected[2].address, &expected[2].owner).await.expect("an owner can give it back");
    expected.truncate(2);
    expected.sort_by_key(|status| status.address);
    assert_eq!(list(&ips).await, expected);
}

/// What one process changes, every other sees with its next call.
pub async fn a_second_handle_sees_every_change<H: IpHarness>(harness: &H) {
    let (guard, first, address) = opened(harness).await;
    let second = harness.reopen(&guard).await;
    let [old, new, _] = harness.nodes();
    assert_eq!(assign(&first, address, &old, None).await, AddressOutcome::Applied);
    assert_eq!(holder(&second, address).await, Some(old.clone()));
    assert_eq!(assign(&second, address, &new, Some(&old)).await, AddressOutcome::Applied);
    assert_eq!(holder(&first, address).await, Some(new.clone()));
    assert_eq!(unassign(&first, address, &new).await, AddressOutcome::Applied);
    second.release(address, &id("member-a")).await.expect("an owner can give its address back");
    assert_eq!(status(&first, address).await, None);
}
