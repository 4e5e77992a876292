//! Writes docs/recovery-times.md and its chart: `cargo run --profile sim -p steadfast-sim --example recovery -- docs 100`.
#![expect(clippy::expect_used, reason = "this is a program that ends with what went wrong")]

use std::fmt::Write as _;
use std::path::PathBuf;

use steadfast_sim::model::Profile;
use steadfast_sim::recovery::{Distribution, Loss, Other, shipped};
use steadfast_sim::search::pool::{self, Budget};

fn main() {
    let mut arguments = std::env::args().skip(1);
    let folder = PathBuf::from(arguments.next().expect("use: recovery FOLDER RUNS"));
    let runs: u64 = arguments.next().expect("use: recovery FOLDER RUNS").parse().expect("a number of runs");
    let seeds: Vec<u64> = (1..=runs).collect();
    let mut rows = Vec::new();
    let levels =
        [("F1", Profile::leases()), ("F2", Profile::shared_storage()), ("F3", Profile::block_storage())];
    for loss in Loss::ALL {
        for (level, profile) in &levels {
            let ours = pool::over(pool::processors(), &seeds, &Budget::of(None), |seed| {
                shipped(loss, profile, *seed).expect("a scenario")
            });
            rows.push((loss, *level, "Steadfast", Distribution::of(ours.into_iter().flatten())));
            for (other, name) in [(Other::Ancestor, "ancestor"), (Other::Kubernetes, "Kubernetes")] {
                let theirs = seeds.iter().map(|seed| other.takes(loss, profile, *seed));
                rows.push((loss, *level, name, Distribution::of(theirs)));
            }
        }
    }
    std::fs::write(folder.join("recovery-times.md"), table(&rows, runs)).expect("it can be written");
    std::fs::write(folder.join("recovery-times.svg"), chart(&rows)).expect("it can be written");
}

type Row = (Loss, &'static str, &'static str, Distribution);

fn told(time: Option<u64>) -> String {
    time.map_or("never".to_owned(), |ms| format!("{}.{} s", ms / 1000, ms % 1000 / 100))
}

const HEAD: &str = "# Recovery times

How long a client cannot write after a loss, in simulated time: the distribution over RUNS runs, which differ in every
duration that is drawn. This page and its chart are written by

```console
$ cargo run --profile sim -p steadfast-sim --example recovery -- docs RUNS
```

Three members on six nodes in three zones, two servers, one client that writes ten times a second and keeps to the names'
time to live (5 s). What is lost is the member that takes writes, its node, every node of its zone, or every server;
nodes stay lost, and servers are started again after a second. F1 is leases alone over storage that every node can write,
F2 the same storage and a cloud that proves a machine stopped, F3 zonal volumes that one machine at a time can write
([`Profile`](../sim/src/model/profile.rs): `leases`, `shared-storage`, `block-storage`).

- **Steadfast** is the code that ships, with its timers (`promote_after` 30 s), over those models. Times are counted from
  the loss to the first write that is acknowledged, the client's cache and patience (5 s) included; 0.1 s is as fine as
  they are; what is not back within five minutes counts as never.
- **The ancestor** and **Kubernetes** are formulas over the same durations of volumes and engines, in which everything
  that is not written here takes no time ([`Other`](../sim/src/recovery.rs)). Both move the member with its volume and
  promote nobody, so that a zone that is lost with its zonal volumes is never made up for; neither needs its control
  plane to go on writing. The ancestor runs under Swarm: three heartbeats of 5 s, a new task after 5 s more, then
  detaching, DNS and attaching, each polled. Kubernetes is its own rule for a StatefulSet: 40 s until a node counts as
  gone, 5 min until its pods are evicted, 6 min until their volumes are detached by force. It is taken for granted that
  somebody then deletes the pod: by itself a StatefulSet waits for the node for ever.

![Recovery times](recovery-times.svg)

| loss | level | | p50 | p90 | p99 | max | never |
|---|---|---|---|---|---|---|---|
";

fn table(rows: &[Row], runs: u64) -> String {
    let mut text = HEAD.replace("RUNS", &runs.to_string());
    for (loss, level, name, times) in rows {
        let p = |percent| told(times.percentile(percent));
        let (p50, p90, p99, max) = (p(50), p(90), p(99), p(100));
        let line = format!(
            "| {} | {level} | {name} | {p50} | {p90} | {p99} | {max} | {} |",
            loss.name(),
            times.never()
        );
        writeln!(text, "{line}").expect("a string takes everything");
    }
    text
}

/// The medians as bars on a logarithmic scale from 0.1 s to 1,000 s.
fn chart(rows: &[Row]) -> String {
    let height = rows.len() * 18 + 40;
    let mut text = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"760\" height=\"{height}\" font-family=\"sans-serif\" \
         font-size=\"11\"><rect width=\"100%\" height=\"100%\" fill=\"white\"/><text x=\"10\" y=\"16\">Median time \
         without writes after a loss (logarithmic: each grid line is ten times the one before)</text>\n"
    );
    for (index, mark) in ["0.1 s", "1 s", "10 s", "100 s", "1000 s"].iter().enumerate() {
        let x = 210 + index * 120;
        writeln!(
            text,
            "<line x1=\"{x}\" y1=\"24\" x2=\"{x}\" y2=\"{}\" stroke=\"#ddd\"/><text x=\"{x}\" y=\"{}\" \
             text-anchor=\"middle\">{mark}</text>",
            height - 14,
            height - 2
        )
        .expect("a string takes everything");
    }
    for (index, (loss, level, name, times)) in rows.iter().enumerate() {
        let y = 28 + index * 18;
        let colour = match *name {
            "Steadfast" => "#2166ac",
            "ancestor" => "#f4a582",
            _ => "#b2182b",
        };
        let width = times.percentile(50).map(|ms| (((ms as f64) / 100.0).max(1.0).log10() * 120.0).max(1.0));
        let label = told(times.percentile(50));
        let wide = width.unwrap_or(0.0);
        writeln!(
            text,
            "<text x=\"200\" y=\"{}\" text-anchor=\"end\">{}, {level}: {name}</text><rect x=\"210\" y=\"{y}\" \
             width=\"{wide:.0}\" height=\"13\" fill=\"{colour}\"/><text x=\"{:.0}\" y=\"{}\">{label}</text>",
            y + 11,
            loss.name(),
            214.0 + wide,
            y + 11
        )
        .expect("a string takes everything");
    }
    text.push_str("</svg>\n");
    text
}
