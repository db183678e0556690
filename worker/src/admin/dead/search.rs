//! A walk over one dead-letter queue.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::kind::kind;
use super::letter::Letter;
use crate::admin::failure::Outcome;
use crate::app::App;
use crate::broker::{Broker, DeadLetters, Delivery, Settlement};
use crate::routing::Queue;

/// How long to wait for a worker or somebody else who looks through the same queue.
const PATIENCE: Duration = Duration::from_secs(10);

/// Which dead letters are meant.
#[derive(Clone, Debug, Default)]
pub(crate) struct Which {
    /// The queue that they came from, or the dead-letter queue itself.
    pub(crate) queue: String,
    /// Only those of this task.
    pub(crate) task: Option<String>,
    /// Only those whose reason or last error contains this text, ignoring case.
    pub(crate) error: Option<String>,
    /// Only the one with this id.
    pub(crate) id: Option<String>,
    /// Only those whose error is of this [kind].
    pub(crate) kind: Option<String>,
}

/// The dead-letter queue that goes with a queue, which may be named itself.
pub(crate) fn dead_queue(queue: &str) -> String {
    if queue.ends_with(".dead") { queue.to_owned() } else { Queue::dead_letter_name(queue) }
}

/// A walk over a dead-letter queue.
pub(crate) struct Search {
    pub(crate) broker: Arc<dyn Broker>,
    pub(crate) queue: String,
    task: Option<String>,
    /// In lower case.
    error: Option<String>,
    id: Option<String>,
    kind: Option<String>,
    /// How many are still wanted.
    wanted: u64,
    /// How many were there at the beginning and have not been looked at: what arrives meanwhile, or comes back,
    /// must not keep us walking.
    unseen: u64,
    matching: u64,
    /// True when those that had expired are not meant.
    pub(crate) leaves_expired: bool,
    expired: u64,
    lock: DeadLetters,
    /// What goes back at the end. Only the right to give it back is kept, not the message: there may be many.
    held: Vec<Settlement>,
}

impl Search {
    pub(crate) async fn open(app: &App, which: Which, wanted: u32) -> Outcome<Self> {
        let queue = dead_queue(&which.queue);
        let lock = DeadLetters::lock(&queue);
        let broker = app.broker().await?;
        let deadline = Instant::now() + PATIENCE;
        while !lock.take(&*broker).await && Instant::now() < deadline {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let (broker, info) = super::super::queue(app, &queue).await?;
        Ok(Self {
            broker,
            queue,
            task: which.task,
            error: which.error.map(|error| error.to_lowercase()),
            id: which.id,
            kind: which.kind,
            wanted: wanted.into(),
            unseen: info.ready,
            matching: 0,
            leaves_expired: false,
            expired: 0,
            lock,
            held: Vec::new(),
        })
    }

    /// The next message that is meant. Others are held.
    pub(crate) async fn next(&mut self) -> Outcome<Option<Delivery>> {
        while self.wanted > 0 && self.unseen > 0 {
            let Some(delivery) = self.broker.get(&self.queue).await? else { break };
            self.unseen -= 1;
            let is_meant = self.is_meant(&delivery);
            if is_meant && self.leaves_expired && Letter::of(&delivery.message).has_expired() {
                self.expired += 1;
            } else if is_meant {
                self.wanted -= 1;
                self.matching += 1;
                return Ok(Some(delivery));
            }
            self.hold(delivery);
        }
        Ok(None)
    }

    pub(crate) fn is_meant(&self, delivery: &Delivery) -> bool {
        let letter = Letter::of(&delivery.message);
        self.id.as_deref().is_none_or(|id| letter.id() == Some(id))
            && self.kind.as_deref().is_none_or(|of| kind(&letter.why().unwrap_or_default()) == of)
            && self.task.as_deref().is_none_or(|task| letter.task().unwrap_or_default() == task)
            && self
                .error
                .as_deref()
                .is_none_or(|error| letter.why().is_some_and(|why| why.to_lowercase().contains(error)))
    }

    pub(crate) fn hold(&mut self, delivery: Delivery) {
        self.held.push(delivery.settlement);
    }

    pub(crate) fn found(&self) -> Found {
        let Self { matching, unseen, expired, .. } = *self;
        Found { matching, unseen, expired, queue: self.queue.clone() }
    }

    /// Gives back what was held, the oldest first, and lets others look.
    pub(crate) async fn put_back(self) {
        for settlement in self.held {
            settlement.settle(crate::broker::Verdict::Requeue);
        }
        self.lock.open(&*self.broker).await;
    }
}

/// What a walk came to.
pub(crate) struct Found {
    pub(crate) matching: u64,
    pub(crate) unseen: u64,
    /// How many would be meant, had they not expired.
    pub(crate) expired: u64,
    pub(crate) queue: String,
}
