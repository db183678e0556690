//! The worker's own events: online, heartbeat and offline.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::execution::running::RunningTasks;
use super::reporter::Reporter;
use crate::events::{Event, EventKind};

/// The time between two heartbeats, as in Celery, whose tools consider a worker dead after twice that time.
pub(super) const PERIOD: Duration = Duration::from_secs(2);

/// Reports that a worker is alive.
#[derive(Clone)]
pub(super) struct Heartbeat {
    pub(super) reporter: Reporter,
    pub(super) running: Arc<RunningTasks>,
}

impl Heartbeat {
    /// Sends heartbeats until `over`. The caller reports that the worker is online, before its first task, and offline.
    pub(super) async fn beat(self, over: CancellationToken) {
        let mut ticks = tokio::time::interval(PERIOD);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                () = over.cancelled() => return,
                _ = ticks.tick() => self.report(EventKind::WorkerHeartbeat),
            }
        }
    }

    /// Reports one event.
    pub(super) fn report(&self, kind: EventKind) {
        self.reporter.report(Event {
            freq: Some(PERIOD.as_secs_f64()),
            active: Some(self.running.count() as u64),
            processed: Some(self.running.begun().map(|(_, count)| count).sum()),
            loadavg: Some(load()),
            sw_ident: Some("mq-worker".into()),
            sw_ver: Some(env!("CARGO_PKG_VERSION").into()),
            sw_sys: Some(system().into()),
            dropped: Some(self.reporter.dropped()).filter(|dropped| *dropped > 0),
            ..Event::new(kind)
        });
    }
}

/// Python's name for the operating system.
fn system() -> &'static str {
    match std::env::consts::OS {
        "linux" => "Linux",
        "macos" => "Darwin",
        "windows" => "Windows",
        other => other,
    }
}

/// The load averages of the machine, on systems with `/proc/loadavg`.
fn load() -> [f64; 3] {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let mut numbers = text.split(' ').map(|number| number.parse().unwrap_or_default());
    std::array::from_fn(|_| numbers.next().unwrap_or_default())
}
