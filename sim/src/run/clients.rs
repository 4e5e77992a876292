//! Clients: each writes one number after another, and remembers what it was told is safe.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use steadfast_core::ids::{Incarnation, MemberName, NodeName};
use steadfast_core::registry::DomainName;

use super::fleet::Fleet;
use super::scenario::{Clients, Scenario, ServiceFile};
use crate::hash;
use crate::model::Fact;
use crate::time::Time;
use crate::world::World;

/// A client of one service.
struct Client {
    world: World,
    fleet: std::sync::Weak<Fleet>,
    name: DomainName,
    clients: Clients,
    label: u64,
    cache: Option<(Time, Vec<IpAddr>)>,
    connection: Option<(NodeName, MemberName, Incarnation)>,
    /// Which of the addresses to try.
    turn: usize,
    written: u64,
}

/// So many writes of one client are told apart from another's.
const STRIDE: u64 = 1_000_000;

fn name_of(index: u32, service: &str) -> String {
    format!("client {index} of {service}")
}

/// Where the numbers begin that a client of a service writes.
pub fn first_write(index: u32, service: &str) -> u64 {
    (hash::of_text(&name_of(index, service)) % 1_000_000) * STRIDE
}

/// Which client wrote a number: the same for all of one's.
pub fn client_of(write: u64) -> u64 {
    write / STRIDE
}

/// Starts the clients of a service.
pub(super) fn start(fleet: &Arc<Fleet>, scenario: &Scenario, file: &ServiceFile) -> Result<(), String> {
    let name = fleet.client_name(file).ok_or("the service has no name")?;
    for index in 0..scenario.clients.per_service {
        let world = fleet.world().clone();
        let text = name_of(index, &file.name);
        let process = world.exec().process(&text);
        let label = hash::of_text(&text);
        let client = Client {
            fleet: Arc::downgrade(fleet),
            name: name.clone(),
            clients: scenario.clients,
            label,
            cache: None,
            connection: None,
            turn: 0,
            written: first_write(index, &file.name),
            world: world.clone(),
        };
        world.exec().spawn(process, "client", Box::pin(client.run()));
    }
    Ok(())
}

impl Client {
    async fn run(mut self) {
        loop {
            self.world.exec().sleep(Duration::from_millis(self.clients.every_ms)).await;
            self.written += 1;
            let write = self.written;
            let patience = self.world.exec().sleep(Duration::from_millis(self.clients.patience_ms));
            let confirmed = {
                let attempt = self.write(write).fuse();
                futures::pin_mut!(attempt);
                let patience = patience.fuse();
                futures::pin_mut!(patience);
                futures::select_biased! {
                    done = attempt => done,
                    () = patience => false,
                }
            };
            self.world.give_up(write);
            if !confirmed {
                self.connection = None;
                self.turn += 1;
            }
            self.world.act(|cloud, now| {
                let fact = if confirmed { Fact::Acknowledged { write } } else { Fact::WriteFailed { write } };
                cloud.truth.note(now, fact);
            });
        }
    }

    /// Sends a write; returns when it is confirmed, or refused.
    async fn write(&mut self, write: u64) -> bool {
        if self.connection.is_none() {
            self.connection = self.connect();
        }
        let Some((node, member, life)) = self.connection.clone() else { return false };
        let takes = hash::draw_in((0, 3), self.world.seed(), self.label, write);
        self.world.exec().sleep(Duration::from_millis(takes)).await;
        let confirmation = self.world.confirmation(write);
        let taken = self.world.act(|cloud, now| {
            cloud.truth.sent.insert(write);
            match cloud.hosts.get(&node) {
                Some(host) if host.cut.clients => Err("no route"),
                Some(_) => cloud.client_write(now, &node, &member, &life, write),
                None => Err("no route"),
            }
        });
        if taken.is_err() {
            return false;
        }
        confirmation.await;
        true
    }

    /// Finds the member that its name leads to.
    fn connect(&mut self) -> Option<(NodeName, MemberName, Incarnation)> {
        let now = self.world.now();
        if self.cache.as_ref().is_none_or(|(until, _)| now >= *until) {
            let found = self.fleet.upgrade()?.resolve(&self.name);
            let ttl = self.world.look(|state| state.cloud.profile.ttl_ms);
            let ttl = self.clients.cache_ms.unwrap_or(ttl);
            self.cache = (!found.is_empty()).then(|| (now.plus_millis(ttl), found));
        }
        let (_, addresses) = self.cache.as_ref()?;
        let address = *addresses.get(self.turn % addresses.len().max(1))?;
        self.world.look(|state| {
            let (node, member) = state.cloud.engine_at(address)?;
            let host = state.cloud.hosts.get(&node).filter(|host| !host.cut.clients && !host.paused)?;
            let life = host.guards.get(&member)?.life().clone();
            Some((node, member, life))
        })
    }
}
