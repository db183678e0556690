//! What others may see of a lane.

use std::sync::atomic::AtomicBool;

use tokio::sync::watch;

/// What others may see of a lane.
#[derive(Default)]
pub(super) struct Gauge {
    /// Whether it consumes.
    pub(super) is_attached: AtomicBool,
    /// How many messages the broker has handed to it and has no verdict on.
    pub(super) unsettled: watch::Sender<usize>,
}

impl Gauge {
    /// It has this many.
    pub(super) fn unsettle(&self, count: usize) {
        self.unsettled.send_if_modified(|unsettled| std::mem::replace(unsettled, count) != count);
    }
}
