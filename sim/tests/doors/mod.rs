//! A lock with two doors, one of which may be open at a time, and two programs that let ships through it.

use std::time::Duration;

use steadfast_core::error::{Error, ErrorKind, Result};
use steadfast_sim::cast::{Model, Seat};
use steadfast_sim::invariant::Rule;
use steadfast_sim::model::Fact;
use steadfast_sim::time::Time;
use steadfast_sim::world::{Answer, Ask, State};

/// The doors, and whether each is open.
#[derive(Debug, Default)]
pub(crate) struct Doors {
    open: [bool; 2],
    /// The latest turn that anything was asked in: what comes later, and was asked in an earlier one, is refused.
    turn: u64,
}

impl Model for Doors {}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Seen {
    open: [bool; 2],
    turn: u64,
}

impl Answer for Seen {}

/// Never both: the water would run through.
#[derive(Debug)]
pub(crate) struct OneDoor;

impl Rule for OneDoor {
    fn id(&self) -> &'static str {
        "one-door"
    }

    fn says(&self) -> &'static str {
        "never are both doors open"
    }

    fn fact(&mut self, _at: Time, _fact: &Fact, state: &State) -> Result<(), String> {
        match state.cloud.own::<Doors>() {
            Some(Doors { open: [true, true], .. }) => Err("both doors are open".to_owned()),
            _ => Ok(()),
        }
    }
}

/// How long the keeper waits for a door to answer.
const PATIENCE: Duration = Duration::from_secs(5);

async fn set(seat: &Seat, turn: u64, door: usize, open: bool) -> Result<()> {
    let operation = if open { "doors.open" } else { "doors.close" };
    let ask = Ask { operation, resource: &door, writes: true, local: false };
    let effect = move |doors: &mut Doors, _: Time| -> Result<()> {
        if turn < doors.turn {
            let text = format!("this is turn {}", doors.turn);
            return Err(Error::new(ErrorKind::Stale, "doors", operation, door, text).without_effect());
        }
        *doors = Doors { open: doors.open, turn };
        doors.open[door] = open;
        Ok(())
    };
    seat.within(PATIENCE, seat.call(ask, effect)).await
}

async fn look(seat: &Seat) -> Result<Seen> {
    let ask = Ask { operation: "doors.look", resource: &"both", writes: false, local: false };
    seat.within(
        PATIENCE,
        seat.call(ask, |doors: &mut Doors, _| Ok(Seen { open: doors.open, turn: doors.turn })),
    )
    .await
}

/// Believes that both doors are closed when it begins, and that nothing is on its way.
pub(crate) async fn careless(seat: Seat) {
    for door in [0, 1].into_iter().cycle() {
        if set(&seat, 0, door, true).await.is_ok() {
            seat.env().clock().sleep(Duration::from_secs(3)).await;
            while set(&seat, 0, door, false).await.is_err() {}
        }
    }
}

/// Begins each turn by closing both doors, and opens one when it has seen them closed in this turn.
pub(crate) async fn careful(seat: Seat) {
    for door in [0, 1].into_iter().cycle() {
        let turn = loop {
            if let Ok(seen) = look(&seat).await {
                break seen.turn + 1;
            }
        };
        while look(&seat).await.ok() != Some(Seen { open: [false, false], turn }) {
            for other in [0, 1] {
                // Looked at again, whatever it answers.
                set(&seat, turn, other, false).await.ok();
            }
        }
        set(&seat, turn, door, true).await.ok();
        seat.env().clock().sleep(Duration::from_secs(3)).await;
    }
}
