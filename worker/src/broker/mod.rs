//! What a broker is to the rest of the crate: it takes messages, keeps them, and hands each to one consumer.
//!
//! Three implement it: `memory` for tests, `sqlite` without a server, `amqp` for RabbitMQ. One conformance
//! suite (`tests/brokers`) runs over all of them.

#[cfg(feature = "amqp")]
mod amqp;
pub mod delivery;
mod memory;
#[cfg(feature = "sqlite")]
mod sqlite;

pub use delivery::{Consumer, ConsumerControl, Delivery, Settle, Settlement, Verdict};
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use serde::Serialize;

use crate::connection::{BrokerUrl, ConnectOptions};
use crate::error::{Error, Result};
use crate::message::Message;
use crate::routing::Topology;

/// A message with its address.
#[derive(Clone, Debug, Default)]
pub struct Publication {
    /// The exchange; empty is the default exchange.
    pub exchange: String,
    /// The routing key.
    pub routing_key: String,
    /// What is published.
    pub message: Message,
    /// How long the broker keeps it back before it can be consumed.
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

    /// Says goodbye: what was published is published, what is not settled goes back.
    fn close(&self) -> BoxFuture<'_, ()>;
}

/// Opens the broker that a URL names. A server that is away is no error here: the connection is made, and made
/// again, in the background.
///
/// # Errors
/// A scheme that no broker has, a URL with a mistake, or a file that cannot be opened.
pub async fn open(url: &BrokerUrl, options: &ConnectOptions) -> Result<Arc<dyn Broker>> {
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
