//! Stops a worker from outside: from a signal handler, remote control or a test.

use tokio_util::sync::CancellationToken;

/// Stops a worker from elsewhere. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct WorkerHandle {
    pub(super) warm: CancellationToken,
    pub(super) cold: CancellationToken,
}

impl WorkerHandle {
    /// Warm shutdown: takes no more messages, finishes running tasks within the grace time, and requeues the rest.
    pub fn stop(&self) {
        self.warm.cancel();
    }

    /// Cold shutdown: requeues running tasks and stops at once.
    pub fn stop_now(&self) {
        self.warm.cancel();
        self.cold.cancel();
    }

    /// Returns true once a shutdown was requested.
    pub fn is_stopping(&self) -> bool {
        self.warm.is_cancelled()
    }
}
