//! A snapshot of what is known about a call.

use chrono::{DateTime, Utc};
use serde_json::Value;

use crate::backend::ResultRecord;
use crate::error::TaskFailure;
use crate::message::Progress;
use crate::message::headers::parse_time;
use crate::state::State;

/// A snapshot of what is known about a call: [`AsyncResult::info`](crate::AsyncResult::info).
#[derive(Clone, Debug)]
pub struct JobInfo(ResultRecord);

impl JobInfo {
    pub(super) fn new(record: ResultRecord) -> Self {
        Self(record)
    }

    /// The id of the call.
    pub fn id(&self) -> &str {
        &self.0.task_id
    }

    /// The state of the call.
    pub fn state(&self) -> &State {
        &self.0.state
    }

    /// The value of a call that succeeded, as JSON; before that, what the task reports about itself
    /// ([`Context::set_state`](crate::Context::set_state)).
    pub fn value(&self) -> Option<Value> {
        serde_json::from_str(self.0.value.as_ref()?.get()).ok()
    }

    /// Why the call failed, was revoked, or waits for a retry.
    pub fn failure(&self) -> Option<&TaskFailure> {
        self.0.failure.as_ref()
    }

    /// The progress of a running call, if it [reports](crate::Context::progress) any.
    pub fn progress(&self) -> Option<Progress> {
        match &self.0.state {
            State::Custom(_) => Progress::from_meta(&self.value()?),
            _ => None,
        }
    }

    /// The worker that runs the call, or ran it last. Celery's workers report it only with `result_extended`.
    pub fn worker(&self) -> Option<String> {
        let named = self.0.worker.clone();
        named.or_else(|| self.started()?.get("hostname")?.as_str().map(ToOwned::to_owned))
    }

    /// When the run started, if the call is `Started` and its worker reports the time.
    pub fn started_at(&self) -> Option<DateTime<Utc>> {
        parse_time(self.started()?.get("started_at")?.as_str()?)
    }

    fn started(&self) -> Option<Value> {
        if self.0.state == State::Started { self.value() } else { None }
    }

    /// The number of attempts, the last one included: 1 without a retry. `None` if it is not reported.
    pub fn attempts(&self) -> Option<u32> {
        self.0.retries.map(|retries| retries.saturating_add(1))
    }

    /// The earliest time of the next run, if the call waits for a retry.
    pub fn retry_at(&self) -> Option<DateTime<Utc>> {
        self.0.retry_at
    }

    /// When the call ended.
    pub fn date_done(&self) -> Option<DateTime<Utc>> {
        self.0.done_at
    }

    /// The ids of the calls that it sent while it ran, and of those that follow it. At most 1000.
    pub fn children(&self) -> &[String] {
        &self.0.children
    }
}
