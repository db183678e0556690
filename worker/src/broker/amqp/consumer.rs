//! A consumer: one lane for each of its queues.

use std::sync::atomic::{AtomicU16, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use chrono::{DateTime, Utc};
use futures_util::FutureExt;
use futures_util::future::{BoxFuture, join_all};
use lapin::types::FieldTable;
use tokio::sync::mpsc;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use super::attachment::LaneStart;
use super::check_queue;
use super::command::{LaneCommand, Reply};
use super::lane::Lane;
use super::refill::{shares, until_left};
use super::status::LaneStatus;
use crate::broker::{Consumer, ConsumerControl, Delivery, Subscription};
use crate::connection::amqp::link::lock;
use crate::connection::amqp::subscription::Source;
use crate::connection::amqp::{Amqp, runtime};
use crate::error::{Error, Result};

/// Timeout for a lane's reply. A lane replies within its own, shorter deadline, unless the I/O thread is blocked.
const UNANSWERED: Duration = Duration::from_secs(8);

/// The most deliveries that may wait for the worker: more than any prefetch, which is the actual bound.
const MOST: usize = 1 << 20;

/// The handle to the lanes of one consumer.
pub(super) struct AmqpConsumerControl {
    amqp: Arc<Amqp>,
    prefetch: AtomicU16,
    name: String,
    lanes: Mutex<Lanes>,
}

/// The lanes of one consumer.
struct Lanes {
    /// Includes lanes of removed queues, until all their deliveries are settled.
    all: Vec<LaneHandle>,
    /// For new lanes. `None` after the consumer was cancelled: its stream ends with the lanes.
    consumer: Option<mpsc::Sender<Delivery>>,
}

/// When the lanes with the new prefetch start.
enum Takeover {
    AtOnce,
    /// As the deliveries of the old lanes are settled, once these lanes are retired.
    AsSettled(CancellationToken),
}

/// A handle to a lane.
#[derive(Clone)]
struct LaneHandle {
    queue: Arc<str>,
    commands: mpsc::Sender<LaneCommand>,
    status: Arc<LaneStatus>,
    /// False once its queue was removed, or another lane has replaced it.
    is_wanted: bool,
}

impl AmqpConsumerControl {
    /// True when nothing more is delivered and everything is settled.
    pub(super) fn is_over(&self) -> bool {
        let lanes = lock(&self.lanes);
        let is_open = lanes.consumer.as_ref().is_some_and(|consumer| !consumer.is_closed());
        !is_open && lanes.all.iter().all(|lane| lane.commands.is_closed())
    }

    fn lanes(&self) -> Vec<LaneHandle> {
        lock(&self.lanes).all.clone()
    }

    /// Starts to consume from new queues, and returns the lanes of the queues that are no longer wanted.
    fn change(&self, queues: &[String]) -> Vec<LaneHandle> {
        let mut lanes = lock(&self.lanes);
        let Lanes { all, consumer } = &mut *lanes;
        let Some(consumer) = consumer else { return Vec::new() };
        all.retain(|lane| !lane.commands.is_closed());
        for queue in queues {
            if !all.iter().any(|lane| lane.is_wanted && *lane.queue == **queue) {
                all.push(self.open_new_lane(queue, consumer.clone()));
            }
        }
        let is_left_out =
            |lane: &&mut LaneHandle| lane.is_wanted && !queues.iter().any(|queue| **queue == *lane.queue);
        let left_out = all.iter_mut().filter(is_left_out).map(|lane| {
            lane.is_wanted = false;
            lane.clone()
        });
        left_out.collect()
    }

    /// Opens new lanes for each queue, and returns those that they replace: RabbitMQ cannot change the prefetch of an
    /// existing consumer.
    fn replace_lanes(&self, takeover: &Takeover) -> Vec<LaneHandle> {
        let mut lanes = lock(&self.lanes);
        let Lanes { all, consumer } = &mut *lanes;
        let Some(consumer) = consumer else { return Vec::new() };
        all.retain(|lane| !lane.commands.is_closed());
        let mut replaced = Vec::new();
        for lane in all.iter_mut().filter(|lane| lane.is_wanted) {
            lane.is_wanted = false;
            replaced.push(lane.clone());
        }
        let mut queues: Vec<Arc<str>> = replaced.iter().map(|lane| Arc::clone(&lane.queue)).collect();
        queues.sort_unstable();
        queues.dedup();
        for queue in queues {
            match takeover {
                Takeover::AtOnce => all.push(self.open_new_lane(&queue, consumer.clone())),
                Takeover::AsSettled(retired) => {
                    // Includes lanes that were replaced before.
                    let old = all.iter().filter(|lane| lane.queue == queue);
                    let old: Vec<Arc<LaneStatus>> = old.map(|lane| Arc::clone(&lane.status)).collect();
                    all.extend(shares(self.prefetch.load(Ordering::Relaxed)).map(|share| {
                        let left = until_left(old.clone(), share.left);
                        let wait = retired.clone().cancelled_owned().then(|()| left).boxed();
                        let source = Source { prefetch: share.prefetch, ..self.source(&queue) };
                        self.open_lane(source, LaneStart::After(wait), consumer.clone())
                    }));
                }
            }
        }
        replaced
    }

    fn source(&self, queue: &str) -> Source {
        Source {
            queue: queue.into(),
            prefetch: self.prefetch.load(Ordering::Relaxed),
            tag: consumer_tag(&self.name),
            arguments: FieldTable::default(),
        }
    }

    /// Starts a lane that subscribes at once.
    fn open_new_lane(&self, queue: &str, consumer: mpsc::Sender<Delivery>) -> LaneHandle {
        let (lane, handle) = self.lane(self.source(queue), LaneStart::Attaching, consumer);
        handle.status.is_attached.store(false, Ordering::Relaxed);
        self.amqp.spawn(lane.run());
        handle
    }

    /// Starts a lane.
    fn open_lane(
        &self,
        source: Source,
        beginning: LaneStart,
        consumer: mpsc::Sender<Delivery>,
    ) -> LaneHandle {
        let (lane, handle) = self.lane(source, beginning, consumer);
        self.amqp.spawn(lane.run());
        handle
    }

    fn lane(
        &self,
        source: Source,
        beginning: LaneStart,
        consumer: mpsc::Sender<Delivery>,
    ) -> (Lane, LaneHandle) {
        let (sender, commands) = mpsc::channel(8);
        let (queue, status) = (Arc::clone(&source.queue), Arc::<LaneStatus>::default());
        let lane =
            Lane::new(Arc::clone(&self.amqp), source, beginning, Arc::clone(&status), commands, consumer);
        (lane, LaneHandle { queue, commands: sender, status, is_wanted: true })
    }
}

async fn ask(lanes: Vec<LaneHandle>, command: impl Fn(Reply) -> LaneCommand) {
    let asked = join_all(lanes.iter().map(|LaneHandle { commands, .. }| {
        let (reply, answer) = oneshot::channel();
        let command = command(reply);
        async move {
            // A lane that has ended has nothing left to do.
            if commands.send(command).await.is_ok() {
                runtime::answer(answer, commands.closed()).await;
            }
        }
    }));
    let _ = runtime::timeout(UNANSWERED, asked).await;
}

impl ConsumerControl for AmqpConsumerControl {
    fn cancel(&self) -> BoxFuture<'_, ()> {
        let lanes = {
            let mut lanes = lock(&self.lanes);
            lanes.consumer = None;
            lanes.all.clone()
        };
        ask(lanes, LaneCommand::Cancel).boxed()
    }

    fn set_queues(&self, queues: Vec<String>) -> BoxFuture<'_, Result<()>> {
        async move {
            queues.iter().try_for_each(|queue| check_queue(queue))?;
            ask(self.change(&queues), LaneCommand::Cancel).await;
            Ok(())
        }
        .boxed()
    }

    fn set_prefetch(&self, prefetch: u16) -> BoxFuture<'_, Result<()>> {
        async move {
            let (before, after) = (self.prefetch.swap(prefetch.max(1), Ordering::Relaxed), prefetch.max(1));
            // Fires when the old lanes get no more deliveries, or the caller has stopped waiting for that.
            let retired = CancellationToken::new();
            let _retired = retired.clone().drop_guard();
            let takeover = if after > before { Takeover::AtOnce } else { Takeover::AsSettled(retired) };
            if after != before {
                ask(self.replace_lanes(&takeover), LaneCommand::Cancel).await;
            }
            Ok(())
        }
        .boxed()
    }

    fn flush(&self) -> BoxFuture<'_, ()> {
        ask(self.lanes(), LaneCommand::Flush).boxed()
    }

    fn is_attached(&self) -> bool {
        let is_attached =
            |lane: &LaneHandle| !lane.is_wanted || lane.status.is_attached.load(Ordering::Relaxed);
        self.amqp.link.is_up() && lock(&self.lanes).all.iter().all(is_attached)
    }

    fn unsettled(&self) -> Option<usize> {
        Some(lock(&self.lanes).all.iter().map(|lane| *lane.status.unsettled.borrow()).sum())
    }

    fn loss(&self) -> Option<(DateTime<Utc>, String)> {
        let stalled = Amqp::stalled()?;
        let reason = format!(
            "the I/O thread for RabbitMQ has been blocked for {} s: only a restart helps",
            stalled.as_secs()
        );
        Some((Utc::now() - stalled, reason))
    }
}

/// Consumes from all queues, or fails and consumes from none.
pub(super) async fn open(
    amqp: &Arc<Amqp>,
    subscription: Subscription,
) -> Result<(Consumer, Arc<AmqpConsumerControl>)> {
    let Subscription { queues, prefetch, name } = subscription;
    if prefetch == 0 {
        // To the broker, zero means "without a limit".
        return Err(Error::config("a prefetch of 0 would reserve the whole queue: give at least 1"));
    }
    queues.iter().try_for_each(|queue| check_queue(queue))?;
    let (consumer, stream) = mpsc::channel(MOST);
    let lanes = Mutex::new(Lanes { all: Vec::new(), consumer: Some(consumer.clone()) });
    let control =
        Arc::new(AmqpConsumerControl { amqp: Arc::clone(amqp), prefetch: prefetch.into(), name, lanes });
    let mut opened = Vec::new();
    for queue in &queues {
        let source = control.source(queue);
        // An external queue may not exist yet, and the other queues must not wait for it.
        let subscribed = if amqp.desired.is_external(queue) {
            None
        } else {
            let what = format!("consume from queue `{queue}`");
            let subscribe = async |session| source.subscribe_bound(amqp, &session).await;
            Some(amqp.link.request(&what, amqp.limit, subscribe).await?)
        };
        opened.push((source, subscribed));
    }
    for (source, subscribed) in opened {
        let beginning = subscribed.map_or(LaneStart::Attaching, LaneStart::Subscribed);
        let lane = control.open_lane(source, beginning, consumer.clone());
        lock(&control.lanes).all.push(lane);
    }
    Ok((Consumer::new(stream, Arc::clone(&control) as Arc<dyn ConsumerControl>), control))
}

/// The consumer's name, by which operators recognize it, and a number. Every delivery carries the tag, so it is short; it only
/// has to be unique in its channel.
fn consumer_tag(name: &str) -> String {
    static COUNT: AtomicU64 = AtomicU64::new(1);
    let mut end = name.len().min(200);
    while !name.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}.{}", &name[..end], COUNT.fetch_add(1, Ordering::Relaxed))
}
