//! A search through one dead-letter queue.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::kind::kind;
use super::letter::Letter;
use crate::admin::each::{Choice, Handled, each};
use crate::admin::failure::{Failure, Outcome, TIME_IS_UP};
use crate::admin::progress::Progress;
use crate::app::App;
#[cfg(feature = "dashboard")]
use crate::broker::administration::PEEK_BYTES;
use crate::broker::walk::{Taken, Walk};
use crate::broker::{Broker, DeadLetterLock, Delivery};
use crate::message::Message;
use crate::routing::Queue;

/// How long to wait for a worker or another search in the same queue. If its process has died, its lock expires sooner.
const LOCK_TIMEOUT: Duration = Duration::from_secs(15);

/// Selects dead letters.
#[derive(Clone, Debug, Default)]
pub(crate) struct LetterFilter {
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

impl LetterFilter {
    /// True for a message that is selected.
    pub(crate) fn matches(&self, message: &Message) -> bool {
        let letter = Letter::of(message);
        self.id.as_deref().is_none_or(|id| letter.id() == Some(id))
            && self.ids.as_ref().is_none_or(|ids| letter.id().is_some_and(|id| ids.contains(id)))
            && self.kind.as_deref().is_none_or(|of| kind(&letter.why().unwrap_or_default()) == of)
            && self.task.as_deref().is_none_or(|task| letter.task().unwrap_or_default() == task)
            && self.error.as_deref().is_none_or(|error| {
                letter.why().is_some_and(|why| why.to_lowercase().contains(&error.to_lowercase()))
            })
    }

    /// True if calls are selected by id, whether or not they have expired.
    pub(crate) fn has_ids(&self) -> bool {
        self.id.is_some() || self.ids.is_some()
    }
}

/// Returns the name of the dead-letter queue of `queue`, or `queue` itself if it is one.
pub(crate) fn dead_queue(queue: &str) -> String {
    if queue.ends_with(".dead") { queue.to_owned() } else { Queue::dead_letter_name(queue) }
}

/// A search through a dead-letter queue.
pub(crate) struct Search {
    pub(crate) queue: String,
    filter: Filter,
    /// How many are still wanted.
    wanted: u64,
    walk: Walk,
    progress: Arc<Progress>,
    lock: DeadLetterLock,
}

/// Which letters a search takes, and how many it has found.
struct Filter {
    which: LetterFilter,
    leaves_expired: bool,
    bounds: Bounds,
    matching: u64,
    expired: u64,
}

impl Filter {
    /// True for a letter that is selected.
    fn takes(&mut self, message: &Message) -> bool {
        self.bounds.take(message);
        if !self.which.matches(message) {
            return false;
        }
        if self.leaves_expired && Letter::of(message).has_expired() {
            self.expired += 1;
            return false;
        }
        self.matching += 1;
        true
    }
}

impl Search {
    pub(crate) async fn open(
        app: &App,
        which: LetterFilter,
        wanted: u32,
        progress: Arc<Progress>,
    ) -> Outcome<Self> {
        Self::open_within(app, which, wanted, LOCK_TIMEOUT, progress).await
    }

    /// Opens a search, or fails if another one is busy in the same queue for this long.
    pub(super) async fn open_within(
        app: &App,
        which: LetterFilter,
        wanted: u32,
        patience: Duration,
        progress: Arc<Progress>,
    ) -> Outcome<Self> {
        let queue = dead_queue(&which.queue);
        let mut lock = DeadLetterLock::new(&queue);
        let broker = app.broker().await?;
        let deadline = Instant::now() + patience;
        while !lock.take(&broker).await {
            if Instant::now() >= deadline {
                return Err(Failure::new(
                    TIME_IS_UP,
                    format!(
                        "a command, a page or a worker goes through `{queue}` at the moment: try again later"
                    ),
                ));
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let (broker, ready) = match crate::admin::ready(app, &queue).await {
            Ok(found) => found,
            Err(failure) => {
                lock.release(&*broker).await;
                return Err(failure);
            }
        };
        progress.begins(ready);
        let filter = Filter { which, leaves_expired: false, bounds: Bounds::NONE, matching: 0, expired: 0 };
        let walk = Walk::new(broker, &queue, ready);
        Ok(Self { queue, filter, wanted: wanted.into(), walk, progress, lock })
    }

    /// Leaves letters that had expired where they are.
    pub(crate) fn leave_expired(&mut self) {
        self.filter.leaves_expired = true;
    }

    /// Limits how far the search goes.
    #[cfg(feature = "dashboard")]
    pub(super) fn bound(&mut self, bounds: Bounds) {
        self.filter.bounds = bounds;
    }

    pub(crate) fn broker(&self) -> Arc<dyn Broker> {
        Arc::clone(&self.walk.broker)
    }

    /// The next selected message. Others are held.
    pub(crate) async fn next(&mut self) -> Outcome<Option<Taken>> {
        while self.wanted > 0 && self.filter.bounds.have_room() {
            let taken = tokio::select! {
                biased;
                failure = self.progress.stopped() => return Err(failure),
                taken = self.walk.next() => taken?,
            };
            let Some(taken) = taken else { break };
            self.progress.has_seen(taken.place);
            if self.filter.takes(&taken.delivery.message) {
                self.wanted -= 1;
                return Ok(Some(taken));
            }
            self.hold(taken);
        }
        Ok(None)
    }

    /// Works on each selected message, many at a time.
    pub(crate) async fn each<F>(&mut self, work: impl Fn(Delivery) -> F) -> Outcome
    where
        F: Future<Output = (Delivery, Outcome<Handled>)>,
    {
        let Self { filter, walk, wanted, progress, .. } = self;
        let choose = |delivery: &Delivery| match filter.takes(&delivery.message) {
            true => Choice::Work,
            false => Choice::Hold,
        };
        each(walk, *wanted, progress, choose, work).await
    }

    pub(crate) fn hold(&mut self, taken: Taken) {
        self.walk.hold(taken.place, taken.delivery.settlement);
    }

    pub(crate) fn found(&self) -> Found {
        let Filter { matching, expired, .. } = self.filter;
        let unseen = self.walk.left();
        Found { matching, unseen, expired, done: self.progress.counts().done, queue: self.queue.clone() }
    }

    /// Ends a search that worked on letters, and returns its result, or how far it came before it failed.
    pub(crate) async fn end(self, done: Outcome, what: &str) -> Outcome<Found> {
        let (found, progress) = (self.found(), Arc::clone(&self.progress));
        self.release().await;
        done.map(|()| found).map_err(|failure| progress.counts().before(what, failure))
    }

    /// Requeues what was held, oldest first, and releases the lock for other searches.
    pub(crate) async fn release(self) {
        let broker = self.broker();
        self.walk.end().await;
        self.lock.release(&*broker).await;
    }
}

/// How far a read-only search goes: a queue may hold millions of letters, and letters of many megabytes.
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

/// The result of a search.
pub(crate) struct Found {
    pub(crate) matching: u64,
    pub(crate) unseen: u64,
    /// How many were left out only because they had expired.
    pub(crate) expired: u64,
    /// How many left the queue.
    pub(crate) done: u64,
    pub(crate) queue: String,
}
