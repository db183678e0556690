//! A walk over one dead-letter queue.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::kind::kind;
use super::letter::Letter;
use crate::admin::failure::Outcome;
use crate::app::App;
#[cfg(feature = "dashboard")]
use crate::broker::administration::PEEK_BYTES;
use crate::broker::{Broker, DeadLetters, Delivery, Settlement};
use crate::message::Message;
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
    /// Only those with one of these ids.
    pub(crate) ids: Option<HashSet<String>>,
    /// Only those whose error is of this [kind].
    pub(crate) kind: Option<String>,
}

impl Which {
    /// True for a message that is meant.
    pub(crate) fn is_meant(&self, message: &Message) -> bool {
        let letter = Letter::of(message);
        self.id.as_deref().is_none_or(|id| letter.id() == Some(id))
            && self.ids.as_ref().is_none_or(|ids| letter.id().is_some_and(|id| ids.contains(id)))
            && self.kind.as_deref().is_none_or(|of| kind(&letter.why().unwrap_or_default()) == of)
            && self.task.as_deref().is_none_or(|task| letter.task().unwrap_or_default() == task)
            && self.error.as_deref().is_none_or(|error| {
                letter.why().is_some_and(|why| why.to_lowercase().contains(&error.to_lowercase()))
            })
    }

    /// True if calls are named, whatever has become of them.
    pub(crate) fn names_calls(&self) -> bool {
        self.id.is_some() || self.ids.is_some()
    }
}

/// The dead-letter queue that goes with a queue, which may be named itself.
pub(crate) fn dead_queue(queue: &str) -> String {
    if queue.ends_with(".dead") { queue.to_owned() } else { Queue::dead_letter_name(queue) }
}

/// A walk over a dead-letter queue.
pub(crate) struct Search {
    pub(crate) broker: Arc<dyn Broker>,
    pub(crate) queue: String,
    which: Which,
    /// How many are still wanted.
    wanted: u64,
    /// How many were there at the beginning and have not been looked at: what arrives meanwhile, or comes back,
    /// must not keep us walking.
    unseen: u64,
    bounds: Bounds,
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
            which,
            wanted: wanted.into(),
            unseen: info.ready,
            bounds: Bounds::NONE,
            matching: 0,
            leaves_expired: false,
            expired: 0,
            lock,
            held: Vec::new(),
        })
    }

    /// The next message that is meant. Others are held.
    pub(crate) async fn next(&mut self) -> Outcome<Option<Delivery>> {
        while self.wanted > 0 && self.unseen > 0 && self.bounds.have_room() {
            let Some(delivery) = self.broker.get(&self.queue).await? else { break };
            self.unseen -= 1;
            self.bounds.take(&delivery.message);
            let is_meant = self.which.is_meant(&delivery.message);
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

    /// Looks at no more than these bounds allow.
    #[cfg(feature = "dashboard")]
    pub(crate) fn bound(&mut self, bounds: Bounds) {
        self.bounds = bounds;
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

/// How far a walk goes that only looks: a queue may hold millions of letters, and letters of many megabytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    letters: u64,
    bytes: usize,
    until: Option<Instant>,
}

impl Bounds {
    const NONE: Self = Self { letters: u64::MAX, bytes: usize::MAX, until: None };

    /// The most letters, and the longest time.
    #[cfg(feature = "dashboard")]
    pub(crate) fn new(letters: u64, time: Duration) -> Self {
        Self { letters, bytes: PEEK_BYTES, until: Some(Instant::now() + time) }
    }

    fn have_room(&self) -> bool {
        self.letters > 0 && self.bytes > 0 && self.until.is_none_or(|until| Instant::now() < until)
    }

    fn take(&mut self, message: &Message) {
        self.letters = self.letters.saturating_sub(1);
        self.bytes = self.bytes.saturating_sub(message.body.len());
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
