//! What a failure hook learns.

use inventory::collect;

use super::{Context, TaskError};
use crate::error::TaskFailure;
use crate::message::history::Attempt;
use futures_util::future::BoxFuture;

/// A task that has failed for good: its message lies in the dead-letter queue of its queue.
///
/// It is what a function with [`#[on_failure]`](crate::on_failure) is given.
#[derive(Clone, Debug)]
pub struct FailedTask {
    pub(crate) context: Context,
    pub(crate) reason: &'static str,
    pub(crate) failure: TaskFailure,
    pub(crate) attempts: Vec<Attempt>,
}

impl FailedTask {
    /// The name of the task, as the message says it; empty when it says none.
    pub fn task(&self) -> &str {
        match self.context.task() {
            "" => self.context.headers().task().unwrap_or_default(),
            known => known,
        }
    }

    /// The id of the call, under which the dead letter can be shown and replayed.
    pub fn id(&self) -> &str {
        self.context.id()
    }

    /// The queue that it came from.
    pub fn queue(&self) -> &str {
        self.context.queue()
    }

    /// Why it was put aside, as in the header `mq-dead-reason`: `retries-exhausted`, `rejected`, `crashed`,
    /// `unknown-task`, `bad-arguments` or `malformed`.
    pub fn reason(&self) -> &str {
        self.reason
    }

    /// The last error.
    pub fn failure(&self) -> &TaskFailure {
        &self.failure
    }

    /// The failed attempts, the oldest first: at most ten.
    pub fn attempts(&self) -> &[Attempt] {
        &self.attempts
    }

    /// The call itself: its headers, its properties, and what the program shares with its tasks.
    pub fn context(&self) -> &Context {
        &self.context
    }
}

/// A function that hears of failed tasks. Written by `#[on_failure]`.
pub struct FailureHookEntry {
    /// The function's path, for messages.
    pub name: &'static str,
    /// Tells it.
    pub run: for<'a> fn(&'a FailedTask) -> BoxFuture<'a, Result<(), TaskError>>,
}

collect!(FailureHookEntry);
