//! Logs an outage: each change once, repetitions only at debug level.

use std::time::{Duration, Instant};

use super::failure::Failure;
use crate::tracing::{debug, info, warn};

/// Logs that a connection is lost and restored.
#[derive(Default)]
pub(super) struct Outage {
    since: Option<Instant>,
    last: Option<String>,
}

impl Outage {
    pub(super) fn record(&mut self, connection: &str, failure: &Failure) {
        let new = self.last.as_deref() != Some(&failure.text);
        if self.since.is_none() {
            self.since = Some(Instant::now());
            warn!(connection, reason = failure.text, "no connection to the broker, trying again");
        } else if new {
            warn!(connection, reason = failure.text, "still no connection to the broker");
        } else {
            debug!(connection, reason = failure.text, "still no connection to the broker");
        }
        self.last = Some(failure.text.clone());
    }

    pub(super) fn ends(&mut self, connection: &str, generation: u64) {
        self.last = None;
        match self.since.take() {
            Some(since) => {
                let after =
                    humantime::format_duration(Duration::from_millis(since.elapsed().as_millis() as u64));
                info!(connection, generation, %after, "connection to the broker restored");
            }
            None => debug!(connection, generation, "connected to the broker"),
        }
    }
}
