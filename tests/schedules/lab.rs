//! Schedulers that can be paused and killed, and a listener for their calls.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use mq_worker::broker::Subscription;
use mq_worker::middleware::Middleware;
use mq_worker::{App, Beat, BeatHandle, Config, Queue, Schedule, Timing, Topology};
use support::{Node, shared, unique};
use tempfile::TempDir;
use tokio::sync::oneshot;
use tokio_util::task::AbortOnDropHandle;

/// A separate broker for the test: all schedulers of a broker share one log.
pub(super) struct Lab {
    pub(super) name: &'static str,
    pub(super) queue: String,
    /// How that queue is declared.
    pub(super) declared: Queue,
    pub(super) url: String,
    pub(super) node: Option<Node>,
    _directory: Option<TempDir>,
}

impl Lab {
    pub(super) fn memory() -> Option<Self> {
        Some(Self::at("memory", format!("memory://{}", unique("schedules")), None, None))
    }

    pub(super) fn sqlite() -> Option<Self> {
        let directory = support::temp_dir();
        let url = format!("sqlite:{}", directory.path().join("queue.db").display());
        Some(Self::at("sqlite", url, None, Some(directory)))
    }

    /// Returns `None`, after printing why, if there is no RabbitMQ.
    pub(super) fn rabbitmq() -> Option<Self> {
        shared::may_start_rabbitmq(file!()).then(|| {
            let node = Node::start();
            Self::at("rabbitmq", node.url(), Some(node), None)
        })
    }

    fn at(name: &'static str, url: String, node: Option<Node>, directory: Option<TempDir>) -> Self {
        let queue = unique("scheduled");
        Self { name, declared: Queue::new(&queue), queue, url, node, _directory: directory }
    }

    /// Opens another application on this broker.
    pub(super) fn app(&self) -> App {
        self.app_with(|_| {})
    }

    pub(super) fn app_with(&self, change: impl FnOnce(&mut Config)) -> App {
        App::new(self.config(change)).expect("a good configuration")
    }

    /// Opens another application, whose middleware includes this one.
    pub(super) fn app_through(&self, middleware: impl Middleware) -> App {
        let builder = App::builder().set(|config| *config = self.config(|_| {})).expect("a configuration");
        builder.middleware(middleware).build().expect("a good configuration")
    }

    fn config(&self, change: impl FnOnce(&mut Config)) -> Config {
        let mut config = Config { broker_url: self.url.parse().expect("a URL"), ..Config::default() };
        config.result_backend = Some("none://".parse().expect("a URL"));
        config.worker.queues = vec![self.queue.clone()];
        config.topology = self.topology();
        change(&mut config);
        config
    }

    /// The queue of this test.
    pub(super) fn topology(&self) -> Topology {
        Topology { queues: vec![self.declared.clone()], ..Topology::default() }
    }

    /// Returns a schedule whose calls go to the queue of this test.
    pub(super) fn every(&self, name: &str, seconds: u64) -> Schedule {
        let timing = Timing::every(Duration::from_secs(seconds)).expect("an interval");
        Schedule::new(name, "nobody_runs_this", timing).queue(&self.queue)
    }
}

/// A scheduler on its own thread.
pub(super) struct Scheduler {
    runtime: tokio::runtime::Handle,
    handle: BeatHandle,
    /// Dropping this kills the scheduler without a clean stop.
    alive: Option<oneshot::Sender<()>>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Scheduler {
    pub(super) fn start(app: App) -> Self {
        Self::with_clock(app, &Arc::default())
    }

    /// Starts a scheduler whose clock is this many seconds ahead.
    pub(super) fn with_clock(app: App, ahead: &Arc<AtomicI64>) -> Self {
        let ahead = Arc::clone(ahead);
        let beat = Beat::new(app).expect("a scheduler");
        let beat = beat.with_clock(move || Utc::now() + TimeDelta::seconds(ahead.load(Ordering::Relaxed)));
        let handle = beat.handle();
        let (alive, dead) = oneshot::channel();
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("a runtime");
        let handle_of_runtime = runtime.handle().clone();
        let thread = thread::spawn(move || {
            runtime.block_on(async {
                // Spawned, so that blocking the runtime's only thread stops it, like a pause of the process.
                let beat = AbortOnDropHandle::new(tokio::spawn(beat.run()));
                tokio::select! {
                    ended = beat => ended.expect("no panic").expect("the scheduler works"),
                    _ = dead => {}
                }
            });
            runtime.shutdown_timeout(Duration::from_secs(5));
        });
        Self { runtime: handle_of_runtime, handle, alive: Some(alive), thread: Some(thread) }
    }

    /// Freezes it for this long, whatever it is doing.
    pub(super) fn pause(&self, time: Duration) {
        self.runtime.spawn(async move { thread::sleep(time) });
    }

    /// Kills it at once.
    pub(super) fn kill(mut self) {
        drop(self.alive.take());
        self.thread.take().map(thread::JoinHandle::join);
    }

    pub(super) fn stop(mut self) {
        self.handle.stop();
        self.thread.take().expect("once").join().expect("no panic");
    }
}

/// A call that arrived.
#[derive(Clone, Debug)]
pub(super) struct Arrived {
    pub(super) schedule: String,
    pub(super) due: DateTime<Utc>,
    pub(super) at: DateTime<Utc>,
    pub(super) id: String,
    pub(super) redelivered: bool,
}

/// Consumes the calls in the queue of a test.
pub(super) struct Listener {
    arrived: Arc<Mutex<Vec<Arrived>>>,
    _task: AbortOnDropHandle<()>,
}

impl Listener {
    pub(super) async fn start(lab: &Lab) -> Self {
        let app = lab.app();
        let broker = app.broker().await.expect("a broker");
        broker.declare(&lab.topology()).await.expect("the queue is declared");
        let subscription =
            Subscription { queues: vec![lab.queue.clone()], prefetch: 500, name: "test".into() };
        let mut consumer = broker.consume(subscription).await.expect("a consumer");
        let arrived = Arc::<Mutex<Vec<Arrived>>>::default();
        let seen = Arc::clone(&arrived);
        let task = tokio::spawn(async move {
            let _kept = app;
            while let Some(delivery) = consumer.next().await {
                let headers = &delivery.message.headers;
                let due = headers.get_str("mq-scheduled-at").expect("a due time");
                seen.lock().expect("never poisoned").push(Arrived {
                    schedule: headers.get_str("mq-schedule").expect("a schedule").to_owned(),
                    due: due.parse().expect("a time"),
                    at: Utc::now(),
                    id: headers.id().expect("an id").to_owned(),
                    redelivered: delivery.redelivered,
                });
                delivery.ack();
            }
        });
        Self { arrived, _task: AbortOnDropHandle::new(task) }
    }

    pub(super) fn all(&self) -> Vec<Arrived> {
        self.arrived.lock().expect("never poisoned").clone()
    }

    pub(super) fn of(&self, schedule: &str) -> Vec<Arrived> {
        self.all().into_iter().filter(|arrived| arrived.schedule == schedule).collect()
    }

    /// Waits until this many calls of a schedule have arrived.
    pub(super) async fn wait_for(&self, schedule: &str, count: usize) -> Vec<Arrived> {
        support::eventually(&format!("{count} calls of {schedule}"), Duration::from_secs(30), async || {
            Some(self.of(schedule)).filter(|arrived| arrived.len() >= count)
        })
        .await
    }

    /// Counts the messages for each due time, without redeliveries.
    pub(super) fn counted(&self) -> BTreeMap<(String, DateTime<Utc>), usize> {
        let mut counted = BTreeMap::new();
        for arrived in self.all().into_iter().filter(|arrived| !arrived.redelivered) {
            *counted.entry((arrived.schedule, arrived.due)).or_default() += 1;
        }
        counted
    }
}

/// Fails unless each due time of the schedules within a span arrived once.
pub(super) fn assert_once(
    listener: &Listener,
    schedules: &[Schedule],
    from: DateTime<Utc>,
    until: DateTime<Utc>,
) {
    let counted = listener.counted();
    let twice: Vec<_> = counted.iter().filter(|(_, count)| **count > 1).collect();
    assert!(twice.is_empty(), "came more than once: {twice:?}");
    let lost = missing(listener, schedules, from, until);
    assert!(lost.is_empty(), "lost: {lost:?}");
}

/// Returns the due times of the schedules within a span that have not arrived.
pub(super) fn missing(
    listener: &Listener,
    schedules: &[Schedule],
    from: DateTime<Utc>,
    until: DateTime<Utc>,
) -> Vec<(String, DateTime<Utc>)> {
    // A message in flight when the listener's connection was lost comes back as redelivered.
    let all = listener.all();
    let arrived: BTreeSet<_> = all.iter().map(|call| (call.schedule.as_str(), call.due)).collect();
    let mut missing = Vec::new();
    for schedule in schedules {
        let mut last = from;
        while let Some(due) = schedule.timing.next_after(last).filter(|due| *due <= until) {
            if !arrived.contains(&(schedule.name.as_str(), due)) {
                missing.push((schedule.name.clone(), due));
            }
            last = due;
        }
    }
    missing
}

/// Returns the largest delay of a call.
pub(super) fn latest(listener: &Listener) -> TimeDelta {
    listener.all().iter().map(|arrived| arrived.at - arrived.due).max().unwrap_or_default()
}
