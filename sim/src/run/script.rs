//! What happens to the environment at given times, and what users ask.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use steadfast_core::ids::NodeName;

use super::fleet::Fleet;
use super::scenario::{Scenario, ServiceFile};
use super::trouble;
use crate::key::Key;
use crate::model::engine::Doing;
use crate::model::host::{Cut, Way};
use crate::model::troubles::Trouble;
use crate::model::{Cloud, Fact};
use crate::time::Time;

/// Something that happens at a time.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scripted {
    /// When, in milliseconds.
    pub at_ms: u64,
    /// What.
    pub action: Action,
}

/// Something that happens when a call is made: before it is on its way.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Triggered {
    /// The call.
    pub key: Key,
    /// What.
    pub action: Action,
}

/// A node, by name or by what runs on it when the time comes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Target {
    /// This one.
    Node(String),
    /// The one that runs this member's engine.
    HolderOf(String),
    /// The one that runs the member of this service that takes writes.
    PrimaryOf(String),
    /// The one on whose own disk this member's volumes lie, whatever runs there.
    DiskOf(String),
}

/// What happens. Times are in milliseconds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// A machine is switched off.
    StopNode(Target),
    /// A machine is switched on.
    StartNode(Target),
    /// Every machine that is off is switched on.
    StartAllNodes,
    /// A machine stands still for so long: agent, guards and engines.
    PauseNode(Target, u64),
    /// A machine is cut off for so long, and runs on.
    CutNode(Target, Cut, u64),
    /// An agent ends where it is, and is started again.
    CrashAgent(Target),
    /// An agent stands still for so long.
    PauseAgent(Target, u64),
    /// A server ends where it is, and is started again.
    CrashServer(u32),
    /// A server stands still for so long.
    PauseServer(u32, u64),
    /// An engine ends by itself.
    CrashEngine(String),
    /// A contract (`metadata`, `volume`, `ip`, `registry`, `prover`) fails for so long.
    Outage(String, u64),
    /// Everything that lies on a member's volumes is gone.
    LoseData(String),
    /// A machine's wall clock is set forward or back.
    JumpClock(Target, i64),
    /// A machine is cut off from the store and the clouds' interfaces, one way or both, for so long.
    CutWay(Target, Way, u64),
    /// A server is cut off, one way or both, for so long.
    CutServer(u32, Way, u64),
    /// A machine is asked to shut down and hangs: its agent is gone, what else runs on it runs on for so long.
    ShutDownSlowly(Target, u64),
    /// A machine is switched off, and on again after so long.
    RebootNode(Target, u64),
    /// A machine is gone for good, and its group starts another one in its zone after so long.
    ReplaceNode(Target, u64),
    /// Every agent stands still for so long: past their leases, these all end at once.
    PauseAllAgents(u64),
    /// A server's wall clock is set forward or back.
    JumpServerClock(u32, i64),
    /// The disk of a member answers nothing for so long.
    HangDisk(String, u64),
    /// The disk of a member is full for so long.
    FillDisk(String, u64),
    /// The volumes of a member finish neither attaching nor detaching for so long; 0: until all is repaired.
    StickVolume(String, u64),
    /// A contract takes only so many calls a second for so long; the rest is refused for its rate.
    Throttle(String, u64, u64),
    /// The orchestrator gives a member to a second node as well.
    ScheduleTwice(String, String),
    /// A record, named by what comes after the cluster (`services/orders`), cannot be understood for so long.
    Poison(String, u64),
    /// A user applies a service file.
    Apply(ServiceFile),
    /// A user brings a service to another service file.
    Upgrade(ServiceFile),
    /// A user asks for an operation (`switchover`, `switchover to MEMBER`, `scale to COUNT`, `roll_back` to the first revision, `stop`, `start`, `restart`, `delete`, `undelete`) on a service.
    Ask(String, String),
    /// An operator confirms that a node is dead.
    ConfirmDead(Target),
    /// A machine is switched off and its own disk is gone for good: should it be switched on, it is as if new.
    LoseDisk(Target),
    /// An operator says that the disk is gone on which a member's volumes lie, for the member to be rebuilt elsewhere:
    /// again and again if that is so, and once if it is not.
    Rebuild(String),
}

/// Sets everything that is to happen.
pub(super) fn schedule(fleet: &Arc<Fleet>, scenario: &Scenario) {
    for Scripted { at_ms, action } in &scenario.script {
        let (fleet, action) = (Arc::clone(fleet), action.clone());
        let exec = fleet.world().exec().clone();
        exec.at(Time::from_millis(*at_ms), move || act(&fleet, &action));
    }
    for Triggered { key, action } in &scenario.triggers {
        let (fleet, action) = (Arc::clone(fleet), action.clone());
        let world = fleet.world().clone();
        world.when(key, move || act(&fleet, &action));
    }
}

fn find(cloud: &Cloud, target: &Target) -> Option<NodeName> {
    match target {
        Target::Node(name) => name.parse().ok(),
        Target::HolderOf(member) => {
            let mut engines = cloud.hosts.engines();
            engines.find(|(_, name, ..)| name.as_str() == member).map(|(node, ..)| node.clone())
        }
        Target::PrimaryOf(service) => {
            let mut engines = cloud.hosts.engines();
            let leads = engines.find(|(_, _, _, engine)| {
                engine.doing == Doing::Leading && engine.launch.service.as_str() == service
            });
            leads.map(|(node, ..)| node.clone())
        }
        Target::DiskOf(member) => cloud.disk_of(&member.parse().ok()?),
    }
}

/// Does it now.
pub(super) fn act(fleet: &Arc<Fleet>, action: &Action) {
    let world = fleet.world().clone();
    let text = format!("{action:?}");
    let node = |target: &Target| world.look(|state| find(&state.cloud, target));
    world.act(|cloud, now| cloud.truth.note(now, Fact::Scripted { text }));
    let later = |after_ms: u64, action: Action| {
        let fleet = Arc::clone(fleet);
        world.exec().at(world.now().plus_millis(after_ms), move || act(&fleet, &action));
    };
    match action {
        Action::StopNode(target) => {
            if let Some(node) = node(target) {
                fleet.stop_node(&node);
            }
        }
        Action::StartNode(target) => {
            if let Some(node) = node(target) {
                fleet.start_node(&node);
            }
        }
        Action::StartAllNodes => fleet.start_all_nodes(&[]),
        Action::PauseNode(target, for_ms) => {
            if let Some(node) = node(target) {
                fleet.pause_node(&node, *for_ms);
            }
        }
        Action::CutNode(target, cut, for_ms) => {
            if let Some(node) = node(target) {
                fleet.cut_node(&node, *cut);
                if *cut != Cut::default() {
                    later(*for_ms, Action::CutNode(Target::Node(node.to_string()), Cut::default(), 0));
                }
            }
        }
        Action::CrashAgent(target) => {
            if let Some(process) = node(target).and_then(|node| fleet.agent(&node)) {
                world.crash(process);
            }
        }
        Action::PauseAgent(target, for_ms) => {
            if let Some(process) = node(target).and_then(|node| fleet.agent(&node)) {
                world.pause(process, *for_ms);
            }
        }
        Action::CrashServer(index) => {
            if let Some(process) = fleet.server(*index) {
                world.crash(process);
            }
        }
        Action::PauseServer(index, for_ms) => {
            if let Some(process) = fleet.server(*index) {
                world.pause(process, *for_ms);
            }
        }
        Action::CrashEngine(member) => {
            if let (Some(node), Ok(member)) = (node(&Target::HolderOf(member.clone())), member.parse()) {
                world.act(|cloud, now| cloud.crash_engine(now, &node, &member, "it crashed"));
            }
        }
        Action::Outage(contract, for_ms) => world.fail(contract, *for_ms),
        Action::LoseData(member) => world.act(|cloud, _| cloud.lose_data(member)),
        Action::JumpClock(target, by_ms) => {
            if let Some(node) = node(target) {
                world.look(|state| {
                    if let Some(host) = state.cloud.hosts.get(&node) {
                        host.clock.jump(*by_ms);
                    }
                });
            }
        }
        Action::CutWay(target, way, for_ms) => {
            if let Some(node) = node(target) {
                trouble::cut_node(fleet, &node, *way, *for_ms);
            }
        }
        Action::CutServer(index, way, for_ms) => trouble::cut_server(fleet, *index, *way, *for_ms),
        Action::ShutDownSlowly(target, for_ms) => {
            if let Some(node) = node(target) {
                fleet.end_agent(&node);
                later(*for_ms, Action::StopNode(Target::Node(node.to_string())));
            }
        }
        Action::RebootNode(target, for_ms) => {
            if let Some(node) = node(target) {
                fleet.stop_node(&node);
                later(*for_ms, Action::StartNode(Target::Node(node.to_string())));
            }
        }
        Action::ReplaceNode(target, after_ms) => {
            if let Some(node) = node(target) {
                trouble::replace_node(fleet, &node, *after_ms);
            }
        }
        Action::PauseAllAgents(for_ms) => fleet.pause_all_agents(*for_ms),
        Action::JumpServerClock(index, by_ms) => fleet.jump_server_clock(*index, *by_ms),
        Action::HangDisk(member, for_ms) => trouble::begin(&world, Trouble::Hung, member, *for_ms),
        Action::FillDisk(member, for_ms) => trouble::begin(&world, Trouble::Full, member, *for_ms),
        Action::StickVolume(member, for_ms) => trouble::begin(&world, Trouble::Stuck, member, *for_ms),
        Action::Throttle(contract, per_second, for_ms) => world.act(|cloud, now| {
            cloud.limits.limit(contract, *per_second, *per_second, now, now.plus_millis(*for_ms));
        }),
        Action::ScheduleTwice(member, node) => trouble::schedule_twice(&world, member, node),
        Action::Poison(key, for_ms) => trouble::poison(&world, key, *for_ms),
        Action::Apply(file) => fleet.apply(file),
        Action::Upgrade(file) => fleet.upgrade(file),
        Action::Ask(operation, service) => fleet.ask(operation, service),
        Action::ConfirmDead(target) => {
            if let Some(node) = node(target) {
                fleet.confirm_dead(&node);
            }
        }
        Action::LoseDisk(target) => {
            if let Some(node) = node(target) {
                fleet.stop_node(&node);
                world.act(|cloud, now| cloud.lose_disk(now, &node));
            }
        }
        Action::Rebuild(member) => {
            if let (Some(node), Ok(member)) = (node(&Target::DiskOf(member.clone())), member.parse()) {
                fleet.rebuild(&member, &node);
            }
        }
    }
}
