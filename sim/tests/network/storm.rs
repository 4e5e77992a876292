//! What befalls connections and hosts, drawn from a seed: one trouble after another, each with its end.

use std::time::Duration;

use steadfast_sim::hash;
use turmoil::{Builder, Sim};

/// What may go wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Trouble {
    /// Nothing passes between two hosts.
    Cut(&'static str, &'static str),
    /// Nothing passes from the first to the second.
    CutOneWay(&'static str, &'static str),
    /// What is sent between two hosts is kept on the way, and arrives later.
    Hold(&'static str, &'static str),
    /// A host ends, and starts again.
    Crash(&'static str),
}

impl Trouble {
    /// Every way in which a connection can suffer.
    pub(crate) fn of_link(a: &'static str, b: &'static str) -> [Trouble; 4] {
        [Trouble::Cut(a, b), Trouble::CutOneWay(a, b), Trouble::CutOneWay(b, a), Trouble::Hold(a, b)]
    }

    fn begin(self, sim: &mut Sim<'_>) {
        match self {
            Trouble::Cut(a, b) => sim.partition(a, b),
            Trouble::CutOneWay(from, to) => sim.partition_oneway(from, to),
            Trouble::Hold(a, b) => sim.hold(a, b),
            Trouble::Crash(host) => sim.crash(host),
        }
    }

    fn end(self, sim: &mut Sim<'_>) {
        match self {
            Trouble::Cut(a, b) => sim.repair(a, b),
            Trouble::CutOneWay(from, to) => sim.repair_oneway(from, to),
            Trouble::Hold(a, b) => sim.release(a, b),
            Trouble::Crash(host) => sim.bounce(host),
        }
    }
}

/// A trouble, from when until when.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Spell {
    from: Duration,
    until: Duration,
    trouble: Trouble,
}

impl Spell {
    /// Whether nothing goes wrong before that.
    pub(crate) fn begins_after(&self, at: Duration) -> bool {
        self.from > at
    }
}

/// Some are noticed by nobody, and some outlast every patience of the tests here.
const LENGTHS_MS: [u64; 5] = [50, 400, 1_500, 4_000, 9_000];

/// Troubles one after another, until `until`.
pub(crate) fn storm(seed: u64, troubles: &[Trouble], until: Duration) -> Vec<Spell> {
    let pick = |what: u64, nth: u64, below: usize| {
        let below = u64::try_from(below.max(1)).unwrap_or(1);
        usize::try_from(hash::draw(seed, what, nth) % below).unwrap_or(0)
    };
    let mut spells = Vec::new();
    let mut from = Duration::ZERO;
    for nth in 0.. {
        from += Duration::from_millis(hash::draw_in((100, 2_500), seed, 1, nth));
        let lasts = Duration::from_millis(LENGTHS_MS[pick(2, nth, LENGTHS_MS.len())]);
        if from + lasts > until {
            break;
        }
        let trouble = troubles[pick(3, nth, troubles.len())];
        spells.push(Spell { from, until: from + lasts, trouble });
        from += lasts;
    }
    spells
}

/// A network in which messages take 1 to 10 ms.
pub(crate) fn network<'a>(seed: u64) -> Sim<'a> {
    let mut builder = Builder::new();
    builder
        .rng_seed(seed)
        .epoch(std::time::UNIX_EPOCH)
        .simulation_duration(Duration::from_secs(900))
        .tick_duration(Duration::from_millis(10))
        .min_message_latency(Duration::from_millis(1))
        .max_message_latency(Duration::from_millis(10));
    builder.build()
}

/// Runs until every client has ended, through these troubles; `watch` sees every tick.
pub(crate) fn run(
    mut sim: Sim<'_>,
    spells: &[Spell],
    mut watch: impl FnMut(&mut Sim<'_>),
) -> Result<(), String> {
    let mut spells = spells.iter().peekable();
    let mut now: Option<&Spell> = None;
    loop {
        if let Some(spell) = now.filter(|spell| spell.until <= sim.elapsed()) {
            spell.trouble.end(&mut sim);
            now = None;
        }
        if now.is_none()
            && let Some(spell) = spells.next_if(|spell| spell.from <= sim.elapsed())
        {
            spell.trouble.begin(&mut sim);
            now = Some(spell);
        }
        watch(&mut sim);
        if sim.step().map_err(|error| error.to_string())? {
            return Ok(());
        }
    }
}
