//! The worker: opens broker and backend, consumes, keeps no more than `concurrency` tasks running, and stops
//! without losing anything.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant};

use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

use super::admission::gate::Gate;
use super::admission::quarantine::Quarantine;
use super::admission::revocations::{Follower, Revocations};
use super::control::Node;
use super::execution::isolate;
use super::execution::running::RunningTasks;
use super::execution::slots::Places;
use super::handle::WorkerHandle;
use super::health::{Consuming, Health};
use super::pipe::Pipe;
use super::settlement::counters::Summary;
use super::settlement::failure_hooks::FailureHooks;
use super::settlement::persist::{Persist, Settling};
use super::settlement::settle::Settler;
use super::startup::{consume, declare, set_up};
use crate::app::{App, Consumed};
use crate::broker::Subscription;
use crate::error::{Error, Result};
use crate::routing::topology::check_name;
use crate::task::SharedState;
use crate::tracing;

/// How often a worker reads what was revoked, in case it was not told.
const FOLLOW: Duration = Duration::from_secs(30);
/// The same without remote control, where nobody tells it.
const FOLLOW_UNTOLD: Duration = Duration::from_secs(2);

/// Runs the tasks of this program from their queues.
///
/// ```no_run
/// # async fn demo() -> mq_worker::Result<()> {
/// use mq_worker::{App, Worker};
///
/// let worker = Worker::new(App::global()?)?;
/// let handle = worker.handle();
/// tokio::spawn(async move {
///     tokio::signal::ctrl_c().await.ok();
///     handle.stop();
/// });
/// let summary = worker.run().await?;
/// println!("{} tasks succeeded", summary.succeeded);
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Worker {
    app: App,
    queues: Vec<String>,
    shared: Option<SharedState>,
    isolates: bool,
    handle: WorkerHandle,
}

impl Worker {
    /// A worker for the configured queues, or else for the queues of all tasks that are linked in.
    ///
    /// # Errors
    /// A queue name that is not valid, or no queue at all.
    pub fn new(app: App) -> Result<Self> {
        let mut queues = app.config().worker.queues.clone();
        if queues.is_empty() {
            let queued = app.registry().iter().filter(|task| !task.options.broadcast);
            queues = queued.map(|task| app.queue_of(task)).collect();
            queues.sort();
        }
        queues.dedup();
        for queue in &queues {
            check_name("queue", queue)?;
        }
        let broadcasts = app.registry().iter().any(|task| task.options.broadcast);
        if queues.is_empty() && !broadcasts {
            return Err(Error::config(
                "no queue to work on: name some with `--queues a,b`, or link in a crate that defines tasks \
                 (`use my_tasks as _;`)",
            ));
        }
        if app.config().worker.concurrency == 0 {
            return Err(Error::config("a concurrency of 0 would run nothing: give at least 1"));
        }
        if app.config().worker.prefetch == Some(0) {
            return Err(Error::config("a prefetch of 0 would reserve nothing: give at least 1"));
        }
        Ok(Self { app, queues, shared: None, isolates: true, handle: WorkerHandle::default() })
    }

    /// Shares these values with the tasks, instead of what the `#[setup]` functions make. Isolated tasks cannot have
    /// them: in their processes, the `#[setup]` functions run.
    #[must_use]
    pub fn with_state(mut self, state: SharedState) -> Self {
        self.shared = Some(state);
        self
    }

    /// Runs isolated tasks like any other, in this process: for tests, whose program is a test harness and cannot be
    /// started once more for a task. A suspected poison message then has its last run here too.
    #[must_use]
    pub fn without_isolation(mut self) -> Self {
        self.isolates = false;
        self
    }

    /// The queues that it works on.
    pub fn queues(&self) -> &[String] {
        &self.queues
    }

    /// For stopping it.
    pub fn handle(&self) -> WorkerHandle {
        self.handle.clone()
    }

    /// Works until it is told to stop. A broker that is away at the start is waited for.
    ///
    /// # Errors
    /// What cannot get better by waiting: a mistake in the configuration, refused access, a corrupt file, a
    /// `#[setup]` that fails. And [`is_exhausted`](Error::is_exhausted), after everything was handed back: plain functions
    /// that passed their time limit have held all its places for the grace time, and only a new process can go on.
    pub async fn run(self) -> Result<Summary> {
        let Worker { app, queues, shared, isolates, handle } = self;
        if Handle::try_current().is_err() {
            return Err(Error::config(
                "a worker runs its tasks on tokio: await it within a tokio runtime, or let `mq_worker::main()` make one",
            ));
        }
        if isolates {
            isolate::check(app.registry())?;
        }
        // A state that was given to this process is not there in others.
        let quarantines_in_process = isolates && shared.is_none() && isolate::is_ready();
        let health = Health::start(&app.config().worker, &handle)?;
        let shared = match shared {
            Some(shared) => shared,
            None => match set_up(&handle).await? {
                Some(shared) => shared,
                None => return Ok(Summary::default()),
            },
        };
        health.connecting();
        let broker = app.open_broker().await?;
        let backend = app.backend().await?;
        let Consumed { topology, queues, subscriptions } = app.consumed(&queues)?;
        if !declare(&*broker, &topology, &handle).await? {
            return Ok(Summary::default());
        }
        let settings = &app.config().worker;
        let concurrency = settings.concurrency;
        let running = Arc::new(RunningTasks::new(app.registry()));
        let revocations = Arc::new(Revocations::default());
        let mut follower = Follower {
            broker: Arc::clone(&broker),
            revocations: Arc::clone(&revocations),
            running: Arc::clone(&running),
            next: Some(0),
        };
        // Before the first message: it may be one that nobody wants any more.
        if !follower.catch_up(&handle).await? {
            return Ok(Summary::default());
        }
        let prefetch = settings.prefetch.unwrap_or(u16::try_from(concurrency).unwrap_or(u16::MAX));
        let (consumed, dead_letters) = (queues.clone(), queues.clone());
        let consumed_queues = queues.join(",");
        let subscription = Subscription { queues, prefetch, name: app.worker_name() };
        let Some(consumer) = consume(&*broker, subscription, &handle).await? else {
            return Ok(Summary::default());
        };
        let capabilities = broker.capabilities();
        let gate = Gate {
            registry: app.registry().clone(),
            subscriptions,
            shared,
            cold: handle.cold.clone(),
            max_message_size: app.config().max_message_size,
            max_crashes: settings.max_crashes,
            isolates,
            quarantines_in_process,
            revocations: Arc::clone(&revocations),
            broker_counts_crashes: capabilities.counts_crashes,
            tolerance: Duration::from_millis(5),
        };
        let grace = settings.grace;
        let settling = Arc::<Settling>::default();
        let places = Arc::new(Places::new(concurrency));
        let delivered = Arc::new(AtomicU64::new(0));
        health.consuming(Consuming {
            broker: Arc::clone(&broker),
            backend: Arc::clone(&backend),
            control: consumer.control(),
            queues: consumed.as_slice().into(),
            delivered: Arc::clone(&delivered),
            running: Arc::clone(&running),
            settling: Arc::clone(&settling),
        });
        let control = settings.control.then(|| Node {
            name: app.worker_name(),
            app: app.clone(),
            queues: consumed,
            topology,
            prefetch,
            since: Instant::now(),
            running: Arc::clone(&running),
            places: Arc::clone(&places),
            settling: Arc::clone(&settling),
            revocations,
            handle: handle.clone(),
            clock: Default::default(),
        });
        // Beside the work, and until its very end: a worker that finishes what it runs can still be asked.
        let over = CancellationToken::new();
        let _over_when_dropped = over.clone().drop_guard();
        let control = control.map(|node| {
            let (broker, over) = (Arc::clone(&broker), over.clone());
            tokio::spawn(async move { node.serve(broker, over).await })
        });
        let period = if settings.control { FOLLOW } else { FOLLOW_UNTOLD };
        tokio::spawn(follower.follow(period, over.clone()));
        let persist = Persist::new(handle.cold.clone(), settling);
        let (consumed, hooks) = (CancellationToken::new(), FailureHooks::collect());
        let (tally, letters) = Default::default();
        let settler = Settler { app, broker, backend, hooks, persist, consumed, tally, letters };
        tracing::info!(queues = consumed_queues, concurrency, "ready");
        let pipe = Arc::new(Pipe {
            gate,
            settler,
            places: Arc::clone(&places),
            quarantine: Quarantine::new(quarantines_in_process),
            running,
            delivered,
        });
        let dropped = tokio::spawn(super::settlement::dropped_calls::watch(
            Arc::clone(&pipe),
            dead_letters,
            over.clone(),
        ));
        let work = pipe.work(consumer, handle.clone(), grace);
        tokio::pin!(work);
        let worked = tokio::select! {
            biased;
            worked = &mut work => worked,
            // Beside the loop, which passes once for each message.
            () = places.exhausted(grace) => {
                handle.stop();
                let stopped = Error::exhausted(format!(
                    "each of the {concurrency} places is held by a plain function that passed its time limit and does \
                     not return: nothing can run in this process any more"
                ));
                work.await.and(Err(stopped))
            }
        };
        over.cancel();
        // It puts back what it looks at.
        let _ = tokio::time::timeout(Duration::from_secs(2), dropped).await;
        if let Some(control) = control {
            // It only says goodbye; a broker that is away must not hold up the end.
            let _ = tokio::time::timeout(Duration::from_secs(2), control).await;
        }
        worked.map(|()| pipe.settler.tally.summary())
    }
}
