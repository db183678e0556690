//! Inspects and changes the queues, exchanges and bindings of a broker.

use std::time::Duration;

use chrono::{DateTime, Utc};
use futures_util::future::BoxFuture;
use serde::Serialize;

use super::unable;
use crate::error::Result;
use crate::message::Message;
use crate::routing::DeleteGuard;
use crate::routing::{Binding, Exchange, ExchangeKind};

/// A queue and its length.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct QueueInfo {
    /// The name.
    pub name: String,
    /// Messages ready for delivery.
    pub ready: u64,
    /// Unsettled deliveries, if the broker reports them.
    pub running: Option<u64>,
    /// Delayed messages, if the broker reports them.
    pub delayed: Option<u64>,
    /// Attached consumers.
    pub consumers: u64,
}

/// The maximum size of the messages shown at once: a queue may not fit into memory.
pub(crate) const PEEK_BYTES: usize = 16 << 20;

/// A message in a queue, found without taking it.
#[derive(Clone, Debug, PartialEq)]
pub struct FoundMessage {
    /// The queue.
    pub queue: String,
    /// Its position in the queue.
    pub position: Position,
    /// The message.
    pub message: Message,
}

/// The position of a message in its queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Position {
    /// Ready for delivery.
    Ready {
        /// The number of messages that are delivered before it.
        ahead: u64,
    },
    /// Delayed.
    Delayed {
        /// When the delay ends.
        until: DateTime<Utc>,
    },
    /// Delivered and not settled.
    Delivered,
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

/// The queues, exchanges and bindings of a broker, for commands and health checks.
///
/// An operation that the broker does not support returns an [`is_unsupported`](crate::Error::is_unsupported) error.
pub trait Administration: Send + Sync + 'static {
    /// The lengths of the named queues, or of all that the broker can list if `names` is empty. Unknown names are
    /// skipped.
    fn queues<'a>(&'a self, names: &'a [String]) -> BoxFuture<'a, Result<Vec<QueueInfo>>>;

    /// Drops all waiting messages of a queue, and returns their number.
    fn purge<'a>(&'a self, queue: &'a str) -> BoxFuture<'a, Result<u64>>;

    /// Deletes a queue with its messages.
    fn delete_queue<'a>(&'a self, queue: &'a str) -> BoxFuture<'a, Result<()>>;

    /// Deletes a queue if the guard allows it, and returns how many messages were lost with it.
    ///
    /// A queue that does not exist, or that the guard protects, is a [topology error](crate::Error::is_topology).
    fn delete_queue_if<'a>(&'a self, queue: &'a str, guard: DeleteGuard) -> BoxFuture<'a, Result<u64>> {
        let _ = (queue, guard);
        unable("delete a queue under a condition")
    }

    /// The named exchanges, or all that the broker can list if `names` is empty. The default exchange, the broker's own
    /// exchanges and unknown names are skipped.
    fn exchanges<'a>(&'a self, names: &'a [String]) -> BoxFuture<'a, Result<Vec<ExchangeInfo>>> {
        let _ = names;
        unable("list exchanges")
    }

    /// Deletes an exchange and its bindings, if the guard allows it.
    ///
    /// An exchange that does not exist, or that the guard protects, is a [topology error](crate::Error::is_topology).
    fn delete_exchange<'a>(&'a self, exchange: &'a str, guard: DeleteGuard) -> BoxFuture<'a, Result<()>> {
        let _ = (exchange, guard);
        unable("delete an exchange")
    }

    /// All bindings, if the broker can list them.
    fn bindings(&self) -> BoxFuture<'_, Result<Vec<Binding>>> {
        unable("list bindings")
    }

    /// Removes a binding. One that does not exist is not an error.
    fn unbind<'a>(&'a self, binding: &'a Binding) -> BoxFuture<'a, Result<()>> {
        let _ = binding;
        unable("remove a binding")
    }

    /// Finds the messages of a call in any queue, without taking them. Meant for inspecting a single call: it may read all
    /// messages.
    fn find<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<Vec<FoundMessage>>> {
        let _ = id;
        unable("find a message by its id without taking it")
    }

    /// The first ready messages of a queue in the order of delivery, without taking or changing them. Returns at most
    /// `most`, and fewer if they exceed about 16 MiB in total. An unknown queue has none.
    fn peek<'a>(&'a self, queue: &'a str, most: usize) -> BoxFuture<'a, Result<Vec<Message>>> {
        let _ = (queue, most);
        unable("look at messages without taking them")
    }

    /// How long the oldest ready message of a queue has waited. `None` if the queue has no ready message, or if the
    /// broker does not report it.
    fn oldest<'a>(&'a self, queue: &'a str) -> BoxFuture<'a, Result<Option<Duration>>> {
        let _ = queue;
        Box::pin(std::future::ready(Ok(None)))
    }

    /// Why the broker currently accepts no messages from this program, such as `low on memory`, if it has reported that.
    fn alarm(&self) -> Option<String> {
        None
    }
}
