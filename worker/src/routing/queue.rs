//! A queue as data, and the names of queues that belong to it.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use uuid::Uuid;

use super::names::MAX_NAME;
use super::written::{is_false, yes};

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
    #[serde(default, with = "super::written::millis")]
    pub message_ttl: Option<Duration>,
    /// How long the queue is kept without consumers.
    #[serde(default, with = "super::written::millis")]
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
        // Too long for a broker: keep the start, and add a hash that distinguishes names with the same start.
        let hash = Uuid::new_v5(&DEAD_LETTERS, name.as_bytes()).simple();
        let end = (0..=200).rev().find(|end| name.is_char_boundary(*end)).unwrap_or_default();
        format!("{}~{hash}.dead", &name[..end])
    }
}

/// The namespace for the hashes in dead-letter queue names.
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
