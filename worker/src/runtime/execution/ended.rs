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
    /// Its own process died; the text says how.
    Crashed(String),
    /// It could not be started because something is unavailable here: a process, a thread, a file handle.
    NotStarted(String),
    /// It was revoked, and was stopped or gave up.
    Terminated,
    /// The worker stops and cannot wait for the task.
    Interrupted,
    /// It panicked with this text when the worker stopped it.
    PanickedOnStop(String),
}
