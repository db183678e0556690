//! The way of a delivery through a worker: admitted, given a slot, run, settled; and requeued when the worker stops before
//! that.

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
use super::admission::reserved::Inquiries;
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
use crate::broker::{Consumer, Delivery};
use crate::error::{Error, Result};
use crate::events::EventKind;
use crate::panics::Guarded;
use crate::show;
use crate::task::{AckMode, Work};
use crate::traces::CallTrace;
use crate::tracing;

/// Enough to fill the broker's batches.
const REQUEUED_AT_ONCE: usize = 1024;
/// Each thing that a stop waits for beside the running tasks comes within this time, or the stop goes on without it: what
/// is not settled by then comes again.
const STEP: Duration = Duration::from_secs(10);

/// What a delivery goes through.
pub(crate) struct Pipe {
    pub(super) gate: Gate,
    pub(super) settler: Settler,
    pub(super) slots: Arc<Slots>,
    pub(super) window: Arc<Window>,
    pub(super) quarantine: Quarantine,
    pub(super) running: Arc<RunningTasks>,
    /// Those who ask what waits for a slot.
    pub(super) inquiries: Arc<Inquiries>,
    /// How many deliveries there were: shows whether this worker does anything.
    pub(super) delivered: Arc<AtomicU64>,
}

impl Pipe {
    /// Takes deliveries until the worker is told to stop, and then leaves nothing behind.
    pub(super) async fn work(
        self: &Arc<Self>,
        mut consumer: Consumer,
        handle: WorkerHandle,
        grace: Duration,
    ) -> Result<()> {
        let tasks = TaskTracker::new();
        let runners = Runners::new(Arc::clone(self));
        let control = consumer.control();
        // Delivered to this worker, and waiting for a slot.
        let mut waiting = Waiting::new(Arc::clone(&self.gate.pauses));
        let mut closed = false;
        loop {
            // Asked here, so that a busy worker need not register with the token twice for each message.
            if handle.warm.is_cancelled() {
                break;
            }
            if self.gate.pauses.take_change() {
                let mut returned = waiting.sort();
                if let Some(keep) = self.window.take_fall() {
                    // Also what was delivered before the broker knew of the smaller window.
                    while let Some(delivery) = consumer.next_now() {
                        self.arrive(delivery, &tasks, &mut waiting, &handle.warm);
                    }
                    returned.extend(waiting.beyond(keep));
                }
                for delivery in returned {
                    let pipe = Arc::clone(self);
                    tasks.spawn(async move { pipe.return_unstarted(delivery).await });
                }
                self.inquiries.answer(waiting.all());
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
            // Brokers restore a consumer by themselves; one that ends unasked was closed with its broker.
            let Some(delivery) = delivery else {
                closed = true;
                break;
            };
            self.arrive(delivery, &tasks, &mut waiting, &handle.warm);
        }
        // What was delivered but never began is requeued; meanwhile the running tasks finish.
        let requeue = async {
            let has_ended = in_time("end consuming", consumer.end()).await.is_some();
            self.settler.consumed.cancel();
            let mut rest: Vec<Delivery> = waiting.into_all().collect();
            while has_ended
                && let Some(Some(delivery)) =
                    in_time("receive the remaining deliveries", consumer.next()).await
            {
                rest.push(delivery);
            }
            // Together: one after the other, a broker that does not answer would cost its time for each.
            let requeue = async |delivery| self.requeue(delivery).await;
            stream::iter(rest).for_each_concurrent(REQUEUED_AT_ONCE, requeue).await;
        };
        tasks.close();
        let finish = async {
            let finished = tokio::time::timeout(grace, tasks.wait()).await.is_ok();
            if !finished {
                tracing::warn!(running = self.slots.taken() - self.slots.lost(), grace = %show::duration(grace), "grace is over");
                handle.cold.cancel();
            }
        };
        tokio::join!(requeue, finish);
        // Interrupted tasks requeue their messages; a plain function cannot be interrupted, but its message can be requeued.
        in_time("settle interrupted tasks", tasks.wait()).await;
        in_time("flush settlements to the broker", control.flush()).await;
        if closed {
            Err(Error::connection("the broker was closed while the worker was running"))
        } else {
            Ok(())
        }
    }

    /// A delivery has come.
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

    /// Starts the next delivery that waits.
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

    /// Handles a suspected poison message: it runs while no other message with a crash count does. After a quarantine that
    /// did not end, it is counted and sent again where that proves nothing, and is dead-lettered otherwise.
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
        // Waiting here, it would keep a slot from messages without a crash count.
        let Some(_alone) = crashed.run_alone() else { return self.process(delivery, verdict, None).await };
        tokio::select! {
            biased;
            () = warm.cancelled() => self.requeue(delivery).await,
            slot = self.slots.take() => self.process(delivery, verdict, Some(slot)).await,
        }
    }

    /// Admits a delivery, and runs it. Without a slot, a message that could run waits in the broker for its turn.
    ///
    /// Each task pays for the size of this future: what seldom happens is in a box.
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
        let crashed = (!in_quarantine && request.crashes > 0).then(|| self.quarantine.enter());
        let _beside = match &crashed {
            // The message in quarantine would be blamed for what this one does.
            Some(crashed) => match crashed.run_beside_others() {
                None => return Box::pin(self.settler.postpone(request, self.quarantine.pause())).await,
                beside => beside,
            },
            None => None,
        };
        match self.settler.has_succeeded(&request).await {
            Ok(false) => {}
            Ok(true) => {
                return Box::pin(self.settler.settle(request, Outcome::Repeated, Duration::ZERO)).await;
            }
            Err(Abandoned) => return Box::pin(self.settler.requeue(request)).await,
        }
        if in_quarantine {
            // Before it runs: a worker that gets it again must know that its quarantine has begun.
            if Box::pin(self.settler.note_quarantine(request.context.headers())).await.is_err() {
                return Box::pin(self.settler.requeue(request)).await;
            }
            request.quarantined = true;
            self.settler.reporter.happened(EventKind::Quarantined, &request.context);
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
                // Celery's tools know a call and its time from the event of a worker that has received it.
                self.settler.reporter.received(&request.context);
                self.settler.postpone(request, wait).await;
            }
            Admission::Hold(request, wait) => self.settler.hold(request, wait).await,
            Admission::CountCrash(request) => self.settler.count_crash(request).await,
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
        // Revoked since it was admitted, and before anybody could find it on the list.
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

    /// Returns a delivery that never began to its queue, while this worker goes on.
    async fn return_unstarted(&self, delivery: Delivery) {
        let Decoded { request, .. } = self.gate.decode(delivery, CrashVerdict::Run);
        self.settler.return_unstarted(request).await;
    }

    /// Requeues a delivery that never began.
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

/// `None`, and a warning that says what it was, when it takes too long.
async fn in_time<T>(what: &str, step: impl Future<Output = T>) -> Option<T> {
    let done = tokio::time::timeout(STEP, step).await.ok();
    if done.is_none() {
        tracing::warn!(after = %show::duration(STEP), "cannot {what} in time: the shutdown continues without it");
    }
    done
}
