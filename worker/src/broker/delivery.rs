//! A delivery, and how it is settled: once, by value.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use futures_util::future::BoxFuture;
use tokio::sync::mpsc;

use crate::error::{Error, Result};
use crate::message::Message;

/// A message that the broker has delivered to a worker.
///
/// It is settled exactly once, by [`ack`](Self::ack) or [`requeue`](Self::requeue), which consume it. A dropped
/// delivery is requeued: otherwise it would occupy the prefetch window forever.
#[derive(Debug)]
pub struct Delivery {
    /// The message.
    pub message: Message,
    /// The queue it came from.
    pub queue: Arc<str>,
    /// The exchange it was originally published to, even after a delay.
    pub exchange: String,
    /// The routing key it was originally published with, even after a delay.
    pub routing_key: String,
    /// True if it was delivered before.
    pub redelivered: bool,
    /// How many workers died while they held it, if the broker counts that exactly.
    pub crashes: Option<u32>,
    /// The right to settle it.
    pub settlement: Settlement,
}

impl Delivery {
    /// Acknowledges: the work is done, and the message leaves the queue.
    pub fn ack(self) {
        self.settlement.settle(Verdict::Ack);
    }

    /// Requeues: the work was not done, and the message returns to its queue without spending an attempt.
    pub fn requeue(self) {
        self.settlement.settle(Verdict::Requeue);
    }
}

/// How long a message is delayed after its worker has lost it.
pub const LOST_PAUSE: Duration = Duration::from_secs(1);

/// How a delivery is settled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The message leaves the queue: it is done.
    Ack,
    /// The message leaves the queue: a message with the same id was published to be run in its place.
    Replaced,
    /// The message is requeued without spending an attempt.
    Requeue,
    /// The message leaves the queue unprocessed: the broker moves it to the dead-letter exchange of the queue, and drops
    /// it if the queue has none.
    Reject,
    /// The worker lost the message while it worked on it: it is requeued after [`LOST_PAUSE`], and its crash count is
    /// raised by one. A broker that does not count crashes marks it as redelivered.
    Lost,
}

/// The part of a broker that receives verdicts. It must not block: it records the verdict and passes it on.
pub trait Settle: Send + Sync {
    /// Records a verdict. A late verdict, for instance after a reconnect, has no effect.
    fn settle(&self, tag: u64, verdict: Verdict);
}

/// The right to settle one delivery, once. Dropping it requeues the message; after the work has
/// [begun](Self::begin), dropping it counts as a crash.
pub struct Settlement {
    tag: u64,
    begun: bool,
    sink: Option<Arc<dyn Settle>>,
}

impl Settlement {
    /// The right to settle `tag` at `sink`.
    pub fn new(tag: u64, sink: Arc<dyn Settle>) -> Self {
        Self { tag, begun: false, sink: Some(sink) }
    }

    /// Marks the start of the work. From now on, dropping the delivery without a verdict delays it and counts as a crash:
    /// otherwise it could be lost in the same way over and over again.
    pub fn begin(&mut self) {
        self.begun = true;
    }

    /// The number that identifies the delivery to its sink.
    pub fn tag(&self) -> u64 {
        self.tag
    }

    /// True if the delivery has been settled already.
    pub fn is_settled(&self) -> bool {
        self.sink.is_none()
    }

    /// Acknowledges now, before the work is done. The returned value has no further effect.
    #[must_use]
    pub fn settle_early(mut self) -> Self {
        if let Some(sink) = self.sink.take() {
            sink.settle(self.tag, Verdict::Ack);
        }
        self
    }

    /// Settles the delivery with a verdict.
    pub fn settle(mut self, verdict: Verdict) {
        if let Some(sink) = self.sink.take() {
            sink.settle(self.tag, verdict);
        }
    }
}

impl Drop for Settlement {
    fn drop(&mut self) {
        if let Some(sink) = self.sink.take() {
            sink.settle(self.tag, if self.begun { Verdict::Lost } else { Verdict::Requeue });
        }
    }
}

impl fmt::Debug for Settlement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Settlement({})", self.tag)
    }
}

/// A stream of deliveries. The broker restores it by itself after a lost connection.
pub struct Consumer {
    deliveries: mpsc::Receiver<Delivery>,
    control: Arc<dyn ConsumerControl>,
}

/// The part of a consumer that belongs to the broker.
pub trait ConsumerControl: Send + Sync {
    /// Stops delivering. Earlier deliveries can still be settled; then the stream ends.
    fn cancel(&self) -> BoxFuture<'_, ()>;

    /// Changes the queues that it consumes; there may be none. Deliveries of a removed queue can still be settled, and
    /// some may still arrive until this resolves.
    ///
    /// An added queue must exist. While the broker is unreachable, the change may take effect later.
    fn set_queues(&self, queues: Vec<String>) -> BoxFuture<'_, Result<()>> {
        let _ = queues;
        Box::pin(std::future::ready(Err(Error::unsupported("this consumer cannot change its queues"))))
    }

    /// Changes the prefetch, to at least 1. If it is reduced, earlier deliveries stay with the consumer.
    fn set_prefetch(&self, prefetch: u16) -> BoxFuture<'_, Result<()>> {
        let _ = prefetch;
        Box::pin(std::future::ready(Err(Error::unsupported("this consumer cannot change its prefetch"))))
    }

    /// Resolves when all verdicts given so far have reached the broker.
    fn flush(&self) -> BoxFuture<'_, ()>;

    /// False while the broker is unreachable or one of the queues is not being consumed.
    fn is_attached(&self) -> bool {
        true
    }

    /// The number of deliveries without a verdict, if the broker reports it.
    fn unsettled(&self) -> Option<usize> {
        None
    }

    /// Since when and why the consumer receives nothing, if waiting cannot fix it but a restart may.
    fn loss(&self) -> Option<(DateTime<Utc>, String)> {
        None
    }
}

impl Consumer {
    /// Creates a consumer whose broker sends into the other half of the channel.
    pub fn new(deliveries: mpsc::Receiver<Delivery>, control: Arc<dyn ConsumerControl>) -> Self {
        Self { deliveries, control }
    }

    /// Waits for the next delivery. `None` once all have been taken after [`cancel`](ConsumerControl::cancel).
    pub async fn next(&mut self) -> Option<Delivery> {
        self.deliveries.recv().await
    }

    /// The next delivery, if it has arrived already.
    pub fn next_now(&mut self) -> Option<Delivery> {
        self.deliveries.try_recv().ok()
    }

    /// Stops delivering. Earlier deliveries can still be taken; then the stream ends, even if the broker did not reply in
    /// time.
    pub async fn stop(&mut self) {
        self.control.cancel().await;
        // Messages that the broker still delivers are requeued, since the channel is closed.
        self.deliveries.close();
    }

    /// A handle for stopping the consumer from elsewhere.
    pub fn control(&self) -> Arc<dyn ConsumerControl> {
        Arc::clone(&self.control)
    }
}

impl fmt::Debug for Consumer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Consumer")
    }
}
