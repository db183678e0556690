//! The brokers on which behaviour is tested: memory, SQLite, and RabbitMQ if the run has one.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use mq_worker::broker::Delivery;
use mq_worker::{App, Config, QueueKind, SharedState, Summary, Worker, WorkerHandle};
use tempfile::TempDir;
use tokio::task::JoinHandle;

use crate::{shared, unique, wait};

/// A broker on which a test runs, with a unique queue name.
pub struct Place {
    /// For messages of failed tests.
    pub name: &'static str,
    /// This test's own queue.
    pub queue: String,
    config: Config,
    // Removes the SQLite file on drop.
    _directory: Option<Arc<TempDir>>,
}

impl Place {
    /// Returns an application on this broker. Applications of one place share its queues.
    pub fn app(&self) -> App {
        self.app_with(|_| {})
    }

    /// Returns an application on this broker with changed settings.
    pub fn app_with(&self, change: impl FnOnce(&mut Config)) -> App {
        let mut config = self.config.clone();
        config.worker.queues = vec![self.queue.clone()];
        config.worker.grace = Duration::from_secs(5);
        change(&mut config);
        App::new(config).expect("a good configuration")
    }

    /// Returns the address of the broker.
    pub fn url(&self) -> String {
        self.config.broker_url.expose().to_owned()
    }

    /// Returns the dead-letter queue of this test's queue.
    pub fn dead(&self) -> String {
        format!("{}.dead", self.queue)
    }

    /// Takes the oldest dead letter. A worker inspects them too, and may hold them for a moment.
    pub async fn letter(&self, app: &App) -> Delivery {
        let broker = app.broker().await.expect("a broker");
        let take = async || broker.get(&self.dead()).await.expect("an answer");
        wait::eventually("a dead letter is there", Duration::from_secs(60), take).await
    }
}

/// Returns all places of this run. Prints on standard error what is skipped.
pub fn places() -> Vec<Place> {
    let directory = Arc::new(tempfile::tempdir().expect("a temporary directory"));
    let sqlite = format!("sqlite:{}", directory.path().join("queue.db").display());
    let mut places = vec![
        place("memory", &format!("memory://{}", unique("place")), QueueKind::Quorum, None),
        place("sqlite", &sqlite, QueueKind::Quorum, Some(directory)),
    ];
    if let Some(shared) = shared::rabbitmq("the behaviour of workers") {
        places.push(place("rabbitmq quorum", &shared.url, QueueKind::Quorum, None));
        places.push(place("rabbitmq classic", &shared.url, QueueKind::Classic, None));
    }
    places
}

fn place(name: &'static str, url: &str, kind: QueueKind, directory: Option<Arc<TempDir>>) -> Place {
    let config = Config { broker_url: url.parse().expect("a URL"), queue_kind: kind, ..Config::default() };
    Place { name, queue: unique("test"), config, _directory: directory }
}

/// Runs a test on every place in turn, each on its own runtime.
pub fn everywhere<F: Future<Output = ()>>(test: impl Fn(Place) -> F) {
    for place in places() {
        let name = place.name;
        // Shown when the test fails.
        eprintln!("on {name}");
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .expect("a runtime can be built");
        let within =
            runtime.block_on(async { tokio::time::timeout(Duration::from_secs(180), test(place)).await });
        assert!(within.is_ok(), "the test hangs on {name}");
        runtime.shutdown_timeout(Duration::from_secs(1));
    }
}

/// A worker that runs alongside the test.
pub struct Running {
    handle: WorkerHandle,
    task: JoinHandle<mq_worker::Result<Summary>>,
}

impl Running {
    /// Starts a worker.
    pub fn start(app: App, state: SharedState) -> Self {
        let worker = Worker::new(app).expect("a worker").with_state(state).without_isolation();
        let handle = worker.handle();
        Self { handle, task: tokio::spawn(worker.run()) }
    }

    /// Returns a handle for stopping it in the middle of a test.
    pub fn handle(&self) -> WorkerHandle {
        self.handle.clone()
    }

    /// Starts a warm shutdown and waits for the summary.
    pub async fn stop(self) -> Summary {
        self.handle.stop();
        self.ended().await
    }

    /// Waits until it has stopped.
    pub async fn ended(self) -> Summary {
        let ended =
            tokio::time::timeout(Duration::from_secs(60), self.task).await.expect("the worker stops in time");
        ended.expect("the worker does not panic").expect("the worker runs")
    }
}

/// Polls until the answer is yes; fails the test only after a minute, so that a slow disk does not.
pub async fn eventually<F: Future<Output = bool>>(what: &str, question: impl Fn() -> F) {
    let ask = || {
        let answer = question();
        async { answer.await.then_some(()) }
    };
    wait::eventually(what, Duration::from_secs(60), ask).await;
}

/// Waits until `by` consumers are attached to the queue: messages published after that find a worker.
pub async fn consumed(app: &App, queue: &str, by: u64) {
    eventually("the workers consume", async || {
        let broker = app.broker().await.expect("a broker");
        let queues = broker.queues(&[queue.to_owned()]).await.expect("an answer");
        queues.first().is_some_and(|queue| queue.consumers == by)
    })
    .await;
}
