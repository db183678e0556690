//! Subscriptions: publish/subscribe, topics and plain messages, from the options of the tasks and the configuration.

use std::collections::BTreeMap;
use std::time::Duration;

use uuid::Uuid;

use super::App;
use crate::error::{Error, Result};
use crate::routing::matching::topic_matches;
use crate::routing::queue::broadcast_queue_name;
use crate::routing::{Binding, Exchange, ExchangeKind, Queue, QueueKind, Topology};
use crate::task::TaskEntry;

/// The tasks of each queue that receive messages without a task name.
#[derive(Debug, Default)]
pub(crate) struct Subscriptions(BTreeMap<String, Vec<&'static TaskEntry>>);

impl Subscriptions {
    /// The tasks of `queue` that subscribe to messages published to `exchange` with `routing_key`.
    pub(crate) fn matching(&self, queue: &str, exchange: &str, routing_key: &str) -> Vec<&'static TaskEntry> {
        let tasks = self.0.get(queue).into_iter().flatten().copied();
        tasks.filter(|task| wants(task, exchange, routing_key)).collect()
    }

    fn add(&mut self, queue: &str, task: &'static TaskEntry) {
        self.0.entry(queue.to_owned()).or_default().push(task);
    }
}

/// The default exchange puts a message directly into a queue: such a message is meant for the queue's tasks.
fn wants(task: &TaskEntry, exchange: &str, routing_key: &str) -> bool {
    let from = task.options.exchange.is_none_or(|own| own == exchange || exchange.is_empty());
    let topics = task.options.topics;
    from && (topics.is_empty() || topics.iter().any(|topic| topic_matches(topic, routing_key)))
}

fn subscribes(task: &TaskEntry) -> bool {
    !task.options.topics.is_empty() || task.options.exchange.is_some()
}

/// The queues that a worker consumes from.
#[derive(Debug, Default)]
pub(crate) struct Consumed {
    /// The topology that must exist before consuming.
    pub(crate) topology: Topology,
    /// The queues.
    pub(crate) queues: Vec<String>,
    /// Which of their tasks receive messages without a task name.
    pub(crate) subscriptions: Subscriptions,
}

impl App {
    /// The queues that a worker for `queues` consumes from: those queues, and for each broadcast task one that belongs to
    /// this worker alone.
    ///
    /// # Errors
    /// A subscription that could never receive a message.
    pub(crate) fn consumed(&self, queues: &[String]) -> Result<Consumed> {
        let mut consumed = Consumed { topology: self.configured_topology(), ..Consumed::default() };
        for queue in queues {
            consumed.topology.merge(self.task_queue(queue));
            consumed.queues.push(queue.clone());
        }
        for task in self.registry().iter() {
            let queue = if task.options.broadcast {
                let queue = broadcast_queue_name(task.name, Uuid::now_v7());
                consumed.topology.merge(broadcast_topology(task.name, &queue));
                consumed.queues.push(queue.clone());
                queue
            } else {
                self.queue_of(task)
            };
            if subscribes(task) && consumed.queues.contains(&queue) {
                consumed.topology.merge(self.bindings(task, &queue)?);
                consumed.subscriptions.add(&queue, task);
            }
        }
        Ok(consumed)
    }

    /// The subscription of a task, for display; also checked by a worker.
    #[cfg_attr(not(feature = "cli"), allow(dead_code))]
    pub(crate) fn subscription(&self, task: &TaskEntry) -> Topology {
        if !subscribes(task) || task.options.broadcast {
            return Topology::default();
        }
        self.bindings(task, &self.queue_of(task)).unwrap_or_default()
    }

    /// The queue for a task's calls and events: that of the first matching rule, or else its own.
    pub(crate) fn queue_of(&self, task: &TaskEntry) -> String {
        let own = task.options.queue;
        let route = self.router().route(task.name, own, Default::default());
        route.queue.unwrap_or_else(|| own.unwrap_or(self.router().default_queue()).to_owned())
    }

    /// The fanout exchange of a broadcast task.
    pub(crate) fn broadcast_exchange(task: &str) -> String {
        format!("mq.broadcast.{task}")
    }

    /// The bindings through which a subscribed task receives its messages.
    fn bindings(&self, task: &TaskEntry, queue: &str) -> Result<Topology> {
        let configured = &self.config().topic_exchange;
        let exchange = task.options.exchange.unwrap_or(configured);
        let declared = self.config().topology.exchanges.iter().find(|known| known.name == exchange);
        let mut topology = Topology::default();
        // Any other exchange is declared by the configuration, or by its publishers, which know its kind.
        if exchange == configured && declared.is_none() {
            topology.exchanges.push(Exchange::new(exchange, ExchangeKind::Topic));
        }
        match (declared.map(|known| known.kind), task.options.topics) {
            (Some(ExchangeKind::Direct), []) => {
                return Err(Error::config(format!(
                    "task `{}` subscribes to the direct exchange `{exchange}` without a topic: name the routing \
                     keys that it wants, as in #[task(exchange = \"{exchange}\", topic = \"error\")]",
                    task.name
                )));
            }
            (_, []) => topology.bindings.push(Binding::new(exchange, queue, "#")),
            (_, topics) => topology.bindings.extend(topics.iter().map(|t| Binding::new(exchange, queue, *t))),
        }
        Ok(topology)
    }

    /// The worker's name: `name@host`.
    pub fn worker_name(&self) -> String {
        self.config().worker.full_name()
    }
}

/// The queue of a single worker for a broadcast task, deleted together with the worker.
fn broadcast_topology(task: &str, name: &str) -> Topology {
    let exchange = App::broadcast_exchange(task);
    let queue = Queue {
        durable: false,
        exclusive: true,
        auto_delete: true,
        kind: Some(QueueKind::Classic),
        // A worker that is disconnected for longer than this misses broadcasts.
        expires: Some(Duration::from_secs(60)),
        ..Queue::new(name)
    };
    Topology::new().exchange(&exchange, ExchangeKind::Fanout).queue(queue).bind(&exchange, name, "")
}
