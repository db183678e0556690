//! The topology behind publish/subscribe and topics: which exchanges and queues belong to a broadcast task or a
//! subscription, by name.

use std::time::Duration;

use uuid::Uuid;

use super::App;
use crate::routing::{Binding, Exchange, ExchangeKind, Queue, QueueKind, Topology};

impl App {
    /// The fanout exchange of a broadcast task.
    pub(crate) fn broadcast_exchange(task: &str) -> String {
        format!("mq.broadcast.{task}")
    }

    /// A queue of one worker's own for a broadcast task, gone with the worker.
    pub(crate) fn broadcast_queue(&self, task: &str) -> (Topology, String) {
        let exchange = Self::broadcast_exchange(task);
        let name = format!("{task}.broadcast.{}", Uuid::now_v7());
        let queue = Queue {
            durable: false,
            exclusive: true,
            auto_delete: true,
            kind: Some(QueueKind::Classic),
            // A worker that lost its connection for longer than this has missed what was said.
            expires: Some(Duration::from_secs(60)),
            ..Queue::new(&name)
        };
        let topology = Topology {
            bindings: vec![Binding {
                exchange: exchange.clone(),
                queue: name.clone(),
                routing_key: String::new(),
            }],
            exchanges: vec![Exchange::new(exchange, ExchangeKind::Fanout)],
            queues: vec![queue],
        };
        (topology, name)
    }

    /// The bindings through which a queue's tasks get the topics that they subscribe to.
    pub(crate) fn topic_bindings(&self, queue: &str) -> Topology {
        let exchange = &self.config().topic_exchange;
        let mut topology = Topology::default();
        for task in self.registry().iter().filter(|task| task.options.queue == Some(queue)) {
            for topic in task.options.topics {
                let binding = Binding {
                    exchange: exchange.clone(),
                    queue: queue.to_owned(),
                    routing_key: (*topic).to_owned(),
                };
                topology.merge(Topology { bindings: vec![binding], ..Topology::default() });
            }
        }
        if !topology.bindings.is_empty() {
            topology.exchanges.push(Exchange::new(exchange, ExchangeKind::Topic));
        }
        topology
    }

    /// The worker's name: `name@host`.
    pub fn worker_name(&self) -> String {
        self.config().worker.full_name()
    }
}
