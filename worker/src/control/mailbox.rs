//! Where commands and replies go: exchanges and queues under Celery's names.

use std::time::Duration;

use uuid::Uuid;

use super::ReplyTo;
use crate::routing::names::MAX_NAME;
use crate::routing::{Binding, Exchange, ExchangeKind, Queue, QueueKind, Topology};

/// Commands go here, to all workers.
pub const COMMANDS: &str = "celery.pidbox";
/// Replies go here, each to the client that its routing key names.
pub const REPLIES: &str = "reply.celery.pidbox";

/// How long a command or reply is of any use.
const MESSAGE_TTL: Duration = Duration::from_secs(300);
/// How long a mailbox stays if its owner died without deleting it. An owner that only lost its connection is back
/// sooner, and finds the commands that were sent meanwhile.
const EXPIRES: Duration = Duration::from_secs(60);

/// The queue of one worker for commands, or of one client for replies.
///
/// Its name is new every time, since nothing is published to the queue by name. Celery's workers name theirs after
/// the node, so a quick restart has to wait until the broker has noticed that the old one is gone.
///
/// The queue is not exclusive: a broker may use one connection for declaring and another for consuming. It is
/// durable, since RabbitMQ is going to refuse queues that are neither; its messages are transient.
#[derive(Clone, Debug)]
pub struct Mailbox {
    /// The queue.
    pub queue: String,
    /// Everything to declare.
    pub topology: Topology,
}

impl Mailbox {
    /// For a worker.
    pub fn of_worker(node: &str) -> Self {
        let id = Uuid::new_v4();
        let mut queue = format!("{node}.{id}.{COMMANDS}");
        if queue.len() > MAX_NAME {
            queue = format!("{id}.{COMMANDS}");
        }
        Self::new(queue, COMMANDS, String::new())
    }

    /// For a client, with the address that its commands carry.
    pub fn of_client() -> (Self, ReplyTo) {
        let id = Uuid::new_v4().to_string();
        let address = ReplyTo { exchange: REPLIES.into(), routing_key: id.clone() };
        (Self::new(format!("{id}.{REPLIES}"), REPLIES, id), address)
    }

    fn new(name: String, exchange: &str, routing_key: String) -> Self {
        let queue = Queue {
            kind: Some(QueueKind::Classic),
            message_ttl: Some(MESSAGE_TTL),
            expires: Some(EXPIRES),
            ..Queue::new(&name)
        };
        let bindings = vec![Binding { exchange: exchange.into(), queue: name.clone(), routing_key }];
        // Both, since a worker publishes to the exchange of the replies, and a client to that of the commands.
        Self { topology: Topology { exchanges: exchanges(), queues: vec![queue], bindings }, queue: name }
    }
}

/// True for the name of a mailbox, ours or Celery's.
pub fn is_mailbox(queue: &str) -> bool {
    queue.strip_suffix(COMMANDS).is_some_and(|rest| rest.ends_with('.'))
}

/// The two exchanges, with the flags that Celery declares them with.
pub fn exchanges() -> Vec<Exchange> {
    let exchange = |name: &str, kind| Exchange { durable: false, ..Exchange::new(name, kind) };
    vec![exchange(COMMANDS, ExchangeKind::Fanout), exchange(REPLIES, ExchangeKind::Direct)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_mailbox_has_a_name_of_its_own_that_the_broker_takes() {
        let (first, second) = (Mailbox::of_worker("mail@h"), Mailbox::of_worker("mail@h"));
        assert_ne!(first.queue, second.queue);
        assert!(first.queue.starts_with("mail@h.") && first.queue.ends_with(".celery.pidbox"));
        let (client, address) = Mailbox::of_client();
        assert!(client.queue.starts_with(&address.routing_key));
        for mailbox in [first, client, Mailbox::of_worker(&"x".repeat(250))] {
            mailbox.topology.validate().expect("good names");
        }
    }
}
