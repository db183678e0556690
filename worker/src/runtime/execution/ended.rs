//! How a run ended.

use std::time::Duration;

use crate::panics::Panic;
use crate::task::TaskError;

/// How a run ended.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Ended {
    /// The task returned this JSON.
    Returned(Vec<u8>),
    /// The task returned an error.
    Erred(TaskError),
    /// The task panicked.
    Panicked(Panic),
    /// The task took longer than its limit.
    TimedOut(Duration),
    /// The task's own process died; the text says how.
    Crashed(String),
    /// The task could not be started because a resource is unavailable here: a process, a thread, a file handle.
    NotStarted(String),
    /// The call was revoked, and the task was stopped or gave up.
    Terminated,
    /// The worker stops and cannot wait for the task.
    Interrupted,
    /// The task panicked with this text when the worker stopped it.
    PanickedOnStop(String),
}
