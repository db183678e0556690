//! A consumer: one lane for each of its queues.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use chrono::{DateTime, Utc};
use futures_util::FutureExt;
use futures_util::future::{BoxFuture, join_all};
use lapin::types::FieldTable;
use tokio::sync::mpsc;
use tokio::sync::oneshot;
use uuid::Uuid;

use super::check_queue;
use super::command::{LaneCommand, Reply};
use super::lane::{Gauge, Lane};
use crate::broker::{Consumer, ConsumerControl, Subscription};
use crate::connection::amqp::subscription::Source;
use crate::connection::amqp::{Amqp, runtime};
use crate::error::{Error, Result};

/// A lane answers within its own deadline, unless the I/O thread stands still.
const UNANSWERED: Duration = Duration::from_secs(8);

/// The handle to the lanes of one consumer.
pub(super) struct AmqpConsumerControl {
    amqp: Arc<Amqp>,
    lanes: Vec<mpsc::Sender<LaneCommand>>,
    gauges: Vec<Arc<Gauge>>,
}

impl AmqpConsumerControl {
    /// True when all lanes have ended.
    pub(super) fn is_over(&self) -> bool {
        self.lanes.iter().all(mpsc::Sender::is_closed)
    }

    async fn ask(&self, command: impl Fn(Reply) -> LaneCommand) {
        let asked = join_all(self.lanes.iter().map(|lane| {
            let (reply, answer) = oneshot::channel();
            let command = command(reply);
            async move {
                // A lane that has ended has nothing left to do.
                if lane.send(command).await.is_ok() {
                    runtime::answer(answer, lane.closed()).await;
                }
            }
        }));
        let _ = runtime::timeout(UNANSWERED, asked).await;
    }
}

impl ConsumerControl for AmqpConsumerControl {
    fn cancel(&self) -> BoxFuture<'_, ()> {
        self.ask(LaneCommand::Cancel).boxed()
    }

    fn flush(&self) -> BoxFuture<'_, ()> {
        self.ask(LaneCommand::Flush).boxed()
    }

    fn is_attached(&self) -> bool {
        self.amqp.link.is_up() && self.gauges.iter().all(|gauge| gauge.is_attached.load(Ordering::Relaxed))
    }

    fn unsettled(&self) -> Option<usize> {
        Some(self.gauges.iter().map(|gauge| gauge.unsettled.load(Ordering::Relaxed)).sum())
    }

    fn loss(&self) -> Option<(DateTime<Utc>, String)> {
        let stalled = Amqp::stalled()?;
        let reason = format!(
            "the I/O thread for RabbitMQ has stood still for {} s: only a restart helps",
            stalled.as_secs()
        );
        Some((Utc::now() - stalled, reason))
    }
}

/// Consumes from all queues, or from none.
pub(super) async fn open(
    amqp: &Arc<Amqp>,
    subscription: Subscription,
) -> Result<(Consumer, Arc<AmqpConsumerControl>)> {
    let Subscription { queues, prefetch, name } = subscription;
    if prefetch == 0 {
        // The broker takes zero for "without a limit".
        return Err(Error::config("a prefetch of 0 would reserve the whole queue: give at least 1"));
    }
    if queues.is_empty() {
        return Err(Error::config("nothing to consume: no queue is named"));
    }
    queues.iter().try_for_each(|queue| check_queue(queue))?;
    let (deliveries, stream) = mpsc::channel(usize::from(prefetch) * queues.len());
    let mut opened = Vec::new();
    for queue in &queues {
        let source = Source {
            queue: queue.as_str().into(),
            prefetch,
            tag: consumer_tag(&name),
            arguments: FieldTable::default(),
        };
        // An external queue may not exist yet, and no other queue is to wait for it.
        let subscribed = if amqp.desired.is_external(queue) {
            None
        } else {
            let what = format!("consume from queue `{queue}`");
            let subscribe = async |session| source.subscribe_bound(amqp, &session).await;
            Some(amqp.link.request(&what, amqp.limit, subscribe).await?)
        };
        opened.push((source, subscribed));
    }
    let (mut lanes, mut gauges) = (Vec::new(), Vec::new());
    for (source, subscribed) in opened {
        let (lane, commands) = mpsc::channel(8);
        let gauge = Arc::new(Gauge::default());
        let (this, consumer) = (Arc::clone(amqp), deliveries.clone());
        amqp.spawn(Lane::new(this, source, subscribed, Arc::clone(&gauge), commands, consumer).run());
        lanes.push(lane);
        gauges.push(gauge);
    }
    let control = Arc::new(AmqpConsumerControl { amqp: Arc::clone(amqp), lanes, gauges });
    Ok((Consumer::new(stream, Arc::clone(&control) as Arc<dyn ConsumerControl>), control))
}

/// The name, so that people find it, and what makes it unique.
fn consumer_tag(name: &str) -> String {
    let mut end = name.len().min(200);
    while !name.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}.{}", &name[..end], Uuid::new_v4().simple())
}
