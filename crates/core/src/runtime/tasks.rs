//! Tasks by name, joined at shutdown.

use std::fmt::Debug;
use std::future::Future;
use std::sync::Arc;

use futures::future::BoxFuture;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Who polls tasks: tokio in a real process, a simulator's own executor in a simulated one.
pub trait Spawner: Debug + Send + Sync + 'static {
    /// Runs `task` beside the caller, to its end or the end of the process it belongs to.
    fn spawn(&self, name: &'static str, task: BoxFuture<'static, ()>);
}

/// Spawns tasks, tells them to stop and waits until they have.
#[derive(Debug, Clone, Default)]
pub struct Tasks {
    spawner: Option<Arc<dyn Spawner>>,
    tracker: TaskTracker,
    shutdown: CancellationToken,
}

/// Told when to stop.
#[derive(Debug, Clone)]
pub struct Shutdown(CancellationToken);

impl Shutdown {
    /// Returns when it is time to stop.
    pub async fn requested(&self) {
        self.0.cancelled().await;
    }

    /// Whether it is time to stop.
    pub fn is_requested(&self) -> bool {
        self.0.is_cancelled()
    }
}

impl Tasks {
    /// No tasks yet.
    pub fn new() -> Self {
        Tasks::default()
    }

    /// No tasks yet; they will run on `spawner` instead of the tokio runtime around them.
    pub fn on(spawner: Arc<dyn Spawner>) -> Self {
        Tasks { spawner: Some(spawner), ..Tasks::default() }
    }

    /// Runs `future` beside the caller. The name is for logs; a panic is logged with it.
    #[expect(clippy::disallowed_methods, reason = "this is the one place that spawns")]
    pub fn spawn(&self, name: &'static str, future: impl Future<Output = ()> + Send + 'static) {
        use tracing::Instrument as _;
        let task = self.tracker.track_future(future.instrument(tracing::debug_span!("task", name)));
        // Detached on purpose: the tracker joins it at shutdown.
        match &self.spawner {
            Some(spawner) => spawner.spawn(name, Box::pin(task)),
            None => drop(tokio::spawn(task)),
        }
    }

    /// A handle that says when to stop.
    pub fn shutdown(&self) -> Shutdown {
        Shutdown(self.shutdown.clone())
    }

    /// Tells every task to stop and returns when all have.
    pub async fn stop(&self) {
        self.request_stop();
        self.tracker.wait().await;
    }

    /// Tells every task to stop, and does not wait.
    pub fn request_stop(&self) {
        self.shutdown.cancel();
        self.tracker.close();
    }
}
