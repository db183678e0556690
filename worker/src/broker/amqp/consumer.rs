//! A consumer: one lane for each of its queues.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, join_all};
use tokio::sync::{mpsc, oneshot};
use uuid::Uuid;

use super::check_queue;
use super::lane::{Command, Lane, Source};
use crate::broker::{Consumer, ConsumerControl, Subscription};
use crate::connection::amqp::Amqp;
use crate::error::{Error, Result};

/// The handle to the lanes of one consumer.
pub(super) struct Control {
    amqp: Arc<Amqp>,
    lanes: Vec<mpsc::Sender<Command>>,
    /// For each lane, whether it consumes.
    attached: Vec<Arc<AtomicBool>>,
}

impl Control {
    /// True when all lanes have ended.
    pub(super) fn is_over(&self) -> bool {
        self.lanes.iter().all(mpsc::Sender::is_closed)
    }

    async fn ask(&self, command: impl Fn(oneshot::Sender<()>) -> Command) {
        join_all(self.lanes.iter().map(|lane| {
            let (reply, answer) = oneshot::channel();
            let command = command(reply);
            async move {
                // An error means that the lane has ended: nothing is left to do.
                if lane.send(command).await.is_ok() {
                    let _ = answer.await;
                }
            }
        }))
        .await;
    }
}

impl ConsumerControl for Control {
    fn cancel(&self) -> BoxFuture<'_, ()> {
        self.ask(Command::Cancel).boxed()
    }

    fn flush(&self) -> BoxFuture<'_, ()> {
        self.ask(Command::Flush).boxed()
    }

    fn is_attached(&self) -> bool {
        self.amqp.link.is_up() && self.attached.iter().all(|attached| attached.load(Ordering::Relaxed))
    }
}

/// Consumes from all queues, or from none.
pub(super) async fn open(amqp: &Arc<Amqp>, subscription: Subscription) -> Result<(Consumer, Arc<Control>)> {
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
    let this = Arc::clone(amqp);
    let control = amqp
        .run(async move {
            let mut opened = Vec::new();
            for queue in &queues {
                let source = Source {
                    amqp: Arc::clone(&this),
                    queue: queue.as_str().into(),
                    prefetch,
                    tag: consumer_tag(&name),
                    attached: Arc::new(AtomicBool::new(true)),
                };
                let what = format!("consume from queue `{queue}`");
                let asked = &source;
                let attached = if this.desired.is_external(queue) {
                    // It may not exist yet, and no other queue is to wait for it.
                    None
                } else {
                    let attach = async |session| asked.attach(&session).await;
                    Some(this.link.request(&what, this.limit, attach).await?)
                };
                opened.push((source, attached));
            }
            let is_attached = opened.iter().map(|(source, _)| Arc::clone(&source.attached)).collect();
            let lanes = opened.into_iter().map(|(source, attached)| {
                let (lane, commands) = mpsc::channel(8);
                this.spawn(Lane::new(source, attached, commands, deliveries.clone()).run());
                lane
            });
            let lanes = lanes.collect();
            Ok(Arc::new(Control { amqp: this, lanes, attached: is_attached }))
        })
        .await?;
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
