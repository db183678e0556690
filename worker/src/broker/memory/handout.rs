//! Delivers messages to consumers, and one at a time to `get`.

use std::sync::Arc;
use std::time::Instant;

use super::queue::OwnerId;
use super::state::{MemoryState, Running};
use crate::broker::{Delivery, Settlement};
use crate::error::Result;

impl MemoryState {
    /// Takes the first message of a queue.
    pub(super) fn get(&mut self, name: &str, owner: OwnerId, now: Instant) -> Result<Option<Delivery>> {
        let name = Arc::clone(&self.queue(name, owner)?.name);
        self.mark_used(&name, now);
        Ok(self.hand_out(&name, owner, None))
    }

    /// Delivers the first message of a queue.
    fn hand_out(&mut self, name: &Arc<str>, owner: OwnerId, consumer: Option<u64>) -> Option<Delivery> {
        let queue = self.queues.get_mut(name)?;
        let place = *queue.ready.first_key_value()?.0;
        queue.running += 1;
        let name = Arc::clone(&queue.name);
        let mut stored = self.take(&name, place)?;
        let redelivered = std::mem::replace(&mut stored.redelivered, true);
        let tag = self.next_id();
        let delivery = Delivery {
            message: stored.message.clone(),
            queue: Arc::clone(&name),
            exchange: stored.exchange.clone(),
            routing_key: stored.routing_key.clone(),
            redelivered,
            crashes: Some(stored.crashes),
            settlement: Settlement::new(tag, self.sink.upgrade().expect("the caller holds the hub")),
        };
        self.running.insert(tag, Running { queue: name, place, stored, owner, consumer });
        Some(delivery)
    }

    /// Delivers from a queue while its consumers have room. They take turns; full ones are skipped.
    pub(super) fn serve_queue(&mut self, name: &Arc<str>) {
        loop {
            let Some(queue) = self.queues.get_mut(name).filter(|queue| !queue.ready.is_empty()) else {
                return;
            };
            let Some(turn) = queue.consumers.iter().position(|id| self.consumers[id].has_room()) else {
                return;
            };
            let id = queue.consumers[turn];
            queue.consumers.rotate_left(turn + 1);
            self.give(name, id);
        }
    }

    /// Delivers to a consumer while it has room. Its queues take turns; empty ones are skipped.
    pub(super) fn serve_consumer(&mut self, id: u64) {
        loop {
            let Some(consumer) = self.consumers.get_mut(&id).filter(|consumer| consumer.has_room()) else {
                return;
            };
            let queues = &self.queues;
            let filled = |name: &Arc<str>| queues.get(name).is_some_and(|queue| !queue.ready.is_empty());
            let Some(name) = consumer.next_queue(filled) else { return };
            self.give(&name, id);
        }
    }

    fn give(&mut self, name: &Arc<str>, id: u64) {
        let owner = self.consumers[&id].owner;
        let Some(delivery) = self.hand_out(name, owner, Some(id)) else { return };
        let consumer = self.consumers.get_mut(&id).expect("it was chosen just now");
        consumer.unsettled += 1;
        // If the receiver was dropped, dropping the delivery requeues it, and by then the consumer counts as closed.
        self.refused.extend(consumer.send(delivery));
    }
}
