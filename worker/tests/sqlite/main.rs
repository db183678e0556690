//! Tests specific to the SQLite broker and result backend: real files, several real processes.
#![cfg(feature = "sqlite")]

mod files;
mod limits;
mod outside_tokio;
mod processes;
mod queues;
mod results;
mod roles;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use mq_worker::broker::{self, Broker, Consumer, Delivery, Publication, Subscription};
use mq_worker::message::Message;
use mq_worker::{BrokerUrl, ConnectOptions, Queue, QueueKind, Topology};

/// Long enough for a busy machine, short enough for a person.
const TIMEOUT: Duration = Duration::from_secs(20);

fn url(path: &Path) -> BrokerUrl {
    format!("sqlite:{}", path.display()).parse().expect("a URL")
}

fn options(timeout: Duration) -> ConnectOptions {
    ConnectOptions { timeout, queue_kind: QueueKind::Quorum, tls: Default::default(), name: "test".into() }
}

async fn open(path: &Path) -> Arc<dyn Broker> {
    broker::open(&url(path), &options(Duration::from_secs(10))).await.expect("the file opens")
}

/// Opens a broker on a new file with some plain queues.
async fn fresh(queues: &[&str]) -> (tempfile::TempDir, Arc<dyn Broker>) {
    let dir = tempfile::tempdir().expect("a directory");
    let broker = open(&dir.path().join("jobs.db")).await;
    for queue in queues {
        declare(&*broker, Queue::new(*queue)).await;
    }
    (dir, broker)
}

async fn declare(broker: &dyn Broker, queue: Queue) {
    broker.declare(&Topology::of_queue(queue)).await.expect("a queue can be declared");
}

fn to_queue(queue: &str, body: &str) -> Publication {
    let message = Message { body: body.to_owned().into(), ..Message::default() };
    Publication { routing_key: queue.into(), message, mandatory: true, ..Publication::default() }
}

async fn publish(broker: &dyn Broker, queue: &str, body: &str) {
    broker.publish(to_queue(queue, body)).await.expect("a message can be published");
}

async fn consume(broker: &dyn Broker, queues: &[&str], prefetch: u16) -> Consumer {
    let queues = queues.iter().map(ToString::to_string).collect();
    broker.consume(Subscription { queues, prefetch, name: "test".into() }).await.expect("a consumer begins")
}

async fn next(consumer: &mut Consumer) -> Delivery {
    tokio::time::timeout(TIMEOUT, consumer.next()).await.expect("a delivery in time").expect("not the end")
}

/// Returns true if nothing arrives for a moment. An absence cannot be awaited, so this is the one place that waits.
async fn is_quiet(consumer: &mut Consumer) -> bool {
    tokio::time::timeout(Duration::from_millis(150), consumer.next()).await.is_err()
}

fn body(delivery: &Delivery) -> String {
    String::from_utf8(delivery.message.body.to_vec()).expect("text")
}

/// Returns `(ready, running, delayed, consumers)` of one queue; `None` if it does not exist.
async fn counts(broker: &dyn Broker, queue: &str) -> Option<(u64, u64, u64, u64)> {
    let counts = broker.queues(&[queue.to_owned()]).await.expect("queues can be counted");
    counts
        .first()
        .map(|info| (info.ready, info.running.unwrap_or(0), info.delayed.unwrap_or(0), info.consumers))
}

/// Waits until a condition is met.
async fn until<F: Future<Output = bool>>(what: &str, mut question: impl FnMut() -> F) {
    let deadline = tokio::time::Instant::now() + TIMEOUT;
    while !question().await {
        assert!(tokio::time::Instant::now() < deadline, "never happened: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
