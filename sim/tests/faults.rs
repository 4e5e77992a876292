//! What a fault does to an answer, and where it cannot: no contract promises less than what the model takes away.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

use std::collections::BTreeSet;
use std::future::Future;
use std::net::IpAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt as _;
use steadfast_core::metadata::{CasOutcome, Hint, Precondition};
use steadfast_core::registry::{RecordKind, RecordSet};
use steadfast_sim::cast::{Cast, Seat};
use steadfast_sim::fault::{Class, Fault, HINT, Planned};
use steadfast_sim::model::Profile;
use steadfast_sim::run::{Outcome, Scenario, run_with};
use steadfast_sim::search::sites::calls;
use steadfast_sim::time::Time;

/// What a program has heard, in order.
type Heard = Arc<Mutex<Vec<String>>>;

fn note(heard: &Heard, text: impl Into<String>) {
    heard.lock().unwrap().push(text.into());
}

/// A run of one program, with a fault at the `nth` call of an operation; and what the program has heard.
fn hear<F>(
    profile: &Profile,
    fault: Option<(&str, u32, Fault)>,
    program: fn(Seat, Heard) -> F,
) -> (Outcome, Vec<String>)
where
    F: Future<Output = ()> + Send + 'static,
{
    let mut scenario = Scenario { profile: profile.clone(), ..Scenario::bare("asker", 1) };
    if let Some((operation, nth, fault)) = fault {
        let (calm, _) = hear(profile, None, program);
        let site = calm.sites.iter().find(|site| site.operation == operation).unwrap();
        scenario.plan.faults.push(Planned { at: site.key(nth), fault });
    }
    let heard = Heard::default();
    let told = Arc::clone(&heard);
    let cast = Cast::new().program("asker", move |seat| program(seat, Arc::clone(&told)));
    let outcome = run_with(&scenario, &cast).unwrap();
    assert_eq!((&outcome.violations, outcome.unfired), (&Vec::new(), 0));
    let heard = heard.lock().unwrap().clone();
    (outcome, heard)
}

fn changed(outcome: &Outcome) -> Vec<bool> {
    outcome.fired.iter().map(|fired| fired.changed).collect()
}

/// Watches, writes three records, reads them page by page, and tells what it was answered and what it was hinted at.
async fn writes(seat: Seat, heard: Heard) {
    let records = seat.store().records();
    let things = records.key(["things"]).unwrap();
    let hints = records.db().watch(&things).await.unwrap();
    for name in ["one", "two", "three"] {
        let key = records.key(["things", name]).unwrap();
        let value = Bytes::from_static(b"a thing");
        let outcome = records.db().put(&key, value, Precondition::Absent).await.unwrap();
        note(&heard, if outcome == CasOutcome::Conflict { "conflict" } else { "applied" });
    }
    let mut after = None;
    loop {
        let page = records.db().scan(&things, after.as_ref(), 10).await.unwrap();
        note(&heard, format!("{} and {}", page.items.len(), if page.more { "more" } else { "no more" }));
        match page.items.last() {
            Some((last, _)) if page.more => after = Some(last.clone()),
            _ => break,
        }
    }
    let hinted = hints.filter_map(|hint| async move {
        let Hint::Changed(key) = hint else { return None };
        key.segments().last().map(str::to_owned)
    });
    let all = hinted.take_until(seat.env().clock().sleep(Duration::from_secs(5)));
    note(&heard, all.collect::<BTreeSet<_>>().await.into_iter().collect::<Vec<_>>().join(" "));
}

#[test]
fn a_request_that_something_below_has_made_twice_is_answered_as_the_second_time() {
    let (_, calm) = hear(&Profile::embedded(), None, writes);
    assert_eq!(calm, ["applied", "applied", "applied", "3 and no more", "one three two"]);
    let fault = ("metadata.put", 0, Fault::Duplicate(3_000));
    let (outcome, heard) = hear(&Profile::embedded(), Some(fault), writes);
    assert_eq!(heard, ["conflict", "applied", "applied", "3 and no more", "one three two"]);
    assert_eq!(changed(&outcome), [true]);
}

#[test]
fn a_page_of_the_store_may_end_early_but_says_so() {
    let fault = ("metadata.scan", 0, Fault::PartialList);
    let (outcome, heard) = hear(&Profile::embedded(), Some(fault), writes);
    assert_eq!(heard[3..5], ["1 and more", "2 and no more"]);
    assert_eq!(changed(&outcome), [true]);
}

#[test]
fn a_hint_that_is_missed_is_the_only_one() {
    let (outcome, heard) = hear(&Profile::embedded(), Some((HINT, 0, Fault::MissedEvent)), writes);
    assert_eq!(heard.last().unwrap(), "three two");
    assert_eq!(changed(&outcome), [true]);
}

/// Asks what a name holds: before it is given an address, afterwards, and when some time has gone by.
async fn names(seat: Seat, heard: Heard) {
    let backends = seat.backends();
    let name = backends.zone.child("thing").unwrap();
    let look = async || match backends.registry.resolve(&name, RecordKind::Addresses).await.unwrap() {
        Some(_) => note(&heard, "an address"),
        None => note(&heard, "nothing"),
    };
    look().await;
    let address: IpAddr = [10, 0, 0, 1].into();
    let set = RecordSet::Addresses([address].into());
    let _applied = backends.registry.upsert(&name, &set, None).await.unwrap();
    look().await;
    seat.env().clock().sleep(Duration::from_secs(20)).await;
    look().await;
    let _removed = backends.registry.remove(&name, &set).await.unwrap();
}

#[test]
fn clouds_tell_for_a_while_what_was_so_before_and_one_machine_does_not() {
    let told = |profile: &Profile, nth| {
        let (outcome, heard) = hear(profile, Some(("registry.resolve", nth, Fault::StaleRead)), names);
        (heard.join(", "), changed(&outcome))
    };
    let cloud = Profile::block_storage();
    assert_eq!(told(&cloud, 0), ("nothing, an address, an address".to_owned(), vec![false]));
    assert_eq!(told(&cloud, 1), ("nothing, nothing, an address".to_owned(), vec![true]));
    assert_eq!(told(&cloud, 2), ("nothing, an address, an address".to_owned(), vec![false]), "too long ago");
    assert_eq!(told(&Profile::embedded(), 1).1, [false]);
}

/// The calls of a run that a fault of this class would change, by number.
fn telling(profile: &Profile, operation: &str, class: Class) -> Vec<u32> {
    let (outcome, _) = if operation == "registry.resolve" {
        hear(profile, None, names)
    } else {
        hear(profile, None, writes)
    };
    let found = calls(&outcome, Time::ZERO, Time::from_millis(60_000));
    let (_, calls) = found.iter().find(|(site, _)| site.operation == operation).unwrap();
    calls.chosen(class, 10).into_iter().map(|key| key.nth).collect()
}

#[test]
fn a_run_tells_which_of_its_calls_a_fault_would_make_a_difference_to() {
    let (cloud, embedded) = (Profile::block_storage(), Profile::embedded());
    assert_eq!(telling(&cloud, "registry.resolve", Class::StaleRead), [1]);
    assert_eq!(telling(&embedded, "registry.resolve", Class::StaleRead), Vec::<u32>::new());
    assert_eq!(telling(&embedded, "registry.resolve", Class::Slow), [0, 1, 2]);
    assert_eq!(telling(&embedded, "metadata.scan", Class::PartialList), [0]);
    assert_eq!(telling(&cloud, "metadata.scan", Class::StaleRead), Vec::<u32>::new(), "it is linearizable");
}
