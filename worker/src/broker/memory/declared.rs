//! Declares, describes and deletes exchanges, queues and bindings.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::queue::{Moment, OwnerId, Stored, Waiting};
use super::state::{MemoryState, Timer};
use crate::broker::administration::PEEK_BYTES;
use crate::broker::{DeleteGuard, ExchangeInfo, FoundMessage, Position, QueueInfo};
use crate::error::{Error, Result};
use crate::message::Message;
use crate::routing::{Binding, Exchange, Queue, Topology};
use crate::tracing;

impl MemoryState {
    /// Creates exchanges, queues and bindings that do not exist yet.
    pub(super) fn declare(&mut self, topology: &Topology, owner: OwnerId, now: Instant) -> Result<()> {
        for exchange in &topology.exchanges {
            match self.exchanges.get(&exchange.name) {
                None => {
                    self.exchanges.insert(exchange.name.clone(), exchange.clone());
                }
                // Exchanges have no owner here: an external one is created if it is missing, and otherwise used as it is.
                Some(known) if known.kind == exchange.kind || exchange.external => {}
                Some(known) => {
                    return Err(Error::topology(format!(
                        "cannot declare the {} exchange `{}`: it exists as a {} exchange",
                        exchange.kind.as_str(),
                        exchange.name,
                        known.kind.as_str()
                    )));
                }
            }
        }
        for queue in &topology.queues {
            self.declare_queue(queue, owner, now)?;
        }
        for binding in &topology.bindings {
            self.bind(binding)?;
        }
        Ok(())
    }

    fn declare_queue(&mut self, spec: &Queue, owner: OwnerId, now: Instant) -> Result<()> {
        if self.queues.contains_key(spec.name.as_str()) {
            let known = self.queue(&spec.name, owner)?;
            if !spec.keeps_as(&known.spec) && self.reported.insert(spec.name.clone()) {
                tracing::warn!(
                    queue = spec.name,
                    "the queue exists with other arguments and is used as it is"
                );
            }
        } else {
            let queue = Waiting::new(spec.clone(), owner);
            self.queues.insert(Arc::clone(&queue.name), queue);
        }
        self.mark_used(&spec.name, now);
        Ok(())
    }

    fn bind(&mut self, binding: &Binding) -> Result<()> {
        let missing = |what: &str, name: &str| {
            Error::topology(format!(
                "cannot bind queue `{}` to exchange `{}`: there is no {what} `{name}`",
                binding.queue, binding.exchange
            ))
        };
        if !self.exchanges.contains_key(&binding.exchange) {
            return Err(missing("exchange", &binding.exchange));
        }
        if !self.queues.contains_key(binding.queue.as_str()) {
            return Err(missing("queue", &binding.queue));
        }
        if !self.bindings.contains(binding) {
            self.bindings.push(binding.clone());
        }
        Ok(())
    }

    /// A queue that `owner` may use.
    pub(super) fn queue(&mut self, name: &str, owner: OwnerId) -> Result<&mut Waiting> {
        match self.queues.get_mut(name) {
            None => Err(Error::topology(format!("there is no queue `{name}`"))),
            Some(queue) if queue.owner.is_some_and(|theirs| theirs != owner) => {
                Err(Error::topology(format!("queue `{name}` is exclusive to another connection")))
            }
            Some(queue) => Ok(queue),
        }
    }

    /// Describes the named queues, or all if `names` is empty.
    pub(super) fn describe(&self, names: &[String]) -> Vec<QueueInfo> {
        let info = |queue: &Waiting| QueueInfo {
            name: queue.spec.name.clone(),
            ready: queue.ready.len() as u64,
            running: Some(queue.running),
            delayed: Some(queue.delayed.len() as u64),
            consumers: queue.consumers.len() as u64,
        };
        if names.is_empty() {
            self.queues.values().map(info).collect()
        } else {
            names.iter().filter_map(|name| self.queues.get(name.as_str())).map(info).collect()
        }
    }

    /// Drops all ready and delayed messages of a queue, and returns their number.
    pub(super) fn purge(&mut self, name: &str, owner: OwnerId) -> Result<u64> {
        let queue = self.queue(name, owner)?;
        let dropped = (queue.ready.len() + queue.delayed.len()) as u64;
        let unused = queue.unused.take();
        let moments: Vec<Moment> = queue.moments().collect();
        let gone = std::mem::take(&mut queue.ready).into_values();
        let gone: Vec<Stored> = gone.chain(std::mem::take(&mut queue.delayed).into_values()).collect();
        queue.unused = unused;
        // A deleted call of a unique task releases its lock.
        gone.iter().for_each(|stored| self.registers.unlock_for(&stored.message.headers));
        for moment in moments {
            self.timers.remove(&moment);
        }
        Ok(dropped)
    }

    /// Deletes a queue, if it exists.
    pub(super) fn delete_queue(&mut self, name: &str, owner: OwnerId) -> Result<()> {
        if self.queues.contains_key(name) {
            self.queue(name, owner)?;
            self.remove_queue(name);
        }
        Ok(())
    }

    /// Deletes a queue if the guard allows it, and returns how many messages were lost with it.
    pub(super) fn delete_queue_if(&mut self, name: &str, guard: DeleteGuard, owner: OwnerId) -> Result<u64> {
        let queue = self.queue(name, owner)?;
        let waiting = (queue.ready.len() + queue.delayed.len()) as u64;
        let lost = waiting + queue.running;
        guard.check_queue(name, queue.consumers.len() as u64, queue.running, waiting)?;
        self.remove_queue(name);
        Ok(lost)
    }

    /// Describes the named exchanges, or all if `names` is empty.
    pub(super) fn describe_exchanges(&self, names: &[String]) -> Vec<ExchangeInfo> {
        let asked = |exchange: &&Exchange| names.is_empty() || names.contains(&exchange.name);
        self.exchanges.values().filter(asked).map(ExchangeInfo::from).collect()
    }

    /// Deletes an exchange and its bindings, if the guard allows it.
    pub(super) fn delete_exchange(&mut self, name: &str, guard: DeleteGuard) -> Result<()> {
        if !self.exchanges.contains_key(name) {
            return Err(Error::topology(format!("there is no exchange `{name}`")));
        }
        let bound = self.bindings.iter().filter(|binding| binding.exchange == name).count();
        guard.check_exchange(name, bound as u64)?;
        self.exchanges.remove(name);
        self.bindings.retain(|binding| binding.exchange != name);
        Ok(())
    }

    /// Removes a binding, and an auto-delete exchange with its last one.
    pub(super) fn unbind(&mut self, binding: &Binding) {
        let known = self.bindings.len();
        self.bindings.retain(|other| other != binding);
        if self.bindings.len() < known {
            self.delete_exchange_if_unbound(&binding.exchange);
        }
    }

    /// How long the oldest ready message has waited.
    pub(super) fn oldest(&self, name: &str, now: Instant) -> Option<Duration> {
        let since = self.queues.get(name)?.ready.values().map(|stored| stored.since).min()?;
        Some(now.saturating_duration_since(since))
    }

    /// The first messages of a queue.
    pub(super) fn peek(&self, name: &str, most: usize) -> Vec<Message> {
        let ready = self.queues.get(name).into_iter().flat_map(|queue| queue.ready.values());
        let mut room = PEEK_BYTES;
        let fits = |stored: &&Stored| {
            let has_room = room > 0;
            room = room.saturating_sub(stored.message.body.len());
            has_room
        };
        ready.take(most).take_while(fits).map(|stored| stored.message.clone()).collect()
    }

    /// The waiting messages of a call, without those that are delivered.
    pub(super) fn find(&self, id: &str, now: Instant) -> Vec<FoundMessage> {
        let mut found = Vec::new();
        for (name, queue) in &self.queues {
            let ready =
                queue.ready.values().zip(0..).map(|(stored, ahead)| (stored, Position::Ready { ahead }));
            let delayed = queue.delayed.iter().map(|((due, _), stored)| {
                let left = chrono::TimeDelta::from_std(due.saturating_duration_since(now));
                let until = chrono::Utc::now() + left.unwrap_or_default();
                (stored, Position::Delayed { until })
            });
            let of_call = ready.chain(delayed).filter(|(stored, _)| stored.message.id() == Some(id));
            found.extend(of_call.map(|(stored, position)| FoundMessage {
                queue: name.to_string(),
                position,
                message: stored.message.clone(),
            }));
        }
        found
    }

    /// Removes a queue with its messages.
    pub(super) fn remove_queue(&mut self, name: &str) {
        let Some(queue) = self.queues.remove(name) else { return };
        for moment in queue.moments() {
            self.timers.remove(&moment);
        }
        for id in queue.consumers {
            let Some(consumer) = self.consumers.get_mut(&id) else { continue };
            if consumer.forget_queue(name) {
                self.consumers.remove(&id);
            }
        }
        let unbound: Vec<Binding> = self.bindings.extract_if(.., |binding| binding.queue == name).collect();
        for binding in unbound {
            self.delete_exchange_if_unbound(&binding.exchange);
        }
    }

    /// Deletes an auto-delete exchange if its last binding is gone.
    fn delete_exchange_if_unbound(&mut self, name: &str) {
        let in_use = self.bindings.iter().any(|binding| binding.exchange == name);
        if !in_use && self.exchanges.get(name).is_some_and(|exchange| exchange.auto_delete) {
            self.exchanges.remove(name);
        }
    }

    /// Restarts the expiry of an unused queue.
    pub(super) fn mark_used(&mut self, name: &str, now: Instant) {
        self.stop_unused_clock(name);
        let id = self.next_id();
        let Some(queue) = self.queues.get_mut(name).filter(|queue| queue.consumers.is_empty()) else {
            return;
        };
        let Some(at) = queue.spec.expires.and_then(|after| now.checked_add(after)) else { return };
        queue.unused = Some((at, id));
        self.timers.insert((at, id), Timer::Unused(Arc::clone(&queue.name)));
    }

    /// Cancels the expiry of a queue that is in use.
    pub(super) fn stop_unused_clock(&mut self, name: &str) {
        if let Some(moment) = self.queues.get_mut(name).and_then(|queue| queue.unused.take()) {
            self.timers.remove(&moment);
        }
    }
}
