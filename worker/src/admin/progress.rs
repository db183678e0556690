//! The progress of a walk, and a way to stop it from outside.

use std::sync::atomic::{AtomicU64, Ordering};

use tokio_util::sync::CancellationToken;

use super::failure::{Failure, TIME_IS_UP, UNAVAILABLE};

/// The progress of a walk.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    total: AtomicU64,
    seen: AtomicU64,
    done: AtomicU64,
    stop: CancellationToken,
}

/// The numbers of a walk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    /// How many messages there were at the beginning.
    pub(crate) total: u64,
    /// How many were looked at.
    pub(crate) seen: u64,
    /// How many were done.
    pub(crate) done: u64,
}

impl Progress {
    /// The progress of a walk that is also stopped by cancelling `stop`.
    #[cfg(feature = "dashboard")]
    pub(crate) fn until(stop: &CancellationToken) -> Self {
        Self { stop: stop.child_token(), ..Self::default() }
    }

    pub(crate) fn counts(&self) -> Counts {
        let [total, seen, done] =
            [&self.total, &self.seen, &self.done].map(|count| count.load(Ordering::Relaxed));
        Counts { total, seen, done }
    }

    /// Stops the walk: work in progress is completed, held messages are requeued.
    pub(crate) fn stop(&self) {
        self.stop.cancel();
    }

    /// Resolves when the walk is to stop, with the failure to report.
    pub(super) async fn stopped(&self) -> Failure {
        self.stop.cancelled().await;
        Failure::new(TIME_IS_UP, "it was interrupted")
    }

    pub(super) fn begins(&self, total: u64) {
        self.total.store(total, Ordering::Relaxed);
    }

    pub(super) fn has_seen(&self, seen: u64) {
        self.seen.store(seen, Ordering::Relaxed);
    }

    pub(super) fn has_done_one(&self) {
        self.done.fetch_add(1, Ordering::Relaxed);
    }
}

impl Counts {
    /// Prefixes the failure of a walk with how far it got: `3 dropped among the first 20 of 100, then: …`.
    pub(crate) fn before(self, what: &str, failure: Failure) -> Failure {
        let (code, why) = failure.into_parts();
        let Self { total, seen, done } = self;
        if seen == 0 {
            return Failure::new(code, why);
        }
        let (most, rest) = match code {
            // The last of them may not have reached the broker.
            UNAVAILABLE => ("at most ", ""),
            _ => ("", "; all others are in the queue as before"),
        };
        Failure::new(
            code,
            format!("{most}{done} {what} among the first {seen} of {total}, then: {why}{rest}"),
        )
    }
}
