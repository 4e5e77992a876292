//! The adapter for Docker Swarm that ships, and the client of Docker below it, over a model of the managers' API: with
//! every fault at every request, a container that ends, and a manager that is none for a while.
#![allow(clippy::unwrap_used, reason = "a test ends where something is not as it should be")]

mod dockerd;
#[path = "../requests/mod.rs"]
mod requests;
mod transport;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use dockerd::{Dockerd, Troubles};
use requests::{Befallen, each_befallen};
use steadfast_core::error::Result;
use steadfast_core::ids::{Incarnation, MemberName, ServiceName};
use steadfast_core::orchestrator::memory::MemoryOrchestrator;
use steadfast_core::orchestrator::{Orchestrator as _, Placement, Run, Workload};
use steadfast_orchestrator_swarm::{Engine, SwarmOptions, SwarmOrchestrator};
use steadfast_sim::cast::{Cast, Seat};
use steadfast_sim::invariant::Rule;
use steadfast_sim::model::{Fact, Profile};
use steadfast_sim::run::{Action, Outcome, Scenario, Target, run_with};
use steadfast_sim::time::Time;
use steadfast_sim::world::State;

const NODES: u32 = 4;

/// Has the swarm run what the records say, as a server does: again and again, with the agents told by somebody else.
async fn manager(seat: Seat) {
    let agents = MemoryOrchestrator::new();
    let life: Incarnation = "i1".parse().unwrap();
    for number in 1..=NODES {
        agents.set_ready(&format!("node-{number}").parse().unwrap(), &"a".parse().unwrap(), &life);
    }
    let options = SwarmOptions {
        cluster: seat.store().cluster().clone(),
        images: BTreeMap::from([("plain".to_owned(), "plain:1".to_owned())]),
        driver: "steadfast".to_owned(),
        members: "/run/steadfast/sim".into(),
    };
    let engine = Engine::over(seat.env().clone(), transport::docker(&seat));
    let (env, store) = (seat.env().clone(), seat.store().clone());
    let swarm = SwarmOrchestrator::new(env, store, engine, options, Arc::new(agents));
    loop {
        // What could not be done is tried again with the next round.
        seat.within(Duration::from_secs(60), round(&seat, &swarm)).await.ok();
        seat.env().clock().sleep(Duration::from_secs(1)).await;
    }
}

async fn round(seat: &Seat, swarm: &SwarmOrchestrator) -> Result<()> {
    let services = seat.store().services().await?;
    let known: BTreeSet<ServiceName> = services.iter().map(|found| found.body.name.clone()).collect();
    for gone in swarm.services().await?.difference(&known) {
        swarm.remove(gone).await?;
    }
    for service in known {
        let members = seat.store().members(&service).await?;
        let placements = members.iter().filter_map(|found| {
            let member = &found.body;
            Some(Placement {
                member: member.name.clone(),
                revision: member.revision,
                node: member.placed_on.clone()?,
                run: if member.run { Run::Started } else { Run::Stopped },
                generation: member.generation,
            })
        });
        let workload = Workload { placements: placements.collect(), service };
        swarm.apply(&workload).await?;
        swarm.tasks(&workload.service).await?;
        swarm.nodes().await?;
    }
    Ok(())
}

/// The swarm comes to run what is recorded, and nothing else, and is not told for ever.
#[derive(Debug, Default)]
struct AsRecorded {
    /// Where each member was last recorded to run, if it shall.
    placed: BTreeMap<MemberName, Option<String>>,
}

/// How often the service of a member may be changed: it is moved and restarted once or twice each, its containers end,
/// and every fault may cost another.
const MOST_CHANGES: u32 = 8;

impl Rule for AsRecorded {
    fn id(&self) -> &'static str {
        "as-recorded"
    }

    fn says(&self) -> &'static str {
        "the swarm has one service with one living task for each member that shall run, on its node, and no other"
    }

    fn fact(&mut self, _: Time, fact: &Fact, state: &State) -> Result<(), String> {
        if let Fact::MemberRecorded(now) = fact {
            let node = now.placed_on.as_ref().filter(|_| now.run);
            self.placed.insert(now.member.clone(), node.map(|node| Dockerd::id_of(node.as_str())));
        }
        let swarm: &Dockerd = state.cloud.own().unwrap();
        let worn = swarm.services.iter().find(|(_, service)| service.changes > MOST_CHANGES);
        worn.map_or(Ok(()), |(name, service)| Err(format!("{name} was changed {} times", service.changes)))
    }

    fn end(&mut self, _: Time, state: &State) -> Result<(), String> {
        let swarm: &Dockerd = state.cloud.own().unwrap();
        let placed = self.placed.iter();
        let wanted: BTreeMap<String, &str> =
            placed.filter_map(|(member, node)| Some((format!("sim_{member}"), node.as_deref()?))).collect();
        let mut found = BTreeMap::new();
        for (name, service) in &swarm.services {
            let living: Vec<&str> =
                service.tasks.iter().filter(|task| task.lives()).map(|task| task.node.as_str()).collect();
            let [node] = living[..] else { return Err(format!("the tasks of {name} live on {living:?}")) };
            found.insert(name.clone(), node);
        }
        if found == wanted {
            Ok(())
        } else {
            Err(format!("the swarm has {found:?}, and shall have {wanted:?}"))
        }
    }
}

fn scenario() -> Scenario {
    let mut scenario = Scenario::calm("swarm", Profile::embedded(), 1)
        .at(12_000, Action::StopNode(Target::HolderOf("orders-1".to_owned())))
        .at(30_000, Action::Ask("restart".to_owned(), "orders".to_owned()))
        .at(50_000, Action::Ask("scale to 2".to_owned(), "orders".to_owned()));
    scenario.nodes = NODES;
    scenario.storm_ms = 70_000;
    // A request that is lost costs the adapter its patience, and an answer that is late may end a round.
    scenario.heal.stable_ms = 40_000;
    scenario
}

fn troubles() -> Troubles {
    Troubles {
        ends: vec![
            (Time::from_millis(22_000), "sim_orders-2"),
            (Time::from_millis(45_000), "sim_orders-0"),
            (Time::from_millis(60_000), "sim_orders-1"),
        ],
        deposed: Some((Time::from_millis(33_000), Time::from_millis(36_000))),
    }
}

fn carry(scenario: &Scenario) -> Outcome {
    let cast = Cast::new().program("manager", manager).model(|| Dockerd::new(NODES, troubles()));
    run_with(scenario, &cast.rule(AsRecorded::default)).unwrap()
}

#[test]
fn the_swarm_comes_to_run_what_is_recorded_whatever_befalls_any_request() {
    let _context = transport::context();
    let Befallen { operations, fired, differed } = each_befallen(&scenario(), carry);
    let expected = ["http.delete", "http.get", "http.post"].map(str::to_owned);
    assert_eq!(operations, BTreeSet::from(expected));
    assert!(fired > 100 && differed > 100, "{fired} faults, {differed} runs that differ");
}

#[test]
fn a_run_over_the_client_of_docker_is_the_same_when_it_is_repeated() {
    let _context = transport::context();
    assert_eq!(carry(&scenario()).hash, carry(&scenario()).hash);
}
