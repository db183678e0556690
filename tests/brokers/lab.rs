//! The broker under test and short helpers for what the cases do most often.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use mq_worker::broker::{self, Broker, Consumer, Delivery, Publication, QueueInfo, Subscription};
use mq_worker::message::{Message, Properties};
use mq_worker::{BrokerUrl, ConnectOptions, Exchange, ExchangeKind, Queue, QueueKind, TlsOptions, Topology};
use support::{shared, within};

/// Long enough for a broker on a busy machine: a wait that takes this long has failed.
pub(crate) const LIMIT: Duration = Duration::from_secs(20);

/// How long to wait before concluding that no message arrives.
pub(crate) const QUIET: Duration = Duration::from_millis(300);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Memory,
    Sqlite,
    Classic,
    Quorum,
}

impl Kind {
    pub(crate) fn is_rabbitmq(self) -> bool {
        matches!(self, Kind::Classic | Kind::Quorum)
    }
}

/// A broker with queues that are invisible to other tests.
pub(crate) struct Lab {
    pub(crate) kind: Kind,
    url: BrokerUrl,
    options: ConnectOptions,
    /// Makes names unique when tests share a server.
    suffix: String,
    _directory: Option<tempfile::TempDir>,
}

impl Lab {
    /// Returns `None` if the broker is not available, after printing why.
    pub(crate) fn new(kind: Kind) -> Option<Lab> {
        let mut directory = None;
        let url = match kind {
            Kind::Memory => format!("memory://{}", support::unique("lab")),
            Kind::Sqlite => {
                let place = directory.insert(support::temp_dir());
                format!("sqlite:{}", place.path().join("broker.db").display())
            }
            Kind::Classic | Kind::Quorum => shared::rabbitmq(file!())?.url,
        };
        let queue_kind = if kind == Kind::Classic { QueueKind::Classic } else { QueueKind::Quorum };
        Some(Lab {
            kind,
            url: url.parse().expect("a URL"),
            options: ConnectOptions {
                timeout: LIMIT,
                queue_kind,
                tls: TlsOptions::default(),
                name: "conformance".into(),
            },
            suffix: support::unique(""),
            _directory: directory,
        })
    }

    /// Opens another connection to the broker.
    pub(crate) async fn open(&self) -> Arc<dyn Broker> {
        within("open", LIMIT, broker::open(&self.url, &self.options)).await.expect("the broker opens")
    }

    /// Returns a name that belongs to this test.
    pub(crate) fn name(&self, name: &str) -> String {
        format!("{name}{}", self.suffix)
    }

    /// Opens the broker with one plain queue.
    pub(crate) async fn with_queue(&self, name: &str) -> (Arc<dyn Broker>, String) {
        let broker = self.open().await;
        let queue = self.name(name);
        declare(&broker, [Queue::new(&queue)]).await;
        (broker, queue)
    }

    /// Declares an exchange with a queue for each key.
    pub(crate) async fn exchange(
        &self,
        broker: &Arc<dyn Broker>,
        kind: ExchangeKind,
        bindings: &[(&str, &str)],
    ) -> String {
        let exchange = self.name("exchange");
        let mut topology = Topology {
            exchanges: vec![Exchange::new(&exchange, kind)],
            bindings: bindings
                .iter()
                .map(|(queue, key)| mq_worker::Binding {
                    exchange: exchange.clone(),
                    queue: self.name(queue),
                    routing_key: (*key).to_owned(),
                })
                .collect(),
            ..Topology::default()
        };
        for (queue, _) in bindings {
            topology.merge(Topology::of_queue(Queue::new(self.name(queue))));
        }
        within("declare", LIMIT, broker.declare(&topology)).await.expect("the topology is declared");
        exchange
    }
}

pub(crate) async fn declare(broker: &Arc<dyn Broker>, queues: impl IntoIterator<Item = Queue>) {
    let topology = Topology { queues: queues.into_iter().collect(), ..Topology::default() };
    within("declare", LIMIT, broker.declare(&topology)).await.expect("the queues are declared");
}

pub(crate) fn text(body: impl Into<String>) -> Message {
    let properties = Properties { content_type: Some("text/plain".into()), ..Properties::default() };
    Message { properties, body: body.into().into(), ..Message::default() }
}

/// A mandatory message for a queue.
pub(crate) fn to(queue: &str, body: impl Into<String>) -> Publication {
    Publication { routing_key: queue.into(), message: text(body), mandatory: true, ..Publication::default() }
}

/// A mandatory message for an exchange.
pub(crate) fn via(exchange: &str, key: &str, body: &str) -> Publication {
    Publication { exchange: exchange.into(), ..to(key, body) }
}

pub(crate) async fn publish(broker: &Arc<dyn Broker>, publication: Publication) {
    within("publish", LIMIT, broker.publish(publication)).await.expect("the message is taken");
}

pub(crate) async fn refused(broker: &Arc<dyn Broker>, publication: Publication) -> mq_worker::Error {
    within("publish", LIMIT, broker.publish(publication)).await.expect_err("the message is refused")
}

pub(crate) async fn consume(broker: &Arc<dyn Broker>, queues: &[&str], prefetch: u16) -> Consumer {
    let queues = queues.iter().map(|name| (*name).to_owned()).collect();
    let subscription = Subscription { queues, prefetch, name: "conformance".into() };
    within("consume", LIMIT, broker.consume(subscription)).await.expect("the consumer is attached")
}

/// Returns the next delivery, which must arrive.
pub(crate) async fn next(consumer: &mut Consumer) -> Delivery {
    within("a delivery", LIMIT, consumer.next()).await.expect("the consumer goes on")
}

/// Takes and acks one message for each of these bodies.
pub(crate) async fn expect_bodies(consumer: &mut Consumer, bodies: &[&str]) {
    for expected in bodies {
        let delivery = next(consumer).await;
        assert_eq!(body(&delivery), *expected);
        delivery.ack();
    }
}

/// Fails if a delivery arrives.
pub(crate) async fn expect_nothing(consumer: &mut Consumer) {
    if let Ok(Some(delivery)) = tokio::time::timeout(QUIET, consumer.next()).await {
        panic!("nothing should come, but `{}` did", body(&delivery));
    }
}

pub(crate) fn body(delivery: &Delivery) -> String {
    String::from_utf8(delivery.message.body.to_vec()).expect("a text")
}

pub(crate) async fn info(broker: &Arc<dyn Broker>, queue: &str) -> Option<QueueInfo> {
    let names = [queue.to_owned()];
    let mut found = within("queues", LIMIT, broker.queues(&names)).await.expect("an answer");
    assert!(found.len() <= 1, "one name, at most one queue");
    found.pop()
}

/// Waits until this many messages are ready: some brokers update the count with a delay.
pub(crate) async fn expect_ready(broker: &Arc<dyn Broker>, queue: &str, expected: u64) {
    let mut last = None;
    let deadline = std::time::Instant::now() + LIMIT;
    while std::time::Instant::now() < deadline {
        last = info(broker, queue).await;
        if last.as_ref().is_some_and(|info| info.ready == expected) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("`{queue}` should have {expected} messages ready, but is {last:?}");
}

/// Takes everything that is ready now, one by one.
pub(crate) async fn drain(broker: &Arc<dyn Broker>, queue: &str) -> Vec<String> {
    let mut bodies = Vec::new();
    while let Some(delivery) = within("get", LIMIT, broker.get(queue)).await.expect("an answer") {
        bodies.push(body(&delivery));
        delivery.ack();
    }
    bodies
}

/// Counts how often each body was delivered.
pub(crate) fn counted(bodies: impl IntoIterator<Item = String>) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for body in bodies {
        *counts.entry(body).or_default() += 1;
    }
    counts
}
