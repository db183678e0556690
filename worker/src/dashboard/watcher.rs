//! Takes snapshots of broker and workers at intervals, shared by all open pages.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use super::diagnosis::diagnose;
use super::snapshot::Snapshot;
use crate::app::App;
use crate::history::History;

/// The interval between snapshots while a page is open.
const BUSY: Duration = Duration::from_secs(2);
/// The interval while no page is open, so that the charts have no gap.
const CALM: Duration = Duration::from_secs(15);
/// After this time without a request, no page counts as open.
const WATCHED: Duration = Duration::from_secs(20);
/// The age of the snapshot that a new one is compared with.
const EARLIER: Duration = Duration::from_secs(5 * 60);
/// After this time without an answer the broker counts as unreachable. Longer than the timeout for RabbitMQ's
/// management API.
const SILENCE: Duration = Duration::from_secs(6);
/// How many lengths of a queue are kept for its chart, one per [`CALM`].
const POINTS: usize = 40;

/// The latest snapshot and the recent lengths of queues.
#[derive(Debug)]
pub(crate) struct Watcher {
    latest: watch::Sender<Arc<Snapshot>>,
    trends: Mutex<BTreeMap<String, VecDeque<u64>>>,
    asked: Mutex<Instant>,
    wake: Notify,
}

impl Watcher {
    /// Creates a watcher that has taken no snapshot yet.
    pub(crate) fn new(app: &App) -> Self {
        Self {
            latest: watch::Sender::new(Arc::new(Snapshot::unseen(app))),
            trends: Mutex::default(),
            asked: Mutex::new(Instant::now()),
            wake: Notify::new(),
        }
    }

    /// Takes snapshots until it is stopped.
    pub(crate) async fn run(&self, app: &App, history: &History, stop: &CancellationToken) {
        let mut past: VecDeque<(Instant, Arc<Snapshot>)> = VecDeque::new();
        let mut noted: Option<Instant> = None;
        loop {
            let begun = Instant::now();
            let last = self.latest();
            let earlier =
                past.front().map_or_else(|| Arc::clone(&last), |(_, snapshot)| Arc::clone(snapshot));
            let finished = |snapshot: Snapshot| {
                let snapshot = Snapshot { history_error: history.trouble(), ..snapshot };
                let problems = diagnose(&snapshot, &earlier);
                Arc::new(Snapshot { problems, ..snapshot })
            };
            let snapshot = tokio::select! {
                () = stop.cancelled() => return,
                snapshot = Snapshot::take(app, &last) => finished(snapshot),
                () = async {
                    tokio::time::sleep(SILENCE).await;
                    let error = format!("no answer for {} seconds", SILENCE.as_secs());
                    self.latest.send_replace(finished(last.without_broker(error)));
                    std::future::pending::<()>().await;
                } => return,
            };
            if noted.is_none_or(|noted| noted.elapsed() >= CALM) {
                noted = Some(begun);
                if snapshot.broker.error.is_none() {
                    self.note(&snapshot);
                    past.push_back((begun, Arc::clone(&snapshot)));
                }
                while past.front().is_some_and(|(at, _)| at.elapsed() > EARLIER) {
                    past.pop_front();
                }
            }
            self.latest.send_replace(snapshot);
            let pause = if self.is_watched() { BUSY } else { CALM };
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(pause.saturating_sub(begun.elapsed())) => {}
                () = self.wake.notified() => {}
            }
        }
    }

    /// Returns the latest snapshot.
    pub(crate) fn latest(&self) -> Arc<Snapshot> {
        Arc::clone(&self.latest.borrow())
    }

    /// Returns the latest snapshot for a page that was opened; waits a moment if none has been taken yet.
    pub(crate) async fn fresh(&self) -> Arc<Snapshot> {
        let is_new = !self.is_watched();
        self.watched();
        let mut latest = self.latest.subscribe();
        if is_new {
            self.wake.notify_one();
        }
        if latest.borrow().at == DateTime::<Utc>::default() {
            let _ = tokio::time::timeout(BUSY, latest.changed()).await;
        }
        self.latest()
    }

    /// Takes a snapshot at once, after an action.
    pub(crate) async fn again(&self) {
        let mut latest = self.latest.subscribe();
        self.wake.notify_one();
        let _ = tokio::time::timeout(BUSY, latest.changed()).await;
    }

    /// Returns a receiver that is notified of every new snapshot.
    pub(crate) fn changes(&self) -> watch::Receiver<Arc<Snapshot>> {
        self.latest.subscribe()
    }

    /// Notes that a page is open.
    pub(crate) fn watched(&self) {
        *self.asked.lock().expect("never poisoned") = Instant::now();
    }

    /// The lengths of a queue in the last minutes, the oldest first.
    pub(crate) fn trend(&self, queue: &str) -> Vec<u64> {
        let trends = self.trends.lock().expect("never poisoned");
        trends.get(queue).map(|points| points.iter().copied().collect()).unwrap_or_default()
    }

    fn is_watched(&self) -> bool {
        self.asked.lock().expect("never poisoned").elapsed() < WATCHED
    }

    fn note(&self, snapshot: &Snapshot) {
        let mut trends = self.trends.lock().expect("never poisoned");
        trends.retain(|name, _| snapshot.queue(name).is_some());
        for queue in &snapshot.queues {
            let points = trends.entry(queue.name.clone()).or_default();
            points.push_back(queue.ready);
            if points.len() > POINTS {
                points.pop_front();
            }
        }
    }
}
