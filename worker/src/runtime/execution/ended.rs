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
    /// The process that it had for itself died, in these words.
    Crashed(String),
    /// It could not be started, for want of what it needs here: a process, a thread, a file handle.
    NotStarted(String),
    /// Somebody revoked it, and it was stopped or gave up.
    Terminated,
    /// The worker stops and cannot wait for the task.
    Interrupted,
    /// The worker stopped it, and it panicked at that, with this text.
    Broke(String),
}
