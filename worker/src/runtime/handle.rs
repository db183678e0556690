//! The way to stop a worker from elsewhere: the command's signals, remote control, a test.

use tokio_util::sync::CancellationToken;

/// Stops a worker from elsewhere. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct WorkerHandle {
    pub(super) warm: CancellationToken,
    pub(super) cold: CancellationToken,
}

impl WorkerHandle {
    /// Warm shutdown: takes no more messages, finishes what runs within the grace time, hands the rest back.
    pub fn stop(&self) {
        self.warm.cancel();
    }

    /// Cold shutdown: at once; what runs is requeued.
    pub fn stop_now(&self) {
        self.warm.cancel();
        self.cold.cancel();
    }

    /// True once the worker was told to stop.
    pub fn is_stopping(&self) -> bool {
        self.warm.is_cancelled()
    }
}
