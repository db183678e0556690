//! Whether a worker is alive and ready, for its supervisor: `/livez` and `/readyz`.
//!
//! All of it runs on its own thread, so that a worker whose async runtime is blocked can be distinguished from a healthy
//! one. [`watch`] checks the worker every few seconds, [`checks`] tracks what is wrong and for how long, and [`http`]
//! answers from these findings: a probe never queries the broker.

mod checks;
mod depths;
mod http;
mod watch;

use std::net::{SocketAddr, TcpListener};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use chrono::{DateTime, Utc};
use tokio::task::JoinHandle;
use tokio_util::sync::{CancellationToken, DropGuard};

use self::checks::{Checks, Report, Trouble};
use self::depths::Depths;
use super::admission::pauses::Pauses;
use super::execution::running::RunningTasks;
use super::execution::slots::Slots;
use super::handle::WorkerHandle;
use super::metrics::{Metrics, Present};
use super::reporter::Reporter;
use super::settlement::persist::Settling;
use super::sources::Sources;
use crate::app::App;
use crate::app::config::WorkerConfig;
use crate::backend::ResultBackend;
use crate::broker::{Broker, ConsumerControl};
use crate::error::{Error, Result};
use crate::tracing;

/// The health of one worker. It is served until this is dropped.
pub(super) struct Health {
    vitals: Arc<HealthState>,
    /// Shows that the worker's runtime is not blocked.
    heart: Option<JoinHandle<()>>,
    _served: Option<DropGuard>,
}

/// What is known about a worker.
struct HealthState {
    phase: Mutex<Phase>,
    handle: WorkerHandle,
    /// Incremented by a task on the worker's runtime.
    beats: AtomicU64,
    checks: Mutex<Checks>,
    begun: DateTime<Utc>,
    stopping: OnceLock<DateTime<Utc>>,
    metrics: Metrics,
    depths: Depths,
    /// For the counts of its scheduler, if it has one.
    app: App,
}

/// The phase that a worker is in.
#[derive(Clone)]
enum Phase {
    /// It runs the functions marked `#[setup]`.
    SettingUp,
    /// It is connecting to its broker.
    Connecting,
    /// It is consuming.
    Consuming(Consuming),
}

/// Shows whether a consuming worker makes progress.
#[derive(Clone)]
pub(super) struct Consuming {
    /// Queried for the queue lengths when the worker is idle.
    pub(super) broker: Arc<dyn Broker>,
    /// Where results go.
    pub(super) backend: Arc<dyn ResultBackend>,
    /// Knows whether the consumer is attached.
    pub(super) control: Arc<dyn ConsumerControl>,
    /// What it consumes from.
    pub(super) sources: Arc<Sources>,
    /// Counts the messages that were delivered to the worker.
    pub(super) delivered: Arc<AtomicU64>,
    /// Its running tasks.
    pub(super) running: Arc<RunningTasks>,
    /// Outcomes that it cannot settle at the moment.
    pub(super) settling: Arc<Settling>,
    /// What it must not consume.
    pub(super) pauses: Arc<Pauses>,
    pub(super) slots: Arc<Slots>,
    /// Knows how many events were dropped.
    pub(super) reporter: Reporter,
}

impl Health {
    /// Starts serving health checks for the worker that `handle` stops, if an address is configured.
    ///
    /// # Errors
    /// Fails if the address cannot be listened on.
    pub(super) fn start(app: &App, config: &WorkerConfig, handle: &WorkerHandle) -> Result<Self> {
        let checks = Checks::new(config.health_stall_limit, config.health_connection_limit);
        let pause = checks.pause();
        let vitals = Arc::new(HealthState {
            phase: Mutex::new(Phase::SettingUp),
            handle: handle.clone(),
            beats: AtomicU64::new(0),
            checks: Mutex::new(checks),
            begun: Utc::now(),
            stopping: OnceLock::new(),
            metrics: if config.health.is_some() { Metrics::new() } else { Metrics::default() },
            depths: Depths::default(),
            app: app.clone(),
        });
        let Some(address) = config.health else {
            return Ok(Self { vitals, heart: None, _served: None });
        };
        let over = CancellationToken::new();
        serve(address, Arc::clone(&vitals), pause, over.clone()).map_err(|error| {
            Error::config(format!("cannot serve health checks on `{address}`")).with_source(error)
        })?;
        let heart = tokio::spawn(beat(Arc::clone(&vitals), pause));
        Ok(Self { vitals, heart: Some(heart), _served: Some(over.drop_guard()) })
    }

    /// Where the worker records what it does.
    pub(super) fn metrics(&self) -> Metrics {
        self.vitals.metrics.clone()
    }

    /// Marks the worker as set up and connecting to its broker.
    pub(super) fn connecting(&self) {
        *self.vitals.phase.lock().expect("never poisoned") = Phase::Connecting;
    }

    /// Marks the worker as consuming.
    pub(super) fn consuming(&self, consuming: Consuming) {
        *self.vitals.phase.lock().expect("never poisoned") = Phase::Consuming(consuming);
    }
}

impl Drop for Health {
    fn drop(&mut self) {
        if let Some(heart) = &self.heart {
            heart.abort();
        }
    }
}

/// Starts the thread. It ends when `over` fires.
fn serve(
    address: SocketAddr,
    vitals: Arc<HealthState>,
    pause: Duration,
    over: CancellationToken,
) -> std::io::Result<()> {
    let listener = TcpListener::bind(address)?;
    listener.set_nonblocking(true)?;
    let address = listener.local_addr()?;
    tracing::info!(%address, "serving /livez and /readyz");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let listener = {
        let _entered = runtime.enter();
        tokio::net::TcpListener::from_std(listener)?
    };
    let serve = async move {
        tokio::select! {
            () = over.cancelled() => {}
            () = watch::watch(&vitals, pause) => {}
            () = http::serve(listener, Arc::clone(&vitals)) => {}
        }
    };
    std::thread::Builder::new()
        .name("mq-worker-health".into())
        .spawn(move || runtime.block_on(serve))
        .map(drop)
}

async fn beat(vitals: Arc<HealthState>, pause: Duration) {
    loop {
        vitals.beats.fetch_add(1, Ordering::Relaxed);
        tokio::time::sleep(pause).await;
    }
}

impl HealthState {
    fn phase(&self) -> Phase {
        self.phase.lock().expect("never poisoned").clone()
    }

    /// Whether the worker should be left alone, or restarted.
    fn liveness(&self) -> Report {
        // Reported at once, not after a limit: it does not pass by itself.
        if let Phase::Consuming(consuming) = self.phase()
            && let Some((since, reason)) = consuming.control.loss().or_else(|| consuming.backend.loss())
        {
            return Report::of([Trouble::now("broker", since, &reason)]);
        }
        let report = self.checks.lock().expect("never poisoned").report();
        match self.phase() {
            Phase::Consuming(consuming) => report.with(consuming.settling.slowest()),
            _ => report,
        }
    }

    /// All metrics as a text. `None` where none are recorded.
    async fn metrics(&self) -> Option<String> {
        let present = match self.phase() {
            _ if !self.metrics.is_on() => return None,
            Phase::SettingUp | Phase::Connecting => Present::default(),
            Phase::Consuming(consuming) => {
                let queues = self.depths.of(&consuming).await;
                let consumed = consuming.sources.queues();
                let open = consuming.pauses.open(&consumed);
                let slowest = consuming.settling.slowest();
                Present {
                    is_connected: consuming.control.is_attached(),
                    delivered: consuming.delivered.load(Ordering::Relaxed),
                    slots: consuming.slots.all(),
                    slots_taken: consuming.slots.taken(),
                    slots_lost: consuming.slots.lost(),
                    settling: slowest.map_or_else(Default::default, |slowest| (slowest.count, slowest.lasts)),
                    events_dropped: consuming.reporter.dropped(),
                    queues,
                    paused: consumed.iter().filter(|queue| !open.contains(queue)).cloned().collect(),
                    consumed,
                    schedules: None,
                }
            }
        };
        let present = Present { schedules: Some(self.app.schedule_figures().read()), ..present };
        self.metrics.page(|| present)
    }

    /// Whether the worker takes messages.
    fn readiness(&self) -> Report {
        let failed = match self.phase() {
            _ if self.handle.is_stopping() => {
                let since = *self.stopping.get_or_init(Utc::now);
                Some(Trouble::now("stopping", since, "the worker is stopping"))
            }
            Phase::SettingUp => {
                Some(Trouble::now("setup", self.begun, "the `#[setup]` functions have not finished"))
            }
            Phase::Connecting => {
                Some(Trouble::now("connection", self.begun, "the worker has not reached its broker yet"))
            }
            Phase::Consuming(consuming) if !consuming.control.is_attached() => {
                let since = self.checks.lock().expect("never poisoned").disconnected_since();
                Some(Trouble::now("connection", since.unwrap_or_else(Utc::now), watch::DETACHED))
            }
            Phase::Consuming(_) => None,
        };
        Report::of(failed)
    }
}
