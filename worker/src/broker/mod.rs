//! The contract of a broker: it accepts messages, stores them, and delivers each to one consumer.
//!
//! There are three implementations: `memory` for tests, `sqlite` without a server, `amqp` for RabbitMQ. One conformance
//! suite (`tests/brokers`) runs against all of them.

pub(crate) mod administration;
#[cfg(feature = "amqp")]
mod amqp;
mod dead_letter_lock;
pub mod delivery;
mod memory;
mod registers;
mod schedule_log;
#[cfg(feature = "sqlite")]
mod sqlite;
pub(crate) mod walk;

pub use administration::{Administration, ExchangeInfo, FoundMessage, Position, QueueInfo};
pub use dead_letter_lock::DeadLetterLock;
pub use delivery::{Consumer, ConsumerControl, Delivery, LOST_PAUSE, Settle, Settlement, Verdict};
pub use registers::{Lock, Locked, Note, Notes, Register, Registers};
pub use schedule_log::{Fenced, LogEntry, ScheduleLog};
use std::sync::Arc;
use std::time::Duration;

use crate::connection::{BrokerUrl, ConnectOptions};
use crate::error::{Error, Result};
use crate::message::Message;
pub use crate::routing::DeleteGuard;
use crate::routing::Topology;
use futures_util::future::BoxFuture;

/// A message with its exchange and routing key.
#[derive(Clone, Debug, Default)]
pub struct Publication {
    /// The exchange; empty is the default exchange.
    pub exchange: String,
    /// The routing key.
    pub routing_key: String,
    /// The message.
    pub message: Message,
    /// How long the broker delays the message before it can be consumed; see [`Capabilities::max_early`].
    pub delay: Option<Duration>,
    /// True if it is an error when no queue receives the message. False for replies, whose queue may have been deleted.
    pub mandatory: bool,
}

impl Publication {
    /// Addresses a message directly to a queue, which must exist.
    pub fn to_queue(queue: impl Into<String>, message: Message) -> Self {
        Self { routing_key: queue.into(), message, mandatory: true, ..Self::default() }
    }
}

/// A request to consume.
#[derive(Clone, Debug)]
pub struct Subscription {
    /// The queues; they must exist. Without any, nothing is delivered until [`ConsumerControl::set_queues`].
    pub queues: Vec<String>,
    /// The maximum number of unsettled deliveries: per queue on RabbitMQ, in total on other brokers.
    pub prefetch: u16,
    /// The name of the consumer, as shown in the broker's own tools.
    pub name: String,
}

/// The differences between brokers, as data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capabilities {
    /// The display name: `RabbitMQ`, `SQLite`, `memory`.
    pub name: &'static str,
    /// True if [`Delivery::crashes`] is exact, so that the worker need not count in a header.
    pub counts_crashes: bool,
    /// True if [`Administration::queues`] can list all queues, not only named ones.
    pub lists_queues: bool,
    /// True if [`Administration::peek`] can show messages without taking them.
    pub peeks: bool,
    /// The longest delay that the broker supports.
    pub max_delay: Duration,
    /// How long before its time a delayed message may be delivered. Celery's native delayed delivery has a resolution of
    /// one second: the worker delays an early message for the rest, according to its `eta` header.
    pub max_early: Duration,
}

/// A broker accepts, stores and delivers messages. Together with [`Administration`] and [`Registers`] it is one handle,
/// `Arc<dyn Broker>`, whose methods may be called from many tasks at once.
///
/// Each future resolves within the configured timeout: if the broker is unreachable it returns an error, and never hangs.
pub trait Broker: Administration + Registers {
    /// The capabilities of this broker.
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

    /// Takes up to `most` messages out of a queue, in order. It may return fewer, but returns none only if the queue is
    /// empty.
    ///
    /// Requeued messages are in the queue again as soon as all messages taken by the same call are settled. Messages
    /// requeued before a call are in the queue when it resolves; a call for 0 messages only waits for that. If the
    /// connection is lost while messages are held, they are requeued, and the next call is an error.
    ///
    /// The default implementation [gets](Self::get) one message after the other.
    fn get_many<'a>(&'a self, queue: &'a str, most: usize) -> BoxFuture<'a, Result<Vec<Delivery>>> {
        Box::pin(async move {
            let mut taken = Vec::new();
            while taken.len() < most
                && let Some(delivery) = self.get(queue).await?
            {
                taken.push(delivery);
            }
            Ok(taken)
        })
    }

    /// The log of the schedulers; `None` if the broker has none.
    fn schedule_log(&self) -> Option<&dyn ScheduleLog> {
        None
    }

    /// Closes the connection: publishes are completed, unsettled deliveries are requeued.
    fn close(&self) -> BoxFuture<'_, ()>;
}

/// The error of a broker that does not support a request.
fn unable<T: Send + 'static>(what: &str) -> BoxFuture<'static, Result<T>> {
    Box::pin(std::future::ready(Err(Error::unsupported(format!("this broker cannot {what}")))))
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
