//! The way of a delivery through a worker: admitted, given a place, run, settled; and what becomes of those that are
//! here when the worker stops.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use chrono::Utc;
use futures_util::stream::{self, StreamExt};
use tokio::sync::OwnedSemaphorePermit;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::executor::{self, Limits};
use super::handle::WorkerHandle;
use super::outcome::{Outcome, decide};
use super::places::Places;
use super::quarantine::Trial;
use super::request::{Admission, Gate, Request, Standing};
use super::running::RunningTasks;
use super::settle::{Abandoned, Settler};
use crate::broker::{Consumer, Delivery};
use crate::error::{Error, Result};
use crate::panics::Guarded;
use crate::show;
use crate::task::{AckMode, Work};
use crate::tracing;

/// Enough to fill the broker's batches.
const HANDED_BACK_AT_ONCE: usize = 1024;
/// Each thing that a stop waits for beside the running tasks comes within this time, or the stop goes on without it: what
/// is not settled by then comes again.
const STEP: Duration = Duration::from_secs(10);

/// What a delivery goes through.
pub(super) struct Pipe {
    pub(super) gate: Gate,
    pub(super) settler: Settler,
    pub(super) places: Arc<Places>,
    pub(super) trial: Trial,
    pub(super) running: Arc<RunningTasks>,
    /// How many deliveries there were, for whoever looks whether this worker does anything.
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
                        tasks.spawn(async move { pipe.process(delivery, Standing::Counted, permit).await });
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
                let (pipe, warm) = (Arc::clone(self), handle.warm.clone());
                tasks.spawn(async move { pipe.put_on_trial(delivery, &warm).await });
            } else {
                waiting.push_back(delivery);
            }
        }
        // What was handed to this worker but never began goes back; meanwhile the running tasks finish.
        let hand_back = async {
            let has_ended = in_time("end consuming", consumer.end()).await.is_some();
            self.settler.consumed.cancel();
            while has_ended
                && let Some(Some(delivery)) = in_time("take what was handed out", consumer.next()).await
            {
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
                tracing::warn!(running = self.places.taken() - self.places.lost(), grace = %show::duration(grace), "grace is over");
                handle.cold.cancel();
            }
        };
        tokio::join!(hand_back, finish);
        // Interrupted tasks hand their messages back; a plain function cannot be interrupted, but its message can.
        in_time("settle what was interrupted", tasks.wait()).await;
        in_time("tell the broker what is settled", control.flush()).await;
        if closed {
            Err(Error::connection("the broker was closed while the worker was running"))
        } else {
            Ok(())
        }
    }

    /// Runs a message on its last life: in a process of its own, or else while no other runs here that has taken workers
    /// down. One that comes again after its trial has begun has another one where that proves nothing, and else is put aside.
    async fn put_on_trial(&self, mut delivery: Delivery, warm: &CancellationToken) {
        delivery.settlement.begin();
        let suspect = self.trial.enter();
        if self.gate.is_accused(&delivery) {
            match self.settler.was_tried(&delivery.message.headers).await {
                Ok(false) => {}
                Ok(true) if self.gate.deserves_another_trial(&delivery) => {
                    return match self.gate.admit(delivery, Standing::OnTrial, Utc::now()) {
                        Admission::Run(request, ..) => self.settler.suspect(request).await,
                        other => self.dispose(other).await,
                    };
                }
                Ok(true) => {
                    return self.dispose(self.gate.admit(delivery, Standing::Counted, Utc::now())).await;
                }
                Err(Abandoned) => return self.hand_back(delivery).await,
            }
        }
        let Some(_tried) = suspect.be_tried() else {
            // Waiting here, it would keep a place from messages that nobody suspects.
            return match self.gate.admit(delivery, Standing::OnTrial, Utc::now()) {
                Admission::Run(request, ..) => self.settler.postpone(request, suspect.pause()).await,
                other => self.dispose(other).await,
            };
        };
        tokio::select! {
            biased;
            () = warm.cancelled() => self.hand_back(delivery).await,
            permit = self.places.take() => self.process(delivery, Standing::OnTrial, permit).await,
        }
    }

    async fn process(&self, mut delivery: Delivery, standing: Standing, permit: OwnedSemaphorePermit) {
        delivery.settlement.begin();
        let (mut request, work, limits) = match self.gate.admit(delivery, standing, Utc::now()) {
            Admission::Run(request, work, limits) => (request, work, limits),
            other => return self.dispose(other).await,
        };
        let suspect = (standing == Standing::Counted && request.crashes > 0).then(|| self.trial.enter());
        let _beside = match &suspect {
            // It would be the one on trial that is blamed for what this one does.
            Some(suspect) => match suspect.run_beside_others() {
                None => return self.settler.postpone(request, suspect.pause()).await,
                beside => beside,
            },
            None => None,
        };
        match self.settler.has_succeeded(&request).await {
            Ok(false) => {}
            Ok(true) => return self.settler.settle(request, Outcome::Repeated, Duration::ZERO).await,
            Err(Abandoned) => return self.settler.hand_back(request).await,
        }
        if standing == Standing::OnTrial {
            // Before it runs: whoever finds it again knows that its trial has begun.
            if self.settler.note_trial(request.context.headers()).await.is_err() {
                return self.settler.hand_back(request).await;
            }
            request.on_trial = true;
        }
        self.run(request, work, limits, permit).await;
    }

    async fn run(
        &self,
        mut request: Request,
        work: Guarded<Work>,
        limits: Limits,
        permit: OwnedSemaphorePermit,
    ) {
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
        let work = work.into_inner();
        let layers = self.settler.app.middleware();
        let ended =
            executor::run(work, &request.context, layers, limits, permit, &self.places, &self.gate.cold)
                .await;
        let attempts = self.gate.attempts(&request);
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
        match self.gate.admit(delivery, Standing::Counted, Utc::now()) {
            Admission::Run(request, ..)
            | Admission::Settle(request, _)
            | Admission::Early(request, _)
            | Admission::Suspect(request)
            | Admission::Split(request, _) => {
                self.settler.settle(request, Outcome::HandBack, Duration::ZERO).await;
            }
        }
    }
}

/// `None`, and a warning that says what it was, when it takes too long.
async fn in_time<T>(what: &str, step: impl Future<Output = T>) -> Option<T> {
    let done = tokio::time::timeout(STEP, step).await.ok();
    if done.is_none() {
        tracing::warn!(after = %show::duration(STEP), "cannot {what} in time: the stop goes on without it");
    }
    done
}
