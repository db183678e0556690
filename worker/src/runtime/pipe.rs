//! The path of a delivery through a worker: it is admitted, given a slot, run and settled, or requeued if the worker stops
//! first.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use chrono::Utc;
use futures_util::stream::{self, StreamExt};
use tokio::sync::OwnedSemaphorePermit;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;

use super::admission::gate::{Admission, Decoded, Gate};
use super::admission::limits::Limits;
use super::admission::quarantine::{CrashVerdict, Quarantine, verdict};
use super::admission::request::Request;
use super::admission::reserved::ReservedRequests;
use super::admission::waiting::Waiting;
use super::execution::executor;
use super::execution::runners::{RunJob, Runners};
use super::execution::running::RunningTasks;
use super::execution::slots::Slots;
use super::handle::WorkerHandle;
use super::prefetch::Window;
use super::settlement::outcome::{Outcome, decide, refused};
use super::settlement::overlap::keeping;
use super::settlement::persist::Abandoned;
use super::settlement::settler::Settler;
use super::waited::waited;
use crate::broker::{Consumer, ConsumerControl, Delivery};
use crate::error::{Error, Result};
use crate::events::EventKind;
use crate::panics::Guarded;
use crate::show;
use crate::task::{AckMode, Work};
use crate::traces::CallTrace;
use crate::tracing;

/// How many deliveries are requeued concurrently: enough to fill the broker's batches.
const REQUEUED_AT_ONCE: usize = 1024;
/// Timeout for each step of a shutdown other than waiting for the running tasks. What is not settled by then is delivered
/// again.
const STEP: Duration = Duration::from_secs(10);

/// The stages that a delivery passes through, and the state that they share.
pub(crate) struct Pipe {
    pub(super) gate: Gate,
    pub(super) settler: Settler,
    pub(super) slots: Arc<Slots>,
    pub(super) window: Arc<Window>,
    pub(super) quarantine: Quarantine,
    pub(super) consumer: Arc<dyn ConsumerControl>,
    pub(super) running: Arc<RunningTasks>,
    /// Pending requests for the deliveries that wait for a slot.
    pub(super) reserved_requests: Arc<ReservedRequests>,
    /// The number of deliveries so far, which shows whether this worker makes progress.
    pub(super) delivered: Arc<AtomicU64>,
}

impl Pipe {
    /// Takes deliveries until the worker is stopped, then finishes or requeues all that it holds.
    pub(super) async fn work(
        self: &Arc<Self>,
        mut consumer: Consumer,
        handle: WorkerHandle,
        grace: Duration,
    ) -> Result<()> {
        let tasks = TaskTracker::new();
        let runners = Runners::new(Arc::clone(self));
        // Delivered to this worker, and waiting for a slot.
        let mut waiting = Waiting::new(Arc::clone(&self.gate.pauses));
        let mut closed = false;
        loop {
            // Checked here, so that a busy worker need not register with the token twice for each message.
            if handle.warm.is_cancelled() {
                break;
            }
            if self.gate.pauses.take_change() {
                let mut returned = waiting.sort();
                if let Some(keep) = self.window.take_shrink() {
                    // Include what was delivered before the broker knew about the smaller window.
                    while let Some(delivery) = consumer.next_now() {
                        self.arrive(delivery, &tasks, &mut waiting, &handle.warm);
                    }
                    returned.extend(waiting.beyond(keep));
                }
                for delivery in returned {
                    let pipe = Arc::clone(self);
                    tasks.spawn(async move { pipe.return_unstarted(delivery).await });
                }
                self.reserved_requests.answer(waiting.all());
            }
            while !waiting.is_empty()
                && let Some(slot) = self.slots.try_take()
            {
                self.start(&runners, &tasks, &mut waiting, slot);
            }
            self.window.wait(waiting.ready());
            let delivery = tokio::select! {
                biased;
                slot = self.slots.take(), if !waiting.is_empty() => {
                    self.start(&runners, &tasks, &mut waiting, slot);
                    continue;
                }
                delivery = consumer.next() => delivery,
                () = handle.warm.cancelled() => break,
                () = self.gate.pauses.changed() => continue,
            };
            // Brokers restore lost consumers themselves; one that ends on its own was closed together with its broker.
            let Some(delivery) = delivery else {
                closed = true;
                break;
            };
            self.arrive(delivery, &tasks, &mut waiting, &handle.warm);
        }
        // Requeue deliveries that never started, while the running tasks finish.
        let requeue = async {
            let has_ended = in_time("stop consuming", consumer.stop()).await.is_some();
            self.settler.consumed.cancel();
            let mut rest: Vec<Delivery> = waiting.into_all().collect();
            while has_ended
                && let Some(Some(delivery)) =
                    in_time("receive the remaining deliveries", consumer.next()).await
            {
                rest.push(delivery);
            }
            // Concurrently: one after another, a broker that does not answer would cost its timeout for each.
            let requeue = async |delivery| self.requeue(delivery).await;
            stream::iter(rest).for_each_concurrent(REQUEUED_AT_ONCE, requeue).await;
        };
        tasks.close();
        let finish = async {
            let finished = tokio::time::timeout(grace, tasks.wait()).await.is_ok();
            if !finished {
                tracing::warn!(running = self.slots.taken() - self.slots.lost(), grace = %show::duration(grace), "grace time expired");
                handle.cold.cancel();
            }
        };
        tokio::join!(requeue, finish);
        // Interrupted tasks requeue their messages; a plain function cannot be interrupted, but its message can be requeued.
        in_time("settle interrupted tasks", tasks.wait()).await;
        in_time("flush settlements to the broker", self.consumer.flush()).await;
        if closed {
            Err(Error::connection("the broker was closed while the worker was running"))
        } else {
            Ok(())
        }
    }

    /// Takes a new delivery: a suspected poison message is quarantined, any other one waits for a slot.
    fn arrive(
        self: &Arc<Self>,
        delivery: Delivery,
        tasks: &TaskTracker,
        waiting: &mut Waiting,
        warm: &CancellationToken,
    ) {
        self.delivered.fetch_add(1, Ordering::Relaxed);
        // Check for poison messages on arrival: a crash while one is queued would count against it again.
        if self.gate.crash_facts(&delivery).is_suspect() {
            let (pipe, warm) = (Arc::clone(self), warm.clone());
            tasks.spawn(async move { pipe.quarantine(delivery, &warm).await });
        } else {
            waiting.push(delivery);
        }
    }

    /// Starts the next waiting delivery.
    fn start(
        &self,
        runners: &Runners<Self>,
        tasks: &TaskTracker,
        waiting: &mut Waiting,
        slot: OwnedSemaphorePermit,
    ) {
        if let Some(delivery) = waiting.pop() {
            self.window.begin();
            runners.run(Started { delivery, slot, _unfinished: tasks.token() });
        }
    }

    /// Runs a suspected poison message while no other message with a crash count runs. If an earlier quarantine did not
    /// finish, the message is dead-lettered, or counted and sent again where that proves nothing.
    async fn quarantine(&self, mut delivery: Delivery, warm: &CancellationToken) {
        delivery.settlement.begin();
        let crashed = self.quarantine.enter();
        let facts = self.gate.crash_facts(&delivery);
        let noted = match facts.is_at_limit() {
            true => self.settler.was_quarantined(&delivery.message.headers).await,
            false => Ok(false),
        };
        let Ok(noted) = noted else { return self.requeue(delivery).await };
        let verdict = verdict(&facts, noted);
        if verdict != CrashVerdict::RunAlone {
            return self.process(delivery, verdict, None).await;
        }
        // Waiting here would take room in the prefetch window from messages without a crash count.
        let Some(_alone) = crashed.run_alone() else { return self.process(delivery, verdict, None).await };
        tokio::select! {
            biased;
            () = warm.cancelled() => self.requeue(delivery).await,
            slot = self.slots.take() => self.process(delivery, verdict, Some(slot)).await,
        }
    }

    /// Admits a delivery and runs it. Without a slot, a message that could run is sent back to wait in the broker.
    ///
    /// Every task pays for the size of this future, so rare branches are boxed.
    async fn process(
        &self,
        mut delivery: Delivery,
        verdict: CrashVerdict,
        slot: Option<OwnedSemaphorePermit>,
    ) {
        delivery.settlement.begin();
        let (mut request, work, limits) = match self.gate.admit(delivery, verdict, Utc::now()) {
            Admission::Run(request, work, limits) => (request, work, limits),
            other => return Box::pin(self.turn_away(other)).await,
        };
        let Some(slot) = slot else {
            return Box::pin(self.settler.postpone(request, self.quarantine.pause())).await;
        };
        let in_quarantine = verdict == CrashVerdict::RunAlone;
        let crashed = (!in_quarantine && request.crashes() > 0).then(|| self.quarantine.enter());
        let _beside = match &crashed {
            // If this one crashed the worker, the message in quarantine would be blamed.
            Some(crashed) => match crashed.run_beside_others() {
                None => return Box::pin(self.settler.postpone(request, self.quarantine.pause())).await,
                beside => beside,
            },
            None => None,
        };
        match self.settler.has_succeeded(&request).await {
            Ok(false) => {}
            Ok(true) => {
                return Box::pin(self.settler.settle(request, Outcome::Duplicate, Duration::ZERO)).await;
            }
            Err(Abandoned) => return Box::pin(self.settler.requeue(request)).await,
        }
        if in_quarantine {
            // Before it runs: a worker that receives it again must know that its quarantine has started.
            if Box::pin(self.settler.note_quarantine(request.context.headers())).await.is_err() {
                return Box::pin(self.settler.requeue(request)).await;
            }
            request.quarantined = true;
            self.settler.reporter.happened(EventKind::Quarantined, &request.context);
        }
        if request.crashes() > 0 {
            // It may be a copy that this worker has just sent. Were the original not acknowledged when it kills the worker,
            // there would be two of them, and each would kill further workers.
            Box::pin(async {
                self.quarantine.counted().await;
                in_time("flush settlements to the broker", self.consumer.flush()).await;
            })
            .await;
        }
        self.run(request, work, limits, slot).await;
    }

    /// Settles a delivery that is not run now.
    async fn turn_away(&self, admission: Admission) {
        match admission {
            Admission::Run(request, ..) => self.settler.requeue(request).await,
            Admission::Refuse(request, refusal) => {
                let attempts = self.gate.attempts(&request);
                let outcome = refused(refusal, request.options, attempts, fastrand::f64());
                self.settler.settle(request, outcome, Duration::ZERO).await;
            }
            Admission::Early(request, wait) => {
                // Celery's tools learn about a call and its ETA from the event that a worker has received it.
                self.settler.reporter.received(&request.context);
                self.settler.postpone(request, wait).await;
            }
            Admission::Hold(request, wait) => self.settler.hold(request, wait).await,
            Admission::CountCrash(request) => {
                let _counting = self.quarantine.counting().await;
                self.settler.count_crash(request).await;
            }
            Admission::Split(request, entries) => self.settler.split(request, &entries).await,
        }
    }

    async fn run(
        &self,
        mut request: Request,
        work: Guarded<Work>,
        limits: Limits,
        slot: OwnedSemaphorePermit,
    ) {
        tracing::debug!(task = request.context.task(), id = request.context.id(), "started");
        let early = request.options.ack == AckMode::Early;
        if early {
            request.settlement = request.settlement.settle_early();
        }
        self.settler.reporter.received(&request.context);
        let begun = Instant::now();
        let _listed = self.running.enter(&request.context, begun, early);
        // Revoked after it was admitted, but before it was listed as running.
        if self.gate.revocations.concern(&request.context) {
            let outcome = Outcome::Revoked { why: "revoked" };
            return Box::pin(self.settler.settle(request, outcome, Duration::ZERO)).await;
        }
        self.settler.metrics.started(&request.context);
        self.settler.reporter.started(&request.context);
        let since = || waited(request.context.id(), request.context.headers(), Utc::now());
        request.trace = CallTrace::begin(&request.context, since);
        let step = request.trace.step("run");
        let work = work.into_inner();
        let layers = self.settler.app.middleware();
        let run =
            executor::run(work, &request.context, layers, limits, step, slot, &self.slots, &self.gate.cold);
        let ended = match self.settler.overlap_lock(&request) {
            None => self.settler.reporting(&request, run).await,
            Some(lock) => {
                let run = self.settler.reporting(&request, run);
                Box::pin(keeping(&self.settler.broker, lock, run)).await
            }
        };
        let attempts = self.gate.attempts(&request);
        let outcome = decide(ended, request.options, attempts, fastrand::f64());
        self.settler.settle(request, outcome, begun.elapsed()).await;
    }

    /// Returns an unstarted delivery to its queue while this worker keeps running.
    async fn return_unstarted(&self, delivery: Delivery) {
        let Decoded { request, .. } = self.gate.decode(delivery, CrashVerdict::Run);
        self.settler.return_unstarted(request).await;
    }

    /// Requeues an unstarted delivery.
    async fn requeue(&self, delivery: Delivery) {
        let Decoded { request, .. } = self.gate.decode(delivery, CrashVerdict::Run);
        self.settler.settle(request, Outcome::Requeue, Duration::ZERO).await;
    }
}

/// A delivery that was given a slot.
pub(crate) struct Started {
    delivery: Delivery,
    slot: OwnedSemaphorePermit,
    _unfinished: TaskTrackerToken,
}

impl RunJob for Pipe {
    type Job = Started;

    async fn run_job(&self, job: Started) {
        let Started { delivery, slot, _unfinished } = job;
        let verdict = verdict(&self.gate.crash_facts(&delivery), false);
        self.process(delivery, verdict, Some(slot)).await;
    }
}

/// Runs a step of the shutdown. If it takes too long, logs a warning that names it and returns `None`.
async fn in_time<T>(what: &str, step: impl Future<Output = T>) -> Option<T> {
    let done = tokio::time::timeout(STEP, step).await.ok();
    if done.is_none() {
        tracing::warn!(after = %show::duration(STEP), "cannot {what} in time: the shutdown continues without it");
    }
    done
}
