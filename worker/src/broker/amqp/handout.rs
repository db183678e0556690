//! Passes deliveries from a lane to its consumer; those that do not fit are buffered.

use std::collections::VecDeque;

use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;

use crate::broker::Delivery;

/// The outgoing deliveries of one lane.
pub(super) struct HandOut {
    /// `None` once nothing more is handed out.
    consumer: Option<mpsc::Sender<Delivery>>,
    /// Deliveries that the consumer has no room for yet; after the end, those that came too late to be handed out.
    ready: VecDeque<Delivery>,
}

impl HandOut {
    pub(super) fn new(consumer: mpsc::Sender<Delivery>) -> Self {
        Self { consumer: Some(consumer), ready: VecDeque::new() }
    }

    /// False after the [`end`](Self::end).
    pub(super) fn is_open(&self) -> bool {
        self.consumer.is_some()
    }

    /// How many deliveries are waiting.
    pub(super) fn waiting(&self) -> usize {
        self.ready.len()
    }

    /// Adds a delivery.
    pub(super) fn push(&mut self, delivery: Delivery) {
        self.ready.push_back(delivery);
    }

    /// Hands out as many deliveries as there is room for.
    pub(super) fn hand_out(&mut self) {
        let Some(consumer) = &self.consumer else { return };
        while let Some(delivery) = self.ready.pop_front() {
            match consumer.try_send(delivery) {
                Ok(()) => {}
                Err(TrySendError::Full(delivery)) => return self.ready.push_front(delivery),
                // The consumer was dropped; so is the delivery, which requeues it.
                Err(TrySendError::Closed(_)) => {}
            }
        }
    }

    /// Hands out as many deliveries as there is room for and drops the rest, which requeues them; no more follow.
    pub(super) fn end(&mut self) {
        self.hand_out();
        self.consumer = None;
        self.ready.clear();
    }

    /// Resolves when the consumer was dropped.
    pub(super) async fn dropped(&self) {
        match &self.consumer {
            Some(consumer) => consumer.closed().await,
            None => std::future::pending().await,
        }
    }

    /// Resolves when the consumer has room for one more.
    pub(super) async fn room(&self) {
        match &self.consumer {
            Some(consumer) => drop(consumer.reserve().await),
            None => std::future::pending().await,
        }
    }
}
