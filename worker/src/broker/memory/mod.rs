//! The broker without a server or a file: queues in the memory of this process.
//!
//! Every handle of `memory://NAME` in the process sees the same queues, on whatever runtime it is used; they live until the
//! process exits. The rules are in `state`, which knows neither locks nor tasks; `hub` puts a lock and a clock around it.

mod consumers;
mod declared;
mod handout;
mod hub;
mod queue;
mod registers;
mod schedule_log;
mod state;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::future::BoxFuture;

use self::hub::Hub;
use self::queue::OwnerId;
use super::{
    Administration, Broker, Capabilities, Consumer, ConsumerControl, DeleteGuard, Delivery, ExchangeInfo,
    FoundMessage, Lock, Locked, Note, Notes, Publication, QueueInfo, Register, Registers, ScheduleLog,
    Subscription,
};
use crate::connection::BrokerUrl;
use crate::error::{Error, Result};
use crate::message::Message;
use crate::routing::{Binding, Topology};

/// The longest delay. The clock of every platform has a larger range.
const MAX_DELAY: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

/// Opens the queues of this process under the URL's name.
pub(super) fn open(url: &BrokerUrl) -> Arc<dyn Broker> {
    let hub = Hub::named(url.path());
    let id = hub.with(|state, _| state.next_id());
    Arc::new(MemoryBroker { owner: Arc::new(Owner { hub, id, closed: AtomicBool::new(false) }) })
}

/// A user of the queues, comparable to a connection to a server.
struct MemoryBroker {
    owner: Arc<Owner>,
}

/// The owner of consumers, exclusive queues and unsettled deliveries. It lives as long as the broker handle or one of its
/// consumers, and releases all of them at its end.
struct Owner {
    hub: Arc<Hub>,
    id: OwnerId,
    closed: AtomicBool,
}

impl Owner {
    fn check_open(&self) -> Result<()> {
        if self.closed.load(Ordering::Acquire) {
            return Err(Error::connection("this connection to the memory broker was closed"));
        }
        Ok(())
    }

    fn close(&self) {
        if !self.closed.swap(true, Ordering::AcqRel) {
            self.hub.with(|state, now| state.leave(self.id, now));
        }
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        self.close();
    }
}

impl Broker for MemoryBroker {
    fn capabilities(&self) -> Capabilities {
        Capabilities {
            name: "memory",
            // A worker that dies takes the queues with it, so no other worker gets the message that killed it.
            counts_crashes: true,
            lists_queues: true,
            peeks: true,
            max_delay: MAX_DELAY,
            max_early: Duration::ZERO,
        }
    }

    fn declare<'a>(&'a self, topology: &'a Topology) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            self.owner.check_open()?;
            topology.validate()?;
            self.owner.hub.with(|state, now| state.declare(topology, self.owner.id, now))
        })
    }

    fn publish(&self, publication: Publication) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move {
            self.owner.check_open()?;
            crate::routing::names::check_key(&publication.routing_key)?;
            if let Some(delay) = publication.delay.filter(|delay| *delay > MAX_DELAY) {
                return Err(Error::unsupported(format!(
                    "cannot delay a message by {} seconds: the memory broker keeps one for {} at most",
                    delay.as_secs(),
                    MAX_DELAY.as_secs()
                )));
            }
            self.owner.hub.with(|state, now| state.publish(publication, now))
        })
    }

    fn consume(&self, subscription: Subscription) -> BoxFuture<'_, Result<Consumer>> {
        Box::pin(async move {
            self.owner.check_open()?;
            let (id, deliveries) =
                self.owner.hub.with(|state, now| state.consume(&subscription, self.owner.id, now))?;
            Ok(Consumer::new(
                deliveries,
                Arc::new(MemoryConsumerControl { owner: Arc::clone(&self.owner), id }),
            ))
        })
    }

    fn get<'a>(&'a self, queue: &'a str) -> BoxFuture<'a, Result<Option<Delivery>>> {
        Box::pin(async move {
            self.owner.check_open()?;
            self.owner.hub.with(|state, now| state.get(queue, self.owner.id, now))
        })
    }

    fn schedule_log(&self) -> Option<&dyn ScheduleLog> {
        Some(self)
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        Box::pin(async move { self.owner.close() })
    }
}

impl Administration for MemoryBroker {
    fn queues<'a>(&'a self, names: &'a [String]) -> BoxFuture<'a, Result<Vec<QueueInfo>>> {
        Box::pin(async move {
            self.owner.check_open()?;
            Ok(self.owner.hub.with(|state, _| state.describe(names)))
        })
    }

    fn purge<'a>(&'a self, queue: &'a str) -> BoxFuture<'a, Result<u64>> {
        Box::pin(async move {
            self.owner.check_open()?;
            self.owner.hub.with(|state, _| state.purge(queue, self.owner.id))
        })
    }

    fn delete_queue<'a>(&'a self, queue: &'a str) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            self.owner.check_open()?;
            self.owner.hub.with(|state, _| state.delete_queue(queue, self.owner.id))
        })
    }

    fn delete_queue_if<'a>(&'a self, queue: &'a str, guard: DeleteGuard) -> BoxFuture<'a, Result<u64>> {
        Box::pin(async move {
            self.owner.check_open()?;
            self.owner.hub.with(|state, _| state.delete_queue_if(queue, guard, self.owner.id))
        })
    }

    fn exchanges<'a>(&'a self, names: &'a [String]) -> BoxFuture<'a, Result<Vec<ExchangeInfo>>> {
        Box::pin(async move {
            self.owner.check_open()?;
            Ok(self.owner.hub.with(|state, _| state.describe_exchanges(names)))
        })
    }

    fn delete_exchange<'a>(&'a self, exchange: &'a str, guard: DeleteGuard) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            self.owner.check_open()?;
            self.owner.hub.with(|state, _| state.delete_exchange(exchange, guard))
        })
    }

    fn bindings(&self) -> BoxFuture<'_, Result<Vec<Binding>>> {
        Box::pin(async move {
            self.owner.check_open()?;
            Ok(self.owner.hub.with(|state, _| state.bindings.clone()))
        })
    }

    fn unbind<'a>(&'a self, binding: &'a Binding) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            self.owner.check_open()?;
            self.owner.hub.with(|state, _| state.unbind(binding));
            Ok(())
        })
    }

    fn oldest<'a>(&'a self, queue: &'a str) -> BoxFuture<'a, Result<Option<Duration>>> {
        Box::pin(async move {
            self.owner.check_open()?;
            Ok(self.owner.hub.with(|state, now| state.oldest(queue, now)))
        })
    }

    fn peek<'a>(&'a self, queue: &'a str, most: usize) -> BoxFuture<'a, Result<Vec<Message>>> {
        Box::pin(async move {
            self.owner.check_open()?;
            Ok(self.owner.hub.with(|state, _| state.peek(queue, most)))
        })
    }

    fn find<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<Vec<FoundMessage>>> {
        Box::pin(async move {
            self.owner.check_open()?;
            Ok(self.owner.hub.with(|state, now| state.find(id, now)))
        })
    }
}

impl Registers for MemoryBroker {
    fn note<'a>(&'a self, register: Register, note: &'a Note) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            self.owner.check_open()?;
            self.owner.hub.with(|state, _| state.registers.note(register, note));
            Ok(())
        })
    }

    fn notes(&self, register: Register, from: u64) -> BoxFuture<'_, Result<Notes>> {
        Box::pin(async move {
            self.owner.check_open()?;
            Ok(self.owner.hub.with(|state, _| state.registers.notes(register, from)))
        })
    }

    fn is_noted<'a>(
        &'a self,
        register: Register,
        id: &'a str,
        _lifetime: Duration,
    ) -> BoxFuture<'a, Result<bool>> {
        Box::pin(async move {
            self.owner.check_open()?;
            Ok(self.owner.hub.with(|state, _| state.registers.is_noted(register, id)))
        })
    }

    fn lock<'a>(&'a self, lock: &'a Lock) -> BoxFuture<'a, Result<Locked>> {
        Box::pin(async move {
            self.owner.check_open()?;
            Ok(self.owner.hub.with(|state, now| state.registers.lock(lock, now)))
        })
    }

    fn unlock<'a>(&'a self, lock: &'a Lock) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            self.owner.check_open()?;
            self.owner.hub.with(|state, _| state.registers.unlock(lock));
            Ok(())
        })
    }
}

/// Controls one consumer, and cancels it when dropped.
struct MemoryConsumerControl {
    owner: Arc<Owner>,
    id: u64,
}

impl MemoryConsumerControl {
    fn stop(&self) {
        self.owner.hub.with(|state, now| state.cancel(self.id, now));
    }
}

impl ConsumerControl for MemoryConsumerControl {
    fn cancel(&self) -> BoxFuture<'_, ()> {
        Box::pin(async move { self.stop() })
    }

    fn set_queues(&self, queues: Vec<String>) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move {
            self.owner.check_open()?;
            self.owner.hub.with(|state, now| state.set_queues(self.id, &queues, now))
        })
    }

    fn set_prefetch(&self, prefetch: u16) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move {
            self.owner.check_open()?;
            self.owner.hub.with(|state, _| state.set_prefetch(self.id, prefetch));
            Ok(())
        })
    }

    fn flush(&self) -> BoxFuture<'_, ()> {
        // A verdict takes effect immediately.
        Box::pin(std::future::ready(()))
    }
}

impl Drop for MemoryConsumerControl {
    fn drop(&mut self) {
        self.stop();
    }
}
