//! A consumer of this process: its queues, its prefetch, and where its messages go.

use std::sync::Arc;

use super::claim::Claimed;

/// A consumer to start.
#[derive(Clone)]
pub(crate) struct Consuming {
    pub(crate) client: u64,
    pub(crate) consumer: u64,
    pub(crate) queues: Vec<String>,
    pub(crate) prefetch: usize,
    pub(crate) name: String,
    pub(crate) sink: Sink,
}

/// Where a consumer's messages go. Called on the thread; must not block.
#[derive(Clone)]
pub(crate) struct Sink {
    /// False if the receiver was dropped: the message is requeued.
    pub(crate) hand_out: Arc<dyn Fn(Claimed) -> bool + Send + Sync>,
    /// True if the receiver was dropped.
    pub(crate) is_closed: Arc<dyn Fn() -> bool + Send + Sync>,
}

/// A consumer of this process.
pub(super) struct Consumer {
    pub(super) id: u64,
    pub(super) client: u64,
    pub(super) queues: Vec<String>,
    pub(super) name: String,
    pub(super) prefetch: usize,
    pub(super) unsettled: usize,
    /// The queue to serve first next time, so that a full one does not starve the others.
    pub(super) first: usize,
    pub(super) sink: Sink,
}

impl Consumer {
    pub(super) fn new(consuming: Consuming) -> Self {
        let Consuming { client, consumer, queues, prefetch, name, sink } = consuming;
        Self { id: consumer, client, queues, name, prefetch, unsettled: 0, first: 0, sink }
    }

    /// True if its receiver was dropped.
    pub(super) fn is_closed(&self) -> bool {
        (self.sink.is_closed)()
    }

    /// Records that all its deliveries were lost together with the lease.
    pub(super) fn has_lost_all(&mut self) {
        self.unsettled = 0;
    }
}
