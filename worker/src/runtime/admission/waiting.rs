//! Deliveries that wait for a slot; those of paused queues are held back.

use std::collections::VecDeque;
use std::sync::Arc;

use super::pauses::{Pauses, QueueState};
use crate::broker::Delivery;

/// Deliveries that wait for a slot.
pub(crate) struct Waiting {
    pauses: Arc<Pauses>,
    ready: VecDeque<Delivery>,
    /// Deliveries of queues that are paused but still consumed. If returned now, they would be delivered again at once.
    held: Vec<Delivery>,
}

impl Waiting {
    pub(crate) fn new(pauses: Arc<Pauses>) -> Self {
        Self { pauses, ready: VecDeque::new(), held: Vec::new() }
    }

    /// True when no delivery is ready to run.
    pub(crate) fn is_empty(&self) -> bool {
        self.ready.is_empty()
    }

    pub(crate) fn push(&mut self, delivery: Delivery) {
        if self.pauses.of_queue(&delivery.queue) == QueueState::Open {
            return self.ready.push_back(delivery);
        }
        self.held.push(delivery);
        self.pauses.touch();
    }

    /// The next delivery to run.
    pub(crate) fn pop(&mut self) -> Option<Delivery> {
        self.ready.pop_front()
    }

    /// Sorts again after a change, and returns the deliveries that can go back to their queues.
    pub(crate) fn sort(&mut self) -> Vec<Delivery> {
        let mut returned = Vec::new();
        let all: Vec<Delivery> = self.held.drain(..).chain(self.ready.drain(..)).collect();
        for delivery in all {
            match self.pauses.of_queue(&delivery.queue) {
                QueueState::Open => self.ready.push_back(delivery),
                QueueState::Closing => self.held.push(delivery),
                QueueState::Detached => returned.push(delivery),
            }
        }
        returned
    }

    /// How many deliveries are ready to run.
    pub(crate) fn ready(&self) -> usize {
        self.ready.len()
    }

    /// Keeps this many of the ready deliveries; removes and returns those that would run last.
    pub(crate) fn beyond(&mut self, keep: usize) -> VecDeque<Delivery> {
        self.ready.split_off(keep.min(self.ready.len()))
    }

    /// All deliveries, the ready ones first.
    pub(crate) fn all(&self) -> impl Iterator<Item = &Delivery> {
        self.ready.iter().chain(&self.held)
    }

    /// All deliveries, in no particular order.
    pub(crate) fn into_all(self) -> impl Iterator<Item = Delivery> {
        self.ready.into_iter().chain(self.held)
    }
}
