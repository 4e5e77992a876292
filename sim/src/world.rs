//! The world of a run, and the gate that every call into it goes through.

mod gate;
mod hints;

use std::any::Any;
use std::collections::BTreeMap;
use std::fmt::{self, Display};
use std::future::{Future, pending};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures::channel::oneshot;
use steadfast_core::ids::NodeName;

use crate::exec::{Event, Exec, ProcessId};
use crate::fault::{Faults, Plan};
use crate::hash;
use crate::key::{Key, Sites};
use crate::model::{Cloud, Profile};
use crate::time::Time;
use crate::trace::{Entry, FACT, Stage, Trace};
pub use gate::Caller;
use hints::Watchers;

/// The world of one run. Clones are handles on the same one.
#[derive(Clone)]
pub struct World(Arc<Inner>);

struct Inner {
    exec: Exec,
    seed: u64,
    state: Mutex<State>,
}

/// Told when a process has been ended by a fault: whoever started it may start it again.
type OnCrash = Arc<dyn Fn(ProcessId) + Send + Sync>;

/// What there is in the world.
pub struct State {
    /// The models.
    pub cloud: Cloud,
    /// The call sites that were come by.
    pub sites: Sites,
    /// What happened.
    pub trace: Trace,
    /// What goes wrong.
    pub faults: Faults,
    watchers: Watchers,
    /// Contracts that fail, and until when.
    outages: BTreeMap<String, Time>,
    /// Clients that wait for a write to be confirmed.
    waiting: BTreeMap<u64, oneshot::Sender<NodeName>>,
    /// By what was asked, whoever did.
    earlier: BTreeMap<u64, Earlier>,
    poked: Option<Time>,
    traced: usize,
    on_crash: Option<OnCrash>,
    /// What happens when a call is made.
    triggers: BTreeMap<(u64, u32), Event>,
}

impl fmt::Debug for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("State").field("facts", &self.traced).finish_non_exhaustive()
    }
}

/// What a question was answered last, and when; and before that something else.
struct Earlier {
    digest: u64,
    last: Box<dyn Any + Send>,
    at: Time,
    before: Option<(Box<dyn Any + Send>, Time)>,
}

/// What a call may be answered.
pub trait Answer: Clone + fmt::Debug + Send + 'static {
    /// What tells it from other answers, for traces.
    fn digest(&self) -> u64 {
        hash::of_debug(self)
    }

    /// Whether it is a list that something can be left out of.
    fn can_shorten(&self) -> bool {
        false
    }

    /// Leaves out the second half of a list.
    fn shorten(&mut self) {}
}

/// What a call is.
#[derive(Clone, Copy)]
pub struct Ask<'a> {
    /// Contract and operation: `volume.begin_attach`.
    pub operation: &'static str,
    /// What it is about, by meaning.
    pub resource: &'a (dyn Display + Sync),
    /// Whether it may change something.
    pub writes: bool,
    /// Whether it stays on the caller's machine.
    pub local: bool,
}

impl fmt::Debug for Ask<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.operation, self.resource)
    }
}

impl World {
    /// A world at its beginning.
    pub fn new(profile: Profile, seed: u64, plan: &Plan) -> Self {
        let state = State {
            cloud: Cloud::new(profile, seed),
            sites: Sites::default(),
            trace: Trace::default(),
            faults: Faults::new(plan),
            watchers: Watchers::default(),
            outages: BTreeMap::new(),
            waiting: BTreeMap::new(),
            earlier: BTreeMap::new(),
            poked: None,
            traced: 0,
            on_crash: None,
            triggers: BTreeMap::new(),
        };
        World(Arc::new(Inner { exec: Exec::new(), seed, state: Mutex::new(state) }))
    }

    /// The executor.
    pub fn exec(&self) -> &Exec {
        &self.0.exec
    }

    /// The time.
    pub fn now(&self) -> Time {
        self.0.exec.now()
    }

    /// The seed.
    pub fn seed(&self) -> u64 {
        self.0.seed
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks, and changes nothing.
    pub fn look<R>(&self, look: impl FnOnce(&State) -> R) -> R {
        look(&self.state())
    }

    /// Takes what is of use out of a world in which nothing more happens.
    pub(crate) fn close<R>(&self, take: impl FnOnce(&mut State) -> R) -> R {
        let mut state = self.state();
        state.traced = 0;
        take(&mut state)
    }

    /// Changes the world now, and lets follow what follows.
    pub fn act<R>(&self, act: impl FnOnce(&mut Cloud, Time) -> R) -> R {
        let now = self.now();
        let mut state = self.state();
        let result = act(&mut state.cloud, now);
        self.follow_up(&mut state, now);
        result
    }

    /// Changes what is not of the models: faults, outages.
    pub fn direct<R>(&self, act: impl FnOnce(&mut State, Time) -> R) -> R {
        let now = self.now();
        let mut state = self.state();
        let result = act(&mut state, now);
        self.follow_up(&mut state, now);
        result
    }

    /// After every change: hints are sent, clients are told, facts are traced, and the next transition is set.
    fn follow_up(&self, state: &mut State, now: Time) {
        self.send_hints(state, now);
        for (write, node) in std::mem::take(&mut state.cloud.confirmed) {
            if let Some(client) = state.waiting.remove(&write) {
                let takes = hash::draw_in((0, 2), self.0.seed, write, 1);
                let world = self.clone();
                self.0.exec.at(now.plus_millis(takes), move || {
                    let hears = world.look(|state| {
                        state.cloud.hosts.get(&node).is_some_and(|host| !host.cut.clients && !host.paused)
                    });
                    if hears {
                        client.send(node).ok();
                    }
                });
            }
        }
        let facts = state.cloud.truth.facts();
        for (index, (at, fact)) in facts.iter().enumerate().skip(state.traced) {
            let nth = u32::try_from(index).unwrap_or(u32::MAX);
            let entry = Entry::new(*at, FACT, nth, Stage::Effect, fact.digest());
            state.trace.push(entry, 0);
        }
        state.traced = facts.len();
        if let Some(due) = state.cloud.next_due()
            && state.poked.is_none_or(|poked| due < poked)
        {
            state.poked = Some(due);
            let world = self.clone();
            self.0.exec.at(due, move || {
                let now = world.now();
                let mut state = world.state();
                if state.poked.is_some_and(|poked| poked <= now) {
                    state.poked = None;
                }
                state.cloud.advance(now);
                world.follow_up(&mut state, now);
            });
        }
    }

    /// Says who is told when a fault ends a process.
    pub fn set_on_crash(&self, told: impl Fn(ProcessId) + Send + Sync + 'static) {
        self.state().on_crash = Some(Arc::new(told));
    }

    /// Lets something happen as soon as a call is made, before it is on its way.
    pub fn when(&self, key: &Key, event: impl FnOnce() + Send + 'static) {
        self.state().triggers.insert((key.site(), key.nth), Box::new(event));
    }

    /// How many calls that something waits for were not made.
    pub fn waiting_triggers(&self) -> usize {
        self.state().triggers.len()
    }

    fn pull_trigger(&self, label: u64, nth: u32) {
        let mut state = self.state();
        if state.triggers.is_empty() {
            return;
        }
        let event = state.triggers.remove(&(label, nth));
        drop(state);
        if let Some(event) = event {
            // Not from within the caller's own task, which it may end.
            self.0.exec.at(self.now(), event);
        }
    }

    /// Ends a process where it is.
    pub fn crash(&self, process: ProcessId) {
        if !self.0.exec.is_alive(process) {
            return;
        }
        self.0.exec.kill(process);
        let told = self.state().on_crash.clone();
        if let Some(told) = told {
            told(process);
        }
    }

    /// Lets a process stand still for a while.
    pub fn pause(&self, process: ProcessId, for_ms: u64) {
        self.0.exec.pause(process);
        let exec = self.0.exec.clone();
        self.0.exec.at(self.now().plus_millis(for_ms), move || exec.resume(process));
    }

    /// Lets a contract (`metadata`, `volume`…) fail for a while.
    pub fn fail(&self, contract: &str, for_ms: u64) {
        let until = self.now().plus_millis(for_ms);
        self.state().outages.insert(contract.to_owned(), until);
    }

    /// Repairs what is not a machine: no further faults, no contract that fails.
    pub fn heal(&self) {
        let mut state = self.state();
        state.faults.heal();
        state.outages.clear();
    }

    /// Waits until a client's write is confirmed, at that client. For ever, if it never is.
    pub fn confirmation(&self, write: u64) -> impl Future<Output = ()> + use<> {
        let (sender, receiver) = oneshot::channel();
        self.state().waiting.insert(write, sender);
        async move {
            if receiver.await.is_err() {
                pending::<()>().await;
            }
        }
    }

    /// Gives up waiting for a write.
    pub fn give_up(&self, write: u64) {
        let waiting = self.state().waiting.remove(&write);
        drop(waiting);
    }

    /// Ends everything: what waits holds handles on this world.
    pub fn end(&self) {
        self.0.exec.clear();
        let mut state = self.state();
        state.on_crash = None;
        let watchers = std::mem::take(&mut state.watchers);
        let waiting = std::mem::take(&mut state.waiting);
        let triggers = std::mem::take(&mut state.triggers);
        let own = std::mem::take(&mut state.cloud.own);
        drop(state);
        drop((watchers, waiting, triggers, own));
    }
}

impl fmt::Debug for World {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("World").field("seed", &self.0.seed).field("now", &self.now()).finish_non_exhaustive()
    }
}
