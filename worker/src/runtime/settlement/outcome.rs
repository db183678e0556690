//! Decides what follows a run, once and in a pure function.

use std::time::Duration;

use crate::error::TaskFailure;
use crate::middleware::OutcomeKind;
use crate::runtime::admission::refusal::Refusal;
use crate::runtime::admission::request::Attempts;
use crate::runtime::execution::ended::Ended;
use crate::task::{AckMode, TaskError, TaskOptions};

/// What to do with the message.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Outcome {
    /// Store the value, send what follows, acknowledge.
    Success(Vec<u8>),
    /// Send it again, to be run after a while.
    Retry {
        /// How long the broker delays it.
        after: Duration,
        /// Why.
        failure: TaskFailure,
        /// True when it is counted as a crash, not as a retry.
        crashed: bool,
    },
    /// Store the failure and dead-letter the message.
    DeadLetter {
        /// The reason that is stored in the dead letter.
        reason: DeadReason,
        /// What the caller receives.
        failure: TaskFailure,
    },
    /// It has expired, or it was revoked.
    Revoked {
        /// What the caller receives: `expired` or `revoked`.
        why: &'static str,
    },
    /// It has succeeded before, and that was recorded: acknowledge.
    Duplicate,
    /// Send it again after a while without spending an attempt: it has not run.
    Postpone {
        /// How long the broker delays it.
        after: Duration,
        /// Why it cannot start here.
        problem: String,
    },
    /// Drop the delivery unsettled, which is counted as a crash: there is no time for more.
    Lost {
        /// Why.
        problem: String,
    },
    /// Requeue it without spending an attempt.
    Requeue,
}

impl Outcome {
    /// The outcome as middleware sees it, without a copy of the value that the task returned.
    pub(crate) fn without_value(&self) -> Self {
        match self {
            Self::Success(_) => Self::Success(Vec::new()),
            other => other.clone(),
        }
    }

    /// Its name for middleware.
    pub(crate) fn kind(&self) -> OutcomeKind<'_> {
        match self {
            Self::Success(_) => OutcomeKind::Succeeded,
            Self::Retry { after, failure, .. } => OutcomeKind::Retried { after: *after, failure },
            Self::DeadLetter { reason, failure } => {
                OutcomeKind::DeadLettered { reason: reason.as_str(), failure }
            }
            Self::Revoked { why } => OutcomeKind::Revoked { why },
            Self::Duplicate => OutcomeKind::Duplicate,
            Self::Postpone { .. } | Self::Lost { .. } | Self::Requeue => OutcomeKind::Requeued,
        }
    }
}

/// Why a message is dead-lettered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DeadReason {
    /// The retries are used up.
    RetriesExhausted,
    /// The task said that trying again cannot help.
    Rejected,
    /// No task of that name is known here.
    UnknownTask,
    /// The message is not one that can be run.
    Malformed,
    /// The arguments do not fit the task.
    BadArguments,
    /// Too many workers crashed while they held it.
    Crashed,
    /// A step after its run is impossible, for instance because the broker does not accept the message.
    Unsettled,
}

impl DeadReason {
    /// The text in the header of a dead letter.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            DeadReason::RetriesExhausted => "retries-exhausted",
            DeadReason::Rejected => "rejected",
            DeadReason::UnknownTask => "unknown-task",
            DeadReason::Malformed => "malformed",
            DeadReason::BadArguments => "bad-arguments",
            DeadReason::Crashed => "crashed",
            DeadReason::Unsettled => "unsettled",
        }
    }
}

/// How long a call that could not be started waits, on average.
const SCARCE: Duration = Duration::from_secs(2);

/// Decides what follows a run. `random` in `0.0..1.0` is the jitter.
pub(crate) fn decide(ended: Ended, options: &TaskOptions, attempts: Attempts, random: f64) -> Outcome {
    let Attempts { retries, .. } = attempts;
    let backoff = || options.backoff.delay(retries, random);
    let (after, failure) = match ended {
        Ended::Returned(json) => return Outcome::Success(json),
        Ended::Interrupted => return Outcome::Requeue,
        Ended::PanickedOnStop(problem) => return Outcome::Lost { problem },
        Ended::NotStarted(problem) => {
            return Outcome::Postpone { after: SCARCE.mul_f64(0.5 + random), problem };
        }
        Ended::Terminated => return Outcome::Revoked { why: "terminated" },
        Ended::Crashed(text) => return crashed(text, options, attempts, random),
        Ended::Erred(TaskError::Rejected(failure)) => {
            return Outcome::DeadLetter { reason: DeadReason::Rejected, failure };
        }
        Ended::Erred(TaskError::Failed(failure)) => (backoff(), failure),
        Ended::Erred(TaskError::Retry { after, failure }) => (after, *failure),
        Ended::Panicked(panic) => {
            (backoff(), TaskFailure { traceback: panic.trace, ..failure("Panic", panic.text) })
        }
        // Celery's class for it, which Python callers can catch.
        Ended::TimedOut(limit) => (
            backoff(),
            TaskFailure {
                kind: "TimeLimitExceeded".into(),
                module: "billiard.exceptions".into(),
                message: limit.as_secs_f64().to_string(),
                traceback: None,
                arguments: Box::default(),
            },
        ),
    };
    if retries < options.max_retries {
        Outcome::Retry { after, failure, crashed: false }
    } else {
        Outcome::DeadLetter { reason: DeadReason::RetriesExhausted, failure }
    }
}

/// Decides what follows a delivery that is not run.
pub(crate) fn refused(refusal: Refusal, options: &TaskOptions, attempts: Attempts, random: f64) -> Outcome {
    let (reason, failure) = match refusal {
        Refusal::Revoked(why) => return Outcome::Revoked { why },
        Refusal::Panicked(text) => return decide(Ended::Panicked(text.into()), options, attempts, random),
        Refusal::Malformed(problem) => (DeadReason::Malformed, failure("InvalidMessage", problem)),
        Refusal::UnknownTask(problem) => (DeadReason::UnknownTask, failure("NotRegistered", problem)),
        Refusal::Crashed(limit) => {
            let problem = format!("{limit} workers died while they held this message");
            (DeadReason::Crashed, failure("WorkerLost", problem))
        }
        Refusal::BadArguments(problem) => {
            // Python's class for it, which Python callers expect.
            let failure = TaskFailure {
                kind: "TypeError".into(),
                module: "builtins".into(),
                message: problem,
                traceback: None,
                arguments: Box::default(),
            };
            (DeadReason::BadArguments, failure)
        }
    };
    Outcome::DeadLetter { reason, failure }
}

/// A crash of its own process counts like a crash of a worker, separately from errors.
fn crashed(text: String, options: &TaskOptions, attempts: Attempts, random: f64) -> Outcome {
    let Attempts { crashes, max_crashes, .. } = attempts;
    let failure = TaskFailure {
        // Celery's class for it, which Python callers can catch.
        kind: "WorkerLostError".into(),
        module: "billiard.exceptions".into(),
        message: text,
        traceback: None,
        arguments: Box::default(),
    };
    // An early ack means at most once, so it is not run again after a crash.
    if options.ack == AckMode::Early || crashes.saturating_add(1) >= max_crashes {
        Outcome::DeadLetter { reason: DeadReason::Crashed, failure }
    } else {
        Outcome::Retry { after: options.backoff.delay(crashes, random), failure, crashed: true }
    }
}

/// A failure that the worker itself detected.
pub(crate) fn failure(kind: &str, message: impl Into<String>) -> TaskFailure {
    TaskFailure {
        kind: kind.into(),
        module: "rust.mq_worker".into(),
        message: message.into(),
        traceback: None,
        arguments: Box::default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::task::Backoff;

    const OPTIONS: TaskOptions = TaskOptions {
        max_retries: 2,
        backoff: Backoff { min: Duration::from_secs(2), max: Duration::from_secs(60) },
        ..TaskOptions::DEFAULT
    };

    fn tried(retries: u32) -> Attempts {
        Attempts { retries, crashes: 0, max_crashes: 3 }
    }

    #[test]
    fn an_error_is_retried_with_growing_waits_until_the_retries_are_used_up() {
        let after =
            |retries| match decide(Ended::Erred(TaskError::failed("x")), &OPTIONS, tried(retries), 0.5) {
                Outcome::Retry { after, .. } => Some(after.as_secs()),
                _ => None,
            };
        assert_eq!([after(0), after(1), after(2), after(u32::MAX)], [Some(1), Some(2), None, None]);
    }

    #[test]
    fn a_rejection_spends_no_retries() {
        let outcome = decide(Ended::Erred(TaskError::reject("no such address")), &OPTIONS, tried(0), 0.5);
        assert!(matches!(outcome, Outcome::DeadLetter { reason: DeadReason::Rejected, .. }), "{outcome:?}");
    }

    #[test]
    fn a_task_that_knows_its_wait_gets_exactly_that() {
        let ended = Ended::Erred(TaskError::retry_in(Duration::from_secs(7), "busy"));
        let outcome = decide(ended, &OPTIONS, tried(0), 0.1);
        assert!(
            matches!(outcome, Outcome::Retry { after, .. } if after == Duration::from_secs(7)),
            "{outcome:?}"
        );
    }

    #[test]
    fn panics_and_time_limits_are_errors_like_others() {
        for ended in [Ended::Panicked("boom".to_owned().into()), Ended::TimedOut(Duration::from_secs(1))] {
            assert!(matches!(decide(ended.clone(), &OPTIONS, tried(0), 0.5), Outcome::Retry { .. }));
            assert!(matches!(decide(ended, &OPTIONS, tried(2), 0.5), Outcome::DeadLetter { .. }));
        }
    }

    #[test]
    fn an_interrupted_task_is_requeued_even_with_no_retries_left() {
        assert_eq!(decide(Ended::Interrupted, &OPTIONS, tried(2), 0.5), Outcome::Requeue);
    }

    #[test]
    fn a_call_that_could_not_be_started_waits_and_spends_nothing() {
        let outcome = decide(Ended::NotStarted("no process".into()), &OPTIONS, tried(2), 0.5);
        assert_eq!(outcome, Outcome::Postpone { after: SCARCE, problem: "no process".into() });
    }

    #[test]
    fn a_crash_of_its_own_process_is_counted_and_spends_no_retry() {
        let after = |crashes, options: &TaskOptions| {
            let attempts = Attempts { retries: 2, crashes, max_crashes: 3 };
            match decide(Ended::Crashed("signal 9".into()), options, attempts, 1.0) {
                Outcome::Retry { after, crashed: true, .. } => Some(after.as_secs()),
                Outcome::DeadLetter { reason: DeadReason::Crashed, .. } => None,
                other => panic!("{other:?}"),
            }
        };
        let once = TaskOptions { ack: AckMode::Early, ..OPTIONS };
        assert_eq!([after(0, &OPTIONS), after(1, &OPTIONS), after(2, &OPTIONS)], [Some(2), Some(4), None]);
        assert_eq!(after(0, &once), None);
    }
}
