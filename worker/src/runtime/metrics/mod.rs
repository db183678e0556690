//! Prometheus metrics of a worker: `/metrics`, beside `/livez`.
//!
//! Runs and outcomes are recorded where they happen, by [`Metrics`]. Current values are read on request ([`Present`]), which
//! costs nothing while there is no reader.

#[cfg(feature = "metrics")]
mod names;
#[cfg(not(feature = "metrics"))]
mod off;
#[cfg(feature = "metrics")]
mod recorded;
#[cfg(feature = "metrics")]
mod schedules;

#[cfg(not(feature = "metrics"))]
pub(crate) use off::Metrics;
#[cfg(feature = "metrics")]
pub(crate) use recorded::Metrics;

use std::time::Duration;

use crate::app::schedules::Figures;
use crate::broker::QueueInfo;

/// Whether a result was stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StoredAs {
    /// It is stored.
    Stored,
    /// It is not required, and the store was away.
    Skipped,
    /// It can never be stored.
    Failed,
}

/// The current values of a worker.
#[derive(Clone, Debug, Default)]
#[cfg_attr(not(feature = "metrics"), expect(dead_code, reason = "read by the feature `metrics`"))]
pub(crate) struct Present {
    /// True when the worker is connected and attached to its queues.
    pub(crate) is_connected: bool,
    /// The number of messages that were delivered to the worker.
    pub(crate) delivered: u64,
    pub(crate) slots: usize,
    pub(crate) slots_taken: usize,
    pub(crate) slots_lost: usize,
    /// How many outcomes wait to be settled, and how long the oldest has waited.
    pub(crate) settling: (usize, Duration),
    pub(crate) events_dropped: u64,
    /// Its queues and their dead-letter queues; `None`: the broker did not answer.
    pub(crate) queues: Option<Vec<QueueInfo>>,
    /// Those of its queues that are paused.
    pub(crate) paused: Vec<String>,
    /// All of its queues.
    pub(crate) consumed: Vec<String>,
    /// What its scheduler has done, if it has one.
    pub(crate) schedules: Option<Figures>,
}
