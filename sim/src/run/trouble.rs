//! What a script does to disks, records, nodes and servers, where it takes more than a line.

use std::sync::Arc;

use bytes::Bytes;
use steadfast_core::ids::{MemberName, NodeName};
use steadfast_core::metadata::Key;

use super::fleet::Fleet;
use crate::face::RoleOf;
use crate::model::host::Way;
use crate::model::troubles::Trouble;
use crate::model::{Cloud, Fact};
use crate::time::Time;
use crate::world::World;

/// Something is wrong with a member's disk from now on; 0: until all is repaired.
pub(super) fn begin(world: &World, trouble: Trouble, member: &str, for_ms: u64) {
    let Ok(member) = member.parse::<MemberName>() else { return };
    world.act(|cloud, now| {
        let until = if for_ms == 0 { Time::from_micros(u64::MAX) } else { now.plus_millis(for_ms) };
        cloud.troubles.begin(trouble, &member, until);
    });
}

/// Cuts a node off, one way or both, for a while.
pub(super) fn cut_node(fleet: &Arc<Fleet>, node: &NodeName, way: Way, for_ms: u64) {
    set_cut(fleet.world(), node, Some(way));
    let (world, node) = (fleet.world().clone(), node.clone());
    fleet.world().exec().at(world.now().plus_millis(for_ms), move || {
        let still =
            world.look(|state| state.cloud.hosts.get(&node).is_some_and(|host| host.one_way == Some(way)));
        if still {
            set_cut(&world, &node, None);
        }
    });
}

/// Cuts a node off from now on, or connects it again.
pub(super) fn set_cut(world: &World, node: &NodeName, way: Option<Way>) {
    world.act(|cloud, _| {
        if let Some(host) = cloud.hosts.get_mut(node) {
            host.one_way = way;
        }
    });
    world.reconnect_watchers();
}

/// Cuts a server off, one way or both, for a while.
pub(super) fn cut_server(fleet: &Arc<Fleet>, index: u32, way: Way, for_ms: u64) {
    let actor = format!("server@s{}", index + 1);
    let world = fleet.world().clone();
    let own = actor.clone();
    world.act(|cloud, _| cloud.servers_cut.insert(own, way));
    fleet.world().exec().at(world.now().plus_millis(for_ms), move || {
        world.act(|cloud, _| cloud.servers_cut.remove(&actor));
        world.reconnect_watchers();
    });
}

/// A machine goes for good, and another one of its group comes in its zone.
pub(super) fn replace_node(fleet: &Arc<Fleet>, node: &NodeName, after_ms: u64) {
    let zone = fleet.world().look(|state| state.cloud.hosts.get(node).map(|host| host.zone.clone()));
    fleet.stop_node(node);
    fleet.world().act(|cloud, _| {
        if let Some(host) = cloud.hosts.get_mut(node) {
            host.gone = true;
        }
    });
    let Some(zone) = zone else { return };
    let fleet = Arc::clone(fleet);
    let world = fleet.world().clone();
    world.exec().at(world.now().plus_millis(after_ms), move || fleet.add_node(zone));
}

fn find(cloud: &Cloud, role: &str) -> Option<Key> {
    cloud.store.all().keys().find(|key| RoleOf(key).to_string() == role).cloned()
}

/// The orchestrator gives a member that is assigned to a node to another one as well.
pub(super) fn schedule_twice(world: &World, member: &str, node: &str) {
    world.act(|cloud, now| {
        let own = cloud.store.all().iter().find(|(key, _)| {
            let mut segments = key.segments().skip(2);
            segments.next() == Some("tasks") && segments.nth(1) == Some(member)
        });
        let Some((key, record)) = own.map(|(key, record)| (key.clone(), record.value.clone())) else {
            return;
        };
        let mut segments: Vec<&str> = key.segments().collect();
        if let Some(place) = segments.get_mut(3) {
            *place = node;
        }
        if let Ok(second) = Key::new(segments) {
            cloud.store.poison(&second, record);
            cloud.truth.note(now, Fact::Scripted { text: format!("{member} is given to {node} as well") });
        }
    });
}

/// Half of a record is lost for a while; then it is put back, unless it was written anew.
pub(super) fn poison(world: &World, role: &str, for_ms: u64) {
    let poisoned = world.act(|cloud, _| {
        let key = find(cloud, role)?;
        let before = cloud.store.get(&key)?;
        let half = Bytes::copy_from_slice(before.value.get(..before.value.len() / 2)?);
        cloud.store.poison(&key, half);
        cloud.store.get(&key).map(|broken| (key, before.value, broken.version))
    });
    let Some((key, value, broken)) = poisoned else { return };
    let world = world.clone();
    let exec = world.exec().clone();
    exec.at(exec.now().plus_millis(for_ms), move || {
        world.act(|cloud, _| {
            if cloud.store.get(&key).is_some_and(|record| record.version == broken) {
                cloud.store.poison(&key, value);
            }
        });
    });
}
