//! One consumer: its prefetch, and which of its queues is next.

use std::collections::VecDeque;
use std::sync::Arc;

use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;

use super::queue::OwnerId;
use crate::broker::Delivery;

/// A consumer that is attached to queues.
pub(super) struct MemoryConsumer {
    pub(super) owner: OwnerId,
    /// The number of its unsettled deliveries.
    pub(super) unsettled: u16,
    prefetch: u16,
    sender: mpsc::Sender<Delivery>,
    /// Its queues, the next to be served first.
    queues: VecDeque<Arc<str>>,
}

impl MemoryConsumer {
    pub(super) fn new(
        owner: OwnerId,
        sender: mpsc::Sender<Delivery>,
        prefetch: u16,
        queues: Vec<Arc<str>>,
    ) -> Self {
        Self { owner, unsettled: 0, prefetch, sender, queues: queues.into() }
    }

    /// True if its receiver was dropped.
    pub(super) fn is_closed(&self) -> bool {
        self.sender.is_closed()
    }

    pub(super) fn has_room(&self) -> bool {
        self.unsettled < self.prefetch && !self.is_closed()
    }

    pub(super) fn queues(&self) -> Vec<Arc<str>> {
        self.queues.iter().cloned().collect()
    }

    /// The next of its queues that is not empty. That queue moves to the end of the order.
    pub(super) fn next_queue(&mut self, filled: impl Fn(&Arc<str>) -> bool) -> Option<Arc<str>> {
        let turn = self.queues.iter().position(filled)?;
        let name = Arc::clone(&self.queues[turn]);
        self.queues.rotate_left(turn + 1);
        Some(name)
    }

    pub(super) fn set_prefetch(&mut self, prefetch: u16) {
        self.prefetch = prefetch;
    }

    pub(super) fn set_queues(&mut self, queues: Vec<Arc<str>>) {
        self.queues = queues.into();
    }

    /// Forgets a deleted queue. Returns true if it was the last.
    pub(super) fn forget_queue(&mut self, name: &str) -> bool {
        self.queues.retain(|queue| **queue != *name);
        self.queues.is_empty()
    }

    /// Sends a delivery to the consumer; returns it if the receiver was dropped.
    pub(super) fn send(&self, delivery: Delivery) -> Option<Delivery> {
        match self.sender.try_send(delivery) {
            Ok(()) => None,
            Err(TrySendError::Closed(delivery) | TrySendError::Full(delivery)) => Some(delivery),
        }
    }
}
