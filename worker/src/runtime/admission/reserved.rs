//! The deliveries that a worker has reserved, which wait in it for a slot. The pipe owns them and answers requests with
//! copies.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;

use super::pauses::Pauses;
use crate::broker::Delivery;
use crate::message::Message;

/// The most deliveries that are copied.
const MOST: usize = 1000;
/// How long the pipe may take to answer. Its loop never blocks, unless the worker is stopping.
const TIMEOUT: Duration = Duration::from_millis(500);

/// A delivery that waits for a slot.
#[derive(Clone, Debug)]
pub(crate) struct Reserved {
    pub(crate) message: Message,
    pub(crate) queue: Arc<str>,
    pub(crate) exchange: String,
    pub(crate) routing_key: String,
    pub(crate) redelivered: bool,
}

impl Reserved {
    fn of(delivery: &Delivery) -> Self {
        Self {
            message: delivery.message.clone(),
            queue: Arc::clone(&delivery.queue),
            exchange: delivery.exchange.clone(),
            routing_key: delivery.routing_key.clone(),
            redelivered: delivery.redelivered,
        }
    }
}

/// Pending requests for the reserved deliveries. Without requests they cost nothing.
#[derive(Debug, Default)]
pub(crate) struct ReservedRequests(Mutex<Vec<oneshot::Sender<Vec<Reserved>>>>);

impl ReservedRequests {
    /// Returns the first 1000 reserved deliveries; none while the worker stops, since it requeues what it has not started.
    pub(crate) async fn ask(&self, pauses: &Pauses) -> Vec<Reserved> {
        let (asking, answer) = oneshot::channel();
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(asking);
        // Wakes the pipe.
        pauses.touch();
        let answered = tokio::time::timeout(TIMEOUT, answer).await;
        answered.ok().and_then(Result::ok).unwrap_or_default()
    }

    /// Answers all pending requests.
    pub(crate) fn answer<'a>(&self, deliveries: impl Iterator<Item = &'a Delivery>) {
        let asking = std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
        if asking.is_empty() {
            return;
        }
        let reserved: Vec<Reserved> = deliveries.take(MOST).map(Reserved::of).collect();
        for one in asking {
            // The caller may have given up.
            let _ = one.send(reserved.clone());
        }
    }
}
