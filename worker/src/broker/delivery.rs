//! A message that was handed out, and how it is given back: once, by value.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use futures_util::future::BoxFuture;
use tokio::sync::mpsc;

use crate::message::Message;

/// A message in the hands of a worker.
///
/// It is settled exactly once, by [`ack`](Self::ack) or [`requeue`](Self::requeue), which consume it. One that
/// is dropped goes back to its queue: a lost delivery would cost a place in the prefetch window for ever.
#[derive(Debug)]
pub struct Delivery {
    /// What was published.
    pub message: Message,
    /// The queue it came from.
    pub queue: Arc<str>,
    /// The exchange it was published to, without the traces of a delay.
    pub exchange: String,
    /// The routing key it was published with, without the traces of a delay.
    pub routing_key: String,
    /// True when it was handed out before.
    pub redelivered: bool,
    /// How many workers died while they had it, where the broker counts that exactly.
    pub crashes: Option<u32>,
    /// How it is given back.
    pub settlement: Settlement,
}

impl Delivery {
    /// The work is done: the message leaves the queue.
    pub fn ack(self) {
        self.settlement.settle(Verdict::Ack);
    }

    /// The work was not done: the message goes back, as if it had not been handed out.
    pub fn requeue(self) {
        self.settlement.settle(Verdict::Requeue);
    }
}

/// How long a message stays away that its worker has lost.
pub const LOST_PAUSE: Duration = Duration::from_secs(1);

/// How a delivery is settled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It leaves the queue: it is done.
    Ack,
    /// It leaves the queue: a message with the same id was published in its place, and is the one to be run.
    Replaced,
    /// It goes back, unspent.
    Requeue,
    /// It leaves the queue unprocessed: the broker moves it to where the dead letters of its queue go, and drops it where the
    /// queue has no such address.
    Reject,
    /// Its worker lost it as it worked on it: it goes back after [`LOST_PAUSE`], with one crash more. A broker that does
    /// not count crashes marks it as redelivered.
    Lost,
}

/// The half of a broker that takes verdicts. It must not block: it notes the verdict and passes it on.
pub trait Settle: Send + Sync {
    /// Notes a verdict. One that comes too late, for instance after a reconnect, does nothing.
    fn settle(&self, tag: u64, verdict: Verdict);
}

/// The right to settle one delivery, once. Dropping it requeues; once the work has [begun](Self::begin), it is counted as
/// a crash.
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

    /// The work begins. Whoever loses the delivery from now on, without a verdict, does not have it back uncounted and at
    /// once: it could be lost in the same way for ever.
    pub fn begin(&mut self) {
        self.begun = true;
    }

    /// The number by which its sink knows it.
    pub fn tag(&self) -> u64 {
        self.tag
    }

    /// True when the message left the queue already: there is nothing to give back.
    pub fn is_settled(&self) -> bool {
        self.sink.is_none()
    }

    /// Acknowledges now, before the work is done; what is left settles nothing.
    #[must_use]
    pub fn settle_early(mut self) -> Self {
        if let Some(sink) = self.sink.take() {
            sink.settle(self.tag, Verdict::Ack);
        }
        self
    }

    /// Settles.
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

/// A stream of deliveries. The broker restores it after a lost connection by itself.
pub struct Consumer {
    deliveries: mpsc::Receiver<Delivery>,
    control: Arc<dyn ConsumerControl>,
}

/// The half of a consumer that stays with the broker.
pub trait ConsumerControl: Send + Sync {
    /// Stops handing out. What was handed out can still be settled; the stream then ends.
    fn cancel(&self) -> BoxFuture<'_, ()>;

    /// Resolves when all verdicts given so far have reached the broker.
    fn flush(&self) -> BoxFuture<'_, ()>;

    /// False while the broker is away, or one of the queues is not consumed from although it should be.
    fn is_attached(&self) -> bool {
        true
    }

    /// How many messages were handed out and have no verdict, where the broker can tell.
    fn unsettled(&self) -> Option<usize> {
        None
    }

    /// Since when the consumer gets nothing any more, and why, where waiting cannot mend it and a restart may.
    fn loss(&self) -> Option<(DateTime<Utc>, String)> {
        None
    }
}

impl Consumer {
    /// A consumer whose broker sends into the other half of the channel.
    pub fn new(deliveries: mpsc::Receiver<Delivery>, control: Arc<dyn ConsumerControl>) -> Self {
        Self { deliveries, control }
    }

    /// The next delivery; `None` after [`cancel`](ConsumerControl::cancel), when all have been taken.
    pub async fn next(&mut self) -> Option<Delivery> {
        self.deliveries.recv().await
    }

    /// Stops handing out. What was handed out before can still be taken, and then the stream has ended, whether or not
    /// the broker has answered in time.
    pub async fn end(&mut self) {
        self.control.cancel().await;
        // A broker that goes on handing out meets a closed door, and has it back.
        self.deliveries.close();
    }

    /// A handle for stopping it from elsewhere.
    pub fn control(&self) -> Arc<dyn ConsumerControl> {
        Arc::clone(&self.control)
    }
}

impl fmt::Debug for Consumer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Consumer")
    }
}
