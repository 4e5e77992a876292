//! The models: one plain state machine per backend, without futures and without input or output.
//!
//! A model's methods are calls: they take the time and a request, change the state and answer. What a call only
//! begins goes on the [`Agenda`] and is finished by [`Cloud::advance`]. What really happened is written to the
//! [`Truth`], which the invariants read and nobody inside the simulation can.

mod cut;
pub mod dns;
pub mod engine;
pub mod host;
pub mod ips;
pub mod limits;
mod own_disks;
mod preparing;
pub mod profile;
mod quorum;
pub mod recorded;
pub mod store;
pub mod troubles;
pub mod truth;
pub mod volumes;

use std::any::Any;
use std::collections::BTreeMap;
use std::net::IpAddr;

use steadfast_core::engine::Voters;
use steadfast_core::ids::{Incarnation, MemberName, NodeName, ServiceName, VolumeId};
use steadfast_core::registry::{DomainName, RecordKind};

use crate::cast::Model;
use crate::hash;
use crate::time::Time;

pub use profile::Profile;
pub use truth::{Fact, Truth};

/// Something that a model has begun and that ends by itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Due {
    /// A volume's attachment or detachment, the how-manyth move of it.
    Volume(VolumeId, u64),
    /// An address is routed to its new holder.
    Route(IpAddr),
    /// A name's change has come to those who ask for it.
    Name(DomainName, RecordKind),
    /// An engine that starts is up.
    EngineUp(NodeName, MemberName, Incarnation),
    /// An engine that stops has ended.
    EngineEnded(NodeName, MemberName, Incarnation),
    /// A guard has waited long enough for a lock.
    LockPatience(NodeName, MemberName, Incarnation),
    /// A guard's lease may have ended.
    LeaseEnd(NodeName, MemberName, Incarnation),
    /// A replica has received what its primary had at the time.
    Replicated(NodeName, MemberName, Incarnation),
    /// A member of a quorum takes the lead of it.
    Promoted(NodeName, MemberName, Incarnation),
}

impl Due {
    /// The node that has to run for it to happen.
    pub fn node(&self) -> Option<&NodeName> {
        match self {
            Due::Volume(..) | Due::Route(_) | Due::Name(..) => None,
            Due::EngineUp(node, ..)
            | Due::EngineEnded(node, ..)
            | Due::LockPatience(node, ..)
            | Due::LeaseEnd(node, ..)
            | Due::Replicated(node, ..)
            | Due::Promoted(node, ..) => Some(node),
        }
    }
}

/// What is under way, by time.
#[derive(Debug, Default)]
pub struct Agenda {
    due: BTreeMap<(Time, u64), Due>,
    set: u64,
}

impl Agenda {
    /// Puts something on.
    pub fn push(&mut self, at: Time, due: Due) {
        self.set += 1;
        self.due.insert((at, self.set), due);
    }

    /// When the next thing is due.
    pub fn next_due(&self) -> Option<Time> {
        self.due.first_key_value().map(|((at, _), _)| *at)
    }

    fn pop(&mut self, now: Time) -> Option<Due> {
        (self.next_due()? <= now).then(|| self.due.pop_first()).flatten().map(|(_, due)| due)
    }
}

/// Everything outside the processes that are tested: the store, the clouds, the machines, the engines.
#[derive(Debug)]
pub struct Cloud {
    /// How the backends behave.
    pub profile: Profile,
    /// The seed that durations are drawn from.
    pub seed: u64,
    /// The metadata store.
    pub store: store::StoreModel,
    /// The volumes and their data.
    pub volumes: volumes::VolumesModel,
    /// The static addresses.
    pub ips: ips::IpsModel,
    /// The names.
    pub dns: dns::DnsModel,
    /// The machines, with guards and engines.
    pub hosts: host::HostsModel,
    /// Who votes among engines that elect their leader themselves, by service.
    pub quorums: BTreeMap<ServiceName, Voters>,
    /// What is wrong with single disks and volumes.
    pub troubles: troubles::Troubles,
    /// How many calls providers take.
    pub limits: limits::Limits,
    /// The servers that are cut off.
    pub servers_cut: BTreeMap<String, host::Way>,
    /// Backends of whoever uses the simulator.
    pub own: Vec<Box<dyn Model>>,
    /// What is under way.
    pub agenda: Agenda,
    /// What really happened.
    pub truth: Truth,
    /// What records told last.
    pub recorded: recorded::Recorded,
    /// Writes that were confirmed and whose clients are not told yet.
    pub confirmed: Vec<(u64, NodeName)>,
}

impl Cloud {
    /// Nothing yet.
    pub fn new(profile: Profile, seed: u64) -> Self {
        Cloud {
            store: store::StoreModel::default(),
            volumes: volumes::VolumesModel::default(),
            ips: ips::IpsModel::default(),
            dns: dns::DnsModel::default(),
            hosts: host::HostsModel::default(),
            quorums: BTreeMap::new(),
            troubles: troubles::Troubles::default(),
            limits: limits::Limits::of(profile.limits.as_deref()),
            servers_cut: BTreeMap::new(),
            own: Vec::new(),
            agenda: Agenda::default(),
            truth: Truth::default(),
            recorded: recorded::Recorded::default(),
            confirmed: Vec::new(),
            profile,
            seed,
        }
    }

    /// When something happens by itself next.
    pub fn next_due(&self) -> Option<Time> {
        let own = self.own.iter().filter_map(|model| model.next_due());
        own.chain(self.agenda.next_due()).min()
    }

    /// A backend of one's own.
    pub fn own<M: Model>(&self) -> Option<&M> {
        self.own.iter().find_map(|model| (&**model as &dyn Any).downcast_ref())
    }

    /// The same, to change it.
    pub(crate) fn own_mut<M: Model>(&mut self) -> Option<&mut M> {
        self.own.iter_mut().find_map(|model| (&mut **model as &mut dyn Any).downcast_mut())
    }

    /// Lets everything happen that is due.
    pub fn advance(&mut self, now: Time) {
        for model in &mut self.own {
            if model.next_due().is_some_and(|due| due <= now) {
                model.advance(now, &mut self.truth);
            }
        }
        while let Some(due) = self.agenda.pop(now) {
            if let Some(node) = due.node()
                && let Some(host) = self.hosts.get_mut(node)
                && host.paused
            {
                host.held.push(due);
                continue;
            }
            match due {
                Due::Volume(id, moves) => self.finish_volume(now, &id, moves),
                Due::Route(address) => self.ips.settle(address),
                Due::Name(name, kind) => self.dns.settle(&name, kind),
                Due::EngineUp(node, member, life) => self.engine_up(now, &node, &member, &life),
                Due::EngineEnded(node, member, life) => self.engine_stopped(now, &node, &member, &life),
                Due::LockPatience(node, member, life) => self.lock_patience(now, &node, &member, &life),
                Due::LeaseEnd(node, member, life) => self.lease_end(now, &node, &member, &life),
                Due::Replicated(node, member, life) => self.replicated(now, &node, &member, &life),
                Due::Promoted(node, member, life) => self.promoted(now, &node, &member, &life),
            }
        }
    }

    /// A duration of `range`, in milliseconds, random by meaning.
    pub(crate) fn draw(&self, range: (u64, u64), what: &str, nth: u64) -> u64 {
        hash::draw_in(range, self.seed, hash::of_text(what), nth)
    }
}
