//! The state of a lane that is visible to others.

use std::sync::atomic::AtomicBool;

use tokio::sync::watch;

/// The state of a lane that is visible to others.
#[derive(Default)]
pub(super) struct LaneStatus {
    /// Whether it consumes.
    pub(super) is_attached: AtomicBool,
    /// How many deliveries it holds unsettled.
    pub(super) unsettled: watch::Sender<usize>,
}

impl LaneStatus {
    /// Sets the number of unsettled deliveries.
    pub(super) fn set_unsettled(&self, count: usize) {
        self.unsettled.send_if_modified(|unsettled| std::mem::replace(unsettled, count) != count);
    }
}
