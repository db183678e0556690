//! What a broker is to the rest of the crate: it takes messages, keeps them, and hands each to one consumer.
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
    /// What is published.
    pub message: Message,
    /// How long the broker keeps it back before it can be consumed; see [`Capabilities::early`].
    pub delay: Option<Duration>,
    /// True when it is an error that no queue takes the message. A reply to a queue that has gone is not one.
    pub mandatory: bool,
}

/// What a consumer asks for.
#[derive(Clone, Debug)]
pub struct Subscription {
    /// The queues; they exist.
    pub queues: Vec<String>,
    /// The most deliveries that may be unsettled: per queue on RabbitMQ, in all elsewhere.
    pub prefetch: u16,
    /// Names the consumer to people who look at the broker.
    pub name: String,
}

/// A queue and how full it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct QueueInfo {
    /// The name.
    pub name: String,
    /// Messages that could be handed out now.
    pub ready: u64,
    /// Messages that are handed out and not settled, where the broker can tell.
    pub running: Option<u64>,
    /// Messages that wait for their time, where the broker can tell.
    pub delayed: Option<u64>,
    /// Consumers that are attached.
    pub consumers: u64,
}

/// An exchange that exists. A broker that only says whether it is there leaves the rest open.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ExchangeInfo {
    /// The name.
    pub name: String,
    /// How it chooses among its bindings.
    pub kind: Option<ExchangeKind>,
    /// Survives a restart of the broker.
    pub durable: Option<bool>,
    /// Goes when its last binding goes.
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

/// What differs between brokers, as data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capabilities {
    /// The name for people: `RabbitMQ`, `SQLite`, `memory`.
    pub name: &'static str,
    /// True when [`Delivery::crashes`] is exact, so that the worker need not count in a header.
    pub counts_crashes: bool,
    /// True when [`Broker::queues`] knows all queues, not only those it is asked about.
    pub lists_queues: bool,
    /// The longest delay that the broker can keep a message back.
    pub max_delay: Duration,
    /// How long before its time a delayed message may be handed out. The ladder of Celery's native delayed delivery
    /// knows whole seconds only: a worker lets what comes early wait for the rest, by its `eta` header.
    pub early: Duration,
}

/// A broker. Object-safe; every method may be called from many tasks at once.
///
/// Each future ends within the configured deadline: a broker that is away makes it an error, never a hang.
pub trait Broker: Send + Sync + 'static {
    /// What this broker can do.
    fn capabilities(&self) -> Capabilities;

    /// Makes sure that the exchanges, queues and bindings exist. A queue that exists with other arguments is
    /// used as it is, with one warning.
    fn declare<'a>(&'a self, topology: &'a Topology) -> BoxFuture<'a, Result<()>>;

    /// Publishes a message. `Ok` means that the broker has taken responsibility for it.
    fn publish(&self, publication: Publication) -> BoxFuture<'_, Result<()>>;

    /// Begins to hand out messages.
    fn consume(&self, subscription: Subscription) -> BoxFuture<'_, Result<Consumer>>;

    /// Takes one message out of a queue, if there is one, for looking at it or settling it.
    fn get<'a>(&'a self, queue: &'a str) -> BoxFuture<'a, Result<Option<Delivery>>>;

    /// How full the queues are: of `names`, or all that the broker can list when `names` is empty.
    /// A name that no queue has is left out.
    fn queues<'a>(&'a self, names: &'a [String]) -> BoxFuture<'a, Result<Vec<QueueInfo>>>;

    /// Drops all messages that wait in a queue, and says how many.
    fn purge<'a>(&'a self, queue: &'a str) -> BoxFuture<'a, Result<u64>>;

    /// Deletes a queue with its messages.
    fn delete_queue<'a>(&'a self, queue: &'a str) -> BoxFuture<'a, Result<()>>;

    /// Deletes a queue if the guard allows it, and says how many messages were lost with it.
    ///
    /// A queue that does not exist, or that the guard keeps, is a [topology error](Error::is_topology).
    fn delete_queue_if<'a>(&'a self, queue: &'a str, guard: DeleteGuard) -> BoxFuture<'a, Result<u64>> {
        let _ = (queue, guard);
        unable(self.capabilities().name, "delete a queue under a condition")
    }

    /// The exchanges that exist: of `names`, or all that the broker can list when `names` is empty. The default
    /// exchange and the broker's own are left out, and so is a name that no exchange has.
    fn exchanges<'a>(&'a self, names: &'a [String]) -> BoxFuture<'a, Result<Vec<ExchangeInfo>>> {
        let _ = names;
        unable(self.capabilities().name, "list exchanges")
    }

    /// Deletes an exchange if the guard allows it; its bindings go with it.
    ///
    /// One that does not exist, or that the guard keeps, is a [topology error](Error::is_topology).
    fn delete_exchange<'a>(&'a self, exchange: &'a str, guard: DeleteGuard) -> BoxFuture<'a, Result<()>> {
        let _ = (exchange, guard);
        unable(self.capabilities().name, "delete an exchange")
    }

    /// All bindings, where the broker can list them.
    fn bindings(&self) -> BoxFuture<'_, Result<Vec<Binding>>> {
        unable(self.capabilities().name, "list bindings")
    }

    /// Takes a binding away. One that does not exist is no error.
    fn unbind<'a>(&'a self, binding: &'a Binding) -> BoxFuture<'a, Result<()>> {
        let _ = binding;
        unable(self.capabilities().name, "remove a binding")
    }

    /// How long the oldest message of a queue that could be handed out now has waited. `None` when there is no
    /// such message, or when the broker does not tell.
    fn oldest<'a>(&'a self, queue: &'a str) -> BoxFuture<'a, Result<Option<Duration>>> {
        let _ = queue;
        Box::pin(std::future::ready(Ok(None)))
    }

    /// Notes an id; no note holds longer than the [register](Register::longest) keeps it. `Ok` means that the note is as
    /// safe as a message.
    fn note<'a>(&'a self, register: Register, note: &'a Note) -> BoxFuture<'a, Result<()>> {
        let _ = (register, note);
        unable(self.capabilities().name, "keep notes on tasks")
    }

    /// All that was noted before this was asked, from [`Notes::next`] of an earlier answer on; 0 is the beginning.
    fn notes(&self, register: Register, from: u64) -> BoxFuture<'_, Result<Notes>> {
        let _ = (register, from);
        unable(self.capabilities().name, "keep notes on tasks")
    }

    /// What was noted since an earlier answer, as far as it is there to see: what is just being noted may come the next
    /// time only. For whoever asks again and again; it leaves no trace.
    fn newer_notes(&self, register: Register, from: u64) -> BoxFuture<'_, Result<Notes>> {
        self.notes(register, from)
    }

    /// True when the id was noted before this was asked, no longer ago than `lifetime`, and the note still holds.
    fn is_noted<'a>(
        &'a self,
        register: Register,
        id: &'a str,
        lifetime: Duration,
    ) -> BoxFuture<'a, Result<bool>> {
        let _ = (register, id, lifetime);
        unable(self.capabilities().name, "keep notes on tasks")
    }

    /// Takes a lock, if nobody else has it. It outlives the process and the broker's restart. Whoever has it already
    /// keeps it for as long from now on, and no shorter than before.
    fn lock<'a>(&'a self, lock: &'a Lock) -> BoxFuture<'a, Result<Locked>> {
        let _ = lock;
        unable(self.capabilities().name, "keep locks for unique tasks")
    }

    /// Takes a lock for a holder who waits before it goes on: it holds through the wait, and for its time after it, as
    /// far as the broker can change what it has. It is taken anew if nobody has it by now.
    fn keep_locked<'a>(&'a self, lock: &'a Lock, wait: Duration) -> BoxFuture<'a, Result<Locked>> {
        let longer = Lock { lifetime: lock.lifetime.saturating_add(wait), ..lock.clone() };
        Box::pin(async move { self.lock(&longer).await })
    }

    /// Opens a lock. One that somebody else has stays as it is.
    fn unlock<'a>(&'a self, lock: &'a Lock) -> BoxFuture<'a, Result<()>> {
        let _ = lock;
        unable(self.capabilities().name, "keep locks for unique tasks")
    }

    /// Says goodbye: what was published is published, what is not settled goes back.
    fn close(&self) -> BoxFuture<'_, ()>;
}

/// The answer of a broker that lacks something.
fn unable<T: Send + 'static>(broker: &str, what: &str) -> BoxFuture<'static, Result<T>> {
    Box::pin(std::future::ready(Err(Error::unsupported(format!("{broker} cannot {what}")))))
}

/// Opens the broker that a URL names. A server that is away is no error here: the connection is made, and made
/// again, in the background.
///
/// # Errors
/// A scheme that no broker has, a URL with a mistake, or a file that cannot be opened.
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
