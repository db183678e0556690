//! What the tests share: a broker under a name of its own, queues that are deleted at the end, a proxy to cut.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use mq_worker::broker::{self, Broker, Consumer, Delivery, Publication, Subscription};
use mq_worker::message::{Headers, Message};
use mq_worker::{ConnectOptions, Queue, QueueKind, TlsOptions, Topology};
use support::{Proxy, shared};
use tokio::time::timeout;
use uuid::Uuid;

/// Long enough for a slow machine, short enough for a hang to be seen.
pub(crate) const SOON: Duration = Duration::from_secs(20);

/// The server's address, or `None` after having said that the test is left out.
pub(crate) fn url() -> Option<String> {
    shared::rabbitmq("the RabbitMQ broker").map(|server| server.url)
}

pub(crate) fn options() -> ConnectOptions {
    ConnectOptions {
        timeout: Duration::from_secs(10),
        queue_kind: QueueKind::Quorum,
        tls: TlsOptions::default(),
        // A name of its own makes a connection of its own.
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
    /// `None` when there is no server.
    pub(crate) async fn new() -> Option<Self> {
        let url = url()?;
        Some(Self::alone(&url).await)
    }

    /// For tests with a server of their own, or that go through a proxy.
    pub(crate) async fn alone(url: &str) -> Self {
        Self::with(url, options()).await
    }

    pub(crate) async fn with(url: &str, options: ConnectOptions) -> Self {
        let broker = broker::open(&url.parse().expect("a URL"), &options).await.expect("a good address");
        let prefix = format!("mqw.test.{}", Uuid::new_v4().simple());
        Self { broker, url: url.to_owned(), prefix, queues: Mutex::default() }
    }

    /// A name that nobody else has, deleted at the end.
    pub(crate) fn name(&self, name: &str) -> String {
        let name = format!("{}.{name}", self.prefix);
        self.queues.lock().expect("not poisoned").push(name.clone());
        name
    }

    /// Declares a queue, changed as the test wants it.
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

    /// Waits until that many are ready: a queue counts a moment after the answer to a publish or an ack.
    pub(crate) async fn expect_ready(&self, queue: &str, expected: u64) {
        until(&format!("{expected} are ready"), || async { self.ready(queue).await == expected }).await;
    }

    /// Deletes the test's queues and closes. A test that fails before leaves them.
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

/// A message straight to a queue.
pub(crate) fn to(queue: &str, id: &str) -> Publication {
    Publication { routing_key: queue.into(), message: message(id), mandatory: true, ..Publication::default() }
}

pub(crate) fn id(delivery: &Delivery) -> String {
    delivery.message.headers.id().expect("an id").to_owned()
}

/// The next delivery, soon.
pub(crate) async fn next(consumer: &mut Consumer) -> Delivery {
    timeout(SOON, consumer.next()).await.expect("a delivery in time").expect("the stream goes on")
}

/// Until something is so.
pub(crate) async fn until<F: Future<Output = bool>>(what: &str, mut is_so: impl FnMut() -> F) {
    let waiting = async {
        while !is_so().await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(SOON, waiting).await.unwrap_or_else(|_| panic!("not in time: {what}"));
}

/// A proxy before a server, and the server's address by way of it.
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
