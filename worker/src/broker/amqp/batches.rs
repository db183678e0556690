//! Takes many messages at once, with a consumer on a channel of its own: its prefetch is the number of messages, and it
//! is cancelled as soon as they have arrived.
//!
//! RabbitMQ searches for an acked message among all unacked ones of the channel, starting with the oldest: with a
//! channel for each batch there are few of them, however many are held. And when a channel is closed, everything
//! unacked on its only consumer is requeued at once and in order, which many single requeues do not ensure in a quorum
//! queue. So requeues wait until the whole batch is settled; then the channel is closed.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use lapin::options::BasicGetOptions;
use lapin::types::FieldTable;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use uuid::Uuid;

use super::returns::{Returns, Step};
use super::to_delivery;
use crate::broker::{Delivery, Settle, Settlement, Verdict};
use crate::connection::amqp::channel::{ANSWER, OpenChannel};
use crate::connection::amqp::declare::short;
use crate::connection::amqp::link::{Session, lock};
use crate::connection::amqp::subscription::{Event, Source, Subscribed};
use crate::connection::amqp::{Amqp, runtime};
use crate::error::{Error, Result};

/// A queue that has delivered nothing for this long may have no more messages.
const QUIET: Duration = Duration::from_millis(250);

/// Takes batches.
pub(super) struct Batches {
    amqp: Arc<Amqp>,
    next: AtomicU64,
    steps: mpsc::UnboundedSender<Step>,
    open: Mutex<Vec<Weak<Batch>>>,
    /// How many settled batches still have messages to requeue.
    returning: Arc<AtomicUsize>,
}

/// Settles the messages of one batch.
struct Batch {
    number: u64,
    queue: Arc<str>,
    generation: u64,
    unsettled: AtomicUsize,
    requeued: AtomicUsize,
    returning: Arc<AtomicUsize>,
    /// Unbounded, since a verdict must not block; there are never more verdicts than messages taken.
    steps: mpsc::UnboundedSender<Step>,
}

impl Settle for Batch {
    fn settle(&self, tag: u64, verdict: Verdict) {
        let number = self.number;
        // An error means that the runtime is shutting down: the broker has the messages back.
        let _ = match verdict {
            Verdict::Ack | Verdict::Replaced => self.steps.send(Step::Ack { number, tag }),
            Verdict::Reject => self.steps.send(Step::Reject { number, tag }),
            Verdict::Requeue | Verdict::Lost => {
                self.requeued.fetch_add(1, Ordering::AcqRel);
                Ok(())
            }
        };
        if self.unsettled.fetch_sub(1, Ordering::AcqRel) == 1 {
            let requeued = self.requeued.load(Ordering::Acquire);
            if requeued > 0 {
                self.returning.fetch_add(1, Ordering::AcqRel);
            }
            let _ = self.steps.send(Step::Close { number, requeued });
        }
    }
}

impl Batches {
    pub(super) fn new(amqp: Arc<Amqp>) -> Self {
        let (steps, inbox) = mpsc::unbounded_channel();
        let returning = Arc::new(AtomicUsize::new(0));
        // It ends when this and all batches are dropped.
        amqp.spawn(Returns::new(Arc::clone(&returning)).run(inbox));
        Self { amqp, next: AtomicU64::new(1), steps, open: Mutex::default(), returning }
    }

    /// Takes up to `most` messages. Not for auto-delete queues: they would be deleted with the consumer.
    pub(super) async fn take(&self, queue: &str, most: usize) -> Result<Vec<Delivery>> {
        if most == 0 || self.returning.load(Ordering::Acquire) > 0 {
            self.flush().await;
        }
        if most == 0 {
            return Ok(Vec::new());
        }
        let most = u16::try_from(most).unwrap_or(u16::MAX);
        let what = format!("get from queue `{queue}`");
        let take = async |session: Session| match self.has_lost(queue, &session) {
            true => Ok(None),
            false => self.try_take(session, queue, most).await.map(Some),
        };
        let taken = self.amqp.link.request(&what, self.amqp.limit, take).await?;
        taken.ok_or_else(|| {
            Error::connection(format!(
                "the connection was lost while messages of `{queue}` were held: they are in the queue again"
            ))
        })
    }

    /// True when messages of the queue are held that were taken on an earlier connection.
    fn has_lost(&self, queue: &str, session: &Session) -> bool {
        let mut open = lock(&self.open);
        open.retain(|batch| batch.strong_count() > 0);
        open.iter().filter_map(Weak::upgrade).any(|batch| {
            *batch.queue == *queue
                && batch.generation != session.generation
                && batch.unsettled.load(Ordering::Acquire) > 0
        })
    }

    async fn try_take(&self, session: Session, queue: &str, most: u16) -> lapin::Result<Vec<Delivery>> {
        let queue: Arc<str> = queue.into();
        let tag = format!("walk.{}", Uuid::new_v4().simple());
        let source =
            Source { queue: Arc::clone(&queue), prefetch: most, tag, arguments: FieldTable::default() };
        let mut subscribed = source.subscribe(&session).await?;
        let mut taken = collect(&mut subscribed, most.into()).await?;
        let channel = subscribed.into_channel();
        if taken.is_empty() {
            // Only this is a definite answer: deliveries may be slow.
            let got = channel.basic_get(short(&queue)?, BasicGetOptions { no_ack: false }).await?;
            taken.extend(got.map(|message| message.delivery));
        }
        Ok(self.hand_out(queue, channel, taken))
    }

    fn hand_out(
        &self,
        queue: Arc<str>,
        channel: OpenChannel,
        taken: Vec<lapin::message::Delivery>,
    ) -> Vec<Delivery> {
        if taken.is_empty() {
            return Vec::new();
        }
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let batch = Arc::new(Batch {
            number,
            queue: Arc::clone(&queue),
            generation: channel.generation(),
            unsettled: AtomicUsize::new(taken.len()),
            requeued: AtomicUsize::new(0),
            returning: Arc::clone(&self.returning),
            steps: self.steps.clone(),
        });
        lock(&self.open).push(Arc::downgrade(&batch));
        let _ = self.steps.send(Step::Open { number, channel: Box::new(channel), queue: Arc::clone(&queue) });
        let sink: Arc<dyn Settle> = batch;
        let delivery = |delivery: lapin::message::Delivery| {
            let settlement = Settlement::new(delivery.delivery_tag, Arc::clone(&sink));
            to_delivery(&queue, delivery, settlement)
        };
        taken.into_iter().map(delivery).collect()
    }

    /// Waits until the broker has all verdicts so far, and requeued messages are in their queue.
    pub(super) async fn flush(&self) {
        let (reply, done) = oneshot::channel();
        if self.steps.send(Step::Flush(reply)).is_ok() {
            // Each step has its own timeout.
            let _ = done.await;
        }
    }
}

/// Collects the first messages of a consumer in order, then cancels it.
async fn collect(subscribed: &mut Subscribed, most: usize) -> lapin::Result<Vec<lapin::message::Delivery>> {
    let mut taken = Vec::new();
    while taken.len() < most
        && let Ok(event) = runtime::timeout(QUIET, subscribed.next(true)).await
    {
        match event {
            Event::Delivered(delivery) => taken.push(delivery),
            Event::Written | Event::Confirmed => {}
            Event::Ended => return Ok(taken),
            Event::Lost(error) => return Err(error),
        }
    }
    // Cancel before any ack: an ack would make room for another message.
    subscribed.cancel();
    let deadline = Instant::now() + ANSWER;
    loop {
        match runtime::timeout_at(deadline.into_std(), subscribed.next(true)).await {
            Ok(Event::Delivered(delivery)) => taken.push(delivery),
            Ok(Event::Written | Event::Confirmed) => {}
            Ok(Event::Lost(error)) => return Err(error),
            Ok(Event::Ended) | Err(_) => return Ok(taken),
        }
    }
}
