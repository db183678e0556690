//! Reading events.

use std::sync::Arc;
use std::time::Duration;

use super::{Event, EventReader};
use crate::broker::{Broker, Consumer, Delivery, Subscription};
use crate::connection::background;
use crate::error::{Error, Result};
use crate::tracing;

/// How many messages are prefetched, of up to 256 events each.
const PREFETCH: u16 = 64;

/// The events of all workers and producers on one broker.
///
/// ```no_run
/// # async fn demo(app: mq_worker::App) -> mq_worker::Result<()> {
/// use mq_worker::events::EventReader;
///
/// let mut events = app.watch_events(EventReader::Live).await?;
/// while let Some(batch) = events.next().await {
///     for event in &batch.events {
///         println!("{} {}", event.kind, event.uuid.as_deref().unwrap_or_default());
///     }
///     batch.done();
/// }
/// # Ok(())
/// # }
/// ```
pub struct EventStream {
    broker: Arc<dyn Broker>,
    consumer: Consumer,
    queue: String,
    is_live: bool,
}

/// The events of one message.
#[derive(Debug)]
pub struct Batch {
    /// The events, the oldest first.
    pub events: Vec<Event>,
    delivery: Delivery,
}

impl Batch {
    /// Acks these events, so that they are not delivered again. A batch that is dropped without it is delivered again.
    pub fn done(self) {
        self.delivery.ack();
    }
}

impl EventStream {
    /// Declares what the reader needs, and starts reading.
    ///
    /// # Errors
    /// A broker that cannot be reached or refuses us.
    pub async fn open(broker: Arc<dyn Broker>, reader: &EventReader) -> Result<Self> {
        let (queue, topology) = reader.topology();
        let failed = |error: Error| error.context("cannot read events");
        broker.declare(&topology).await.map_err(failed)?;
        let subscription =
            Subscription { queues: vec![queue.clone()], prefetch: PREFETCH, name: queue.clone() };
        let consumer = broker.consume(subscription).await.map_err(failed)?;
        Ok(Self { broker, consumer, queue, is_live: *reader == EventReader::Live })
    }

    /// The next events; `None` once the broker is closed. A message that is not an event is logged and skipped.
    pub async fn next(&mut self) -> Option<Batch> {
        loop {
            let delivery = self.consumer.next().await?;
            match Event::read(&delivery.message.body) {
                Ok(events) => return Some(Batch { events, delivery }),
                Err(error) => {
                    tracing::debug!(error = format!("{error:#}"), "skipped a message that is not an event");
                    delivery.ack();
                }
            }
        }
    }

    /// Stops reading. The queue of a live reader is deleted; that of a durable one keeps later events.
    pub async fn close(self) {
        let Self { broker, consumer, queue, is_live } = self;
        let control = consumer.control();
        let tidy_up = async {
            control.flush().await;
            control.cancel().await;
            drop(consumer);
            if is_live {
                let _ = broker.delete_queue(&queue).await;
            }
        };
        // Best effort: the broker deletes an unused queue by itself.
        let _ = background::timeout(Duration::from_secs(2), tidy_up).await;
    }
}

impl std::fmt::Debug for EventStream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EventStream").field("queue", &self.queue).finish_non_exhaustive()
    }
}
