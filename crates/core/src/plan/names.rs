//! The service's own names: all its members, its primary, its replicas, and where to find them by SRV.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};

use super::roles::leads;
use super::{Action, Facts, MemberFacts, Plan};
use crate::model::{Leadership, MemberPhase, Role};
use crate::planted::{self, Planted};
use crate::registry::{DomainName, RecordKind, RecordSet, ServiceTarget};

/// The names a service has besides its members', with what each shall hold; `None`: what it holds is left alone.
fn wanted(facts: &Facts) -> Vec<(DomainName, RecordKind, Option<RecordSet>)> {
    let Ok(own) = facts.zone.child(&facts.service.name) else { return Vec::new() };
    let srv_ports = || facts.revision.blueprint.ports.iter().filter(|port| port.client && facts.srv_records);
    let has_srv = srv_ports().next().is_some();
    let mut all = BTreeSet::new();
    let mut primaries = BTreeSet::new();
    let mut replicas = BTreeSet::new();
    let mut hosts = BTreeSet::new();
    for group in facts.groups() {
        // Who does not count is not shown to clients.
        for (_, name, found) in group.members.iter().filter(|(ordinal, ..)| *ordinal < group.group.voters()) {
            let Some(member) = found else { continue };
            let Some(address) = member.record.address.as_ref().map(|binding| binding.address) else {
                continue;
            };
            all.insert(address);
            if has_srv && let Ok(host) = facts.zone.child(name) {
                hosts.insert(host);
            }
            let is_leader = group.role.is_some_and(|role| role.leader.as_ref() == Some(name));
            let confirmed =
                planted::is(Planted::NameBeforeRole) || group.role.is_some_and(|role| leads(role, *found));
            if is_leader && confirmed {
                primaries.insert(address);
            } else if !is_leader && is_ready_replica(member) {
                replicas.insert(address);
            }
        }
    }
    let mut names = vec![(own.clone(), RecordKind::Addresses, addresses(all))];
    if facts.revision.blueprint.leadership == Leadership::Steadfast {
        // Without a confirmed primary the name keeps what it holds: clients wait for it to come back there.
        for (label, set) in [("primary", primaries), ("replicas", replicas)] {
            if let Ok(name) = own.child(label) {
                names.push((name, RecordKind::Addresses, addresses(set)));
            }
        }
    }
    for port in srv_ports() {
        let Ok(name) = own.child(format_args!("_{}._tcp", port.name)) else { continue };
        let targets: BTreeSet<ServiceTarget> = hosts
            .iter()
            .map(|host| ServiceTarget { priority: 0, weight: 1, port: port.port, target: host.clone() })
            .collect();
        names.push((
            name,
            RecordKind::Services,
            (!targets.is_empty()).then_some(RecordSet::Services(targets)),
        ));
    }
    names
}

fn is_ready_replica(member: &MemberFacts) -> bool {
    member.status.as_ref().is_some_and(|status| status.ready && status.role == Role::Replica)
}

fn addresses(set: BTreeSet<IpAddr>) -> Option<RecordSet> {
    (!set.is_empty()).then_some(RecordSet::Addresses(set))
}

/// The names of members that have left: they hold nothing.
fn left(facts: &Facts) -> impl Iterator<Item = DomainName> {
    let has_left =
        |member: &MemberFacts| member.record.phase == MemberPhase::Removed && !planted::is(Planted::NameLeft);
    let removed = facts.members.iter().filter(move |(_, member)| has_left(member));
    removed.filter_map(|(name, _)| facts.zone.child(name).ok())
}

/// Names that do not hold what they shall.
pub(super) fn publish(facts: &Facts, plan: &mut Plan) {
    // A change that was on its way while the member left may have come after its name was taken away.
    for name in left(facts) {
        if let Some(Some(expected)) = facts.names.get(&(name.clone(), RecordKind::Addresses)) {
            plan.actions.push(Action::RemoveName { name, expected: expected.clone() });
        }
    }
    for (name, kind, set) in wanted(facts) {
        let Some(set) = set else {
            forget_the_gone(facts, name, kind, plan);
            continue;
        };
        // A name that was not looked up is not changed on a guess.
        let Some(holds) = facts.names.get(&(name.clone(), kind)) else { continue };
        if holds.as_ref() != Some(&set) {
            plan.actions.push(Action::SetName { name, set, expected: holds.clone() });
        }
    }
}

/// The name of the replicas goes on leading to those that are not ready now, but not to members that are no more: their
/// addresses may be somebody else's soon.
fn forget_the_gone(facts: &Facts, name: DomainName, kind: RecordKind, plan: &mut Plan) {
    let own = facts.zone.child(&facts.service.name);
    let of_replicas = own.and_then(|own| own.child("replicas")).is_ok_and(|replicas| replicas == name);
    let Some(Some(expected)) = facts.names.get(&(name.clone(), kind)).filter(|_| of_replicas) else { return };
    let RecordSet::Addresses(holds) = expected else { return };
    let of_members = |address: &IpAddr| {
        facts.groups().any(|group| {
            let mut counting = group.members.iter().filter(|(ordinal, ..)| *ordinal < group.group.voters());
            counting.any(|(_, _, found)| {
                found
                    .and_then(|member| member.record.address.as_ref())
                    .is_some_and(|own| own.address == *address)
            })
        })
    };
    let left: BTreeSet<IpAddr> = holds.iter().copied().filter(of_members).collect();
    let expected = expected.clone();
    match addresses(left.clone()) {
        Some(_) if left.len() == holds.len() => {}
        Some(set) => plan.actions.push(Action::SetName { name, set, expected: Some(expected) }),
        None => plan.actions.push(Action::RemoveName { name, expected }),
    }
}

/// Whether every name holds what it shall, so that the service can be found.
pub(super) fn are_published(facts: &Facts) -> bool {
    wanted(facts).into_iter().all(|(name, kind, set)| match set {
        Some(set) => facts.names.get(&(name, kind)) == Some(&Some(set)),
        None => true,
    })
}

/// Every name of the service is taken away. Members' own names go with the members.
pub(super) fn withdraw(facts: &Facts, plan: &mut Plan) {
    for ((name, _), holds) in &facts.names {
        if let Some(expected) = holds {
            plan.actions.push(Action::RemoveName { name: name.clone(), expected: expected.clone() });
        }
    }
}

/// Before the service is marked deleted, every name that looks as if it held nothing is asked to give up what no name
/// of ours ever holds. That changes nothing, and finds what an old answer has hidden: only changes are answered by what
/// is. A name that stays behind leads to an address that may be somebody else's soon.
pub(super) fn make_sure_of_withdrawal(facts: &Facts, plan: &mut Plan) {
    for ((name, kind), holds) in &facts.names {
        if holds.is_none() {
            let expected = match kind {
                RecordKind::Addresses => RecordSet::Addresses(BTreeSet::from([Ipv4Addr::UNSPECIFIED.into()])),
                RecordKind::Services => {
                    let nowhere = ServiceTarget { priority: 0, weight: 0, port: 0, target: name.clone() };
                    RecordSet::Services(BTreeSet::from([nowhere]))
                }
            };
            plan.actions.push(Action::RemoveName { name: name.clone(), expected });
        }
    }
}

impl Facts {
    /// The names to look up before planning.
    pub fn names_of_interest(&self) -> Vec<(DomainName, RecordKind)> {
        let own = wanted(self).into_iter().map(|(name, kind, _)| (name, kind));
        own.chain(left(self).map(|name| (name, RecordKind::Addresses))).collect()
    }
}
