//! Writes the verdicts on batches, and requeues what is left of each, one after the other.
//!
//! A quorum queue that has many acks of a channel to write keeps further ones back in that channel, and they are lost if it
//! is closed meanwhile: the messages would come again. So there are few acks, and a channel with many is closed only when
//! the queue is known to have them.

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

use super::written::Written;
use crate::connection::amqp::channel::{ANSWER, OpenChannel, Scratch};
use crate::connection::amqp::declare::short;
use crate::connection::amqp::link::Session;
use crate::connection::amqp::subscription::{Ack, Event, Source};

/// How many verdicts are taken together.
const TOGETHER: usize = 1024;
/// How long settled messages wait for those before them, to be acked with them.
const STRAGGLER: Duration = Duration::from_millis(200);
/// How long to wait until what was requeued is seen in its queue.
const SEEN: Duration = Duration::from_millis(500);
/// The same while the queue says nothing of its messages.
const BUSY: Duration = Duration::from_secs(5);

/// What is to be done with a batch, named by its number.
pub(super) enum Step {
    Open { number: u64, channel: Box<OpenChannel>, queue: Arc<str> },
    Ack { number: u64, tag: u64 },
    Reject { number: u64, tag: u64 },
    Close { number: u64, given_back: usize },
    Flush(oneshot::Sender<()>),
}

/// The channels of batches.
pub(super) struct Returns {
    open: BTreeMap<u64, Open>,
    /// All settled, but not closed yet.
    settled: Vec<(Open, usize)>,
    /// How many batches others know to be on their way back.
    returning: Arc<AtomicUsize>,
    /// False when somebody else takes what is requeued as soon as it is there.
    is_seen: bool,
    /// For looking at queues, and the number of its connection.
    looking: Option<(u64, Scratch)>,
    /// Channels of which nothing goes back; when one is closed, the broker has its acks.
    closing: TaskTracker,
}

struct Open {
    channel: OpenChannel,
    queue: Arc<str>,
    acks: Written,
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

    /// Runs until nobody can settle anything any more.
    pub(super) async fn run(mut self, mut inbox: mpsc::UnboundedReceiver<Step>) {
        let mut steps = Vec::new();
        loop {
            let is_idle = self.settled.is_empty() && self.open.values().all(|open| open.acks.is_empty());
            let came = async { Ok(inbox.recv_many(&mut steps, TOGETHER).await) };
            match if is_idle { came.await } else { timeout(STRAGGLER, came).await.and_then(|came| came) } {
                Ok(0) => return,
                Ok(_) => {}
                // Nobody has waited for the end of a walk.
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
                self.open.insert(number, Open { channel: *channel, queue, acks: Written::default() });
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
            Step::Close { number, given_back } => {
                let Some(mut open) = self.open.remove(&number) else { return };
                let rest = open.acks.all();
                open.write(rest).await;
                if given_back == 0 && !open.acks.are_many() {
                    self.closing.spawn(open.channel.close());
                } else {
                    self.settled.push((open, given_back));
                }
            }
            Step::Flush(reply) => {
                for open in self.open.values_mut() {
                    let all = open.acks.all();
                    open.write(all).await;
                }
                self.give_back().await;
                self.closing.close();
                // As long as it takes to close a channel, or to end a connection that does not.
                self.closing.wait().await;
                self.closing.reopen();
                self.is_seen = true;
                // An error means that nobody waits any more.
                let _ = reply.send(());
            }
        }
    }

    /// Closes the channels of all batches that are settled: what is unacked on them goes back.
    async fn give_back(&mut self) {
        let settled = std::mem::take(&mut self.settled);
        let last = take_acks(&settled).await;
        let mut expected = None;
        for (open, given_back) in settled {
            self.close(open, given_back, &mut expected).await;
            if given_back > 0 {
                self.returning.fetch_sub(1, Ordering::AcqRel);
            }
        }
        for channel in last {
            channel.close().await;
        }
    }

    /// Closes the channel of a batch. `expected` is the queue of those before it, and how many messages it has.
    ///
    /// RabbitMQ confirms that before a quorum queue has noticed. The next batch must come after it, so it is waited for,
    /// as far as it can be seen: others may take what is requeued at once.
    async fn close(&mut self, open: Open, given_back: usize, expected: &mut Option<(Arc<str>, u64)>) {
        let Open { channel, queue, .. } = open;
        let session = channel.session().clone();
        let looks = given_back > 0 && self.is_seen && session.is_alive();
        if looks && expected.as_ref().is_none_or(|(before, _)| *before != queue) {
            *expected =
                self.ready(&session, &queue).await.map(|ready| (Arc::clone(&queue), u64::from(ready)));
        }
        channel.close().await;
        if let Some((_, expected)) = expected
            && looks
        {
            *expected += given_back as u64;
            self.is_seen = self.has(&session, &queue, *expected).await;
        }
    }

    /// Waits until a queue has so many messages. False if it seems that it will not have them.
    async fn has(&mut self, session: &Session, queue: &str, expected: u64) -> bool {
        let since = Instant::now();
        while let Some(ready) = self.ready(session, queue).await {
            if u64::from(ready) >= expected {
                return true;
            }
            // A quorum queue that is busy for a quarter of a second says that it is empty.
            if since.elapsed() > if ready == 0 { BUSY } else { SEEN } {
                return false;
            }
            sleep(Duration::from_millis(1)).await;
        }
        false
    }

    /// How many messages a queue has, if the broker tells in time.
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

/// Resolves when the queues have the acks of all these channels. The channels that are returned are to be closed last.
///
/// A channel that has taken all its acks may keep some back until the queue has the others; a consumer that begins after
/// that begins when the queue has them, and when the channel has taken another request, it has heard of it. The consumer
/// may be handed a message, which is behind all others.
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
        // Without an answer there is nothing more to be done.
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
        // An ack that does not arrive is void: the message is in the queue again.
        let _ = timeout(ANSWER, join_all(acks.into_iter().map(ack))).await;
    }

    /// Resolves when the channel has taken all that was written on it.
    async fn ask(&self) {
        // Any answer will do.
        let asked = self.channel.basic_qos(1, BasicQosOptions { global: false });
        let _ = timeout(ANSWER, asked).await;
    }
}
