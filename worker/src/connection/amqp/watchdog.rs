//! Detects a blocked I/O thread: all RabbitMQ traffic of this process stops then, and only a restart helps.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use crate::tracing::{error, info};
use tokio::runtime::Handle;
use tokio::time::{sleep, timeout};

use super::lock::lock;

/// The watchdog of the I/O thread.
pub(super) static WATCHDOG: Watchdog = Watchdog { since: Mutex::new(None) };

/// How many checks in a row must go unanswered before it is reported. One is not enough: a process that resumes after
/// it was suspended finds the time expired and the check unanswered at the same moment.
const LOOKS: u32 = 10;

/// Watches a thread from another one.
pub(super) struct Watchdog {
    /// Since when the thread has been blocked.
    since: Mutex<Option<Instant>>,
}

impl Watchdog {
    /// How long the thread has been blocked; `None` while it makes progress.
    pub(super) fn stalled(&self) -> Option<Duration> {
        lock(&self.since).map(|since| since.elapsed())
    }

    /// Checks the thread periodically, forever.
    pub(super) async fn watch(&self, thread: Handle, every: Duration) {
        loop {
            let begun = Instant::now();
            let mut round = thread.spawn(async {});
            let mut missed = 0;
            while timeout(every, &mut round).await.is_err() {
                missed += 1;
                if missed == LOOKS {
                    *lock(&self.since) = Some(begun);
                    error!(
                        seconds = begun.elapsed().as_secs(),
                        "the I/O thread for RabbitMQ is blocked: nothing is received, acknowledged or sent until \
                         this process is restarted"
                    );
                }
            }
            if lock(&self.since).take().is_some() {
                info!(seconds = begun.elapsed().as_secs(), "the I/O thread for RabbitMQ has resumed");
            }
            sleep(every).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[tokio::test]
    async fn a_blocked_thread_and_its_recovery_are_detected() {
        let watched =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).build().expect("a runtime");
        let watchdog = Arc::new(Watchdog { since: Mutex::new(None) });
        let (watching, handle) = (Arc::clone(&watchdog), watched.handle().clone());
        tokio::spawn(async move { watching.watch(handle, Duration::from_millis(10)).await });
        let (go_on, stopped) = std::sync::mpsc::channel::<()>();
        watched.spawn(async move { stopped.recv() });
        let is = async |stalled: bool| {
            while watchdog.stalled().is_some() != stalled {
                sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(Duration::from_secs(20), is(true)).await.expect("it stands still");
        drop(go_on);
        timeout(Duration::from_secs(20), is(false)).await.expect("it goes on");
        watched.shutdown_background();
    }
}
