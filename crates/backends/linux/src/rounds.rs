//! What a node does again and again for as long as its agent runs.

use std::future::Future;
use std::time::Duration;

use steadfast_core::{Environment, Result};

/// How often a node is put in line with the records.
const ROUND: Duration = Duration::from_secs(2);

/// Repeats `work` every [`ROUND`] until the process stops. A failure is told once, with what `then` says of it.
pub(crate) fn keep<Work, Done>(
    environment: &Environment,
    name: &'static str,
    then: &'static str,
    mut work: Work,
) where
    Work: FnMut() -> Done + Send + 'static,
    Done: Future<Output = Result<()>> + Send,
{
    let (tasks, clock) = (environment.tasks().clone(), environment.clone());
    let until = tasks.shutdown();
    tasks.spawn(name, async move {
        let mut told = None;
        while !until.is_requested() {
            match work().await {
                Ok(()) => told = None,
                Err(error) if told.as_deref() != Some(error.message()) => {
                    tracing::warn!(error = %error.chain(), "{then}; it is tried again");
                    told = Some(error.message().to_owned());
                }
                Err(_) => {}
            }
            tokio::select! {
                () = until.requested() => {}
                () = clock.clock().sleep(ROUND) => {}
            }
        }
    });
}
