//! Exchanges, queues and bindings together, and where they route a message. They mean the same on every broker.

use serde::{Deserialize, Serialize};

use super::matching;
use super::names::{check_key, check_name};
use super::{Exchange, ExchangeKind, Queue};
use crate::error::{Error, Result};

/// A binding: messages of `exchange` that match `routing_key` go to `queue`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Binding {
    /// The source exchange.
    pub exchange: String,
    /// The destination queue.
    pub queue: String,
    /// The key or pattern; ignored by a fanout exchange.
    #[serde(default)]
    pub routing_key: String,
}

/// Exchanges, queues and bindings that are declared together. Declaring them again changes nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Topology {
    /// Declared first.
    pub exchanges: Vec<Exchange>,
    /// Declared second.
    pub queues: Vec<Queue>,
    /// Declared last.
    pub bindings: Vec<Binding>,
}

impl Binding {
    /// Messages of `exchange` that match `routing_key` go to `queue`.
    pub fn new(
        exchange: impl Into<String>,
        queue: impl Into<String>,
        routing_key: impl Into<String>,
    ) -> Self {
        Self { exchange: exchange.into(), queue: queue.into(), routing_key: routing_key.into() }
    }
}

impl Topology {
    /// An empty topology.
    ///
    /// ```
    /// use mq_worker::{ExchangeKind, Topology};
    ///
    /// let logs = Topology::new()
    ///     .exchange("logs", ExchangeKind::Direct)
    ///     .queue("errors")
    ///     .bind("logs", "errors", "error");
    /// assert!(logs.validate().is_ok());
    /// ```
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a durable exchange.
    #[must_use]
    pub fn exchange(mut self, name: impl Into<String>, kind: ExchangeKind) -> Self {
        self.exchanges.push(Exchange::new(name, kind));
        self
    }

    /// Adds a queue: a name is a durable queue without limits.
    #[must_use]
    pub fn queue(mut self, queue: impl Into<Queue>) -> Self {
        self.queues.push(queue.into());
        self
    }

    /// Adds a binding.
    #[must_use]
    pub fn bind(
        mut self,
        exchange: impl Into<String>,
        queue: impl Into<String>,
        routing_key: impl Into<String>,
    ) -> Self {
        self.bindings.push(Binding::new(exchange, queue, routing_key));
        self
    }

    /// True if other programs declare the queue or the exchange of this binding.
    #[cfg_attr(not(feature = "amqp"), allow(dead_code))]
    pub(crate) fn has_external_end(&self, binding: &Binding) -> bool {
        self.queues.iter().any(|queue| queue.external && queue.name == binding.queue)
            || self.exchanges.iter().any(|exchange| exchange.external && exchange.name == binding.exchange)
    }

    /// A topology of one queue.
    pub fn of_queue(queue: Queue) -> Self {
        Self { queues: vec![queue], ..Self::default() }
    }

    /// Adds everything from `other` that is missing here.
    pub fn merge(&mut self, other: Topology) {
        for exchange in other.exchanges {
            if !self.exchanges.iter().any(|e| e.name == exchange.name) {
                self.exchanges.push(exchange);
            }
        }
        for queue in other.queues {
            if !self.queues.iter().any(|q| q.name == queue.name) {
                self.queues.push(queue);
            }
        }
        for binding in other.bindings {
            if !self.bindings.contains(&binding) {
                self.bindings.push(binding);
            }
        }
    }

    /// Checks the names before a broker sees them.
    ///
    /// # Errors
    /// A name that is empty, too long or reserved.
    pub fn validate(&self) -> Result<()> {
        for exchange in &self.exchanges {
            check_name("exchange", &exchange.name)?;
            if exchange.external && *exchange != Exchange::external(&exchange.name, exchange.kind) {
                return Err(nothing_else("exchange", &exchange.name, " but its kind"));
            }
        }
        for queue in &self.queues {
            check_name("queue", &queue.name)?;
            if queue.external && *queue != Queue::external(&queue.name) {
                return Err(nothing_else("queue", &queue.name, ""));
            }
        }
        for binding in &self.bindings {
            check_key(&binding.routing_key)?;
        }
        Ok(())
    }
}

fn nothing_else(what: &str, name: &str, but: &str) -> Error {
    Error::config(format!(
        "{what} `{name}` is external: its owner decides its arguments, so nothing else{but} can be set; \
         without `external` it is declared here"
    ))
}

/// The queues that get a copy of a message published to `exchange` with `routing_key`: the routing rule for brokers
/// without their own. `None` if the exchange does not exist.
pub fn route<'a>(
    exchanges: impl IntoIterator<Item = &'a Exchange>,
    bindings: impl IntoIterator<Item = &'a Binding>,
    exchange: &str,
    routing_key: &str,
) -> Option<Vec<&'a str>> {
    let exchange = exchanges.into_iter().find(|e| e.name == exchange)?;
    let mut queues: Vec<&str> = bindings
        .into_iter()
        .filter(|binding| binding.exchange == exchange.name)
        .filter(|binding| match exchange.kind {
            ExchangeKind::Fanout => true,
            ExchangeKind::Direct | ExchangeKind::Headers => binding.routing_key == routing_key,
            ExchangeKind::Topic => matching::topic_matches(&binding.routing_key, routing_key),
        })
        .map(|binding| binding.queue.as_str())
        .collect();
    queues.sort_unstable();
    queues.dedup();
    Some(queues)
}
