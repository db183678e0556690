//! Checks the worker every few seconds. The broker is queried only when the worker is idle.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use chrono::Utc;

use super::checks::Findings;
use super::{Consuming, HealthState, Phase};
use crate::broker::QueueInfo;
use crate::error::Result;
use crate::runtime::settlement::persist::Slowest;
use crate::tracing;

/// The consumer is not attached to all of its queues.
pub(super) const DETACHED: &str = "the worker is not connected to all of its queues";

/// An outcome that takes longer than this to settle is a symptom: the broker is seldom away for that long.
const SETTLED_WITHIN: Duration = Duration::from_secs(5);

/// The counters at the last check.
#[derive(Clone, Copy, Debug, Default)]
struct Counters {
    beats: u64,
    delivered: u64,
}

/// Checks the worker periodically, forever.
pub(super) async fn watch(vitals: &HealthState, pause: Duration) {
    let mut last = Counters::default();
    let mut looked = Instant::now();
    loop {
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = vitals.handle.warm.cancelled(), if vitals.stopping.get().is_none() => {
                vitals.stopping.get_or_init(Utc::now);
                continue;
            }
        }
        let symptoms = look(vitals, &mut last).await;
        let now = Instant::now();
        vitals.checks.lock().expect("never poisoned").note(symptoms, now - looked, Utc::now());
        looked = now;
    }
}

async fn look(vitals: &HealthState, last: &mut Counters) -> Findings {
    let mut symptoms = Findings::default();
    let beats = vitals.beats.load(Ordering::Relaxed);
    if std::mem::replace(&mut last.beats, beats) == beats {
        let reason = "the async runtime is blocked, perhaps by a task that does not \
                      await (a plain `fn` task runs on a thread of its own)";
        symptoms.executor = Some(reason.into());
    }
    match vitals.phase() {
        // A stopping worker is limited by its grace time instead.
        _ if vitals.handle.is_stopping() => {}
        Phase::SettingUp => {}
        Phase::Connecting => symptoms.connection = Some("the worker has not reached its broker yet".into()),
        Phase::Consuming(consuming) if !consuming.control.is_attached() => {
            symptoms.connection = Some(DETACHED.into());
        }
        Phase::Consuming(consuming) => {
            let delivered = consuming.delivered.load(Ordering::Relaxed);
            symptoms.settling =
                consuming.settling.slowest().filter(|slowest| slowest.lasts >= SETTLED_WITHIN).map(
                    |Slowest { count, reason, waits_for, .. }| {
                        format!("{count} messages wait for {waits_for} to be settled: {reason}")
                    },
                );
            let has_more = std::mem::replace(&mut last.delivered, delivered) != delivered;
            if !has_more && consuming.running.count() == 0 {
                if let Some(unsettled @ 1..) = consuming.control.unsettled() {
                    symptoms.progress = Some(format!(
                        "{unsettled} messages were delivered to this worker and are not acknowledged, but it runs none"
                    ));
                    return symptoms;
                }
                let open = consuming.pauses.open(&consuming.sources.queues());
                // Without names, a broker reports all queues.
                if open.is_empty() {
                    return symptoms;
                }
                let waiting = consuming.broker.queues(&open).await;
                idle(&consuming, delivered, waiting, &mut symptoms);
            }
        }
    }
    symptoms
}

/// Checks whether there are ready messages that an idle worker does not receive.
fn idle(consuming: &Consuming, delivered: u64, waiting: Result<Vec<QueueInfo>>, symptoms: &mut Findings) {
    match waiting {
        Ok(queues) => {
            let full = queues.iter().find(|queue| queue.ready > 0);
            // Deliveries that arrived during the query count.
            let is_idle = consuming.delivered.load(Ordering::Relaxed) == delivered;
            if let Some(queue) = full.filter(|_| is_idle) {
                symptoms.progress = Some(format!(
                    "queue `{}` has {} messages ready, but this worker is idle and receives none",
                    queue.name, queue.ready
                ));
            }
        }
        Err(error) if error.is_connection() || error.is_timeout() => {
            symptoms.connection = Some(format!("the broker does not answer: {error:#}"));
        }
        // For instance the queue of another program: that says nothing about this worker.
        Err(error) => tracing::debug!(error = format!("{error:#}"), "cannot read the lengths of the queues"),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU64;
    use std::sync::{Arc, Mutex, OnceLock};

    use chrono::DateTime;
    use futures_util::FutureExt;
    use futures_util::future::BoxFuture;

    use super::*;
    use crate::app::{App, Config};
    use crate::backend::{self, BackendOptions};
    use crate::broker::{self, ConsumerControl};
    use crate::connection::{ConnectOptions, TlsOptions};
    use crate::routing::QueueKind;
    use crate::runtime::execution::running::RunningTasks;
    use crate::runtime::execution::slots::Slots;
    use crate::runtime::health::checks::Checks;
    use crate::runtime::health::depths::Depths;
    use crate::runtime::metrics::Metrics;
    use crate::runtime::reporter::Reporter;
    use crate::task::Registry;

    /// A consumer in a given state.
    #[derive(Default)]
    struct Control {
        unsettled: Option<usize>,
        loss: Option<String>,
    }

    impl ConsumerControl for Control {
        fn cancel(&self) -> BoxFuture<'_, ()> {
            std::future::ready(()).boxed()
        }

        fn flush(&self) -> BoxFuture<'_, ()> {
            std::future::ready(()).boxed()
        }

        fn unsettled(&self) -> Option<usize> {
            self.unsettled
        }

        fn loss(&self) -> Option<(DateTime<Utc>, String)> {
            self.loss.clone().map(|reason| (Utc::now(), reason))
        }
    }

    /// What two checks of an idle worker find.
    async fn found(control: Control) -> (Findings, bool) {
        let options = ConnectOptions {
            timeout: Duration::from_secs(5),
            queue_kind: QueueKind::Classic,
            tls: TlsOptions::default(),
            name: "test".into(),
        };
        let url: crate::connection::BrokerUrl = "memory://health".parse().expect("a URL");
        let broker = broker::open(&url, &options).await.expect("memory");
        let options = BackendOptions { connect: options, expires: Duration::from_secs(60) };
        let backend = backend::open(&url, None, &options).await.expect("memory");
        let consuming = Consuming {
            broker,
            backend,
            settling: Arc::default(),
            control: Arc::new(control),
            sources: Arc::default(),
            delivered: Arc::new(AtomicU64::new(1)),
            running: Arc::new(RunningTasks::new(&Registry::default())),
            pauses: Arc::default(),
            slots: Arc::new(Slots::new(1)),
            reporter: Reporter::default(),
        };
        let vitals = HealthState {
            phase: Mutex::new(Phase::Consuming(consuming)),
            handle: crate::runtime::WorkerHandle::default(),
            beats: AtomicU64::new(1),
            checks: Mutex::new(Checks::new(Duration::ZERO, Duration::ZERO)),
            begun: Utc::now(),
            stopping: OnceLock::new(),
            metrics: Metrics::default(),
            depths: Depths::default(),
            app: App::new(Config { broker_url: url, ..Config::default() }).expect("a good configuration"),
        };
        let mut last = Counters::default();
        look(&vitals, &mut last).await;
        vitals.beats.store(2, Ordering::Relaxed);
        let symptoms = look(&vitals, &mut last).await;
        (symptoms, vitals.liveness().is_ok())
    }

    #[tokio::test]
    async fn a_worker_that_can_do_nothing_any_more_or_runs_nothing_of_what_it_holds_is_not_well() {
        let (_, is_ok) = found(Control { loss: Some("it stands still".into()), ..Control::default() }).await;
        assert!(!is_ok, "at once");
        let (ghosts, is_ok) = found(Control { unsettled: Some(2), ..Control::default() }).await;
        assert!(is_ok && ghosts.progress.is_some_and(|reason| reason.contains('2')));
        let (well, is_ok) = found(Control { unsettled: Some(0), ..Control::default() }).await;
        assert!(is_ok && well.executor.is_none() && well.progress.is_none() && well.connection.is_none());
    }
}
