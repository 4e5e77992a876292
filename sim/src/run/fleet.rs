//! The processes of ours in a run: servers and agents, started, ended and started again.

mod users;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use steadfast_agent::agent::{self, AgentParts};
use steadfast_agent::config::AgentConfig;
use steadfast_agent::node_dir::NodeDir;
use steadfast_agent::seams::NoSecrets;
use steadfast_core::backends::Backends;
use steadfast_core::control::Control;
use steadfast_core::controller::Controller;
use steadfast_core::ids::{NodeName, ServerId, ZoneName};
use steadfast_core::layer::{CallCounters, StackOptions, stack};
use steadfast_core::orchestrator::Orchestrator;
use steadfast_core::registry::DomainName;
use steadfast_core::runtime::Environment;
use steadfast_core::store::Store;
use steadfast_core::world::PlainBlueprints;
use steadfast_orchestrator_process::ProcessOrchestrator;

use self::users::Decides;
use super::scenario::{Scenario, ServiceFile};
use crate::cast::{Cast, Seat};
use crate::env::{self, MachineClock};
use crate::exec::ProcessId;
use crate::face::{SimDb, SimEngines, SimGuards, SimHost, SimIps, SimProver, SimRegistry, SimVolumes};
use crate::model::Fact;
use crate::model::host::Cut;
use crate::world::{Caller, World};

/// The processes of a run.
#[derive(Debug)]
pub struct Fleet {
    world: World,
    scenario: Scenario,
    cast: Cast,
    zone: DomainName,
    user: ProcessId,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    agents: BTreeMap<NodeName, ProcessId>,
    servers: BTreeMap<u32, (ProcessId, Control)>,
    /// The servers' clocks, which outlive them.
    clocks: BTreeMap<u32, MachineClock>,
    /// How many machines there were.
    nodes: u32,
    programs: BTreeMap<ProcessId, usize>,
    asked: u32,
    /// What users have asked and nobody has answered, with what it decides.
    unanswered: BTreeMap<u32, Decides>,
    over: bool,
}

impl Fleet {
    /// No process yet.
    ///
    /// # Errors
    /// Never.
    pub fn new(world: World, scenario: &Scenario, cast: &Cast) -> Result<Arc<Self>, String> {
        let zone: DomainName = "sim.steadfast.internal".parse().map_err(|error| format!("{error}"))?;
        let user = world.exec().process("user");
        let (scenario, cast) = (scenario.clone(), cast.clone());
        let fleet = Arc::new(Fleet { world, scenario, cast, zone, user, state: Mutex::default() });
        let told = Arc::downgrade(&fleet);
        fleet.world.set_on_crash(move |process| {
            if let Some(fleet) = told.upgrade() {
                fleet.crashed(process);
            }
        });
        Ok(fleet)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The world.
    pub fn world(&self) -> &World {
        &self.world
    }

    /// The cluster's DNS zone.
    pub fn zone(&self) -> &DomainName {
        &self.zone
    }

    /// The process of a node's agent, if it lives.
    pub fn agent(&self, node: &NodeName) -> Option<ProcessId> {
        self.state().agents.get(node).copied()
    }

    /// The process of a server, if it lives.
    pub fn server(&self, index: u32) -> Option<ProcessId> {
        self.state().servers.get(&index).map(|(process, _)| *process)
    }

    /// What a process works with: its records and backends, with every layer that ships around each.
    fn wire(&self, caller: &Caller, env: &Environment) -> steadfast_core::Result<(Store, Backends)> {
        let (options, counters) = (StackOptions::default(), CallCounters::new());
        let db = stack(Arc::new(SimDb(caller.clone())) as Arc<_>, options, env, &counters);
        let cluster = "sim".parse().map_err(|error| {
            steadfast_core::Error::new(steadfast_core::ErrorKind::Invalid, "sim", "name", "sim", error)
        })?;
        let store = Store::new(db, env.entropy().fork("store"), cluster)?;
        let prover = Arc::new(SimProver(caller.clone()));
        let mut orchestrator = ProcessOrchestrator::new(env.clone(), store.clone(), prover);
        if let Some(margin) = self.scenario.profile.lease_margin_ms {
            orchestrator = orchestrator.with_lease_death(Duration::from_millis(margin));
        }
        let orchestrator: Arc<dyn Orchestrator> = Arc::new(orchestrator);
        let backends = Backends {
            volumes: stack(Arc::new(SimVolumes(caller.clone())) as Arc<_>, options, env, &counters),
            ips: stack(Arc::new(SimIps(caller.clone())) as Arc<_>, options, env, &counters),
            registry: stack(Arc::new(SimRegistry(caller.clone())) as Arc<_>, options, env, &counters),
            orchestrator: stack(orchestrator, options, env, &counters),
            zone: self.zone.clone(),
        };
        Ok((store, backends))
    }

    /// Starts a server.
    pub fn start_server(self: &Arc<Self>, index: u32) {
        let name = format!("s{}", index + 1);
        let process = self.world.exec().process(format!("{name} at {}", self.world.now()));
        let clock = self.server_clock(index, &name);
        let env = env::environment(self.world.exec(), process, &clock, self.world.seed());
        let actor = format!("server@{name}");
        let caller = Caller::new(self.world.clone(), process, &actor, None);
        // A server's life has a name of its own, as those of the binary do.
        let id: Option<ServerId> = format!("{name}-{}", self.world.now().millis()).parse().ok();
        let (Ok((store, backends)), Some(id)) = (self.wire(&caller, &env), id) else { return };
        let config = self.scenario.pace.server();
        let controller = Controller::new(env.clone(), store.clone(), backends, id, config);
        let plain = Arc::new(PlainBlueprints);
        let control = Control::new(env, store, controller.clone(), plain.clone(), plain.clone(), plain);
        self.state().servers.insert(index, (process, control));
        self.world.act(|cloud, now| cloud.truth.note(now, Fact::ProcessUp { actor }));
        controller.start();
    }

    /// Starts a node's agent, if the node runs; on one that stands still, once it goes on.
    pub fn start_agent(self: &Arc<Self>, node: &NodeName) {
        let found = self.world.look(|state| {
            let host = state.cloud.hosts.get(node).filter(|host| host.running)?;
            Some((host.clock.clone(), host.zone.clone(), host.paused))
        });
        let Some((clock, zone, paused)) = found else { return };
        if paused {
            self.start_agent_later(node.clone());
            return;
        }
        let process = self.world.exec().process(format!("agent of {node} at {}", self.world.now()));
        let env = env::environment(self.world.exec(), process, &clock, self.world.seed());
        let actor = format!("agent@{node}");
        let caller = Caller::new(self.world.clone(), process, &actor, Some(node.clone()));
        let (Ok((store, backends)), Ok(fresh)) = (self.wire(&caller, &env), env.entropy().token().parse())
        else {
            return;
        };
        let incarnation = self.world.act(|cloud, now| {
            cloud.truth.note(now, Fact::ProcessUp { actor });
            cloud.hold_node(now, node, fresh)
        });
        let parts = AgentParts {
            config: AgentConfig {
                node: node.clone(),
                zone,
                labels: BTreeMap::new(),
                engines: BTreeMap::new(),
                version: "simulated".to_owned(),
                logs: "/simulated/logs".into(),
                timers: self.scenario.pace.agent(),
                fence_by_lease: self.scenario.profile.lease_margin_ms.is_some(),
            },
            dir: NodeDir::new(format!("/simulated/nodes/{node}")),
            incarnation,
            env: env.clone(),
            store,
            backends,
            engines: Arc::new(SimEngines::new(caller.clone(), node.clone())),
            secrets: Arc::new(NoSecrets),
            guards: Arc::new(SimGuards::new(caller.clone(), node.clone())),
            host: Arc::new(SimHost::new(caller, env.clone(), node.clone())),
        };
        self.state().agents.insert(node.clone(), process);
        let world = self.world.clone();
        let shutdown = env.tasks().shutdown();
        let running = async move {
            if let Err(error) = agent::run(parts, shutdown).await {
                tracing::debug!(error = %error.chain(), "an agent has ended");
            }
            world.crash(process);
        };
        self.world.exec().spawn(process, "agent", Box::pin(running));
    }

    /// Starts a node's agent after the time that a restart takes, unless somebody else has.
    fn start_agent_later(self: &Arc<Self>, node: NodeName) {
        let fleet = Arc::clone(self);
        self.world.exec().at(self.world.now().plus_millis(self.scenario.restart_ms.max(1)), move || {
            if fleet.agent(&node).is_none() {
                fleet.start_agent(&node);
            }
        });
    }

    /// Starts every program of whoever uses the simulator.
    pub fn start_programs(self: &Arc<Self>) {
        for index in 0..self.cast.programs.len() {
            self.start_program(index);
        }
    }

    fn start_program(self: &Arc<Self>, index: usize) {
        let Some(program) = self.cast.programs.get(index) else { return };
        let name = &program.name;
        let process = self.world.exec().process(format!("{name} at {}", self.world.now()));
        let skew = self.scenario.clocks.get(name).copied().unwrap_or_default();
        let clock = MachineClock::new(self.world.exec().clone(), skew);
        let env = env::environment(self.world.exec(), process, &clock, self.world.seed());
        let caller = Caller::new(self.world.clone(), process, name, None);
        let Ok((store, backends)) = self.wire(&caller, &env) else { return };
        let actor = name.clone();
        self.state().programs.insert(process, index);
        self.world.act(|cloud, now| cloud.truth.note(now, Fact::ProcessUp { actor }));
        let running = (program.start)(Seat { caller, env, store, backends });
        self.world.exec().spawn(process, "program", running);
    }

    /// A process has ended by a fault, or by itself: it is started again after a while.
    fn crashed(self: &Arc<Self>, process: ProcessId) {
        let mut state = self.state();
        if state.over {
            return;
        }
        let node = state.agents.iter().find(|(_, agent)| **agent == process).map(|(node, _)| node.clone());
        let server = state.servers.iter().find(|(_, server)| server.0 == process).map(|(index, _)| *index);
        let ended = node.as_ref().and_then(|node| state.agents.remove(node));
        let control = server.and_then(|index| state.servers.remove(&index));
        let program = state.programs.remove(&process);
        drop(state);
        drop((ended, control));
        let again = self.world.now().plus_millis(self.scenario.restart_ms);
        let (fleet, exec) = (Arc::clone(self), self.world.exec());
        if let Some(node) = node {
            self.world.act(|cloud, now| {
                cloud.truth.note(now, Fact::ProcessDown { actor: format!("agent@{node}") });
                if let Some(host) = cloud.hosts.get_mut(&node) {
                    host.agent = false;
                }
            });
            fleet.start_agent_later(node);
        } else if let Some(index) = server {
            let actor = format!("server@s{}", index + 1);
            self.world.act(|cloud, now| cloud.truth.note(now, Fact::ProcessDown { actor }));
            exec.at(again, move || fleet.start_server(index));
        } else if let Some(index) = program {
            let actor = self.cast.programs.get(index).map(|program| program.name.clone()).unwrap_or_default();
            self.world.act(|cloud, now| cloud.truth.note(now, Fact::ProcessDown { actor }));
            exec.at(again, move || fleet.start_program(index));
        }
    }

    fn server_clock(&self, index: u32, name: &str) -> MachineClock {
        let skew = self.scenario.clocks.get(name).copied().unwrap_or_default();
        let exec = self.world.exec().clone();
        self.state().clocks.entry(index).or_insert_with(|| MachineClock::new(exec, skew)).clone()
    }

    /// Sets a server's wall clock forward or back.
    pub fn jump_server_clock(&self, index: u32, by_ms: i64) {
        if let Some(clock) = self.state().clocks.get(&index) {
            clock.jump(by_ms);
        }
    }

    /// Lets every agent stand still for a while.
    pub fn pause_all_agents(&self, for_ms: u64) {
        let agents: Vec<ProcessId> = self.state().agents.values().copied().collect();
        for agent in agents {
            self.world.pause(agent, for_ms);
        }
    }

    /// Ends a node's agent for good: nobody starts it again.
    pub fn end_agent(&self, node: &NodeName) {
        let agent = self.state().agents.remove(node);
        if let Some(process) = agent {
            self.world.exec().kill(process);
            self.world.act(|cloud, now| {
                cloud.truth.note(now, Fact::ProcessDown { actor: format!("agent@{node}") });
                if let Some(host) = cloud.hosts.get_mut(node) {
                    host.agent = false;
                }
            });
        }
    }

    /// Starts a machine more, in a zone.
    pub fn add_node(self: &Arc<Self>, zone: ZoneName) {
        let index = {
            let mut state = self.state();
            state.nodes += 1;
            self.scenario.nodes + state.nodes - 1
        };
        let Ok(node) = self.scenario.node(index) else { return };
        let skew = self.scenario.clocks.get(node.as_str()).copied().unwrap_or_default();
        let clock = MachineClock::new(self.world.exec().clone(), skew);
        self.world.act(|cloud, now| cloud.add_host(now, &node, zone, clock));
        self.start_agent(&node);
    }

    /// Switches a node off.
    pub fn stop_node(&self, node: &NodeName) {
        let agent = self.state().agents.remove(node);
        if let Some(process) = agent {
            self.world.exec().kill(process);
        }
        self.world.act(|cloud, now| cloud.stop_host(now, node));
    }

    /// Switches a node on.
    pub fn start_node(self: &Arc<Self>, node: &NodeName) {
        let off = self.world.look(|state| state.cloud.hosts.get(node).is_some_and(|host| !host.running));
        if off {
            self.world.act(|cloud, now| cloud.start_host(now, node));
            self.start_agent(node);
        }
    }

    /// Switches every node on that is off, but these.
    pub fn start_all_nodes(self: &Arc<Self>, but: &[String]) {
        let off: Vec<NodeName> = self.world.look(|state| {
            let off = state.cloud.hosts.all().filter(|(_, host)| !host.running);
            off.map(|(node, _)| node.clone()).collect()
        });
        for node in off.iter().filter(|node| !but.iter().any(|name| name == node.as_str())) {
            self.start_node(node);
        }
    }

    /// Starts the agents of machines that run without one and that nobody is about to start.
    pub fn start_missing_agents(self: &Arc<Self>) {
        let running: Vec<NodeName> = self.world.look(|state| {
            let running = state.cloud.hosts.all().filter(|(_, host)| host.running && !host.agent);
            running.map(|(node, _)| node.clone()).collect()
        });
        for node in running {
            if self.agent(&node).is_none() {
                self.start_agent(&node);
            }
        }
    }

    /// Lets a node stand still for a while.
    pub fn pause_node(self: &Arc<Self>, node: &NodeName, for_ms: u64) {
        if let Some(process) = self.agent(node) {
            self.world.pause(process, for_ms);
        }
        self.world.act(|cloud, now| cloud.pause_host(now, node, true));
        let (fleet, node) = (Arc::clone(self), node.clone());
        self.world.exec().at(self.world.now().plus_millis(for_ms), move || {
            if fleet.world.look(|state| state.cloud.hosts.get(&node).is_some_and(|host| host.paused)) {
                fleet.world.act(|cloud, now| cloud.pause_host(now, &node, false));
            }
        });
    }

    /// Cuts a node off, or connects it again.
    pub fn cut_node(&self, node: &NodeName, cut: Cut) {
        self.world.act(|cloud, _| {
            if let Some(host) = cloud.hosts.get_mut(node) {
                host.cut = cut;
            }
        });
        self.world.reconnect_watchers();
    }

    /// Where clients look for the member that takes writes.
    pub fn client_name(&self, file: &ServiceFile) -> Option<DomainName> {
        let own = self.zone.child(&file.name).ok()?;
        if file.is_led_by_us() { own.child("primary").ok() } else { Some(own) }
    }

    /// The addresses clients find, in order.
    pub fn resolve(&self, name: &DomainName) -> Vec<IpAddr> {
        use steadfast_core::registry::{RecordKind, RecordSet};
        match self.world.look(|state| state.cloud.dns.served(name, RecordKind::Addresses)) {
            Some(RecordSet::Addresses(set)) => set.into_iter().collect(),
            Some(RecordSet::Services(_)) | None => Vec::new(),
        }
    }

    /// Ends every process, for good.
    pub fn end(&self) {
        let mut state = self.state();
        state.over = true;
        let ended = (std::mem::take(&mut state.agents), std::mem::take(&mut state.servers));
        drop(state);
        drop(ended);
    }
}
