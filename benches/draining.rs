//! Measures a worker that drains a queue, for benches that compare two ways of doing so in turns.
#![allow(dead_code, reason = "each bench reads the figures that it shows")]

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use mq_worker::{App, SharedState, Worker};

/// How many tasks have run.
#[derive(Clone, Default)]
pub(crate) struct Done(Arc<AtomicU64>);

impl Done {
    pub(crate) fn count(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

/// The figures of a drained queue. Rates are tasks per second.
pub(crate) struct Drained {
    /// Until the last task had run.
    pub(crate) rate: f64,
    /// Until the last outcome was settled.
    pub(crate) settled_rate: f64,
    /// CPU time per task, in microseconds.
    pub(crate) micros: f64,
}

/// How long a stopping worker waits after its last acks, so that a quorum queue surely has them. Not counted as work.
const ACK_GRACE: Duration = Duration::from_millis(500);

/// Runs a worker until the queue is empty and all is settled.
pub(crate) async fn drain(app: &App, n: u64) -> Drained {
    let done = Done::default();
    let mut state = SharedState::default();
    state.insert(done.clone());
    let worker = Worker::new(app.clone()).expect("a worker").with_state(state);
    let handle = worker.handle();
    let (begun, cpu) = (Instant::now(), cpu_time());
    let running = tokio::spawn(worker.run());
    while done.0.load(Ordering::Relaxed) < n {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let ran = begun.elapsed();
    // A warm shutdown completes when the last outcome is settled and the last event is sent.
    handle.stop();
    running.await.expect("no panic").expect("the worker ran");
    let (mut settled, cpu) = (begun.elapsed(), cpu_time() - cpu);
    if app.config().broker_url.scheme().starts_with("amqp") {
        settled = settled.saturating_sub(ACK_GRACE).max(ran);
    }
    let rate = |time: Duration| n as f64 / time.as_secs_f64();
    Drained { rate: rate(ran), settled_rate: rate(settled), micros: cpu.as_secs_f64() * 1e6 / n as f64 }
}

/// CPU time of all threads of this process.
fn cpu_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap_or_default())
}

pub(crate) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// A number from the environment.
pub(crate) fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}
