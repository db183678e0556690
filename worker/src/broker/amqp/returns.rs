//! Writes the verdicts on batches, and requeues the rest of each batch, one batch after the other.
//!
//! While a quorum queue has many acks of a channel to write, further ones are held back in that channel, and they are
//! lost if it is closed meanwhile: the messages would be redelivered. So acks are kept few, and a channel with many is
//! closed only once the queue is known to have them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::future::join_all;
use lapin::options::{BasicAckOptions, BasicNackOptions, BasicQosOptions, QueueDeclareOptions};
use lapin::types::FieldTable;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::task::TaskTracker;
use uuid::Uuid;

use super::batch_acks::BatchAcks;
use crate::connection::amqp::channel::{ANSWER, OpenChannel, Scratch};
use crate::connection::amqp::declare::short;
use crate::connection::amqp::link::Session;
use crate::connection::amqp::subscription::{Ack, Event, Source};

/// How many verdicts are taken together.
const TOGETHER: usize = 1024;
/// How long settled messages wait for those before them, to be acked with them.
const STRAGGLER: Duration = Duration::from_millis(200);
/// How long to wait until requeued messages are seen in their queue.
const SEEN: Duration = Duration::from_millis(500);
/// The same while the queue reports no messages.
const BUSY: Duration = Duration::from_secs(5);

/// A step for a batch, which is identified by its number.
pub(super) enum Step {
    Open { number: u64, channel: Box<OpenChannel>, queue: Arc<str> },
    Ack { number: u64, tag: u64 },
    Reject { number: u64, tag: u64 },
    Close { number: u64, requeued: usize },
    Flush(oneshot::Sender<()>),
}

/// The channels of batches.
pub(super) struct Returns {
    open: BTreeMap<u64, Open>,
    /// Batches that are settled but not closed yet.
    settled: Vec<(Open, usize)>,
    /// How many settled batches still have messages to requeue; shared with [`Batches`](super::batches::Batches).
    returning: Arc<AtomicUsize>,
    /// False when another consumer takes requeued messages as soon as they are in the queue.
    is_seen: bool,
    /// A channel for inspecting queues, and the generation of its connection.
    looking: Option<(u64, Scratch)>,
    /// Tasks that close channels with nothing to requeue; once one is closed, the broker has its acks.
    closing: TaskTracker,
}

struct Open {
    channel: OpenChannel,
    queue: Arc<str>,
    acks: BatchAcks,
}

impl Returns {
    pub(super) fn new(returning: Arc<AtomicUsize>) -> Self {
        Self {
            open: BTreeMap::new(),
            settled: Vec::new(),
            returning,
            is_seen: true,
            looking: None,
            closing: TaskTracker::new(),
        }
    }

    /// Runs until no further steps can arrive.
    pub(super) async fn run(mut self, mut inbox: mpsc::UnboundedReceiver<Step>) {
        let mut steps = Vec::new();
        loop {
            let is_idle = self.settled.is_empty() && self.open.values().all(|open| open.acks.is_empty());
            let came = async { Ok(inbox.recv_many(&mut steps, TOGETHER).await) };
            match if is_idle { came.await } else { timeout(STRAGGLER, came).await.and_then(|came| came) } {
                Ok(0) => return,
                Ok(_) => {}
                // All batches are settled, and no flush was requested.
                Err(_) if self.open.is_empty() => self.give_back().await,
                Err(_) => {}
            }
            for step in steps.drain(..) {
                self.step(step).await;
            }
            for open in self.open.values_mut() {
                let due = open.acks.due(Instant::now().into_std(), STRAGGLER);
                open.write(due).await;
            }
        }
    }

    async fn step(&mut self, step: Step) {
        match step {
            Step::Open { number, channel, queue } => {
                self.open.insert(number, Open { channel: *channel, queue, acks: BatchAcks::default() });
            }
            Step::Ack { number, tag } => {
                if let Some(open) = self.open.get_mut(&number) {
                    open.acks.done(tag);
                }
            }
            Step::Reject { number, tag } => {
                if let Some(open) = self.open.get_mut(&number) {
                    let options = BasicNackOptions { multiple: false, requeue: false };
                    let _ = timeout(ANSWER, open.channel.basic_nack(tag, options)).await;
                }
            }
            Step::Close { number, requeued } => {
                let Some(mut open) = self.open.remove(&number) else { return };
                let rest = open.acks.all();
                open.write(rest).await;
                if requeued == 0 && !open.acks.are_many() {
                    self.closing.spawn(open.channel.close());
                } else {
                    self.settled.push((open, requeued));
                }
            }
            Step::Flush(reply) => {
                for open in self.open.values_mut() {
                    let all = open.acks.all();
                    open.write(all).await;
                }
                self.give_back().await;
                self.closing.close();
                // Bounded: a channel is closed in time, or its connection is cut.
                self.closing.wait().await;
                self.closing.reopen();
                self.is_seen = true;
                // An error means that the caller has given up.
                let _ = reply.send(());
            }
        }
    }

    /// Closes the channels of all settled batches, which requeues what is unacked on them.
    async fn give_back(&mut self) {
        let settled = std::mem::take(&mut self.settled);
        let last = take_acks(&settled).await;
        let mut expected = None;
        for (open, requeued) in settled {
            self.close(open, requeued, &mut expected).await;
            if requeued > 0 {
                self.returning.fetch_sub(1, Ordering::AcqRel);
            }
        }
        for channel in last {
            channel.close().await;
        }
    }

    /// Closes the channel of a batch. `expected` is the queue of the batches before it, and how many messages it should
    /// have by now.
    ///
    /// RabbitMQ confirms the close before a quorum queue has noticed it. The next batch must be requeued after this
    /// one, so this waits for the queue, as far as that can be seen: other consumers may take requeued messages at
    /// once.
    async fn close(&mut self, open: Open, requeued: usize, expected: &mut Option<(Arc<str>, u64)>) {
        let Open { channel, queue, .. } = open;
        let session = channel.session().clone();
        let looks = requeued > 0 && self.is_seen && session.is_alive();
        if looks && expected.as_ref().is_none_or(|(before, _)| *before != queue) {
            *expected =
                self.ready(&session, &queue).await.map(|ready| (Arc::clone(&queue), u64::from(ready)));
        }
        channel.close().await;
        if let Some((_, expected)) = expected
            && looks
        {
            *expected += requeued as u64;
            self.is_seen = self.has(&session, &queue, *expected).await;
        }
    }

    /// Waits until a queue has this many messages. Returns `false` if it seems that it will not have them.
    async fn has(&mut self, session: &Session, queue: &str, expected: u64) -> bool {
        let since = Instant::now();
        while let Some(ready) = self.ready(session, queue).await {
            if u64::from(ready) >= expected {
                return true;
            }
            // A quorum queue that is busy for a quarter of a second reports that it is empty.
            if since.elapsed() > if ready == 0 { BUSY } else { SEEN } {
                return false;
            }
            sleep(Duration::from_millis(1)).await;
        }
        false
    }

    /// How many messages a queue has, if the broker replies in time.
    async fn ready(&mut self, session: &Session, queue: &str) -> Option<u32> {
        let name = short(queue).ok()?;
        let passive = QueueDeclareOptions { passive: true, ..Default::default() };
        let (_, scratch) = match &mut self.looking {
            Some(looking) if looking.0 == session.generation => looking,
            looking => looking.insert((session.generation, Scratch::new(session.clone()))),
        };
        let asked =
            scratch.run(async |channel| channel.queue_declare(name, passive, FieldTable::default()).await);
        let queue = timeout(ANSWER, asked).await.ok()?.ok()?;
        Some(queue.message_count())
    }
}

/// Waits until the queues have the acks of all these channels. Returns channels that must be closed last.
///
/// A channel that has received all its acks may hold some back until the queue has the others. A consumer that is
/// requested after that starts only when the queue has them, and the channel knows it once it has replied to another
/// request. The consumer may be handed a message that belongs behind all others, so its channel is closed last.
async fn take_acks(settled: &[(Open, usize)]) -> Vec<OpenChannel> {
    let many: Vec<&Open> = settled.iter().map(|(open, _)| open).filter(|open| open.acks.are_many()).collect();
    let Some(session) = many.iter().map(|open| open.channel.session()).find(|session| session.is_alive())
    else {
        return Vec::new();
    };
    let ask = async || join_all(many.iter().map(|open| open.ask())).await;
    ask().await;
    let queues: BTreeSet<&Arc<str>> = many.iter().map(|open| &open.queue).collect();
    let mut last = Vec::new();
    for queue in queues {
        let tag = format!("walk.{}", Uuid::new_v4().simple());
        let source = Source { queue: Arc::clone(queue), prefetch: 1, tag, arguments: FieldTable::default() };
        // Without a reply, nothing more can be done.
        if let Ok(Ok(mut subscribed)) = timeout(ANSWER, source.subscribe(session)).await {
            subscribed.cancel();
            let ended =
                async { while !matches!(subscribed.next(true).await, Event::Ended | Event::Lost(_)) {} };
            let _ = timeout(ANSWER, ended).await;
            last.push(subscribed.into_channel());
        }
    }
    ask().await;
    last
}

impl Open {
    async fn write(&self, acks: Vec<Ack>) {
        if acks.is_empty() {
            return;
        }
        let ack = |ack: Ack| self.channel.basic_ack(ack.tag, BasicAckOptions { multiple: ack.multiple });
        // If an ack does not arrive, the message returns to the queue.
        let _ = timeout(ANSWER, join_all(acks.into_iter().map(ack))).await;
    }

    /// Waits until the channel has processed everything that was written on it.
    async fn ask(&self) {
        // The reply to any request will do.
        let asked = self.channel.basic_qos(1, BasicQosOptions { global: false });
        let _ = timeout(ANSWER, asked).await;
    }
}
