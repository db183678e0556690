//! Counts the outcomes of a worker.

use std::sync::atomic::{AtomicU64, Ordering};

use serde::Serialize;

/// The outcomes of a worker, counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Summary {
    /// Tasks that returned.
    pub succeeded: u64,
    /// Messages that went to a dead-letter queue.
    pub failed: u64,
    /// Failed runs that will be tried again.
    pub retried: u64,
    /// Messages that were requeued at shutdown.
    pub requeued: u64,
    /// Messages that expired or were revoked.
    pub revoked: u64,
}

/// Counts outcomes.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    /// Tasks that returned.
    pub(crate) succeeded: AtomicU64,
    /// Messages that went to a dead-letter queue.
    pub(crate) failed: AtomicU64,
    /// Failed runs that will be tried again.
    pub(crate) retried: AtomicU64,
    /// Messages requeued.
    pub(crate) requeued: AtomicU64,
    /// Messages that expired or were revoked.
    pub(crate) revoked: AtomicU64,
}

impl Counters {
    /// Returns the current counts.
    pub(crate) fn summary(&self) -> Summary {
        let [succeeded, failed, retried, requeued, revoked] =
            [&self.succeeded, &self.failed, &self.retried, &self.requeued, &self.revoked]
                .map(|counter| counter.load(Ordering::Relaxed));
        Summary { succeeded, failed, retried, requeued, revoked }
    }
}

pub(crate) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}
