//! The users of a cluster: what they ask, until they are answered.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use steadfast_core::control::{Control, ControlError, ControlResult, Guard};
use steadfast_core::ids::{MemberName, NodeName, Revision, ServiceName};
use steadfast_core::model::Reason;

use super::Fleet;
use crate::env::{self, MachineClock};
use crate::run::scenario::ServiceFile;

/// What a request decides for good: a service, and what of it.
///
/// Of two requests under way at once either may come first, and then it is open which of them is wanted at the end.
/// Whoever means the second one waits for the answer to the first, and so do the users of a run: otherwise the rule that
/// what is wanted is reached would expect what nobody has promised.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Decides {
    service: Option<String>,
    matter: Option<Matter>,
    /// Whether it ends the service, so that nothing that was asked earlier would be heard any more.
    ends: bool,
}

/// What of a service is decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Matter {
    Existence,
    Pause,
    /// Which version its members run.
    Version,
    /// That they run an earlier one again: the way out of one that does not work, and keeps everything else waiting.
    Return,
    /// How many members it has.
    Size,
}

impl Matter {
    fn is_of_file(self) -> bool {
        matches!(self, Matter::Version | Matter::Return | Matter::Size)
    }
}

impl Decides {
    fn new(service: &str, matter: Option<Matter>) -> Self {
        Decides { service: Some(service.to_owned()), matter, ends: false }
    }

    fn file(service: &str) -> Self {
        Decides::new(service, Some(Matter::Version))
    }

    /// What an operation decides: nothing, if the same is wanted after it as before.
    fn of(service: &str, operation: &str) -> Self {
        match operation {
            "start" | "undelete" => Decides::new(service, Some(Matter::Existence)),
            "stop" | "delete" => Decides { ends: true, ..Decides::new(service, Some(Matter::Existence)) },
            "pause" | "resume" => Decides::new(service, Some(Matter::Pause)),
            "roll_back" => Decides::new(service, Some(Matter::Return)),
            _ if operation.starts_with("scale to ") => Decides::new(service, Some(Matter::Size)),
            _ => Decides::new(service, None),
        }
    }

    /// Whether the answer to the other request, made earlier, is waited for: it decides the same, or would not be heard
    /// any more.
    fn comes_after(&self, other: &Decides) -> bool {
        let of_one_service = self.service.is_some() && self.service == other.service;
        let (Some(own), Some(its)) = (self.matter, other.matter) else { return false };
        let of_file = own.is_of_file() && its.is_of_file() && (own, its) != (Matter::Return, Matter::Size);
        of_one_service && (own == its || of_file || self.ends && its.is_of_file())
    }

    /// Whether the other request makes the service that this one is about, or changes its file.
    fn is_about(&self, other: &Decides) -> bool {
        self.service.is_some()
            && self.service == other.service
            && other.matter.is_some_and(Matter::is_of_file)
    }

    /// Whether a refusal is an answer that stands, so that asking again would be of no use. Whoever is told of no such
    /// service knows better while it is being made, or is to be brought back (`comes`).
    fn is_answered_by(&self, error: &ControlError, comes: bool) -> bool {
        match error {
            ControlError::Invalid(_) => true,
            ControlError::NotFound { .. } => !comes,
            ControlError::Refused { .. } => self.matter.is_none(),
            // The node has another life by now.
            ControlError::Conflict { .. } => self.service.is_none(),
            _ => false,
        }
    }
}

impl Fleet {
    /// Lets a user ask, again and again until a server has answered; but not before what was asked earlier and decides
    /// the same has its answer.
    fn ask_until<F>(self: &Arc<Self>, decides: Decides, ask: impl Fn(Control, Guard) -> F + Send + 'static)
    where
        F: Future<Output = ControlResult<()>> + Send,
    {
        let asked = {
            let mut state = self.state();
            state.asked += 1;
            let asked = state.asked;
            state.unanswered.insert(asked, decides.clone());
            asked
        };
        let guard = Guard { idempotency_key: Some(format!("user-{asked}")), if_index: None };
        let clock = MachineClock::new(self.world.exec().clone(), env::ClockSkew::default());
        let env = env::environment(self.world.exec(), self.user, &clock, self.world.seed());
        let fleet = Arc::downgrade(self);
        let asking = async move {
            loop {
                let Some(strong) = fleet.upgrade() else { return };
                let earlier = |is: &dyn Fn(&Decides) -> bool| {
                    strong.state().unanswered.range(..asked).any(|(_, other)| is(other))
                };
                let waits = earlier(&|other| decides.comes_after(other));
                let wanted =
                    decides.service.as_ref().is_some_and(|service| strong.scenario.is_wanted(service));
                let comes = wanted || earlier(&|other| decides.is_about(other));
                let control = strong.state().servers.values().next().map(|(_, control)| control.clone());
                drop(strong);
                if let Some(control) = control.filter(|_| !waits) {
                    let answer = env.timeout(Duration::from_secs(30), ask(control, guard.clone())).await;
                    let answered = answer.is_some_and(|answer| {
                        answer.map_or_else(|error| decides.is_answered_by(&error, comes), |()| true)
                    });
                    if answered {
                        let Some(fleet) = fleet.upgrade() else { return };
                        fleet.state().unanswered.remove(&asked);
                        return;
                    }
                }
                env.clock().sleep(Duration::from_secs(1)).await;
            }
        };
        self.world.exec().spawn(self.user, "user", Box::pin(asking));
    }

    /// Whether every request was answered that is about a service which is wanted.
    ///
    /// # Errors
    /// What was not.
    pub(in crate::run) fn all_answered(&self) -> Result<(), String> {
        let state = self.state();
        let waiting = state.unanswered.iter().find(|(_, decides)| {
            decides.service.as_ref().is_none_or(|service| self.scenario.is_wanted(service))
        });
        waiting.map_or(Ok(()), |(asked, decides)| {
            let about = decides.service.as_deref().unwrap_or("a node");
            Err(format!("what user {asked} asks of {about} was not answered"))
        })
    }

    /// Lets a user apply a service file.
    pub fn apply(self: &Arc<Self>, file: &ServiceFile) {
        let input = file.input();
        self.ask_until(Decides::file(&file.name), move |control, guard| {
            let input = input.clone();
            async move { control.apply(input, guard).await.map(drop) }
        });
    }

    /// Lets a user bring a service to another service file, which has as many members as users have asked for by now.
    pub fn upgrade(self: &Arc<Self>, file: &ServiceFile) {
        let Ok(name) = file.name.parse::<ServiceName>() else { return };
        let replicas = self.scenario.replicas_before(file, self.world.now().millis());
        let input = ServiceFile { replicas, ..file.clone() }.input();
        self.ask_until(Decides::file(&file.name), move |control, guard| {
            let (name, input) = (name.clone(), input.clone());
            async move { control.upgrade(&name, input, guard).await.map(drop) }
        });
    }

    /// Lets a user ask for an operation.
    pub fn ask(self: &Arc<Self>, operation: &str, service: &str) {
        let Ok(name) = service.parse::<ServiceName>() else { return };
        let decides = Decides::of(service, operation);
        let operation = operation.to_owned();
        self.ask_until(decides, move |control, guard| {
            let (name, operation) = (name.clone(), operation.clone());
            async move {
                if let Some(to) = operation.strip_prefix("switchover to ").and_then(|to| to.parse().ok()) {
                    return control.switchover(&name, None, Some(to), guard).await.map(drop);
                }
                if let Some(replicas) = operation.strip_prefix("scale to ").and_then(|to| to.parse().ok()) {
                    return control.scale(&name, None, replicas, guard).await.map(drop);
                }
                match operation.as_str() {
                    "stop" => control.stop(&name, guard).await.map(drop),
                    "start" => control.start(&name, guard).await.map(drop),
                    "restart" => control.restart(&name, guard).await.map(drop),
                    "switchover" => control.switchover(&name, None, None, guard).await.map(drop),
                    "roll_back" => control.roll_back(&name, Revision(1), guard).await.map(drop),
                    "delete" => control.delete(&name, guard).await.map(drop),
                    "pause" => control.pause(&name).await.map(drop),
                    "resume" => control.resume(&name).await.map(drop),
                    _ => control.undelete(&name, guard).await.map(drop),
                }
            }
        });
    }

    /// Lets an operator confirm that a node's life is over, the one that is seen: a later one may have ended unseen.
    pub fn confirm_dead(self: &Arc<Self>, node: &NodeName) {
        let life = self.world.look(|state| state.cloud.recorded_life(node));
        let (Some(life), node) = (life, node.clone()) else { return };
        self.ask_until(Decides::default(), move |control, _| {
            let (node, life) = (node.clone(), life.clone());
            async move { control.confirm_dead(&node, &life).await.map(drop) }
        });
    }

    /// Lets an operator say that the disk of a node is gone, and a member's volumes with it. Who is right asks again
    /// until it is taken, since what it waits for may come; who is wrong takes the first answer.
    pub fn rebuild(self: &Arc<Self>, member: &MemberName, disk: &NodeName) {
        let Some((service, _)) = member.as_str().rsplit_once('-') else { return };
        let (world, member, disk) = (self.world.clone(), member.clone(), disk.clone());
        // Voters never come back where engines have no learners; where they have, a quorum may stand later.
        let learn = self.scenario.services.iter().any(|file| file.name == service && file.has_learners());
        self.ask_until(Decides::new(service, None), move |control, _| {
            let (world, member, disk) = (world.clone(), member.clone(), disk.clone());
            async move {
                let refused = control.rebuild(&member, &disk).await.map(drop);
                let is_gone = world.look(|state| state.cloud.has_lost(&member, &disk));
                match refused {
                    Err(ControlError::Conflict { reason, .. })
                        if reason == Reason::VoterAmnesia && !learn || !is_gone =>
                    {
                        Ok(())
                    }
                    answered => answered,
                }
            }
        });
    }
}
