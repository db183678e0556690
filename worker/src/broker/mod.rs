//! The contract of a broker: it accepts messages, stores them, and delivers each to one consumer.
//!
//! Three implement it: `memory` for tests, `sqlite` without a server, `amqp` for RabbitMQ. One conformance
//! suite (`tests/brokers`) runs over all of them.

#[cfg(feature = "amqp")]
mod amqp;
mod dead_letters;
pub mod delivery;
mod memory;
pub mod memos;
#[cfg(feature = "sqlite")]
mod sqlite;

pub use dead_letters::DeadLetters;
pub use delivery::{Consumer, ConsumerControl, Delivery, LOST_PAUSE, Settle, Settlement, Verdict};
pub use memos::{Lock, Locked, Note, Notes, Register};
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use serde::Serialize;

use crate::connection::{BrokerUrl, ConnectOptions};
use crate::error::{Error, Result};
use crate::message::Message;
pub use crate::routing::topology::DeleteGuard;
use crate::routing::{Binding, Exchange, ExchangeKind, Topology};

/// A message with its address.
#[derive(Clone, Debug, Default)]
pub struct Publication {
    /// The exchange; empty is the default exchange.
    pub exchange: String,
    /// The routing key.
    pub routing_key: String,
    /// The message.
    pub message: Message,
    /// How long the broker delays the message before it can be consumed; see [`Capabilities::early`].
    pub delay: Option<Duration>,
    /// True if a message that no queue takes is an error. Replies are sent without it: their queue may have been deleted.
    pub mandatory: bool,
}

/// The request to consume.
#[derive(Clone, Debug)]
pub struct Subscription {
    /// The queues; they must exist. Without any, nothing is delivered until [`ConsumerControl::set_queues`].
    pub queues: Vec<String>,
    /// The maximum number of unsettled deliveries: per queue on RabbitMQ, in total on other brokers.
    pub prefetch: u16,
    /// The name of the consumer, as shown in the broker's own tools.
    pub name: String,
}

/// A queue and how full it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct QueueInfo {
    /// The name.
    pub name: String,
    /// Messages that can be delivered now.
    pub ready: u64,
    /// Messages that are delivered and not settled, if the broker reports it.
    pub running: Option<u64>,
    /// Messages that wait for their time, if the broker reports it.
    pub delayed: Option<u64>,
    /// Attached consumers.
    pub consumers: u64,
}

/// An exchange that exists. Fields that the broker does not report are `None`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ExchangeInfo {
    /// The name.
    pub name: String,
    /// How it routes messages to its bindings.
    pub kind: Option<ExchangeKind>,
    /// Survives a restart of the broker.
    pub durable: Option<bool>,
    /// Deleted together with its last binding.
    pub auto_delete: Option<bool>,
}

impl From<&Exchange> for ExchangeInfo {
    fn from(exchange: &Exchange) -> Self {
        Self {
            name: exchange.name.clone(),
            kind: Some(exchange.kind),
            durable: Some(exchange.durable),
            auto_delete: Some(exchange.auto_delete),
        }
    }
}

/// The differences between brokers, as data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capabilities {
    /// The name for people: `RabbitMQ`, `SQLite`, `memory`.
    pub name: &'static str,
    /// True if [`Delivery::crashes`] is exact, so that the worker need not count in a header.
    pub counts_crashes: bool,
    /// True if [`Broker::queues`] can list all queues, not only named ones.
    pub lists_queues: bool,
    /// The longest delay that the broker supports.
    pub max_delay: Duration,
    /// How long before its time a delayed message may be delivered. The ladder of Celery's native delayed delivery
    /// has a resolution of one second: the worker delays an early message for the rest, by its `eta` header.
    pub early: Duration,
}

/// A broker. Object-safe; every method may be called from many tasks at once.
///
/// Each future ends within the configured deadline: with an unreachable broker it returns an error, and never hangs.
pub trait Broker: Send + Sync + 'static {
    /// What this broker can do.
    fn capabilities(&self) -> Capabilities;

    /// Ensures that the exchanges, queues and bindings exist. A queue that exists with other arguments is used
    /// unchanged, with one warning.
    fn declare<'a>(&'a self, topology: &'a Topology) -> BoxFuture<'a, Result<()>>;

    /// Publishes a message. `Ok` means that the broker has taken responsibility for it.
    fn publish(&self, publication: Publication) -> BoxFuture<'_, Result<()>>;

    /// Starts to deliver messages.
    fn consume(&self, subscription: Subscription) -> BoxFuture<'_, Result<Consumer>>;

    /// Takes one message out of a queue, if it has one, to inspect or settle it.
    fn get<'a>(&'a self, queue: &'a str) -> BoxFuture<'a, Result<Option<Delivery>>>;

    /// The lengths of the named queues, or of all that the broker can list if `names` is empty. Unknown names are
    /// skipped.
    fn queues<'a>(&'a self, names: &'a [String]) -> BoxFuture<'a, Result<Vec<QueueInfo>>>;

    /// Drops all waiting messages of a queue, and returns their number.
    fn purge<'a>(&'a self, queue: &'a str) -> BoxFuture<'a, Result<u64>>;

    /// Deletes a queue with its messages.
    fn delete_queue<'a>(&'a self, queue: &'a str) -> BoxFuture<'a, Result<()>>;

    /// Deletes a queue if the guard allows it, and returns how many messages were lost with it.
    ///
    /// A queue that does not exist, or that the guard protects, is a [topology error](Error::is_topology).
    fn delete_queue_if<'a>(&'a self, queue: &'a str, guard: DeleteGuard) -> BoxFuture<'a, Result<u64>> {
        let _ = (queue, guard);
        unable(self.capabilities().name, "delete a queue under a condition")
    }

    /// The named exchanges, or all that the broker can list if `names` is empty. The default exchange, the broker's own
    /// exchanges and unknown names are skipped.
    fn exchanges<'a>(&'a self, names: &'a [String]) -> BoxFuture<'a, Result<Vec<ExchangeInfo>>> {
        let _ = names;
        unable(self.capabilities().name, "list exchanges")
    }

    /// Deletes an exchange and its bindings, if the guard allows it.
    ///
    /// An exchange that does not exist, or that the guard protects, is a [topology error](Error::is_topology).
    fn delete_exchange<'a>(&'a self, exchange: &'a str, guard: DeleteGuard) -> BoxFuture<'a, Result<()>> {
        let _ = (exchange, guard);
        unable(self.capabilities().name, "delete an exchange")
    }

    /// All bindings, if the broker can list them.
    fn bindings(&self) -> BoxFuture<'_, Result<Vec<Binding>>> {
        unable(self.capabilities().name, "list bindings")
    }

    /// Removes a binding. One that does not exist is not an error.
    fn unbind<'a>(&'a self, binding: &'a Binding) -> BoxFuture<'a, Result<()>> {
        let _ = binding;
        unable(self.capabilities().name, "remove a binding")
    }

    /// How long the oldest ready message of a queue has waited. `None` if the queue has no ready message, or if the
    /// broker does not report it.
    fn oldest<'a>(&'a self, queue: &'a str) -> BoxFuture<'a, Result<Option<Duration>>> {
        let _ = queue;
        Box::pin(std::future::ready(Ok(None)))
    }

    /// Records an id in a register, for at most [`Register::longest`]. `Ok` means that the note is as safe as a message.
    fn note<'a>(&'a self, register: Register, note: &'a Note) -> BoxFuture<'a, Result<()>> {
        let _ = (register, note);
        unable(self.capabilities().name, "keep notes on tasks")
    }

    /// All notes recorded before this call, starting at [`Notes::next`] of an earlier result; 0 is the beginning.
    fn notes(&self, register: Register, from: u64) -> BoxFuture<'_, Result<Notes>> {
        let _ = (register, from);
        unable(self.capabilities().name, "keep notes on tasks")
    }

    /// The notes since an earlier result that are visible now; a note that is just being recorded may only be returned
    /// by the next call. For polling: unlike [`notes`](Self::notes), it writes nothing to the register.
    fn newer_notes(&self, register: Register, from: u64) -> BoxFuture<'_, Result<Notes>> {
        self.notes(register, from)
    }

    /// True if the id was recorded before this call, at most `lifetime` ago, and the note has not expired.
    fn is_noted<'a>(
        &'a self,
        register: Register,
        id: &'a str,
        lifetime: Duration,
    ) -> BoxFuture<'a, Result<bool>> {
        let _ = (register, id, lifetime);
        unable(self.capabilities().name, "keep notes on tasks")
    }

    /// Takes a lock, unless another holder has it. The lock survives the process and a restart of the broker. If the
    /// same holder takes it again, it is extended, and never shortened.
    fn lock<'a>(&'a self, lock: &'a Lock) -> BoxFuture<'a, Result<Locked>> {
        let _ = lock;
        unable(self.capabilities().name, "keep locks for unique tasks")
    }

    /// Extends a lock for a holder that waits: the lock is held through the wait, and for its own time after it, as far
    /// as the broker can extend it. If it has expired, it is taken again.
    fn keep_locked<'a>(&'a self, lock: &'a Lock, wait: Duration) -> BoxFuture<'a, Result<Locked>> {
        let longer = Lock { lifetime: lock.lifetime.saturating_add(wait), ..lock.clone() };
        Box::pin(async move { self.lock(&longer).await })
    }

    /// Releases a lock. The lock of another holder is not changed.
    fn unlock<'a>(&'a self, lock: &'a Lock) -> BoxFuture<'a, Result<()>> {
        let _ = lock;
        unable(self.capabilities().name, "keep locks for unique tasks")
    }

    /// Closes the connection: publishes are completed, unsettled deliveries are requeued.
    fn close(&self) -> BoxFuture<'_, ()>;
}

/// The error of a broker that does not support a request.
fn unable<T: Send + 'static>(broker: &str, what: &str) -> BoxFuture<'static, Result<T>> {
    Box::pin(std::future::ready(Err(Error::unsupported(format!("{broker} cannot {what}")))))
}

/// Opens the broker of a URL. An unreachable server is not an error here: the connection is opened, and reopened, in
/// the background.
///
/// # Errors
/// An unknown scheme, an invalid URL, or a file that cannot be opened.
#[cfg_attr(not(any(feature = "amqp", feature = "sqlite")), expect(unused_variables))]
pub async fn open(url: &BrokerUrl, options: &ConnectOptions) -> Result<Arc<dyn Broker>> {
    url.check()?;
    match url.scheme().as_str() {
        "memory" => Ok(memory::open(url)),
        #[cfg(feature = "sqlite")]
        "sqlite" => sqlite::SqliteBroker::open(url, options).await,
        #[cfg(feature = "amqp")]
        "amqp" | "amqps" => Ok(Arc::new(amqp::AmqpBroker::open(url, options)?)),
        other => Err(Error::config(format!(
            "no broker for `{url}`: the scheme `{other}` is not one of amqp, amqps, sqlite, memory"
        ))),
    }
}
