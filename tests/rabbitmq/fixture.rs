//! The fixture of the tests: a broker with a unique connection name, queues that are deleted at the end, a proxy to cut.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use mq_worker::broker::{self, Broker, Consumer, Delivery, Publication, Subscription};
use mq_worker::message::{Headers, Message};
use mq_worker::{ConnectOptions, Queue, QueueKind, TlsOptions, Topology};
use support::{Proxy, shared};
use tokio::time::timeout;
use uuid::Uuid;

/// Long enough for a slow machine, short enough to notice a hang.
pub(crate) const SOON: Duration = Duration::from_secs(20);

/// Returns the server's address, or `None` after printing that the test is skipped.
pub(crate) fn url() -> Option<String> {
    shared::rabbitmq("the RabbitMQ broker").map(|server| server.url)
}

pub(crate) fn options() -> ConnectOptions {
    ConnectOptions {
        timeout: Duration::from_secs(10),
        queue_kind: QueueKind::Quorum,
        tls: TlsOptions::default(),
        // A unique name gets its own connection.
        name: format!("test {}", Uuid::new_v4()),
    }
}

/// A broker and the queues of one test.
pub(crate) struct Fixture {
    pub(crate) broker: Arc<dyn Broker>,
    pub(crate) url: String,
    prefix: String,
    queues: Mutex<Vec<String>>,
}

impl Fixture {
    /// Returns `None` if there is no server.
    pub(crate) async fn new() -> Option<Self> {
        let url = url()?;
        Some(Self::alone(&url).await)
    }

    /// For tests with their own server or a proxy.
    pub(crate) async fn alone(url: &str) -> Self {
        Self::with(url, options()).await
    }

    pub(crate) async fn with(url: &str, options: ConnectOptions) -> Self {
        let broker = broker::open(&url.parse().expect("a URL"), &options).await.expect("a good address");
        let prefix = format!("mqw.test.{}", Uuid::new_v4().simple());
        Self { broker, url: url.to_owned(), prefix, queues: Mutex::default() }
    }

    /// Returns a unique name of a queue, which is deleted at the end.
    pub(crate) fn name(&self, name: &str) -> String {
        let name = format!("{}.{name}", self.prefix);
        self.queues.lock().expect("not poisoned").push(name.clone());
        name
    }

    /// Declares a queue, configured by the test.
    pub(crate) async fn queue(&self, name: &str, change: impl FnOnce(&mut Queue)) -> String {
        let name = self.name(name);
        let mut queue = Queue::new(name.clone());
        change(&mut queue);
        self.broker.declare(&Topology::of_queue(queue)).await.expect("declared");
        name
    }

    pub(crate) async fn consume(&self, queue: &str, prefetch: u16) -> Consumer {
        let subscription = Subscription { queues: vec![queue.into()], prefetch, name: "test".into() };
        self.broker.consume(subscription).await.expect("consuming")
    }

    pub(crate) async fn send(&self, queue: &str, id: &str) -> mq_worker::Result<()> {
        self.broker.publish(to(queue, id)).await
    }

    pub(crate) async fn ready(&self, queue: &str) -> u64 {
        let found = self.broker.queues(&[queue.to_owned()]).await.expect("an answer");
        found.first().map_or(0, |queue| queue.ready)
    }

    /// Waits until this many messages are ready: a queue updates its count slightly after it answers a publish or an ack.
    pub(crate) async fn expect_ready(&self, queue: &str, expected: u64) {
        until(&format!("{expected} are ready"), || async { self.ready(queue).await == expected }).await;
    }

    /// Deletes the test's queues and closes the broker. A test that fails earlier leaves them.
    pub(crate) async fn end(self) {
        let queues = std::mem::take(&mut *self.queues.lock().expect("not poisoned"));
        for queue in queues {
            let _ = self.broker.delete_queue(&queue).await;
        }
        timeout(SOON, self.broker.close()).await.expect("closing ends");
    }
}

pub(crate) fn message(id: &str) -> Message {
    Message {
        headers: Headers::for_task("test", id),
        body: br#"[[],{},{}]"#[..].into(),
        ..Message::default()
    }
}

/// A message published directly to a queue.
pub(crate) fn to(queue: &str, id: &str) -> Publication {
    Publication { routing_key: queue.into(), message: message(id), mandatory: true, ..Publication::default() }
}

pub(crate) fn id(delivery: &Delivery) -> String {
    delivery.message.headers.id().expect("an id").to_owned()
}

/// Returns the next delivery, which must arrive soon.
pub(crate) async fn next(consumer: &mut Consumer) -> Delivery {
    timeout(SOON, consumer.next()).await.expect("a delivery in time").expect("the stream goes on")
}

/// Waits until a condition is met.
pub(crate) async fn until<F: Future<Output = bool>>(what: &str, mut is_so: impl FnMut() -> F) {
    let waiting = async {
        while !is_so().await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(SOON, waiting).await.unwrap_or_else(|_| panic!("not in time: {what}"));
}

/// A proxy in front of a server, and the server's address through it.
pub(crate) struct Detour {
    pub(crate) url: String,
    proxy: Proxy,
}

impl Detour {
    pub(crate) fn start(url: &str) -> Self {
        let (user, rest) = url.split_once('@').expect("a user");
        let (server, host) = rest.split_once('/').expect("a virtual host");
        let proxy = Proxy::start(server);
        Self { url: format!("{user}@{}/{host}", proxy.address()), proxy }
    }
}

impl std::ops::Deref for Detour {
    type Target = Proxy;

    fn deref(&self) -> &Proxy {
        &self.proxy
    }
}
