//! The worker: opens broker and backend, consumes, keeps no more than `concurrency` tasks running, and stops
//! without losing anything.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use chrono::Utc;
use futures_util::stream::{self, StreamExt};
use serde::Serialize;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::control::Node;
use super::executor::{self, Limits};
use super::failure_hooks::FailureHooks;
use super::handle::WorkerHandle;
use super::health::{Consuming, Health};
use super::isolate;
use super::outcome::{Attempts, Outcome, decide};
use super::places::Places;
use super::request::{Admission, Gate, Request};
use super::revoked::{Follower, Revocations};
use super::running::RunningTasks;
use super::settle::{Abandoned, Settler, Tally};
use super::start::{consume, declare};
use crate::app::{App, Consumed};
use crate::broker::{Consumer, ConsumerControl, Delivery, Subscription};
use crate::error::{Error, Result};
use crate::routing::topology::check_name;
use crate::task::registry::run_setup;
use crate::task::{AckMode, SharedState, Work};

/// How often a worker reads what was revoked, in case it was not told.
const FOLLOW: Duration = Duration::from_secs(30);
/// The same without remote control, where nobody tells it.
const FOLLOW_UNTOLD: Duration = Duration::from_secs(2);
/// Enough to fill the broker's batches.
const HANDED_BACK_AT_ONCE: usize = 1024;
/// How long a message on its last life waits, at most, while another one runs.
const TRIAL_PAUSE: Duration = Duration::from_secs(1);
/// Others on their last life that came together with it are sent away before it begins to run.
const TRIAL_CALM: Duration = Duration::from_millis(100);

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

/// What a worker did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Summary {
    /// Tasks that returned.
    pub succeeded: u64,
    /// Messages that went to a dead-letter queue.
    pub failed: u64,
    /// Failed runs that will be tried again.
    pub retried: u64,
    /// Messages that were handed back at the end.
    pub requeued: u64,
    /// Messages that were too late or cancelled.
    pub revoked: u64,
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
    /// started once more for a task.
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
        if isolates {
            isolate::check(app.registry())?;
        }
        let health = Health::start(&app.config().worker, &handle)?;
        let shared = match shared {
            Some(shared) => shared,
            None => {
                let mut shared = SharedState::default();
                run_setup(&mut shared).await?;
                shared
            }
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
        let consumed = queues.clone();
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
            revocations: Arc::clone(&revocations),
            broker_counts_crashes: capabilities.counts_crashes,
            tolerance: Duration::from_millis(5),
        };
        let grace = settings.grace;
        let places = Arc::new(Places::new(concurrency));
        let delivered = Arc::new(AtomicU64::new(0));
        health.consuming(Consuming {
            broker: Arc::clone(&broker),
            control: consumer.control(),
            queues: consumed.as_slice().into(),
            delivered: Arc::clone(&delivered),
            running: Arc::clone(&running),
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
        let (cold, consumed) = (handle.cold.clone(), CancellationToken::new());
        let hooks = FailureHooks::collect();
        let settler = Settler { app, broker, backend, hooks, cold, consumed, tally: Tally::default() };
        let pipe = Arc::new(Pipe {
            gate,
            settler,
            places: Arc::clone(&places),
            trial: Semaphore::new(1),
            suspects: AtomicUsize::new(0),
            running,
            delivered,
        });
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
        if let Some(control) = control {
            // It only says goodbye; a broker that is away must not hold up the end.
            let _ = tokio::time::timeout(Duration::from_secs(2), control).await;
        }
        worked.map(|()| pipe.summary())
    }
}

/// What a delivery goes through.
struct Pipe {
    gate: Gate,
    settler: Settler,
    places: Arc<Places>,
    /// For messages that are put aside if their worker dies once more: one of them at a time. What takes its process
    /// down would take the others with it, and they would share its fate.
    trial: Semaphore,
    /// How many such messages are in this worker's hands.
    suspects: AtomicUsize,
    running: Arc<RunningTasks>,
    delivered: Arc<AtomicU64>,
}

/// One of the messages on their last life; dropped when it is settled.
struct InHand<'a>(&'a AtomicUsize);

impl<'a> InHand<'a> {
    fn one_of(all: &'a AtomicUsize) -> Self {
        all.fetch_add(1, Ordering::AcqRel);
        Self(all)
    }

    /// How many there are, with this one.
    fn count(&self) -> usize {
        self.0.load(Ordering::Acquire)
    }
}

impl Drop for InHand<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Pipe {
    async fn work(
        self: &Arc<Self>,
        mut consumer: Consumer,
        handle: WorkerHandle,
        grace: Duration,
    ) -> Result<()> {
        let tasks = TaskTracker::new();
        let control = consumer.control();
        // Handed out to this worker, and waiting for a place.
        let mut waiting = VecDeque::new();
        let mut closed = false;
        loop {
            // Asked here, so that a busy worker need not register with the token twice for each message.
            if handle.warm.is_cancelled() {
                break;
            }
            let delivery = tokio::select! {
                biased;
                permit = self.places.take(), if !waiting.is_empty() => {
                    let pipe = Arc::clone(self);
                    if let Some(delivery) = waiting.pop_front() {
                        tasks.spawn(async move { pipe.process(delivery, permit).await });
                    }
                    continue;
                }
                delivery = consumer.next() => delivery,
                () = handle.warm.cancelled() => break,
            };
            // Brokers restore a consumer by themselves; one that ends unasked was closed with its broker.
            let Some(delivery) = delivery else {
                closed = true;
                break;
            };
            self.delivered.fetch_add(1, Ordering::Relaxed);
            // Seen as soon as it is here, however busy this worker is: what waits unseen is in danger.
            if self.gate.is_on_its_last_life(&delivery) {
                let (pipe, warm, control) = (Arc::clone(self), handle.warm.clone(), Arc::clone(&control));
                tasks.spawn(async move { pipe.try_alone(delivery, &warm, &control).await });
            } else {
                waiting.push_back(delivery);
            }
        }
        // What was handed to this worker but never began goes back; meanwhile the running tasks finish.
        let hand_back = async {
            consumer.end().await;
            self.settler.consumed.cancel();
            while let Some(delivery) = consumer.next().await {
                waiting.push_back(delivery);
            }
            // Together: one after the other, a broker that does not answer would cost its time for each.
            let hand_back = async |delivery| self.hand_back(delivery).await;
            stream::iter(waiting).for_each_concurrent(HANDED_BACK_AT_ONCE, hand_back).await;
        };
        tasks.close();
        let finish = async {
            let finished = tokio::time::timeout(grace, tasks.wait()).await.is_ok();
            if !finished {
                tracing::warn!(running = self.places.taken() - self.places.lost(), ?grace, "grace is over");
                handle.cold.cancel();
            }
        };
        tokio::join!(hand_back, finish);
        // Interrupted tasks hand their messages back; a plain function cannot be interrupted, but its message can.
        tasks.wait().await;
        control.flush().await;
        if closed {
            Err(Error::connection("the broker was closed while the worker was running"))
        } else {
            Ok(())
        }
    }

    /// Runs a message that is put aside if this worker dies with it, while no other such message is in its hands.
    async fn try_alone(
        &self,
        delivery: Delivery,
        warm: &CancellationToken,
        control: &Arc<dyn ConsumerControl>,
    ) {
        let in_hand = InHand::one_of(&self.suspects);
        let Ok(_turn) = self.trial.try_acquire() else {
            return match self.gate.admit(delivery, Utc::now()) {
                // Waiting here, it would be in this worker's hands when the one on trial takes it down. The more there
                // are, the longer each is away: else some would always be on their way.
                Admission::Run(request, ..) => {
                    let crowd = (in_hand.count() as f64 / 10.0).max(1.0);
                    let wait = TRIAL_PAUSE.mul_f64(crowd * (0.25 + 0.75 * fastrand::f64()));
                    self.settler.postpone(request, wait).await;
                }
                other => self.dispose(other).await,
            };
        };
        let alone = async {
            let permit = self.places.take().await;
            loop {
                tokio::time::sleep(TRIAL_CALM).await;
                if in_hand.count() == 1 {
                    break;
                }
            }
            // Not before the broker knows that the others have been sent away.
            control.flush().await;
            permit
        };
        tokio::select! {
            biased;
            () = warm.cancelled() => self.hand_back(delivery).await,
            permit = alone => self.process(delivery, permit).await,
        }
    }

    async fn process(&self, delivery: Delivery, permit: OwnedSemaphorePermit) {
        match self.gate.admit(delivery, Utc::now()) {
            Admission::Run(request, work, limits) => match self.settler.has_succeeded(&request).await {
                Ok(false) => self.run(request, work, limits, permit).await,
                Ok(true) => self.settler.settle(request, Outcome::Repeated, Duration::ZERO).await,
                Err(Abandoned) => self.settler.hand_back(request).await,
            },
            other => self.dispose(other).await,
        }
    }

    async fn run(&self, mut request: Request, work: Work, limits: Limits, permit: OwnedSemaphorePermit) {
        tracing::debug!(task = request.context.task(), id = request.context.id(), "started");
        let early = request.options.ack == AckMode::Early;
        if early {
            request.settlement = request.settlement.settle_early();
        }
        let begun = Instant::now();
        let _listed = self.running.enter(&request.context, begun, early);
        // Revoked since it was admitted, and before anybody could find it on the list.
        if self.gate.revocations.contains(request.context.id()) {
            return self.dispose(Admission::Settle(request, Outcome::Revoked { why: "revoked" })).await;
        }
        let ended =
            executor::run(work, &request.context, limits, permit, &self.places, &self.gate.cold).await;
        let attempts = Attempts {
            retries: request.context.retries(),
            crashes: request.crashes,
            max_crashes: self.gate.max_crashes,
        };
        let outcome = decide(ended, &request.options, attempts, fastrand::f64());
        self.settler.settle(request, outcome, begun.elapsed()).await;
    }

    /// Does with a message what is to be done instead of running it.
    async fn dispose(&self, admission: Admission) {
        match admission {
            Admission::Run(request, ..) => {
                self.settler.settle(request, Outcome::HandBack, Duration::ZERO).await
            }
            Admission::Settle(request, outcome) => {
                self.settler.settle(request, outcome, Duration::ZERO).await
            }
            Admission::Early(request, wait) => self.settler.postpone(request, wait).await,
            Admission::Suspect(request) => self.settler.suspect(request).await,
            Admission::Split(request, entries) => self.settler.split(request, &entries).await,
        }
    }

    /// Gives back what never began. Its message is only decoded as far as needed for that.
    async fn hand_back(&self, delivery: Delivery) {
        match self.gate.admit(delivery, Utc::now()) {
            Admission::Run(request, ..)
            | Admission::Settle(request, _)
            | Admission::Early(request, _)
            | Admission::Suspect(request)
            | Admission::Split(request, _) => {
                self.settler.settle(request, Outcome::HandBack, Duration::ZERO).await;
            }
        }
    }

    fn summary(&self) -> Summary {
        let tally = &self.settler.tally;
        Summary {
            succeeded: tally.succeeded.load(Ordering::Relaxed),
            failed: tally.failed.load(Ordering::Relaxed),
            retried: tally.retried.load(Ordering::Relaxed),
            requeued: tally.requeued.load(Ordering::Relaxed),
            revoked: tally.revoked.load(Ordering::Relaxed),
        }
    }
}
