//! Where events go: Celery's exchange, and the queues of its readers.

use std::time::Duration;

use uuid::Uuid;

use crate::routing::{Binding, Exchange, ExchangeKind, Overflow, Queue, QueueKind, Topology};

/// All events go here.
pub const EVENTS: &str = "celeryev";
/// The routing key of a message with several events of calls.
pub const BATCH_ROUTING_KEY: &str = "task.multi";

/// How long an event waits for a live reader, as in Celery; older ones no longer matter to it.
const LIVE_TTL: Duration = Duration::from_secs(5);
/// How long the queue of a live reader stays if its owner died without deleting it.
const LIVE_EXPIRES: Duration = Duration::from_secs(60);
/// How long the queue of a durable reader is kept while nothing reads it: older events are too old for a history too.
const DURABLE_EXPIRES: Duration = Duration::from_secs(7 * 24 * 60 * 60);
/// How many messages wait for a live reader at most.
const LIVE_LENGTH: u64 = 10_000;

/// How to read events.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EventReader {
    /// From now on, and only while reading. A slow reader misses events.
    Live,
    /// Everything since the last batch that was [done](super::Batch::done): a durable queue of this name keeps it. Several
    /// readers with one name share the events. After 7 days without a reader the broker deletes the queue.
    Durable {
        /// The queue.
        name: String,
        /// How many messages it keeps at most, of up to 256 events each; the oldest are dropped.
        bound: u64,
    },
}

/// The exchange, with the flags that Celery declares it with.
pub fn topology() -> Topology {
    Topology { exchanges: vec![Exchange::new(EVENTS, ExchangeKind::Topic)], ..Topology::default() }
}

/// True for the queue of a live reader, ours or Celery's.
pub fn is_live_queue(queue: &str) -> bool {
    let id = queue.strip_prefix(EVENTS).and_then(|rest| rest.strip_prefix('.'));
    id.is_some_and(|id| Uuid::try_parse(id).is_ok())
}

impl EventReader {
    /// The name of the queue, and everything to declare.
    pub(super) fn topology(&self) -> (String, Topology) {
        let queue = match self {
            Self::Live => Queue {
                // Not exclusive: a broker may use one connection for declaring and another for consuming.
                message_ttl: Some(LIVE_TTL),
                expires: Some(LIVE_EXPIRES),
                max_length: Some(LIVE_LENGTH),
                ..Queue::new(format!("{EVENTS}.{}", Uuid::new_v4()))
            },
            Self::Durable { name, bound } => {
                Queue { max_length: Some(*bound), expires: Some(DURABLE_EXPIRES), ..Queue::new(name) }
            }
        };
        // A quorum queue would make every event wait for a majority of disks.
        let queue = Queue { kind: Some(QueueKind::Classic), overflow: Some(Overflow::DropHead), ..queue };
        let name = queue.name.clone();
        let bindings =
            vec![Binding { exchange: EVENTS.into(), queue: name.clone(), routing_key: "#".into() }];
        (name, Topology { queues: vec![queue], bindings, ..topology() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readers_have_queues_that_brokers_take() {
        let (live, topology) = EventReader::Live.topology();
        topology.validate().expect("good names");
        assert!(is_live_queue(&live) && !is_live_queue("celeryev.mine") && !is_live_queue("celeryev"));
        let durable = EventReader::Durable { name: "mq-worker.history".into(), bound: 5 };
        let (name, topology) = durable.topology();
        topology.validate().expect("good names");
        assert_eq!((name.as_str(), topology.queues[0].max_length), ("mq-worker.history", Some(5)));
        assert_eq!(
            topology.queues[0].expires,
            Some(DURABLE_EXPIRES),
            "nobody need clean up after a history that is gone"
        );
        assert!(topology.queues[0].durable && !topology.queues[0].auto_delete);
    }
}
