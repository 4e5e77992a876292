//! The rules of [`Registry`].

use std::collections::BTreeSet;
use std::net::IpAddr;

use futures::future::join_all;

use super::{Harness, id, refused, skip};
use crate::error::ErrorKind;
use crate::registry::{DomainName, NameOutcome, RecordKind, RecordSet, Registry, ServiceTarget};

/// How a registry under test is opened, and where in DNS it may write.
pub trait RegistryHarness: Harness<Backend: Registry> {
    /// A zone that the suite may make and fill.
    fn zone(&self) -> DomainName {
        id("conformance.steadfast.internal")
    }

    /// A zone besides that one, which the suite may make and fill too.
    fn other_zone(&self) -> DomainName {
        id("other.steadfast.internal")
    }
}

/// Makes a test of each rule of [`Registry`]; see [`conformance`](crate::conformance).
#[macro_export]
macro_rules! registry_conformance {
    (#[$attribute:meta] $harness:expr) => {
        $crate::__conformance_tests! {
            #[$attribute] registry, $harness,
            ensuring_a_zone_again_keeps_its_records
            an_unknown_name_resolves_to_nothing
            a_name_is_made_and_resolved
            a_change_needs_the_expected_value
            repeating_an_upsert_is_applied
            racing_upserts_apply_once
            racing_creations_apply_once
            an_empty_set_is_refused
            a_name_outside_every_zone_is_refused
            the_kinds_of_a_name_are_apart
            both_families_share_a_set
            a_removal_needs_the_expected_value
            removing_nothing_is_applied
            a_removed_name_can_be_made_again
            the_records_of_a_zone_are_listed_in_order
            a_second_handle_sees_every_change
        }
    };
    ($harness:expr) => {
        $crate::registry_conformance!(
            #[::tokio::test]
            $harness
        );
    };
}

fn addresses<const N: usize>(texts: [&str; N]) -> RecordSet {
    RecordSet::Addresses(texts.into_iter().map(id::<IpAddr>).collect())
}

async fn opened<H: RegistryHarness>(harness: &H) -> (H::Guard, H::Backend, DomainName) {
    let (guard, registry) = harness.open().await;
    ensure(&registry, &harness.zone()).await;
    let name = child(&harness.zone(), "orders-0");
    (guard, registry, name)
}

fn child(zone: &DomainName, label: &str) -> DomainName {
    zone.child(label).expect("a short label under a zone is a name")
}

async fn ensure(registry: &impl Registry, zone: &DomainName) {
    registry.ensure_zone(zone).await.expect("a zone that the harness gave can be made");
}

async fn upsert(
    registry: &impl Registry,
    name: &DomainName,
    set: &RecordSet,
    expected: Option<&RecordSet>,
) -> NameOutcome {
    registry.upsert(name, set, expected).await.expect("an upsert on a healthy backend is answered")
}

async fn remove(registry: &impl Registry, name: &DomainName, expected: &RecordSet) -> NameOutcome {
    registry.remove(name, expected).await.expect("a removal on a healthy backend is answered")
}

async fn resolve(registry: &impl Registry, name: &DomainName) -> Option<RecordSet> {
    registry.resolve(name, RecordKind::Addresses).await.expect("a healthy backend resolves")
}

/// Making a zone that exists is success, and its records stay.
pub async fn ensuring_a_zone_again_keeps_its_records<H: RegistryHarness>(harness: &H) {
    let (_guard, registry, name) = opened(harness).await;
    let set = addresses(["127.0.1.1"]);
    assert_eq!(upsert(&registry, &name, &set, None).await, NameOutcome::Applied);
    ensure(&registry, &harness.zone()).await;
    assert_eq!(resolve(&registry, &name).await, Some(set));
}

/// A name that was never given a value resolves to nothing, and is no error.
pub async fn an_unknown_name_resolves_to_nothing<H: RegistryHarness>(harness: &H) {
    let (_guard, registry, name) = opened(harness).await;
    assert_eq!(resolve(&registry, &name).await, None);
    assert_eq!(resolve(&registry, &harness.zone()).await, None);
}

/// What was applied is what the authority says, at once.
pub async fn a_name_is_made_and_resolved<H: RegistryHarness>(harness: &H) {
    let (_guard, registry, name) = opened(harness).await;
    for label in ["orders-0", "_sub", "a-very-long-label-that-is-still-a-label", "9"] {
        let name = child(&harness.zone(), label);
        assert_eq!(upsert(&registry, &name, &addresses(["127.0.1.1"]), None).await, NameOutcome::Applied);
        assert_eq!(resolve(&registry, &name).await, Some(addresses(["127.0.1.1"])));
    }
    let (old, new) = (addresses(["127.0.1.1"]), addresses(["127.0.1.2", "127.0.1.3"]));
    assert_eq!(upsert(&registry, &name, &new, Some(&old)).await, NameOutcome::Applied);
    assert_eq!(resolve(&registry, &name).await, Some(new));
}

/// A change that expects another value than there is, or a value where there is none, or none where there is
/// one, says what there is and changes nothing.
pub async fn a_change_needs_the_expected_value<H: RegistryHarness>(harness: &H) {
    let (_guard, registry, name) = opened(harness).await;
    let [one, two, three] = ["127.0.1.1", "127.0.1.2", "127.0.1.3"].map(|address| addresses([address]));
    assert_eq!(upsert(&registry, &name, &two, Some(&one)).await, NameOutcome::Stale(None));
    assert_eq!(resolve(&registry, &name).await, None);
    assert_eq!(upsert(&registry, &name, &one, None).await, NameOutcome::Applied);
    for expected in [None, Some(&two), Some(&three)] {
        // Expecting what one wants is still expecting something else than there is.
        let outcome = upsert(&registry, &name, &three, expected).await;
        assert_eq!(outcome, NameOutcome::Stale(Some(one.clone())), "expected {expected:?}");
        assert_eq!(resolve(&registry, &name).await, Some(one.clone()));
    }
}

/// A name that holds the value already is applied whatever was expected, so that a change can be repeated.
pub async fn repeating_an_upsert_is_applied<H: RegistryHarness>(harness: &H) {
    let (_guard, registry, name) = opened(harness).await;
    let (old, new) = (addresses(["127.0.1.1"]), addresses(["127.0.1.2"]));
    assert_eq!(upsert(&registry, &name, &old, None).await, NameOutcome::Applied);
    assert_eq!(upsert(&registry, &name, &new, Some(&old)).await, NameOutcome::Applied);
    for expected in [Some(&old), None, Some(&new)] {
        assert_eq!(upsert(&registry, &name, &new, expected).await, NameOutcome::Applied);
    }
    assert_eq!(resolve(&registry, &name).await, Some(new));
}

/// Of many changes with one expectation, one is applied, and its value stands.
pub async fn racing_upserts_apply_once<H: RegistryHarness>(harness: &H) {
    let (guard, registry, name) = opened(harness).await;
    let second = harness.reopen(&guard).await;
    let begin = addresses(["127.0.1.1"]);
    assert_eq!(upsert(&registry, &name, &begin, None).await, NameOutcome::Applied);
    race(&registry, &second, &name, Some(&begin)).await;
}

/// Of many creations of one name, one is applied, and its value stands.
pub async fn racing_creations_apply_once<H: RegistryHarness>(harness: &H) {
    let (guard, registry, name) = opened(harness).await;
    let second = harness.reopen(&guard).await;
    race(&registry, &second, &name, None).await;
}

async fn race<R: Registry>(first: &R, second: &R, name: &DomainName, expected: Option<&RecordSet>) {
    let racers = (0..8).map(|n| async move {
        let registry = if n % 2 == 0 { first } else { second };
        let set = addresses([format!("127.0.2.{n}").as_str()]);
        let outcome = upsert(registry, name, &set, expected).await;
        (set, outcome)
    });
    let outcomes = join_all(racers).await;
    let mut applied = outcomes.into_iter().filter(|(_, outcome)| *outcome == NameOutcome::Applied);
    let (winner, _) = applied.next().expect("one of them is applied");
    assert_eq!(applied.next(), None, "only one of them is applied");
    assert_eq!(resolve(second, name).await, Some(winner));
}

/// No value means no record: an empty set is refused, for a name that is there and for one that is not.
pub async fn an_empty_set_is_refused<H: RegistryHarness>(harness: &H) {
    let (_guard, registry, name) = opened(harness).await;
    refused(registry.upsert(&name, &addresses([]), None).await, ErrorKind::Invalid);
    let set = addresses(["127.0.1.1"]);
    assert_eq!(upsert(&registry, &name, &set, None).await, NameOutcome::Applied);
    refused(registry.upsert(&name, &addresses([]), Some(&set)).await, ErrorKind::Invalid);
    assert_eq!(resolve(&registry, &name).await, Some(set));
}

/// A name outside every zone is refused, also one that merely ends alike.
pub async fn a_name_outside_every_zone_is_refused<H: RegistryHarness>(harness: &H) {
    let (_guard, registry, _) = opened(harness).await;
    let alike: DomainName = id(format!("x{}", harness.zone()));
    for name in [child(&harness.other_zone(), "orders-0"), alike] {
        refused(registry.upsert(&name, &addresses(["127.0.1.1"]), None).await, ErrorKind::Invalid);
        assert_eq!(resolve(&registry, &name).await, None);
    }
}

/// Addresses and services of one name are two values: neither is expected, changed or removed with the other.
pub async fn the_kinds_of_a_name_are_apart<H: RegistryHarness>(harness: &H) {
    let (_guard, registry, name) = opened(harness).await;
    if !registry.capabilities().services {
        return skip("the_kinds_of_a_name_are_apart", &registry, "keeps no SRV records");
    }
    let targets = [(10, 1, 5432), (20, 2, 5433)].map(|(priority, weight, port)| ServiceTarget {
        priority,
        weight,
        port,
        target: name.clone(),
    });
    let services = RecordSet::Services(BTreeSet::from(targets));
    let set = addresses(["127.0.1.1"]);
    assert_eq!(upsert(&registry, &name, &set, None).await, NameOutcome::Applied);
    assert_eq!(upsert(&registry, &name, &services, None).await, NameOutcome::Applied);
    assert_eq!(resolve(&registry, &name).await, Some(set.clone()));
    assert_eq!(remove(&registry, &name, &set).await, NameOutcome::Applied);
    assert_eq!(resolve(&registry, &name).await, None);
    let found = registry.resolve(&name, RecordKind::Services).await.expect("a healthy backend resolves");
    assert_eq!(found, Some(services));
}

/// Addresses of IPv4 and IPv6 are one value.
pub async fn both_families_share_a_set<H: RegistryHarness>(harness: &H) {
    let (_guard, registry, name) = opened(harness).await;
    let (both, four) = (addresses(["127.0.1.1", "::1"]), addresses(["127.0.1.1"]));
    assert_eq!(upsert(&registry, &name, &both, None).await, NameOutcome::Applied);
    assert_eq!(resolve(&registry, &name).await, Some(both.clone()));
    assert_eq!(upsert(&registry, &name, &four, Some(&four)).await, NameOutcome::Stale(Some(both.clone())));
    assert_eq!(upsert(&registry, &name, &four, Some(&both)).await, NameOutcome::Applied);
    assert_eq!(resolve(&registry, &name).await, Some(four));
}

/// A removal that expects another value says what there is and removes nothing.
pub async fn a_removal_needs_the_expected_value<H: RegistryHarness>(harness: &H) {
    let (_guard, registry, name) = opened(harness).await;
    let (set, other) = (addresses(["127.0.1.1"]), addresses(["127.0.1.2"]));
    assert_eq!(upsert(&registry, &name, &set, None).await, NameOutcome::Applied);
    assert_eq!(remove(&registry, &name, &other).await, NameOutcome::Stale(Some(set.clone())));
    assert_eq!(resolve(&registry, &name).await, Some(set.clone()));
    assert_eq!(remove(&registry, &name, &set).await, NameOutcome::Applied);
    assert_eq!(resolve(&registry, &name).await, None);
}

/// Removing what is not there is applied, so that a removal can be repeated.
pub async fn removing_nothing_is_applied<H: RegistryHarness>(harness: &H) {
    let (_guard, registry, name) = opened(harness).await;
    let set = addresses(["127.0.1.1"]);
    assert_eq!(remove(&registry, &name, &set).await, NameOutcome::Applied);
    assert_eq!(upsert(&registry, &name, &set, None).await, NameOutcome::Applied);
    for _ in 0..2 {
        assert_eq!(remove(&registry, &name, &set).await, NameOutcome::Applied);
    }
}

/// After its removal a name is as if it had never been.
pub async fn a_removed_name_can_be_made_again<H: RegistryHarness>(harness: &H) {
    let (_guard, registry, name) = opened(harness).await;
    let (old, new) = (addresses(["127.0.1.1"]), addresses(["127.0.1.2"]));
    assert_eq!(upsert(&registry, &name, &old, None).await, NameOutcome::Applied);
    assert_eq!(remove(&registry, &name, &old).await, NameOutcome::Applied);
    assert_eq!(upsert(&registry, &name, &new, Some(&old)).await, NameOutcome::Stale(None));
    assert_eq!(upsert(&registry, &name, &new, None).await, NameOutcome::Applied);
    assert_eq!(resolve(&registry, &name).await, Some(new));
}

/// A zone's records are those of its names and no other's, by name.
pub async fn the_records_of_a_zone_are_listed_in_order<H: RegistryHarness>(harness: &H) {
    let (_guard, registry, _) = opened(harness).await;
    ensure(&registry, &harness.other_zone()).await;
    let listed = |zone: DomainName| {
        let registry = &registry;
        async move { registry.records(&zone).await.expect("a healthy backend lists") }
    };
    assert_eq!(listed(harness.zone()).await, []);
    let set = addresses(["127.0.1.1"]);
    let mut names = ["b", "a", "c.a", "a-1"].map(|label| id(format!("{label}.{}", harness.zone())));
    let other = child(&harness.other_zone(), "a");
    for name in names.iter().chain([&other]) {
        assert_eq!(upsert(&registry, name, &set, None).await, NameOutcome::Applied);
    }
    names.sort();
    assert_eq!(listed(harness.zone()).await, names.map(|name| (name, set.clone())));
    assert_eq!(listed(harness.other_zone()).await, [(other, set)]);
}

/// What one process changes, every other sees with its next call.
pub async fn a_second_handle_sees_every_change<H: RegistryHarness>(harness: &H) {
    let (guard, first, name) = opened(harness).await;
    let second = harness.reopen(&guard).await;
    let (old, new) = (addresses(["127.0.1.1"]), addresses(["127.0.1.2"]));
    assert_eq!(upsert(&first, &name, &old, None).await, NameOutcome::Applied);
    assert_eq!(resolve(&second, &name).await, Some(old.clone()));
    assert_eq!(upsert(&second, &name, &new, Some(&old)).await, NameOutcome::Applied);
    assert_eq!(resolve(&first, &name).await, Some(new.clone()));
    assert_eq!(remove(&first, &name, &new).await, NameOutcome::Applied);
    assert_eq!(resolve(&second, &name).await, None);
}
