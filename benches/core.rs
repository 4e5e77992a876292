//! The control plane in process, over memory backends. Nothing here waits, so the processor time of the one thread is
//! measured: a machine that does other things as well gives the same figures.
//!
//! `cargo bench --bench core`. Results, with the machine named, are in docs/benchmarks.md.

mod support;

use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use criterion::{BatchSize, BenchmarkId, Criterion, criterion_group, criterion_main};
use steadfast_core::control::Guard;
use steadfast_core::plan::plan;
use steadfast_core::testing::TestEnvironment;
use steadfast_core::world::{World, service_file};
use tokio::runtime::{Builder, Runtime};

use support::ThreadTime;

fn runtime() -> Runtime {
    Builder::new_current_thread().enable_all().start_paused(true).build().expect("a runtime starts")
}

/// Everything that recording, providing, placing and naming the members takes, then everything that removing
/// takes; engines are not part of it, as they were not part of the ancestor's figure.
fn create_and_delete(c: &mut Criterion<ThreadTime>) {
    let runtime = runtime();
    let mut group = c.benchmark_group("create_and_delete");
    group.sample_size(20);
    for members in [3u32, 30, 300] {
        group.bench_with_input(BenchmarkId::from_parameter(members), &members, |b, &members| {
            b.iter_batched(
                || {
                    runtime.block_on(async {
                        let mut world =
                            World::new(TestEnvironment::new(1).environment, 6).await.expect("a world");
                        let server = world.plain_server("server-1").expect("a server");
                        world.step_nodes().await.expect("nodes report");
                        server.controller().shards().round().await.expect("shares are taken");
                        server.controller().observer().refresh_nodes().await.expect("nodes are seen");
                        (world, server)
                    })
                },
                |(world, server)| {
                    runtime.block_on(async {
                        let name = "orders".parse().expect("a name");
                        let file = service_file("orders", members);
                        server.apply(file, Guard::default()).await.expect("created");
                        server.controller().reconcile(&name).await.expect("made");
                        server.delete(&name, Guard::default()).await.expect("deletion is recorded");
                        server.controller().reconcile(&name).await.expect("deleted");
                        (world, server)
                    })
                },
                BatchSize::PerIteration,
            );
        });
    }
    group.finish();
}

/// A planner pass over 10,000 healthy services of 5 members.
fn planner_pass(c: &mut Criterion<ThreadTime>) {
    let runtime = runtime();
    let facts = runtime.block_on(async {
        let mut world = World::new(TestEnvironment::new(1).environment, 6).await.expect("a world");
        let server = world.plain_server("server-1").expect("a server");
        world.create(&server, "orders", 5).await.expect("created");
        let name = "orders".parse().expect("a name");
        let snapshot = server.controller().observer().snapshot(&name).await.expect("read").expect("there");
        Arc::new(snapshot.facts)
    });
    let mut group = c.benchmark_group("planner");
    group.sample_size(10).measurement_time(Duration::from_secs(10));
    group.bench_function("pass_over_10000_services_of_5", |b| {
        b.iter(|| {
            for _ in 0..10_000 {
                black_box(plan(black_box(&facts)));
            }
        });
    });
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default().with_measurement(ThreadTime);
    targets = create_and_delete, planner_pass
}
criterion_main!(benches);
