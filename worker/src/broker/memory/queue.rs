//! One queue: its messages in the order of delivery.

use std::cmp::Reverse;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use crate::message::Message;
use crate::routing::{Overflow, Queue};

/// Identifies one user of the queues.
pub(super) type OwnerId = u64;

/// The position of a message in its queue: by priority, then by arrival. A requeued message keeps its place, and so is
/// first again.
pub(super) type Place = (Reverse<u8>, u64);

/// A moment, made unique by a number.
pub(super) type Moment = (Instant, u64);

/// A message in a queue.
#[derive(Debug)]
pub(super) struct Stored {
    pub(super) message: Message,
    pub(super) exchange: String,
    pub(super) routing_key: String,
    pub(super) redelivered: bool,
    /// The crash count.
    pub(super) crashes: u32,
    /// Since when it has been ready for delivery.
    pub(super) since: Instant,
    /// When it expires in this queue.
    pub(super) expires: Option<Moment>,
    /// The queues that it was dead-lettered from. It never returns to one of them, which breaks dead-letter cycles.
    pub(super) dead_lettered_from: Vec<Arc<str>>,
}

impl Stored {
    pub(super) fn new(message: Message, exchange: String, routing_key: String, now: Instant) -> Self {
        Self {
            message,
            exchange,
            routing_key,
            redelivered: false,
            crashes: 0,
            since: now,
            expires: None,
            dead_lettered_from: Vec::new(),
        }
    }
}

/// A queue with its messages and consumers.
#[derive(Debug)]
pub(super) struct Waiting {
    pub(super) spec: Queue,
    pub(super) name: Arc<str>,
    /// Set for an exclusive queue.
    pub(super) owner: Option<OwnerId>,
    pub(super) ready: BTreeMap<Place, Stored>,
    pub(super) delayed: BTreeMap<Moment, Stored>,
    pub(super) running: u64,
    /// The consumers, the next to be served first.
    pub(super) consumers: VecDeque<u64>,
    /// When the queue expires if it stays unused.
    pub(super) unused: Option<Moment>,
}

impl Waiting {
    pub(super) fn new(spec: Queue, owner: OwnerId) -> Self {
        Self {
            name: Arc::from(spec.name.as_str()),
            owner: spec.exclusive.then_some(owner),
            spec,
            ready: BTreeMap::new(),
            delayed: BTreeMap::new(),
            running: 0,
            consumers: VecDeque::new(),
            unused: None,
        }
    }

    /// The priority of a message in this queue.
    pub(super) fn priority(&self, message: &Message) -> Reverse<u8> {
        Reverse(message.properties.priority.unwrap_or(0).min(self.spec.max_priority.unwrap_or(0)))
    }

    /// True if the queue is full and rejects publishes.
    pub(super) fn refuses(&self) -> bool {
        self.spec.overflow == Some(Overflow::RejectPublish) && self.room() == Some(0)
    }

    /// How many more messages fit. `None` means no limit.
    fn room(&self) -> Option<u64> {
        self.spec.max_length.map(|most| most.saturating_sub(self.ready.len() as u64))
    }

    /// The place of the message to drop if the queue is too long: the oldest of the lowest priority.
    pub(super) fn surplus(&self) -> Option<Place> {
        let most = self.spec.max_length?;
        if self.spec.overflow == Some(Overflow::RejectPublish) || self.ready.len() as u64 <= most {
            return None;
        }
        let (least_urgent, _) = *self.ready.last_key_value()?.0;
        self.ready.range((least_urgent, 0)..).next().map(|(place, _)| *place)
    }

    /// The moments of all timers of this queue.
    pub(super) fn moments(&self) -> impl Iterator<Item = Moment> + '_ {
        let expiries = self.ready.values().filter_map(|stored| stored.expires);
        self.delayed.keys().copied().chain(expiries).chain(self.unused)
    }
}
