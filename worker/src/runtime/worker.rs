//! The worker: opens the broker and the result backend, consumes, runs at most `concurrency` tasks at once, and stops
//! without losing anything.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant};

use tokio::runtime::Handle;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::admission::gate::Gate;
use super::admission::limits::ChangedLimits;
use super::admission::quarantine::Quarantine;
use super::admission::reserved::ReservedRequests;
use super::control::Node;
use super::control::pause_reader::PauseReader;
use super::control::revocation_reader::RevocationReader;
use super::execution::isolate;
use super::execution::running::RunningTasks;
use super::execution::slots::Slots;
use super::handle::WorkerHandle;
use super::health::{Consuming, Health};
use super::heartbeat::Heartbeat;
use super::pipe::Pipe;
use super::prefetch::Window;
use super::reporter::{Reporter, Values};
use super::settlement::counters::Summary;
use super::settlement::dropped_calls;
use super::settlement::failure_hooks::FailureHooks;
use super::settlement::persist::{Persist, Settling};
use super::settlement::settler::Settler;
use super::sources::Sources;
use super::startup::{NotReady, check_result_backend, consume, declare, set_up};
use crate::app::{App, Consumed, Prefetch};
use crate::broker::{Broker, Consumer, Subscription};
use crate::control::Clock;
use crate::error::{Error, Result};
use crate::events::{Emitter, EventKind};
use crate::panics::keep_traces;
use crate::routing::names::check_name;
use crate::task::SharedState;
use crate::tracing;

/// How often a worker reads the register of revoked calls, in case it missed a command.
const FOLLOW: Duration = Duration::from_secs(30);
/// The same without remote control, where no command announces a revocation.
const FOLLOW_WITHOUT_CONTROL: Duration = Duration::from_secs(2);

/// How long before its ETA a message may be run.
const TOLERANCE: Duration = Duration::from_millis(5);
/// How long shutdown waits for each background task.
const BACKGROUND_STOP_TIMEOUT: Duration = Duration::from_secs(2);

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
    /// Creates a worker for the configured queues, or else for the queues of all linked tasks.
    ///
    /// # Errors
    /// Fails if a queue name is invalid, if there is no queue to work on, or if concurrency or prefetch is 0.
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
        if app.config().worker.prefetch == Prefetch::Fixed(0) {
            return Err(Error::config("a prefetch of 0 would reserve nothing: give at least 1, or `auto`"));
        }
        Ok(Self { app, queues, shared: None, isolates: true, handle: WorkerHandle::default() })
    }

    /// Shares these values with the tasks instead of running the `#[setup]` functions. Isolated tasks cannot use them: their
    /// processes run the `#[setup]` functions.
    #[must_use]
    pub fn with_state(mut self, state: SharedState) -> Self {
        self.shared = Some(state);
        self
    }

    /// Runs isolated tasks in this process, like any other task. Meant for tests: a test harness cannot be started again to
    /// run a single task. The quarantine of a suspected poison message then takes place in this process too.
    #[must_use]
    pub fn without_isolation(mut self) -> Self {
        self.isolates = false;
        self
    }

    /// Returns the queues that this worker works on.
    pub fn queues(&self) -> &[String] {
        &self.queues
    }

    /// Returns a handle that stops this worker.
    pub fn handle(&self) -> WorkerHandle {
        self.handle.clone()
    }

    /// Runs until the worker is stopped. If the broker is away at startup, waits for it.
    ///
    /// # Errors
    /// Fails if waiting cannot help: on a configuration mistake, refused access, a corrupt file or a failing `#[setup]`
    /// function. Also fails with [`is_exhausted`](Error::is_exhausted), after requeueing everything, when plain functions
    /// past their time limit have held every slot for the grace time: only a new process can continue.
    pub async fn run(self) -> Result<Summary> {
        match self.prepare().await {
            Ok(ready) => ready.work().await,
            Err(NotReady::Stopped) => Ok(Summary::default()),
            Err(NotReady::Failed(error)) => Err(error),
        }
    }

    /// Runs the `#[setup]` functions, connects to the broker and starts consuming.
    async fn prepare(self) -> Result<Ready, NotReady> {
        self.check()?;
        keep_traces();
        let Worker { app, queues, shared, isolates, handle } = self;
        app.connect_as_worker();
        let settings = &app.config().worker;
        // State passed to this process does not exist in other processes.
        let quarantines_in_process = isolates && shared.is_none() && isolate::is_ready();
        let health = Health::start(&app, settings, &handle)?;
        let shared = match shared {
            Some(shared) => shared,
            None => set_up(&handle).await?,
        };
        health.connecting();
        let broker = app.open_broker().await?;
        let backend = app.backend().await?;
        check_result_backend(&*backend).await?;
        let Consumed { topology, queues, subscriptions } = app.consumed(&queues)?;
        declare(&*broker, &topology, &handle).await?;
        let sources = Arc::new(Sources::new(queues.clone(), topology));
        let running = Arc::new(RunningTasks::new(app.registry()));
        let mut reader = RevocationReader::new(Arc::clone(&broker), Arc::clone(&running));
        let mut pause_reader = PauseReader::new(Arc::clone(&broker), Arc::clone(&sources));
        // Before the first message, which may be revoked or belong to a paused queue.
        tokio::try_join!(reader.catch_up(&handle), pause_reader.catch_up(&handle))?;
        let pauses = Arc::clone(&pause_reader.pauses);
        let revocations = Arc::clone(&reader.revocations);
        let prefetch = settings.prefetch.at_start(settings.concurrency);
        let attached = pause_reader.open();
        let subscription = Subscription { queues: attached.clone(), prefetch, name: app.worker_name() };
        let consumer = consume(&*broker, subscription, &handle).await?;
        let store = app.config().effective_result_backend().to_string();
        let settling = Arc::new(Settling::new(app.config().broker_url.to_string(), store));
        let slots = Arc::new(Slots::new(settings.concurrency));
        let window =
            Window::new(settings.prefetch, Arc::clone(&slots), consumer.control(), Arc::clone(&pauses));
        let window = Arc::new(window);
        let delivered = Arc::new(AtomicU64::new(0));
        let clock = Arc::<Clock>::default();
        let (reporter, sending) = report(&app, &broker, &clock);
        health.consuming(Consuming {
            broker: Arc::clone(&broker),
            backend: Arc::clone(&backend),
            control: consumer.control(),
            sources: Arc::clone(&sources),
            delivered: Arc::clone(&delivered),
            running: Arc::clone(&running),
            settling: Arc::clone(&settling),
            pauses: Arc::clone(&pauses),
            slots: Arc::clone(&slots),
            reporter: reporter.clone(),
        });
        let heartbeat = Heartbeat { reporter: reporter.clone(), running: Arc::clone(&running) };
        let limits = Arc::<ChangedLimits>::default();
        let reserved_requests = Arc::<ReservedRequests>::default();
        let node = settings.control.then(|| Node {
            name: app.worker_name(),
            app: app.clone(),
            sources,
            window: Arc::clone(&window),
            reserved_requests: Arc::clone(&reserved_requests),
            limits: Arc::clone(&limits),
            since: Instant::now(),
            running: Arc::clone(&running),
            slots: Arc::clone(&slots),
            settling: Arc::clone(&settling),
            revocations: Arc::clone(&revocations),
            pauses: Arc::clone(&pauses),
            handle: handle.clone(),
            clock,
            heartbeat: heartbeat.clone(),
        });
        let gate = Gate {
            registry: app.registry().clone(),
            subscriptions,
            shared,
            cold: handle.cold.clone(),
            max_message_size: app.config().max_message_size,
            result_types: app.config().result_types,
            max_crashes: settings.max_crashes,
            isolates,
            quarantines_in_process,
            revocations,
            pauses,
            limits,
            broker_counts_crashes: broker.capabilities().counts_crashes,
            tolerance: TOLERANCE,
        };
        let settler = Settler {
            worker: app.worker_name(),
            app,
            broker,
            backend,
            backend_away: Default::default(),
            hooks: FailureHooks::collect(),
            metrics: health.metrics(),
            reporter,
            persist: Persist::new(handle.cold.clone(), settling),
            consumed: CancellationToken::new(),
            counters: Default::default(),
            letters: Default::default(),
        };
        let quarantine = Quarantine::new(quarantines_in_process);
        let pipe = Arc::new(Pipe {
            gate,
            settler,
            slots,
            window,
            quarantine,
            consumer: consumer.control(),
            running,
            reserved_requests,
            delivered,
        });
        Ok(Ready {
            pipe,
            consumer,
            queues,
            reader,
            pause_reader,
            attached,
            node,
            heartbeat,
            sending,
            handle,
            _health: health,
        })
    }

    /// Checks for mistakes in the program before anything is started.
    fn check(&self) -> Result<()> {
        if Handle::try_current().is_err() {
            return Err(Error::config(
                "a worker runs its tasks on tokio: await it within a tokio runtime, or let `mq_worker::main()` make one",
            ));
        }
        if self.isolates { isolate::check(self.app.registry()) } else { Ok(()) }
    }
}

/// Starts sending events, unless both remote control and events are off.
fn report(app: &App, broker: &Arc<dyn Broker>, clock: &Arc<Clock>) -> (Reporter, Option<JoinHandle<()>>) {
    let (config, settings) = (app.config(), &app.config().worker);
    if !settings.control && !settings.events {
        return (Reporter::default(), None);
    }
    let (emitter, sending) = Emitter::new(Arc::clone(broker), app.worker_name());
    let values = if config.event_values { Values::Shown } else { Values::Hidden };
    let reporter = Reporter::new(emitter, Arc::clone(clock), settings.events, values);
    (reporter, Some(tokio::spawn(sending.run())))
}

/// A worker that is set up and consuming.
struct Ready {
    pipe: Arc<Pipe>,
    consumer: Consumer,
    queues: Vec<String>,
    reader: RevocationReader,
    pause_reader: PauseReader,
    /// The queues that are not paused.
    attached: Vec<String>,
    /// `None` without remote control.
    node: Option<Node>,
    heartbeat: Heartbeat,
    /// The task that sends events. `None` when both remote control and events are off.
    sending: Option<JoinHandle<()>>,
    handle: WorkerHandle,
    /// Kept to the very end: health checks are answered until the worker has stopped.
    _health: Health,
}

impl Ready {
    /// Runs until the worker is stopped, with remote control and the register readers beside it.
    async fn work(self) -> Result<Summary> {
        let Ready {
            pipe,
            consumer,
            queues,
            reader,
            pause_reader,
            attached,
            node,
            heartbeat,
            sending,
            handle,
            _health,
        } = self;
        let settings = &pipe.settler.app.config().worker;
        let (concurrency, grace) = (settings.concurrency, settings.grace);
        // Fires at the very end: a worker that is finishing its tasks still answers remote control.
        let over = CancellationToken::new();
        let _over_when_dropped = over.clone().drop_guard();
        let period = if node.is_some() { FOLLOW } else { FOLLOW_WITHOUT_CONTROL };
        let mailbox = CancellationToken::new();
        let control = node.map(|node| {
            let (broker, tried, over) = (Arc::clone(&pipe.settler.broker), mailbox.clone(), over.clone());
            tokio::spawn(async move { Arc::new(node).serve(broker, tried, over).await })
        });
        if control.is_some() && !reader.is_stored() {
            // Otherwise a revocation that comes before the mailbox would be lost.
            tokio::select! { () = mailbox.cancelled() => {}, () = handle.warm.cancelled() => {} }
        }
        tokio::spawn(reader.follow(period, over.clone()));
        heartbeat.report(EventKind::WorkerOnline);
        let beating = tokio::spawn(heartbeat.clone().beat(over.clone()));
        tokio::spawn(pause_reader.follow(consumer.control(), attached, period, over.clone()));
        tokio::spawn(Arc::clone(&pipe.window).follow(over.clone()));
        tracing::info!(queues = queues.join(","), concurrency, "ready");
        let dropped = tokio::spawn({
            let (pipe, over) = (Arc::clone(&pipe), over.clone());
            async move { dropped_calls::watch(&pipe.gate, &pipe.settler, queues, over).await }
        });
        let work = pipe.work(consumer, handle.clone(), grace);
        tokio::pin!(work);
        let worked = tokio::select! {
            biased;
            worked = &mut work => worked,
            // Outside the pipe's loop, which runs once per message.
            () = pipe.slots.exhausted(grace) => {
                handle.stop();
                let stopped = Error::exhausted(format!(
                    "each of the {concurrency} slots is held by a plain function that passed its time limit and does \
                     not return: nothing can run in this process any more"
                ));
                work.await.and(Err(stopped))
            }
        };
        over.cancel();
        // Dead letters that it holds return to their queue.
        let _ = tokio::time::timeout(BACKGROUND_STOP_TIMEOUT, dropped).await;
        if let Some(control) = control {
            // It only closes its mailbox; a broker that is away must not delay the shutdown.
            let _ = tokio::time::timeout(BACKGROUND_STOP_TIMEOUT, control).await;
        }
        let _ = beating.await;
        heartbeat.report(EventKind::WorkerOffline);
        heartbeat.reporter.finish();
        if let Some(sending) = sending {
            let _ = tokio::time::timeout(BACKGROUND_STOP_TIMEOUT, sending).await;
        }
        worked.map(|()| pipe.settler.counters.summary())
    }
}
