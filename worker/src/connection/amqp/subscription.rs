//! A consumer on a channel of its own, with its deliveries and acks. Everything that consumes goes through it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::tracing::{debug, error, info, warn};
use futures_util::FutureExt;
use futures_util::future::{BoxFuture, join_all};
use futures_util::stream::{FuturesUnordered, StreamExt};
use lapin::message::Delivery;
use lapin::options::{
    BasicAckOptions, BasicCancelOptions, BasicConsumeOptions, BasicNackOptions, BasicQosOptions,
};
use lapin::types::FieldTable;
use tokio::time::{sleep, timeout};

use super::Amqp;
use super::channel::{ANSWER, OpenChannel};
use super::declare::short;
use super::external::MISSING;
use super::failure::{code, reply_code, text, timed_out};
use super::link::{Pause, Session};

/// Timeout for starting a consumer. For a quorum queue that is a cluster command, which takes seconds under load: if
/// this gives up too early, messages that were already delivered count as redelivered.
const SUBSCRIBE_TIMEOUT: Duration = Duration::from_secs(15);

/// What to consume.
#[derive(Clone)]
pub(crate) struct Source {
    pub(crate) queue: Arc<str>,
    pub(crate) prefetch: u16,
    pub(crate) tag: String,
    pub(crate) arguments: FieldTable,
}

/// A consumer. Dropping it closes its channel and requeues unacked deliveries.
pub(crate) struct Subscribed {
    channel: OpenChannel,
    prefetch: u16,
    /// No more deliveries will come.
    has_ended: bool,
    /// Acks that are being written.
    writes: FuturesUnordered<BoxFuture<'static, lapin::Result<()>>>,
    /// Requests without a reply yet.
    requests: FuturesUnordered<BoxFuture<'static, lapin::Result<Event>>>,
}

/// An event on a channel.
#[expect(clippy::large_enum_variant, reason = "taken apart at once, and a box for each delivery costs more")]
pub(crate) enum Event {
    Delivered(Delivery),
    /// Pending acks were written.
    Written,
    /// The broker has processed everything that was written before [`Subscribed::confirm`].
    Confirmed,
    /// No more deliveries will come: the consumer was cancelled, by us or by the broker.
    Ended,
    /// The channel is lost.
    Lost(lapin::Error),
}

/// An ack to send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ack {
    pub(crate) tag: u64,
    pub(crate) multiple: bool,
}

impl Source {
    /// Opens a channel and consumes on it.
    pub(crate) async fn subscribe(&self, session: &Session) -> lapin::Result<Subscribed> {
        let mut channel = session.channel().await?;
        channel.basic_qos(self.prefetch, BasicQosOptions { global: false }).await?;
        channel.will_hold();
        let (queue, tag) = (short(&self.queue)?, short(&self.tag)?);
        let options = BasicConsumeOptions::default();
        channel.consumer = Some(channel.basic_consume(queue, tag, options, self.arguments.clone()).await?);
        let (writes, requests) = Default::default();
        Ok(Subscribed { channel, prefetch: self.prefetch, has_ended: false, writes, requests })
    }

    /// Subscribes, and binds the queue again if it may be a new one of the same name.
    pub(crate) async fn subscribe_bound(&self, amqp: &Amqp, session: &Session) -> lapin::Result<Subscribed> {
        let subscribed = self.subscribe(session).await?;
        amqp.desired.rebind(session, &self.queue).await?;
        Ok(subscribed)
    }

    /// Subscribes on this connection or a later one, trying until it succeeds. A missing queue is declared again if
    /// this program declared it.
    ///
    /// Waits for a queue that others declare, and calls `waits` while it does not exist.
    pub(crate) async fn subscribe_again(self, amqp: Arc<Amqp>, waits: impl Fn()) -> Subscribed {
        let queue = &*self.queue;
        let mut pause = Pause::default();
        let mut said = None;
        let is_external = amqp.desired.is_external(queue);
        let longest = if is_external { MISSING } else { Duration::MAX };
        let mut was_missing = false;
        loop {
            let deadline = Instant::now() + Duration::from_secs(3600);
            // The link itself logs why there is no connection.
            let Ok(session) = amqp.link.session(0, deadline).await else { continue };
            let subscribed = timeout(SUBSCRIBE_TIMEOUT, self.subscribe_bound(&amqp, &session)).await;
            let failed = match subscribed.unwrap_or_else(|_| Err(timed_out())) {
                Ok(subscribed) if was_missing => {
                    info!(queue, "the queue exists now: consuming from it");
                    return subscribed;
                }
                Ok(subscribed) => {
                    debug!(queue, generation = session.generation, "consuming");
                    return subscribed;
                }
                Err(failed) => failed,
            };
            sleep(pause.next(false).min(longest)).await;
            if !session.is_alive() {
                amqp.link.suspect();
                continue;
            }
            if is_external && reply_code(&failed) == Some(code::NOT_FOUND) {
                if !was_missing {
                    info!(queue, "waiting for an external queue to be declared");
                    was_missing = true;
                }
                waits();
                continue;
            }
            let reason = text(&failed);
            if said.as_ref() != Some(&reason) {
                error!(queue, reason, "cannot consume from the queue, trying again");
                said = Some(reason);
            }
            if reply_code(&failed) == Some(code::NOT_FOUND) {
                match timeout(SUBSCRIBE_TIMEOUT, amqp.desired.restore_queue(&session, queue)).await {
                    Ok(Ok(true)) => warn!(queue, "the queue was deleted and has been declared again"),
                    Ok(Ok(false)) | Err(_) => {}
                    Ok(Err(failed)) => {
                        debug!(queue, reason = text(&failed), "cannot declare the queue again");
                    }
                }
            }
        }
    }
}

impl Subscribed {
    /// Waits for the next event. `reads` is false while no more deliveries can be taken.
    pub(crate) async fn next(&mut self, reads: bool) -> Event {
        let Self { channel, has_ended, writes, requests, .. } = self;
        let consumer = channel.consumer.as_mut().filter(|_| reads && !*has_ended);
        let is_reading = consumer.is_some();
        let delivered = async {
            match consumer {
                Some(consumer) => consumer.next().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            Some(written) = writes.next() => written.map_or_else(Event::Lost, |()| Event::Written),
            Some(answer) = requests.next() => answer.unwrap_or_else(Event::Lost),
            delivered = delivered, if is_reading => self.read(delivered),
            else => std::future::pending().await,
        }
    }

    /// The next delivery, if it has already arrived.
    pub(crate) fn next_now(&mut self) -> Option<Event> {
        let consumer = self.channel.consumer.as_mut().filter(|_| !self.has_ended)?;
        let delivered = consumer.next().now_or_never()?;
        Some(self.read(delivered))
    }

    fn read(&mut self, delivered: Option<lapin::Result<Delivery>>) -> Event {
        self.has_ended = delivered.is_none();
        match delivered {
            Some(delivered) => delivered.map_or_else(Event::Lost, Event::Delivered),
            None => Event::Ended,
        }
    }

    /// True while acks are being written.
    pub(crate) fn is_writing(&self) -> bool {
        !self.writes.is_empty()
    }

    /// Acks, without waiting.
    pub(crate) fn ack(&mut self, acks: Vec<Ack>) {
        let channel = (*self.channel).clone();
        let written = async move {
            let ack = |ack: &Ack| channel.basic_ack(ack.tag, BasicAckOptions { multiple: ack.multiple });
            join_all(acks.iter().map(ack)).await.into_iter().collect()
        };
        self.writes.push(written.boxed());
    }

    /// Requeues, without waiting.
    pub(crate) fn requeue(&mut self, tag: u64) {
        self.nack(tag, true);
    }

    /// Rejects the message to the dead-letter exchange of its queue, without waiting.
    pub(crate) fn reject(&mut self, tag: u64) {
        self.nack(tag, false);
    }

    fn nack(&mut self, tag: u64, requeue: bool) {
        let channel = (*self.channel).clone();
        let options = BasicNackOptions { multiple: false, requeue };
        self.writes.push(async move { channel.basic_nack(tag, options).await }.boxed());
    }

    /// Asks the broker to stop delivering; [`Event::Ended`] follows the deliveries that were already sent.
    pub(crate) fn cancel(&mut self) {
        let Some(consumer) = &self.channel.consumer else { return };
        let (channel, tag) = ((*self.channel).clone(), consumer.tag());
        let cancelled = async move { channel.basic_cancel(tag, BasicCancelOptions::default()).await };
        self.requests.push(cancelled.map(|cancelled| cancelled.map(|()| Event::Written)).boxed());
    }

    /// Asks the broker to confirm that it has processed everything written so far.
    pub(crate) fn confirm(&mut self) {
        // The reply to any request will do.
        let (channel, prefetch) = ((*self.channel).clone(), self.prefetch);
        let asked = async move { channel.basic_qos(prefetch, BasicQosOptions { global: false }).await };
        self.requests.push(asked.map(|asked| asked.map(|()| Event::Confirmed)).boxed());
    }

    /// The channel, for a caller that settles the deliveries by other means.
    pub(crate) fn into_channel(self) -> OpenChannel {
        self.channel
    }

    /// Closes the channel. Resolves when the broker has all acks and has requeued the rest, or did not reply in time.
    pub(crate) async fn close(self) {
        let _ = timeout(ANSWER * 2, self.channel.close()).await;
    }
}
