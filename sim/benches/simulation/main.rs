//! What a simulated second costs, beside plain turmoil with the same scenario: `cargo bench --bench simulation`, with
//! `-- TEXT` only the rows that have it in their names.
//!
//! A run is one thread and never waits, so the processor time of that thread is measured: what else the machine does
//! matters less. Results, with the machine named, are in docs/benchmarks.md.
#![expect(clippy::print_stdout, reason = "this is a program that prints a table")]
#![expect(
    clippy::disallowed_methods,
    reason = "turmoil's hosts use tokio's clock and tasks, which it simulates"
)]

mod turmoil_side;

use std::time::Duration;

use nix::time::{ClockId, clock_gettime};
use steadfast_core::error::Result;
use steadfast_sim::fault::Plan;
use steadfast_sim::model::Profile;
use steadfast_sim::run::{Pace, Scenario, run};
use steadfast_sim::time::Time;
use steadfast_sim::world::{Ask, Caller, World};

/// So much processor time is spent on each row, at least.
const ENOUGH: Duration = Duration::from_secs(2);

fn main() {
    println!("{:<52} {:>12} {:>16} {:>12}", "", "runs/CPU s", "sim. s/CPU s", "calls/run");
    for profile in [Profile::embedded(), Profile::block_storage(), Profile::leases()] {
        for (pace, called) in [(Pace::calm(), "calm"), (Pace::default(), "as shipped")] {
            let name = format!("10 min failover, {}, {called}", profile.name);
            repeat(&name, |seed| simulate(ten_minutes(profile.clone(), pace, seed)));
        }
    }
    repeat("10 min failover, turmoil with toy programs", |_| {
        let answered = turmoil_side::failover(600).expect("turmoil runs");
        assert!(answered > 400, "the member moved, and {answered} writes were answered");
        (600.0, 0)
    });
    for members in [20, 100] {
        let name = format!("{members} members, every node heard each second");
        repeat(&name, |seed| simulate(many_members(members, seed)));
    }
    for nodes in [20, 100] {
        repeat(&format!("{nodes} heartbeats a second, the engine alone"), |seed| heartbeats(nodes, seed));
    }
    for nodes in [20, 100] {
        repeat(&format!("{nodes} heartbeats a second, turmoil"), |_| {
            turmoil_side::heartbeats(nodes, 10).expect("turmoil runs");
            (10.0, 0)
        });
    }
}

/// Three members on four nodes under two servers; the primary's node is lost after a minute, for good.
fn ten_minutes(profile: Profile, pace: Pace, seed: u64) -> Scenario {
    let mut scenario = Scenario::calm("failover", profile, seed).losing_the_primary(60_000);
    scenario.pace = pace;
    scenario.servers = 2;
    scenario.storm_ms = 540_000;
    scenario.heal.stable_ms = 60_000;
    scenario
}

fn many_members(members: u32, seed: u64) -> Scenario {
    let mut scenario = Scenario::calm("members", Profile::shared_storage(), seed);
    scenario.pace = Pace::heartbeat_every_second();
    scenario.nodes = members;
    for service in &mut scenario.services {
        service.replicas = members;
    }
    scenario
}

fn simulate(scenario: Scenario) -> (f64, u64) {
    let outcome = run(&scenario).expect("it is a scenario");
    assert_eq!(outcome.violations, []);
    (seconds(outcome.timings.simulated_ms), outcome.timings.calls)
}

/// So many processes that write a record once a second through the gate, for a quarter of an hour.
fn heartbeats(processes: u32, seed: u64) -> (f64, u64) {
    let mut profile = Profile::shared_storage();
    profile.call_ms = (1, 20);
    let world = World::new(profile, seed, &Plan::default());
    for number in 0..processes {
        let name = format!("node-{number}");
        let process = world.exec().process(&name);
        let caller = Caller::new(world.clone(), process, &name, None);
        let beats = async move {
            loop {
                caller.world().exec().sleep(Duration::from_secs(1)).await;
                let ask = Ask { operation: "metadata.put", resource: &"beat", writes: true, local: false };
                let heard = caller.call(ask, |_, _| Result::Ok(())).await;
                heard.expect("nothing goes wrong");
            }
        };
        world.exec().spawn(process, "beats", Box::pin(beats));
    }
    world.exec().run(Time::from_secs(900), || true);
    let calls = world.look(|state| state.sites.all().iter().map(|site| u64::from(site.calls)).sum());
    world.end();
    (900.0, calls)
}

fn seconds(milliseconds: u64) -> f64 {
    Duration::from_millis(milliseconds).as_secs_f64()
}

fn repeat(name: &str, mut run: impl FnMut(u64) -> (f64, u64)) {
    // Cargo itself gives `--bench`.
    if std::env::args().skip(1).any(|only| !only.starts_with('-') && !name.contains(&only)) {
        return;
    }
    let begun = now();
    let (mut runs, mut simulated, mut calls) = (0_u32, 0.0, 0);
    let took = loop {
        runs += 1;
        let (seconds, made) = run(u64::from(runs));
        simulated += seconds;
        calls += made;
        let took = now() - begun;
        if took >= ENOUGH {
            break took.as_secs_f64();
        }
    };
    let runs = f64::from(runs);
    let calls = if calls == 0 { String::new() } else { format!("{:.0}", calls as f64 / runs) };
    println!("{name:<52} {:>12.2} {:>16.0} {calls:>12}", runs / took, simulated / took);
}

fn now() -> Duration {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).expect("Linux has it").into()
}
