//! What must hold after every scenario: the same names, addresses and volumes, one running life of each member.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use steadfast_core::model::{MemberPhase, Reason, ServiceState};

use super::cluster::{Cluster, address_of};
use super::{process, until};

/// What makes the members of a service themselves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    service: String,
    members: BTreeMap<String, Member>,
}

/// What makes a member itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    pub host: String,
    pub address: IpAddr,
    pub volumes: BTreeSet<String>,
}

impl Identity {
    /// The members by name.
    pub fn members(&self) -> impl Iterator<Item = (&str, &Member)> {
        self.members.iter().map(|(name, member)| (name.as_str(), member))
    }
}

impl Cluster {
    /// What makes the members of a service themselves, now.
    pub fn identity(&self, service: &str) -> Identity {
        let members = self.service(service).members.into_iter().map(|view| {
            let address = view.address.unwrap_or_else(|| panic!("{} has no address", view.name));
            let volumes = view.volumes.iter().map(ToString::to_string).collect();
            (view.name.to_string(), Member { host: view.host, address, volumes })
        });
        Identity { service: service.to_owned(), members: members.collect() }
    }

    /// Waits until the service is healthy, and checks that every member is itself: the same name, address and
    /// volumes, also in DNS; exactly one life of each runs, the one that is recorded; nobody else may still write;
    /// and no code was a bug's.
    pub fn settled(&self, identity: &Identity) {
        let service = identity.service.as_str();
        until(&format!("{service} is healthy, and each member is known by its one life"), || {
            let view = self.service(service);
            if view.state != ServiceState::Healthy {
                return Err(format!("it is {:?}", view.state));
            }
            for member in &view.members {
                let life = self.guard(member.name.as_str()).incarnation;
                let known = member.incarnation.as_ref().map(ToString::to_string);
                let serves = member.phase == MemberPhase::Serving && member.ready && !member.stale;
                if !serves || known.as_ref() != Some(&life) || !member.unreleased.is_empty() {
                    return Err(format!("life {life} of {member:?}"));
                }
            }
            Ok(())
        });
        assert_eq!(&self.identity(service), identity, "the members are still themselves");
        for (name, member) in &identity.members {
            assert_eq!(address_of(self, &member.host), Ok(member.address), "{name} in DNS");
            self.has_one_writer(name, &member.volumes);
        }
        let bugs: Vec<_> =
            self.events(service).into_iter().filter(|view| view.event.reason == Reason::Internal).collect();
        assert!(bugs.is_empty(), "{bugs:#?}");
    }

    /// Whoever holds a volume's lock belongs to the one guard of its member.
    fn has_one_writer(&self, member: &str, volumes: &BTreeSet<String>) {
        let guard = self.guard(member);
        let descends = |mut pid: i32| {
            while pid > 1 {
                if pid == guard.guard_pid {
                    return true;
                }
                match process::parent(pid) {
                    Some(parent) => pid = parent,
                    // Ended while we looked.
                    None => return true,
                }
            }
            false
        };
        for volume in volumes {
            let lock = self.data().join("volumes").join(volume).join("lock");
            let holders = steadfast_lock::holders(&lock).unwrap();
            assert!(holders.contains(&guard.engine()), "{member} has its volume: {holders:?}, {guard:?}");
            let strangers: Vec<&i32> = holders.iter().filter(|pid| !descends(**pid)).collect();
            assert!(strangers.is_empty(), "{strangers:?} have the volume of {member} too: {guard:?}");
        }
    }
}
