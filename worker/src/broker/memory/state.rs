//! Queues, messages and consumers, and the rules for moving messages: plain data that gets the time as an argument.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Weak};
use std::time::Instant;

use tokio::sync::mpsc;

use super::consumers::MemoryConsumer;
use super::queue::{Moment, OwnerId, Place, Stored, Waiting};
use super::registers::RegisterStore;
use super::schedule_log::Log;
use crate::broker::{Delivery, LOST_PAUSE, Publication, Settle, Subscription, Verdict};
use crate::error::{Error, ErrorKind, Result};
use crate::routing::{Binding, Exchange, topology};

/// All exchanges, queues, consumers and deliveries of one memory broker.
pub(super) struct MemoryState {
    /// Where deliveries are settled: the hub around this state.
    pub(super) sink: Weak<dyn Settle>,
    pub(super) exchanges: BTreeMap<String, Exchange>,
    pub(super) bindings: Vec<Binding>,
    pub(super) queues: BTreeMap<Arc<str>, Waiting>,
    pub(super) consumers: BTreeMap<u64, MemoryConsumer>,
    pub(super) running: HashMap<u64, Running>,
    /// The timers of all queues.
    pub(super) timers: BTreeMap<Moment, Timer>,
    /// Queues for which the warning that they exist with other arguments has been logged.
    pub(super) reported: HashSet<String>,
    /// Deliveries that their consumer did not take, to be dropped outside the lock.
    pub(super) refused: Vec<Delivery>,
    last_id: u64,
    pub(super) registers: RegisterStore,
    pub(super) log: Log,
}

/// An unsettled delivery.
pub(super) struct Running {
    pub(super) queue: Arc<str>,
    pub(super) place: Place,
    pub(super) stored: Stored,
    pub(super) owner: OwnerId,
    pub(super) consumer: Option<u64>,
}

#[derive(Debug)]
pub(super) enum Timer {
    /// The delay of the message at this moment ends.
    Due(Arc<str>),
    /// The message at this place expires.
    Expired(Arc<str>, Place),
    /// The queue expires because it was not used.
    Unused(Arc<str>),
}

impl MemoryState {
    pub(super) fn new(sink: Weak<dyn Settle>) -> Self {
        Self {
            sink,
            exchanges: BTreeMap::new(),
            bindings: Vec::new(),
            queues: BTreeMap::new(),
            consumers: BTreeMap::new(),
            running: HashMap::new(),
            timers: BTreeMap::new(),
            reported: HashSet::new(),
            refused: Vec::new(),
            last_id: 0,
            registers: RegisterStore::default(),
            log: Log::default(),
        }
    }

    pub(super) fn next_id(&mut self) -> u64 {
        self.last_id += 1;
        self.last_id
    }

    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.timers.keys().next().map(|(at, _)| *at)
    }

    pub(super) fn take_refused(&mut self) -> Vec<Delivery> {
        std::mem::take(&mut self.refused)
    }

    /// Runs the timers that are due, and cancels consumers whose receiver was dropped.
    pub(super) fn tick(&mut self, now: Instant) {
        let closed: Vec<u64> =
            self.consumers.iter().filter(|(_, one)| one.is_closed()).map(|(id, _)| *id).collect();
        for id in closed {
            self.cancel(id, now);
        }
        while let Some(entry) = self.timers.first_entry().filter(|entry| entry.key().0 <= now) {
            let (moment, timer) = entry.remove_entry();
            match timer {
                Timer::Due(queue) => {
                    let stored = self.queues.get_mut(&queue).and_then(|queue| queue.delayed.remove(&moment));
                    if let Some(stored) = stored {
                        self.enqueue(&queue, stored, now);
                    }
                }
                Timer::Expired(queue, place) => {
                    let stored = self.queues.get_mut(&queue).and_then(|queue| queue.ready.remove(&place));
                    if let Some(stored) = stored {
                        self.dead_letter(&queue, stored, "expired", now);
                    }
                }
                Timer::Unused(queue) => self.remove_queue(&queue),
            }
        }
    }

    /// The queues that get a copy. `None` if the exchange does not exist.
    fn route(&self, exchange: &str, routing_key: &str) -> Option<Vec<Arc<str>>> {
        if exchange.is_empty() {
            return Some(
                self.queues
                    .get_key_value(routing_key)
                    .map(|(name, _)| Arc::clone(name))
                    .into_iter()
                    .collect(),
            );
        }
        let names = topology::route(self.exchanges.get(exchange), &self.bindings, exchange, routing_key)?;
        Some(
            names
                .into_iter()
                .filter_map(|name| self.queues.get_key_value(name))
                .map(|(name, _)| Arc::clone(name))
                .collect(),
        )
    }

    /// Puts a copy into every queue that the message is routed to, or into none.
    pub(super) fn publish(&mut self, publication: Publication, now: Instant) -> Result<()> {
        let Publication { exchange, routing_key, message, delay, mandatory } = publication;
        let queues = self
            .route(&exchange, &routing_key)
            .ok_or_else(|| Error::topology(format!("cannot publish: there is no exchange `{exchange}`")))?;
        if queues.is_empty() && mandatory {
            return Err(Error::new(
                ErrorKind::Unroutable,
                format!(
                    "no queue takes messages from exchange `{exchange}` with routing key `{routing_key}`"
                ),
            ));
        }
        if let Some(full) = queues.iter().find(|name| self.queues[*name].refuses()) {
            return Err(Error::new(ErrorKind::Rejected, format!("queue `{full}` is full")));
        }
        for name in queues {
            let stored = Stored::new(message.clone(), exchange.clone(), routing_key.clone(), now);
            match delay.filter(|delay| !delay.is_zero()) {
                None => self.enqueue(&name, stored, now),
                Some(delay) => self.delay(&name, stored, now + delay),
            }
        }
        Ok(())
    }

    fn delay(&mut self, name: &Arc<str>, stored: Stored, until: Instant) {
        let moment = (until, self.next_id());
        let Some(queue) = self.queues.get_mut(name) else { return };
        queue.delayed.insert(moment, stored);
        self.timers.insert(moment, Timer::Due(Arc::clone(name)));
    }

    /// Puts a message at the end of a queue, serves its consumers, and enforces its length limit.
    fn enqueue(&mut self, name: &Arc<str>, mut stored: Stored, now: Instant) {
        let id = self.next_id();
        let Some(queue) = self.queues.get(name) else { return };
        let place = (queue.priority(&stored.message), id);
        let ttl = [queue.spec.message_ttl, stored.message.properties.expiration].into_iter().flatten().min();
        stored.since = now;
        // A time to live beyond the range of the clock means none.
        stored.expires = ttl.and_then(|ttl| now.checked_add(ttl)).map(|at| (at, id));
        self.put(name, place, stored);
        self.serve_queue(name);
        while let Some(surplus) = self.queues.get(name).and_then(Waiting::surplus) {
            if let Some(stored) = self.take(name, surplus) {
                self.dead_letter(name, stored, "maxlen", now);
            }
        }
    }

    /// Inserts a message at its position.
    fn put(&mut self, name: &Arc<str>, place: Place, stored: Stored) {
        let Some(queue) = self.queues.get_mut(name) else { return };
        if let Some(moment) = stored.expires {
            self.timers.insert(moment, Timer::Expired(Arc::clone(name), place));
        }
        queue.ready.insert(place, stored);
    }

    /// Removes a message from its position.
    pub(super) fn take(&mut self, name: &str, place: Place) -> Option<Stored> {
        let stored = self.queues.get_mut(name)?.ready.remove(&place)?;
        if let Some(moment) = stored.expires {
            self.timers.remove(&moment);
        }
        Some(stored)
    }

    /// Dead-letters a message that was not consumed, or drops it if its queue has no dead-letter exchange.
    fn dead_letter(&mut self, name: &Arc<str>, stored: Stored, reason: &str, now: Instant) {
        let Some(queue) = self.queues.get(name) else { return };
        let Some(exchange) = queue.spec.dead_letter_exchange.clone() else { return };
        let routing_key = queue.spec.dead_letter_routing_key.clone().unwrap_or(stored.routing_key);
        let mut dead_lettered_from = stored.dead_lettered_from;
        dead_lettered_from.push(Arc::clone(name));
        // Clear the expiration: otherwise the message would expire there too.
        let mut message = stored.message;
        message.properties.expiration = None;
        message.headers.set_dropped_by_broker(reason, name, chrono::Utc::now());
        for target in self.route(&exchange, &routing_key).unwrap_or_default() {
            if dead_lettered_from.contains(&target) {
                continue;
            }
            let stored = Stored::new(message.clone(), exchange.clone(), routing_key.clone(), now);
            self.enqueue(&target, Stored { dead_lettered_from: dead_lettered_from.clone(), ..stored }, now);
        }
    }

    /// Attaches a consumer.
    pub(super) fn consume(
        &mut self,
        subscription: &Subscription,
        owner: OwnerId,
        now: Instant,
    ) -> Result<(u64, mpsc::Receiver<Delivery>)> {
        let Subscription { queues, prefetch, name } = subscription;
        if *prefetch == 0 {
            return Err(Error::config(format!("consumer `{name}` has prefetch 0: it would get nothing")));
        }
        let names = self.names(queues, owner)?;
        let id = self.next_id();
        // Room for the largest prefetch that may be set later, so that delivering never has to wait.
        let (sender, deliveries) = mpsc::channel(usize::from(u16::MAX));
        self.consumers.insert(id, MemoryConsumer::new(owner, sender, *prefetch, names.clone()));
        names.iter().for_each(|name| self.attach(id, name, now));
        self.serve_consumer(id);
        Ok((id, deliveries))
    }

    /// Changes the prefetch of a consumer.
    pub(super) fn set_prefetch(&mut self, id: u64, prefetch: u16) {
        if let Some(consumer) = self.consumers.get_mut(&id) {
            consumer.set_prefetch(prefetch.max(1));
            self.serve_consumer(id);
        }
    }

    /// Changes the queues of a consumer. It keeps its unsettled deliveries.
    pub(super) fn set_queues(&mut self, id: u64, queues: &[String], now: Instant) -> Result<()> {
        let Some(consumer) = self.consumers.get(&id) else { return Ok(()) };
        let before = consumer.queues();
        let names = self.names(queues, consumer.owner)?;
        self.consumers.get_mut(&id).expect("it was found just now").set_queues(names.clone());
        names.iter().filter(|name| !before.contains(name)).for_each(|name| self.attach(id, name, now));
        before.iter().filter(|name| !names.contains(name)).for_each(|name| self.detach(id, name, now));
        self.serve_consumer(id);
        Ok(())
    }

    /// Looks up queues by name, without duplicates.
    fn names(&mut self, queues: &[String], owner: OwnerId) -> Result<Vec<Arc<str>>> {
        let mut names = Vec::with_capacity(queues.len());
        for queue in queues {
            let name = Arc::clone(&self.queue(queue, owner)?.name);
            if !names.contains(&name) {
                names.push(name);
            }
        }
        Ok(names)
    }

    fn attach(&mut self, id: u64, name: &str, now: Instant) {
        self.mark_used(name, now);
        self.queues.get_mut(name).expect("it was found just now").consumers.push_back(id);
        self.stop_unused_clock(name);
    }

    fn detach(&mut self, id: u64, name: &str, now: Instant) {
        let Some(queue) = self.queues.get_mut(name) else { return };
        queue.consumers.retain(|other| *other != id);
        if queue.consumers.is_empty() && queue.spec.auto_delete {
            self.remove_queue(name);
        } else {
            self.mark_used(name, now);
        }
    }

    /// Detaches a consumer. It keeps its unsettled deliveries.
    pub(super) fn cancel(&mut self, id: u64, now: Instant) {
        let Some(consumer) = self.consumers.remove(&id) else { return };
        consumer.queues().iter().for_each(|name| self.detach(id, name, now));
    }

    /// Removes a user: requeues its unsettled deliveries, and deletes its consumers and exclusive queues.
    pub(super) fn leave(&mut self, owner: OwnerId, now: Instant) {
        let theirs = |id: &OwnerId| *id == owner;
        let consumers: Vec<u64> =
            self.consumers.iter().filter(|(_, one)| theirs(&one.owner)).map(|(id, _)| *id).collect();
        for id in consumers {
            self.cancel(id, now);
        }
        let tags: Vec<u64> =
            self.running.iter().filter(|(_, one)| theirs(&one.owner)).map(|(tag, _)| *tag).collect();
        for tag in tags {
            self.settle(tag, Verdict::Requeue, now);
        }
        let exclusive: Vec<Arc<str>> = self
            .queues
            .values()
            .filter(|queue| queue.owner.as_ref().is_some_and(theirs))
            .map(|queue| Arc::clone(&queue.name))
            .collect();
        for name in exclusive {
            self.remove_queue(&name);
        }
    }

    /// Settles a delivery. A late verdict has no effect.
    pub(super) fn settle(&mut self, tag: u64, verdict: Verdict, now: Instant) {
        let Some(Running { queue: name, place, mut stored, consumer, .. }) = self.running.remove(&tag) else {
            return;
        };
        // The queue may have been deleted in the meantime, and even declared again.
        let queue = self.queues.get_mut(&name).filter(|queue| Arc::ptr_eq(&queue.name, &name));
        let exists = queue.is_some();
        if let Some(queue) = queue {
            queue.running -= 1;
        }
        if let Some(consumer) = consumer.and_then(|id| self.consumers.get_mut(&id)) {
            consumer.unsettled -= 1;
        }
        match verdict {
            Verdict::Requeue if exists => {
                match stored.expires {
                    Some((at, _)) if at <= now => self.dead_letter(&name, stored, "expired", now),
                    _ => self.put(&name, place, stored),
                }
                self.serve_queue(&name);
            }
            Verdict::Reject if exists => self.dead_letter(&name, stored, "rejected", now),
            Verdict::Lost if exists => {
                stored.crashes = stored.crashes.saturating_add(1);
                self.delay(&name, stored, now + LOST_PAUSE);
            }
            _ => {}
        }
        if let Some(id) = consumer {
            self.serve_consumer(id);
        }
    }
}
