//! The tasks of a process that stays. One that panics ends the process, which whoever keeps it starts anew: with some of
//! its tasks gone it would hold its locks and leases, and do half of its work.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use steadfast_core::Environment;
use steadfast_core::runtime::{Entropy, Spawner, SystemClock, Tasks};
use tokio::sync::watch;

use crate::exit::{Failure, Result};

/// Tells when a task has panicked.
#[derive(Debug)]
pub(super) struct Panics(watch::Receiver<Option<&'static str>>);

impl Panics {
    /// Waits for the first panic of a task.
    pub(super) async fn first(&mut self) -> Failure {
        let task = match self.0.wait_for(Option::is_some).await {
            Ok(task) => *task,
            // Nobody is left who could spawn any.
            Err(_) => return std::future::pending().await,
        };
        Failure::new(format!("the task {} has panicked, as the log says", task.unwrap_or_default()))
            .reason("Internal")
            .remedy("this process ends, so that it can be started whole")
    }
}

/// The environment of a process that stays.
pub(super) fn environment() -> Result<(Environment, Panics)> {
    let (panicked, panics) = watch::channel(None);
    let tasks = Tasks::on(Arc::new(Watched(panicked)));
    let entropy = Entropy::from_seed(crate::data_dir::random()?);
    Ok((Environment::new(Arc::new(SystemClock::new()), entropy, tasks), Panics(panics)))
}

/// Runs tasks on the runtime around it, and tells of panics.
#[derive(Debug)]
struct Watched(watch::Sender<Option<&'static str>>);

impl Spawner for Watched {
    fn spawn(&self, name: &'static str, task: BoxFuture<'static, ()>) {
        let panicked = self.0.clone();
        drop(tokio::spawn(async move {
            // Nothing of it is used afterwards.
            if AssertUnwindSafe(task).catch_unwind().await.is_err() {
                panicked.send_replace(Some(name));
            }
        }));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_task_that_panics_is_told_and_one_that_ends_is_not() {
        let (environment, mut panics) = environment().unwrap();
        let tasks = environment.tasks();
        tasks.spawn("calm", async {});
        tasks.spawn("wild", async { panic!("on purpose") });
        let failure = panics.first().await;
        assert!(failure.message.contains("wild"), "{failure}");
        assert_eq!(failure.exit, crate::exit::Exit::Error);
    }
}
