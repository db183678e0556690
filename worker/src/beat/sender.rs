//! Sends the call of one due time, but only as the leader.

use std::sync::Arc;

use chrono::Utc;

use super::plan::DueCall;
use crate::app::App;
use crate::app::schedules::{Entry, log_of};
use crate::broker::{Broker, Fenced, Locked};
use crate::error::{Error, Persistence, Result};
use crate::schedule::Overlap;
use crate::tracing;

/// The outcome of a due time.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// The call is in its queue.
    Sent,
    /// The previous call still waits or runs: this one is sent after it.
    Waits,
    /// The call is not sent.
    Skipped,
    /// The queue accepts no message at present. Later calls of the schedule are not sent either.
    Refused,
    /// Another scheduler leads.
    Deposed,
}

/// Publishes through one fence.
#[derive(Clone)]
pub(super) struct Sender {
    pub(super) app: App,
    pub(super) broker: Arc<dyn Broker>,
    pub(super) fence: String,
}

impl Sender {
    /// Sends the calls of one schedule, the earliest first, until one cannot be sent now: the log records the last due time
    /// that was sent, so a call that may still fail must not be overtaken by a later one.
    pub(super) async fn send_in_order(&self, calls: Vec<DueCall>, era: u32) -> Vec<(DueCall, Result<Step>)> {
        let mut steps: Vec<(DueCall, Result<Step>)> = Vec::with_capacity(calls.len());
        for call in calls {
            let step = match steps.last() {
                Some((_, Ok(Step::Waits))) => Ok(Step::Waits),
                _ => self.send(&call, era).await,
            };
            let is_last = !matches!(step, Ok(Step::Sent | Step::Waits | Step::Skipped));
            steps.push((call, step));
            if is_last {
                break;
            }
        }
        steps
    }

    /// Takes the lock that keeps calls from overlapping, then publishes message and log entry in one step. A leader that dies
    /// in between leaves the lock to this due time: the next leader sends the same due time, and gets the lock.
    ///
    /// # Errors
    /// A passing error: whether the call was sent is not known until a new leader has read the log.
    async fn send(&self, call: &DueCall, era: u32) -> Result<Step> {
        let DueCall { schedule, due } = call;
        let id = schedule.call_id(*due, era);
        let lock = match schedule.overlap {
            Overlap::Allow => None,
            Overlap::Skip | Overlap::Queue => Some(self.app.overlap_lock(schedule, &id)),
        };
        if let Some(lock) = &lock
            && self.broker.lock(lock).await? != Locked::Taken
        {
            return Ok(if schedule.overlap == Overlap::Queue { Step::Waits } else { Step::Skipped });
        }
        let entry = Entry::Sent { name: schedule.name.clone(), due: *due, on: Some(Utc::now()) }.to_text();
        let sent = async {
            let publication = self.app.scheduled_call(schedule, *due, &id, lock.as_ref()).await?;
            let reported = self.app.config().sent_events.then(|| publication.clone());
            let sent = log_of(&*self.broker)?.publish(&self.fence, publication, &entry).await?;
            if let (Some(reported), Fenced::Published) = (reported, sent) {
                self.app.report_scheduled(&self.broker, &reported);
            }
            Ok(sent)
        };
        let error = match sent.await {
            Ok(Fenced::Published) => {
                tracing::debug!(schedule = schedule.name, task = schedule.task, id, %due, "sent");
                return Ok(Step::Sent);
            }
            Ok(Fenced::Closed) => return Ok(Step::Deposed),
            Err(error) => error,
        };
        if is_transient(&error) {
            return Err(error);
        }
        if let Some(lock) = &lock {
            self.broker.unlock(lock).await?;
        }
        if error.is_rejected() {
            return Ok(Step::Refused);
        }
        tracing::error!(schedule = schedule.name, task = schedule.task, %due, error = %format!("{error:#}"), "a scheduled call cannot be sent");
        Ok(Step::Skipped)
    }
}

/// True if another attempt may help.
pub(super) fn is_transient(error: &Error) -> bool {
    error.persistence() == Persistence::Passing
}
