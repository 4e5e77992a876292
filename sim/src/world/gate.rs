//! The gate: who calls, and how a call travels, takes effect and is answered, or goes wrong.

use std::future::{pending, poll_fn};
use std::sync::Arc;
use std::task::Poll;

use futures::channel::oneshot;
use steadfast_core::error::{Error, ErrorKind, Result};
use steadfast_core::ids::NodeName;

use super::{Answer, Ask, Earlier, State, World};
use crate::exec::ProcessId;
use crate::fault::{Class, Fault, Telling};
use crate::hash;
use crate::model::host::Way;
use crate::model::{Cloud, Fact};
use crate::time::Time;
use crate::trace::{Entry, FACT, Stage};

/// A process that calls. Clones are the same one.
#[derive(Debug, Clone)]
pub struct Caller(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    world: World,
    process: ProcessId,
    actor: Arc<str>,
    machine: Option<NodeName>,
}

/// A call that was let through the gate.
struct Asked {
    site: usize,
    nth: u32,
    label: u64,
    question: Option<u64>,
    writes: bool,
    fault: Option<Fault>,
    ways: (u64, u64),
}

/// What a call has come to, and its entry in the trace.
struct Effected<T> {
    answer: Result<T>,
    entry: Entry,
}

impl Caller {
    /// `process`, which keeps `actor` as its name over restarts, on a machine or none of those that can be cut off.
    pub fn new(world: World, process: ProcessId, actor: &str, machine: Option<NodeName>) -> Self {
        Caller(Arc::new(Inner { world, process, actor: actor.into(), machine }))
    }

    /// The world.
    pub fn world(&self) -> &World {
        &self.0.world
    }

    /// The machine it runs on.
    pub fn machine(&self) -> Option<&NodeName> {
        self.0.machine.as_ref()
    }

    /// The process.
    pub fn process(&self) -> ProcessId {
        self.0.process
    }

    /// Who calls.
    pub fn actor(&self) -> &str {
        &self.0.actor
    }

    /// Which way it is cut off.
    fn cut(&self, state: &State) -> Option<Way> {
        match &self.0.machine {
            None => state.cloud.servers_cut.get(&*self.0.actor).copied(),
            Some(machine) => {
                let host = state.cloud.hosts.get(machine)?;
                if host.cut.control { Some(Way::Both) } else { host.one_way }
            }
        }
    }

    /// Whether its machine is off: what was on its way within it is gone.
    fn is_off(&self, state: &State) -> bool {
        let machine = self.machine().and_then(|machine| state.cloud.hosts.get(machine));
        machine.is_some_and(|host| !host.running)
    }

    /// Whether nothing comes from it.
    fn is_mute(&self, state: &State) -> bool {
        self.cut(state).is_some_and(Way::loses_requests)
    }

    /// Whether nothing comes to it.
    pub(super) fn is_cut(&self, state: &State) -> bool {
        self.cut(state).is_some_and(Way::loses_answers)
    }

    /// Makes a call: it travels, takes effect, and its answer travels back; or it goes wrong.
    ///
    /// A call that is lost never returns. What is on its way arrives, whatever becomes of the caller. `effect` is
    /// carried out twice if the call is duplicated.
    ///
    /// # Errors
    /// What `effect` says, or a fault.
    pub async fn call<T: Answer>(
        &self,
        ask: Ask<'_>,
        effect: impl Fn(&mut Cloud, Time) -> Result<T> + Send + Sync + 'static,
    ) -> Result<T> {
        let mut asked = self.ask(ask);
        self.world().pull_trigger(asked.label, asked.nth);
        match asked.fault {
            Some(Fault::CrashBefore) => {
                self.world().crash(self.process());
                return pending().await;
            }
            Some(Fault::Pause(for_ms)) => {
                self.world().pause(self.process(), for_ms);
                yield_once().await;
            }
            Some(Fault::RequestLost) => return pending().await,
            Some(Fault::Slow(by)) => asked.ways = (asked.ways.0 + by, asked.ways.1 + by),
            Some(Fault::LateEffect(by)) => asked.ways.0 += by,
            _ => {}
        }
        let (answered, answer) = oneshot::channel();
        let (caller, operation, local) = (self.clone(), ask.operation, ask.local);
        let arrival = self.world().now().plus_millis(asked.ways.0);
        self.world().0.exec.at(arrival, move || {
            if let Some(Fault::Duplicate(by)) = asked.fault {
                // The first time nobody hears.
                let Some(first) = caller.take_effect(&asked, operation, local, &effect) else { return };
                let again = caller.world().now().plus_millis(by);
                let exec = caller.world().exec().clone();
                exec.at(again, move || {
                    caller.arrive_again(&asked, &first, (operation, local), effect, answered)
                });
            } else if let Some(effected) = caller.take_effect(&asked, operation, local, &effect) {
                caller.reply(&asked, local, effected, answered);
            }
        });
        match answer.await {
            Ok(answer) => answer,
            // Lost.
            Err(oneshot::Canceled) => pending().await,
        }
    }

    fn ask(&self, ask: Ask<'_>) -> Asked {
        let workflow = self.world().0.exec.current().map_or("main", |(_, name)| name);
        let now = self.world().now();
        let mut guard = self.world().state();
        let state = &mut *guard;
        let (site, nth) =
            state.sites.count(&self.0.actor, workflow, ask.operation, ask.resource, (ask.writes, ask.local));
        let (label, question) =
            state.sites.all().get(site).map_or((0, None), |site| (site.label, site.question));
        let lags = state.cloud.profile.stale_ms > 0
            && Class::StaleRead.applies(ask.operation, ask.writes, ask.local);
        let fault = state
            .faults
            .befall(now, label, nth, lags)
            .filter(|fault| fault.class().applies(ask.operation, ask.writes, ask.local));
        let span = if ask.local { (0, 1) } else { state.cloud.profile.call_ms };
        let way = |way: u64| hash::draw_in(span, self.world().0.seed, label, u64::from(nth) * 2 + way);
        let entry = Entry::new(now, u32::try_from(site).unwrap_or(FACT), nth, Stage::Asked, 0);
        state.trace.push(entry, label);
        if let (Some(fault), Some(site)) = (fault, state.sites.all().get(site)) {
            let key = site.key(nth);
            let text = format!("{fault:?} at {key}");
            // Whether an answer differs is known only when there is one.
            let changed = !matches!(fault, Fault::StaleRead | Fault::PartialList | Fault::Duplicate(_));
            state.faults.note(now, key, fault, changed);
            state.cloud.truth.note(now, Fact::Fault { text });
            self.world().follow_up(state, now);
        }
        Asked { site, nth, label, question, writes: ask.writes, fault, ways: (way(0), way(1)) }
    }

    /// What a call does where it arrives, and what is to be answered; none: it is lost.
    fn take_effect<T: Answer>(
        &self,
        asked: &Asked,
        operation: &'static str,
        local: bool,
        effect: &(impl Fn(&mut Cloud, Time) -> Result<T> + ?Sized),
    ) -> Option<Effected<T>> {
        let now = self.world().now();
        let mut guard = self.world().state();
        let state = &mut *guard;
        if if local { self.is_off(state) } else { self.is_mute(state) } {
            return None;
        }
        let contract = operation.split_once('.').map_or(operation, |(contract, _)| contract);
        let refuse = |kind| Error::new(kind, "simulator", operation, "", "on purpose").without_effect();
        let answer = match asked.fault {
            Some(Fault::Throttled) => Err(refuse(ErrorKind::Throttled)),
            Some(Fault::Unavailable) => Err(refuse(ErrorKind::Unavailable)),
            _ if state.outages.get(contract).is_some_and(|until| now < *until) => {
                Err(refuse(ErrorKind::Unavailable))
            }
            _ if !local && state.cloud.limits.refuses(operation, now).is_some() => {
                Err(refuse(ErrorKind::Throttled))
            }
            _ => effect(&mut state.cloud, now),
        };
        let (answer, telling) = match answer {
            Ok(answer) => state.distort(asked, operation, local, now, answer),
            Err(error) => (Err(error), Telling::default()),
        };
        let digest = match &answer {
            Ok(answer) => answer.digest(),
            Err(error) => hash::of_text(error.message()) ^ error.kind() as u64,
        };
        let site = u32::try_from(asked.site).unwrap_or(FACT);
        let entry = Entry { telling, ..Entry::new(now, site, asked.nth, Stage::Effect, digest) };
        state.trace.push(entry, asked.label);
        self.world().follow_up(state, now);
        Some(Effected { answer, entry })
    }

    /// The second arrival of a call that something below its caller has made twice.
    fn arrive_again<T: Answer>(
        &self,
        asked: &Asked,
        first: &Effected<T>,
        (operation, local): (&'static str, bool),
        effect: impl Fn(&mut Cloud, Time) -> Result<T>,
        answered: oneshot::Sender<Result<T>>,
    ) {
        let changes =
            || self.world().look(|state| (state.cloud.truth.facts().len(), state.cloud.store.changes()));
        let before = changes();
        let Some(second) = self.take_effect(asked, operation, local, &effect) else { return };
        if changes() != before || second.entry.digest != first.entry.digest {
            self.world().direct(|state, _| state.faults.note_changed(asked.label, asked.nth));
        }
        self.reply(asked, local, second, answered);
    }

    /// Sends the answer on its way back.
    fn reply<T: Answer>(
        &self,
        asked: &Asked,
        local: bool,
        effected: Effected<T>,
        answered: oneshot::Sender<Result<T>>,
    ) {
        match asked.fault {
            Some(Fault::ResponseLost | Fault::LateEffect(_)) => return,
            Some(Fault::CrashAfter) => return self.world().crash(self.process()),
            _ => {}
        }
        let (caller, label) = (self.clone(), asked.label);
        let Effected { answer, mut entry } = effected;
        self.world().0.exec.at(entry.at.plus_millis(asked.ways.1), move || {
            let mut state = caller.world().state();
            if !local && caller.is_cut(&state) {
                return;
            }
            entry.at = caller.world().now();
            entry.stage = Stage::Heard;
            state.trace.push(entry, label);
            drop(state);
            // Nobody may be waiting any more.
            answered.send(answer).ok();
        });
    }
}

impl State {
    /// What the caller is told instead of `answer`, and what it might have been told.
    fn distort<T: Answer>(
        &mut self,
        asked: &Asked,
        operation: &'static str,
        local: bool,
        now: Time,
        mut answer: T,
    ) -> (Result<T>, Telling) {
        let can = |class: Class| class.applies(operation, asked.writes, local);
        let earlier = if can(Class::StaleRead) { self.earlier(asked, now, &answer) } else { None };
        let telling =
            Telling { stale: earlier.is_some(), partial: can(Class::PartialList) && answer.can_shorten() };
        let told = match asked.fault {
            Some(Fault::StaleRead) => earlier,
            Some(Fault::PartialList) if telling.partial => {
                answer.shorten();
                Some(answer.clone())
            }
            _ => None,
        };
        if told.is_some() {
            self.faults.note_changed(asked.label, asked.nth);
        }
        (Ok(told.unwrap_or(answer)), telling)
    }

    /// What the same question was answered before the answer became this one, if that was not too long ago.
    fn earlier<T: Answer>(&mut self, asked: &Asked, now: Time, answer: &T) -> Option<T> {
        let question = asked.question.filter(|_| self.cloud.profile.stale_ms > 0)?;
        let digest = answer.digest();
        let Some(known) = self.earlier.get_mut(&question) else {
            let last = Box::new(answer.clone());
            self.earlier.insert(question, Earlier { digest, last, at: now, before: None });
            return None;
        };
        if known.digest != digest {
            known.digest = digest;
            known.before = Some((std::mem::replace(&mut known.last, Box::new(answer.clone())), known.at));
        }
        known.at = now;
        let (before, at) = known.before.as_ref()?;
        if now.since(*at).as_millis() > u128::from(self.cloud.profile.stale_ms) {
            known.before = None;
            return None;
        }
        before.downcast_ref::<T>().cloned()
    }
}

/// Lets others go first, once.
async fn yield_once() {
    let mut yielded = false;
    poll_fn(|context| {
        if std::mem::replace(&mut yielded, true) {
            return Poll::Ready(());
        }
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}
