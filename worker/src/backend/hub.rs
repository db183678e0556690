//! The callers in this process that wait for results, which all arrive on one connection.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{mpsc, watch};

use super::{Awaited, ResultRecord};
use crate::connection::background;
use crate::error::Result;
use crate::tracing;

/// The waiting callers.
pub(super) struct Hub {
    waiting: Mutex<HashMap<String, Waiting>>,
    /// Unbounded, but it holds at most one change for each caller that starts or stops waiting.
    changes: mpsc::UnboundedSender<Change>,
}

/// A change to the ids that the connection listens for.
#[derive(Debug, PartialEq)]
pub(super) enum Change {
    /// The first caller waits for this id.
    Listen(String),
    /// No caller waits for this id any more.
    Leave(String),
}

struct Waiting {
    count: usize,
    news: watch::Sender<WaitFor>,
}

/// News for a caller that waits for a task.
#[derive(Clone, Debug)]
pub(super) enum WaitFor {
    /// The connection is not listening yet: records stored now are not reported.
    NotListening,
    /// Records stored from now on are reported; earlier ones must be fetched.
    Listening,
    /// A record was stored.
    Stored(Box<ResultRecord>),
}

impl Hub {
    pub(super) fn new() -> (Arc<Self>, mpsc::UnboundedReceiver<Change>) {
        let (changes, receiver) = mpsc::unbounded_channel();
        (Arc::new(Self { waiting: Mutex::default(), changes }), receiver)
    }

    /// Registers a caller that waits for a task until the listener is dropped.
    pub(super) fn listen(self: &Arc<Self>, id: &str) -> Listener {
        let mut waiting = self.lock();
        let entry = waiting.entry(id.to_owned()).or_insert_with(|| {
            // Under the lock, so that changes are sent in the order of registrations.
            let _ = self.changes.send(Change::Listen(id.to_owned()));
            Waiting { count: 0, news: watch::Sender::new(WaitFor::NotListening) }
        });
        entry.count += 1;
        let mut news = entry.news.subscribe();
        news.mark_changed();
        Listener { hub: Arc::clone(self), id: id.to_owned(), news }
    }

    /// Signals to callers that records stored for these tasks are reported from now on.
    pub(super) fn listening<'a>(&self, ids: impl IntoIterator<Item = &'a String>) {
        let waiting = self.lock();
        ids.into_iter()
            .filter_map(|id| waiting.get(id))
            .for_each(|entry| drop(entry.news.send(WaitFor::Listening)));
    }

    /// Delivers a stored record to the callers that wait for it.
    #[cfg_attr(not(feature = "redis"), expect(dead_code, reason = "called by the feature `redis`"))]
    pub(super) fn deliver(&self, record: ResultRecord) {
        if let Some(entry) = self.lock().get(&record.task_id) {
            let _ = entry.news.send(WaitFor::Stored(Box::new(record)));
        }
    }

    /// True if a caller waits for this task.
    #[cfg_attr(not(feature = "redis"), expect(dead_code, reason = "called by the feature `redis`"))]
    pub(super) fn awaits(&self, id: &str) -> bool {
        self.lock().contains_key(id)
    }

    /// The ids of all tasks that callers wait for.
    pub(super) fn ids(&self) -> Vec<String> {
        self.lock().keys().cloned().collect()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Waiting>> {
        // A panic elsewhere leaves the map consistent.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The first and the longest pause between attempts to fetch or connect.
pub(super) const PAUSE: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(5));

/// Waits for a record, and fetches it whenever the store may have one that it did not pass on.
pub(super) async fn wait<F>(
    mut listener: Listener,
    awaited: Awaited,
    fetch: impl Fn() -> F,
) -> Result<ResultRecord>
where
    F: Future<Output = Result<Option<ResultRecord>>>,
{
    loop {
        let record = match listener.next().await {
            WaitFor::NotListening => None,
            WaitFor::Stored(record) => Some(*record),
            WaitFor::Listening => fetch_with_retries(&fetch).await?,
        };
        if let Some(record) = record.filter(|record| awaited.is_met_by(record)) {
            return Ok(record);
        }
    }
}

/// Fetches, with retries while the store is unreachable.
async fn fetch_with_retries<F>(fetch: impl Fn() -> F) -> Result<Option<ResultRecord>>
where
    F: Future<Output = Result<Option<ResultRecord>>>,
{
    let (mut pause, longest) = PAUSE;
    loop {
        match fetch().await {
            Err(error) if !error.is_final_here() => {
                tracing::debug!(error = format!("{error:#}"), "cannot fetch a result yet");
            }
            fetched => return fetched,
        }
        background::sleep(pause).await?;
        pause = (pause * 2).min(longest);
    }
}

/// A caller that waits.
pub(super) struct Listener {
    hub: Arc<Hub>,
    id: String,
    news: watch::Receiver<WaitFor>,
}

impl Listener {
    /// Waits for the next news, and returns the latest.
    pub(super) async fn next(&mut self) -> WaitFor {
        // The sender lives as long as this listener.
        let _ = self.news.changed().await;
        self.news.borrow_and_update().clone()
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        let mut waiting = self.hub.lock();
        let Some(entry) = waiting.get_mut(&self.id) else { return };
        entry.count -= 1;
        if entry.count == 0 {
            waiting.remove(&self.id);
            let _ = self.hub.changes.send(Change::Leave(std::mem::take(&mut self.id)));
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;
    use crate::state::State;

    #[test]
    fn a_listener_gets_the_latest_news_of_its_task() {
        let (hub, mut changes) = Hub::new();
        let mut one = hub.listen("a");
        assert!(matches!(one.next().now_or_never(), Some(WaitFor::NotListening)));
        hub.listening([&"a".to_owned(), &"b".to_owned()]);
        let mut two = hub.listen("a");
        assert!(matches!(two.next().now_or_never(), Some(WaitFor::Listening)), "as the first");
        hub.deliver(ResultRecord::new("a", State::Started));
        hub.deliver(ResultRecord::new("a", State::Success));
        hub.deliver(ResultRecord::new("b", State::Success));
        for listener in [&mut one, &mut two] {
            let Some(WaitFor::Stored(record)) = listener.next().now_or_never() else {
                panic!("it was stored")
            };
            assert_eq!(record.state, State::Success);
            assert!(listener.next().now_or_never().is_none());
        }
        drop(one);
        assert!(hub.awaits("a"));
        drop(two);
        assert!(!hub.awaits("a") && hub.ids().is_empty());
        let changed: Vec<Change> = std::iter::from_fn(|| changes.try_recv().ok()).collect();
        assert_eq!(changed, [Change::Listen("a".into()), Change::Leave("a".into())]);
    }
}
