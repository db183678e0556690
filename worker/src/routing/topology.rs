//! Exchanges, queues and bindings as data. They mean the same on every broker.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use uuid::Uuid;

use super::matching;
use crate::error::{Error, Result};

/// AMQP carries names and routing keys as short strings: at most this many bytes.
pub const MAX_NAME: usize = 255;

/// How an exchange chooses among its bindings.
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

/// An exchange. The one with the empty name is there always: it sends to the queue that the routing key names.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Exchange {
    /// The name.
    pub name: String,
    /// How it chooses among its bindings.
    #[serde(default)]
    pub kind: ExchangeKind,
    /// Survives a restart of the broker.
    #[serde(default = "yes")]
    pub durable: bool,
    /// Goes when its last binding goes.
    #[serde(default)]
    pub auto_delete: bool,
    /// Others declare it: it is never declared here, and what is bound to it is bound as soon as it exists.
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

    /// An exchange that others declare. It is never declared here; bindings to it are made as soon as it exists, and
    /// again when it was deleted and comes back. Its kind decides how delayed messages find their way.
    pub fn external(name: impl Into<String>, kind: ExchangeKind) -> Self {
        Self { external: true, ..Self::new(name, kind) }
    }

    /// An exchange that a restart of the broker removes: what pika's and most other clients' `exchange_declare` makes
    /// unless `durable` is given.
    #[must_use]
    pub fn transient(mut self) -> Self {
        self.durable = false;
        self
    }
}

/// How RabbitMQ keeps a queue. Other brokers have one kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum QueueKind {
    /// Replicated and safest; measured faster too.
    Quorum,
    /// The older kind: knows priorities on every version.
    Classic,
    /// Whatever the broker's policy says.
    Broker,
}

/// What happens when a queue with a maximal length is full.
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
    /// For this connection only, gone with it.
    #[serde(default)]
    pub exclusive: bool,
    /// Goes when its last consumer goes.
    #[serde(default)]
    pub auto_delete: bool,
    /// Quorum or classic; `None` takes the configured kind.
    #[serde(default)]
    pub kind: Option<QueueKind>,
    /// The most urgent priority. A RabbitMQ queue that knows priorities is classic.
    #[serde(default)]
    pub max_priority: Option<u8>,
    /// The most messages that may wait.
    #[serde(default)]
    pub max_length: Option<u64>,
    /// What happens to the message too many.
    #[serde(default)]
    pub overflow: Option<Overflow>,
    /// How long a message may wait before it is dropped, or dead-lettered.
    #[serde(default, with = "crate::routing::topology::millis")]
    pub message_ttl: Option<Duration>,
    /// How long the queue lives without consumers.
    #[serde(default, with = "crate::routing::topology::millis")]
    pub expires: Option<Duration>,
    /// Where the broker sends messages that it drops; the empty name is the default exchange.
    #[serde(default)]
    pub dead_letter_exchange: Option<String>,
    /// The routing key for those; default is the message's own.
    #[serde(default)]
    pub dead_letter_routing_key: Option<String>,
    /// Others declare it: it is never declared here. A worker waits until it exists.
    #[serde(default, skip_serializing_if = "is_false")]
    pub external: bool,
    /// Declared with what is written here and nothing else, so that others may declare it with the same arguments: no
    /// dead-letter queue beside it, and on RabbitMQ no type that is not named.
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

    /// A queue that others declare. It is never declared here: a worker waits until it exists, says so in its log,
    /// consumes from it as soon as it does, and waits again when it was deleted.
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

    /// A durable queue that is declared with what is set and nothing else, as any other client would: no dead-letter
    /// queue beside it, and on RabbitMQ no type unless [`kind`](Self::kind) names one. Either side may declare it first.
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

    /// The queue does not survive a restart of the broker: what pika's and most other clients' `queue_declare` makes
    /// unless `durable` is given.
    #[must_use]
    pub fn transient(mut self) -> Self {
        self.durable = false;
        self
    }

    /// With one more argument of the declaration, such as `x-max-length`.
    #[must_use]
    pub fn argument(mut self, name: impl Into<String>, value: impl Into<Value>) -> Self {
        self.arguments.insert(name.into(), value.into());
        self
    }

    /// True when this is declared the way the application likes it, with all that goes with it.
    pub(crate) fn is_managed(&self) -> bool {
        !self.external && !self.exact
    }

    /// True when a queue that exists as `known` serves as well as this one would, on a broker where nobody owns queues
    /// and there is only one kind.
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

    /// The dead-letter queue that goes with a queue. The queues that workers have of their own for a broadcast
    /// task share one, which outlives them.
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

/// A queue of one worker's own for a broadcast task.
pub(crate) fn broadcast_queue_name(task: &str, worker: Uuid) -> String {
    format!("{task}.broadcast.{worker}")
}

/// The task whose broadcasts come to this queue, if it is such a queue.
pub(crate) fn broadcast_task(queue: &str) -> Option<&str> {
    let (task, worker) = queue.rsplit_once(".broadcast.")?;
    Uuid::try_parse(worker).is_ok().then_some(task)
}

/// A binding: messages of `exchange` that match `routing_key` go to `queue`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Binding {
    /// Where messages come from.
    pub exchange: String,
    /// Where they go.
    pub queue: String,
    /// Key or pattern; means nothing to a fanout exchange.
    #[serde(default)]
    pub routing_key: String,
}

/// Exchanges, queues and bindings that belong together. Declaring them again changes nothing.
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
    /// Nothing yet.
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

    /// With one more durable exchange.
    #[must_use]
    pub fn exchange(mut self, name: impl Into<String>, kind: ExchangeKind) -> Self {
        self.exchanges.push(Exchange::new(name, kind));
        self
    }

    /// With one more queue: a name is a durable queue without limits.
    #[must_use]
    pub fn queue(mut self, queue: impl Into<Queue>) -> Self {
        self.queues.push(queue.into());
        self
    }

    /// With one more binding.
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

    /// True when others declare the queue or the exchange of this binding.
    #[cfg_attr(not(feature = "amqp"), allow(dead_code))]
    pub(crate) fn has_external_end(&self, binding: &Binding) -> bool {
        self.queues.iter().any(|queue| queue.external && queue.name == binding.queue)
            || self.exchanges.iter().any(|exchange| exchange.external && exchange.name == binding.exchange)
    }

    /// Just one queue.
    pub fn of_queue(queue: Queue) -> Self {
        Self { queues: vec![queue], ..Self::default() }
    }

    /// Adds what `other` has and this one has not.
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

/// What has to hold for something to be deleted. The default is nothing: it is deleted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DeleteGuard {
    /// Nobody consumes from the queue and nothing of it is running; nothing is bound to the exchange.
    pub if_unused: bool,
    /// No message waits in the queue, for its turn or for its time.
    pub if_empty: bool,
}

impl DeleteGuard {
    /// Whether a queue with these counts may go; the same words on every broker.
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

    /// Whether an exchange with this many bindings may go.
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

/// The queues that get a copy of a message published to `exchange` with `routing_key`: the rule for brokers
/// that do not have one of their own. `None` when there is no such exchange.
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

/// Optional durations: written as milliseconds, read as milliseconds or as a text such as `90s`.
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
