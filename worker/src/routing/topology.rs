//! Exchanges, queues and bindings as data. They mean the same on every broker.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use uuid::Uuid;

use super::matching;
use crate::error::{Error, Result};

/// The maximum length of names and routing keys in bytes: AMQP encodes them as short strings.
pub const MAX_NAME: usize = 255;

/// How an exchange routes messages to its bindings.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ExchangeKind {
    /// The routing key equals the binding's key.
    #[default]
    Direct,
    /// Every binding.
    Fanout,
    /// The routing key matches the binding's pattern: `*` is one word, `#` is zero or more.
    Topic,
    /// The message's headers match the binding's arguments. RabbitMQ only.
    Headers,
}

impl ExchangeKind {
    /// The name on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            ExchangeKind::Direct => "direct",
            ExchangeKind::Fanout => "fanout",
            ExchangeKind::Topic => "topic",
            ExchangeKind::Headers => "headers",
        }
    }
}

/// An exchange. The one with the empty name always exists: it routes to the queue named by the routing key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Exchange {
    /// The name.
    pub name: String,
    /// How it routes messages to its bindings.
    #[serde(default)]
    pub kind: ExchangeKind,
    /// Survives a restart of the broker.
    #[serde(default = "yes")]
    pub durable: bool,
    /// Deleted together with its last binding.
    #[serde(default)]
    pub auto_delete: bool,
    /// Declared by other programs only: bindings to it are made as soon as it exists.
    #[serde(default, skip_serializing_if = "is_false")]
    pub external: bool,
    /// Further arguments of the declaration, such as `alternate-exchange`. RabbitMQ only.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub arguments: BTreeMap<String, Value>,
}

impl Exchange {
    /// A durable exchange.
    pub fn new(name: impl Into<String>, kind: ExchangeKind) -> Self {
        Self {
            name: name.into(),
            kind,
            durable: true,
            auto_delete: false,
            external: false,
            arguments: BTreeMap::new(),
        }
    }

    /// An exchange that only other programs declare. Bindings to it are made as soon as it exists, and again after it was
    /// deleted and declared again. Its kind determines how delayed messages are routed.
    pub fn external(name: impl Into<String>, kind: ExchangeKind) -> Self {
        Self { external: true, ..Self::new(name, kind) }
    }

    /// An exchange that does not survive a restart of the broker: the default of pika's and most other clients'
    /// `exchange_declare`.
    #[must_use]
    pub fn transient(mut self) -> Self {
        self.durable = false;
        self
    }
}

/// The kind of a queue on RabbitMQ. Other brokers have only one kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum QueueKind {
    /// Replicated and safest; measured faster too.
    Quorum,
    /// Not replicated; has priorities on every version of RabbitMQ.
    Classic,
    /// The default of the broker.
    Broker,
}

/// What happens when a queue with a maximum length is full.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Overflow {
    /// The oldest message is dropped, or dead-lettered.
    DropHead,
    /// The publisher gets an error.
    RejectPublish,
}

/// A queue.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Queue {
    /// The name.
    pub name: String,
    /// Survives a restart of the broker.
    #[serde(default = "yes")]
    pub durable: bool,
    /// Only for this connection, and deleted together with it.
    #[serde(default)]
    pub exclusive: bool,
    /// Deleted when its last consumer goes away.
    #[serde(default)]
    pub auto_delete: bool,
    /// Quorum or classic; `None` takes the configured kind.
    #[serde(default)]
    pub kind: Option<QueueKind>,
    /// The highest priority. On RabbitMQ, a queue with priorities is classic.
    #[serde(default)]
    pub max_priority: Option<u8>,
    /// The maximum number of waiting messages.
    #[serde(default)]
    pub max_length: Option<u64>,
    /// What happens when the queue is full.
    #[serde(default)]
    pub overflow: Option<Overflow>,
    /// How long a message may wait before it is dropped or dead-lettered.
    #[serde(default, with = "crate::routing::topology::millis")]
    pub message_ttl: Option<Duration>,
    /// How long the queue is kept without consumers.
    #[serde(default, with = "crate::routing::topology::millis")]
    pub expires: Option<Duration>,
    /// The exchange for dead-lettered messages; the empty name is the default exchange.
    #[serde(default)]
    pub dead_letter_exchange: Option<String>,
    /// The routing key for dead-lettered messages; the default is the message's own.
    #[serde(default)]
    pub dead_letter_routing_key: Option<String>,
    /// Declared by other programs only. A worker waits until it exists.
    #[serde(default, skip_serializing_if = "is_false")]
    pub external: bool,
    /// Declared with exactly these arguments, so that other programs may declare it with the same: without a
    /// dead-letter queue, and on RabbitMQ without a type unless one is set.
    #[serde(default, skip_serializing_if = "is_false")]
    pub exact: bool,
    /// Further arguments of the declaration, such as `x-single-active-consumer`; they override the fields above.
    /// RabbitMQ only.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub arguments: BTreeMap<String, Value>,
}

impl Queue {
    /// A durable queue with no limits.
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            durable: true,
            exclusive: false,
            auto_delete: false,
            kind: None,
            max_priority: None,
            max_length: None,
            overflow: None,
            message_ttl: None,
            expires: None,
            dead_letter_exchange: None,
            dead_letter_routing_key: None,
            external: false,
            exact: false,
            arguments: BTreeMap::new(),
        }
    }

    /// A queue that only other programs declare. A worker logs that it waits for the queue, consumes from it as soon as
    /// it exists, and waits again after it was deleted.
    ///
    /// ```no_run
    /// use mq_worker::{App, Queue};
    ///
    /// # fn main() -> mq_worker::Result<()> {
    /// App::builder().queue(Queue::external("hello"))?.install()?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn external(name: impl Into<String>) -> Self {
        Self { external: true, ..Self::new(name) }
    }

    /// A durable queue that is declared with exactly these arguments, as any other client would: without a dead-letter
    /// queue, and on RabbitMQ without a type unless [`kind`](Self::kind) is set. Either side may declare it first.
    ///
    /// ```
    /// use mq_worker::Queue;
    ///
    /// let tutorial_2 = Queue::exact("task_queue"); // queue_declare(queue='task_queue', durable=True)
    /// let tutorial_1 = Queue::exact("hello").transient(); // queue_declare(queue='hello')
    /// assert!(tutorial_2.durable && !tutorial_1.durable);
    /// ```
    pub fn exact(name: impl Into<String>) -> Self {
        Self { exact: true, ..Self::new(name) }
    }

    /// The queue does not survive a restart of the broker: the default of pika's and most other clients'
    /// `queue_declare`.
    #[must_use]
    pub fn transient(mut self) -> Self {
        self.durable = false;
        self
    }

    /// Adds an argument to the declaration, such as `x-max-length`.
    #[must_use]
    pub fn argument(mut self, name: impl Into<String>, value: impl Into<Value>) -> Self {
        self.arguments.insert(name.into(), value.into());
        self
    }

    /// True if the application chooses the arguments of the declaration.
    pub(crate) fn is_managed(&self) -> bool {
        !self.external && !self.exact
    }

    /// True if the existing queue `known` is equivalent to this one, on a broker where queues have no owner and only
    /// one kind.
    pub(crate) fn keeps_as(&self, known: &Queue) -> bool {
        let kept = |queue: &Queue| Queue {
            kind: None,
            exact: false,
            external: false,
            arguments: BTreeMap::new(),
            ..queue.clone()
        };
        self.external || known.external || kept(self) == kept(known)
    }

    /// The dead-letter queue of a queue. The workers' own queues for a broadcast task share one, which outlives them.
    pub fn dead_letter_name(queue: &str) -> String {
        let name = match broadcast_task(queue) {
            Some(task) => format!("{task}.broadcast.dead"),
            None => format!("{queue}.dead"),
        };
        if name.len() <= MAX_NAME {
            return name;
        }
        // No broker has a name of this length: its beginning, and a hash that tells it from others with that beginning.
        let hash = Uuid::new_v5(&DEAD_LETTERS, name.as_bytes()).simple();
        let end = (0..=200).rev().find(|end| name.is_char_boundary(*end)).unwrap_or_default();
        format!("{}~{hash}.dead", &name[..end])
    }
}

/// Names of queues are hashed under this name.
const DEAD_LETTERS: Uuid = Uuid::from_u128(0x6d71_776b_0000_5000_8000_6465_6164_6c65);

impl From<&str> for Queue {
    fn from(name: &str) -> Self {
        Self::new(name)
    }
}

impl From<String> for Queue {
    fn from(name: String) -> Self {
        Self::new(name)
    }
}

/// The queue of a single worker for a broadcast task.
pub(crate) fn broadcast_queue_name(task: &str, worker: Uuid) -> String {
    format!("{task}.broadcast.{worker}")
}

/// The broadcast task of such a queue, if it is one.
pub(crate) fn broadcast_task(queue: &str) -> Option<&str> {
    let (task, worker) = queue.rsplit_once(".broadcast.")?;
    Uuid::try_parse(worker).is_ok().then_some(task)
}

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

fn is_false(flag: &bool) -> bool {
    !flag
}

/// Conditions for a deletion. By default it is unconditional.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DeleteGuard {
    /// The queue has no consumers and no unsettled messages; the exchange has no bindings.
    pub if_unused: bool,
    /// The queue has no waiting and no delayed messages.
    pub if_empty: bool,
}

impl DeleteGuard {
    /// Checks whether a queue with these counts may be deleted; the same messages on every broker.
    pub(crate) fn check_queue(self, name: &str, consumers: u64, running: u64, waiting: u64) -> Result<()> {
        if self.if_unused && consumers + running > 0 {
            // A broker that does not tell what is running counts none.
            let running =
                if running > 0 { format!(", messages that are running: {running}") } else { String::new() };
            return Err(Error::topology(format!(
                "cannot delete queue `{name}`: it is in use (consumers: {consumers}{running})"
            )));
        }
        if self.if_empty && waiting + running > 0 {
            return Err(Error::topology(format!(
                "cannot delete queue `{name}`: it is not empty (messages: {})",
                waiting + running
            )));
        }
        Ok(())
    }

    /// Checks whether an exchange with this many bindings may be deleted.
    pub(crate) fn check_exchange(self, name: &str, bindings: u64) -> Result<()> {
        if self.if_unused && bindings > 0 {
            return Err(Error::topology(format!(
                "cannot delete exchange `{name}`: it is in use (bindings: {bindings})"
            )));
        }
        Ok(())
    }
}

/// Checks the name of an exchange or queue.
///
/// # Errors
/// A name that is empty, longer than 255 bytes, has control characters, or begins with `amq.`.
pub fn check_name(what: &str, name: &str) -> Result<()> {
    let problem = if name.is_empty() {
        "it is empty"
    } else if name.len() > MAX_NAME {
        "it is longer than 255 bytes"
    } else if name.chars().any(char::is_control) {
        "it has control characters"
    } else if what == "queue" && name.starts_with("amq.") {
        "names that begin with `amq.` are the broker's own"
    } else {
        return Ok(());
    };
    Err(Error::config(format!("{what} name `{}` is not valid: {problem}", shortened(name))))
}

/// Checks a routing key or pattern.
///
/// # Errors
/// A key longer than 255 bytes.
pub fn check_key(key: &str) -> Result<()> {
    if key.len() > MAX_NAME {
        return Err(Error::config(format!(
            "routing key `{}` is {} bytes long; AMQP allows 255",
            shortened(key),
            key.len()
        )));
    }
    Ok(())
}

fn shortened(name: &str) -> String {
    if name.chars().count() <= 60 {
        name.escape_debug().to_string()
    } else {
        format!("{}…", name.chars().take(60).collect::<String>().escape_debug())
    }
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

fn yes() -> bool {
    true
}

/// Optional durations: written as milliseconds, read as milliseconds or as a string such as `90s`.
mod millis {
    use super::Duration;
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    #[derive(Deserialize)]
    #[serde(untagged, expecting = "expected a duration such as \"90s\", or milliseconds")]
    enum Written {
        Millis(u64),
        #[serde(deserialize_with = "with_unit")]
        Text(Duration),
    }

    pub(super) fn serialize<S: Serializer>(
        value: &Option<Duration>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        value.map(|d| u64::try_from(d.as_millis()).unwrap_or(u64::MAX)).serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<Duration>, D::Error> {
        Ok(Option::<Written>::deserialize(deserializer)?.map(|written| match written {
            Written::Millis(millis) => Duration::from_millis(millis),
            Written::Text(duration) => duration,
        }))
    }

    fn with_unit<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        humantime::parse_duration(&text).map_err(serde::de::Error::custom)
    }
}
