//! One queue of a consumer: its channel, its deliveries and its acks, through every reconnect.
//!
//! A lane is one task. It ends after it was cancelled and all that it handed out is settled.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, join_all};
use futures_util::stream::{FuturesUnordered, StreamExt};
use lapin::options::{
    BasicAckOptions, BasicCancelOptions, BasicConsumeOptions, BasicNackOptions, BasicQosOptions,
};
use lapin::types::FieldTable;
use lapin::{Channel, Consumer};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tracing::{debug, error, info, warn};

use super::ledger::{Ack, Identity, Ledger};
use super::survivors::{Again, Survivors};
use super::to_delivery;
use crate::broker::{Delivery, Settle, Settlement, Verdict};
use crate::connection::amqp::Amqp;
use crate::connection::amqp::external::MISSING;
use crate::connection::amqp::failure::{code, reply_code, text};
use crate::connection::amqp::link::{Pause, Session};
use crate::connection::amqp::topology::short;

/// How long a done task waits for a slower one before it is acked on its own.
const STRAGGLER: Duration = Duration::from_millis(4);
/// How long the broker may take for an answer that is not awaited by anyone else.
const ANSWER: Duration = Duration::from_secs(5);
/// Deliveries or verdicts that are taken at once.
const BATCH: usize = 1024;

/// What is asked of a lane from outside.
pub(super) enum Command {
    /// Hand out no more.
    Cancel(oneshot::Sender<()>),
    /// Answer when all verdicts so far have reached the broker.
    Flush(oneshot::Sender<()>),
}

/// A verdict: the number of the channel, the tag there, and what was decided.
type Settled = (u64, u64, Verdict);

/// Takes the verdicts of one channel of a lane.
struct Sink {
    channel: u64,
    /// Unbounded, since a verdict must not block; there are no more of them than the prefetch allows deliveries.
    verdicts: mpsc::UnboundedSender<Settled>,
}

impl Settle for Sink {
    fn settle(&self, tag: u64, verdict: Verdict) {
        // An error means that the lane has ended: the broker has the message back.
        let _ = self.verdicts.send((self.channel, tag, verdict));
    }
}

/// What a lane consumes.
#[derive(Clone)]
pub(super) struct Source {
    pub(super) amqp: Arc<Amqp>,
    pub(super) queue: Arc<str>,
    pub(super) prefetch: u16,
    pub(super) tag: String,
    /// Whether it is consumed, for whoever asks.
    pub(super) attached: Arc<AtomicBool>,
}

/// A channel with a consumer on it.
pub(super) struct Attached {
    channel: Arc<Channel>,
    consumer: Consumer,
}

enum Attachment {
    Attaching(BoxFuture<'static, Attached>),
    Attached(Attached),
    /// Cancelled, and the channel is gone.
    Ended,
}

pub(super) struct Lane {
    source: Source,
    commands: mpsc::Receiver<Command>,
    /// Until it is cancelled.
    deliveries: Option<mpsc::Sender<Delivery>>,
    attachment: Attachment,
    /// The number of the present channel.
    number: u64,
    sink: Arc<dyn Settle>,
    verdicts: mpsc::UnboundedReceiver<Settled>,
    verdict_sender: mpsc::UnboundedSender<Settled>,
    ledger: Ledger,
    survivors: Survivors<Delivery>,
    /// The last ones that were acked: the broker may not have seen those acks.
    recent: VecDeque<Identity>,
    /// Deliveries for which the consumer has no room yet.
    ready: VecDeque<Delivery>,
    writes: FuturesUnordered<BoxFuture<'static, lapin::Result<()>>>,
    held_since: Option<Instant>,
}

/// What comes from a channel.
#[expect(clippy::large_enum_variant, reason = "taken apart at once, and a box for each delivery costs more")]
enum Event {
    Attached(Attached),
    Delivered(lapin::message::Delivery),
    Lost(Option<lapin::Error>),
}

impl Source {
    /// Opens a channel and consumes on it.
    pub(super) async fn attach(&self, session: &Session) -> lapin::Result<Attached> {
        let channel = session.channel().await?;
        channel.basic_qos(self.prefetch, BasicQosOptions { global: false }).await?;
        let options = BasicConsumeOptions::default();
        let consumer = channel
            .basic_consume(short(&self.queue)?, short(&self.tag)?, options, FieldTable::default())
            .await?;
        self.amqp.desired.bind_anew(session, &self.queue).await?;
        Ok(Attached { channel: Arc::new(channel), consumer })
    }

    /// Attaches again, for as long as it takes.
    async fn attach_again(self) -> Attached {
        let mut pause = Pause::default();
        let mut said = None;
        let is_external = self.amqp.desired.is_external(&self.queue);
        let mut was_missing = false;
        loop {
            let most = if is_external { MISSING } else { Duration::MAX };
            sleep(pause.next(false).min(most)).await;
            let deadline = Instant::now() + Duration::from_secs(3600);
            // The link says by itself why there is no connection.
            let Ok(session) = self.amqp.link.session(0, deadline).await else { continue };
            let attached = match timeout(ANSWER, self.attach(&session)).await {
                Ok(attached) => attached,
                Err(_) => Err(std::io::Error::from(std::io::ErrorKind::TimedOut).into()),
            };
            let failed = match attached {
                Ok(attached) if was_missing => {
                    info!(queue = &*self.queue, "the queue exists now: consuming from it");
                    return attached;
                }
                Ok(attached) => {
                    debug!(queue = &*self.queue, generation = session.generation, "consuming");
                    return attached;
                }
                Err(failed) => failed,
            };
            if !session.is_alive() {
                self.amqp.link.suspect();
                continue;
            }
            if is_external && reply_code(&failed) == Some(code::NOT_FOUND) {
                if !was_missing {
                    info!(queue = &*self.queue, "waiting for the queue, which others declare");
                    was_missing = true;
                }
                // Nothing that a restart of this worker could mend.
                self.attached.store(true, Ordering::Relaxed);
                continue;
            }
            let reason = text(&failed);
            if said.as_ref() != Some(&reason) {
                error!(queue = &*self.queue, reason, "cannot consume from the queue, trying again");
                said = Some(reason);
            }
            if reply_code(&failed) == Some(code::NOT_FOUND) {
                match timeout(ANSWER, self.amqp.desired.restore_queue(&session, &self.queue)).await {
                    Ok(Ok(true)) => {
                        warn!(queue = &*self.queue, "the queue was gone and has been declared again")
                    }
                    Ok(Ok(false)) | Err(_) => {}
                    Ok(Err(failed)) => {
                        debug!(
                            queue = &*self.queue,
                            reason = text(&failed),
                            "cannot declare the queue again"
                        );
                    }
                }
            }
        }
    }
}

impl Attachment {
    /// The next event. `reads` is false while nothing more may be handed out.
    async fn next(&mut self, reads: bool) -> Event {
        match self {
            Self::Attaching(attaching) => Event::Attached(attaching.await),
            Self::Attached(attached) if reads => match attached.consumer.next().await {
                Some(Ok(delivery)) => Event::Delivered(delivery),
                Some(Err(error)) => Event::Lost(Some(error)),
                None => Event::Lost(None),
            },
            _ => std::future::pending().await,
        }
    }
}

impl Lane {
    pub(super) fn new(
        source: Source,
        attached: Option<Attached>,
        commands: mpsc::Receiver<Command>,
        deliveries: mpsc::Sender<Delivery>,
    ) -> Self {
        let (verdict_sender, verdicts) = mpsc::unbounded_channel();
        let attachment = match attached {
            Some(attached) => Attachment::Attached(attached),
            None => Attachment::Attaching(source.clone().attach_again().boxed()),
        };
        Self {
            sink: Arc::new(Sink { channel: 1, verdicts: verdict_sender.clone() }),
            source,
            commands,
            deliveries: Some(deliveries),
            attachment,
            number: 1,
            verdicts,
            verdict_sender,
            ledger: Ledger::default(),
            survivors: Survivors::new(),
            recent: VecDeque::new(),
            ready: VecDeque::new(),
            writes: FuturesUnordered::new(),
            held_since: None,
        }
    }

    pub(super) async fn run(mut self) {
        let mut verdicts = Vec::new();
        loop {
            self.hand_out();
            // Whatever else has come in by now goes into the same ack.
            if self.verdicts.is_empty() {
                self.write_acks(false);
            }
            if self.is_finished() {
                break;
            }
            let reads = self.deliveries.is_some() && self.ready.is_empty();
            let is_full = !self.ready.is_empty();
            let straggler = self.held_since.map(|since| since + STRAGGLER);
            tokio::select! {
                biased;
                Some(command) = self.commands.recv() => self.obey(command).await,
                () = dropped(&self.deliveries) => self.cancel().await,
                _ = self.verdicts.recv_many(&mut verdicts, BATCH) => {
                    verdicts.drain(..).for_each(|settled| self.settle(settled));
                }
                Some(written) = self.writes.next(), if !self.writes.is_empty() => {
                    if let Err(error) = written {
                        self.lost(Some(error));
                    }
                }
                () = room(&self.deliveries), if is_full => {}
                event = self.attachment.next(reads) => self.take(event),
                // While a write is on its way no other can begin: asking would only turn in a circle.
                () = at(straggler), if straggler.is_some() && self.writes.is_empty() => self.write_acks(true),
            }
        }
        self.part().await;
    }

    fn is_finished(&self) -> bool {
        self.deliveries.is_none()
            && match self.attachment {
                Attachment::Attached(_) => {
                    self.ledger.out() == 0 && self.ledger.held() == 0 && self.writes.is_empty()
                }
                Attachment::Attaching(_) | Attachment::Ended => true,
            }
    }

    /// The broker answers a close after it has taken all acks before it.
    async fn part(self) {
        if let Attachment::Attached(attached) = self.attachment {
            let _ = timeout(ANSWER, attached.channel.close(200, "done".into())).await;
        }
    }

    fn take(&mut self, event: Event) {
        match event {
            Event::Attached(attached) => {
                self.number += 1;
                self.source.attached.store(true, Ordering::Relaxed);
                self.sink = Arc::new(Sink { channel: self.number, verdicts: self.verdict_sender.clone() });
                self.attachment = Attachment::Attached(attached);
            }
            Event::Delivered(delivery) => {
                self.delivered(delivery);
                for _ in 1..BATCH {
                    let Attachment::Attached(attached) = &mut self.attachment else { break };
                    match attached.consumer.next().now_or_never() {
                        Some(Some(Ok(delivery))) => self.delivered(delivery),
                        Some(Some(Err(error))) => return self.lost(Some(error)),
                        Some(None) => return self.lost(None),
                        None => break,
                    }
                }
            }
            Event::Lost(error) => self.lost(error),
        }
    }

    fn delivered(&mut self, delivery: lapin::message::Delivery) {
        let tag = delivery.delivery_tag;
        let settlement = Settlement::new(tag, Arc::clone(&self.sink));
        let delivery = to_delivery(&self.source.queue, delivery, settlement);
        let identity = identity(&delivery);
        if let Some(identity) =
            identity.as_ref().filter(|_| delivery.redelivered && !self.survivors.is_empty())
        {
            match self.survivors.ask(identity) {
                Again::Run => {}
                Again::Park => {
                    debug!(id = &*identity.id, "the message came again while it runs: it waits for that");
                    self.ledger.delivered(tag, None);
                    return self.survivors.park(identity, delivery);
                }
                Again::Finished => {
                    debug!(id = &*identity.id, "the message came again after it was done: it is acked");
                    // This ack may be lost too, and then it comes once more.
                    self.ledger.delivered(tag, Some(identity.clone()));
                    return delivery.ack();
                }
            }
        }
        self.ledger.delivered(tag, identity);
        self.ready.push_back(delivery);
    }

    fn hand_out(&mut self) {
        let Some(deliveries) = &self.deliveries else { return };
        while let Some(delivery) = self.ready.pop_front() {
            match deliveries.try_send(delivery) {
                Ok(()) => {}
                Err(mpsc::error::TrySendError::Full(delivery)) => {
                    self.ready.push_front(delivery);
                    break;
                }
                // The consumer was dropped; so is the delivery, which goes back.
                Err(mpsc::error::TrySendError::Closed(_)) => {}
            }
        }
    }

    fn settle(&mut self, (channel, tag, verdict): Settled) {
        if channel == self.number && matches!(self.attachment, Attachment::Attached(_)) {
            match verdict {
                Verdict::Ack => {
                    self.ledger.done(tag);
                }
                Verdict::Replaced => {
                    self.ledger.replaced(tag);
                }
                Verdict::Requeue => {
                    if self.ledger.given_back(tag) {
                        self.write_nacks(vec![tag]);
                    }
                }
            }
            return;
        }
        if let Some(copy) = self.survivors.ended(channel, tag, verdict == Verdict::Ack) {
            // One that is replaced is not to be remembered: what takes its place has the same identity, and is to run.
            if let Some(identity) = identity(&copy).filter(|_| verdict != Verdict::Replaced) {
                self.ledger.identify(copy.settlement.tag(), identity);
            }
            match verdict {
                Verdict::Ack | Verdict::Replaced => copy.settlement.settle(verdict),
                // Dropped, and so given back, when nobody takes it.
                Verdict::Requeue if self.deliveries.is_none() => {}
                Verdict::Requeue => self.ready.push_back(copy),
            }
        }
    }

    /// Writes the acks that are due: the settled beginning always, the rest when it has waited long enough, or is
    /// a notable part of what may be out at once.
    fn write_acks(&mut self, all: bool) {
        // While a write is on its way, verdicts gather for the next.
        if !self.writes.is_empty() {
            return;
        }
        let Attachment::Attached(Attached { channel, .. }) = &self.attachment else { return };
        let most = usize::from(self.source.prefetch);
        let recent = &mut self.recent;
        let first = self.ledger.take_prefix(|identity| {
            if recent.len() >= most {
                recent.pop_front();
            }
            recent.push_back(identity);
        });
        let is_due = all
            || self.ledger.held() * 8 >= most
            || self.held_since.is_some_and(|since| since.elapsed() >= STRAGGLER);
        let rest = if is_due { self.ledger.take_rest() } else { Vec::new() };
        self.held_since = match self.ledger.held() {
            0 => None,
            _ => self.held_since.or_else(|| Some(Instant::now())),
        };
        let acks: Vec<Ack> = first.into_iter().chain(rest).collect();
        if !acks.is_empty() {
            let channel = Arc::clone(channel);
            self.writes.push(
                async move {
                    let acks = acks
                        .iter()
                        .map(|ack| channel.basic_ack(ack.tag, BasicAckOptions { multiple: ack.multiple }));
                    join_all(acks).await.into_iter().collect()
                }
                .boxed(),
            );
        }
    }

    fn write_nacks(&mut self, tags: Vec<u64>) {
        let Attachment::Attached(Attached { channel, .. }) = &self.attachment else { return };
        let channel = Arc::clone(channel);
        self.writes.push(
            async move {
                let options = BasicNackOptions { multiple: false, requeue: true };
                join_all(tags.iter().map(|tag| channel.basic_nack(*tag, options))).await.into_iter().collect()
            }
            .boxed(),
        );
    }

    /// The channel is gone, and with it the meaning of its tags.
    fn lost(&mut self, why: Option<lapin::Error>) {
        let Attachment::Attached(attached) = std::mem::replace(&mut self.attachment, Attachment::Ended)
        else {
            return;
        };
        self.source.attached.store(false, Ordering::Relaxed);
        let is_wanted = self.deliveries.is_some();
        let queue = &*self.source.queue;
        match why {
            None if is_wanted && self.source.amqp.desired.is_external(queue) => {
                info!(queue, "the broker cancelled the consumer: the queue was deleted by its owner");
            }
            None if is_wanted => error!(queue, "the broker cancelled the consumer: is the queue deleted?"),
            Some(error) if reply_code(&error).is_some() => {
                error!(queue, reason = text(&error), "the broker closed the consumer's channel");
            }
            _ => debug!(queue, "the consumer's channel is gone"),
        }
        self.source.amqp.link.suspect();
        drop(attached);
        self.writes = FuturesUnordered::new();
        self.held_since = None;
        let (out, done) = self.ledger.take_all();
        self.survivors.lost(self.number, out, done.into_iter().chain(self.recent.drain(..)));
        if is_wanted {
            self.attachment = Attachment::Attaching(self.source.clone().attach_again().boxed());
        }
    }

    async fn obey(&mut self, command: Command) {
        let reply = match command {
            Command::Cancel(reply) => {
                self.cancel().await;
                reply
            }
            Command::Flush(reply) => {
                self.flush().await;
                reply
            }
        };
        // An error means that nobody waits any more.
        let _ = reply.send(());
    }

    async fn cancel(&mut self) {
        if self.deliveries.take().is_none() {
            return;
        }
        // They go back by being dropped.
        self.ready.clear();
        drop(self.survivors.take_parked());
        let Attachment::Attached(attached) = &mut self.attachment else {
            self.attachment = Attachment::Ended;
            return;
        };
        let tag = attached.consumer.tag();
        let cancelled = timeout(ANSWER, attached.channel.basic_cancel(tag, BasicCancelOptions::default()));
        if !matches!(cancelled.await, Ok(Ok(()))) {
            return self.lost(None);
        }
        // What came before the answer and was not handed out.
        let mut tags = Vec::new();
        while let Ok(Some(Ok(delivery))) = timeout(ANSWER, attached.consumer.next()).await {
            tags.push(delivery.delivery_tag);
        }
        for tag in &tags {
            self.ledger.delivered(*tag, None);
            self.ledger.given_back(*tag);
        }
        if !tags.is_empty() {
            self.write_nacks(tags);
        }
    }

    async fn flush(&mut self) {
        while let Ok(settled) = self.verdicts.try_recv() {
            self.settle(settled);
        }
        // Once for the write that is on its way, once for the acks that waited for it.
        for _ in 0..2 {
            while let Ok(Some(written)) = timeout(ANSWER, self.writes.next()).await {
                if let Err(error) = written {
                    return self.lost(Some(error));
                }
            }
            self.write_acks(true);
        }
        while let Ok(Some(Ok(()))) = timeout(ANSWER, self.writes.next()).await {}
        if let Attachment::Attached(Attached { channel, .. }) = &self.attachment {
            // Any answer says that the broker has taken all that was written before the question.
            let asked = channel.basic_qos(self.source.prefetch, BasicQosOptions { global: false });
            let _ = timeout(ANSWER, asked).await;
        }
    }
}

/// Only task ids are meant to be unique; a plain message without one may run twice.
fn identity(delivery: &Delivery) -> Option<Identity> {
    let headers = &delivery.message.headers;
    headers.id().map(|id| Identity { id: id.into(), retries: headers.retries() })
}

/// Resolves when the consumer was dropped.
async fn dropped(deliveries: &Option<mpsc::Sender<Delivery>>) {
    match deliveries {
        Some(deliveries) => deliveries.closed().await,
        None => std::future::pending().await,
    }
}

/// Resolves when the consumer has room for one more.
async fn room(deliveries: &Option<mpsc::Sender<Delivery>>) {
    match deliveries {
        Some(deliveries) => drop(deliveries.reserve().await),
        None => std::future::pending().await,
    }
}

async fn at(instant: Option<Instant>) {
    match instant {
        Some(instant) => sleep_until(instant).await,
        None => std::future::pending().await,
    }
}
