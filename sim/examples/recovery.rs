//! Writes docs/recovery-times.md and its chart: `cargo run --release -p steadfast-sim --example recovery -- docs 100`.
#![expect(clippy::expect_used, reason = "this is a program that ends with what went wrong")]

use std::fmt::Write as _;
use std::path::PathBuf;

use steadfast_sim::model::Profile;
use steadfast_sim::recovery::{Distribution, Loss, Other, shipped};

fn main() {
    let mut arguments = std::env::args().skip(1);
    let folder = PathBuf::from(arguments.next().expect("use: recovery FOLDER RUNS"));
    let runs: u64 = arguments.next().expect("use: recovery FOLDER RUNS").parse().expect("a number of runs");
    let mut rows = Vec::new();
    let levels =
        [("F1", Profile::leases()), ("F2", Profile::shared_storage()), ("F3", Profile::block_storage())];
    for loss in Loss::ALL {
        for (level, profile) in &levels {
            let ours = (1..=runs).map(|seed| shipped(loss, profile, seed).expect("a scenario"));
            rows.push((loss, *level, "Steadfast", Distribution::of(ours)));
            for (other, name) in [(Other::Ancestor, "ancestor"), (Other::Kubernetes, "Kubernetes")] {
                let theirs = (1..=runs).map(|seed| other.takes(loss, profile, seed));
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

fn table(rows: &[Row], runs: u64) -> String {
    let mut text = format!(
        "# Recovery times\n\nHow long clients cannot write after a loss, in simulated time, {runs} runs each. Written by\n\
         `cargo run --release -p steadfast-sim --example recovery -- docs {runs}`.\n\n\
         Three members on six nodes in three zones, two servers, one client that writes once a second. Steadfast is the\n\
         shipped code under shipped timers; the loss is that of the member that takes writes, and a replica takes over.\n\
         The ancestor (under Swarm: three heartbeats of 5 s, then detach, attach and DNS, each polled) and Kubernetes\n\
         (40 s + 5 min + 6 min until a volume is detached by force) are small models over the same durations of volumes\n\
         and engines: they move the member, and promote nobody. F1 is leases alone over shared storage, F2 a cloud that\n\
         proves a machine stopped, F3 zonal volumes that one machine at a time can write. Losses are final, but servers\n\
         are started again after a second.\n\n![Recovery times](recovery-times.svg)\n\n\
         | loss | level | | p50 | p90 | p99 | max | never |\n|---|---|---|---|---|---|---|---|\n"
    );
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
