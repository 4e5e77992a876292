//! The executor: one thread, virtual time, tasks that belong to processes.
//!
//! Nothing here knows a clock of the machine or draws a number: the order of everything follows from the order in
//! which tasks were woken and timers were set. A process is a kill group: a [crash](Exec::kill) drops every future
//! of it at whatever await it is, a [pause](Exec::pause) keeps it from being polled until it goes on, while timers
//! and answers for it pile up.

mod schedule;

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use futures::future::BoxFuture;

use crate::time::Time;
pub use schedule::Schedule;

/// Something that happens at a time, whatever tasks do.
pub type Event = Box<dyn FnOnce() + Send>;

/// A process: a kill group of tasks. Never used again, so a restarted program is a new process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ProcessId(u32);

/// The executor. Cheap to clone.
#[derive(Clone)]
pub struct Exec(Arc<Shared>);

struct Shared {
    /// The time: asked for far more often than anything else.
    now: AtomicU64,
    state: Mutex<State>,
    ready: Arc<Ready>,
}

/// Tasks that were woken, in order.
#[derive(Default)]
struct Ready(Mutex<VecDeque<usize>>);

#[derive(Default)]
struct State {
    polls: u64,
    schedule: Schedule,
    timers: Timers,
    tasks: Vec<Option<Task>>,
    free: Vec<usize>,
    processes: Vec<Process>,
    current: Option<(ProcessId, &'static str)>,
}

enum Timer {
    Wake(Waker),
    Run(Event),
}

/// What is set for later. Most timers are limits that never come, so unsetting one only empties its place, which is
/// used again when its time has passed.
#[derive(Default)]
struct Timers {
    /// By time, and by number where that is the same.
    order: BinaryHeap<Reverse<(Time, u64, usize)>>,
    places: Vec<Place>,
    free: Vec<usize>,
    set: u64,
}

/// Where a timer is kept. The number tells it from the one that has the place next.
struct Place {
    number: u64,
    timer: Option<Timer>,
}

impl Timers {
    fn set(&mut self, at: Time, timer: Timer) -> Set {
        self.set += 1;
        let number = self.set;
        let filled = Place { number, timer: Some(timer) };
        let place = self.free.pop().unwrap_or(self.places.len());
        match self.places.get_mut(place) {
            Some(slot) => *slot = filled,
            None => self.places.push(filled),
        }
        self.order.push(Reverse((at, number, place)));
        Set { place, number }
    }

    fn find(&mut self, set: Set) -> Option<&mut Option<Timer>> {
        let place = self.places.get_mut(set.place)?;
        (place.number == set.number).then_some(&mut place.timer)
    }

    /// The next that is due until `end`, with its time.
    fn pop(&mut self, end: Time) -> Option<(Time, Timer)> {
        loop {
            let Reverse((due, _, place)) = *self.order.peek()?;
            if due > end {
                return None;
            }
            self.order.pop();
            self.free.push(place);
            if let Some(timer) = self.places.get_mut(place).and_then(|place| place.timer.take()) {
                return Some((due, timer));
            }
        }
    }
}

/// A timer that was set.
#[derive(Debug, Clone, Copy)]
struct Set {
    place: usize,
    number: u64,
}

struct Task {
    process: ProcessId,
    name: &'static str,
    /// Taken out while it is polled.
    future: Option<BoxFuture<'static, ()>>,
    handle: Arc<TaskWaker>,
    waker: Waker,
}

#[derive(Default)]
struct Process {
    name: String,
    dead: bool,
    paused: bool,
    /// Woken while paused.
    held: Vec<usize>,
}

struct TaskWaker {
    task: usize,
    queued: AtomicBool,
    ready: Arc<Ready>,
}

impl Wake for TaskWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if !self.queued.swap(true, Ordering::Relaxed) {
            lock(&self.ready.0).push_back(self.task);
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A panic ends the run; what is left is looked at only to tell about it.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Default for Exec {
    fn default() -> Self {
        Exec::new()
    }
}

impl Exec {
    /// An executor at the beginning of time.
    pub fn new() -> Self {
        let now = AtomicU64::new(Time::ZERO.micros());
        Exec(Arc::new(Shared { now, state: Mutex::default(), ready: Arc::default() }))
    }

    /// The time.
    pub fn now(&self) -> Time {
        // One thread moves it, and the same one reads it.
        Time::from_micros(self.0.now.load(Ordering::Relaxed))
    }

    /// Lets tasks that are ready go in another order than they were woken in.
    pub fn set_schedule(&self, schedule: Schedule) {
        lock(&self.0.state).schedule = schedule;
    }

    /// How often tasks were polled: what a run costs.
    pub fn polls(&self) -> u64 {
        lock(&self.0.state).polls
    }

    /// A new process.
    pub fn process(&self, name: impl Into<String>) -> ProcessId {
        let mut state = lock(&self.0.state);
        state.processes.push(Process { name: name.into(), ..Process::default() });
        ProcessId(u32::try_from(state.processes.len() - 1).unwrap_or(u32::MAX))
    }

    /// The process and the name of the task that is being polled.
    pub fn current(&self) -> Option<(ProcessId, &'static str)> {
        lock(&self.0.state).current
    }

    /// Whether a process has not been killed.
    pub fn is_alive(&self, process: ProcessId) -> bool {
        lock(&self.0.state).processes.get(process.0 as usize).is_some_and(|found| !found.dead)
    }

    /// Whether a process is paused.
    pub fn is_paused(&self, process: ProcessId) -> bool {
        lock(&self.0.state).processes.get(process.0 as usize).is_some_and(|found| found.paused)
    }

    /// Runs `future` as a task of `process`. In a process that has ended nothing begins.
    pub fn spawn(&self, process: ProcessId, name: &'static str, future: BoxFuture<'static, ()>) {
        let mut state = lock(&self.0.state);
        if state.processes.get(process.0 as usize).is_none_or(|found| found.dead) {
            drop(state);
            drop(future);
            return;
        }
        let task = state.free.pop().unwrap_or(state.tasks.len());
        let handle =
            Arc::new(TaskWaker { task, queued: AtomicBool::new(false), ready: Arc::clone(&self.0.ready) });
        let waker = Waker::from(Arc::clone(&handle));
        let slot = Task { process, name, future: Some(future), handle: Arc::clone(&handle), waker };
        match state.tasks.get_mut(task) {
            Some(place) => *place = Some(slot),
            None => state.tasks.push(Some(slot)),
        }
        drop(state);
        handle.wake_by_ref();
    }

    /// Makes `event` happen at `at`, or now if that has passed.
    pub fn at(&self, at: Time, event: impl FnOnce() + Send + 'static) {
        self.set(at, Timer::Run(Box::new(event)));
    }

    fn set(&self, at: Time, timer: Timer) -> Set {
        let at = at.max(self.now());
        lock(&self.0.state).timers.set(at, timer)
    }

    fn unset(&self, set: Set) {
        // Dropped outside the lock: what it holds may set or unset others.
        let removed = lock(&self.0.state).timers.find(set).and_then(Option::take);
        drop(removed);
    }

    fn wakes(&self, set: Set, waker: &Waker) -> bool {
        let mut state = lock(&self.0.state);
        matches!(state.timers.find(set), Some(Some(Timer::Wake(known))) if known.will_wake(waker))
    }

    /// Returns after `duration` of the world's time.
    pub fn sleep(&self, duration: Duration) -> Sleep {
        Sleep { exec: self.clone(), due: self.now().plus(duration), set: None }
    }

    /// Ends a process: every future of it is dropped where it is. The task that calls this is dropped once it
    /// waits.
    pub fn kill(&self, process: ProcessId) {
        let mut dropped = Vec::new();
        {
            let mut state = lock(&self.0.state);
            let Some(found) = state.processes.get_mut(process.0 as usize) else { return };
            found.dead = true;
            found.held.clear();
            for slot in &mut state.tasks {
                if let Some(task) = slot
                    && task.process == process
                {
                    dropped.extend(task.future.take());
                }
            }
        }
        drop(dropped);
    }

    /// Stops a process where it is, until [`resume`](Self::resume).
    pub fn pause(&self, process: ProcessId) {
        if let Some(found) = lock(&self.0.state).processes.get_mut(process.0 as usize) {
            found.paused = true;
        }
    }

    /// Lets a paused process go on: everything that came meanwhile is there at once.
    pub fn resume(&self, process: ProcessId) {
        let held = match lock(&self.0.state).processes.get_mut(process.0 as usize) {
            Some(found) => {
                found.paused = false;
                std::mem::take(&mut found.held)
            }
            None => return,
        };
        lock(&self.0.ready.0).extend(held);
    }

    /// Runs until `end`, or until `seen` says that it is enough. `seen` is asked after everything that happens at
    /// one moment for one cause; in another order than that of their waking, after every task.
    pub fn run(&self, end: Time, mut seen: impl FnMut() -> bool) {
        let schedule = lock(&self.0.state).schedule;
        loop {
            if !self.settle(schedule, &mut seen) || !seen() || !self.next(end) {
                return;
            }
            if schedule.is_fifo() {
                continue;
            }
            // Whatever is due at one moment may come in any order.
            while self.next(self.now()) {
                if !seen() {
                    return;
                }
            }
        }
    }

    /// Lets the next thing happen that is due until `end`; `false`: nothing is.
    fn next(&self, end: Time) -> bool {
        // Looked up alone: what happens next takes the same lock.
        let next = lock(&self.0.state).timers.pop(end);
        let Some((due, timer)) = next else {
            self.0.now.fetch_max(end.micros(), Ordering::Relaxed);
            return false;
        };
        self.0.now.store(due.micros(), Ordering::Relaxed);
        match timer {
            Timer::Wake(waker) => waker.wake(),
            Timer::Run(event) => event(),
        }
        true
    }

    /// Polls until every task waits; `false`: enough was seen before.
    fn settle(&self, schedule: Schedule, seen: &mut impl FnMut() -> bool) -> bool {
        loop {
            let polls = if schedule.is_fifo() { 0 } else { self.polls() };
            let next = schedule.take(&mut lock(&self.0.ready.0), polls);
            let Some(next) = next else { return true };
            self.poll(next);
            if !schedule.is_fifo() && !seen() {
                return false;
            }
        }
    }

    fn poll(&self, index: usize) {
        let (mut future, waker) = {
            let mut guard = lock(&self.0.state);
            let state = &mut *guard;
            let Some(Some(task)) = state.tasks.get_mut(index) else { return };
            let Some(process) = state.processes.get_mut(task.process.0 as usize) else { return };
            if process.paused && !process.dead {
                process.held.push(index);
                return;
            }
            task.handle.queued.store(false, Ordering::Relaxed);
            let Some(future) = task.future.take() else {
                // Its process was killed: the place is free again.
                state.tasks[index] = None;
                state.free.push(index);
                return;
            };
            state.polls += 1;
            state.current = Some((task.process, task.name));
            (future, task.waker.clone())
        };
        let done = future.as_mut().poll(&mut Context::from_waker(&waker)).is_ready();
        let mut guard = lock(&self.0.state);
        let state = &mut *guard;
        state.current = None;
        let dead = |process: ProcessId| state.processes.get(process.0 as usize).is_none_or(|p| p.dead);
        let keep = match state.tasks.get_mut(index) {
            Some(Some(task)) if !done && !dead(task.process) => Some(task),
            _ => None,
        };
        match keep {
            Some(task) => task.future = Some(future),
            None => {
                if let Some(place) = state.tasks.get_mut(index) {
                    *place = None;
                }
                // A waker that is still about may wake whoever comes next in this place, once and in vain.
                state.free.push(index);
                drop(guard);
                drop(future);
            }
        }
    }

    /// The name a process was given.
    pub fn name_of(&self, process: ProcessId) -> String {
        lock(&self.0.state).processes.get(process.0 as usize).map_or_else(String::new, |p| p.name.clone())
    }

    /// Drops everything there is: futures hold handles on the world, which would keep each other alive.
    pub fn clear(&self) {
        let state = std::mem::take(&mut *lock(&self.0.state));
        drop(state);
        lock(&self.0.ready.0).clear();
    }
}

impl fmt::Debug for Exec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Exec").field("now", &self.now()).finish_non_exhaustive()
    }
}

/// A wait. Dropping it ends it.
#[derive(Debug)]
pub struct Sleep {
    exec: Exec,
    due: Time,
    set: Option<Set>,
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let set = self.set.take();
        if self.exec.now() >= self.due {
            set.into_iter().for_each(|set| self.exec.unset(set));
            return Poll::Ready(());
        }
        if let Some(set) = set {
            if self.exec.wakes(set, context.waker()) {
                self.set = Some(set);
                return Poll::Pending;
            }
            self.exec.unset(set);
        }
        let due = self.due;
        self.set = Some(self.exec.set(due, Timer::Wake(context.waker().clone())));
        Poll::Pending
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        if let Some(set) = self.set.take() {
            self.exec.unset(set);
        }
    }
}
