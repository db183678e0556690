//! What a worker needs to carry out outcomes.

use std::sync::Arc;
use std::time::Duration;

use chrono::Utc;
use tokio_util::sync::CancellationToken;

use super::backend_away::BackendAway;
use super::counters::Counters;
use super::failure_hooks::FailureHooks;
use super::letter_counts::LetterCounts;
use super::persist::Persist;
use crate::app::App;
use crate::backend::ResultBackend;
use crate::broker::{Broker, Verdict};
use crate::message::Attempt;
use crate::message::headers::format_time;
use crate::runtime::admission::request::Request;
use crate::runtime::metrics::Metrics;
use crate::runtime::reporter::Reporter;

/// How many characters of the last error are kept. Headers must stay small: RabbitMQ's frames are 128 KiB.
pub(crate) const MAX_ERROR: usize = 4000;

/// Carries out outcomes for one worker.
pub(crate) struct Settler {
    /// Routes continuations, and knows which queues exist.
    pub(crate) app: App,
    /// Receives retries, dead letters and continuations.
    pub(crate) broker: Arc<dyn Broker>,
    /// Receives results.
    pub(crate) backend: Arc<dyn ResultBackend>,
    /// Whether the backend is away, for results that are not required.
    pub(crate) backend_away: BackendAway,
    /// The worker's name.
    pub(crate) worker: String,
    /// Called for dead letters.
    pub(crate) hooks: FailureHooks,
    /// Where runs and outcomes are recorded.
    pub(crate) metrics: Metrics,
    /// Reports what happens to calls.
    pub(crate) reporter: Reporter,
    /// Retries each effect until it is durable or proves impossible.
    pub(crate) persist: Persist,
    /// Fires when this worker is stopping and can receive no more deliveries.
    pub(crate) consumed: CancellationToken,
    /// Counts the outcomes so far.
    pub(crate) counters: Counters,
    /// How many letters went to each dead-letter queue.
    pub(crate) letters: LetterCounts,
}

/// How to finish a delivery once its outcome is durable.
pub(crate) enum Settled {
    /// The call is over: its delivery is settled, and the next call of a unique task is allowed.
    Over(Verdict),
    /// The call continues in the message that replaces it.
    GoesOn(Verdict),
}

impl Settler {
    pub(crate) fn wants_result(&self, request: &Request) -> bool {
        !request.context.headers().ignore_result().unwrap_or(request.options.ignore_result)
    }

    /// An entry for the history of the message.
    pub(crate) fn attempt_of(&self, request: &Request, error: String) -> Attempt {
        Attempt {
            attempt: request.context.retries().saturating_add(1),
            at: format_time(Utc::now()),
            error,
            worker: self.worker.clone(),
        }
    }

    /// The delay, but no longer than the broker allows: a message that arrives before its `eta` waits again.
    pub(crate) fn as_long_as_possible(&self, delay: Duration) -> Duration {
        delay.min(self.broker.capabilities().max_delay)
    }
}
