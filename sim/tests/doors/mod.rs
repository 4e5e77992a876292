//! A lock with two doors, one of which may be open at a time, and two programs that let ships through it.

use std::time::Duration;

use steadfast_core::error::{Error, Result};
use steadfast_sim::cast::{Model, Seat};
use steadfast_sim::invariant::Rule;
use steadfast_sim::model::Fact;
use steadfast_sim::time::Time;
use steadfast_sim::world::{Answer, Ask, State};

/// The doors, and whether each is open.
#[derive(Debug, Default)]
pub(crate) struct Doors {
    open: [bool; 2],
}

impl Model for Doors {}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Seen([bool; 2]);

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
            Some(Doors { open: [true, true] }) => Err("both doors are open".to_owned()),
            _ => Ok(()),
        }
    }
}

async fn set(seat: &Seat, door: usize, open: bool) -> Result<()> {
    let operation = if open { "doors.open" } else { "doors.close" };
    let ask = Ask { operation, resource: &door, writes: true, local: false };
    let effect = move |doors: &mut Doors, _: Time| -> Result<()> {
        doors.open[door] = open;
        Ok(())
    };
    within(seat, operation, seat.call(ask, effect)).await
}

async fn look(seat: &Seat) -> Result<Seen> {
    let ask = Ask { operation: "doors.look", resource: &"both", writes: false, local: false };
    within(seat, ask.operation, seat.call(ask, |doors: &mut Doors, _| Ok(Seen(doors.open)))).await
}

/// A call that is lost never returns, like a real one.
async fn within<T>(seat: &Seat, operation: &'static str, call: impl Future<Output = Result<T>>) -> Result<T> {
    let patience = Duration::from_secs(5);
    let lost = || Error::new(steadfast_core::ErrorKind::Unavailable, "doors", operation, "", "no answer");
    seat.env().timeout(patience, call).await.unwrap_or_else(|| Err(lost()))
}

/// Believes that both doors are closed when it begins.
pub(crate) async fn careless(seat: Seat) {
    for door in [0, 1].into_iter().cycle() {
        if set(&seat, door, true).await.is_ok() {
            seat.env().clock().sleep(Duration::from_secs(3)).await;
            while set(&seat, door, false).await.is_err() {}
        }
    }
}

/// Closes what may be open before it opens anything.
pub(crate) async fn careful(seat: Seat) {
    for door in [0, 1].into_iter().cycle() {
        while !matches!(look(&seat).await, Ok(Seen([false, false]))) {
            for other in [0, 1] {
                // Looked at again, whatever it answers.
                set(&seat, other, false).await.ok();
            }
        }
        set(&seat, door, true).await.ok();
        seat.env().clock().sleep(Duration::from_secs(3)).await;
    }
}
